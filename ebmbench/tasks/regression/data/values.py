"""Made data on every support, whose p(y|x) is known exactly: `data=values data.law=von-mises`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.core.rng import Draws, Streams
from ebmbench.supports.base import Support
from ebmbench.supports.circle import Circle
from ebmbench.supports.integers import Integers
from ebmbench.supports.interval import Interval
from ebmbench.supports.positive import Positive
from ebmbench.tasks.regression.data.base import NAME, NAME_TEXT, Arrays, Data, Split
from ebmbench.tasks.regression.data.transforms import ArrayInput

if TYPE_CHECKING:
    from torch import Tensor

POINTS, MOST = 8193, 200
"""Points of the table by which a density is drawn from, and the integers that carry mass."""


def _von_mises(x: Tensor, y: Tensor) -> Tensor:
    kappa = 6 + 4 * x
    log_norm = math.log(2 * math.pi) + torch.special.i0e(kappa).log() + kappa
    return kappa * torch.cos(y - 3 * x) - log_norm


def _beta(x: Tensor, y: Tensor) -> Tensor:
    a, b = 3 + 2 * x, 3 - x
    log_norm = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return (a - 1) * y.clamp(min=1e-300).log() + (b - 1) * (1 - y).clamp(min=1e-300).log() - log_norm


def _bounded(x: Tensor, y: Tensor) -> Tensor:
    """Two Gaussians that the ends of [0, 1] cut off."""
    parts = ((0.6, 0.2 + 0.2 * x, 0.1), (0.4, 0.9 - 0.1 * x, 0.15))
    terms = []
    for weight, mean, std in parts:
        inside = torch.special.ndtr((1 - mean) / std) - torch.special.ndtr(-mean / std)
        terms.append(math.log(weight / (std * math.sqrt(2 * math.pi))) - 0.5 * ((y - mean) / std) ** 2 - inside.log())
    return torch.logaddexp(*terms)


def _rain(x: Tensor, y: Tensor) -> Tensor:
    """A gamma density, and zeros."""
    rate = (1.0 - x).exp()
    wet = 2 * rate.log() + y.clamp(min=1e-300).log() - rate * y
    zero = 1.5 * x - 0.5
    return torch.where(y == 0, torch.nn.functional.logsigmoid(zero), torch.nn.functional.logsigmoid(-zero) + wet)


def _poisson(x: Tensor, y: Tensor) -> Tensor:
    log_rate = 1.2 + x
    return y * log_rate - log_rate.exp() - torch.lgamma(y + 1)


def _zero_inflated(x: Tensor, y: Tensor) -> Tensor:
    extra = 2 * x - 1
    counts = torch.nn.functional.logsigmoid(-extra) + _poisson(1 - x, y)
    zero = torch.nn.functional.logsigmoid(extra).expand_as(counts)
    return torch.where(y == 0, torch.logaddexp(zero, counts), counts)


LAWS: dict[str, tuple[Support, Callable[[Tensor, Tensor], Tensor]]] = {
    "von-mises": (Circle(low=-math.pi), _von_mises),
    "beta": (Interval(), _beta),
    "bounded": (Interval(), _bounded),
    "rain": (Positive(atoms=(0.0,)), _rain),
    "poisson": (Integers(), _poisson),
    "zero-inflated": (Integers(atoms=(0.0,)), _zero_inflated),
}
"""Of one input on [-1, 1]: the support, and `log p(y|x)`."""


@dataclass(frozen=True)
class ValueLaw:
    """The true p(y|x) of a law; drawn from by its distribution function on a fine table."""

    name: str

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `log p(y|x)`: x `[N, 1]`, y `[N, M, 1]` -> `[N, M]`; a log-probability where a value has one."""
        support, law = LAWS[self.name]
        y = y.double().squeeze(-1)
        ok = support.inside(y) | (y.unsqueeze(-1) == y.new_tensor(support.atoms)).any(-1)
        return law(x.double(), y).masked_fill(~ok, -math.inf)

    @cached_property
    def _table(self) -> Tensor:
        """Values that have all the mass, rising; a continuous one twice at an atom."""
        support, _ = LAWS[self.name]
        if support.discrete:
            return torch.arange(MOST, dtype=torch.float64)
        low, high = {"von-mises": (-math.pi, math.pi), "rain": (0.0, 40.0)}.get(self.name, (0.0, 1.0))
        return torch.linspace(low, high, POINTS, dtype=torch.float64)

    def sample(self, x: Tensor, count: int, draws: Draws, name: str) -> Tensor:
        """Returns draws of y for each x: `[N, count, 1]`."""
        support, _ = LAWS[self.name]
        uniform, table = draws.uniform(f"{name}/y", (len(x), count), torch.float64), self._table
        found = []
        for some, places in zip(x.split(256), uniform.split(256), strict=True):
            p = self.log_prob(some, table.view(1, -1, 1).expand(len(some), -1, 1)).exp()
            if support.discrete:
                cdf = p.cumsum(1)
                found.append(table[torch.searchsorted(cdf, places * cdf[:, -1:]).clamp(max=len(table) - 1)])
                continue
            atom = p[:, :1].clone() if support.atoms else torch.zeros(len(some), 1, dtype=torch.float64)
            if support.atoms:
                p[:, 0] = 0.0
            cells = 0.5 * (p[:, 1:] + p[:, :-1])
            cdf = torch.nn.functional.pad((cells / cells.sum(1, keepdim=True)).cumsum(1), (1, 0))
            place = ((places - atom) / (1 - atom)).clamp(0, 1 - 1e-12)
            cell = (torch.searchsorted(cdf, place.contiguous(), right=True) - 1).clamp(0, len(table) - 2)
            low, high = cdf.gather(1, cell), cdf.gather(1, cell + 1)
            y = table[cell] + (table[1] - table[0]) * (place - low) / (high - low).clamp(min=1e-300)
            found.append(torch.where(places < atom, 0.0, y))
        return torch.cat(found).unsqueeze(-1)


@register
class Values(Data):
    """Made data whose targets are angles, shares, amounts with zeros or counts: p(y|x) is known exactly."""

    source = "values"

    name: str = Field("values", pattern=NAME, description=NAME_TEXT)
    law: Literal["von-mises", "beta", "bounded", "rain", "poisson", "zero-inflated"] = Field(
        "von-mises", description="an angle; a share; two modes at the ends of [0, 1]; a gamma with zeros; counts"
    )
    num_train: int = Field(4000, ge=2, le=10_000_000, description="training rows")
    num_val: int = Field(1000, ge=1, le=10_000_000, description="validation rows")
    num_test: int = Field(1000, ge=1, le=10_000_000, description="test rows")
    data_seed: int = Field(0, ge=0, lt=2**31, description="the draw of all rows")

    @property
    @override
    def label(self) -> str:
        return self.law if self.name == "values" else self.name

    @override
    def supports(self, targets: int) -> tuple[Support, ...]:
        return self.support or (LAWS[self.law][0],)

    @override
    def load(self) -> Split:
        draws, law = Streams([self.data_seed], stacked=False).at(0), ValueLaw(self.law)

        def rows(name: str, count: int) -> Arrays:
            x = 2 * draws.uniform(f"{name}/x", (count, 1)) - 1
            return Arrays(x, law.sample(x, 1, draws, name)[:, 0])

        parts = (rows("train", self.num_train), rows("val", self.num_val), rows("test", self.num_test))
        return Split(*parts, ["y"], ["x"], ArrayInput((1,), ("x",)), truth=law)
