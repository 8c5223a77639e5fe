"""A trained model of `task=regression`, for use: `ebmbench.load(run_directory)[seed]`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ebmbench.core.errors import UserError
from ebmbench.tasks.base import Setup
from ebmbench.tasks.regression.base_density import NodeDensity
from ebmbench.tasks.regression.conditional import Conditionals
from ebmbench.tasks.regression.data import transforms
from ebmbench.tasks.regression.data.base import Frame
from ebmbench.tasks.regression.density import GridDensity
from ebmbench.tasks.regression.importance import Cloud, Weighted
from ebmbench.tasks.regression.scaling import Scaling

if TYPE_CHECKING:
    from ebmbench.tasks.regression.task import Regression

ROWS = 256
"""Rows that are worked on at a time, for one target; for several a quarter."""
GRID = 801


class RegressionModel:
    """The density `p(y|x)` of one trained seed, in the target's own units.

    x is what the model was trained on: a table with the columns of training, or an array with a row for each example.
    Everything returned is a float64 tensor. For one target (D = 1) the last axis, D, is left out. log Z is a
    quadrature for D = 1. For D > 1 it is an estimate by importance sampling, and so is all that is made from it.

    Attributes:
        seed: the seed that it was trained with.
        targets: the names of the targets.
        diverged_step: the step at which its training diverged, None if it did not. The weights of a model that diverged
            are those it had before, and no result.
    """

    diverged_step: int | None = None

    def __init__(self, task: Regression, setup: Setup, flat: Tensor, seed: int, plain: Mapping[str, Any]) -> None:
        self.seed, self.targets = seed, list(plain["targets"])
        self.transform = transforms.restore(plain["transform"])
        self.scaling = Scaling.restore(plain["scaling"])
        dim = len(self.targets)
        device = torch.device("cpu")
        stack = task.network.stack(tuple(plain["x_shape"]), dim, (seed,), device, torch.float32, setup.backend)
        with torch.no_grad():
            stack.flat.copy_(flat.unsqueeze(0))
        nodes, cloud = None, None
        if "nodes" in plain:
            centres, widths = (
                torch.tensor(plain["nodes"][name], dtype=torch.float64) for name in ("centres", "widths")
            )
            nodes = NodeDensity.restore(centres, widths, task.base)
        else:
            cloud = Cloud.restore(plain["cloud"])
        self._conditionals = Conditionals(stack, task.base, nodes, cloud, 1)

    @staticmethod
    def read(task: Regression, setup: Setup, flat: Tensor, seed: int, run_dir: Path) -> RegressionModel:
        """Returns the model of a run directory.

        Raises:
            UserError: its `model.json` is missing or damaged.
        """
        path = run_dir / "model.json"
        try:
            return RegressionModel(task, setup, flat, seed, json.loads(path.read_text()))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} is missing or damaged ({type(error).__name__}); run it again with force=true"
            ) from None

    @cached_property
    def grid(self) -> Tensor:
        """Points of y over all that the training targets and the base density reach, for `density`: `[G]` (D = 1)."""
        middle = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
        return self.scaling.raw_y(self._nodes.at(middle)[0].unsqueeze(-1)).squeeze(-1)

    def log_prob(self, x: Frame, y: Any) -> Tensor:
        """Returns `log p(y|x)` of pairs, `[N]`: y is `[N]` or `[N, D]`."""
        inputs, targets = self._inputs(x), self._targets(y)
        if len(inputs) != len(targets):
            raise ValueError(f"x has {len(inputs)} rows and y has {len(targets)}")
        parts = []
        for number, (some_x, some_y) in enumerate(self._split(inputs, targets)):
            f = self._conditionals.bind(some_x)(some_y.unsqueeze(1).unsqueeze(0)).view(-1)
            if not self._conditionals.stack.normalised:
                f = f - (
                    self._conditionals.grids(some_x, some_y[:, 0]).log_z
                    if self._one
                    else self._conditionals.weighted(some_x, some_y, None, number).log_z[0]
                )
            parts.append(f)
        return _joined(parts) - self.scaling.log_scale

    def density(self, x: Frame, y: Any = None) -> Tensor:
        """Returns `p(y|x)` of each x at points y `[G]`, those of `grid` if none are given: `[N, G]` (D = 1)."""
        points = self.grid if y is None else torch.as_tensor(np.asarray(y), dtype=torch.float64).reshape(-1)
        z = self.scaling.y(points.unsqueeze(-1))
        parts = []
        for some_x, grids in self._grids(x):
            f = self._conditionals.bind(some_x)(z.expand(1, len(some_x), -1, -1))[0]
            log_z = 0.0 if self._conditionals.stack.normalised else grids.log_z.unsqueeze(1)
            parts.append((f - log_z - self.scaling.log_scale).exp())
        return _joined(parts, len(points))

    def cdf(self, x: Frame, y: Any) -> Tensor:
        """Returns the probability that the target is at most y, of pairs: `[N]` (D = 1)."""
        z = self._targets(y)[:, 0]
        parts, start = [], 0
        for some_x, grids in self._grids(x):
            some = z[start : start + len(some_x)] if len(z) > 1 else z.expand(len(some_x))
            parts.append(grids.cdf_at(some.unsqueeze(1)).squeeze(1))
            start += len(some_x)
        return _joined(parts)

    def quantile(self, x: Frame, probability: Any) -> Tensor:
        """Returns the y up to which the density has a probability: one number -> `[N]`, `[K]` -> `[N, K]` (D = 1).

        For D > 1 one number gives the quantile of each coordinate, `[N, D]`.
        """
        if not self._one:
            return self.scaling.raw_y(
                _joined([w.quantile(float(probability))[0] for _, w in self._weighted(x)], self.dim)
            )
        p = torch.as_tensor(probability, dtype=torch.float64)
        found = self._raw(_joined([grids.quantile(p.reshape(-1)) for _, grids in self._grids(x)], p.numel()))
        return found if p.dim() else found.squeeze(1)

    def sample(self, x: Frame, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Returns n draws of y for each x, `[N, n]` or `[N, n, D]`. For D > 1 they are resampled, and may repeat."""
        if self._one:
            parts = [
                grids.quantile(torch.rand(len(rows), n, generator=generator, dtype=torch.float64))
                for rows, grids in self._grids(x)
            ]
            return self._raw(_joined(parts, n))
        drawn = []
        for rows, weighted in self._weighted(x):
            points = weighted.resample(n, torch.rand(1, generator=generator, dtype=torch.float64))[0]
            order = torch.rand(len(rows), n, generator=generator).argsort(1)  # they come in the order of their mode
            drawn.append(points.gather(1, order.unsqueeze(-1).expand_as(points)))
        return self.scaling.raw_y(_joined(drawn, n, self.dim))

    def mean(self, x: Frame) -> Tensor:
        """Returns `E[y|x]`, `[N]` or `[N, D]`."""
        if self._one:
            return self._raw(_joined([grids.mean for _, grids in self._grids(x)]))
        return self.scaling.raw_y(_joined([weighted.mean[0] for _, weighted in self._weighted(x)], self.dim))

    def std(self, x: Frame) -> Tensor:
        """Returns the standard deviation of y given x, `[N]` or `[N, D]` (of each coordinate)."""
        if self._one:
            return _joined([grids.variance.sqrt() for _, grids in self._grids(x)]) * self.scaling.y_std[0]
        return _joined([weighted.spread[0] for _, weighted in self._weighted(x)], self.dim) * self.scaling.y_std

    def mode(self, x: Frame) -> Tensor:
        """Returns the most likely y, `[N]` or `[N, D]`: the best of the nodes, or of the draws for D > 1."""
        if self._one:
            return self._raw(_joined([grids.mode for _, grids in self._grids(x)]))
        parts = []
        for _, weighted in self._weighted(x):
            best = weighted.log_values[0].argmax(-1)
            parts.append(weighted.y[0][torch.arange(len(best)), best])
        return self.scaling.raw_y(_joined(parts, self.dim))

    def interval(self, x: Frame, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Returns the ends of the central interval that holds y with probability `level`: two `[N]`.

        For D > 1 they are those of each coordinate by itself, two `[N, D]`.
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level} is not allowed: give a probability between 0 and 1")
        tail = (1 - level) / 2
        if not self._one:
            found = [(w.quantile(tail)[0], w.quantile(1 - tail)[0]) for _, w in self._weighted(x)]
            low, high = (_joined([ends[k] for ends in found], self.dim) for k in (0, 1))
            return self.scaling.raw_y(low), self.scaling.raw_y(high)
        low, high = self.quantile(x, [tail, 1 - tail]).unbind(-1)
        return low, high

    @property
    def dim(self) -> int:
        """D, the number of targets."""
        return len(self.targets)

    @property
    def _one(self) -> bool:
        return self.dim == 1

    @property
    def _nodes(self) -> NodeDensity:
        if self._conditionals.nodes is None:
            raise ValueError(f"this needs one target, and the model has {self.dim}")
        return self._conditionals.nodes

    def _inputs(self, x: Frame) -> Tensor:
        return self.scaling.x(self.transform.encode(x))

    def _targets(self, y: Any) -> Tensor:
        """Standardised targets, `[N, D]`."""
        raw = torch.as_tensor(np.asarray(y), dtype=torch.float64)
        return self.scaling.y(raw.reshape(-1, self.dim))

    def _raw(self, z: Tensor) -> Tensor:
        """Values of one target in its own units, of any shape."""
        return z * self.scaling.y_std[0] + self.scaling.y_mean[0]

    def _split(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        rows = ROWS if self._one else ROWS // 4
        return zip(*(tensor.split(rows) for tensor in tensors), strict=True)

    def _grids(self, x: Frame) -> Iterator[tuple[Tensor, GridDensity]]:
        """Yields some rows at a time, and their densities of one target."""
        _ = self._nodes
        for (rows,) in self._split(self._inputs(x)):
            if len(rows):
                yield rows, self._conditionals.grids(rows)

    def _weighted(self, x: Frame) -> Iterator[tuple[Tensor, Weighted]]:
        """Yields some rows at a time, and weighted draws of several targets."""
        for number, (rows,) in enumerate(self._split(self._inputs(x))):
            if len(rows):
                yield rows, self._conditionals.weighted(rows, None, None, number)


def _joined(parts: list[Tensor], *shape: int) -> Tensor:
    """Returns the rows of all parts; `[0, *shape]` where there are none."""
    return torch.cat(parts) if parts else torch.zeros(0, *shape, dtype=torch.float64)
