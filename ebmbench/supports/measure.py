"""Base measures of one standardised target: `p(y|x) ∝ exp f(x, y) μ(y)`.

Most networks have a bounded f, so `exp f` has no integral over all of R. A measure μ of mass one gives it one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from pydantic import Field

from ebmbench.core.settings import Section

if TYPE_CHECKING:
    from torch import Tensor

TAIL = 1e-9
"""The mass of μ beyond either end of the interval that quadratures span."""


class Measure(Protocol):
    """A density of mass one over one standardised target, elementwise."""

    @property
    def ends(self) -> tuple[float, float]:
        """The interval that holds all of its mass but a little, on which integrals are taken."""
        ...

    @property
    def flat(self) -> bool:
        """Whether it is constant, so that it adds nothing to an energy."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """Returns the log-density at z, of the same shape."""
        ...

    def score(self, z: Tensor) -> Tensor:
        """Returns the derivative of `log_prob`, of the same shape."""
        ...

    def sample(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Returns draws from standard normal and uniform numbers of one shape."""
        ...

    def grid(self, points: int) -> Tensor:
        """Returns rising points from one end to the other, `[points]` float64."""
        ...


class BaseDensity(Section):
    """The base density on the real line, in standard deviations of the training targets; and how log Z is computed."""

    kind: Literal["normal", "student"] = Field("normal", description="student has heavier tails")
    scale: float = Field(3.0, gt=0, le=1e3, description="in standard deviations of the training targets")
    df: float = Field(4.0, ge=1, le=1e3, description="degrees of freedom of student")
    nodes: int = Field(200, ge=8, le=65_536, description="of the quadrature of log Z, for one target")
    samples: int = Field(1024, ge=16, le=1_048_576, description="particles for log Z, for several targets")

    @property
    def flat(self) -> bool:
        """False."""
        return False

    @property
    def ends(self) -> tuple[float, float]:
        """The interval beyond which it has a mass of no more than `TAIL` on either side."""
        if self.kind == "normal":
            reach = 6.0 * self.scale
        else:  # the tail of Student's t is below c z^-df / df, with c from its density at large z
            log_c = _student_constant(self.df) + 0.5 * (self.df + 1) * math.log(self.df)
            reach = self.scale * math.exp(max(0.0, (log_c - math.log(TAIL * self.df)) / self.df))
        return -reach, reach

    def log_prob(self, z: Tensor) -> Tensor:
        """Returns the log-density at z, of the same shape."""
        unit = z / self.scale
        if self.kind == "normal":
            one = -0.5 * unit.square() - 0.5 * math.log(2 * math.pi)
        else:
            one = _student_constant(self.df) - 0.5 * (self.df + 1) * torch.log1p(unit.square() / self.df)
        return one - math.log(self.scale)

    def score(self, z: Tensor) -> Tensor:
        """Returns the derivative of `log_prob`, of the same shape."""
        if self.kind == "normal":
            return -z / self.scale**2
        return -(self.df + 1) * z / (self.df * self.scale**2 + z.square())

    def sample(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Returns draws from standard normal and uniform numbers of one shape."""
        if self.kind == "normal":
            return self.scale * normal
        # Bailey's polar form of Student's t: one normal direction, and the radius from a uniform number.
        angle = torch.cos(2 * math.pi * torch.special.ndtr(normal))
        return self.scale * angle * (self.df * (uniform.pow(-2 / self.df) - 1)).sqrt()

    def cdf(self, z: Tensor) -> Tensor:
        """Returns the distribution function at z; that of the normal for `student` too, where it only discretises."""
        return torch.special.ndtr(z.double() / self.scale)

    def grid(self, points: int) -> Tensor:
        """Returns points over its reach, close in the middle and wider apart outside: `[points]` float64."""
        end = math.asinh(self.ends[1] / self.scale)
        return self.scale * torch.linspace(-end, end, points, dtype=torch.float64).sinh()


def _student_constant(df: float) -> float:
    return math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)


class Flat:
    """The uniform density on an interval. Outside it `log_prob` is the same constant."""

    flat = True

    def __init__(self, low: float, high: float) -> None:
        self.ends = (low, high)

    def log_prob(self, z: Tensor) -> Tensor:
        """Returns the log-density, of the shape of z."""
        return torch.full_like(z, -math.log(self.ends[1] - self.ends[0]))

    def score(self, z: Tensor) -> Tensor:
        """Returns zeros of the shape of z."""
        return torch.zeros_like(z)

    def sample(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Returns draws from uniform numbers."""
        return self.ends[0] + (self.ends[1] - self.ends[0]) * uniform

    def grid(self, points: int) -> Tensor:
        """Returns equally spaced points with both ends: `[points]` float64."""
        return torch.linspace(*self.ends, points, dtype=torch.float64)
