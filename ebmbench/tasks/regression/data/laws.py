"""Conditional laws of D numbers whose density is known exactly: made data for how methods fare as D grows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.core.rng import Draws, Streams
from ebmbench.tasks.regression.data.base import NAME, NAME_TEXT, Arrays, Data, Law, Split
from ebmbench.tasks.regression.data.transforms import ArrayInput

if TYPE_CHECKING:
    from torch import Tensor

INPUTS = 2
"""Features of x, uniform on [-1, 1]."""


def normal_log_prob(z: Tensor) -> Tensor:
    """Returns `log N(z; 0, I)` over the last axis: `[..., D] -> [...]`."""
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def _angles(dim: int) -> Tensor:
    return 2 * math.pi * torch.arange(dim, dtype=torch.float64) / max(dim, 3)


def _centre(x: Tensor, dim: int) -> Tensor:
    """A smooth curve of x: `[N, 2] -> [N, D]`."""
    x = x.double()
    return torch.sin(math.pi * x[:, :1] + _angles(dim)) + 0.5 * x[:, 1:2] * torch.cos(_angles(dim))


@dataclass(frozen=True)
class Mixture:
    """Three Gaussians whose means, standard deviations and weights depend on x."""

    dim: int

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means `[N, 3, D]`, standard deviations `[N, 3]` and log weights `[N, 3]`."""
        x = x.double()
        component = torch.arange(3, dtype=torch.float64)
        directions = torch.cos(_angles(self.dim) + 2 * math.pi / 3 * component.unsqueeze(1))
        directions = directions / directions.norm(dim=1, keepdim=True).clamp(min=0.3)
        means = _centre(x, self.dim).unsqueeze(1) + 1.5 * directions
        stds = 0.15 + 0.1 * (1 + torch.sin(math.pi * x[:, :1] + component))
        weights = torch.log_softmax(x[:, 1:2] * torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64), 1)
        return means, stds, weights

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `log p(y|x)`: x `[N, ...]`, y `[N, M, D]` -> `[N, M]`."""
        means, stds, weights = self._parts(x)
        z = (y.double().unsqueeze(2) - means.unsqueeze(1)) / stds[:, None, :, None]
        parts = normal_log_prob(z) - self.dim * stds.log().unsqueeze(1) + weights.unsqueeze(1)
        return torch.logsumexp(parts, -1)

    def sample(self, x: Tensor, count: int, draws: Draws, name: str) -> Tensor:
        """Returns draws of y for each x: `[N, count, D]`."""
        means, stds, weights = self._parts(x)
        uniform = draws.uniform(f"{name}/part", (len(x), count), torch.float64)
        part = (uniform.unsqueeze(-1) > weights.exp().cumsum(1).unsqueeze(1)).sum(-1).clamp(max=2)
        rows = torch.arange(len(x)).unsqueeze(1)
        noise = draws.normal(f"{name}/y", (len(x), count, self.dim), torch.float64)
        return means[rows, part] + stds[rows, part].unsqueeze(-1) * noise


@dataclass(frozen=True)
class Banana:
    """A Gaussian that is bent: the first coordinate's square pushes the others, as much as x says."""

    dim: int

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centres `[N, D]`, bends `[N, 1]` and standard deviations of the others `[N, 1]`."""
        x = x.double()
        return _centre(x, self.dim), torch.sin(math.pi * x[:, 1:2]), 0.2 + 0.1 * x[:, :1]

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `log p(y|x)`: x `[N, ...]`, y `[N, M, D]` -> `[N, M]`."""
        centre, bend, std = self._parts(x)
        moved = y.double() - centre.unsqueeze(1)
        first = moved[..., :1]
        rest = (moved[..., 1:] - bend.unsqueeze(1) * (first.square() - 1)) / std.unsqueeze(1)
        return normal_log_prob(first) + normal_log_prob(rest) - (self.dim - 1) * std.log()

    def sample(self, x: Tensor, count: int, draws: Draws, name: str) -> Tensor:
        """Returns draws of y for each x: `[N, count, D]`."""
        centre, bend, std = self._parts(x)
        noise = draws.normal(f"{name}/y", (len(x), count, self.dim), torch.float64)
        first, rest = noise[..., :1], noise[..., 1:]
        rest = std.unsqueeze(1) * rest + bend.unsqueeze(1) * (first.square() - 1)
        return centre.unsqueeze(1) + torch.cat((first, rest), -1)


@dataclass(frozen=True)
class Ring:
    """A sphere's shell around a centre, every direction alike; its log radius is normal. Both depend on x."""

    dim: int
    std: float = 0.1

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Centres `[N, D]` and log radii `[N, 1]`."""
        return _centre(x, self.dim), 0.4 * torch.sin(math.pi * x.double()[:, 1:2])

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `log p(y|x)`: x `[N, ...]`, y `[N, M, D]` -> `[N, M]`."""
        centre, log_radius = self._parts(x)
        log_r = (y.double() - centre.unsqueeze(1)).norm(dim=-1).clamp(min=1e-300).log()
        z = (log_r - log_radius) / self.std
        log_area = math.log(2) + 0.5 * self.dim * math.log(math.pi) - math.lgamma(self.dim / 2)  # of the unit sphere
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - math.log(self.std) - self.dim * log_r - log_area

    def sample(self, x: Tensor, count: int, draws: Draws, name: str) -> Tensor:
        """Returns draws of y for each x: `[N, count, D]`."""
        centre, log_radius = self._parts(x)
        direction = draws.normal(f"{name}/direction", (len(x), count, self.dim), torch.float64)
        direction = direction / direction.norm(dim=-1, keepdim=True)
        log_r = log_radius + self.std * draws.normal(f"{name}/radius", (len(x), count), torch.float64)
        return centre.unsqueeze(1) + log_r.exp().unsqueeze(-1) * direction


LAWS: dict[str, Any] = {"mixture": Mixture, "banana": Banana, "ring": Ring}


@register
class Laws(Data):
    """Made data from a conditional law of D numbers that is known exactly: `data=laws data.law=ring data.dim=4`."""

    source = "laws"
    is_identified = True

    name: str = Field("laws", pattern=NAME, description=NAME_TEXT)
    law: Literal["mixture", "banana", "ring"] = Field("mixture", description="three Gaussians, a bent one, or a shell")
    dim: int = Field(2, ge=1, le=64, description="D, numbers of a target")
    num_train: int = Field(4000, ge=2, le=10_000_000, description="training rows")
    num_val: int = Field(1000, ge=1, le=10_000_000, description="validation rows")
    num_test: int = Field(500, ge=1, le=10_000_000, description="test rows")
    data_seed: int = Field(0, ge=0, lt=2**31, description="the draw of all rows")

    @model_validator(mode="after")
    def _has_a_bend(self) -> Laws:
        if self.law == "banana" and self.dim == 1:
            raise ValueError("data.law=banana needs data.dim=2 at least: one number cannot be bent")
        return self

    @property
    @override
    def label(self) -> str:
        return f"{self.law}-{self.dim}" if self.name == "laws" else self.name

    @property
    @override
    def num_targets(self) -> int:
        return self.dim

    @override
    def load(self) -> Split:
        draws = Streams([self.data_seed], stacked=False).at(0)
        law: Law = LAWS[self.law](self.dim)

        def rows(name: str, count: int) -> Arrays:
            x = 2 * draws.uniform(f"{name}/x", (count, INPUTS)) - 1
            return Arrays(x, law.sample(x, 1, draws, name)[:, 0].float())

        parts = (rows("train", self.num_train), rows("val", self.num_val), rows("test", self.num_test))
        features = [f"x{k + 1}" for k in range(INPUTS)]
        targets = [f"y{k + 1}" for k in range(self.dim)]
        return Split(*parts, targets, features, ArrayInput((INPUTS,), tuple(features)), truth=law)
