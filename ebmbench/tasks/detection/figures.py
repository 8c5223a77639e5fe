"""Figures of a detection run: boxes that changed, the energy around a box, AP by refinement step, training curves."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pycocotools import mask
from pycocotools.coco import COCO

from ebmbench.core.errors import counted
from ebmbench.display import palette
from ebmbench.display.palette import BASE_COLOR, TRUTH_COLOR
from ebmbench.display.rendering import save_pictures
from ebmbench.tasks.base import Setup
from ebmbench.tasks.detection.config import DetectionSettings
from ebmbench.tasks.detection.data import Dataset, open_split
from ebmbench.tasks.detection.evaluation import Detection
from ebmbench.tasks.examples import read_arrays

SHOWN_BOXES = 8
FOUND_IOU = 0.5
"""Overlap with its true box from which a detection has found it."""
SHOWN_SCORE = 0.5
"""Class score from which a detection is drawn."""
COORDINATES = ("centre x / width", "centre y / height", "log width", "log height")


def figures(task: DetectionSettings, setup: Setup, run_dir: Path) -> list[Path]:
    """Draws `boxes`, `energy`, `heat`, `refinement` and `training` as PNG and PDF; returns the files.

    What there is nothing for is not drawn, such as `boxes` where no true box was found both before and after.
    """
    drawn: dict[str, Figure] = {}
    seed = next((s for s in setup.seeds if (run_dir / "detections" / f"refined.{s}.json").exists()), None)
    if seed is not None:
        dataset = open_split(task.data, task.data.eval_split)
        stages = (json.loads((run_dir / "detections" / f"{n}.{seed}.json").read_text()) for n in ("base", "refined"))
        found = changes(dataset.ground_truth(), *stages)
        if found:
            drawn["boxes"] = _boxes(dataset, found, setup, seed)
    if seed is not None and (run_dir / f"energies.{seed}.npz").exists():
        arrays = read_arrays(run_dir / f"energies.{seed}.npz")
        drawn["energy"] = _energy(setup, arrays, seed)
        drawn["heat"] = _heat(task, setup, arrays, seed)
    if (run_dir / "refinement.csv").exists() and (run_dir / "stages.csv").exists():
        order = "f" if task.inference.nms_order == "f" else "class score"
        tables = (pd.read_csv(run_dir / f"{name}.csv") for name in ("refinement", "stages"))
        drawn["refinement"] = _refinement(setup, order, *tables)
    if (run_dir / "history.csv").exists():
        drawn["training"] = _training(setup, pd.read_csv(run_dir / "history.csv"))
    return save_pictures(drawn, run_dir / "figures")


def _title(setup: Setup) -> str:
    return f"{setup.method.name}, {setup.label}"


@dataclass(frozen=True)
class _Change:
    """What became of a true box: the detection of its class that fits it best, before and after.

    Attributes:
        true, before, after: x, y, width, height.
        scores: the class scores of the two detections.
        overlaps: IoU with the true box.
    """

    image_id: int
    name: str
    true: list[float]
    before: list[float]
    after: list[float]
    scores: tuple[float, float]
    overlaps: tuple[float, float]

    @property
    def gain(self) -> float:
        return self.overlaps[1] - self.overlaps[0]


def changes(truth: COCO, before: list[Detection], after: list[Detection]) -> list[_Change]:
    """Returns what became of the true boxes that both sets of detections found, the largest change in IoU first."""
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    parts = [_by_class(before), _by_class(after)]
    found = []
    for annotation in truth.dataset["annotations"]:
        best = []
        for part in parts:
            of_class = part.get((annotation["image_id"], annotation["category_id"]), [])
            overlaps = mask.iou([d["bbox"] for d in of_class], [annotation["bbox"]], [0]) if of_class else []
            if len(overlaps) and max(overlaps) >= FOUND_IOU:
                best.append((of_class[int(np.argmax(overlaps))], float(np.max(overlaps))))
        if len(best) == 2 and not annotation["iscrowd"]:
            (first, low), (second, high) = best
            found.append(
                _Change(
                    annotation["image_id"], names[annotation["category_id"]], annotation["bbox"], first["bbox"],
                    second["bbox"], (first["score"], second["score"]), (low, high),
                )
            )  # fmt: skip
    return sorted(found, key=lambda change: -abs(change.gain))


def _by_class(detections: list[Detection]) -> dict[tuple[int, int], list[Detection]]:
    """Returns the detections that are sure enough to be drawn, by image and category."""
    found: dict[tuple[int, int], list[Detection]] = defaultdict(list)
    for detection in detections:
        if detection["score"] >= SHOWN_SCORE:
            found[detection["image_id"], detection["category_id"]].append(detection)
    return found


def _boxes(dataset: Dataset, found: list[_Change], setup: Setup, seed: int) -> Figure:
    """The true boxes whose detection changed most, better or worse, one of an image."""
    one_of_each = list({change.image_id: change for change in reversed(found)}.values())
    shown = sorted(one_of_each, key=lambda change: -abs(change.gain))[:SHOWN_BOXES]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    panels = list(figure.subplots(2, 4).flat)
    color = palette.color(setup.method.name)
    for axes in panels:
        axes.set_axis_off()
    places = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
    for axes, change in zip(panels, shown, strict=False):
        example = dataset.load(places[change.image_id])
        if example is None:
            continue
        axes.imshow(example.image.permute(1, 2, 0).numpy(), interpolation="nearest")
        for box, edge, style, width in (
            (change.true, "white", "-", 3.0),
            (change.true, "black", "-", 1.2),
            (change.before, BASE_COLOR, "--", 1.6),
            (change.after, color, "-", 1.6),
        ):
            _draw(axes, box, edge, style, width)
        _zoom(axes, [change.true, change.before, change.after], example.image.shape[-1], example.image.shape[-2])
        scores, overlaps = change.scores, change.overlaps
        score = f"{scores[0]:.2f}" + ("" if abs(scores[1] - scores[0]) < 0.005 else f" → {scores[1]:.2f}")
        axes.set_title(f"{change.name} {score}\nIoU {overlaps[0]:.2f} → {overlaps[1]:.2f}", fontsize="small")
    handles = [
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=edge, linestyle=style, label=label)
        for edge, style, label in (
            ("black", "-", "true"),
            (BASE_COLOR, "--", f"base detector (score ≥ {SHOWN_SCORE})"),
            (color, "-", "refined"),
        )
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    gains = np.array([change.gain for change in found])
    boxes = counted(len(found), "box", "boxes")
    about = f"{boxes}; IoU rose for {np.mean(gains > 0):.0%}, by {gains.mean():+.3f} in the mean"
    figure.suptitle(f"{_title(setup)}, seed {seed}: largest changes\nof {about}", fontsize="medium")
    return figure


def _zoom(axes: Axes, boxes: list[list[float]], width: int, height: int) -> None:
    """Shows a square around boxes, with a margin of a quarter, kept inside the image."""
    low = np.min([[x, y] for x, y, _, _ in boxes], axis=0)
    high = np.max([[x + w, y + h] for x, y, w, h in boxes], axis=0)
    side = min(1.5 * float(max(high - low)), float(min(width, height)))
    start = np.clip((low + high) / 2 - side / 2, 0, np.maximum(np.array([width, height]) - side, 0))
    axes.set(xlim=(start[0] - 0.5, start[0] + side - 0.5), ylim=(start[1] + side - 0.5, start[1] - 0.5))


def _heat(task: DetectionSettings, setup: Setup, arrays: dict[str, np.ndarray], seed: int) -> Figure:
    """Draws f over the places of a box's centre, its size unchanged: what refinement climbs."""
    dataset = open_split(task.data, task.data.eval_split)
    places = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    panels = list(figure.subplots(2, 3).flat)
    levels = [-10.0, -3.0, -1.0]
    shown = None
    for axes in panels:
        axes.set_axis_off()
    for axes, image_id, heat, (x, y), box in zip(
        panels, arrays["image_ids"], arrays["heat"], arrays["centres"], arrays["boxes"], strict=False
    ):
        example = dataset.load(places[int(image_id)])
        if example is None:
            continue
        axes.imshow(example.image.permute(1, 2, 0).numpy(), interpolation="nearest")
        height, width = example.image.shape[-2:]
        inside = np.where((y[:, None] >= 0) & (y[:, None] <= height) & (x >= 0) & (x <= width), heat, np.nan)
        depth = inside - np.nanmax(inside)
        shown = axes.pcolormesh(x - 0.5, y - 0.5, depth, cmap="magma", vmin=-60, vmax=0, alpha=0.6, shading="nearest")
        axes.contour(x - 0.5, y - 0.5, depth, levels=levels, colors="white", linewidths=0.8)
        x1, y1, x2, y2 = box.tolist()
        for edge, width_of_line in (("white", 2.6), ("black", 1.0)):
            _draw(axes, [x1, y1, x2 - x1, y2 - y1], edge, "-", width_of_line)
        axes.plot((x1 + x2) / 2 - 0.5, (y1 + y2) / 2 - 0.5, marker="+", color="cyan", ms=8, mew=1.2)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if shown is not None:
        figure.colorbar(shown, ax=panels, shrink=0.7, label="f − its maximum  (nats)")
    about = "+: the true one; lines: 1, 3 and 10 nats below the top"
    figure.suptitle(f"{_title(setup)}, seed {seed}: f by the place of the box's centre\n({about})", fontsize="medium")
    return figure


def _draw(axes: Axes, box: list[float], color: str, style: str, width: float) -> None:
    x, y, w, h = box
    # A pixel's centre is at its number in imshow, its left edge at its number in boxes.
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=color, linestyle=style, linewidth=width))


def _energy(setup: Setup, arrays: dict[str, np.ndarray], seed: int) -> Figure:
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    color = palette.color(setup.method.name)
    energies = arrays["energies"].astype(float)
    middle = energies[..., energies.shape[-1] // 2, None]
    for axis, axes in enumerate(panels.flat):
        for line in (energies - middle)[:, axis]:
            axes.plot(arrays["offsets"], line, color=color, linewidth=1, alpha=0.6)
        axes.axvline(0, color=TRUTH_COLOR, linewidth=1, linestyle="--")
        axes.set_title(COORDINATES[axis], fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("offset from the true box")
    for axes in panels[:, 0]:
        axes.set_ylabel("f − f(true box)  (nats)")
    figure.suptitle(f"{_title(setup)}, seed {seed}: {counted(len(energies), 'box', 'boxes')}", fontsize="medium")
    return figure


def _refinement(setup: Setup, order: str, table: pd.DataFrame, stages: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    color = palette.color(setup.method.name)
    base = stages[stages["stage"] == "base"]
    for axes, column, label in zip(figure.subplots(1, 2), ("ap", "ap75"), ("AP (%)", "AP75 (%)"), strict=True):
        for number, (_, rows) in enumerate(table.groupby("seed")):
            axes.plot(
                rows["step"], rows[column], color=color, marker="o", markersize=3, linewidth=1,
                label=f"NMS by {order}, then refinement" if number == 0 else None,
            )  # fmt: skip
            if f"{column}_low" in rows:
                axes.fill_between(
                    rows["step"], rows[f"{column}_low"], rows[f"{column}_high"], color=color, alpha=0.15, linewidth=0,
                    label="95 % interval of its gain" if number == 0 else None,
                )  # fmt: skip
        axes.axhline(base[column].iloc[0], color=BASE_COLOR, linestyle="--", label="base detector")
        axes.set(xlabel="refinement steps", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize="small")
    figure.suptitle(_title(setup), fontsize="medium")
    return figure


def _training(setup: Setup, history: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    color = palette.color(setup.method.name)
    losses, norms = figure.subplots(1, 2, sharex=True)
    for number, (_, rows) in enumerate(history.groupby("seed")):
        label = "training" if number == 0 else None
        marker = "o" if len(rows) == 1 else None
        losses.plot(rows["step"], rows["loss"], color=color, linewidth=1, marker=marker, label=label)
        norms.plot(rows["step"], rows["grad_norm"], color=color, linewidth=1, marker=marker)
        if "val_loss" in rows:
            label = "validation" if number == 0 else None
            losses.plot(
                rows["step"], rows["val_loss"], color=color, linewidth=1, linestyle="--", marker=marker, mfc="none",
                label=label,
            )  # fmt: skip
    losses.legend(frameon=False, fontsize="small")
    for axes, name in ((losses, "loss of a box"), (norms, "gradient norm")):
        axes.set(xlabel="iteration", ylabel=name)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(setup), fontsize="medium")
    return figure
