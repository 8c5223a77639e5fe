"""The 1D network fused for the CPU: an Energy whose value, gradient and derivatives are one C call each.

What is computed is what `paper.py` computes (and its derivatives, by the chain rule), in float32, with
tanh as a rational function of error below 5e-7. Results depend neither on the number of threads nor on which other
seeds are trained beside. Measured against PyTorch operations by `python -m ebmbench.bench`.

The kernels serve values (all methods), `∂f/∂y` (`ml-mcmc`) and its derivative to the parameters (`dsm`). The third
derivatives that `sm` needs are left to autograd: it evaluates one point per example, not M.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebmbench.core.energy import Energy
from ebmbench.native.build import kernels, say_unavailable, unavailable
from ebmbench.tasks.regression.networks.kernel import Kernel, address, threads

PARAMETERS = 591
"""Of the network that the kernels are written for; `struct Net` in energy.c has them in the order of `paper.LAYERS`."""
SERIAL = 8192
"""Evaluations of f below which to wake a second thread costs more than it gains."""


class FusedEnergy:
    """`f(x, ·)` of the 1D network for a mini-batch x `[S, B]`; candidates are `[S, B, M, 1]`.

    Args:
        flat: the models' parameters, `[S, 591]`.
        x: the inputs.
        plain: makes the same energy in PyTorch operations, for what the kernels do not compute.
    """

    def __init__(self, flat: Tensor, x: Tensor, plain: Callable[[], Energy]) -> None:
        self.flat, self.x, self.plain = flat.contiguous(), x.detach().contiguous(), plain

    @staticmethod
    def fits(flat: Tensor) -> bool:
        """Whether the kernels are written for this network, in this precision and on this device."""
        return flat.shape[1] == PARAMETERS and flat.dtype == torch.float32 and flat.device.type == "cpu"

    def __call__(self, y: Tensor) -> Tensor:
        """Returns `f(x, y)`: y `[..., M, D]` -> `[..., M]`."""
        samples = _samples(y)
        return _KERNEL.value(samples, samples.shape, self.x, self.flat)

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns `∂f/∂y`, `[..., M, D]`; with `create_graph` it can be differentiated again."""
        if y.requires_grad and create_graph:  # third derivatives are wanted
            return self.plain().grad(y, create_graph=True)
        with torch.set_grad_enabled(create_graph):
            return _KERNEL.slope(_samples(y.detach()), self.x, self.flat).unsqueeze(-1)


def fused_or_plain(flat: Tensor, x: Tensor, plain: Callable[[], Energy]) -> Energy:
    """The fused energy where it can be had, else the plain one, and one line that says why."""
    if not FusedEnergy.fits(flat):
        return plain()
    if (reason := unavailable()) is not None:
        say_unavailable(reason)
        return plain()
    return FusedEnergy(flat, x, plain)


def _samples(y: Tensor) -> Tensor:
    return y.squeeze(-1).contiguous()


def _forward(value: Tensor | None, slope: Tensor | None, y: Tensor, x: Tensor, flat: Tensor) -> None:
    kernels().ebm_forward(
        flat.data_ptr(),
        x.data_ptr(),
        y.data_ptr(),
        address(value),
        address(slope),
        *y.shape,
        threads(y.numel(), SERIAL),
    )


def _backward(
    grad: Tensor, of_slope: bool, to_y: Tensor | None, y: Tensor, x: Tensor, flat: Tensor
) -> tuple[Tensor | None, ...]:
    compiled = kernels()
    gradient = torch.empty_like(flat)
    partials = torch.empty(compiled.ebm_partials(*y.shape))
    compiled.ebm_backward(
        flat.data_ptr(),
        x.data_ptr(),
        y.data_ptr(),
        grad.data_ptr(),
        of_slope,
        gradient.data_ptr(),
        address(to_y),
        partials.data_ptr(),
        *y.shape,
        threads(y.numel(), SERIAL),
    )
    return None, gradient


_KERNEL = Kernel(_forward, _backward)
