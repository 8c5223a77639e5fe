"""Figures of a 1D run: learned and true density, slices, training curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ebmbench.core.errors import counted
from ebmbench.display import palette
from ebmbench.display.palette import DENSITY_CMAP
from ebmbench.display.rendering import save_pictures
from ebmbench.tasks.examples import read_arrays
from ebmbench.tasks.regression.figures import training_curves
from ebmbench.tasks.regression.laws import Y_HIGH, Y_LOW, Points

POINT_COLOR = "#404040"


def figures(method: str, data: str, train: Points, run_dir: Path) -> list[Path]:
    """Draws `density`, `slices` and `training` as PNG and PDF; returns the files.

    Args:
        method: its name.
        data: what the title calls the dataset.
        train: the training points.
    """
    arrays = read_arrays(run_dir / "densities.npz")
    title = f"{method}, {data}"
    drawn = {"density": _density(method, data, train, arrays), "slices": _slices(method, title, arrays)}
    if (run_dir / "history.csv").exists():
        drawn["training"] = _training(method, title, pd.read_csv(run_dir / "history.csv"))
    return save_pictures(drawn, run_dir / "figures")


def _density(method: str, data: str, train: Points, arrays: dict[str, np.ndarray]) -> Figure:
    shown = int(np.argmax(np.isfinite(arrays["model"]).all(axis=(1, 2))))  # the first seed that did not diverge
    # Values stand in the middle of their pixels.
    halves = [(line, (line[1] - line[0]) / 2) for line in (arrays["x"], arrays["y"])]
    extent = [end for line, half in halves for end in (line[0] - half, line[-1] + half)]
    true, model = arrays["true"].astype(float), arrays["model"][shown].astype(float)
    # The square root keeps faint mass visible beside narrow peaks; the few highest values are cut off.
    scale = PowerNorm(0.5, vmin=0, vmax=float(np.quantile(true[true > 0.01], 0.95)))
    figure = Figure(figsize=(7.2, 2.7), layout="constrained")
    points, left, right = figure.subplots(1, 3, sharex=True, sharey=True)
    marker = {"s": 2, "linewidths": 0, "color": POINT_COLOR, "alpha": 0.4, "rasterized": True}
    points.scatter(train.x, train.y, **marker)
    points.set(title=f"{data}, {counted(len(train.x), 'point')}", ylabel="y")
    for axes, values, title in (
        (left, true, "true p(y | x)"),
        (right, model, f"learned by {method}, seed {arrays['seeds'][shown]}"),
    ):
        picture = axes.imshow(
            np.ma.masked_invalid(values).T, cmap=DENSITY_CMAP, norm=scale, extent=extent, origin="lower"
        )
        axes.set(title=title)
    for axes in (points, left, right):
        axes.set(
            xlabel="x", xlim=(Y_LOW, Y_HIGH), ylim=(Y_LOW, Y_HIGH), xticks=(-2, 0, 2), yticks=(-2, 0, 2), aspect="equal"
        )
        axes.title.set_fontsize("medium")
    figure.colorbar(picture, ax=right, label="density (1 / unit of y)", extend="max", ticks=MaxNLocator(5))
    return figure


def _slices(method: str, title: str, arrays: dict[str, np.ndarray]) -> Figure:
    y, seeds = arrays["slice_y"], arrays["seeds"]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    panels = figure.subplots(2, 2)
    color = palette.color(method)
    for index, (axes, at) in enumerate(zip(panels.flat, arrays["slice_x"], strict=True)):
        true = arrays["slice_true"][index].astype(float)
        models = arrays["slice_model"][:, index].astype(float)
        models = models[np.isfinite(models).all(axis=1)]
        for number, density in enumerate(models):
            label = f"learned ({counted(len(models), 'seed')})" if number == 0 else None
            axes.plot(y, density, color=color, linewidth=1, alpha=max(0.3, 1 / len(seeds)), label=label)
        axes.plot(y, true, color="black", linewidth=1.2, linestyle=(0, (3, 2)), label="true")
        # As much of y as holds the true density and what any seed makes of it.
        highest = np.maximum(true, models.max(axis=0, initial=0)) if len(models) else true
        there = np.flatnonzero(highest > 0.02 * true.max())
        margin = 0.15 * (y[there[-1]] - y[there[0]])
        axes.set_xlim(max(Y_LOW, y[there[0]] - margin), min(Y_HIGH, y[there[-1]] + margin))
        axes.set_ylim(0, 1.08 * min(highest.max(), 2.5 * true.max()))
        axes.set_title(f"x = {at:g}".replace("-", "−"), fontsize="medium")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("y")
    for axes in panels[:, 0]:
        axes.set_ylabel("p(y | x)  (1 / unit of y)")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def _training(method: str, title: str, history: pd.DataFrame) -> Figure:
    figure, norm = training_curves(title, palette.color(method), history, "grad_norm", "gradient norm", 2.8)
    if (history["grad_norm"] > 0).all():
        norm.set_yscale("log")
    return figure
