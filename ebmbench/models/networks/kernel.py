"""What the compiled energies share: one autograd function of f and of `∂f/∂y`, and how C sees tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Kernel:
    """A compiled energy f(y, inputs).

    Attributes:
        forward: writes derivatives of f in y: (to, order, y, *inputs). With order 0 `to` is f, with order 1 `∂f/∂y`,
            with order 2 (which a kernel may lack) both `∂f/∂y` and `∂²f/∂y²`, one after the other.
        backward: writes the gradient of `Σ grad · to` to y where it is asked for, and returns those to the inputs.
            Arguments: (grad, order, to_y or None, y, *inputs).
    """

    forward: Callable[..., None]
    backward: Callable[..., tuple[Tensor | None, ...]]

    def value(self, y: Tensor, shape: torch.Size, *inputs: Tensor) -> Tensor:
        """Returns `f` of a shape; differentiable once, in y and the inputs. Tensors are contiguous."""
        result: Tensor = _Call.apply(self, 0, shape, y, *inputs)
        return result

    def slope(self, y: Tensor, *inputs: Tensor) -> Tensor:
        """Returns `∂f/∂y` of the shape of y; differentiable once, in y and the inputs. Tensors are contiguous."""
        result: Tensor = _Call.apply(self, 1, y.shape, y, *inputs)
        return result

    def slope_and_curvature(self, y: Tensor, *inputs: Tensor) -> Tensor:
        """Returns `∂f/∂y` and `∂²f/∂y²`, `[2, ...]`; differentiable once, in y and the inputs."""
        result: Tensor = _Call.apply(self, 2, (2, *y.shape), y, *inputs)
        return result


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Kernel, order: int, shape: tuple[int, ...], y: Tensor, *inputs: Tensor) -> Tensor:
        ctx.kernel, ctx.order = kernel, order
        ctx.save_for_backward(y, *inputs)
        to = y.new_empty(shape)
        kernel.forward(to, order, y, *inputs)
        return to

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, *inputs = ctx.saved_tensors
        to_y = torch.empty_like(y) if ctx.needs_input_grad[3] else None
        return None, None, None, to_y, *ctx.kernel.backward(grad.contiguous(), ctx.order, to_y, y, *inputs)


def address(tensor: Tensor | None) -> int | None:
    """Returns where a tensor's numbers are, None for none."""
    return None if tensor is None else tensor.data_ptr()


def threads(evaluations: int, serial: int) -> int:
    """Returns how many threads a call uses: one below `serial` evaluations of f."""
    return torch.get_num_threads() if evaluations >= serial else 1
