"""Counts and other integers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import torch
from pydantic import Field, model_validator
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.registry import register
from ebmbench.supports.base import LogProb, Support
from ebmbench.supports.measure import BaseDensity, Measure

if TYPE_CHECKING:
    from torch import Tensor

MOST = 8192
"""Integers over which log Z is summed, at most."""


@register
class Integers(Support):
    """Integers, such as counts: log Z is a sum, and draws of proposals are rounded, with their exact probabilities.

    The base measure is that of the real line, discretised. With `atoms=[0]` networks see beside the value whether it
    is 0, for counts with more zeros than a smooth law has.
    """

    name = "integers"
    discrete = True

    low: int | None = Field(0, ge=-(10**9), le=10**9, description="the lowest integer; null: none")
    high: int | None = Field(None, ge=-(10**9), le=10**9, description="the highest integer; null: none")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"support: low={self.low} is not below high={self.high}")
        return self

    @property
    def _ends(self) -> tuple[float, float]:
        return (-math.inf if self.low is None else self.low, math.inf if self.high is None else self.high)

    @property
    @override
    def text(self) -> str:
        low, high = self._ends
        ends = [f" from {low:g}"] * (low > -math.inf) + [f" to {high:g}"] * (high < math.inf)
        return "that are integers" + "".join(ends)

    @override
    def inside(self, y: Tensor) -> Tensor:
        low, high = self._ends
        return (y == y.round()) & (y >= low) & (y <= high)

    @override
    def measure(self, base: BaseDensity, mean: float, std: float) -> Measure:
        return Discretised(base, *self._ends, mean, std)

    @override
    def points(self, measure: Measure, mean: float, std: float) -> Tensor | None:
        low, high = (round(mean + std * end) for end in measure.ends)
        low, high = max(low, round(max(self._ends[0], low))), min(high, round(min(self._ends[1], high)))
        if high - low >= MOST:
            raise UserError(
                f"support=integers would sum over {high - low + 1} values, and {MOST} are the most; "
                "use support=real or support=positive, or give its low and high"
            )
        return torch.arange(low, high + 1, dtype=torch.float64)

    def _nearest(self, z: Tensor, mean: float, std: float) -> Tensor:
        low, high = self._ends
        return (mean + std * z.double()).round().clamp(low, high)

    @override
    def place(self, z: Tensor, mean: float, std: float) -> Tensor:
        return ((self._nearest(z, mean, std) - mean) / std).to(z.dtype)

    @override
    def placed_log_prob(self, log_q: LogProb, cdf: LogProb, z: Tensor, mean: float, std: float) -> Tensor:
        return _log_cell(cdf, z, *self._ends, mean, std).to(z.dtype)


def _log_cell(cdf: LogProb, z: Tensor, low: float, high: float, mean: float, std: float) -> Tensor:
    """Returns the log-probability of the integer nearest to z; the first and the last one have the tails too."""
    n = (mean + std * z.double()).round()
    above = torch.where(n >= high, 1.0, cdf((n + 0.5 - mean) / std))
    below = torch.where(n <= low, 0.0, cdf((n - 0.5 - mean) / std))
    return (above - below).clamp(min=1e-30).log()


class Discretised:
    """A base density on the real line, rounded to integers from low to high: its values are log-probabilities."""

    flat = False

    def __init__(self, base: BaseDensity, low: float, high: float, mean: float, std: float) -> None:
        self.base, self.low, self.high, self.mean, self.std = base, low, high, mean, std
        ends = base.ends if base.kind == "normal" else (-6 * base.scale, 6 * base.scale)
        self.ends = (max(ends[0], (low - mean) / std), min(ends[1], (high - mean) / std))

    def log_prob(self, z: Tensor) -> Tensor:
        """Returns the log-probability of the integer nearest to z."""
        return _log_cell(self.base.cdf, z, self.low, self.high, self.mean, self.std).to(z.dtype)

    def score(self, z: Tensor) -> Tensor:
        """Raises an error: there is no derivative."""
        raise UserError("support=integers has no derivative in y")

    def sample(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Returns draws from standard normal numbers."""
        n = (self.mean + self.std * self.base.scale * normal).round().clamp(self.low, self.high)
        return (n - self.mean) / self.std

    def grid(self, points: int) -> Tensor:
        """Returns the ends and points between them: `[points]` float64."""
        return torch.linspace(*self.ends, points, dtype=torch.float64)
