"""The 1D network fused for the CPU: an Energy whose value, gradient and derivatives are one C call each.

What is computed is what `paper.py` computes (and its derivatives, by the chain rule), in float32, with
tanh as a rational function of error below 5e-7. Results depend neither on the number of threads nor on which other
seeds are trained beside. Measured against PyTorch operations by `python -m benchmarks`.

The kernels serve values (all methods), `∂f/∂y` (`ml-mcmc`, `dsm`), `∂²f/∂y²` (`sm`, `ssm`), and the derivatives of all
three to the parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebmbench.models.networks.kernel import Kernel, address, threads
from ebmbench.native.build import kernels, say_unavailable, unavailable

PARAMETERS = 591
"""Of the network that the kernels are written for; `struct Net` in energy.c has them in the order of `paper.LAYERS`."""
SERIAL = 8192
"""Evaluations of f below which to wake a second thread costs more than it gains."""


class FusedEnergy:
    """`f(x, ·)` of the 1D network for a mini-batch x `[S, B]`; candidates are `[S, B, M, 1]`.

    Args:
        flat: the models' parameters, `[S, 591]`.
        x: the inputs.
    """

    def __init__(self, flat: Tensor, x: Tensor) -> None:
        self.flat, self.x = flat.contiguous(), x.detach().contiguous()

    def __call__(self, y: Tensor) -> Tensor:
        """Returns `f(x, y)`: y `[..., M, D]` -> `[..., M]`."""
        samples = _samples(y)
        return _KERNEL.value(samples, samples.shape, self.x, self.flat)

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns `∂f/∂y`, `[..., M, D]`; with `create_graph` it can be differentiated again."""
        if y.requires_grad and create_graph:
            slope, curvature = self.slope_and_curvature(y.detach())
            return slope + curvature * (y - y.detach())  # the slope, and how it changes with y
        with torch.set_grad_enabled(create_graph):
            return _KERNEL.slope(_samples(y.detach()), self.x, self.flat).unsqueeze(-1)

    def slope_and_curvature(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `∂f/∂y` and `∂²f/∂y²`, `[..., M, 1]` each; differentiable once."""
        slope, curvature = _KERNEL.slope_and_curvature(_samples(y), self.x, self.flat).unsqueeze(-1).unbind()
        return slope, curvature


def can_fuse(flat: Tensor) -> bool:
    """Returns whether the kernels serve these models; says once where only a compiler is missing."""
    if flat.shape[1] != PARAMETERS or flat.dtype != torch.float32 or flat.device.type != "cpu":
        return False
    if (reason := unavailable()) is not None:
        say_unavailable(reason)
    return reason is None


def _samples(y: Tensor) -> Tensor:
    return y.squeeze(-1).contiguous()


def _forward(to: Tensor, order: int, y: Tensor, x: Tensor, flat: Tensor) -> None:
    value, slope, curvature = ((to, None, None), (None, to, None), (None, *to))[order]
    kernels().ebm_forward(
        flat.data_ptr(),
        x.data_ptr(),
        y.data_ptr(),
        address(value),
        address(slope),
        address(curvature),
        *y.shape,
        threads(y.numel(), SERIAL),
    )


def _backward(
    grad: Tensor, order: int, to_y: Tensor | None, y: Tensor, x: Tensor, flat: Tensor
) -> tuple[Tensor | None, ...]:
    compiled = kernels()
    gradient = torch.empty_like(flat)
    partials = torch.empty(compiled.ebm_partials(*y.shape))
    compiled.ebm_backward(
        flat.data_ptr(),
        x.data_ptr(),
        y.data_ptr(),
        grad.data_ptr(),
        order,
        gradient.data_ptr(),
        address(to_y),
        partials.data_ptr(),
        *y.shape,
        threads(y.numel(), SERIAL),
    )
    return None, gradient


_KERNEL = Kernel(_forward, _backward)
