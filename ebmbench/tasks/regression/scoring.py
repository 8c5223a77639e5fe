"""From trained models to scores: of each test row, and of a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebmbench.core.importance import Weighted
from ebmbench.core.rng import Streams
from ebmbench.supports.target_range import MUCH_OUTSIDE
from ebmbench.supports.targets import Targets
from ebmbench.tasks.regression import plane, records
from ebmbench.tasks.regression.calibration import Calibration
from ebmbench.tasks.regression.conditional import NEAR, START_NODES, Conditionals, around
from ebmbench.tasks.regression.data.base import Arrays, Law
from ebmbench.tasks.regression.density import Density
from ebmbench.tasks.regression.fitted import Fitted
from ebmbench.tasks.regression.quadrature import GridDensity, midpoints
from ebmbench.tasks.regression.scaling import Scaling
from ebmbench.tasks.regression.scores import (
    INTERVAL,
    calibration_metrics,
    energy_score,
    interval_score,
    pinball,
    point_metrics,
)

if TYPE_CHECKING:
    from ebmbench.tasks.base import Task

EVALUATIONS, EVALUATIONS_CUDA = 2**18, 2**22
"""Of f at a time, for one target: what is made of them stays in a processor's cache, or keeps a GPU busy."""
ROWS = 32
"""Test rows at a time, for several targets; fixed, so that random numbers do not depend on the number of seeds."""
LARGEST_ERROR = 0.05
"""The error of log Z by a narrow peak from which on it is reported."""
BLIND_FROM = 16
"""Targets from which on annealed draws miss a mode of the model that no truth points to, and no error shows it.

A mode with half of the mass, made for the test: log Z is 0.54 too low of 0.69 at 16 targets.
"""
LEVEL = 0.9
"""Of the intervals and regions that are scored."""
POINTS = 99
"""Equally likely points that stand for a density where those of several seeds are mixed."""


@dataclass
class RowScores:
    """What S models say of N test rows, in the target's own units.

    Attributes:
        log_prob: `log p(y|x)`, `[S, N]`.
        error: the standard error of `log Z` by chance, `[S, N]`; 0 for a quadrature.
        bias: what is not known of `log Z` beside it and does not average out over rows, `[S, N]`: the error of a
            quadrature, or what most of the work of a sampler added.
        pit: the distribution function at the observation for one target, at random within its own probability if it has
            one; for several the model's mass where its density
            is higher than at the observation. `[S, N]`; uniform if the model is right.
        score: CRPS, or the energy score for several targets, `[S, N]`.
        interval_score: of the central 90 % interval of one target, `[S, N]`; nan for several targets.
        mean, median, spread: of the density, `[S, N, D]`. spread is the standard deviation.
        outside: the mass beyond the range of the training targets, widened by a tenth of it, `[S, N]`; nan where the
            support has ends.
        brier: `Σ (p(a) - 1{y = a})²` over atoms a, `[S, N]`; nan where there are none.
        cde_loss: `∫ p² - 2 p(y)`, `[S, N]`; a sum of a discrete support; nan for several targets and atoms.
        edge: the mass near the ends of an interval, `[S, N]`; nan for any other support.
        points: equally likely points, `[S, N, Q, D]` float32.
        d_kl, d_kl_error: `KL(truth ‖ model)` and its standard error by chance; nan where no truth is known. `[S, N]`.
    """

    log_prob: Tensor
    error: Tensor
    bias: Tensor
    pit: Tensor
    score: Tensor
    interval_score: Tensor
    mean: Tensor
    median: Tensor
    spread: Tensor
    points: Tensor
    outside: Tensor
    d_kl: Tensor
    d_kl_error: Tensor
    edge: Tensor
    brier: Tensor
    cde_loss: Tensor

    @staticmethod
    def join(parts: Sequence[RowScores], dim: int) -> RowScores:
        """Puts models (dim 0) or rows (dim 1) together."""
        return RowScores(*(torch.cat([getattr(part, f.name) for part in parts], dim) for f in fields(RowScores)))


@dataclass(frozen=True)
class Truth:
    """The true density of z.

    Attributes:
        law: in the target's own units.
        given: what it depends on, of the rows at hand, `[B, ...]`.
        device: where its draws are wanted.
    """

    law: Law
    given: Tensor
    scaling: Scaling
    device: torch.device | str = "cpu"

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns `log p` of z: `[B, M, D]` -> `[B, M]`; or with seeds in front."""
        if y.dim() == 4:
            return torch.stack([self.log_prob(one) for one in y])
        z = y.cpu().double()
        return (self.law.log_prob(self.given, self.scaling.raw_y(z)) + self.scaling.log_slope(z)).to(y.device)

    def sample(self, lead: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
        """Returns draws of z for B rows, `[B, count, D]`."""
        draws = Streams([0], stacked=False).at(int(torch.randint(2**31, (), generator=generator)))
        return self.scaling.y(self.law.sample(self.given, count, draws, "evaluation")).to(self.device)


def one_target(conditionals: Conditionals, scaling: Scaling, x: Tensor, y: Tensor, truth: Truth | None) -> RowScores:
    """Scores some rows of one target by quadrature: x `[B, ...]` and z of y `[B, 1]`, as networks see them."""
    seeds, (axis,) = conditionals.seeds, scaling.targets.axes
    density, log_z, grid = conditionals.densities(x, y[:, 0])
    target = axis.value(y[:, 0].double()).repeat(seeds)
    f = conditionals.bind(x)(y.unsqueeze(1).expand(seeds, -1, -1, -1)).flatten()
    outside = axis.outside(y[:, 0].double()).repeat(seeds)
    log_prob = f - log_z - axis.log_slope(y[:, 0].double()).repeat(seeds)
    nan = torch.full_like(f, torch.nan)
    span, ends = scaling.targets.range, density.quantile(target.new_tensor(INTERVAL))
    uniform = torch.rand(len(y), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x.device)
    scores = RowScores(
        log_prob=torch.where(outside, -torch.inf, log_prob),
        error=torch.zeros_like(f),
        bias=torch.zeros_like(f)
        if grid is None
        else _bias(grid, _shown_by_target(conditionals, grid, x), conditionals.normalised),
        pit=density.pit(target, uniform.repeat(seeds)),
        score=density.crps(target),
        interval_score=nan if axis.support.turn else interval_score(ends, target),
        mean=density.mean.unsqueeze(1),
        median=density.median.unsqueeze(1),
        spread=density.std.unsqueeze(1),
        points=density.quantile(midpoints(POINTS, x.device)).unsqueeze(-1).float(),
        outside=nan if span is None else density.mass_outside(*(axis.value(end.to(x.device)) for end in span.widened)),
        d_kl=nan if truth is None else _d_kl(conditionals, density, log_z, grid, x, truth),
        d_kl_error=nan,
        edge=density.edge_mass() if axis.support.bounded else nan,
        brier=density.brier(target) if axis.support.atoms else nan,
        cde_loss=nan if axis.shares else density.square - 2 * torch.where(outside, 0.0, log_prob.exp()),
    )
    return RowScores(*(getattr(scores, field.name).unflatten(0, (seeds, -1)) for field in fields(RowScores)))


def _shown_by_target(conditionals: Conditionals, grids: GridDensity, x: Tensor) -> Tensor:
    """Returns how far log Z moves if the nodes do not hold the observation, `[S·B]`; 0 where the others show it all."""
    seeds = conditionals.seeds
    start = conditionals.start(len(x), None).repeat(seeds, 1)
    last = grids.y.shape[-1] - 1  # nodes of a model whose energies are nan are nan
    at_start = grids.log_values.gather(-1, torch.searchsorted(grids.y, start).clamp(max=last))
    moved = (grids.log_z - GridDensity(start, at_start).log_z).abs()
    doubtful = (moved > LARGEST_ERROR).view(seeds, -1)
    rows = doubtful.any(0).nonzero().squeeze(1)
    if len(rows):
        moved.view(seeds, -1)[:, rows] = (
            grids.log_z.view(seeds, -1)[:, rows] - conditionals.grids(x[rows]).log_z.view(seeds, -1)
        ).abs()
    return torch.where(doubtful.flatten(), moved, 0.0)


def _bias(grids: GridDensity, found: Tensor, normalised: bool) -> Tensor:
    """Returns what is not known of log Z, `[S·B]`.

    Args:
        found: how far log Z moves if the nodes hold the observation. It must not matter: where a peak is met by this
            node alone, others are met by none.
        normalised: log Z is known to be 0; but where the quadrature finds another one, what is made of its nodes (the
            distribution function, CRPS, mean) is wrong.
    """
    error = torch.maximum(found, grids.log_z.abs()) if normalised else torch.maximum(found, grids.error)
    usual = torch.zeros_like(found) if normalised else grids.error
    return torch.where(error > LARGEST_ERROR, error, usual)


def _d_kl(
    conditionals: Conditionals, density: Density, log_z: Tensor, grid: GridDensity | None, x: Tensor, truth: Truth
) -> Tensor:
    """Returns `KL(truth ‖ model)` of one target, `[S·B]`: by nodes of both, and by a sum over points."""
    seeds, rows = conditionals.seeds, len(x)
    total = torch.zeros_like(log_z)
    f = conditionals.bind(x)

    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the truth's and the model's `log p` at z `[S·B, K]`."""
        z = z.view(seeds, rows, -1, 1)
        return truth.log_prob(z).flatten(0, 1), f(z).flatten(0, 1) - log_z.unsqueeze(-1)

    def weighted(log_true: Tensor, log_model: Tensor) -> Tensor:
        p = log_true.exp()
        return torch.where(p > 0, p * (log_true - log_model), 0.0)

    if grid is not None:
        true = GridDensity.refined(lambda y: truth.log_prob(y.unsqueeze(-1)), conditionals.start(rows, None))
        y = torch.cat((grid.y, true.y.repeat(seeds, 1)), -1).sort(-1).values
        total = torch.trapezoid(weighted(*both(y)), y, dim=-1)
    points = density.axis.points
    if len(points):
        total = total + weighted(*both(points.to(x.device).expand(seeds * rows, -1))).sum(-1)
    return total


def many_targets(
    conditionals: Conditionals, scaling: Scaling, x: Tensor, y: Tensor, truth: Truth | None, number: int
) -> RowScores:
    """Scores some rows of several targets by annealed populations of draws (`core.tempering`).

    Args:
        x, y: standardised, `[B, ...]` and `[B, D]`.
        number: of the random numbers.
    """
    lead, y = (conditionals.seeds, len(x)), y.double()
    span = scaling.targets.range
    assert span is not None  # several targets are on the line
    f = conditionals.bind(x)
    near = around(y, NEAR) if truth is None else truth
    made = conditionals.tempered(x, near, number)
    at_target = f(y.unsqueeze(1).expand(lead[0], -1, -1, -1)).squeeze(-1)
    log_z, error, bias = made.log_z, made.error, made.bias
    if conditionals.normalised:
        log_z, error, bias = (torch.zeros_like(log_z) for _ in range(3))
    points = scaling.raw_y(made.resample(POINTS))
    raw = scaling.raw_y(y).expand(*lead, -1)
    score = energy_score(points.flatten(0, 1), raw.flatten(0, 1)).view(lead)
    d_kl = d_kl_error = torch.full_like(log_z, torch.nan)
    if truth is not None:
        draws = truth.sample(lead, conditionals.base.samples, torch.Generator().manual_seed(number))
        ratio = truth.log_prob(draws) - f(draws.expand(lead[0], *draws.shape))
        d_kl = ratio.mean(-1) + log_z
        d_kl_error = (ratio.var(-1) / ratio.shape[-1] + error.square()).sqrt()
    return RowScores(
        log_prob=at_target - log_z - scaling.log_slope(y),
        error=error,
        bias=bias,
        pit=made.mass_above(at_target),
        score=score,
        interval_score=torch.full_like(log_z, torch.nan),
        mean=(made.weights.unsqueeze(-1) * scaling.raw_y(made.y)).sum(-2),
        median=scaling.raw_y(made.quantile(0.5)),
        spread=_spread(scaling, made),
        points=points.float(),
        outside=(made.weights * span.is_outside(made.y)).sum(-1),
        d_kl=d_kl,
        d_kl_error=d_kl_error,
        edge=torch.full_like(log_z, torch.nan),
        brier=torch.full_like(log_z, torch.nan),
        cde_loss=torch.full_like(log_z, torch.nan),
    )


def _spread(scaling: Scaling, made: Weighted) -> Tensor:
    """Returns the standard deviation of each target in its own units, `[S, B, D]`."""
    raw = scaling.raw_y(made.y)
    mean = (made.weights.unsqueeze(-1) * raw).sum(-2, keepdim=True)
    return (made.weights.unsqueeze(-1) * (raw - mean).square()).sum(-2).sqrt()


def score_rows(fitted: Fitted, arrays: Arrays) -> RowScores:
    """Scores some rows, such as those of test."""
    scaling, conditionals = fitted.scaling, fitted.conditionals
    x, y = fitted.standardised(arrays.x, arrays.y)
    law = None if fitted.split.kl_grid is not None else fitted.split.truth

    def of(models: Conditionals, rows: int) -> RowScores:
        parts = []
        for number, some in enumerate(torch.arange(len(x)).split(rows)):
            truth = None if law is None else Truth(law, arrays.given[some], scaling, fitted.device)
            some = some.to(fitted.device)
            if fitted.one:
                parts.append(one_target(models, scaling, x[some], y[some], truth))
            else:
                parts.append(many_targets(models, scaling, x[some], y[some], truth, number))
        return RowScores.join(parts, 1)

    if fitted.one:
        most = EVALUATIONS if fitted.device.type == "cpu" else EVALUATIONS_CUDA
        scores = RowScores.join([of(model, most // (START_NODES + 400)) for model in conditionals.each()], 0)
    else:
        scores = of(conditionals, ROWS)
    return RowScores(*(getattr(scores, field.name).cpu() for field in fields(RowScores)))


def evaluate(
    fitted: Fitted, more: Sequence[Mapping[str, float]], task: Task, run_dir: Path, diverged: Sequence[bool]
) -> list[dict[str, float]]:
    """Returns the metrics of each seed; writes what figures, ensembles and predictions need.

    Args:
        more: metrics of each seed that training knows.
    """
    test, scaling = fitted.split.test, fitted.scaling
    scores = score_rows(fitted, test)
    y = test.y.double()
    z = scaling.y(test.y)
    log_base = scaling.targets.log_prob(z) - scaling.log_slope(z)
    common = {"nll_base": -float(log_base.mean())}
    if fitted.split.truth is not None:
        common["nll_true"] = -float(fitted.split.truth.log_prob(test.given, y.unsqueeze(1)).mean())
    published = plane.published_scores(fitted)
    calibrated = _calibrated(fitted)
    rows = [
        {
            **summarise(scores, index, y, log_base, scaling.targets),
            **common,
            **more[index],
            **published[index],
            **calibrated[index],
        }
        for index in range(len(fitted.seeds))
    ]
    if fitted.split.kl_grid is not None:
        rows = [{"nll_noisy": row["nll"], **row} for row in rows]  # without noise they are the same
    records.write_model(fitted, run_dir)
    good = [not (stopped or task.is_broken(row)) for stopped, row in zip(diverged, rows, strict=True)]
    records.write_part(fitted, scores, log_base, good, run_dir)
    return rows


def _calibrated(fitted: Fitted) -> list[dict[str, float]]:
    """Returns of each seed how its intervals and regions of 90 % cover test rows, with and without held rows."""
    if fitted.held is None:
        return [{} for _ in fitted.seeds]

    def densities(model: Conditionals, rows: Arrays) -> Iterator[tuple[Density, Tensor]]:
        x, _ = fitted.standardised(rows.x, rows.y)
        y = rows.y[:, 0].double().to(x.device)
        for some in torch.arange(len(x), device=x.device).split(ROWS * 8):
            yield model.densities(x[some])[0], y[some]

    found = []
    for model in fitted.conditionals.each():
        made = Calibration.of(densities(model, fitted.held))
        interval, region = made.interval_level(LEVEL), made.region_level(LEVEL)
        levels = torch.tensor([LEVEL, interval], dtype=torch.float64, device=fitted.device)
        parts = [
            torch.cat(
                (
                    density.width(levels),
                    (density.interval_rank(y) <= interval).double().unsqueeze(1),
                    (density.region_rank(y) <= region).double().unsqueeze(1),
                ),
                1,
            )
            for density, y in densities(model, fitted.split.test)
        ]
        names = ("width_90", "calibrated_width_90", "calibrated_coverage_90", "calibrated_region_90")
        found.append(dict(zip(names, torch.cat(parts).mean(0).tolist(), strict=True)))
    return found


def val_nll(fitted: Fitted) -> Tensor:
    """Returns the NLL of validation rows by which a model may be chosen, `[S]`.

    The quick estimate of the epochs' ends is rough for one target, and too low for several where mass is missed.
    """
    val, conditionals = fitted.split.val, fitted.conditionals
    if not fitted.one:
        return -score_rows(fitted, val).log_prob.mean(1)
    x, z = fitted.standardised(val.x, val.y)
    return (fitted.scaling.log_slope(z.double()) - conditionals.exact_log_prob(x, z)).mean(-1)


def summarise(scores: RowScores, index: int, y: Tensor, log_base: Tensor, targets: Targets) -> dict[str, float]:
    """Returns the metrics of one seed from its rows.

    Args:
        y: the observations, `[N, D]` float64, in their own units.
        log_base: the base density there, `[N]`, in the same units.
    """
    log_prob, one = scores.log_prob[index], y.shape[1] == 1
    of_mean, of_median = (targets.difference(point[index], y) for point in (scores.mean, scores.median))
    bias = scores.bias[index].mean()
    result = {
        "nll": -log_prob.mean(),
        "nll_error": torch.hypot(_error_of_mean(scores.error[index]), bias),
        **point_metrics(log_prob, of_mean, of_median, log_base),
        **calibration_metrics(scores.pit[index], one),
        "crps" if one else "energy_score": scores.score[index].mean(),
    }
    if scores.interval_score[index].isfinite().any():
        result["interval_score"] = scores.interval_score[index].mean()
        result["pinball"] = pinball(scores.points[index, ..., 0], y[:, 0]).mean()
    for name, values in (("brier", scores.brier[index]), ("cde_loss", scores.cde_loss[index])):
        if values.isfinite().any():
            result[name] = values.mean()
    if not scores.outside[index].isnan().all():
        result["mass_outside"] = scores.outside[index].mean()
        result["outside_rows"] = (scores.outside[index] > MUCH_OUTSIDE).double().sum()
    if scores.edge[index].isfinite().any():
        result["edge_mass"] = scores.edge[index].mean()
    if scores.d_kl[index].isfinite().any():
        result["d_kl"] = scores.d_kl[index].mean()
        if not one:
            result["d_kl_error"] = torch.hypot(_error_of_mean(scores.d_kl_error[index]), bias)
    bound = {"lower_bound": 1} if y.shape[1] >= BLIND_FROM else {}
    return {name: float(value) for name, value in result.items()} | bound


def _error_of_mean(errors: Tensor) -> Tensor:
    """Returns the standard error of a mean over rows from theirs, which are independent: `[N] -> []`."""
    return errors.square().sum().sqrt() / len(errors)
