"""A trained model of task=1d, for use: `ebmbench.load(run_directory)[seed]`."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ebmbench.tasks.regression import metrics
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

    @property
    def spacing(self) -> float:
        """The distance of two points of `grid`."""
        return (Y_HIGH - Y_LOW) / (self._points - 1)

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """`log p(y|x)` of pairs, x and y `[N]` or a single number: `[N]`; minus infinity outside [-3, 3]."""
        x, y = _vector(x), _vector(y)
        log_partition = self._log_partition(x)
        x, y = torch.broadcast_tensors(x, y)
        values = self._energy(x, y.unsqueeze(-1)).squeeze(-1) - log_partition
        return torch.where((y >= Y_LOW) & (y <= Y_HIGH), values, -torch.inf)

    def density(self, x: Tensor) -> Tensor:
        """`p(y|x)` at the points of `grid`: x `[N]` -> `[N, G]`."""
        return metrics.normalise(self._energy(_vector(x), self.grid), self.spacing)

    def sample(self, x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Returns n independent draws of y for each x: `[N] -> [N, n]`."""
        density = self.density(x)
        return self._quantile(density, torch.rand(len(density), n, generator=generator, dtype=torch.float64))

    def mean(self, x: Tensor) -> Tensor:
        """`E[y|x]`: `[N] -> [N]`."""
        weighted = self.density(x) * self.grid
        return torch.trapezoid(weighted, dx=self.spacing)

    def mode(self, x: Tensor) -> Tensor:
        """The most likely y, a point of `grid`: `[N] -> [N]`."""
        return self.grid[self.density(x).argmax(-1)]

    def interval(self, x: Tensor, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Ends of the central interval that holds y with probability `level`: two `[N]`."""
        if not 0 < level < 1:
            raise ValueError(f"level={level} is not allowed: give a probability between 0 and 1")
        tail = (1 - level) / 2
        low, high = self._quantile(self.density(x), torch.tensor([tail, 1 - tail], dtype=torch.float64)).unbind(-1)
        return low, high

    def _quantile(self, density: Tensor, probability: Tensor) -> Tensor:
        return metrics.quantile(density, probability, Y_LOW, self.spacing)

    @torch.no_grad()
    def _energy(self, x: Tensor, y: Tensor) -> Tensor:
        """`f` in float64: x `[N]`, y `[N, K]` or `[K]` for all -> `[N, K]`."""
        parts = []
        candidates = y.expand(len(x), -1)
        for some_x, some_y in zip(x.split(512), candidates.split(512), strict=True):
            f = plain_energy(self._parameters, some_x.to(torch.float32).unsqueeze(0))
            parts.append(f(some_y.to(torch.float32).reshape(1, len(some_x), -1, 1))[0].double())
        return torch.cat(parts)

    def _log_partition(self, x: Tensor) -> Tensor:
        return metrics.log_integral(self._energy(x, self.grid), self.spacing)


def _vector(values: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1)
