"""The energy head fused for the CPU: an Energy whose value, gradient and derivatives are one C call each.

What is computed is what `heads.EnergyHead` computes, in float32, with tanh as a rational function of error below
5e-7. The features of x come from PyTorch, so any encoder will do. Measured against PyTorch operations by
`python -m benchmarks head`.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.models.module_stack import ModuleStack
from ebmbench.models.networks.heads import frame
from ebmbench.models.networks.kernel import Kernel, address, threads
from ebmbench.native.build import kernels, say_unavailable, unavailable

LARGEST_WIDTH, LARGEST_DIM = 64, 16
"""Units and targets for which head.c has room."""
SERIAL = 2048
"""Evaluations of f below which to wake a second thread costs more than it gains."""


class HeadStack(ModuleStack):
    """S networks of any encoder and an `EnergyHead`, the head by a compiled kernel."""

    code_path = "fused head"

    @override
    def energy_of(self, parameters: Mapping[str, Tensor], h: Tensor, plain: Energy) -> Energy:
        return FusedHead({name.removeprefix("head."): p for name, p in parameters.items()}, h, plain)


def can_fuse(width: int, dim: int, backend: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Returns whether the kernel serves a head of this size; says once where only a compiler is missing."""
    fits = width <= LARGEST_WIDTH and dim <= LARGEST_DIM
    if backend != "auto" or device.type != "cpu" or dtype != torch.float32 or not fits:
        return False
    if (reason := unavailable()) is not None:
        say_unavailable(reason)
    return reason is None


class FusedHead:
    """`f(x, ·)` of a mini-batch; candidates are `[S, B, M, D]`.

    Args:
        parameters: the head's, by name; may be views with any stride between seeds.
        h: the features of x, `[S, B, F]`.
        plain: the same energy in PyTorch operations, for the third derivatives that the kernel does not compute.
    """

    def __init__(self, parameters: Mapping[str, Tensor], h: Tensor, plain: Energy) -> None:
        self.plain = plain
        self.from_x = _linear(parameters, "from_x", h).contiguous()
        self.frame = frame(_linear(parameters, "frame", h)) if "frame.weight" in parameters else None
        self.parameters = [parameters[name] for name in ("from_y", "mix.weight", "mix.bias", "out.weight", "out.bias")]

    def __call__(self, y: Tensor) -> Tensor:
        """Returns `f(x, y)`: y `[..., M, D]` -> `[..., M]`."""
        candidates = self._candidates(y)
        return _KERNEL.value(candidates, candidates.shape[:-1], self.from_x, *self.parameters)

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns `∂f/∂y`, `[..., M, D]`; with `create_graph` it can be differentiated again."""
        if y.requires_grad and create_graph:  # third derivatives are wanted
            return self.plain.grad(y, create_graph=True)
        with torch.set_grad_enabled(create_graph):
            slope = _KERNEL.slope(self._candidates(y.detach()), self.from_x, *self.parameters)
            return slope if self.frame is None else slope * self.frame[1]

    def _candidates(self, y: Tensor) -> Tensor:
        """Returns y as the kernel sees it, in the frame of each x: `[S, B, M, D]`."""
        if self.frame is not None:
            y = (y - self.frame[0]) * self.frame[1]
        return y.expand(*self.from_x.shape[:2], *y.shape[2:]).contiguous()


def _linear(parameters: Mapping[str, Tensor], name: str, h: Tensor) -> Tensor:
    """Returns a linear layer of S models on h: `[S, B, F] -> [S, B, out]`."""
    bias, weight = parameters[f"{name}.bias"], parameters[f"{name}.weight"]
    return torch.baddbmm(bias.unsqueeze(1), h, weight.transpose(1, 2))


def _forward(to: Tensor, order: int, y: Tensor, from_x: Tensor, *parameters: Tensor) -> None:
    kernels().ebm_head_forward(
        *_layout(parameters),
        from_x.data_ptr(),
        y.data_ptr(),
        None if order else to.data_ptr(),
        to.data_ptr() if order else None,
        *_sizes(y, from_x),
        _threads(y),
    )


def _backward(
    grad: Tensor, order: int, to_y: Tensor | None, y: Tensor, from_x: Tensor, *parameters: Tensor
) -> tuple[Tensor | None, ...]:
    compiled = kernels()
    counts = [math.prod(p.shape[1:]) for p in parameters]
    gradient, to_x = torch.empty(len(y), sum(counts)), torch.empty_like(from_x)
    partials = torch.empty(compiled.ebm_head_partials(*_sizes(y, from_x)))
    compiled.ebm_head_backward(
        *_layout(parameters),
        from_x.data_ptr(),
        y.data_ptr(),
        grad.data_ptr(),
        order,
        gradient.data_ptr(),
        to_x.data_ptr(),
        address(to_y),
        partials.data_ptr(),
        *_sizes(y, from_x),
        _threads(y),
    )
    parts = zip(gradient.split(counts, dim=1), parameters, strict=True)
    return to_x, *(part.view(p.shape) for part, p in parts)


_KERNEL = Kernel(_forward, _backward)


def _sizes(y: Tensor, from_x: Tensor) -> tuple[int, int, int, int, int]:
    """Seeds, examples, candidates, units, targets."""
    seeds, batch, samples, dim = y.shape
    return seeds, batch, samples, from_x.shape[-1], dim


def _threads(y: Tensor) -> int:
    return threads(y.shape[:-1].numel(), SERIAL)


def _layout(parameters: Sequence[Tensor]) -> tuple[Any, Any]:
    """Addresses of the parameters and their strides from seed to seed."""
    for p in parameters:
        assert p[0].is_contiguous()
    addresses = (ctypes.c_void_p * len(parameters))(*[p.data_ptr() for p in parameters])
    strides = (ctypes.c_long * len(parameters))(*[p.stride(0) for p in parameters])
    return addresses, strides
