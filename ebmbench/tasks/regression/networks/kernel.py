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
        forward: writes `f` and `∂f/∂y` where they are asked for: (value or None, slope or None, y, *inputs).
        backward: writes the gradient to y where it is asked for, and returns those to the inputs: of `Σ grad · f`, or
            of `Σ grad · ∂f/∂y` if of_slope. Arguments: (grad, of_slope, to_y or None, y, *inputs).
    """

    forward: Callable[..., None]
    backward: Callable[..., tuple[Tensor | None, ...]]

    def value(self, y: Tensor, shape: torch.Size, *inputs: Tensor) -> Tensor:
        """Returns `f` of a shape; differentiable once, in y and the inputs. Tensors are contiguous."""
        result: Tensor = _Call.apply(self, False, shape, y, *inputs)
        return result

    def slope(self, y: Tensor, *inputs: Tensor) -> Tensor:
        """Returns `∂f/∂y` of the shape of y; differentiable once, in y and the inputs. Tensors are contiguous."""
        result: Tensor = _Call.apply(self, True, y.shape, y, *inputs)
        return result


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Kernel, of_slope: bool, shape: torch.Size, y: Tensor, *inputs: Tensor) -> Tensor:
        ctx.kernel, ctx.of_slope = kernel, of_slope
        ctx.save_for_backward(y, *inputs)
        result = y.new_empty(shape)
        kernel.forward(*((None, result) if of_slope else (result, None)), y, *inputs)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, *inputs = ctx.saved_tensors
        to_y = torch.empty_like(y) if ctx.needs_input_grad[3] else None
        return None, None, None, to_y, *ctx.kernel.backward(grad.contiguous(), ctx.of_slope, to_y, y, *inputs)


def address(tensor: Tensor | None) -> int | None:
    """Returns where a tensor's numbers are, None for none."""
    return None if tensor is None else tensor.data_ptr()


def threads(evaluations: int, serial: int) -> int:
    """Returns how many threads a call uses: one below `serial` evaluations of f."""
    return torch.get_num_threads() if evaluations >= serial else 1
