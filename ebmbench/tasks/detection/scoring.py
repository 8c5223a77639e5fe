"""Scores a trained head: the base's detections, NMS in the order of f, and refinement, each apart from the others."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ebmbench.core.rng import Streams
from ebmbench.system.files import write_atomically
from ebmbench.tasks.detection.base import Candidates
from ebmbench.tasks.detection.box_nll import box_nll
from ebmbench.tasks.detection.config import InferenceConfig
from ebmbench.tasks.detection.evaluation import Detection, Evaluation, Interval, evaluate, paired_bootstrap
from ebmbench.tasks.detection.features import FeatureStore, ImageFeatures, pyramid
from ebmbench.tasks.detection.head import BoxEnergy, EnergyHead
from ebmbench.tasks.detection.inference import base_detections, detect
from ebmbench.tasks.detection.task import DetectionTask

CANDIDATES_AT_A_TIME = 4096
STEPS_SHOWN = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)
"""Refinement steps after which AP is measured, besides the last."""
STEPWISE_IMAGES = 1000
"""In a split of more images AP is measured before the first and after the last step only."""
SLICE_BOXES, SLICE_POINTS, SLICE_HALF_WIDTH = 6, 81, 0.5
"""Boxes of which f is kept along each coordinate, the points on each line, and how far the lines go."""


@dataclass(frozen=True)
class _Image:
    image_id: int
    features: ImageFeatures
    candidates: Candidates


def score(
    task: DetectionTask, store: FeatureStore, val: FeatureStore | None, head: EnergyHead, seed: int, run_dir: Path
) -> dict[str, float]:
    """Metrics of one seed on the scored split: AP and its kin in percent, NLL in nats.

    Where there is a validation split `val`, the head's boxes are reported only if they gain on it; else the base's.

    Writes into `run_dir` (one file a seed): `detections/{base,nms,refined}.<seed>.json`, in COCO's result format;
    `stages.<seed>.csv`, all metrics of the three; `refinement.<seed>.csv`, AP by step; `energies.<seed>.npz`, f along
    each coordinate of some boxes.
    """
    options = task.inference
    steps = {0, options.steps}
    if len(store.dataset.image_ids) <= STEPWISE_IMAGES:
        steps |= {step for step in STEPS_SHOWN if step < options.steps}
    found = detect_all(task, store, head, sorted(steps))
    base, after, seen = found.base, found.after, found.image_ids
    truth = store.dataset.ground_truth()
    by_step = {step: evaluate(truth, detections, seen) for step, detections in after.items()}
    stages = {"base": evaluate(truth, base, seen), "nms": by_step[0], "refined": by_step[options.steps]}
    (run_dir / "detections").mkdir(exist_ok=True)
    for name, detections in (("base", base), ("nms", after[0]), ("refined", after[options.steps])):
        write_atomically(run_dir / "detections" / f"{name}.{seed}.json", json.dumps(detections).encode())
    _write_table(run_dir / f"stages.{seed}.csv", [{"seed": seed, "stage": k, **e.metrics} for k, e in stages.items()])
    _write_table(
        run_dir / f"refinement.{seed}.csv",
        [{"seed": seed, "step": step, **e.metrics} for step, e in by_step.items()],
    )
    _write_slices(run_dir / f"energies.{seed}.npz", task, store, head)
    row = {**_row(stages, options), **_nll(task, store, head, seed)}
    if val is None:
        return row
    gain = _gain_of(stages, options) if val is store else gain_on(task, val, head)
    return {**row, **_verdict(gain, stages, len(val.dataset.image_ids), seed)}


def gain_on(task: DetectionTask, store: FeatureStore, head: EnergyHead) -> Interval:
    """Returns what a head gains in AP on the base in a split, with its 95 % interval over images."""
    found = detect_all(task, store, head, [task.inference.steps])
    truth = store.dataset.ground_truth()
    parts = {"base": found.base, "refined": found.after[task.inference.steps]}
    stages = {name: evaluate(truth, detections, found.image_ids) for name, detections in parts.items()}
    return _gain_of(stages, task.inference)


def _gain_of(stages: Mapping[str, Evaluation], options: InferenceConfig) -> Interval:
    return paired_bootstrap(stages["base"], stages["refined"], options.bootstrap)["ap"]


def _verdict(gain: Interval, stages: Mapping[str, Evaluation], images: int, seed: int) -> dict[str, float]:
    """Returns what acceptance adds to a row of metrics, and the base's in the place of a head's that is refused."""
    accepted = gain.low > 0
    row = {
        "accepted": float(accepted),
        "val_gain": gain.value,
        "val_gain_low": gain.low,
        "val_gain_high": gain.high,
        "head_ap": stages["refined"].metrics["ap"],
    }
    if accepted:
        return row
    print(
        f"ebmbench: seed {seed}: the head is not accepted: on the {images} images of the validation split it gains "
        f"{gain.value:.1f} AP [{gain.low:.1f}, {gain.high:.1f}], and a gain under {(gain.high - gain.low) / 2:.1f} "
        "cannot be told from none there; the base's boxes are reported (task.inference.accept=false changes that)",
        file=sys.stderr,
        flush=True,
    )
    gains = {f"{name}_gain{end}": 0.0 for name in ("ap", "ap75") for end in ("", "_low", "_high")}
    return {**row, **stages["base"].metrics, **gains}


@dataclass(frozen=True)
class Found:
    """Detections in all images, in COCO's result format.

    Attributes:
        base: the base detector's own.
        after: by refinement step; 0 is NMS in the order of f alone.
        image_ids: of the images that were looked at, with or without detections.
    """

    base: list[Detection]
    after: dict[int, list[Detection]]
    image_ids: list[int]


def detect_all(
    task: DetectionTask,
    store: FeatureStore,
    head: EnergyHead,
    steps: Sequence[int],
    num_images: int | None = None,
) -> Found:
    """Runs inference on a split, or on its first images."""
    options = task.inference
    found = Found([], {step: [] for step in steps}, [])
    for images in _groups(store, options.score_threshold, num_images):
        results = detect(
            head,
            pyramid([image.features for image in images], store.base.strides),
            [image.candidates for image in images],
            options,
            task.head.keep_level,
        )
        for image, result in zip(images, results, strict=True):
            found.image_ids.append(image.image_id)
            found.base.extend(_to_coco(store, image, *base_detections(image.candidates, options)))
            for step in steps:
                found.after[step].extend(_to_coco(store, image, result.boxes[step], result.scores, result.labels))
    return found


def _row(stages: dict[str, Evaluation], options: InferenceConfig) -> dict[str, float]:
    base, nms, refined = (stages[name].metrics for name in ("base", "nms", "refined"))
    gains = paired_bootstrap(stages["base"], stages["refined"], options.bootstrap)
    row = dict(refined)
    row |= {f"base_{name}": base[name] for name in ("ap", "ap50", "ap75")}
    row |= {f"nms_{name}": nms[name] for name in ("ap", "ap75")}
    for name, gain in gains.items():
        row |= {f"{name}_gain": gain.value, f"{name}_gain_low": gain.low, f"{name}_gain_high": gain.high}
    return row


def _groups(store: FeatureStore, score_threshold: float, num_images: int | None) -> Iterator[list[_Image]]:
    """Images with their candidates, so many at a time that the memory is bounded."""
    group: list[_Image] = []
    count = 0
    for index, image_id in enumerate(store.dataset.image_ids[:num_images]):
        features, candidates = store.load(index), store.candidates(index, score_threshold)
        if features is None or candidates is None:
            continue  # a bad image that may be skipped; the dataset counted it
        if group and count + len(candidates.boxes) > CANDIDATES_AT_A_TIME:
            yield group
            group, count = [], 0
        group.append(_Image(image_id, features, candidates))
        count += len(candidates.boxes)
    if group:
        yield group


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


def _write_table(path: Path, rows: Sequence[dict[str, float | int | str]]) -> None:
    write_atomically(path, pd.DataFrame(list(rows)).to_csv(index=False).encode())


def _write_slices(path: Path, task: DetectionTask, store: FeatureStore, head: EnergyHead) -> None:
    """Writes f around the true boxes of the first images, along each relative coordinate: `[boxes, 4, points]`."""
    offsets = torch.linspace(-SLICE_HALF_WIDTH, SLICE_HALF_WIDTH, SLICE_POINTS, device=store.device)
    lines, owners, boxes = [], [], []
    for index, image_id in enumerate(store.dataset.image_ids):
        features = store.load(index)
        if features is None or not len(features.boxes):
            continue
        y = torch.zeros(4, SLICE_POINTS, 4, device=store.device)
        for axis in range(4):
            y[axis, :, axis] = offsets
        largest = (features.boxes[:, 2:] - features.boxes[:, :2]).prod(1).argmax().view(1)
        image = torch.zeros(1, dtype=torch.int64, device=store.device)
        maps = pyramid([features], store.base.strides)
        energy = BoxEnergy(head, maps, features.boxes[largest], image, features.labels[largest], task.head.keep_level)
        with torch.no_grad():
            lines.append(energy(y.view(1, -1, 4)).view(4, SLICE_POINTS).cpu())
        owners.append(image_id)
        boxes.append(features.boxes[largest][0].cpu())
        if len(lines) == SLICE_BOXES:
            break
    if not lines:
        return
    buffer = io.BytesIO()
    np.savez(
        buffer,
        offsets=offsets.cpu().numpy(),
        energies=torch.stack(lines).numpy(),
        image_ids=np.array(owners),
        boxes=torch.stack(boxes).numpy(),
    )
    write_atomically(path, buffer.getvalue())


def _nll(task: DetectionTask, store: FeatureStore, head: EnergyHead, seed: int) -> dict[str, float]:
    """The mean NLL of the first true boxes of the split, and the mean effective sample size behind it."""
    options = task.inference
    chosen: list[ImageFeatures] = []
    count = 0
    for index in range(len(store.dataset.image_ids)):
        if count >= options.nll_boxes:
            break
        image = store.load(index)
        if image is not None and len(image.boxes):
            chosen.append(image)
            count += len(image.boxes)
    if not chosen:
        return {"box_nll": math.nan, "box_nll_ess": math.nan}
    owner = torch.tensor([i for i, image in enumerate(chosen) for _ in range(len(image.boxes))])
    energy = BoxEnergy(
        head,
        pyramid(chosen, store.base.strides),
        torch.cat([image.boxes for image in chosen]),
        owner.to(store.device),
        torch.cat([image.labels for image in chosen]),
        task.head.keep_level,
    )
    draws = Streams([seed], store.device, stacked=False).at(0)
    result = box_nll(energy, len(owner), draws, options.nll_samples)
    return {"box_nll": float(result.nll.mean()), "box_nll_ess": float(result.ess.mean())}
