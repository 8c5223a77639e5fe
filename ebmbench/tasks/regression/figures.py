"""Figures of a run of `task=regression`: predicted densities, calibration, errors against uncertainty, training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ebmbench.core.errors import counted
from ebmbench.display import palette
from ebmbench.display.palette import TRUTH_COLOR
from ebmbench.display.rendering import save_pictures
from ebmbench.tasks.examples import read_arrays, read_examples
from ebmbench.tasks.regression import plane_figures

OBSERVED_COLOR = "#000000"
BINS = 20
"""Of the PIT histogram."""
GROUPS = 10
"""Of test rows, by their stated uncertainty."""


def figures(method: str, data: str, run_dir: Path) -> list[Path]:
    """Draws `predictions`, `calibration` and `training` as PNG and PDF; returns the files.

    Where there is one input, also `density` and `slices`.

    Args:
        method: its name.
        data: what the title calls the dataset.
    """
    about = json.loads((run_dir / "model.json").read_text())
    pictures = read_arrays(run_dir / "pictures.npz")
    title, color = f"{method}, {data}", palette.color(method)
    drawn = {
        "predictions": _predictions(title, color, pictures, about["targets"]),
        "calibration": _calibration(title, color, run_dir, about["targets"]),
    }
    if (run_dir / "densities.npz").exists():
        points = pd.DataFrame({name: pictures[f"test_{name}"] for name in ("x", "y")})
        names = [*about["features"], *about["targets"]]
        drawn |= plane_figures.figures(method, data, points, read_arrays(run_dir / "densities.npz"), names)
    if (run_dir / "history.csv").exists():
        drawn["training"] = _training(title, color, pd.read_csv(run_dir / "history.csv"))
    return save_pictures(drawn, run_dir / "figures")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _predictions(title: str, color: str, pictures: dict[str, Any], targets: list[str]) -> Figure:
    """A panel for each chosen test row; an image stands above its panel."""
    count = len(pictures["rows"])
    images = pictures.get("images")
    columns = min(4, count)
    lines = -(-count // columns)
    heights = [1.1, 1.4] * lines if images is not None else [1.0] * lines
    figure = Figure(
        figsize=(1.9 * columns + 0.4, (2.6 if images is not None else 1.75) * lines + 0.6), layout="constrained"
    )
    panels = figure.subplots(len(heights), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    step = 2 if images is not None else 1
    for axes in panels.flat:
        axes.set_axis_off()
    for index in range(count):
        line, column = divmod(index, columns)
        if images is not None:
            _picture(panels[2 * line, column], images[index])
        axes = panels[step * line + step - 1, column]
        axes.set_axis_on()
        (_curves if "model" in pictures else _clouds)(axes, color, pictures, index)
        _plain(axes)
        axes.tick_params(labelsize="x-small")
        axes.set_title(f"row {pictures['rows'][index]}", fontsize="small")
    one = "model" in pictures
    for axes in panels[-1] if count == columns * lines else panels[step * lines - 1]:
        axes.set_xlabel(targets[0], fontsize="small")
    for line in range(lines):
        label = "p(y | x)" if one else targets[1]
        panels[step * line + step - 1, 0].set_ylabel(label, fontsize="small")
    handles = dict(zip(*reversed(panels[step - 1, 0].get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize="small"
    )
    figure.suptitle(title, fontsize="medium")
    return figure


def _picture(axes: Axes, image: np.ndarray) -> None:
    low, high = float(image.min()), float(image.max())
    shown = ((image - low) / max(high - low, 1e-9)).transpose(1, 2, 0)
    axes.imshow(shown[..., 0] if shown.shape[2] == 1 else shown[..., :3], cmap="gray", vmin=0, vmax=1)


def _curves(axes: Axes, color: str, pictures: dict[str, Any], index: int) -> None:
    """The densities of one target, by every seed that did not diverge."""
    y, good = pictures["y"][index], pictures["good"]
    if "true" in pictures:
        axes.fill_between(y, pictures["true"][index], color=TRUTH_COLOR, alpha=0.35, lw=0, label="true")
    seeds = int(good.sum())
    for number, density in enumerate(pictures["model"][good][:, index]):
        label = f"learned ({counted(seeds, 'seed')})" if number == 0 else None
        axes.plot(y, density, color=color, lw=1, alpha=max(0.35, 1 / seeds), label=label)
    axes.axvline(pictures["observed"][index, 0], color=OBSERVED_COLOR, lw=0.9, ls=(0, (3, 2)), label="observed")
    axes.set_xlim(y[0], y[-1])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(3))


def _clouds(axes: Axes, color: str, pictures: dict[str, Any], index: int) -> None:
    """The first two of several targets, as draws of the first seed that did not diverge."""
    if "true_points" in pictures:
        true = pictures["true_points"][index]
        axes.scatter(true[:, 0], true[:, 1], s=3, color=TRUTH_COLOR, alpha=0.4, lw=0, label="true")
    for points in pictures["points"][pictures["good"]][:1, index]:
        axes.scatter(points[:, 0], points[:, 1], s=5, color=color, alpha=0.7, lw=0, label="learned (first seed)")
    axes.plot(*pictures["observed"][index, :2], "x", color=OBSERVED_COLOR, ms=5, label="observed")


def _calibration(title: str, color: str, run_dir: Path, targets: list[str]) -> Figure:
    """Coverage at each level, the PIT's histogram, and errors against stated uncertainty."""
    figure = Figure(figsize=(7.6, 2.7), layout="constrained")
    curve, histogram, errors = figure.subplots(1, 3)
    table = pd.read_csv(run_dir / "calibration.csv").dropna()
    examples = read_examples(run_dir).dropna(subset=["log_prob"])
    several = len(targets) > 1
    curve.plot([0, 1], [0, 1], color=TRUTH_COLOR, lw=2, alpha=0.7)
    seeds = table["seed"].nunique()
    for _, part in table.groupby("seed"):
        curve.plot(part["level"], part["coverage"], color=color, lw=1, alpha=max(0.35, 1 / max(1, seeds)))
    region = "region of highest density" if several else "central interval"
    curve.set(xlabel=f"level of the {region}", ylabel="share of test rows inside", xlim=(0, 1), ylim=(0, 1))
    histogram.hist(examples["pit"], bins=np.linspace(0, 1, BINS + 1), density=True, color=color, alpha=0.7)
    histogram.axhline(1, color=TRUTH_COLOR, lw=2, alpha=0.7)
    histogram.set(
        xlabel="mass above the observation's density" if several else "PIT, F(y | x)", ylabel="test rows, density"
    )
    histogram.set_xlim(0, 1)
    name = targets[0]
    ending = f"_{name}" if several else ""
    _errors(errors, color, examples, ending)
    errors.set(xlabel=f"stated standard deviation of {name}", ylabel="error of the mean")
    for axes in (curve, histogram, errors):
        _plain(axes)
        axes.tick_params(labelsize="x-small")
        axes.xaxis.label.set_fontsize("small")
        axes.yaxis.label.set_fontsize("small")
    figure.suptitle(f"{title}: calibration on test rows, {counted(seeds, 'seed')}", fontsize="medium")
    return figure


def _errors(axes: Axes, color: str, examples: pd.DataFrame, ending: str) -> None:
    """The error of the mean, of groups of test rows with alike stated uncertainty."""
    frame = pd.DataFrame(
        {"std": examples[f"std{ending}"], "error": (examples[f"mean{ending}"] - examples[f"y{ending}"]).abs()}
    ).dropna()
    frame = frame[np.isfinite(frame["std"])]
    if frame.empty:
        return
    axes.scatter(frame["std"], frame["error"], s=3, color=color, alpha=0.2, lw=0, label="a test row")
    group = pd.qcut(frame["std"].rank(method="first"), min(GROUPS, len(frame)), labels=False)
    means = frame.assign(square=frame["error"] ** 2).groupby(group).mean()
    axes.plot(means["std"], np.sqrt(means["square"]), "o-", color=color, lw=1.2, ms=4, label="RMS of alike rows")
    low, high = float(means["std"].min()), float(means["std"].max())
    axes.plot([low, high], [low, high], color=TRUTH_COLOR, lw=2, alpha=0.7, label="as stated")
    axes.legend(fontsize="xx-small", frameon=False, loc="upper left")
    if low > 0 and high > 20 * low:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(0.02 * low, float(frame["error"].quantile(0.02)), 1e-12))
    else:
        axes.set_ylim(0, float(frame["error"].quantile(0.99)) * 1.05 + 1e-12)


def _training_curves(
    title: str, color: str, history: pd.DataFrame, column: str, label: str, height: float
) -> tuple[Figure, Axes]:
    """Draws the loss of each seed, and beside it a column of the history; returns the figure and that panel."""
    figure = Figure(figsize=(7.2, height), layout="constrained")
    loss, beside = figure.subplots(1, 2, sharex=True)
    groups: Any = history.groupby("seed")
    for axes, name, text in ((loss, "loss", "training loss, epoch mean"), (beside, column, label)):
        for _, rows in groups:
            marker = "o" if len(rows) == 1 else None
            alpha = max(0.3, 1 / len(groups))
            axes.plot(rows["epoch"], rows[name], color=color, linewidth=1, marker=marker, alpha=alpha)
        axes.set(xlabel="epoch", ylabel=text)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _plain(axes)
    figure.suptitle(f"{title}, {counted(len(groups), 'seed')}", fontsize="medium")
    return figure, beside


def _training(title: str, color: str, history: pd.DataFrame) -> Figure:
    if not {"val_nll", "val_loss"} & set(history):
        figure, norm = _training_curves(title, color, history, "grad_norm", "gradient norm", 2.8)
        if (history["grad_norm"] > 0).all():
            norm.set_yscale("log")
        return figure
    column = "val_nll" if "val_nll" in history else "val_loss"
    label = "validation NLL" if column == "val_nll" else "validation loss"
    figure, nll = _training_curves(title, color, history, column, label, 2.6)
    best = history[column].min()
    late = history.loc[history["epoch"] > 2, column]
    if late.notna().any():  # the first epochs would hide the rest
        nll.set_ylim(
            best - 0.05 * (late.quantile(0.95) - best) - 1e-3, late.quantile(0.95) + 0.1 * (late.quantile(0.95) - best)
        )
    return figure
