"""The energy of a mini-batch, as the methods see it.

Sign convention of the whole project: `f` is the unnormalised log-density, `p(y|x) = exp f(x, y) / Z(x)`; higher is more
likely.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Energy(Protocol):
    """`f(x, ·)` for the examples of a mini-batch, whose features are computed once and closed over."""

    def __call__(self, y: Tensor) -> Tensor:
        """`f` at M candidate targets of each example: `[..., M, D] -> [..., M]`, differentiable in y and parameters."""
        ...

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """`∂f/∂y` of the same shape as y, `[..., M, D]`; differentiable in turn if `create_graph`."""
        ...


class AutogradEnergy:
    """An Energy from any differentiable function `[..., M, D] -> [..., M]`."""

    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        self.fn = fn

    def __call__(self, y: Tensor) -> Tensor:
        """Returns `f(x, y)`: y `[..., M, D]` -> `[..., M]`."""
        return self.fn(y)

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns `∂f/∂y`: y `[..., M, D]` -> `[..., M, D]`; with `create_graph` it can be differentiated again."""
        with torch.enable_grad():
            # Each f depends on its own y only, so the gradient of the sum holds every example's gradient.
            y = y if y.requires_grad else y.detach().requires_grad_()
            return torch.autograd.grad(self.fn(y).sum(), y, create_graph=create_graph)[0]
