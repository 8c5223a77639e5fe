"""Langevin dynamics, which draws ml-mcmc's samples from the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebmbench.core.energy import Energy
from ebmbench.core.rng import Draws

if TYPE_CHECKING:
    from torch import Tensor

RUNAWAY = 1e3
"""Targets are of the order of one in the coordinates of either task; a chain that ends so far away samples nothing."""


def ran_away(start: Tensor, end: Tensor) -> Tensor:
    """Whether a chain ended further than RUNAWAY from its start, or nowhere at all: `[..., M, D] -> [..., M]`."""
    return ~((end - start).abs() <= RUNAWAY).all(dim=-1)


def langevin(f: Energy, y: Tensor, steps: int, step_size: float, draws: Draws) -> Tensor:
    """`steps` updates `y ← y + λ²/2 · ∂f/∂y + λξ`, `ξ ~ N(0, I)`, from y `[..., M, D]`.

    There is no accept-reject step, so the samples follow the model only as λ → 0 (Welling and Teh, 2011).
    The result is detached.
    """
    y = y.detach()
    for step in range(steps):
        noise = draws.normal(f"langevin/{step}", y.shape, y.dtype)
        y = y.add(f.grad(y).detach(), alpha=0.5 * step_size**2).add_(noise, alpha=step_size)  # two passes, not four
    return y
