"""The files of a run of `task=regression`: what a model needs for use, scores of single rows, ensembles.

model.json       transform, scaling and base density's nodes
examples.*       a row for each test row and seed (Parquet where pyarrow can be imported, else .csv.gz)
ensemble.csv     scores of the mixture of the seeds' densities
calibration.csv  coverage at each level, by seed
held.npz         encoded inputs and targets of the rows that were held back to calibrate, if any were
pictures.npz     densities of a few test rows
densities.npz    densities over the plane of x and y, where there is one input
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ebmbench.core.rng import Streams
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.targets import Targets
from ebmbench.system.files import write_atomically
from ebmbench.tasks.examples import read_arrays, write_arrays, write_examples
from ebmbench.tasks.regression import plane
from ebmbench.tasks.regression.fitted import Fitted
from ebmbench.tasks.regression.scores import (
    INTERVAL,
    LEVELS,
    calibration_curve,
    calibration_metrics,
    circular_crps,
    crps_of_points,
    energy_score,
    interval_score,
    point_metrics,
)

if TYPE_CHECKING:
    from ebmbench.tasks.regression.scoring import RowScores

PICTURES = 8
"""Test rows whose densities are kept for figures."""
PICTURE_POINTS = 601


def write_model(fitted: Fitted, run_dir: Path) -> None:
    """Writes `model.json`, and the held rows if there are any."""
    write_atomically(run_dir / "model.json", (json.dumps(fitted.plain(), indent=1) + "\n").encode())
    if fitted.held is not None:
        write_arrays(run_dir / "held.npz", fitted.held_rows())


def write_part(fitted: Fitted, scores: RowScores, log_base: Tensor, good: Sequence[bool], run_dir: Path) -> None:
    """Writes what these seeds say of the test rows; `join` puts the parts of a run together.

    Args:
        good: the seeds whose densities are results.
    """
    test = fitted.split.test
    arrays = {name: getattr(scores, name).numpy() for name in ("log_prob", "pit", "mean", "median", "spread", "points")}
    arrays |= {"y": test.y.numpy(), "rows": test.places, "log_base": log_base.numpy()}
    arrays |= {"seeds": np.array(fitted.seeds), "good": np.array(good)}
    first = fitted.seeds[0]
    write_arrays(_part(run_dir, first), arrays)
    write_arrays(run_dir / f"pictures.{first}.npz", _pictures(fitted, scores, good))
    if plane.can_draw(fitted):
        write_arrays(run_dir / f"densities.{first}.npz", plane.pictures(fitted, list(good)))


def _part(run_dir: Path, seed: int) -> Path:
    return run_dir / f"examples.{seed}.npz"


def _pictures(fitted: Fitted, scores: RowScores, good: Sequence[bool]) -> dict[str, Any]:
    """Returns densities of a few test rows, chosen over the range of the first target."""
    test = fitted.split.test
    order = test.y[:, 0].argsort()
    count = min(PICTURES, len(order))
    chosen = order[((torch.arange(count) + 0.5) * len(order) / count).long()]
    arrays: dict[str, Any] = {
        "seeds": np.array(fitted.seeds),
        "good": np.array(good),
        "rows": test.places[chosen.numpy()],
        "observed": test.y[chosen].numpy(),
        "points": scores.points[:, chosen].numpy(),
    }
    if plane.can_draw(fitted):
        arrays |= {"test_x": test.x.reshape(-1).numpy(), "test_y": test.y[:, 0].numpy()}
    if test.x.dim() == 4:
        arrays["images"] = test.x[chosen].numpy()
    if fitted.one and not fitted.scaling.targets.discrete:
        arrays |= _curves(fitted, scores, chosen)
    elif fitted.one:
        arrays |= _probabilities(fitted, chosen)
    elif fitted.split.truth is not None:
        draws = Streams([1], stacked=False).at(0)
        arrays["true_points"] = fitted.split.truth.sample(test.given[chosen], 400, draws, "picture").float().numpy()
    return arrays


def _curves(fitted: Fitted, scores: RowScores, chosen: Tensor) -> dict[str, Any]:
    """Returns for each chosen row a grid of y and p(y|x) on it, by seed; and the true one.

    The grid holds the observation and 98 percent of the mass: farther tails would make all else narrow.
    """
    test, scaling = fitted.split.test, fitted.scaling
    points = scores.points[:, chosen, :, 0].double()
    points = points[points.isfinite().all(-1).all(-1)] if points.isfinite().any() else torch.zeros(1, len(chosen), 1)
    ends = points.movedim(0, 1).flatten(1).quantile(points.new_tensor([0.01, 0.99]), dim=1).T
    low, high = torch.cat((ends, test.y[chosen, :1].double()), 1).aminmax(dim=1)
    (axis,) = scaling.targets.axes
    margin = 0.1 * (high - low) + 1e-3 * test.y[:, 0].double().std().nan_to_num(1.0)
    part = torch.linspace(0, 1, PICTURE_POINTS, dtype=torch.float64)
    y = (low - margin).unsqueeze(1) + (high - low + 2 * margin).unsqueeze(1) * part
    x, _ = fitted.standardised(test.x[chosen], test.y[chosen])
    z = axis.z(y).to(fitted.device)
    seeds = len(fitted.seeds)
    f = fitted.conditionals.bind(x)(z.expand(seeds, -1, -1).unsqueeze(-1))
    log_z = fitted.conditionals.densities(x)[1].view(seeds, -1, 1)
    model = (f - log_z - axis.log_slope(z)).exp()
    inside = axis.support.inside(y)
    arrays = {"y": y.numpy(), "model": torch.where(inside, model.cpu(), 0.0).float().numpy()}
    if fitted.split.truth is not None:
        arrays["true"] = fitted.split.truth.log_prob(test.given[chosen], y.unsqueeze(-1)).exp().float().numpy()
    return arrays


def _probabilities(fitted: Fitted, chosen: Tensor) -> dict[str, Any]:
    """Returns for each chosen row the probability of each value of a discrete target, by seed; and the true one."""
    test, (axis,) = fitted.split.test, fitted.scaling.targets.axes
    x, _ = fitted.standardised(test.x[chosen], test.y[chosen])
    y = axis.values.expand(len(chosen), -1)
    seeds = len(fitted.seeds)
    model = fitted.conditionals.densities(x)[0].pmf(y.to(fitted.device).repeat(seeds, 1)).unflatten(0, (seeds, -1))
    shown = model.amax((0, 1)) > 1e-3 * model.max()
    low, high = shown.nonzero()[[0, -1], 0].tolist() if shown.any() else (0, y.shape[1] - 1)
    arrays = {"y": y[:, low : high + 1].numpy(), "model": model[..., low : high + 1].float().cpu().numpy()}
    if fitted.split.truth is not None:
        true = fitted.split.truth.log_prob(test.given[chosen], y[:, low : high + 1].unsqueeze(-1)).exp()
        arrays["true"] = true.float().numpy()
    return arrays


def join(run_dir: Path, groups: Sequence[Sequence[int]]) -> dict[str, float]:
    """Puts together what the groups of seeds wrote; returns the scores of the mixture of all seeds.

    It can be done again after a kill at any moment.
    """
    parts = [_part(run_dir, group[0]) for group in groups]
    pictures = [run_dir / f"pictures.{group[0]}.npz" for group in groups]
    densities = [run_dir / f"densities.{group[0]}.npz" for group in groups]
    if all(path.exists() for path in parts):  # else an earlier attempt put them together
        arrays = [read_arrays(path) for path in parts]
        by_seed = ("log_prob", "pit", "mean", "median", "spread", "points", "seeds", "good")
        joined = {**arrays[0], **{name: np.concatenate([a[name] for a in arrays]) for name in by_seed}}
        plain = json.loads((run_dir / "model.json").read_text())
        write_examples(run_dir, _examples(joined, plain["targets"]))
        targets = Targets.restore(plain["scaling"]["targets"], BaseDensity())
        write_atomically(run_dir / "calibration.csv", _calibration(joined).to_csv(index=False).encode())
        scores = pd.DataFrame([{"seeds": int(joined["good"].sum()), **_mixture_scores(joined, targets)}])
        write_atomically(run_dir / "ensemble.csv", scores.to_csv(index=False).encode())
    if pictures[0].exists():
        write_arrays(run_dir / "pictures.npz", read_arrays(pictures[0]))  # the other groups' seeds are like these
    if all(path.exists() for path in densities):
        planes = [read_arrays(path) for path in densities]
        models = {name: np.concatenate([p[name] for p in planes]) for name in ("seeds", "model", "slice_model")}
        write_arrays(run_dir / "densities.npz", {**planes[0], **models})
    for path in (*parts, *pictures, *densities):
        path.unlink(missing_ok=True)
    row = pd.read_csv(run_dir / "ensemble.csv").iloc[0].drop("seeds")
    return {f"ensemble_{name}": float(value) for name, value in row.items()}


def _examples(arrays: dict[str, Any], targets: Sequence[str]) -> pd.DataFrame:
    """Returns a row for each test row and seed."""
    seeds, count = arrays["log_prob"].shape
    columns: dict[str, Any] = {
        "row": np.tile(arrays["rows"], seeds),
        "seed": np.repeat(arrays["seeds"], count),
        "log_prob": arrays["log_prob"].ravel(),
        "pit": arrays["pit"].ravel(),
    }
    for k, ending in enumerate(endings(targets)):
        columns[f"y{ending}"] = np.tile(arrays["y"][:, k], seeds)
        columns[f"mean{ending}"] = arrays["mean"][:, :, k].ravel()
        columns[f"std{ending}"] = arrays["spread"][:, :, k].ravel()
    frame = pd.DataFrame(columns)
    frame.loc[np.repeat(~arrays["good"], count), list(columns)[2:4]] = math.nan
    return frame


def endings(targets: Sequence[str]) -> list[str]:
    """Returns what the columns of each target end in: nothing for one target, `_NAME` for several."""
    return [""] if len(targets) == 1 else [f"_{name}" for name in targets]


def _calibration(arrays: dict[str, Any]) -> pd.DataFrame:
    one = arrays["y"].shape[1] == 1
    rows = []
    for seed, good, pit in zip(arrays["seeds"], arrays["good"], torch.from_numpy(arrays["pit"]), strict=True):
        curve = calibration_curve(pit, one).tolist() if good else [math.nan] * len(LEVELS)
        rows += [{"seed": seed, "level": lev, "coverage": c} for lev, c in zip(LEVELS, curve, strict=True)]
    return pd.DataFrame(rows)


def _mixture_scores(arrays: dict[str, Any], targets: Targets) -> dict[str, float]:
    """Returns the scores of the equal mixture of the densities of all seeds that did not diverge."""
    good = torch.from_numpy(arrays["good"])
    names = ("log_prob", "pit", "mean", "points")
    log_prob, pit, mean, points = (torch.from_numpy(arrays[name])[good].double() for name in names)
    y, log_base = torch.from_numpy(arrays["y"]).double(), torch.from_numpy(arrays["log_base"]).double()
    one = y.shape[1] == 1
    if not len(log_prob):
        score = "crps" if one else "energy_score"
        return dict.fromkeys(("nll", "nll_median", "nll_mixed", "rmse", "mae", score), math.nan)
    mixed = torch.logsumexp(log_prob, 0) - math.log(len(log_prob))
    pooled = points.movedim(0, 1).flatten(1, 2)  # [N, S·Q, D]
    middle = mean.mean(0)
    turn = targets.axes[0].support.turn
    if turn is not None:  # as differences from the mean direction, on a line
        length = turn * targets.axes[0].std
        angle = 2 * math.pi * mean / length
        middle = torch.atan2(angle.sin().mean(0), angle.cos().mean(0)) * length / (2 * math.pi)
        crps = circular_crps(pooled[:, :: len(points), 0], y[:, 0], length)
        pooled, y = targets.difference(pooled, middle.unsqueeze(1)), targets.difference(y, middle)
        middle = torch.zeros_like(middle)
    elif one:
        crps = crps_of_points(pooled[..., 0], y[:, 0])
    median = pooled.median(1).values
    scores = {"nll": -mixed.mean(), **point_metrics(mixed, middle - y, median - y, log_base)}
    if one:
        scores |= {"crps": crps.mean()}
        ends = pooled[..., 0].quantile(pooled.new_tensor(INTERVAL), dim=1).T
        scores |= {"interval_score": interval_score(ends, y[:, 0]).mean(), **calibration_metrics(pit.mean(0), one)}
    else:
        scores |= {"energy_score": energy_score(pooled[:, :: max(1, len(points))], y).mean()}
    return {name: float(value) for name, value in scores.items()}
