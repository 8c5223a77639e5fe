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
from ebmbench.models.base import DensityModel
from ebmbench.models.networks.base import Network
from ebmbench.models.outside import Outside
from ebmbench.models.stack import Place
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.nodes import NodeDensity
from ebmbench.supports.targets import Axis
from ebmbench.tasks.examples import read_arrays
from ebmbench.tasks.regression.calibration import Calibration
from ebmbench.tasks.regression.conditional import NEAR, Conditionals, around
from ebmbench.tasks.regression.data import transforms
from ebmbench.tasks.regression.data.base import Frame
from ebmbench.tasks.regression.data.notes import warn
from ebmbench.tasks.regression.density import Density, Mode, Region
from ebmbench.tasks.regression.quadrature import midpoints
from ebmbench.tasks.regression.scaling import Scaling

ROWS = 256
"""Rows that are worked on at a time, for one target; for several a quarter."""
GRID = 801


class RegressionModel:
    """The density `p(y|x)` of a trained model, or the equal mixture of several, in the target's own units.

    x is what the model was trained on: a table with the columns of training, or an array with a row for each example.
    Everything returned is a float64 tensor. For one target (D = 1) the last axis, D, is left out. log Z is a
    quadrature for D = 1. For D > 1 it is an estimate by annealed draws, and so is all that is made from it. Where a run
    held rows back to calibrate, `interval`, `region` and `summary` are calibrated; `densities` are the model's own.

    Args:
        network, base: the settings of the network, or of a model that needs none, and of the base density.
        parameters: the trained parameters of S models by name, as a run's checkpoint holds them.
        seeds: that they were trained with.
        plain: what `Fitted.plain` returned; with `held`, the encoded inputs and targets of held rows.
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
        network: Network | DensityModel | Outside,
        base: BaseDensity,
        parameters: Sequence[Mapping[str, Tensor]],
        seeds: Sequence[int],
        plain: Mapping[str, Any],
        backend: str = "auto",
    ) -> None:
        self._made_from = (network, base, list(parameters), tuple(seeds), plain, backend)
        self.seeds, self.targets = tuple(seeds), list(plain["targets"])
        self.transform = transforms.restore(plain["transform"])
        self.scaling = Scaling.restore(plain["scaling"], base)
        place = Place(self.seeds, torch.device("cpu"), backend=backend)
        targets = self.scaling.targets
        stack = network.stack(tuple(plain["x_shape"]), targets.features, place)
        stack.load(parameters)
        nodes, cloud = None, None
        if "nodes" in plain:
            centres, widths = (
                torch.tensor(plain["nodes"][name], dtype=torch.float64) for name in ("centres", "widths")
            )
            nodes = NodeDensity.restore(centres, widths, targets.axes[0].measure)
        if "cloud" in plain:
            cloud = Cloud.restore(plain["cloud"])
        self._conditionals = Conditionals(stack, targets, nodes, cloud, len(self.seeds))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_from, {"diverged_step": self.diverged_step, "warns": self.warns}

    @staticmethod
    def read(
        network: Network | DensityModel | Outside,
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
            if (run_dir / "held.npz").exists():
                plain["held"] = read_arrays(run_dir / "held.npz")
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
        """Points of y over all that the training targets and the base density reach: `[G]` (D = 1).

        Of a discrete target they are its values.
        """
        axis, nodes = self._axis, self._conditionals.nodes
        return axis.values if nodes is None else axis.value(nodes.at(midpoints(GRID))[0])

    @cached_property
    def calibration(self) -> Calibration | None:
        """What calibrates intervals and regions; None where no rows were held back."""
        held = self._made_from[4].get("held")
        if held is None:
            return None
        x, y = self.scaling.x(torch.as_tensor(held["x"])), torch.as_tensor(held["y"]).double()[:, 0]
        return Calibration.of((self._density_of(rows), some) for rows, some in self._split(x, y))

    def log_prob(self, x: Frame, y: Any) -> Tensor:
        """Returns `log p(y|x)` of pairs, `[N]`: y is `[N]` or `[N, D]`; one x serves all y."""
        inputs, targets = self._inputs(x), self._targets(y)
        if len(inputs) == 1 and self._one and len(targets) > 1:
            return self._density_of(inputs).log_prob(self.scaling.raw_y(targets).view(1, -1))[0]
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
        """Returns log Z of standardised rows, `[S, B]`; `near` is a z of each that is not to be missed, `[B, D]`."""
        conditionals = self._conditionals
        if conditionals.normalised:
            return torch.zeros(len(self.seeds), len(x), dtype=torch.float64)
        if self._one:
            log_z = conditionals.densities(x, None if near is None else near[:, 0])[1]
            return log_z.view(len(self.seeds), -1)
        return conditionals.tempered(x, None if near is None else around(near, NEAR), number).log_z

    def _log_prob(self, x: Tensor, z: Tensor, log_z: Tensor) -> Tensor:
        """Returns the mixture's `log p(y|x)` in the target's own units, `[B, M]`, at z `[B, M, D]`."""
        f = self._conditionals.bind(x)(z.expand(len(self.seeds), *z.shape))
        mixed = torch.logsumexp(f - log_z.unsqueeze(-1), 0) - math.log(len(self.seeds))
        found = mixed - self.scaling.log_slope(z)
        return found.masked_fill(self.scaling.targets.axes[0].outside(z[..., 0]), -math.inf) if self._one else found

    def densities(self, x: Frame) -> Density:
        """Returns the densities of all rows as one object (D = 1): `model.densities(x).modes()`.

        It holds about 600 nodes a row and seed in memory: give it some thousands of rows at a time.
        """
        return self._density_of(self._inputs(x))

    def _density_of(self, rows: Tensor) -> Density:
        """Returns the mixtures of standardised rows (D = 1)."""
        axis = self._axis
        parts = [self._mixed(some) for (some,) in self._split(rows)]
        width = max(part.y.shape[1] for part, _ in parts)
        y, mass, height = (torch.cat([_widened(getattr(part, n), width, n) for part, _ in parts]) for n in _COLUMNS)
        log_z = torch.cat([log_z for _, log_z in parts], 1)

        def exact(y: Tensor) -> Tensor:
            ok = axis.support.inside(y) | (y.unsqueeze(-1) == y.new_tensor(axis.support.atoms)).any(-1)
            found = self._log_prob(rows, axis.z(y).unsqueeze(-1), log_z)
            return found.masked_fill(~ok, -math.inf)

        return Density(y, mass, height, axis, exact)

    def _mixed(self, rows: Tensor) -> tuple[Density, Tensor]:
        """Returns the mixtures of some rows, and the log Z of each model, `[S, B]`."""
        count = len(self.seeds)
        density, log_z, _ = self._conditionals.densities(rows)
        made = Density.mixture(density.split(count)) if count > 1 else density
        return made, log_z.view(count, -1)

    def density(self, x: Frame, y: Any = None) -> Tensor:
        """Returns `p(y|x)` of each x at points y `[G]`, those of `grid` if none are given: `[N, G]` (D = 1).

        Where a value has a probability by itself, it is that.
        """
        points = self.grid if y is None else torch.as_tensor(np.asarray(y), dtype=torch.float64).reshape(-1)
        parts = [d.log_prob(points.expand(len(d), -1)).exp() for d in self._parts(x)]
        return _joined(parts, len(points))

    def pmf(self, x: Frame, y: Any) -> Tensor:
        """Returns the probability of values y `[K]` by themselves: `[N, K]`; 0 where a value has only a density."""
        points = torch.as_tensor(np.asarray(y), dtype=torch.float64).reshape(-1)
        return _joined([d.pmf(points.expand(len(d), -1)) for d in self._parts(x)], len(points))

    def cdf(self, x: Frame, y: Any) -> Tensor:
        """Returns the probability of no more than y: of pairs `[N]`, or at several y a row, `[N, K]` (D = 1)."""
        _ = self._axis
        inputs = self._inputs(x)
        values = torch.as_tensor(np.asarray(y), dtype=torch.float64)
        if values.dim() > 2:
            name = ", ".join(self.targets)
            raise ValueError(f"y has the shape {tuple(values.shape)}; the targets {name} are [N] or [N, K]")
        pairs = values.dim() < 2
        values = values.reshape(-1, 1) if pairs else values
        if len(inputs) == 1 and pairs:
            return self._density_of(inputs).cdf(values.view(1, -1))[0]
        if len(values) not in (1, len(inputs)):
            raise ValueError(f"x has {counted(len(inputs), 'row')} and y has {len(values)}")
        parts = self._split(inputs, values.expand(len(inputs), -1))
        found = _joined([self._density_of(rows).cdf(some) for rows, some in parts], values.shape[1])
        return found.squeeze(1) if pairs else found

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
        found = _joined([d.quantile(p.reshape(-1)) for d in self._parts(x)], p.numel())
        return found if p.dim() else found.squeeze(1)

    def sample(self, x: Frame, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Returns n draws of y for each x, `[N, n]` or `[N, n, D]`. For D > 1 they are resampled, and may repeat."""
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise ValueError(f"n={n} is not allowed: give a number of draws, from 0")
        if self._one:
            return _joined([d.sample(n, generator) for d in self._parts(x)], n)
        drawn = []
        for rows, weighted in self._weighted(x):
            points = weighted.resample(n, torch.rand(1, generator=generator, dtype=torch.float64))[0]
            order = torch.rand(len(rows), n, generator=generator).argsort(1)  # they come in the order of their mode
            drawn.append(points.gather(1, order.unsqueeze(-1).expand_as(points)))
        return self.scaling.raw_y(_joined(drawn, n, self.dim))

    def mean(self, x: Frame) -> Tensor:
        """Returns `E[y|x]`, `[N]` or `[N, D]`; on a circle the mean direction."""
        if self._one:
            return _joined([d.mean for d in self._parts(x)])
        return _joined([self._moments(weighted)[0] for _, weighted in self._weighted(x)], self.dim)

    def median(self, x: Frame) -> Tensor:
        """Returns the median of y given x, `[N]` or `[N, D]` (of each coordinate)."""
        return _joined([d.median for d in self._parts(x)]) if self._one else self.quantile(x, 0.5)

    def std(self, x: Frame) -> Tensor:
        """Returns the standard deviation of y given x, `[N]` or `[N, D]` (of each coordinate)."""
        if self._one:
            return _joined([d.std for d in self._parts(x)])
        return _joined([self._moments(weighted)[1] for _, weighted in self._weighted(x)], self.dim)

    def _moments(self, weighted: Weighted) -> tuple[Tensor, Tensor]:
        """Returns means and standard deviations in the targets' own units, `[B, D]` each."""
        raw, weights = self.scaling.raw_y(weighted.y[0]), weighted.weights[0].unsqueeze(-1)
        mean = (weights * raw).sum(-2, keepdim=True)
        return mean.squeeze(-2), (weights * (raw - mean).square()).sum(-2).sqrt()

    def mode(self, x: Frame) -> Tensor:
        """Returns the most likely y, `[N]` or `[N, D]`: the best of the nodes, or of the draws for D > 1."""
        if self._one:
            return _joined([d.mode for d in self._parts(x)])
        return self.scaling.raw_y(_joined([_best(weighted) for _, weighted in self._weighted(x)], self.dim))

    def modes(self, x: Frame) -> list[list[Mode]]:
        """Returns the modes of each density, with place and mass, the one with the most mass first (D = 1)."""
        return [row for d in self._parts(x) for row in d.modes()]

    def region(self, x: Frame, level: float = 0.9) -> list[Region]:
        """Returns the smallest set of each density that has a probability (D = 1)."""
        level = self._region_level(_probability(level))
        return [row for d in self._parts(x) for row in d.region(level)]

    def interval(self, x: Frame, level: Any = 0.9) -> tuple[Tensor, Tensor]:
        """Returns the ends of the central interval that holds y with probability `level`: two `[N]`.

        Several levels `[L]` give two `[N, L]`. For D > 1 the ends are those of each coordinate by itself, two `[N, D]`.
        """
        if not self._one:
            tail = (1 - _probability(level)) / 2
            found = [(w.quantile(tail)[0], w.quantile(1 - tail)[0]) for _, w in self._weighted(x)]
            low, high = (_joined([ends[k] for ends in found], self.dim) for k in (0, 1))
            return self.scaling.raw_y(low), self.scaling.raw_y(high)
        several = isinstance(level, Sequence | np.ndarray | Tensor) and not isinstance(level, str)
        levels = [self._interval_level(_probability(one)) for one in (level if several else [level])]
        ends = [d.interval(torch.tensor(levels, dtype=torch.float64)) for d in self._parts(x)]
        low, high = (_joined([pair[k] for pair in ends], len(levels)) for k in (0, 1))
        return (low, high) if several else (low.squeeze(1), high.squeeze(1))

    def summary(self, x: Frame, level: float = 0.9, y: Any = None) -> dict[str, Any]:
        """Returns what `summary_of` does, of raw inputs."""
        return self.summary_of(self._read(x), level, y)

    def summary_of(self, x: Tensor, level: float = 0.9, y: Any = None) -> dict[str, Any]:
        """Returns `mean`, `median`, `mode`, `std`, and the ends `low`, `high` of the central interval, `[N, D]` each.

        For one target `modes` and `regions` are lists with an entry for each row.
        `outside` `[N]` is the mass beyond the range of the training targets, widened by a tenth of it; 0 where the
        support has ends. They are made together, in a fraction of the time that each by itself takes.

        Args:
            x: encoded inputs, `[N, ...]`.
            level: the probability of the interval and the region.
            y: a target of each row, `[N, D]`; where it is given, `log_prob` `[N]` is among the results, nan where a
                target is.
        """
        region_level, level = self._region_level(_probability(level)), self._interval_level(level)
        tail = (1 - level) / 2
        inputs = self.scaling.x(x)
        targets = None if y is None else self._targets(y)
        parts: list[dict[str, Tensor]] = []
        names = ("mean", "median", "mode", "std", "low", "high")
        modes: list[list[Mode]] = []
        regions: list[Region] = []
        span, far = self.scaling.targets.range, []
        for number, (rows,) in enumerate(self._split(inputs)):
            if self._one:
                made = self._density_of(rows)
                low, high = made.interval(torch.tensor([level], dtype=torch.float64))
                values = (*(v.unsqueeze(1) for v in (made.mean, made.median, made.mode, made.std)), low, high)
                modes += made.modes()
                regions += made.region(region_level)
                ends = None if span is None else [self._axis.value(end) for end in span.widened]
                far.append(torch.zeros(len(rows)).double() if ends is None else made.mass_outside(*ends))
            else:
                drawn = self._draws(rows, number)
                mean, std = self._moments(drawn)
                ends = [drawn.quantile(p)[0] for p in (0.5, tail, 1 - tail)]
                mode, median, low, high = (self.scaling.raw_y(v) for v in (_best(drawn), *ends))
                values = (mean, median, mode, std, low, high)
                assert span is not None
                far.append((drawn.weights * span.is_outside(drawn.y)).sum(-1)[0])
            parts.append(dict(zip(names, values, strict=True)))
        result: dict[str, Any] = {name: _joined([p[name] for p in parts], self.dim) for name in names}
        if self._one:
            result |= {"modes": modes, "regions": regions}
        result["outside"] = _joined(far)
        if targets is not None:
            result["log_prob"] = self._log_prob_of(inputs, targets)
        return result

    def _interval_level(self, level: float) -> float:
        return level if self.calibration is None else self.calibration.interval_level(level)

    def _region_level(self, level: float) -> float:
        return level if self.calibration is None else self.calibration.region_level(level)

    @property
    def dim(self) -> int:
        """D, the number of targets."""
        return len(self.targets)

    @property
    def _one(self) -> bool:
        return self.dim == 1

    @property
    def _axis(self) -> Axis:
        if not self._one:
            raise ValueError(f"this needs one target, and the model has {self.dim}")
        return self.scaling.targets.axes[0]

    def _inputs(self, x: Frame) -> Tensor:
        if isinstance(x, float | int) or (isinstance(x, Tensor) and not x.dim()):  # of one input
            x = torch.as_tensor([[float(x)]])
        return self.scaling.x(self._read(x))

    def _read(self, x: Frame) -> Tensor:
        inputs, notes = self.transform.read(x)
        if self.warns:
            warn(notes, 5)
        return inputs

    def _targets(self, y: Any) -> Tensor:
        """Returns z of targets, `[N, D]`."""
        raw = torch.as_tensor(y if isinstance(y, Tensor) else np.array(y), dtype=torch.float64)
        if raw.numel() % self.dim or (raw.dim() > 1 and raw.shape[1:] != (self.dim,)):
            wanted = "[N]" if self._one else f"[N, {self.dim}]"
            raise ValueError(f"y has the shape {tuple(raw.shape)}; the targets {', '.join(self.targets)} are {wanted}")
        return self.scaling.y(raw.reshape(-1, self.dim))

    def _split(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        rows = ROWS if self._one else ROWS // 4
        parts = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
        return (part for part in parts if len(part[0]))

    def _parts(self, x: Frame) -> Iterator[Density]:
        """Yields the densities of some rows at a time (D = 1)."""
        _ = self._axis
        return (self._density_of(rows) for (rows,) in self._split(self._inputs(x)))

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


_COLUMNS = ("y", "mass", "height")


def _widened(values: Tensor, nodes: int, name: str) -> Tensor:
    """Returns a part of densities with its last node repeated, so that there are as many as asked for."""
    missing = nodes - (name == "mass") - values.shape[1]
    last = torch.zeros_like(values[:, -1:]) if name == "mass" else values[:, -1:]
    return torch.cat((values, last.expand(-1, missing)), 1)


def _joined(parts: list[Tensor], *shape: int) -> Tensor:
    """Returns the rows of all parts; `[0, *shape]` where there are none."""
    return torch.cat(parts) if parts else torch.zeros(0, *shape, dtype=torch.float64)
