"""Scores a trained network: it chooses the step length, is accepted or not, and refines each set of sequences."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmbench.boxes.acceptance import Verdict
from ebmbench.boxes.calibration import MATCHED_IOU, Calibration, calibrate, side_levels
from ebmbench.boxes.comparison import Interval, UnitMeans, joint_bootstrap, paired_bootstrap
from ebmbench.boxes.nll import fit_temperature
from ebmbench.system.files import write_atomically
from ebmbench.tasks.base import Setup
from ebmbench.tasks.examples import join_seeds
from ebmbench.tasks.tracking.coarse import NOISE, coarse_track, follows_any
from ebmbench.tasks.tracking.data import MADE, PSEUDO
from ebmbench.tasks.tracking.model import TrackingNet
from ebmbench.tasks.tracking.refiner import Refiner, together
from ebmbench.tasks.tracking.scores import PIXELS, Array, Score, is_valid, overlap, summary
from ebmbench.tasks.tracking.videos import Frame, Video, box_lines

if TYPE_CHECKING:
    from ebmbench.tasks.tracking.task import TrackingTask

CHOICE_FRAMES = 4
"""Of the validation videos each so many-th frame is refined to choose the step length."""

CALIBRATION = "calibration.{}.json"
"""The file of a run directory with what validation boxes say of intervals, by the seed."""

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Refined:
    """What became of a sequence.

    Attributes:
        coarse, track: boxes `[T, 4]`, before and after.
        before, after: their scores.
    """

    video: Video
    coarse: Array
    track: Array
    before: Score
    after: Score


def evaluate(
    task: TrackingTask, setup: Setup, net: TrackingNet, seed: int, run_dir: Path, tell: Tell
) -> dict[str, float]:
    """Returns the metrics of one seed; percent where a score is a share.

    Writes into `run_dir`: `tracks/SET/SEQ.<seed>.txt`, the refined boxes, accepted or not, as the sequence's own file
    has them; `sequences.<seed>.csv`, a row for each sequence; `curves.<seed>.csv`, success and precision of each set.
    """
    refiner = Refiner(net, task.model, task.refinement, task.refinement.lengths[0], seed)
    val = {name: _with_coarse(task, videos, setup.results_dir, False) for name, videos in task.data.val().items()}
    row: dict[str, float] = {}
    refiner.length = row["step_length"] = _choose_length(
        task, refiner, [pair for part in val.values() for pair in part]
    )
    judges = {name: _refine(task, refiner, part, tell, "validation") for name, part in val.items()}
    calibration = _calibration(task, refiner, [one for judged in judges.values() for one in judged])
    row["temperature"], level = calibration.temperature, calibration.level(task.score.level)
    write_atomically(run_dir / CALIBRATION.format(seed), (json.dumps(calibration.plain()) + "\n").encode())
    sequences, curves = [], []
    for number, (name, videos) in enumerate(task.data.test().items()):
        files = number == 0 and name != MADE
        pairs = _with_coarse(task, videos, setup.results_dir, files)
        found = _refine(task, refiner, pairs, tell, "evaluation")
        judge = judges[MADE] if name == MADE else judges.get(PSEUDO, judges[MADE])
        metrics = _set_metrics(task, name, found, _gain(task, judge), len(judge), seed)
        noisy = [(video, coarse_track(NOISE, video, setup.results_dir)) for video in videos]
        again = _refine(task, refiner, noisy, tell, "noise")
        metrics["noise_auc"] = float(np.mean([one.before.auc for one in again]))
        metrics["noise_gain"] = _gain(task, again).value
        # A side of level 1 is beyond all samples.
        sides = _levels(task, refiner, found, calibration.temperature)
        held = [(part <= level) & (part < 1) for part in sides]
        metrics["coverage"] = 100 * float(torch.cat(held).double().mean()) if held else math.nan
        row |= metrics if number == 0 else {f"{name}_{key}": value for key, value in metrics.items()}
        scored = {one.video.name: one.track for one in found}
        folder = run_dir / "tracks" / name
        folder.mkdir(parents=True, exist_ok=True)
        for video, coarse in pairs:
            track = scored[video.name] if video.name in scored else refiner.track(video, coarse)
            write_atomically(folder / f"{video.name}.{seed}.txt", box_lines(track, video.origin).encode())
        for one in found:
            for stage, score in (("coarse", one.before), ("refined", one.after)):
                about = {"seed": seed, "set": name, "sequence": one.video.name, "frames": len(score.overlaps)}
                rule = {"first_frame": "counted" if task.score.count_first else "not counted"}
                sequences.append({**about, **rule, "stage": stage, **summary([score])})
        curves += _curves(name, seed, found)
    for table, rows in (("sequences", sequences), ("curves", curves)):
        write_atomically(run_dir / f"{table}.{seed}.csv", pd.DataFrame(rows).to_csv(index=False).encode())
    return row


def _with_coarse(
    task: TrackingTask, videos: Sequence[Video], results_dir: Path, files: bool
) -> list[tuple[Video, Array]]:
    """Returns sequences with their coarse tracks; where boxes come from files, made videos get noise in their place."""
    coarse = task.coarse if files or follows_any(task.coarse) else NOISE
    return [(video, coarse_track(coarse, video, results_dir)) for video in videos]


def _choose_length(task: TrackingTask, refiner: Refiner, val: Sequence[tuple[Video, Array]]) -> float:
    """Returns the step length with the highest mean overlap on validation frames; the shortest of equal ones."""
    means = {}
    for length in sorted(task.refinement.lengths):
        refiner.length = length
        values = []
        for video, coarse in val:
            places = np.flatnonzero(is_valid(video.truth) & (np.arange(len(video)) % CHOICE_FRAMES == 0))
            places = places[places > 0]
            track = refiner.track(video, coarse, CHOICE_FRAMES)
            values.append(overlap(track[places], video.truth[places]))
        means[length] = float(np.nan_to_num(np.concatenate(values).mean()))
    return max(means, key=lambda length: means[length])


def _calibration(task: TrackingTask, refiner: Refiner, found: Sequence[Refined]) -> Calibration:
    """Returns what refined validation boxes say of the density's width and of the levels of intervals."""
    energies = []
    for one, places, frames, vector in _looked_at(task, refiner, found):
        energies.append(refiner.energy(frames, one.track[places], one.video.truth[places], vector)[0])
    if not energies:
        return Calibration()
    energy = together(energies)
    temperature = fit_temperature(energy.of, len(energy), refiner.seed, refiner.device)
    return calibrate(temperature, _levels(task, refiner, found, temperature))


def _levels(task: TrackingTask, refiner: Refiner, found: Sequence[Refined], temperature: float) -> list[Tensor]:
    """Returns the levels of the intervals around refined boxes that hold the true sides, of some frames."""
    levels = []
    for one, places, frames, vector in _looked_at(task, refiner, found):
        energy, crops = refiner.energy(frames, one.track[places], one.track[places], vector)
        truth = [torch.tensor(crop.into(box)) for crop, box in zip(crops, one.video.truth[places], strict=True)]
        levels.append(side_levels(energy, torch.stack(truth).to(refiner.device), refiner.seed, temperature, False))
    return levels


def _looked_at(
    task: TrackingTask, refiner: Refiner, found: Sequence[Refined]
) -> Iterator[tuple[Refined, NDArray[np.int64], list[Frame], Tensor]]:
    """Yields sequences with some places, the frames there, and the template's vector.

    Of the frames whose refined box has found the target: it overlaps the true one by `MATCHED_IOU`.
    """
    count = math.ceil(task.score.interval_frames / max(1, len(found)))
    for one in found if count else ():
        known = np.flatnonzero(is_valid(one.video.truth)[1:]) + 1
        known = known[overlap(one.track[known], one.video.truth[known]) >= MATCHED_IOU]
        if not len(known):
            continue
        places = known[np.linspace(0, len(known) - 1, min(count, len(known))).astype(int)]
        frames = {n: frame for n, frame in enumerate(one.video.frames()) if n == 0 or n in places}
        yield one, places, [frames[n] for n in places.tolist()], refiner.look(frames[0], one.video.boxes[0])


def _refine(
    task: TrackingTask, refiner: Refiner, pairs: Sequence[tuple[Video, Array]], tell: Tell, stage: str
) -> list[Refined]:
    """Returns the sequences that have a frame to be scored, refined."""
    found = []
    for number, (video, coarse) in enumerate(pairs):
        tell(stage, number, len(pairs))
        before = Score.of(coarse, video.truth, task.score.count_first)
        if before is not None:
            track = refiner.track(video, coarse)
            after = Score.of(track, video.truth, task.score.count_first)
            assert after is not None
            found.append(Refined(video, coarse, track, before, after))
    tell(stage, len(pairs), len(pairs))
    return found


def _gain(task: TrackingTask, found: Sequence[Refined]) -> Interval:
    units = [one.video.name for one in found]
    before, after = (UnitMeans(units, np.array([[score.auc] for score in scores])) for scores in _sides(found))
    return paired_bootstrap(before, after, ["auc"], task.score.bootstrap)["auc"]


def _sides(found: Sequence[Refined]) -> tuple[list[Score], list[Score]]:
    return [one.before for one in found], [one.after for one in found]


def _set_metrics(
    task: TrackingTask, name: str, found: Sequence[Refined], judged: Interval, judges: int, seed: int
) -> dict[str, float]:
    """Returns the scores of a set of sequences, of the refined boxes if they are accepted, else of the coarse ones."""
    verdict = Verdict(judged, judges, "video")
    accepted = not task.refinement.accept or verdict.answer == "accepted"
    gain = _gain(task, found)
    if task.refinement.accept and not accepted:
        text = f"seed {seed}: the refined boxes of {name} are not reported: validation says {verdict.sentence('AUC')}"
        print(f"ebmbench: {text} (task.refinement.accept=false reports them)", file=sys.stderr, flush=True)
    none = Interval(0.0, 0.0, 0.0)
    return {
        **summary([one.after if accepted else one.before for one in found]),
        "coarse_auc": float(np.mean([one.before.auc for one in found])),
        **(gain if accepted else none).columns("gain"),
        **gain.columns("head_gain"),
        **judged.columns("val_gain"),
        "accepted": float(accepted),
        "sequences": float(len(found)),
    }


def _curves(name: str, seed: int, found: Sequence[Refined]) -> list[dict[str, Any]]:
    rows = []
    for stage, scores in zip(("coarse", "refined"), _sides(found), strict=True):
        for curve in ("success", "precision"):
            mean = np.mean([getattr(score, curve) for score in scores], axis=0)
            places = np.linspace(0, 1, len(mean)) if curve == "success" else PIXELS
            about = {"seed": seed, "set": name, "stage": stage}
            rows += [{**about, "curve": curve, "x": x, "share": y} for x, y in zip(places, mean, strict=True)]
    return rows


def join(run_dir: Path, seeds: Sequence[int], resamples: int) -> Mapping[str, float]:
    """Puts together the tables of the seeds; returns the gain of their mean, its interval over sequences and seeds.

    It can be done again after a kill at any moment.
    """
    for name in ("sequences", "curves"):
        join_seeds(run_dir, name, seeds)
    table = pd.read_csv(run_dir / "sequences.csv")
    row: dict[str, float] = {}
    for number, (name, part) in enumerate(table.groupby("set", sort=False)):
        auc = part.pivot_table(index="sequence", columns=["stage", "seed"], values="auc")
        sides = [
            [UnitMeans(list(auc.index), auc[[(stage, seed)]].to_numpy()) for seed in auc[stage].columns]
            for stage in ("coarse", "refined")
        ]
        gain = joint_bootstrap([(sides[0], sides[1])], ["auc"], resamples)["auc"]
        row |= gain.columns("mean_gain" if number == 0 else f"{name}_mean_gain")
    return row
