"""Figures of a tracking run: strips of frames with their boxes, success and precision plots, training curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ebmbench.display import palette
from ebmbench.display.palette import BASE_COLOR
from ebmbench.display.rendering import Figure as SweepFigure
from ebmbench.display.rendering import Panel, save_pictures
from ebmbench.tasks.base import Setup, SweepResults
from ebmbench.tasks.tracking.coarse import coarse_track
from ebmbench.tasks.tracking.scores import Array
from ebmbench.tasks.tracking.videos import Video, read_boxes

if TYPE_CHECKING:
    from ebmbench.tasks.tracking.task import TrackingTask

SEQUENCES, FRAMES = 5, 6
"""Sequences and frames of each in the strip: those of the largest gains and losses."""


def figures(task: TrackingTask, setup: Setup, run_dir: Path) -> list[Path]:
    """Draws `frames`, `curves` and `training` as PNG and PDF; returns the files."""
    table = pd.read_csv(run_dir / "sequences.csv")
    drawn = {}
    if (run_dir / "history.csv").exists():
        drawn["training"] = _training(setup, pd.read_csv(run_dir / "history.csv"))
    if len(table):
        drawn["curves"] = _curves(setup, pd.read_csv(run_dir / "curves.csv"))
        drawn["frames"] = _frames(task, setup, table, run_dir)
    return save_pictures(drawn, run_dir / "figures")


def _frames(task: TrackingTask, setup: Setup, table: pd.DataFrame, run_dir: Path) -> Figure:
    """The sequences of the first set whose AUC changed most, by the first seed."""
    name, seed = str(table["set"].iloc[0]), int(table["seed"].iloc[0])
    own = table[(table["set"] == name) & (table["seed"] == seed)]
    auc = own.pivot_table(index="sequence", columns="stage", values="auc")
    order = (auc["refined"] - auc["coarse"]).sort_values(ascending=False).index
    shown = [*order[: SEQUENCES - SEQUENCES // 2], *order[SEQUENCES - SEQUENCES // 2 :][-(SEQUENCES // 2) :]]
    videos = {video.name: video for video in task.data.test()[name]}
    color = palette.color(setup.method.name)
    figure = Figure(figsize=(7.2, 1.2 * len(shown) + 0.7), layout="constrained")
    panels = figure.subplots(len(shown), FRAMES, squeeze=False)
    for row, sequence in zip(panels, shown, strict=True):
        video = videos[sequence]
        coarse = coarse_track(task.coarse, video, setup.results_dir)
        refined = read_boxes(run_dir / "tracks" / name / f"{sequence}.{seed}.txt", video.origin)
        boxes = ((video.truth, "white", "-"), (coarse, BASE_COLOR, "--"), (refined, color, "-"))
        _strip(row, video, boxes)
        change = f"{auc['coarse'][sequence]:.0f} → {auc['refined'][sequence]:.0f}"
        row[0].set_title(f"{sequence}: AUC {change}", fontsize="small", loc="left")
    handles = [
        Line2D([], [], color="#b0b0b0", label="true (white)"),
        Line2D([], [], color=BASE_COLOR, linestyle="--", label="coarse tracker"),
        Line2D([], [], color=color, label="refined"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    figure.suptitle(f"{setup.method.name}, {setup.label}, seed {seed}: most gained and most lost", fontsize="medium")
    return figure


def _strip(row: Sequence[Axes], video: Video, tracks: Sequence[tuple[Array, str, str]]) -> None:
    places = np.linspace(0, len(video) - 1, FRAMES).astype(int).tolist()
    for axes in row:
        axes.set_axis_off()
    for number, frame in enumerate(video.frames()):
        for axes in [row[place] for place, chosen in enumerate(places) if chosen == number]:
            axes.imshow(frame, interpolation="nearest")
            for boxes, edge, style in tracks:
                if np.isfinite(boxes[number]).all():
                    x1, y1, x2, y2 = boxes[number]
                    corner, size = (x1 - 0.5, y1 - 0.5), (x2 - x1, y2 - y1)
                    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=edge, linestyle=style, linewidth=1.2))
            axes.set(xlim=(-0.5, frame.shape[1] - 0.5), ylim=(frame.shape[0] - 0.5, -0.5))


def _curves(setup: Setup, table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(7.2, 2.7), layout="constrained")
    name = str(table["set"].iloc[0])
    own = table[table["set"] == name]
    for axes, curve, label in zip(
        figure.subplots(1, 2), ("success", "precision"), ("IoU threshold", "distance of centres, pixels"), strict=True
    ):
        for stage, color, style in (
            ("coarse", BASE_COLOR, "--"), ("refined", palette.color(setup.method.name), "-"),
        ):  # fmt: skip
            part = own[(own["stage"] == stage) & (own["curve"] == curve)]
            for number, (_, rows) in enumerate(part.groupby("seed")):
                score = rows["share"].mean() if curve == "success" else rows["share"].iloc[20]
                text = f"{stage}, {100 * score:.1f}" if number == 0 else None
                axes.plot(rows["x"], rows["share"], color=color, linestyle=style, linewidth=1.2, label=text)
        axes.set(xlabel=label, ylabel=f"{curve}: share of frames", ylim=(0, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small", title="AUC" if curve == "success" else "at 20 pixels")
    figure.suptitle(f"{setup.method.name}, {setup.label}: {name}", fontsize="medium")
    return figure


def _training(setup: Setup, history: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes, color = figure.subplots(), palette.color(setup.method.name)
    for number, (_, rows) in enumerate(history.groupby("seed")):
        for column, style, label in (("loss", "-", "training"), ("val_loss", "--", "validation")):
            axes.plot(
                rows["step"], rows[column], color=color, linewidth=1, linestyle=style,
                marker="o" if len(rows) == 1 else None, label=label if number == 0 else None,
            )  # fmt: skip
    axes.set(xlabel="iteration", ylabel="loss of a box")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    figure.suptitle(f"{setup.method.name}, {setup.label}", fontsize="medium")
    return figure


def sequences(results: SweepResults) -> Iterator[SweepFigure]:
    """The gain of each method on each sequence, the mean of its seeds."""
    table = results.collected("sequences")
    if table is None:
        runs = results.comparison.drop_duplicates("run_id") if len(results.comparison) else results.comparison
        parts = []
        for run in runs.to_dict("records"):
            path = results.folders.get(run["run_id"], Path()) / "sequences.csv"
            if path.is_file():
                auc = pd.read_csv(path).pivot_table(index=["set", "sequence", "seed"], columns="stage", values="auc")
                parts.append(auc.reset_index().assign(label=run["label"], method=run["method"]))
        if not parts:
            return
        keys = ["label", "set", "sequence", "method"]
        table = pd.concat(parts).groupby(keys, sort=False)[["coarse", "refined"]].mean().reset_index()
        table["gain"] = table["refined"] - table["coarse"]
    methods = tuple(str(method) for method in palette.in_order(table["method"]))
    panels = []
    for (label, name), own in table.groupby(["label", "set"], sort=False):
        height = 0.8 + 0.22 * own["sequence"].nunique()
        panels.append(Panel(f"{label}: {name}", partial(_dots, own=own, methods=methods), (3.7, height)))
    caption = (
        "Mean over seeds of what the model gains on each sequence, accepted or not, with the coarse tracker's AUC."
    )
    yield SweepFigure("sequences", "Gain by sequence", caption, tuple(panels), table, methods)


def _dots(axes: Axes, own: pd.DataFrame, methods: Sequence[str]) -> None:
    coarse = own.groupby("sequence")["coarse"].mean().sort_values()
    for method in methods:
        part = own[own["method"] == method].set_index("sequence")["gain"].reindex(coarse.index)
        marker = palette.marker(method)
        axes.plot(part, range(len(coarse)), linestyle="", color=palette.color(method), marker=marker, markersize=4)
    axes.axvline(0, color=BASE_COLOR, linewidth=1)
    axes.set_yticks(range(len(coarse)), [f"{name} ({value:.0f})" for name, value in coarse.items()], fontsize="small")
    axes.set_xlabel("gain in AUC, points")
