"""A trained model of `task=regression`, for use: `ebmbench.load(run_directory)[seed]`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmbench.core.errors import UserError, counted, shown
from ebmbench.core.importance import Cloud, Weighted
from ebmbench.tasks.regression.base_density import BaseDensity, NodeDensity
from ebmbench.tasks.regression.conditional import NEAR, Conditionals, around
from ebmbench.tasks.regression.data import transforms
from ebmbench.tasks.regression.data.base import Frame
from ebmbench.tasks.regression.data.notes import warn
from ebmbench.tasks.regression.density import GridDensity, midpoints
from ebmbench.tasks.regression.networks.base import Network
from ebmbench.tasks.regression.scaling import Scaling
from ebmbench.tasks.regression.stack import Place
from ebmbench.tasks.regression.target_range import TargetRange

ROWS = 256
"""Rows that are worked on at a time, for one target; for several a quarter."""
GRID = 801


class RegressionModel:
    """The density `p(y|x)` of a trained model, or the equal mixture of several, in the target's own units.

    x is what the model was trained on: a table with the columns of training, or an array with a row for each example.
    Everything returned is a float64 tensor. For one target (D = 1) the last axis, D, is left out. log Z is a
    quadrature for D = 1. For D > 1 it is an estimate by annealed draws, and so is all that is made from it.

    Args:
        network, base: the settings of the network and of the base density.
        parameters: the trained parameters of S models by name, as a run's checkpoint holds them.
        seeds: that they were trained with.
        plain: what `records.model_plain` returned.
        backend: of the network.

    Attributes:
        seeds: the seeds of the models that are mixed; `seed` is the first one.
        targets: the names of the targets.
        diverged_step: the step at which its training diverged, None if it did not. The weights of a model that diverged
            are those it had before, and no result.
    """

    diverged_step: int | None = None
    warns = True
    """Whether it gives a `DataWarning` about unusual inputs."""

    def __init__(
        self,
        network: Network,
        base: BaseDensity,
        parameters: Sequence[Mapping[str, Tensor]],
        seeds: Sequence[int],
        plain: Mapping[str, Any],
        backend: str = "auto",
    ) -> None:
        self._made_from = (network, base, list(parameters), tuple(seeds), plain, backend)
        self.seeds, self.targets = tuple(seeds), list(plain["targets"])
        self.transform = transforms.restore(plain["transform"])
        self.scaling = Scaling.restore(plain["scaling"])
        place = Place(self.seeds, torch.device("cpu"), backend=backend)
        stack = network.stack(tuple(plain["x_shape"]), self.dim, place)
        stack.load(parameters)
        nodes, cloud = None, None
        if "nodes" in plain:
            centres, widths = (
                torch.tensor(plain["nodes"][name], dtype=torch.float64) for name in ("centres", "widths")
            )
            nodes = NodeDensity.restore(centres, widths, base)
        else:
            cloud = Cloud.restore(plain["cloud"])
        low, high = (torch.tensor(plain["range"][name], dtype=torch.float64) for name in ("low", "high"))
        self._conditionals = Conditionals(stack, base, TargetRange(low, high), nodes, cloud, len(self.seeds))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_from, {"diverged_step": self.diverged_step, "warns": self.warns}

    @staticmethod
    def read(
        network: Network,
        base: BaseDensity,
        parameters: Mapping[str, Tensor],
        seed: int,
        run_dir: Path,
        backend: str = "auto",
    ) -> RegressionModel:
        """Returns the model of a seed from a run directory.

        Raises:
            UserError: its `model.json` is missing or damaged.
        """
        path = run_dir / "model.json"
        try:
            plain = json.loads(path.read_text())
            return RegressionModel(network, base, [parameters], (seed,), plain, backend)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} is missing or damaged ({type(error).__name__}); run it again with force=true"
            ) from None

    @staticmethod
    def mixture(models: Sequence[RegressionModel]) -> RegressionModel:
        """Returns the equal mixture of models that one run trained."""
        network, base, _, _, plain, backend = models[0]._made_from
        parameters = [one for model in models for one in model._made_from[2]]
        return RegressionModel(network, base, parameters, [seed for m in models for seed in m.seeds], plain, backend)

    @property
    def seed(self) -> int:
        """The seed that the model was trained with."""
        return self.seeds[0]

    @cached_property
    def grid(self) -> Tensor:
        """Points of y over all that the training targets and the base density reach, for `density`: `[G]` (D = 1)."""
        return self.scaling.raw_y(self._nodes.at(midpoints(GRID))[0].unsqueeze(-1)).squeeze(-1)

    def log_prob(self, x: Frame, y: Any) -> Tensor:
        """Returns `log p(y|x)` of pairs, `[N]`: y is `[N]` or `[N, D]`."""
        inputs, targets = self._inputs(x), self._targets(y)
        if len(inputs) != len(targets):
            raise ValueError(f"x has {counted(len(inputs), 'row')} and y has {len(targets)}")
        return self._log_prob_of(inputs, targets)

    def _log_prob_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns `log p(y|x)` of standardised pairs, `[N]`; nan where a target is."""
        known = targets.isfinite().all(-1)
        parts = [
            self._log_prob(some_x, some_y.unsqueeze(1), self._log_z(some_x, some_y, number)).squeeze(1)
            for number, (some_x, some_y) in enumerate(self._split(inputs[known], targets[known]))
        ]
        found = torch.full((len(inputs),), torch.nan, dtype=torch.float64)
        found[known] = _joined(parts)
        return found

    def _log_z(self, x: Tensor, near: Tensor | None, number: int = 0) -> Tensor:
        """Returns log Z of standardised rows, `[S, B]`; `near` is a y of each that is not to be missed, `[B, D]`."""
        conditionals = self._conditionals
        if conditionals.stack.normalised:
            return torch.zeros(len(self.seeds), len(x), dtype=torch.float64)
        if self._one:
            grids = conditionals.grids(x, None if near is None else near[:, 0])
            return grids.log_z.view(len(self.seeds), -1)
        return conditionals.tempered(x, None if near is None else around(near, NEAR), number).log_z

    def _log_prob(self, x: Tensor, y: Tensor, log_z: Tensor) -> Tensor:
        """Returns the mixture's `log p(y|x)` in the target's own units, `[B, M]`, at standardised y `[B, M, D]`."""
        f = self._conditionals.bind(x)(y.expand(len(self.seeds), *y.shape))
        mixed = torch.logsumexp(f - log_z.unsqueeze(-1), 0) - math.log(len(self.seeds))
        return mixed - self.scaling.log_scale

    def density(self, x: Frame, y: Any = None) -> Tensor:
        """Returns `p(y|x)` of each x at points y `[G]`, those of `grid` if none are given: `[N, G]` (D = 1)."""
        _ = self._nodes
        points = self.grid if y is None else torch.as_tensor(np.asarray(y), dtype=torch.float64).reshape(-1)
        z = self.scaling.y(points.unsqueeze(-1))
        parts = [
            self._log_prob(some, z.expand(len(some), -1, -1), self._log_z(some, None)).exp()
            for (some,) in self._split(self._inputs(x))
        ]
        return _joined(parts, len(points))

    def cdf(self, x: Frame, y: Any) -> Tensor:
        """Returns the probability that the target is at most y, of pairs: `[N]` (D = 1)."""
        _ = self._nodes
        inputs, z = self._inputs(x), self._targets(y)[:, 0]
        if len(z) not in (1, len(inputs)):
            raise ValueError(f"x has {counted(len(inputs), 'row')} and y has {len(z)}")
        pairs = self._split(inputs, z.expand(len(inputs)))
        return _joined([self._grid(rows).cdf_at(some.unsqueeze(1)).squeeze(1) for rows, some in pairs])

    def quantile(self, x: Frame, probability: Any) -> Tensor:
        """Returns the y up to which the density has a probability: one number -> `[N]`, `[K]` -> `[N, K]` (D = 1).

        For D > 1 one number gives the quantile of each coordinate, `[N, D]`.
        """
        try:
            p = torch.as_tensor(probability, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            p = torch.tensor(torch.nan)
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise ValueError(f"probability={shown(probability)} is not allowed: give numbers from 0 to 1")
        if not self._one:
            if p.dim():
                raise ValueError(
                    f"probability={probability} is not allowed: give one number, for the model has {self.dim} targets"
                )
            return self.scaling.raw_y(_joined([w.quantile(float(p))[0] for _, w in self._weighted(x)], self.dim))
        found = self._raw(_joined([grids.quantile(p.reshape(-1)) for _, grids in self._grids(x)], p.numel()))
        return found if p.dim() else found.squeeze(1)

    def sample(self, x: Frame, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Returns n draws of y for each x, `[N, n]` or `[N, n, D]`. For D > 1 they are resampled, and may repeat."""
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise ValueError(f"n={n} is not allowed: give a number of draws, from 0")
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
        return self.scaling.raw_y(_joined([_best(weighted) for _, weighted in self._weighted(x)], self.dim))

    def interval(self, x: Frame, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Returns the ends of the central interval that holds y with probability `level`: two `[N]`.

        For D > 1 they are those of each coordinate by itself, two `[N, D]`.
        """
        tail = (1 - _probability(level)) / 2
        if not self._one:
            found = [(w.quantile(tail)[0], w.quantile(1 - tail)[0]) for _, w in self._weighted(x)]
            low, high = (_joined([ends[k] for ends in found], self.dim) for k in (0, 1))
            return self.scaling.raw_y(low), self.scaling.raw_y(high)
        low, high = self.quantile(x, [tail, 1 - tail]).unbind(-1)
        return low, high

    def summary(self, x: Frame, level: float = 0.9, y: Any = None) -> dict[str, Tensor]:
        """Returns what `summary_of` does, of raw inputs."""
        return self.summary_of(self._read(x), level, y)

    def summary_of(self, x: Tensor, level: float = 0.9, y: Any = None) -> dict[str, Tensor]:
        """Returns `mean`, `mode`, `std`, and the ends `low` and `high` of the central interval, of each row, `[N, D]`.

        `outside` `[N]` is the mass beyond the range of the training targets, widened by a tenth of it. They are
        made together, in a fraction of the time that each by itself takes.

        Args:
            x: encoded inputs, `[N, ...]`.
            level: the probability of the interval.
            y: a target of each row, `[N, D]`; where it is given, `log_prob` `[N]` is among the results, nan where a
                target is.
        """
        tail = (1 - _probability(level)) / 2
        inputs = self.scaling.x(x)
        targets = None if y is None else self._targets(y)
        parts: list[dict[str, Tensor]] = []
        ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
        for number, (rows,) in enumerate(self._split(inputs)):
            if self._one:
                grid = self._grid(rows)
                low, high = grid.quantile(ends).unsqueeze(1).unbind(-1)
                outside = grid.mass_outside(*self._conditionals.targets.widened)
                mean, mode, std = (v.unsqueeze(1) for v in (grid.mean, grid.mode, grid.variance.sqrt()))
            else:
                drawn = self._draws(rows, number)
                outside = (drawn.weights * self._conditionals.targets.is_outside(drawn.y)).sum(-1)[0]
                low, high = drawn.quantile(tail)[0], drawn.quantile(1 - tail)[0]
                mean, mode, std = drawn.mean[0], _best(drawn), drawn.spread[0]
            raw = {name: self.scaling.raw_y(v) for name, v in (("mean", mean), ("mode", mode))}
            raw |= {"std": std * self.scaling.y_std, "outside": outside}
            parts.append(raw | {"low": self.scaling.raw_y(low), "high": self.scaling.raw_y(high)})
        made = {name: _joined([p[name] for p in parts], self.dim) for name in ("mean", "mode", "std", "low", "high")}
        made["outside"] = _joined([p["outside"] for p in parts])
        if targets is not None:
            made["log_prob"] = self._log_prob_of(inputs, targets)
        return made

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
        return self.scaling.x(self._read(x))

    def _read(self, x: Frame) -> Tensor:
        inputs, notes = self.transform.read(x)
        if self.warns:
            warn(notes, 5)
        return inputs

    def _targets(self, y: Any) -> Tensor:
        """Standardised targets, `[N, D]`."""
        raw = torch.as_tensor(y if isinstance(y, Tensor) else np.array(y), dtype=torch.float64)
        if raw.numel() % self.dim or (raw.dim() > 1 and raw.shape[1:] != (self.dim,)):
            wanted = "[N]" if self._one else f"[N, {self.dim}]"
            raise ValueError(f"y has the shape {tuple(raw.shape)}; the targets {', '.join(self.targets)} are {wanted}")
        return self.scaling.y(raw.reshape(-1, self.dim))

    def _raw(self, z: Tensor) -> Tensor:
        """Values of one target in its own units, of any shape."""
        return z * self.scaling.y_std[0] + self.scaling.y_mean[0]

    def _split(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        rows = ROWS if self._one else ROWS // 4
        parts = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
        return (part for part in parts if len(part[0]))

    def _grids(self, x: Frame) -> Iterator[tuple[Tensor, GridDensity]]:
        """Yields some rows at a time, and their densities of one target."""
        _ = self._nodes
        for (rows,) in self._split(self._inputs(x)):
            yield rows, self._grid(rows)

    def _grid(self, rows: Tensor) -> GridDensity:
        grids = self._conditionals.grids(rows)
        return grids.mixed(len(self.seeds)) if len(self.seeds) > 1 else grids

    def _weighted(self, x: Frame) -> Iterator[tuple[Tensor, Weighted]]:
        """Yields some rows at a time, and weighted draws of several targets."""
        for number, (rows,) in enumerate(self._split(self._inputs(x))):
            yield rows, self._draws(rows, number)

    def _draws(self, rows: Tensor, number: int) -> Weighted:
        """Returns weighted draws of the mixture, `[1, B]` densities of them."""
        drawn, seeds = self._conditionals.tempered(rows, None, number), len(self.seeds)
        if seeds == 1:
            return drawn
        y = drawn.y.movedim(0, 1).flatten(1, 2)
        weights = drawn.weights.log().movedim(0, 1).flatten(1, 2)
        return Weighted(y.unsqueeze(0), weights.unsqueeze(0), self._log_prob(rows, y, drawn.log_z).unsqueeze(0))


def _best(weighted: Weighted) -> Tensor:
    """Returns the likeliest draw of each of `[1, B]` densities, `[B, D]`."""
    best = weighted.log_values[0].argmax(-1)
    return weighted.y[0][torch.arange(len(best)), best]


def _probability(level: float) -> float:
    if not isinstance(level, Real) or not 0 < level < 1:
        raise ValueError(f"level={level} is not allowed: give a probability between 0 and 1")
    return level


def _joined(parts: list[Tensor], *shape: int) -> Tensor:
    """Returns the rows of all parts; `[0, *shape]` where there are none."""
    return torch.cat(parts) if parts else torch.zeros(0, *shape, dtype=torch.float64)
