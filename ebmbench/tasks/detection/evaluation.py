"""Average precision by pycocotools, and a paired bootstrap over images for the difference of two sets of detections."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ebmbench.tasks.detection.data import as_coco

AP75_THRESHOLD = 5
"""Index of IoU 0.75 among COCO's thresholds 0.50, 0.55, … 0.95."""
_RECALLS = np.linspace(0, 1, 101)

Detection = dict[str, Any]
"""An entry of COCO's result format: image_id, category_id, bbox (x, y, width, height), score."""


@dataclass(frozen=True)
class _ClassMatches:
    """The detections of one category over all images, by falling score.

    Attributes:
        image: `[D]` place of each detection's image.
        true: `[T, D]` matched at IoU threshold t. Those matched to ignored boxes are in neither `true` nor `false`.
        false: `[T, D]`.
        positives: `[I]` boxes to be found in each image.
    """

    image: NDArray[np.int64]
    true: NDArray[np.float64]
    false: NDArray[np.float64]
    positives: NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What COCOeval says of one set of detections.

    Attributes:
        metrics: ap, ap50, ap75, ap_small, ap_medium, ap_large, ar, in percent; NaN where there is nothing to find.
        classes: what the bootstrap needs, per category.
    """

    metrics: dict[str, float]
    classes: tuple[_ClassMatches, ...]

    def average_precision(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """AP in percent at each IoU threshold, `[T]`, with every image counted `weights [I]` times.

        Weights of one give COCOeval's own AP (area all, 100 detections an image).
        """
        found = (_class_precision(matches, weights) for matches in self.classes)
        rows = [row for row in found if row is not None]
        return 100 * np.mean(rows, axis=0) if rows else np.full(10, np.nan)


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % interval."""

    value: float
    low: float
    high: float


def evaluate(truth: COCO, detections: Sequence[Detection], image_ids: Sequence[int]) -> Evaluation:
    """COCOeval on the given images."""
    found = as_coco(
        truth.dataset["images"],
        [{**d, "area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0} for d in detections],
        {category["id"]: category["name"] for category in truth.dataset["categories"]},
    )
    coco_eval = COCOeval(truth, found, "bbox")
    coco_eval.params.imgIds = sorted(image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    values = [*coco_eval.stats[:6], coco_eval.stats[8]]  # 8: AR with 100 detections an image
    metrics = {
        name: float(100 * value) if value >= 0 else float("nan")
        for name, value in zip((*names, "ar"), values, strict=True)
    }
    return Evaluation(metrics, _matches(coco_eval))


def _matches(coco_eval: COCOeval) -> tuple[_ClassMatches, ...]:
    params = coco_eval.params
    num_images, num_areas = len(params.imgIds), len(params.areaRng)
    classes = []
    for k in range(len(params.catIds)):
        start = k * num_areas * num_images  # area "all" comes first
        entries = coco_eval.evalImgs[start : start + num_images]
        positives = np.array([0.0 if e is None else np.sum(np.asarray(e["gtIgnore"]) == 0) for e in entries])
        present = [(i, e) for i, e in enumerate(entries) if e is not None]
        if not present:
            continue
        scores = np.concatenate([e["dtScores"] for _, e in present])
        order = np.argsort(-scores, kind="mergesort")  # as COCOeval breaks ties
        matched = np.concatenate([e["dtMatches"] for _, e in present], axis=1)[:, order] > 0
        ignored = np.concatenate([e["dtIgnore"] for _, e in present], axis=1)[:, order].astype(bool)
        image = np.concatenate([np.full(len(e["dtScores"]), i) for i, e in present]).astype(np.int64)[order]
        classes.append(
            _ClassMatches(
                image,
                (matched & ~ignored).astype(np.float64),
                (~matched & ~ignored).astype(np.float64),
                positives,
            )
        )
    return tuple(classes)


def _class_precision(matches: _ClassMatches, weights: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Mean precision over COCO's 101 recalls at each threshold, `[T]`; None without a box to be found."""
    total = float(matches.positives @ weights)
    if total == 0:
        return None
    each = weights[matches.image]
    kept = each > 0
    true = np.cumsum(matches.true[:, kept] * each[kept], axis=1)
    false = np.cumsum(matches.false[:, kept] * each[kept], axis=1)
    precision = true / np.maximum(true + false, np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true / total
    result = np.zeros(len(true))
    for t in range(len(true)):
        place = np.searchsorted(recall[t], _RECALLS, side="left")
        result[t] = precision[t, place[place < precision.shape[1]]].sum() / len(_RECALLS)
    return result


def paired_bootstrap(base: Evaluation, refined: Evaluation, resamples: int, seed: int = 0) -> dict[str, Interval]:
    """95 % intervals of refined − base in AP ("ap") and AP75 ("ap75"), images drawn with replacement.

    Both are scored on the same resampled images, so what an image does to both cancels.
    """
    num_images = len(base.classes[0].positives)
    rng = np.random.default_rng(seed)

    def difference(weights: NDArray[np.float64]) -> tuple[float, float]:
        change = refined.average_precision(weights) - base.average_precision(weights)
        return float(change.mean()), float(change[AP75_THRESHOLD])

    centre = difference(np.ones(num_images))
    draws = np.array(
        [
            difference(np.bincount(rng.integers(num_images, size=num_images), minlength=num_images).astype(float))
            for _ in range(resamples)
        ]
    ).reshape(-1, 2)
    intervals = {}
    for column, name in enumerate(("ap", "ap75")):
        low, high = np.nanpercentile(draws[:, column], [2.5, 97.5]) if resamples else (np.nan, np.nan)
        intervals[name] = Interval(centre[column], float(low), float(high))
    return intervals
