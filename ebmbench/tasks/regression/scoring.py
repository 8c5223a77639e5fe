"""From trained models to scores: of each test row, and of a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebmbench.core.rng import Streams
from ebmbench.tasks.regression import density, records
from ebmbench.tasks.regression.conditional import NEAR, Conditionals, around
from ebmbench.tasks.regression.data.base import Arrays, Law
from ebmbench.tasks.regression.density import (
    INTERVAL,
    GridDensity,
    calibration_metrics,
    interval_score,
    midpoints,
    point_metrics,
)
from ebmbench.tasks.regression.scaling import Scaling
from ebmbench.tasks.regression.target_range import MUCH_OUTSIDE

if TYPE_CHECKING:
    from ebmbench.tasks.regression.fitting import FitLearner

EVALUATIONS = 2**20
"""Of f at a time, for one target."""
ROWS = 32
"""Test rows at a time, for several targets; fixed, so that random numbers do not depend on the number of seeds."""
LARGEST_ERROR = 0.05
"""The error of log Z by a narrow peak from which on it is reported."""
BLIND_FROM = 16
"""Targets from which on annealed draws miss a mode of the model that no truth points to, and no error shows it.

A mode with half of the mass, made for the test: log Z is 0.54 too low of 0.69 at 16 targets.
"""
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
        pit: the distribution function at the observation for one target; for several the model's mass where its density
            is higher than at the observation. `[S, N]`; uniform if the model is right.
        score: CRPS, or the energy score for several targets, `[S, N]`.
        interval_score: of the central 90 % interval of one target, `[S, N]`; nan for several targets.
        mean, median, spread: of the density, `[S, N, D]`. spread is the standard deviation.
        points: equally likely points, `[S, N, Q, D]` float32.
        outside: the mass beyond the range of the training targets, widened by a tenth of it, `[S, N]`.
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

    @staticmethod
    def join(parts: Sequence[RowScores]) -> RowScores:
        """Puts rows together."""
        return RowScores(*(torch.cat([getattr(part, f.name) for part in parts], 1) for f in fields(RowScores)))


@dataclass(frozen=True)
class Truth:
    """The true density of standardised targets.

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
        """Returns `log p(y|x)`: `[B, M, D]` -> `[B, M]`; or with seeds in front."""
        if y.dim() == 4:
            return torch.stack([self.log_prob(one) for one in y])
        values = self.law.log_prob(self.given, self.scaling.raw_y(y.cpu())) + self.scaling.log_scale
        return values.to(y.device)

    def sample(self, lead: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
        """Returns standardised draws for B rows, `[B, count, D]`."""
        draws = Streams([0], stacked=False).at(int(torch.randint(2**31, (), generator=generator)))
        return self.scaling.y(self.law.sample(self.given, count, draws, "evaluation")).to(self.device)


def one_target(conditionals: Conditionals, scaling: Scaling, x: Tensor, y: Tensor, truth: Truth | None) -> RowScores:
    """Scores some rows of one target by quadrature: x `[B, ...]` and y `[B, 1]`, both standardised."""
    seeds, unit = conditionals.seeds, float(scaling.y_std[0])
    grids = conditionals.grids(x, y[:, 0])
    target = y[:, 0].double().repeat(seeds)
    f = conditionals.bind(x)(y.unsqueeze(1).expand(seeds, -1, -1, -1)).flatten()
    normalised = conditionals.stack.normalised
    log_z = torch.zeros_like(f) if normalised else grids.log_z
    nan = torch.full_like(f, torch.nan)
    scores = RowScores(
        log_prob=f - log_z - scaling.log_scale,
        error=torch.zeros_like(f),
        bias=_bias(grids, _shown_by_target(conditionals, grids, x), normalised),
        pit=grids.cdf_at(target.unsqueeze(1)).squeeze(1),
        score=unit * grids.crps(target),
        interval_score=unit * interval_score(grids.quantile(target.new_tensor(INTERVAL)), target),
        mean=scaling.raw_y(grids.mean.unsqueeze(1)),
        median=scaling.raw_y(grids.quantile(target.new_tensor([0.5]))),
        spread=unit * grids.variance.sqrt().unsqueeze(1),
        points=scaling.raw_y(grids.quantile(midpoints(POINTS, x.device)).unsqueeze(-1)).float(),
        outside=grids.mass_outside(*conditionals.targets.widened),
        d_kl=nan if truth is None else _d_kl(conditionals, grids, x, truth),
        d_kl_error=nan,
    )
    return RowScores(*(getattr(scores, field.name).unflatten(0, (seeds, -1)) for field in fields(RowScores)))


def _shown_by_target(conditionals: Conditionals, grids: GridDensity, x: Tensor) -> Tensor:
    """Returns how far log Z moves if the nodes do not hold the observation, `[S·B]`; 0 where the others show it all."""
    seeds = conditionals.seeds
    start = conditionals.start(len(x), None).repeat(seeds, 1)
    at_start = grids.log_values.gather(-1, torch.searchsorted(grids.y, start))
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


def _d_kl(conditionals: Conditionals, grids: GridDensity, x: Tensor, truth: Truth) -> Tensor:
    """Returns `KL(truth ‖ model)` of one target, by the trapezoidal rule on nodes of both: `[S·B]`."""
    seeds, rows = conditionals.seeds, len(x)
    true = GridDensity.refined(lambda y: truth.log_prob(y.unsqueeze(-1)), conditionals.start(rows, None))
    y = torch.cat((grids.y, true.y.repeat(seeds, 1)), -1).sort(-1).values
    model = GridDensity(y, conditionals.bind(x)(y.view(seeds, rows, -1, 1)).flatten(0, 1))
    log_model = model.log_values if conditionals.stack.normalised else model.log_density
    log_true = truth.log_prob(y.view(seeds, rows, -1, 1)).flatten(0, 1)
    p = log_true.exp()
    return torch.trapezoid(torch.where(p > 0, p * (log_true - log_model), 0.0), y, dim=-1)


def many_targets(
    conditionals: Conditionals, scaling: Scaling, x: Tensor, y: Tensor, truth: Truth | None, number: int
) -> RowScores:
    """Scores some rows of several targets by annealed populations of draws (`core.tempering`).

    Args:
        x, y: standardised, `[B, ...]` and `[B, D]`.
        number: of the random numbers.
    """
    lead, y = (conditionals.seeds, len(x)), y.double()
    f = conditionals.bind(x)
    near = around(y, NEAR) if truth is None else truth
    made = conditionals.tempered(x, near, number)
    at_target = f(y.unsqueeze(1).expand(lead[0], -1, -1, -1)).squeeze(-1)
    log_z, error, bias = made.log_z, made.error, made.bias
    if conditionals.stack.normalised:
        log_z, error, bias = (torch.zeros_like(log_z) for _ in range(3))
    points = scaling.raw_y(made.resample(POINTS))
    raw = scaling.raw_y(y).expand(*lead, -1)
    score = density.energy_score(points.flatten(0, 1), raw.flatten(0, 1)).view(lead)
    d_kl = d_kl_error = torch.full_like(log_z, torch.nan)
    if truth is not None:
        draws = truth.sample(lead, conditionals.base.samples, torch.Generator().manual_seed(number))
        ratio = truth.log_prob(draws) - f(draws.expand(lead[0], *draws.shape))
        d_kl = ratio.mean(-1) + log_z
        d_kl_error = (ratio.var(-1) / ratio.shape[-1] + error.square()).sqrt()
    return RowScores(
        log_prob=at_target - log_z - scaling.log_scale,
        error=error,
        bias=bias,
        pit=made.mass_above(at_target),
        score=score,
        interval_score=torch.full_like(log_z, torch.nan),
        mean=scaling.raw_y(made.mean),
        median=scaling.raw_y(made.quantile(0.5)),
        spread=made.spread * scaling.y_std.to(x.device),
        points=points.float(),
        outside=(made.weights * conditionals.targets.is_outside(made.y)).sum(-1),
        d_kl=d_kl,
        d_kl_error=d_kl_error,
    )


def score_rows(learner: FitLearner, arrays: Arrays) -> RowScores:
    """Scores some rows, such as those of test."""
    scaling, conditionals = learner.scaling, learner.conditionals
    x, y = learner.standardised(arrays.x, arrays.y, learner.device)
    one = learner.nodes is not None
    rows = max(1, EVALUATIONS // (len(learner.seeds) * (learner.task.base.nodes + 400))) if one else ROWS
    parts = []
    for number, some in enumerate(torch.arange(len(x)).split(rows)):
        law = learner.split.truth
        truth = None if law is None else Truth(law, arrays.given[some], scaling, learner.device)
        some = some.to(learner.device)
        if one:
            parts.append(one_target(conditionals, scaling, x[some], y[some], truth))
        else:
            parts.append(many_targets(conditionals, scaling, x[some], y[some], truth, number))
    return RowScores(*(getattr(RowScores.join(parts), field.name).cpu() for field in fields(RowScores)))


def evaluate(learner: FitLearner, run_dir: Path, diverged: Sequence[bool]) -> list[dict[str, float]]:
    """Returns the metrics of each seed; writes what figures, ensembles and predictions need."""
    test, scaling = learner.split.test, learner.scaling
    scores = score_rows(learner, test)
    y = test.y.double()
    log_base = learner.task.base.log_prob(scaling.y(test.y)) - scaling.log_scale
    chosen_by = val_nll(learner).tolist()
    common = {"nll_base": -float(log_base.mean())}
    if learner.split.truth is not None:
        common["nll_true"] = -float(learner.split.truth.log_prob(test.given, y.unsqueeze(1)).mean())
    rows = []
    for index in range(len(learner.seeds)):
        chosen = {"val_nll": chosen_by[index], "best_epoch": float(learner.state["best.epoch"][index])}
        rows.append({**summarise(scores, index, y, log_base), **common, **chosen})
    records.write_model(learner, run_dir)
    good = [not (stopped or learner.task.is_broken(row)) for stopped, row in zip(diverged, rows, strict=True)]
    records.write_part(learner, scores, log_base, good, run_dir)
    return rows


def val_nll(learner: FitLearner) -> Tensor:
    """Returns the NLL of validation rows by which a model may be chosen, `[S]`.

    The quick estimate of the epochs' ends is too low for several targets where mass is missed. So they are scored as
    test rows are.
    """
    if learner.nodes is not None or learner.stack.normalised:
        return learner.validation_nll() + learner.scaling.log_scale
    return -score_rows(learner, learner.split.val).log_prob.mean(1)


def summarise(scores: RowScores, index: int, y: Tensor, log_base: Tensor) -> dict[str, float]:
    """Returns the metrics of one seed from its rows.

    Args:
        y: the observations, `[N, D]` float64, in their own units.
        log_base: the base density there, `[N]`, in the same units.
    """
    log_prob, one = scores.log_prob[index], y.shape[1] == 1
    bias = scores.bias[index].mean()
    result = {
        "nll": -log_prob.mean(),
        "nll_error": torch.hypot(_error_of_mean(scores.error[index]), bias),
        **point_metrics(log_prob, scores.mean[index], scores.median[index], y, log_base),
        **calibration_metrics(scores.pit[index], one),
        "crps" if one else "energy_score": scores.score[index].mean(),
        "interval_score": scores.interval_score[index].mean(),
        "mass_outside": scores.outside[index].mean(),
        "outside_rows": (scores.outside[index] > MUCH_OUTSIDE).double().sum(),
    }
    if scores.d_kl[index].isfinite().any():
        result["d_kl"] = scores.d_kl[index].mean()
        if not one:
            result["d_kl_error"] = torch.hypot(_error_of_mean(scores.d_kl_error[index]), bias)
    if not one:
        del result["interval_score"]
    bound = {"lower_bound": 1} if y.shape[1] >= BLIND_FROM else {}
    return {name: float(value) for name, value in result.items()} | bound


def _error_of_mean(errors: Tensor) -> Tensor:
    """Returns the standard error of a mean over rows from theirs, which are independent: `[N] -> []`."""
    return errors.square().sum().sqrt() / len(errors)
