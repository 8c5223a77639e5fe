"""The two laws of the published 1D study, known exactly, and the points drawn from them: `task=1d data=law1`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import BeforeValidator, Field
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.core.rng import Draws, Streams
from ebmbench.supports.base import Support
from ebmbench.supports.interval import Interval
from ebmbench.tasks.regression.data.base import NAME, NAME_TEXT, Arrays, Data, Grid, Split
from ebmbench.tasks.regression.data.transforms import ArrayInput

if TYPE_CHECKING:
    from torch import Tensor

Label = Annotated[str, BeforeValidator(lambda name: str(name) if isinstance(name, int) else name)]
"""A name that may look like a number, as `data.name=1` does on a command line."""
LOW, HIGH = -3.0, 3.0
"""The interval on which models live; x is uniform on the same."""


def _normal_log_prob(y: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    std = torch.as_tensor(std, dtype=y.dtype, device=y.device)
    return -0.5 * ((y - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def _log_normal_log_prob(y: Tensor) -> Tensor:
    """`y + 1` is log-normal with log-mean 0 and log-standard-deviation 0.25."""
    log_shifted = (y + 1).clamp(min=1e-300).log()
    log_prob = _normal_log_prob(log_shifted, torch.zeros_like(y), 0.25) - log_shifted
    return torch.where(y > -1, log_prob, -math.inf)


@dataclass(frozen=True)
class PaperLaw:
    """The true p(y|x) of a law (docs/data.md), with noise of a standard deviation on y.

    Attributes:
        number: 1 or 2.
    """

    number: int
    noise: float = 0.0

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `log p(y + ε | x)` with `ε ~ N(0, noise²)`: x `[N, 1]`, y `[N, M, 1]` -> `[N, M]`."""
        x, y = torch.broadcast_tensors(x.double(), y.double().squeeze(-1))
        if self.number == 2:
            own = 0.15 * torch.sigmoid(x)
            return _normal_log_prob(y, x.sin(), own.square().add(self.noise**2).sqrt() if self.noise else own)
        std = math.hypot(0.075, self.noise)
        major = math.log(0.8) + _normal_log_prob(y, x.sin(), std)
        minor = math.log(0.2) + _normal_log_prob(y, -x.sin(), std)
        right = _noisy_log_normal(y, self.noise) if self.noise else _log_normal_log_prob(y)
        return torch.where(x < 0, torch.logaddexp(major, minor), right)

    def sample(self, x: Tensor, count: int, draws: Draws, name: str) -> Tensor:
        """Returns draws of y for each x, without noise: `[N, count, 1]`."""
        x, shape = x.double().expand(-1, count), (len(x), count)
        normal = draws.normal(f"{name}/y", shape, torch.float64)
        if self.number == 2:
            return (x.sin() + 0.15 * torch.sigmoid(x) * normal).unsqueeze(-1)
        sign = torch.where(draws.uniform(f"{name}/mode", shape, torch.float64) < 0.8, 1.0, -1.0)
        return torch.where(x < 0, sign * x.sin() + 0.075 * normal, (0.25 * normal).exp() - 1).unsqueeze(-1)


def _noisy_log_normal(y: Tensor, noise: float) -> Tensor:
    """The convolution by the trapezoidal rule, which converges geometrically for such integrands.

    Its variable is the narrower of the two factors' own: the noise in units of its standard deviation, or the normal
    number that the log-normal is made from. The rest of the integrand is then wide in it.
    """
    nodes = torch.linspace(-8, 8, 257, dtype=torch.float64, device=y.device)
    log_weights = torch.log_softmax(-0.5 * nodes.square(), 0)
    total = torch.full_like(y, -math.inf)
    for node, log_weight in zip(nodes, log_weights, strict=True):
        if noise < 0.15:
            part = _log_normal_log_prob(y - noise * node)
        else:
            part = _normal_log_prob(y, (0.25 * node).exp() - 1, noise)
        total = torch.logaddexp(total, log_weight + part)
    return total


class PaperData(Data):
    """Points of one of the laws, a function of `data_seed` alone.

    Proposals are not cut at the ends of the interval, as published.
    """

    number: ClassVar[int]
    is_identified = True

    default_support: ClassVar[Support] = Interval(low=LOW, high=HIGH, mirror=False)

    data_seed: int = Field(0, ge=0, lt=2**31, description="the draw of all points, the same for all seeds and methods")
    num_train: int = Field(2000, ge=1, le=10_000_000, description="training points")
    num_val: int = Field(2000, ge=1, le=10_000_000, description="validation points")
    num_test: int = Field(10000, ge=1, le=10_000_000, description="test points")
    target_noise: float = Field(0.0, ge=0, le=10, description="standard deviation of noise on the training targets")
    grid_points: int = Field(2048, ge=9, le=65_537, description="points of x and of y on [-3, 3] for D_KL")

    @property
    def paper_law(self) -> PaperLaw:
        """The true p(y|x), without noise on the targets."""
        return PaperLaw(self.number)

    @override
    def load(self) -> Split:
        law = self.paper_law
        draws = Streams([self.data_seed], stacked=False).at(0)

        def noise(name: str, count: int) -> Tensor:
            return self.target_noise * draws.normal(f"{name}/target_noise", (count, 1), torch.float64)

        def points(name: str, count: int) -> Arrays:
            x = LOW + (HIGH - LOW) * draws.uniform(f"{name}/x", (count, 1), torch.float64)
            return Arrays(x, law.sample(x, 1, draws, name)[:, 0])

        train, val, test = (points(name, getattr(self, f"num_{name}")) for name in ("train", "val", "test"))
        line = torch.linspace(LOW, HIGH, self.grid_points, dtype=torch.float64)
        grid = Grid(line.unsqueeze(1), line)
        if self.target_noise:  # on the training targets only; validation and test points stay clean
            train = Arrays(train.x, train.y + noise("train", self.num_train))
            grid = Grid(grid.x, line, PaperLaw(self.number, self.target_noise), test.y + noise("test", self.num_test))
        return Split(train, val, test, ["y"], ["x"], ArrayInput((1,), ("x",)), truth=law, kl_grid=grid)


@register
class Law1(PaperData):
    """Dataset 1 of the 1D study: two modes for x < 0, log-normal for x ≥ 0."""

    source = "law1"
    number = 1

    name: Label = Field("1", pattern=NAME, description=NAME_TEXT)


@register
class Law2(PaperData):
    """Dataset 2 of the 1D study: a Gaussian around sin x, ten times narrower at one end than at the other."""

    source = "law2"
    number = 2

    name: Label = Field("2", pattern=NAME, description=NAME_TEXT)
