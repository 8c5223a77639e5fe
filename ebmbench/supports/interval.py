"""Numbers from one end to another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import torch
from pydantic import Field, model_validator
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.supports.base import LogProb, Support
from ebmbench.supports.measure import BaseDensity, Flat, Measure

if TYPE_CHECKING:
    from torch import Tensor

FOLDS = 2
"""Lengths of the interval to either side from which draws are folded back."""


@register
class Interval(Support):
    """Numbers from `low` to `high`, ends included, such as shares; the base measure is uniform.

    Draws of a proposal beyond an end are mirrored at it, and its density counts all mirror images, so that it keeps its
    mass whatever the proposal is. `mirror=false` leaves them where they are, as published for 1D regression: the model
    is then trained beyond its ends too, and scored between them.
    """

    name = "interval"
    bounded = True

    low: float = Field(0.0, ge=-1e12, le=1e12, description="the lowest value")
    high: float = Field(1.0, ge=-1e12, le=1e12, description="the highest value")
    mirror: bool = Field(True, description="whether draws of proposals beyond an end are mirrored at it")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"support: low={self.low:g} is not below high={self.high:g}")
        return self

    @property
    @override
    def text(self) -> str:
        return f"from {self.low:g} to {self.high:g}"

    @override
    def inside(self, y: Tensor) -> Tensor:
        return (y >= self.low) & (y <= self.high)

    def _ends(self, mean: float, std: float) -> tuple[float, float]:
        return (self.low - mean) / std, (self.high - mean) / std

    @override
    def measure(self, base: BaseDensity, mean: float, std: float) -> Measure:
        return Flat(*self._ends(mean, std))

    @property
    @override
    def moves_draws(self) -> bool:
        return self.mirror or bool(self.atoms)

    @override
    def place(self, z: Tensor, mean: float, std: float) -> Tensor:
        if not self.mirror:
            return z
        low, high = self._ends(mean, std)
        part = torch.remainder(z - low, 2 * (high - low))
        return low + torch.minimum(part, 2 * (high - low) - part)

    @override
    def placed_log_prob(self, log_q: LogProb, cdf: LogProb, z: Tensor, mean: float, std: float) -> Tensor:
        if not self.mirror:
            return log_q(z)
        low, high = self._ends(mean, std)
        turns = [2 * (high - low) * k for k in range(-FOLDS, FOLDS + 1)]
        images = [log_q(z + turn) for turn in turns] + [log_q(2 * low - z + turn) for turn in turns]
        found = torch.logsumexp(torch.stack(images), 0)
        return torch.where((z < low) | (z > high), -math.inf, found)
