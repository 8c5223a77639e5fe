"""The base density b(y), and nodes for integrals over y.

Most networks have a bounded f, so `exp f` has no integral over all of R^D. The model is `p(y|x) ∝ exp f(x, y) · b(y)`
with a wide b. Targets are standardised here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from ebmbench.core.energy import Energy
from ebmbench.core.importance import normal
from ebmbench.core.settings import Section

if TYPE_CHECKING:
    from torch import Tensor

TAIL = 1e-9
"""The mass of b beyond either end of the interval that quadratures span."""


class BaseDensity(Section):
    """The density b(y) that makes the model a proper one on all of R^D, over standardised targets."""

    kind: Literal["normal", "student"] = Field("normal", description="student has heavier tails")
    scale: float = Field(3.0, gt=0, le=1e3, description="in standard deviations of the training targets")
    df: float = Field(4.0, ge=1, le=1e3, description="degrees of freedom of student")
    nodes: int = Field(200, ge=8, le=65_536, description="of the quadrature of log Z, for one target")
    samples: int = Field(1024, ge=16, le=1_048_576, description="particles for log Z, for several targets")

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns `log b(y)`: `[..., D] -> [...]`. The coordinates are independent."""
        z = y / self.scale
        if self.kind == "normal":
            one = -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
        else:
            one = _student_constant(self.df) - 0.5 * (self.df + 1) * torch.log1p(z.square() / self.df)
        return (one - math.log(self.scale)).sum(-1)

    def score(self, y: Tensor) -> Tensor:
        """Returns `∂ log b / ∂y`, of the shape of y."""
        if self.kind == "normal":
            return -y / self.scale**2
        return -(self.df + 1) * y / (self.df * self.scale**2 + y.square())

    def sample(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Returns draws from standard normal and uniform numbers of one shape `[..., D]`."""
        if self.kind == "normal":
            return self.scale * normal
        # Bailey's polar form of Student's t: one normal direction, and the radius from a uniform number.
        angle = torch.cos(2 * math.pi * torch.special.ndtr(normal))
        return self.scale * angle * (self.df * (uniform.pow(-2 / self.df) - 1)).sqrt()

    @property
    def reach(self) -> float:
        """The y beyond which b has a mass of no more than `TAIL` on either side."""
        if self.kind == "normal":
            return 6.0 * self.scale
        # The tail of Student's t is below c z^-df / df, with c from its density at large z.
        log_c = _student_constant(self.df) + 0.5 * (self.df + 1) * math.log(self.df)
        return self.scale * math.exp(max(0.0, (log_c - math.log(TAIL * self.df)) / self.df))

    def grid(self, points: int) -> Tensor:
        """Returns points over its reach, close in the middle and wider apart outside: `[points]` float64."""
        end = math.asinh(self.reach / self.scale)
        return self.scale * torch.linspace(-end, end, points, dtype=torch.float64).sinh()


def _student_constant(df: float) -> float:
    return math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)


class WithBase:
    """The energy `f(x, y) + log b(y)` of a model whose network gives f."""

    def __init__(self, inner: Energy, base: BaseDensity) -> None:
        self.inner, self.base = inner, base

    def __call__(self, y: Tensor) -> Tensor:
        """Returns `f(x, y)`: y `[..., M, D]` -> `[..., M]`."""
        return self.inner(y) + self.base.log_prob(y)

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns `∂f/∂y`, `[..., M, D]`; with `create_graph` it can be differentiated again."""
        with torch.set_grad_enabled(create_graph):
            return self.inner.grad(y, create_graph) + self.base.score(y)


@dataclass(frozen=True)
class NodeDensity:
    """A density g of y by which the nodes of a quadrature are placed: many where training targets are.

    It mixes a kernel density of the training targets with b, so that `b / g` is bounded, and is taken as constant
    between the points of a table. With nodes at equal steps of g's distribution function, `∫ h dy` is the mean of
    `h / g` over the nodes (the midpoint rule, in another variable).

    Attributes:
        y: the points of the table, rising: `[T]` float64.
        cdf: the distribution function there, from 0 to 1: `[T]`.
        log_g: the logarithm of g between two points, `[T - 1]`.
        centres, widths: of the kernels.
    """

    y: Tensor
    cdf: Tensor
    log_g: Tensor
    centres: Tensor
    widths: Tensor

    @staticmethod
    def of(targets: Tensor, base: BaseDensity) -> NodeDensity:
        """Makes it from standardised training targets `[N]`."""
        count = min(len(targets), KERNELS)
        centres = torch.quantile(targets.double().cpu(), (torch.arange(count, dtype=torch.float64) + 0.5) / count)
        ends = torch.cat((centres[:1], centres[:1], centres, centres[-1:], centres[-1:]))
        return NodeDensity.restore(centres, (0.5 * (ends[4:] - ends[:-4])).clamp(min=NARROWEST), base)

    @staticmethod
    def restore(centres: Tensor, widths: Tensor, base: BaseDensity) -> NodeDensity:
        """Makes it from the centres and widths of its kernels, `[K]` float64 each."""
        steps = torch.linspace(-4, 4, 17, dtype=torch.float64)
        around = (centres.unsqueeze(1) + widths.unsqueeze(1) * steps).flatten()
        y = torch.unique(torch.cat((around, base.grid(1025))))
        z = (y.unsqueeze(1) - centres) / widths
        kernels = ((-0.5 * z.square()).exp() / (widths * math.sqrt(2 * math.pi))).mean(1)
        g = (1 - BASE_SHARE) * kernels + BASE_SHARE * base.log_prob(y.unsqueeze(1)).exp()
        mass = 0.5 * (g[1:] + g[:-1]) * (y[1:] - y[:-1])
        mass = mass / mass.sum()
        cdf = torch.nn.functional.pad(mass.cumsum(0), (1, 0))
        return NodeDensity(y, cdf, (mass / (y[1:] - y[:-1])).log(), centres, widths)

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the nodes y where the distribution function is u, and `log g` there: `[...] -> [...]` twice."""
        u = u.to(self.cdf)
        left = (torch.searchsorted(self.cdf, u.contiguous(), right=True) - 1).clamp(0, len(self.cdf) - 2)
        part = (u - self.cdf[left]) / (self.cdf[left + 1] - self.cdf[left])
        return self.y[left] + part * (self.y[left + 1] - self.y[left]), self.log_g[left]

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns `log g` at any y of the table's interval: `[...] -> [...]`."""
        y = y.to(self.y)
        return self.log_g[(torch.searchsorted(self.y, y.contiguous(), right=True) - 1).clamp(0, len(self.log_g) - 1)]

    def to(self, device: torch.device) -> NodeDensity:
        """Returns it on a device."""
        return NodeDensity(*(getattr(self, name).to(device) for name in ("y", "cdf", "log_g", "centres", "widths")))


KERNELS = 256
NARROWEST = 0.03
"""The narrowest kernel, in standard deviations of the training targets."""
BASE_SHARE = 0.3
"""Of b in the mixture."""


@dataclass(frozen=True)
class Wide:
    """The base density as a proposal."""

    base: BaseDensity
    dim: int
    device: torch.device

    def sample(self, lead: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
        """Returns `count` draws for S models and B rows, `[B, count, D]` or `[S, B, count, D]`."""
        shape = (lead[1], count, self.dim)
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp(min=1e-12)
        return self.base.sample(normal(shape, generator, self.device), uniform.to(self.device))

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns the log-density at y: `[..., D] -> [...]`."""
        return self.base.log_prob(y)
