"""A trained model of task=1d, for use: `ebmbench.load(run_directory)[seed]`."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ebmbench.tasks.regression import metrics
from ebmbench.tasks.regression.density import GridDensity
from ebmbench.tasks.regression.laws import Y_HIGH, Y_LOW
from ebmbench.tasks.regression.networks.paper import layers, plain_energy


class IntervalModel:
    """The density `p(y|x)` of one trained seed, on y in [-3, 3].

    x is a tensor `[N]` or a list of numbers. The partition function is a quadrature over the interval.

    Attributes:
        seed: the seed that it was trained with.
        diverged_step: the step at which its training diverged, None if it did not. The weights of a model that diverged
            are those it had before, and no result.
    """

    diverged_step: int | None = None

    def __init__(self, flat: Tensor, seed: int, grid_points: int) -> None:
        self.seed = seed
        self._parameters = layers(flat.unsqueeze(0))
        self._points = grid_points | 1

    @cached_property
    def grid(self) -> Tensor:
        """The points of y on which densities are held, `[G]`."""
        return metrics.grid(Y_LOW, Y_HIGH, self._points)

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """`log p(y|x)` of pairs, x and y `[N]` or a single number: `[N]`; minus infinity outside [-3, 3]."""
        x, y = _vector(x), _vector(y)
        log_partition = self._densities(x).log_z
        x, y = torch.broadcast_tensors(x, y)
        values = self._energy(x, y.unsqueeze(-1)).squeeze(-1) - log_partition
        return torch.where((y >= Y_LOW) & (y <= Y_HIGH), values, -torch.inf)

    def density(self, x: Tensor) -> Tensor:
        """`p(y|x)` at the points of `grid`: x `[N]` -> `[N, G]`."""
        return self._densities(x).density

    def cdf(self, x: Tensor, y: Tensor) -> Tensor:
        """The probability that the target is at most y, of pairs, x and y `[N]` or a single number: `[N]`."""
        x, y = torch.broadcast_tensors(_vector(x), _vector(y))
        return self._densities(x).cdf_at(y.unsqueeze(-1)).squeeze(-1)

    def quantile(self, x: Tensor, probability: Any) -> Tensor:
        """The y up to which the density has a probability: one number -> `[N]`, `[K]` -> `[N, K]`."""
        p = torch.as_tensor(probability, dtype=torch.float64)
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise ValueError(f"probability={probability} is not allowed: give numbers from 0 to 1")
        found = self._densities(x).quantile(p.reshape(-1))
        return found if p.dim() else found.squeeze(-1)

    def sample(self, x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Returns n independent draws of y for each x: `[N] -> [N, n]`."""
        densities = self._densities(x)
        return densities.quantile(torch.rand(len(densities.y), n, generator=generator, dtype=torch.float64))

    def mean(self, x: Tensor) -> Tensor:
        """`E[y|x]`: `[N] -> [N]`."""
        return self._densities(x).mean

    def std(self, x: Tensor) -> Tensor:
        """The standard deviation of y given x: `[N] -> [N]`."""
        return self._densities(x).variance.sqrt()

    def mode(self, x: Tensor) -> Tensor:
        """The most likely y, a point of `grid`: `[N] -> [N]`."""
        return self._densities(x).mode

    def interval(self, x: Tensor, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Ends of the central interval that holds y with probability `level`: two `[N]`."""
        if not 0 < level < 1:
            raise ValueError(f"level={level} is not allowed: give a probability between 0 and 1")
        tail = (1 - level) / 2
        low, high = self.quantile(x, [tail, 1 - tail]).unbind(-1)
        return low, high

    def _densities(self, x: Tensor) -> GridDensity:
        x = _vector(x)
        return GridDensity(self.grid.repeat(len(x), 1), self._energy(x, self.grid))

    @torch.no_grad()
    def _energy(self, x: Tensor, y: Tensor) -> Tensor:
        """`f` in float64: x `[N]`, y `[N, K]` or `[K]` for all -> `[N, K]`."""
        parts = []
        candidates = y.expand(len(x), -1)
        for some_x, some_y in zip(x.split(512), candidates.split(512), strict=True):
            f = plain_energy(self._parameters, some_x.to(torch.float32).unsqueeze(0))
            parts.append(f(some_y.to(torch.float32).reshape(1, len(some_x), -1, 1))[0].double())
        return torch.cat(parts)


def _vector(values: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1)
