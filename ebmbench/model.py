"""Trained 1D models, for use: `ebmbench.load(run_directory)`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ebmbench import checkpoint, metrics, runs
from ebmbench.config import RunConfig
from ebmbench.errors import UserError
from ebmbench.tasks.one_d.config import OneDTask
from ebmbench.tasks.one_d.data import Y_HIGH, Y_LOW
from ebmbench.tasks.one_d.network import Parameters, plain_energy


class Model:
    """The density `p(y|x)` of one trained seed, on y in [-3, 3].

    x is a tensor `[N]` or a list of numbers. The partition function is a quadrature over the interval.

    Attributes:
        seed: the seed that it was trained with.
        diverged_step: the step at which its training diverged, None if it did not. The weights of a model that diverged
            are those it had before, and no result.
    """

    def __init__(self, parameters: Parameters, seed: int, grid_points: int, diverged_step: int | None = None) -> None:
        self.seed, self.diverged_step = seed, diverged_step
        self._parameters = {name: p.unsqueeze(0) for name, p in parameters.items()}
        self._points = grid_points | 1

    @cached_property
    def grid(self) -> Tensor:
        """The points of y on which densities are held, `[G]`."""
        return metrics.grid(Y_LOW, Y_HIGH, self._points)

    @property
    def spacing(self) -> float:
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
        """n independent draws of y for each x: `[N] -> [N, n]`."""
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


def load(run_dir: str | Path) -> Mapping[int, Model]:
    """The trained models of a finished 1D run, by seed.

    Raises:
        UserError: the directory holds no finished 1D run, or a damaged one.
    """
    folder = Path(run_dir)
    config = RunConfig.from_yaml(runs.read_output(folder, "config.yaml").decode())
    if not isinstance(config.task, OneDTask):
        raise UserError(f"{folder} is a run of task={config.task.name}; ebmbench.load reads runs of task=1d")
    status = runs.read_status(folder)
    diverged = status.diverged if status else {}
    layers = split_layers(checkpoint.read_parameters(folder))
    return {
        seed: Model(parameters, seed, config.task.grid_points, diverged.get(str(seed)))
        for seed, parameters in layers.items()
    }


def split_layers(parameters: dict[int, dict[str, Tensor]]) -> dict[int, Parameters]:
    """Each seed's flat vector as the layers' weights."""
    from ebmbench.tasks.one_d.network import initial_parameters

    shapes = {name: p.shape[1:] for name, p in initial_parameters([0], torch.float32, "cpu").items()}
    sizes = [shape.numel() for shape in shapes.values()]
    return {
        seed: {
            name: part.view(shape) for (name, shape), part in zip(shapes.items(), p["flat"].split(sizes), strict=True)
        }
        for seed, p in parameters.items()
    }


def _vector(values: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1)
