"""From trained models to scores: of each test row, and of a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ebmbench.system.files import write_atomically
from ebmbench.tasks.regression import density

if TYPE_CHECKING:
    from ebmbench.tasks.regression.fitting import FitLearner

EVALUATIONS = 2**20
"""Of f at a time."""
POINTS = 99
"""Equally likely points that stand for a density where those of several seeds are mixed."""


@dataclass
class RowScores:
    """What S models say of N test rows, in the target's own units.

    Attributes:
        log_prob: `log p(y|x)`, `[S, N]`.
        error: of `log Z`, `[S, N]`.
        pit: the distribution function at the observation for one target; for several the model's mass where its density
            is higher than at the observation. `[S, N]`; uniform if the model is right.
        score: CRPS, or the energy score for several targets, `[S, N]`.
        mean, spread: of the density, `[S, N, D]`. spread is its standard deviation.
        median: `[S, N, D]`.
        points: equally likely points, `[S, N, Q, D]` float32.
    """

    log_prob: Tensor
    error: Tensor
    pit: Tensor
    score: Tensor
    mean: Tensor
    spread: Tensor
    median: Tensor
    points: Tensor

    @staticmethod
    def join(parts: Sequence[RowScores]) -> RowScores:
        """Puts rows together."""
        return RowScores(*(torch.cat([getattr(p, name) for p in parts], 1) for name in RowScores.__annotations__))


def one_target(learner: FitLearner, x: Tensor, y: Tensor) -> RowScores:
    """Scores test rows of one target by quadrature: x `[N, ...]` and y `[N, 1]`, both standardised."""
    scaling, seeds = learner.scaling, len(learner.seeds)
    unit = float(scaling.y_std[0])
    middle = (torch.arange(POINTS, dtype=torch.float64, device=x.device) + 0.5) / POINTS
    rows = max(1, EVALUATIONS // (seeds * (learner.task.base.nodes + 400)))
    parts = []
    for some_x, some_y in zip(x.split(rows), y.split(rows), strict=True):
        grids = learner.conditionals.grids(some_x, some_y[:, 0])
        target = some_y[:, 0].double().repeat(seeds)
        f = learner.conditionals.bind(some_x)(some_y.unsqueeze(1).expand(seeds, -1, -1, -1)).flatten()
        log_z = torch.zeros_like(f) if learner.stack.normalised else grids.log_z
        columns = RowScores(
            log_prob=f - log_z - scaling.log_scale,
            error=torch.zeros_like(f) if learner.stack.normalised else grids.error,
            pit=grids.cdf_at(target.unsqueeze(1)).squeeze(1),
            score=unit * grids.crps(target),
            mean=scaling.raw_y(grids.mean.unsqueeze(1)),
            spread=unit * grids.variance.sqrt().unsqueeze(1),
            median=scaling.raw_y(grids.quantile(target.new_tensor([0.5]))),
            points=scaling.raw_y(grids.quantile(middle).unsqueeze(-1)).float(),
        )
        parts.append(
            RowScores(*(getattr(columns, name).unflatten(0, (seeds, -1)) for name in RowScores.__annotations__))
        )
    return RowScores.join(parts)


def summarise(scores: RowScores, index: int, y: Tensor, log_base: Tensor) -> dict[str, float]:
    """Returns the metrics of one seed from its rows.

    Args:
        y: the observations, `[N, D]` float64, in their own units.
        log_base: the base density there, `[N]`, in the same units.
    """
    log_prob, pit = scores.log_prob[index], scores.pit[index]
    one = y.shape[1] == 1
    covered = density.central_coverage if one else density.region_coverage
    coverage = torch.stack([covered(pit, level) for level in density.LEVELS])
    levels = coverage.new_tensor(density.LEVELS)
    result = {
        "nll": -log_prob.mean(),
        "nll_error": scores.error[index].mean(),
        "nll_median": -log_prob.median(),
        "nll_mixed": density.mixed_nll(log_prob, log_base).mean(),
        "crps" if one else "energy_score": scores.score[index].mean(),
        "rmse": (scores.mean[index] - y).square().mean().sqrt(),
        "mae": (scores.median[index] - y).abs().mean(),
        "coverage_50": covered(pit, 0.5),
        "coverage_90": covered(pit, 0.9),
        "calibration_error": (coverage - levels).abs().mean(),
    }
    return {name: float(value) for name, value in result.items()}


def evaluate(learner: FitLearner, run_dir: Path, diverged: Sequence[bool]) -> list[dict[str, float]]:
    """Returns the metrics of each seed; writes what figures, ensembles and predictions need."""
    from ebmbench.tasks.regression.fitting import write_model

    test, scaling = learner.split.test, learner.scaling
    x, y = learner.standardised(test.x, test.y, learner.device)
    scores = one_target(learner, x, y)
    raw = test.y.double()
    log_base = learner.task.base.log_prob(y.double()) - scaling.log_scale
    rows = []
    val = learner.validation_nll() + scaling.log_scale
    for index in range(len(learner.seeds)):
        rows.append({**summarise(scores, index, raw, log_base), "val_nll": float(val[index])})
    write_model(learner, run_dir)
    return rows


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Writes arrays as .npz, whole or not at all."""
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
