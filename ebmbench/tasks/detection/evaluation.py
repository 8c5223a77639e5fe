"""Average precision by pycocotools, as a function of how often each image counts.

What a bootstrap (`boxes.comparison`) needs are the matched detections of each image, which `as_tables` puts into tables
and `from_tables` takes out again: AP and its intervals can be computed anew without the images and the model.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ebmbench.tasks.detection.data import as_coco

AP75_THRESHOLD = 5
"""Index of IoU 0.75 among COCO's thresholds 0.50, 0.55, … 0.95."""
GAINS = ("ap", "ap75")
"""The metrics whose gains have intervals."""
_RECALLS = np.linspace(0, 1, 101)

Detection = dict[str, Any]
"""An entry of COCO's result format: image_id, category_id, bbox (x, y, width, height), score."""


@dataclass(frozen=True)
class _ClassMatches:
    """The detections of one category over all images, by falling score.

    Attributes:
        category: its id.
        score: `[D]`.
        image: `[D]` place of each detection's image.
        true: `[T, D]` matched at IoU threshold t. Those matched to ignored boxes are in neither `true` nor `false`.
        false: `[T, D]`.
        positives: `[I]` boxes to be found in each image.
    """

    category: int
    score: NDArray[np.float64]
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
        image_ids: of the images that were looked at, in order.
    """

    metrics: dict[str, float]
    classes: tuple[_ClassMatches, ...]
    image_ids: tuple[int, ...]

    @property
    def units(self) -> tuple[int, ...]:
        """The images, which a bootstrap draws."""
        return self.image_ids

    def score(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns AP and AP75 with every image counted `weights [I]` times: the metrics of `GAINS`."""
        by_threshold = self.average_precision(weights)
        return np.array([by_threshold.mean(), by_threshold[AP75_THRESHOLD]])

    def average_precision(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """AP in percent at each IoU threshold, `[T]`, with every image counted `weights [I]` times.

        Weights of one give COCOeval's own AP (area all).
        """
        found = (_class_precision(matches, weights) for matches in self.classes)
        rows = [row for row in found if row is not None]
        return 100 * np.mean(rows, axis=0) if rows else np.full(10, np.nan)


def evaluate(
    truth: COCO,
    detections: Sequence[Detection],
    image_ids: Sequence[int],
    by_size: bool = True,
    max_detections: int = 100,
) -> Evaluation:
    """Runs COCOeval on the given images.

    Args:
        max_detections: of an image, those with the highest scores, that count.
        by_size: whether AP is asked for small, medium and large objects too, which takes four times as long.
    """
    found = as_coco(
        truth.dataset["images"],
        [{**d, "area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0} for d in detections],
        {category["id"]: category["name"] for category in truth.dataset["categories"]},
    )
    coco_eval = COCOeval(truth, found, "bbox")
    coco_eval.params.imgIds = sorted(image_ids)
    if not by_size:
        coco_eval.params.areaRng, coco_eval.params.areaRngLbl = coco_eval.params.areaRng[:1], ["all"]
    coco_eval.params.maxDets = [max_detections]
    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval.evaluate()
        coco_eval.accumulate()
    # [thresholds, recalls, categories, areas]; the recall has no second axis. -1: there is nothing to find.
    precision, recall = (coco_eval.eval[name][..., 0] for name in ("precision", "recall"))
    areas = dict(zip(("", "_small", "_medium", "_large"), range(precision.shape[-1]), strict=False))
    metrics = {f"ap{name}": _mean(precision[..., area]) for name, area in areas.items()}
    metrics |= {"ap50": _mean(precision[0, ..., 0]), "ap75": _mean(precision[AP75_THRESHOLD, ..., 0])}
    metrics["ar"] = _mean(recall[..., 0])
    return Evaluation(metrics, _matches(coco_eval), tuple(coco_eval.params.imgIds))


def _mean(values: NDArray[np.float64]) -> float:
    """Returns the mean in percent of what is there, as COCOeval summarises it; NaN where nothing is."""
    there = values[values > -1]
    return float(100 * there.mean()) if there.size else float("nan")


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
                int(params.catIds[k]),
                scores[order].astype(np.float64),
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


# ------------------------------------------------------------------------------------------------------- as tables


def as_tables(stages: Mapping[str, Evaluation], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns a row for each detection of each stage, and a row for each image and category.

    Detections have `true` and `false`: bit t is set where, at the t-th IoU threshold (0.50, 0.55, … 0.95), it is
    matched, or counts as a false one. A stage that found nothing has one row, with neither. Images have `positives`,
    the boxes to be found.
    """
    bits = 2 ** np.arange(10)
    rows = []
    for stage, found in stages.items():
        ids = np.array(found.image_ids)
        parts = found.classes
        if not any(len(part.score) for part in parts):
            nothing = np.zeros((10, 1))
            parts = tuple(
                replace(p, score=nothing[0], image=np.zeros(1, int), true=nothing, false=nothing) for p in parts
            )
        for part in parts:
            columns = {"image_id": ids[part.image], "category_id": part.category, "score": part.score}
            marks = {"true": bits @ part.true, "false": bits @ part.false}
            marks = {name: values.astype(np.int16) for name, values in marks.items()}
            rows.append(pd.DataFrame({"seed": seed, "stage": stage, **columns, **marks}))
    first = next(iter(stages.values()))
    images = [
        pd.DataFrame(
            {"image_id": first.image_ids, "category_id": part.category, "positives": part.positives.astype(int)}
        )
        for part in first.classes
    ]
    detections = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["seed", "stage"])
    return detections, pd.concat(images, ignore_index=True) if images else pd.DataFrame({"image_id": first.image_ids})


def from_tables(detections: pd.DataFrame, images: pd.DataFrame) -> dict[tuple[int, str], Evaluation]:
    """Returns the evaluations behind the two tables of `as_tables`, by seed and stage, with AP as their one metric."""
    ids = np.sort(images["image_id"].unique())
    positives = {
        int(category): part.sort_values("image_id")["positives"].to_numpy(float)
        for category, part in images.groupby("category_id")
    }
    found = {}
    for (seed, stage), of_stage in detections.groupby(["seed", "stage"], sort=False):
        parts = {int(category): part for category, part in of_stage.groupby("category_id", sort=False)}
        classes = []
        for category, expected in positives.items():
            part = parts.get(category, of_stage[:0])
            true, false = (_bits(part[name].to_numpy(np.int64)) for name in ("true", "false"))
            image = np.searchsorted(ids, part["image_id"].to_numpy())
            classes.append(_ClassMatches(category, part["score"].to_numpy(float), image, true, false, expected))
        made = Evaluation({}, tuple(classes), tuple(ids.tolist()))
        ap = float(made.average_precision(np.ones(len(ids))).mean())
        found[int(seed), str(stage)] = Evaluation({"ap": ap}, made.classes, made.image_ids)
    return found


def _bits(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the ten bits of each value, `[10, D]`."""
    return ((values[None] >> np.arange(10)[:, None]) & 1).astype(np.float64)
