"""Figures of sweeps of task=1d: densities, slices through them, and calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ebmbench.display import palette
from ebmbench.display.palette import DENSITY_CMAP, TRUTH_COLOR
from ebmbench.display.rendering import TRUTH, Figure, Panel, methods_of, read_arrays, read_csv
from ebmbench.tasks.base import SweepResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL, DENSITY_SIZE = (2.2, 1.8), (1.9, 1.6)


@dataclass(frozen=True)
class _Densities:
    """A label's densities on one grid: the truth, and per method the seed with the median D_KL."""

    x: np.ndarray
    y: np.ndarray
    true: np.ndarray
    models: dict[str, tuple[int, np.ndarray]]


def _median_seed_densities(results: SweepResults) -> dict[str, _Densities]:
    found: dict[str, _Densities] = {}
    frame, folders = results.comparison, results.folders
    if "d_kl" not in frame:
        return found
    for (label, method), part in frame.groupby(["label", "method"], sort=False):
        part = part[part["d_kl"].notna()].sort_values(["d_kl", "seed"])
        if part.empty:
            continue
        row = part.iloc[(len(part) - 1) // 2]
        arrays = read_arrays(folders.get(row["run_id"]), "densities.npz") or {}
        try:
            model = arrays["model"][arrays["seeds"].tolist().index(int(row["seed"]))].astype(float)
            fresh = _Densities(arrays["x"], arrays["y"], arrays["true"].astype(float), {})
        except (TypeError, ValueError, KeyError, IndexError):
            continue  # missing or damaged: the others are drawn
        if fresh.true.shape != (len(fresh.x), len(fresh.y)):
            continue
        entry = found.setdefault(label, fresh)
        if model.shape == entry.true.shape:
            entry.models[method] = (int(row["seed"]), model)
    return found


def densities(results: SweepResults) -> Iterator[Figure]:
    """Learned against true density, side by side, a figure per dataset; and cuts through it at four x."""
    for label, entry in _median_seed_densities(results).items():
        methods = [str(m) for m in palette.in_order(entry.models)]
        top = float(np.quantile(entry.true, 0.995))
        panels = [Panel("true", _density_panel(entry, entry.true, top), DENSITY_SIZE, 0.28)]
        for method in methods:
            seed, model = entry.models[method]
            panels.append(Panel(f"{method} (seed {seed})", _density_panel(entry, model, top), DENSITY_SIZE, 0.28))
        thin = slice(None, None, 2)
        wide = {
            "x": np.repeat(entry.x, len(entry.y[thin])),
            "y": np.tile(entry.y[thin], len(entry.x)),
            "true": entry.true[:, thin].ravel(),
            **{method: entry.models[method][1][:, thin].ravel() for method in methods},
        }
        yield Figure(
            f"densities-{label}",
            f"Learned and true density, {label}",
            "p(y|x) over the x-y plane on one colour scale (brighter is denser); of each method the seed whose "
            "D_KL is the median.",
            tuple(panels),
            pd.DataFrame({name: np.round(column, 4) for name, column in wide.items()}),
            columns=4,
            short=f"Density {label}",
        )
        places = [round(q * (len(entry.x) - 1)) for q in (0.15, 0.4, 0.6, 0.85)]
        yield Figure(
            f"slices-{label}",
            f"Slices through the density, {label}",
            "p(y|x) at four x: truth in grey, of each method the seed whose D_KL is the median.",
            tuple(Panel(f"x = {entry.x[i]:.2f}", _slice_panel(entry, methods, i), SMALL, 0.5) for i in places),
            pd.concat(
                pd.DataFrame(
                    {
                        "x": entry.x[i],
                        "y": entry.y,
                        "true": entry.true[i],
                        **{method: entry.models[method][1][i] for method in methods},
                    }
                )
                for i in places
            ).round(5),
            legend=(TRUTH, *methods),
            columns=4,
            short=f"Slices {label}",
        )


def _density_panel(entry: _Densities, values: np.ndarray, top: float) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        extent = (float(entry.x[0]), float(entry.x[-1]), float(entry.y[0]), float(entry.y[-1]))
        axes.imshow(
            values.T,
            origin="lower",
            extent=extent,
            aspect="auto",
            cmap=DENSITY_CMAP,
            vmin=0,
            vmax=top,
            interpolation="none",
        )
        axes.grid(visible=False)
        axes.set_xticks(extent[:2])
        axes.set_yticks(extent[2:])
        axes.set_xlabel("x", labelpad=-7)
        axes.set_ylabel("y", labelpad=-7)

    return draw


def _slice_panel(entry: _Densities, methods: Sequence[str], index: int) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.fill_between(entry.y, entry.true[index], color=TRUTH_COLOR, alpha=0.35, lw=0)
        for method in methods:
            axes.plot(entry.y, entry.models[method][1][index], color=palette.color(method), lw=1.1)
        mass = np.cumsum(entry.true[index]) / entry.true[index].sum()
        low, high = entry.y[np.searchsorted(mass, [0.002, 0.998])]
        margin = 0.25 * (high - low) + 0.1
        axes.set_xlim(max(low - margin, entry.y[0]), min(high + margin, entry.y[-1]))
        axes.set_ylim(0, 1.35 * float(entry.true[index].max()))
        axes.set_xlabel("y")
        axes.set_ylabel("p(y|x)")

    return draw


def calibration(results: SweepResults) -> Iterator[Figure]:
    """How far the coverage of central intervals is off, at every level."""
    frame, folders = results.comparison, results.folders
    rows = []
    for run_id in frame["run_id"].unique():
        part = read_csv(folders.get(run_id), "calibration.csv", ["seed", "level", "coverage"])
        if part is not None:
            run = frame[frame["run_id"] == run_id]
            part = part[part["seed"].isin(run.loc[run["diverged"] != 1, "seed"])]
            rows.append(part.assign(label=run["label"].iloc[0], method=run["method"].iloc[0]))
    if not rows:
        return
    table = (
        pd.concat(rows)
        .groupby(["label", "method", "level"], sort=False)["coverage"]
        .agg(coverage="mean", low=lambda c: c.quantile(0.1), high=lambda c: c.quantile(0.9))
        .reset_index()
    )
    panels = [
        Panel(f"{label}: calibration", _calibration_panel(part), left=0.66) for label, part in table.groupby("label")
    ]
    yield Figure(
        "calibration",
        "Calibration",
        "Coverage of the central interval minus its nominal level, on held-out points; mean over seeds, band: the "
        "middle 80 % of seeds. Above zero: too wide, below: too narrow.",
        tuple(panels),
        table.round(5),
        legend=tuple(methods_of(table)),
    )


def _calibration_panel(table: pd.DataFrame) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.axhline(0, color=TRUTH_COLOR, lw=2, alpha=0.7)
        for method in methods_of(table):
            part = table[table["method"] == method].sort_values("level")
            color = palette.color(method)
            axes.fill_between(
                part["level"], part["low"] - part["level"], part["high"] - part["level"], color=color, alpha=0.13, lw=0
            )
            axes.plot(
                part["level"],
                part["coverage"] - part["level"],
                color=color,
                marker=palette.marker(method),
                markevery=4,
                ms=4,
            )
        axes.set_xlim(0, 1)
        axes.set_xlabel("nominal level")
        axes.set_ylabel("coverage − level")

    return draw
