"""Figures of a detection run: boxes in images, the energy around a box, AP by refinement step, training curves."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ebmbench.display import palette
from ebmbench.display.palette import BASE_COLOR, TRUTH_COLOR
from ebmbench.display.rendering import save_pictures
from ebmbench.tasks.base import Setup
from ebmbench.tasks.detection.data import open_split
from ebmbench.tasks.detection.task import DetectionTask

SHOWN_IMAGES = 6
SHOWN_SCORE = 0.5
"""Class score from which a detection is drawn."""
COORDINATES = ("centre x / width", "centre y / height", "log width", "log height")


def figures(task: DetectionTask, setup: Setup, run_dir: Path) -> list[Path]:
    """Draws `boxes`, `energy`, `refinement` and `training` as PNG and PDF; returns the files."""
    drawn: dict[str, Figure] = {}
    seed = next((s for s in setup.seeds if (run_dir / "detections" / f"refined.{s}.json").exists()), None)
    if seed is not None:
        drawn["boxes"] = _boxes(task, setup, run_dir, seed)
    if seed is not None and (run_dir / f"energies.{seed}.npz").exists():
        drawn["energy"] = _energy(setup, dict(np.load(run_dir / f"energies.{seed}.npz", allow_pickle=False)), seed)
    if (run_dir / "refinement.csv").exists() and (run_dir / "stages.csv").exists():
        drawn["refinement"] = _refinement(
            setup, pd.read_csv(run_dir / "refinement.csv"), pd.read_csv(run_dir / "stages.csv")
        )
    if (run_dir / "history.csv").exists():
        drawn["training"] = _training(setup, pd.read_csv(run_dir / "history.csv"))
    return save_pictures(drawn, run_dir / "figures")


def _title(setup: Setup) -> str:
    return f"{setup.method.name}, {setup.label}"


def _read(path: Path) -> dict[int, list[dict[str, Any]]]:
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for detection in json.loads(path.read_text()):
        if detection["score"] >= SHOWN_SCORE:
            by_image[detection["image_id"]].append(detection)
    return by_image


def _boxes(task: DetectionTask, setup: Setup, run_dir: Path, seed: int) -> Figure:
    """The first images with several detections: true, base and refined boxes."""
    dataset = open_split(task.data, task.data.eval_split)
    base = _read(run_dir / "detections" / f"base.{seed}.json")
    refined = _read(run_dir / "detections" / f"refined.{seed}.json")
    order = sorted(range(len(dataset.image_ids)), key=lambda i: len(refined.get(dataset.image_ids[i], ())) < 2)
    chosen = [(i, example) for i in order[:SHOWN_IMAGES] if (example := dataset.load(i)) is not None]
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    panels = list(figure.subplots(2, 3).flat)
    color = palette.color(setup.method.name)
    for axes in panels:
        axes.set_axis_off()
    for axes, (index, example) in zip(panels, chosen, strict=False):
        image_id = dataset.image_ids[index]
        axes.imshow(example.image.permute(1, 2, 0).numpy(), interpolation="nearest")
        for x1, y1, x2, y2 in example.boxes.tolist():
            _draw(axes, [x1, y1, x2 - x1, y2 - y1], "white", "-", 2.6)
            _draw(axes, [x1, y1, x2 - x1, y2 - y1], "black", "-", 1.0)
        for detection in base.get(image_id, ()):
            _draw(axes, detection["bbox"], BASE_COLOR, "--", 1.2)
        for detection in refined.get(image_id, ()):
            _draw(axes, detection["bbox"], color, "-", 1.2)
    handles = [
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=edge, linestyle=style, label=label)
        for edge, style, label in (
            ("black", "-", "true"),
            (BASE_COLOR, "--", f"base detector (score ≥ {SHOWN_SCORE})"),
            (color, "-", "refined"),
        )
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    figure.suptitle(f"{_title(setup)}, seed {seed}", fontsize="medium")
    return figure


def _draw(axes: Any, box: list[float], color: str, style: str, width: float) -> None:
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
    figure.suptitle(f"{_title(setup)}, seed {seed}: {len(energies)} boxes", fontsize="medium")
    return figure


def _refinement(setup: Setup, table: pd.DataFrame, stages: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    color = palette.color(setup.method.name)
    base = stages[stages["stage"] == "base"]
    for axes, column, label in zip(figure.subplots(1, 2), ("ap", "ap75"), ("AP (%)", "AP75 (%)"), strict=True):
        for number, (_, rows) in enumerate(table.groupby("seed")):
            axes.plot(
                rows["step"], rows[column], color=color, marker="o", markersize=3, linewidth=1,
                label="NMS by f, then refinement" if number == 0 else None,
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
    for axes, column, label in zip(
        figure.subplots(1, 2, sharex=True), ("loss", "grad_norm"), ("training loss", "gradient norm"), strict=True
    ):
        for _, rows in history.groupby("seed"):
            axes.plot(rows["step"], rows[column], color=color, linewidth=1)
        axes.set(xlabel="iteration", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(setup), fontsize="medium")
    return figure
