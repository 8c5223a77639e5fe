"""Angles, hours of the day, and all else that starts again after a period."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.supports.base import LogProb, Support
from ebmbench.supports.measure import BaseDensity, Flat, Measure

if TYPE_CHECKING:
    from torch import Tensor

WRAPS = 3
"""Turns to either side that a proposal is followed around the circle."""
TURN = 2 * math.pi


@register
class Circle(Support):
    """A circle of some period: networks see its cosine and sine, proposals are wrapped, the base measure is uniform."""

    name = "circle"
    features = 2
    turn = TURN

    period: float = Field(TURN, gt=0, le=1e12, description="such as 360, 24 or 6.2832")
    low: float | None = Field(
        None, ge=-1e12, le=1e12, description="first value; null: -period/2 if a training target is negative, else 0"
    )

    @property
    @override
    def text(self) -> str:
        return f"on a circle of period {self.period:g}"

    @override
    def inside(self, y: Tensor) -> Tensor:
        return y.isfinite()

    @override
    def fitted(self, y: Tensor) -> Circle:
        made = super().fitted(y)
        assert isinstance(made, Circle)
        if made.low is not None:
            return made
        return made.model_copy(update={"low": -self.period / 2 if bool((y < 0).any()) else 0.0})

    @override
    def coordinate(self, y: Tensor) -> Tensor:
        low = self.low or 0.0
        return low + torch.remainder(y - low, self.period)

    @override
    def difference(self, y: Tensor, other: Tensor) -> Tensor:
        return torch.remainder(y - other + self.period / 2, self.period) - self.period / 2

    @override
    def scale(self, u: Tensor) -> tuple[float, float]:
        return (self.low or 0.0) + self.period / 2, self.period / TURN

    @override
    def measure(self, base: BaseDensity, mean: float, std: float) -> Measure:
        return Flat(-math.pi, math.pi)

    @override
    def embed(self, z: Tensor) -> Tensor:
        return torch.stack((z.cos(), z.sin()), -1)

    @override
    def slopes(self, z: Tensor) -> Tensor:
        return torch.stack((-z.sin(), z.cos()), -1)

    @override
    def place(self, z: Tensor, mean: float, std: float) -> Tensor:
        return torch.remainder(z + math.pi, TURN) - math.pi

    @override
    def placed_log_prob(self, log_q: LogProb, cdf: LogProb, z: Tensor, mean: float, std: float) -> Tensor:
        return torch.logsumexp(torch.stack([log_q(z + TURN * k) for k in range(-WRAPS, WRAPS + 1)]), 0)
