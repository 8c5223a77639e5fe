"""Scores a trained head: the base's detections, NMS in the order of f, and refinement, each apart from the others."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ebmbench.boxes.acceptance import Verdict
from ebmbench.boxes.calibration import Calibration, calibrate, match, side_levels
from ebmbench.boxes.comparison import Interval, paired_bootstrap
from ebmbench.boxes.energy import BoxEnergy
from ebmbench.boxes.nll import box_nll, fit_temperature
from ebmbench.system import distributed
from ebmbench.system.files import write_atomically
from ebmbench.tasks.detection.architectures import Candidates
from ebmbench.tasks.detection.config import DetectionSettings, InferenceConfig
from ebmbench.tasks.detection.evaluation import GAINS, Detection, Evaluation, as_tables, evaluate
from ebmbench.tasks.detection.features import FeatureStore, ImageFeatures, pyramid
from ebmbench.tasks.detection.head import ClassHead
from ebmbench.tasks.detection.inference import detect, true_boxes
from ebmbench.tasks.detection.nms import base_detections
from ebmbench.tasks.examples import write_examples

PIXELS_AT_A_TIME, IMAGES_AT_A_TIME = 2**23, 32
"""Of images that are looked at together, at most; one at least."""
STEPS_SHOWN = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)
"""Refinement steps after which AP is measured, besides the last."""
STEPWISE_IMAGES = 1000
"""In a split of more images AP is measured before the first and after the last step only."""
STEPWISE_RESAMPLES = 200
"""Of the interval of the gain after each step, at most."""
VALIDATION_IMAGES = 200
"""Images of the validation split that are scored, where it does not decide on acceptance: the first."""
CALIBRATION_BOXES = 128
"""True boxes of the first images of a split, which calibrate the intervals, or on which their coverage is measured."""
COVERAGES = (0.5, 0.9)
"""Levels of the intervals whose coverage is measured."""
ANSWERS = {"accepted": 1.0, "undecided": 0.0, "worse": -1.0}
"""How the column `accepted` says what acceptance answers."""
SLICE_BOXES, SLICE_POINTS, SLICE_HALF_WIDTH = 6, 81, 0.5
"""Boxes of which f is kept along each coordinate, the points on each line, and how far the lines go."""
HEAT_POINTS, HEAT_HALF_WIDTH = 49, 1.5
"""Of the map of f over the places of a box's centre: points along each side, and how many box sizes it goes."""

Tell = Callable[[str, int, int], None]
"""Told of the stage, how many items of it are done, and of how many."""


@dataclass(frozen=True)
class _Image:
    image_id: int
    features: ImageFeatures
    candidates: Candidates


def score(
    task: DetectionSettings,
    store: FeatureStore,
    val: FeatureStore | None,
    head: ClassHead,
    seed: int,
    run_dir: Path,
    diverged: bool,
    tell: Tell,
    verdict: Verdict | None = None,
) -> dict[str, float]:
    """Metrics of one seed on the scored split: AP and its kin in percent, NLL in nats.

    The head's boxes are reported only if they gain, on the validation split `val` or by the verdict of cross-fitting;
    else the base's.

    Writes into `run_dir` (one file a seed): `detections/{base,nms,refined}.<seed>.json`, in COCO's result format;
    `examples.<seed>.*` and `images.*`, the matched detections of each image, for AP and its intervals;
    `stages.<seed>.csv`, all metrics of the three; `refinement.<seed>.csv`, AP by step; `energies.<seed>.npz`, f along
    each coordinate of some boxes.
    """
    options = task.inference
    steps = _measured_steps(task, store)
    found = detect_all(task, store, head, steps, tell=tell, first_boxes=_first_boxes(task))
    truth = store.dataset.ground_truth()
    parts = {"base": found.base, "nms": found.after[0], "refined": found.after[options.steps]}
    most = options.max_detections
    stages = {name: evaluate(truth, boxes, found.image_ids, max_detections=most) for name, boxes in parts.items()}
    (run_dir / "detections").mkdir(exist_ok=True)
    for name, detections in parts.items():
        write_atomically(run_dir / "detections" / f"{name}.{seed}.json", json.dumps(detections).encode())
    _write_table(run_dir / f"stages.{seed}.csv", [{"seed": seed, "stage": k, **e.metrics} for k, e in stages.items()])
    known = {0: stages["nms"], options.steps: stages["refined"]}
    rows: list[dict[str, Any]] = []
    for step in steps:
        after = known.get(step) or evaluate(truth, found.after[step], found.image_ids, False, options.max_detections)
        gain = paired_bootstrap(stages["base"], after, GAINS, min(options.bootstrap, STEPWISE_RESAMPLES))["ap"]
        measured = {name: after.metrics[name] for name in ("ap", "ap50", "ap75", "ar")}
        rows.append({"seed": seed, "step": step, **measured, "ap_low": gain.low, "ap_high": gain.high})
        for end in ("low", "high"):
            rows[-1][f"ap_{end}"] += stages["base"].metrics["ap"]
    _write_table(run_dir / f"refinement.{seed}.csv", rows)
    _write_slices(run_dir / f"energies.{seed}.npz", task, store, found.first, head)
    row = _row(stages, options)
    judged = found if val is store else None if val is None else _detect_validation(task, val, head, tell)
    centred = False
    if val is not None and judged is not None:
        compared = stages if val is store else _base_and_refined(task, val, judged)
        row["val_ap"] = compared["refined"].metrics["ap"]
        if options.accept:
            gain = paired_bootstrap(compared["base"], compared["refined"], GAINS, options.bootstrap)["ap"]
            row |= _verdict(verdict or Verdict(gain, len(compared["base"].image_ids)), stages, row, seed)
            centred = row["accepted"] != 1
    calibration = Calibration()
    if val is not None and judged is not None:
        calibration = _calibration(task, val, judged.first, head, seed, centred, tell)
    write_atomically(run_dir / f"calibration.{seed}.json", (json.dumps(calibration.plain()) + "\n").encode())
    row |= _nll(task, store, found.first, head, seed, calibration.temperature, tell)
    row |= _coverage(task, store, found.first, head, seed, centred, calibration)
    kept = {"base": stages["base"]} if diverged or task.is_broken(row) else dict(stages)
    if centred and "refined" in kept:
        kept["reported"] = stages["base"]
    if options.other_order:
        row |= _other_order(task, store, val, head, tell)
    examples, images = as_tables(kept, seed)
    write_examples(run_dir, examples, f"examples.{seed}")
    write_examples(run_dir, images, "images")
    return row


def _measured_steps(task: DetectionSettings, store: FeatureStore) -> list[int]:
    """Returns the refinement steps after which AP is measured."""
    last = task.inference.steps
    shown = STEPS_SHOWN if len(store.dataset.image_ids) <= STEPWISE_IMAGES else ()
    return sorted({0, last, *(step for step in shown if step < last)})


def _first_boxes(task: DetectionSettings) -> int:
    """Returns how many true boxes the images have that are looked at more closely."""
    return max(task.inference.nll_boxes, CALIBRATION_BOXES)


def _detect_validation(
    task: DetectionSettings, store: FeatureStore, head: ClassHead, tell: Tell = lambda stage, done, total: None
) -> Found:
    count = None if task.inference.accept else VALIDATION_IMAGES
    return detect_all(task, store, head, [task.inference.steps], count, tell, "validation", _first_boxes(task))


def _base_and_refined(task: DetectionSettings, store: FeatureStore, found: Found) -> dict[str, Evaluation]:
    truth = store.dataset.ground_truth()
    parts = {"base": found.base, "refined": found.after[task.inference.steps]}
    most = task.inference.max_detections
    return {name: evaluate(truth, boxes, found.image_ids, False, most) for name, boxes in parts.items()}


def _in_other_order(task: DetectionSettings) -> DetectionSettings:
    order = "score" if task.inference.nms_order == "f" else "f"
    return task.model_copy(update={"inference": task.inference.model_copy(update={"nms_order": order})})


def _other_order(
    task: DetectionSettings, store: FeatureStore, val: FeatureStore | None, head: ClassHead, tell: Tell
) -> dict[str, float]:
    """Returns what the head gains where NMS goes by the other order, and whether it would be accepted."""
    task = _in_other_order(task)
    stages = _base_and_refined(task, store, detect_all(task, store, head, [task.inference.steps], tell=tell))
    gain = paired_bootstrap(stages["base"], stages["refined"], GAINS, task.inference.bootstrap)["ap"]
    row = {"other_ap": stages["refined"].metrics["ap"], **gain.columns("other_gain")}
    if val is not None:
        judged = stages if val is store else _base_and_refined(task, val, _detect_validation(task, val, head, tell))
        gain = paired_bootstrap(judged["base"], judged["refined"], GAINS, task.inference.bootstrap)["ap"]
        row["other_accepted"] = ANSWERS[Verdict(gain, len(judged["base"].image_ids)).answer]
    return row


def _verdict(
    verdict: Verdict, stages: Mapping[str, Evaluation], gains: Mapping[str, float], seed: int
) -> dict[str, float]:
    """Returns what acceptance adds to a row of metrics, and the base's in the place of a head's that is refused."""
    row = {
        "accepted": ANSWERS[verdict.answer],
        **verdict.gain.columns("val_gain"),
        "head_ap": stages["refined"].metrics["ap"],
        **{f"head_gain{end}": gains[f"ap_gain{end}"] for end in ("", "_low", "_high")},
    }
    if verdict.answer == "accepted":
        return row
    print(
        f"ebmbench: seed {seed}: the head is not accepted, and the base's boxes are reported "
        f"(task.inference.accept=false changes that); {verdict.sentence()}",
        file=sys.stderr,
        flush=True,
    )
    none = Interval(0.0, 0.0, 0.0)
    return {**row, **stages["base"].metrics, **none.columns("ap_gain"), **none.columns("ap75_gain")}


@dataclass(frozen=True)
class Found:
    """Detections in all images, in COCO's result format.

    Attributes:
        base: the base detector's own.
        after: by refinement step; 0 is NMS in the order of f alone.
        image_ids: of the images that were looked at, with or without detections.
        first: the first images that have true boxes, so many that they have the number of boxes that was asked for.
    """

    base: list[Detection]
    after: dict[int, list[Detection]]
    image_ids: list[int]
    first: list[_Image]


def detect_all(
    task: DetectionSettings,
    store: FeatureStore,
    head: ClassHead,
    steps: Sequence[int],
    num_images: int | None = None,
    tell: Tell = lambda stage, done, total: None,
    stage: str = "evaluation",
    first_boxes: int = 0,
) -> Found:
    """Runs inference on a split, or on its first images.

    Several processes (torchrun) must all call it: each takes groups of images that follow each other, the same groups
    as one process forms. Rank 0 alone gets what all found.
    """
    rank, world = distributed.world()
    ids = store.dataset.image_ids[:num_images]
    side_short, side_long = task.data.sides
    size = min(max(PIXELS_AT_A_TIME // (side_short * side_long), 1), IMAGES_AT_A_TIME)
    groups = [range(start, min(start + size, len(ids))) for start in range(0, len(ids), size)]
    start, end = (len(groups) * part // world for part in (rank, rank + 1))
    found = Found([], {step: [] for step in steps}, [], [])
    for number, group in enumerate(groups):
        if number >= end and first_boxes <= 0:
            break
        if number < start:
            continue
        tell(stage, world * (group.start - groups[start].start), len(ids))
        following = groups[number + 1] if number + 1 < end else range(0)
        images = _images(store, group, following, task.inference.score_threshold)
        for image in images:
            if rank == 0 and first_boxes > 0 and len(image.features.boxes):
                found.first.append(image)
                first_boxes -= len(image.features.boxes)
        if number < end:
            _detect(task, store, head, images, found)
    parts = distributed.gather_on_leader((found.base, found.after, found.image_ids))
    tell(stage, len(ids), len(ids))
    return Found(
        [box for base, _, _ in parts for box in base],
        {step: [box for _, after, _ in parts for box in after[step]] for step in steps},
        [image_id for _, _, image_ids in parts for image_id in image_ids],
        found.first,
    )


def _images(store: FeatureStore, group: Sequence[int], following: Sequence[int], threshold: float) -> list[_Image]:
    """Returns some images with their candidates, while those that follow are read."""
    store.expect((index, False) for index in (*group, *following))
    made = store.with_candidates(group, threshold)
    # A bad image that may be skipped is left out; the dataset counted it.
    return [_Image(store.dataset.image_ids[i], *one) for i, one in zip(group, made, strict=True) if one is not None]


def _detect(
    task: DetectionSettings, store: FeatureStore, head: ClassHead, images: Sequence[_Image], found: Found
) -> None:
    """Adds to `found` what is detected in some images."""
    if not images:
        return
    maps = pyramid([image.features for image in images], store.base.strides)
    candidates = [image.candidates for image in images]
    results = detect(head, maps, candidates, task.inference, task.head.keep_level)
    for image, result in zip(images, results, strict=True):
        found.image_ids.append(image.image_id)
        found.base.extend(_to_coco(store, image, *base_detections(image.candidates, task.inference)))
        for step, boxes in found.after.items():
            boxes.extend(_to_coco(store, image, result.boxes[step], result.scores, result.labels))


def assist(task: DetectionSettings, store: FeatureStore, val: FeatureStore | None, head: ClassHead) -> None:
    """Does the share of `score` of a process that is not the first."""
    for number, asked in enumerate((task, _in_other_order(task)) if task.inference.other_order else (task,)):
        detect_all(asked, store, head, [asked.inference.steps] if number else _measured_steps(asked, store))
        if val is not None and val is not store:
            _detect_validation(asked, val, head)


def _row(stages: dict[str, Evaluation], options: InferenceConfig) -> dict[str, float]:
    base, nms, refined = (stages[name].metrics for name in ("base", "nms", "refined"))
    gains = paired_bootstrap(stages["base"], stages["refined"], GAINS, options.bootstrap)
    row = dict(refined)
    row |= {f"base_{name}": base[name] for name in ("ap", "ap50", "ap75")}
    row |= {f"nms_{name}": nms[name] for name in ("ap", "ap75")}
    for name, gain in gains.items():
        row |= gain.columns(f"{name}_gain")
    return row


def _to_coco(store: FeatureStore, image: _Image, boxes: Tensor, scores: Tensor, labels: Tensor) -> list[Detection]:
    """Detections mapped back to the image as it was, and cut at its edges."""
    corners = image.features.in_image(boxes)
    rows = torch.cat((corners[:, :2], corners[:, 2:] - corners[:, :2]), dim=1).tolist()
    return [
        {
            "image_id": image.image_id,
            "category_id": store.base.category_ids[label - 1],
            "bbox": [round(value, 3) for value in row],
            "score": round(value, 6),
        }
        for row, value, label in zip(rows, scores.tolist(), labels.tolist(), strict=True)
    ]


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomically(path, pd.DataFrame(list(rows)).to_csv(index=False).encode())


def _write_slices(
    path: Path, task: DetectionSettings, store: FeatureStore, images: Sequence[_Image], head: ClassHead
) -> None:
    """Writes f around the largest true box of the first images, for figures.

    `energies` `[boxes, 4, points]` is f along each relative coordinate, at `offsets`. `heat` `[boxes, grid, grid]` is f
    with the box's centre moved, by rows from top to bottom; `centres` `[boxes, 2, grid]` are the places x and y of the
    centre, and `boxes` `[boxes, 4]` the true boxes, in pixels of the image as it was.
    """
    device = store.device
    offsets = torch.linspace(-SLICE_HALF_WIDTH, SLICE_HALF_WIDTH, SLICE_POINTS, device=device)
    y = torch.zeros(4, SLICE_POINTS, 4, device=device)
    for axis in range(4):
        y[axis, :, axis] = offsets
    moved = torch.linspace(-HEAT_HALF_WIDTH, HEAT_HALF_WIDTH, HEAT_POINTS, device=device)
    grid = torch.zeros(HEAT_POINTS, HEAT_POINTS, 4, device=device)
    grid[..., 1], grid[..., 0] = torch.meshgrid(moved, moved, indexing="ij")
    lines, heat, centres, boxes = [], [], [], []
    for image in images[:SLICE_BOXES]:
        of_image = image.features.boxes
        largest = (of_image[:, 2:] - of_image[:, :2]).prod(1).argmax().view(1)
        energy = true_boxes(task, store.base, [image.features], head).of(largest)
        with torch.no_grad():
            lines.append(energy(y.view(1, -1, 4)).view(4, SLICE_POINTS).cpu())
            heat.append(energy(grid.view(1, -1, 4)).view(HEAT_POINTS, HEAT_POINTS).cpu())
        boxes.append((of_image[largest] * image.features.scale)[0].cpu())
        middle, size = (boxes[-1][:2] + boxes[-1][2:]) / 2, boxes[-1][2:] - boxes[-1][:2]
        centres.append(middle[:, None] + size[:, None] * moved.cpu())
    if not lines:
        return
    buffer = io.BytesIO()
    np.savez(
        buffer,
        offsets=offsets.cpu().numpy(),
        image_ids=np.array([image.image_id for image in images[:SLICE_BOXES]]),
        energies=torch.stack(lines).numpy(),
        heat=torch.stack(heat).numpy(),
        centres=torch.stack(centres).numpy(),
        boxes=torch.stack(boxes).numpy(),
    )
    write_atomically(path, buffer.getvalue())


def _nll(
    task: DetectionSettings,
    store: FeatureStore,
    images: Sequence[_Image],
    head: ClassHead,
    seed: int,
    temperature: float,
    tell: Tell,
) -> dict[str, float]:
    """Returns the mean NLL of true boxes at the temperature and at 1, and what says how well it is known."""
    names = ("box_nll", "box_nll_spread", "box_nll_error", "box_nll_k", "box_nll_ess", "box_nll_raw")
    some = _first(images, task.inference.nll_boxes)
    if not some or not task.inference.nll_boxes:
        return dict.fromkeys(names, math.nan)
    energy = true_boxes(task, store.base, [image.features for image in some], head)
    tell("box NLL", 0, len(energy))
    samples, count = task.inference.nll_samples, len(energy)
    found = box_nll(energy.of, count, seed, store.device, samples, temperature)
    raw = found if temperature == 1 else box_nll(energy.of, count, seed, store.device, samples)
    spread = found.nll.std() / count**0.5 if count > 1 else found.nll.new_tensor(math.nan)
    values = (found.nll.mean(), spread, found.error.mean(), found.k_hat.quantile(0.9), found.ess.quantile(0.1))
    return {name: float(value) for name, value in zip(names, (*values, raw.nll.mean()), strict=True)}


def _first(images: Sequence[_Image], boxes: int) -> list[_Image]:
    """Returns the first images that have so many true boxes together."""
    some: list[_Image] = []
    for image in images:
        if boxes <= 0:
            break
        some.append(image)
        boxes -= len(image.features.boxes)
    return some


def _calibration(
    task: DetectionSettings,
    store: FeatureStore,
    images: Sequence[_Image],
    head: ClassHead,
    seed: int,
    centred: bool,
    tell: Tell,
) -> Calibration:
    """Returns the temperature, and the levels of intervals, by the first images of the validation split."""
    if not images:
        return Calibration()
    tell("calibration", 0, len(images))
    energy = true_boxes(task, store.base, [image.features for image in images], head)
    temperature = fit_temperature(energy.of, len(energy), seed, store.device)
    reported, true = _matched(task, store, images, head, centred)
    return calibrate(temperature, [side_levels(reported, true, seed, temperature, centred)])


def _coverage(
    task: DetectionSettings,
    store: FeatureStore,
    images: Sequence[_Image],
    head: ClassHead,
    seed: int,
    centred: bool,
    calibration: Calibration,
) -> dict[str, float]:
    """Returns the share of true sides within the intervals of detections, as calibrated and by f as it is."""
    row = {"temperature": calibration.temperature}
    reported, true = _matched(task, store, images, head, centred)
    for name, used in (("", calibration), ("_raw", Calibration())):
        levels = side_levels(reported, true, seed, used.temperature, centred)
        for level in COVERAGES:
            held = (levels <= used.level(level)).double().mean() if len(levels) else torch.tensor(math.nan)
            row[f"coverage{round(100 * level)}{name}"] = float(held)
    return row


def _matched(
    task: DetectionSettings, store: FeatureStore, images: Sequence[_Image], head: ClassHead, base: bool
) -> tuple[BoxEnergy, Tensor]:
    """Returns the energy of the reported detections that stand for true boxes, and these, `[N, 4]`.

    Args:
        base: the base's detections are reported.
    """
    maps = pyramid([image.features for image in images], store.base.strides)
    candidates = [image.candidates for image in images]
    if base:
        found = [base_detections(one, task.inference) for one in candidates]
    else:
        results = detect(head, maps, candidates, task.inference, task.head.keep_level)
        found = [(one.boxes[-1], one.scores, one.labels) for one in results]
    boxes, owners, classes, true = [], [], [], []
    for place, (image, (corners, scores, labels)) in enumerate(zip(images, found, strict=True)):
        kept, of = match(corners, scores, labels, image.features.boxes, image.features.labels)
        boxes.append(corners[kept])
        owners.append(torch.full_like(kept, place))
        classes.append(labels[kept])
        true.append(image.features.boxes[of])
    reference, context = torch.cat(boxes), torch.cat(classes)
    return BoxEnergy(head, maps, reference, torch.cat(owners), context, task.head.keep_level), torch.cat(true)
