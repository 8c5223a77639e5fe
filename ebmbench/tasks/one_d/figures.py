"""Figures of a 1D run: learned and true density, slices, training curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ebmbench.config import RunConfig
from ebmbench.report.palette import DENSITY_CMAP, METHOD_COLORS, TRUTH_COLOR
from ebmbench.tasks.one_d.config import OneDTask
from ebmbench.tasks.one_d.data import Dataset

SLICES = (-2.0, -0.5, 0.5, 2.0)


def figures(config: RunConfig, run_dir: Path) -> list[Path]:
    """Draws `density`, `slices` and `training` as PNG and PDF; returns the files."""
    folder = run_dir / "figures"
    folder.mkdir(exist_ok=True)
    arrays = dict(np.load(run_dir / "densities.npz", allow_pickle=False))
    drawn = {"density": _density(config, arrays), "slices": _slices(config, arrays)}
    if (run_dir / "history.csv").exists():
        drawn["training"] = _training(config, pd.read_csv(run_dir / "history.csv"))
    paths = []
    for name, figure in drawn.items():
        for suffix in ("png", "pdf"):
            path = folder / f"{name}.{suffix}"
            metadata = {"CreationDate": None} if suffix == "pdf" else None
            figure.savefig(path, dpi=200, metadata=metadata)
            paths.append(path)
    return paths


def _title(config: RunConfig) -> str:
    return f"{config.method.name}, 1D dataset {config.task.dataset_name}"


def _shown(arrays: dict[str, np.ndarray]) -> int:
    """Index of the first seed that did not diverge."""
    whole = np.isfinite(arrays["model"]).all(axis=(1, 2))
    return int(np.argmax(whole))


def _density(config: RunConfig, arrays: dict[str, np.ndarray]) -> Figure:
    assert isinstance(config.task, OneDTask)
    train = Dataset.draw(config.task).train
    shown = _shown(arrays)
    x, y = arrays["x"], arrays["y"]
    true, model = arrays["true"].astype(float), arrays["model"][shown].astype(float)
    top = float(np.quantile(true, 0.995))
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, values, title in (
        (left, true, "true p(y | x)"),
        (right, model, f"learned, seed {arrays['seeds'][shown]}"),
    ):
        mesh = axes.pcolormesh(
            x, y, np.clip(values, 0, top).T, cmap=DENSITY_CMAP, vmin=0, vmax=top, shading="gouraud", rasterized=True
        )
        axes.set(title=title, xlabel="x", xlim=(-3, 3), ylim=(-3, 3))
    left.scatter(train.x, train.y, s=1.5, linewidths=0, color=TRUTH_COLOR, alpha=0.35)
    left.set_ylabel("y")
    figure.colorbar(mesh, ax=[left, right], label="density (1 / unit of y)", extend="max")
    figure.suptitle(_title(config), fontsize="medium")
    return figure


def _slices(config: RunConfig, arrays: dict[str, np.ndarray]) -> Figure:
    x, y = arrays["x"], arrays["y"]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    color = METHOD_COLORS[config.method.name]
    for axes, at in zip(panels.flat, SLICES, strict=True):
        index = int(np.abs(x - at).argmin())
        for number, density in enumerate(arrays["model"][:, index].astype(float)):
            label = f"learned ({len(arrays['seeds'])} seed{'s' * (len(arrays['seeds']) > 1)})" if number == 0 else None
            axes.plot(y, density, color=color, linewidth=1, alpha=max(0.25, 1 / len(arrays["seeds"])), label=label)
        axes.plot(
            y, arrays["true"][index].astype(float), color=TRUTH_COLOR, linewidth=1.2, linestyle="--", label="true"
        )
        axes.set(title=f"x = {x[index]:.2f}", xlim=(-3, 3))
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("y")
    for axes in panels[:, 0]:
        axes.set_ylabel("p(y | x)")
    panels[0, 0].legend(frameon=False, fontsize="small")
    figure.suptitle(_title(config), fontsize="medium")
    return figure


def _training(config: RunConfig, history: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    loss, norm = figure.subplots(1, 2, sharex=True)
    color = METHOD_COLORS[config.method.name]
    groups: Any = history.groupby("seed")
    for axes, column, label in (
        (loss, "loss", "training loss (mean of the epoch)"),
        (norm, "grad_norm", "gradient norm"),
    ):
        for _, rows in groups:
            axes.plot(rows["epoch"], rows[column], color=color, linewidth=1, alpha=max(0.3, 1 / len(groups)))
        axes.set(xlabel="epoch", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    if (history["grad_norm"] > 0).all():
        norm.set_yscale("log")
    count = len(groups)
    figure.suptitle(f"{_title(config)}, {count} seed{'s' * (count > 1)}", fontsize="medium")
    return figure
