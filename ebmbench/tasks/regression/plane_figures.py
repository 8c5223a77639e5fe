"""Figures of a run with one input: the density over the plane, learned and true, and slices through it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ebmbench.core.errors import counted
from ebmbench.display import palette
from ebmbench.display.palette import DENSITY_CMAP

POINT_COLOR = "#404040"


def figures(
    method: str, data: str, points: pd.DataFrame, arrays: dict[str, np.ndarray], names: list[str]
) -> dict[str, Figure]:
    """Returns `density` and `slices`.

    Args:
        method: its name.
        data: what the title calls the dataset.
        points: test rows, with the columns x and y.
        arrays: of `densities.npz`.
        names: of the input and of the target.
    """
    if not np.isfinite(arrays["model"]).any():
        return {}
    return {
        "density": _density(method, data, points, arrays, names),
        "slices": _slices(method, f"{method}, {data}", arrays, names),
    }


def _density(method: str, data: str, points: pd.DataFrame, arrays: dict[str, np.ndarray], names: list[str]) -> Figure:
    shown = int(np.argmax(np.isfinite(arrays["model"]).all(axis=(1, 2))))  # the first seed that did not diverge
    # Values stand in the middle of their pixels.
    halves = [(line, (line[1] - line[0]) / 2) for line in (arrays["x"], arrays["y"])]
    extent = [end for line, half in halves for end in (line[0] - half, line[-1] + half)]
    model = arrays["model"][shown]
    panels = [(f"learned by {method}, seed {arrays['seeds'][shown]}", model)]
    if "true" in arrays:
        panels.insert(0, ("true p(y | x)", arrays["true"]))
    # The square root keeps faint mass visible beside narrow peaks; the few highest values are cut off.
    scaled = panels[0][1]
    scale = PowerNorm(0.5, vmin=0, vmax=float(np.quantile(scaled[scaled > 0.01 * scaled.max()], 0.95)))
    figure = Figure(figsize=(2.4 * (1 + len(panels)), 2.7), layout="constrained")
    scatter, *pictures = figure.subplots(1, 1 + len(panels), sharex=True, sharey=True)
    marker = {"s": 2, "linewidths": 0, "color": POINT_COLOR, "alpha": 0.4, "rasterized": True}
    scatter.scatter(points["x"], points["y"], **marker)
    scatter.set(title=f"{data}, {counted(len(points), 'test point')}", ylabel=names[1])
    for axes, (title, values) in zip(pictures, panels, strict=True):
        picture = axes.imshow(
            np.ma.masked_invalid(values).T,
            cmap=DENSITY_CMAP,
            norm=scale,
            extent=extent,
            origin="lower",
            aspect="auto",
        )
        axes.set(title=title)
    for axes in (scatter, *pictures):
        axes.set(xlabel=names[0], xlim=extent[:2], ylim=extent[2:])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.title.set_fontsize("medium")
    figure.colorbar(picture, ax=pictures[-1], label="density (1 / unit of y)", extend="max", ticks=MaxNLocator(5))
    return figure


def _slices(method: str, title: str, arrays: dict[str, np.ndarray], names: list[str]) -> Figure:
    y, seeds = arrays["slice_y"], arrays["seeds"]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    panels = figure.subplots(2, 2)
    color = palette.color(method)
    for index, (axes, at) in enumerate(zip(panels.flat, arrays["slice_x"], strict=True)):
        true = arrays["slice_true"][index] if "slice_true" in arrays else None
        models = arrays["slice_model"][:, index]
        models = models[np.isfinite(models).all(axis=1)]
        for number, density in enumerate(models):
            label = f"learned ({counted(len(models), 'seed')})" if number == 0 else None
            axes.plot(y, density, color=color, linewidth=1, alpha=max(0.3, 1 / len(seeds)), label=label)
        if true is not None:
            axes.plot(y, true, color="black", linewidth=1.2, linestyle=(0, (3, 2)), label="true")
        # As much of y as holds the true density and what any seed makes of it.
        curves = [*models, true] if true is not None else list(models)
        highest = np.max(curves, axis=0)
        top = highest.max() if true is None else min(highest.max(), 2.5 * true.max())
        there = np.flatnonzero(highest > 0.02 * (highest if true is None else true).max())
        margin = 0.15 * (y[there[-1]] - y[there[0]])
        axes.set_xlim(max(y[0], y[there[0]] - margin), min(y[-1], y[there[-1]] + margin))
        axes.set_ylim(0, 1.08 * top)
        axes.set_title(f"{names[0]} = {at:.3g}".replace("-", "−"), fontsize="medium")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel(names[1])
    for axes in panels[:, 0]:
        axes.set_ylabel("p(y | x)  (1 / unit of y)")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure
