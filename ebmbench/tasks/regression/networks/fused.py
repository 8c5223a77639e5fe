"""The 1D network fused for the CPU: an Energy whose value, gradient and derivatives are one C call each.

What is computed is what `paper.py` computes (and its derivatives, by the chain rule), in float32, with
tanh as a rational function of error below 5e-7. Results depend neither on the number of threads nor on which other
seeds are trained beside. Measured against PyTorch operations by `python -m ebmbench.bench`.

The kernels serve values (all methods), `∂f/∂y` (`ml-mcmc`) and its derivative to the parameters (`dsm`). The third
derivatives that `sm` needs are left to autograd: it evaluates one point per example, not M.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebmbench.core.energy import Energy
from ebmbench.native.build import kernels, say_unavailable, unavailable

PARAMETERS: dict[str, tuple[int, ...]] = {
    "x1.weight": (10, 1),
    "x1.bias": (10,),
    "x2.weight": (10, 10),
    "x2.bias": (10,),
    "y1.weight": (10, 1),
    "y1.bias": (10,),
    "joint.weight": (10, 20),
    "joint.bias": (10,),
    "res1.weight": (10, 10),
    "res1.bias": (10,),
    "res2.weight": (10, 10),
    "res2.bias": (10,),
    "out.weight": (1, 10),
    "out.bias": (1,),
}
"""The network that the kernels are written for; `struct Net` in energy.c has this order."""
SIZES = [torch.Size(shape).numel() for shape in PARAMETERS.values()]

SERIAL = 8192
"""Evaluations of f below which to wake a second thread costs more than it gains."""


class FusedEnergy:
    """`f(x, ·)` of the 1D network for a mini-batch x `[S, B]`; candidates are `[S, B, M, 1]`.

    Args:
        parameters: the layers' weights and biases; may be views with any stride between seeds.
        x: the inputs.
        plain: makes the same energy in PyTorch operations, for what the kernels do not compute.
    """

    def __init__(self, parameters: dict[str, Tensor], x: Tensor, plain: Callable[[], Energy]) -> None:
        self.x, self.plain = x.detach().contiguous(), plain
        self.parameters = [parameters[name] for name in PARAMETERS]

    @staticmethod
    def fits(parameters: dict[str, Tensor]) -> bool:
        """Whether the kernels are written for this network, in this precision and on this device."""
        return list(parameters) == list(PARAMETERS) and all(
            p.shape[1:] == shape and p.dtype == torch.float32 and p.device.type == "cpu"
            for p, shape in zip(parameters.values(), PARAMETERS.values(), strict=True)
        )

    def __call__(self, y: Tensor) -> Tensor:
        """Returns `f(x, y)`: y `[..., M, D]` -> `[..., M]`."""
        return _Value.apply(_samples(y), self.x, *self.parameters)

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns `∂f/∂y`, `[..., M, D]`; with `create_graph` it can be differentiated again."""
        if y.requires_grad and create_graph:  # third derivatives are wanted
            return self.plain().grad(y, create_graph=True)
        with torch.set_grad_enabled(create_graph):
            return _Slope.apply(_samples(y.detach()), self.x, *self.parameters).unsqueeze(-1)


def fused_or_plain(parameters: dict[str, Tensor], x: Tensor, plain: Callable[[], Energy]) -> Energy:
    """The fused energy where it can be had, else the plain one, and one line that says why."""
    if not FusedEnergy.fits(parameters):
        return plain()
    if (reason := unavailable()) is not None:
        say_unavailable(reason)
        return plain()
    return FusedEnergy(parameters, x, plain)


class _Value(torch.autograd.Function):
    """`f` at y `[S, B, M]`; differentiable once, in y and the parameters."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(y, x, *parameters)
        value = torch.empty_like(y)
        _forward(parameters, x, y, value, None)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad, of_slope=False)


class _Slope(torch.autograd.Function):
    """`∂f/∂y` at y `[S, B, M]`; differentiable once, in y and the parameters."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(y, x, *parameters)
        slope = torch.empty_like(y)
        _forward(parameters, x, y, None, slope)
        return slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad, of_slope=True)


def _samples(y: Tensor) -> Tensor:
    return y.squeeze(-1).contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _layout(parameters: Sequence[Tensor]) -> tuple[Any, Any]:
    """Addresses of the parameters and their strides from seed to seed."""
    for p in parameters:
        assert p[0].is_contiguous()
    addresses = (ctypes.c_void_p * len(parameters))(*[p.data_ptr() for p in parameters])
    strides = (ctypes.c_long * len(parameters))(*[p.stride(0) for p in parameters])
    return addresses, strides


def _threads(evaluations: int) -> int:
    return torch.get_num_threads() if evaluations >= SERIAL else 1


def _forward(parameters: Sequence[Tensor], x: Tensor, y: Tensor, value: Tensor | None, slope: Tensor | None) -> None:
    kernels().ebm_forward(
        *_layout(parameters),
        x.data_ptr(),
        y.data_ptr(),
        _address(value),
        _address(slope),
        *y.shape,
        _threads(y.numel()),
    )


def _backward(ctx: Any, grad: Tensor, of_slope: bool) -> tuple[Tensor | None, ...]:
    compiled = kernels()
    y, x, *parameters = ctx.saved_tensors
    seeds = y.shape[0]
    gradient = torch.empty(seeds, sum(SIZES))
    to_y = torch.empty_like(y) if ctx.needs_input_grad[0] else None
    partials = torch.empty(compiled.ebm_partials(*y.shape))
    grad = grad.contiguous()
    compiled.ebm_backward(
        *_layout(parameters),
        x.data_ptr(),
        y.data_ptr(),
        grad.data_ptr(),
        of_slope,
        gradient.data_ptr(),
        _address(to_y),
        partials.data_ptr(),
        *y.shape,
        _threads(y.numel()),
    )
    parts = gradient.split(SIZES, dim=1)
    return to_y, None, *(g.view(p.shape) for g, p in zip(parts, parameters, strict=True))
