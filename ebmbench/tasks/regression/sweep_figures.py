"""Figures of sweeps of task=1d: densities, slices through them, and calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ebmbench.display import palette
from ebmbench.display.palette import DENSITY_CMAP, TRUTH_COLOR
from ebmbench.display.rendering import TRUTH, Figure, Panel, Scale, methods_of, read_arrays, read_csv
from ebmbench.tasks.base import SweepResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL, DENSITY_SIZE = (2.2, 1.8), (1.9, 1.6)
GRID = ["x", "y", TRUTH]
"""The columns of a table of densities; those of the methods follow."""
PLACES = (0.15, 0.4, 0.6, 0.85)
"""Of the slices, as shares of the range of x."""


def densities(results: SweepResults) -> Iterator[Figure]:
    """Learned against true density, side by side, a figure per dataset; and cuts through it at four x."""
    frame = results.comparison
    for label, part in frame.groupby("label", sort=False) if "d_kl" in frame else ():
        seeds = _median_seeds(part)
        whole = _from_runs(results, seeds)
        if whole is None:
            thin, slices = results.collected(f"densities-{label}"), results.collected(f"slices-{label}")
        else:
            x, y = np.unique(whole["x"]), np.unique(whole["y"])
            thin = whole[whole["y"].isin(y[::2])].round(4)
            slices = whole[whole["x"].isin(x[[round(q * (len(x) - 1)) for q in PLACES]])].round(5)
        if thin is None or slices is None or not {*GRID} <= set(thin) & set(slices):
            continue
        methods = [str(method) for method in palette.in_order(set(seeds) & set(thin) & set(slices))]
        yield _density_figure(str(label), thin, {method: seeds[method][1] for method in methods})
        yield _slice_figure(str(label), slices, methods)


def _median_seeds(part: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """Returns of each method the run and the seed whose D_KL is the median."""
    found = {}
    for method, own in part[part["d_kl"].notna()].groupby("method", sort=False):
        row = own.sort_values(["d_kl", "seed"]).iloc[(len(own) - 1) // 2]
        found[str(method)] = (str(row["run_id"]), int(row["seed"]))
    return found


def _from_runs(results: SweepResults, seeds: Mapping[str, tuple[str, int]]) -> pd.DataFrame | None:
    """Returns the densities of these seeds: GRID and a column per method; None where no run has any."""
    table: pd.DataFrame | None = None
    for method, (run_id, seed) in seeds.items():
        arrays = read_arrays(results.folders.get(run_id), "densities.npz") or {}
        try:
            x, y, true = arrays["x"], arrays["y"], arrays["true"].astype(float)
            model = arrays["model"][arrays["seeds"].tolist().index(seed)].astype(float)
            if table is None:
                table = pd.DataFrame({"x": np.repeat(x, len(y)), "y": np.tile(y, len(x)), TRUTH: true.ravel()})
            table[method] = model.ravel()
        except (TypeError, ValueError, KeyError, IndexError):
            continue  # missing or damaged: the others are drawn
    return table


def _density_figure(label: str, table: pd.DataFrame, seeds: Mapping[str, int]) -> Figure:
    grids = {name: table.pivot(index="y", columns="x", values=name) for name in (TRUTH, *seeds)}
    true = grids[TRUTH]
    top = float(np.quantile(true, 0.995))
    mass = true.cumsum() / true.sum()
    inside = true.index[((mass > 0.001) & (mass < 0.999)).any(axis=1)]
    room = 0.15 * (inside[-1] - inside[0])
    shown = (max(inside[0] - room, true.index[0]), min(inside[-1] + room, true.index[-1]))
    panels = [Panel(TRUTH, _density_panel(true, top, shown, with_bar=True), DENSITY_SIZE)]
    panels += [
        Panel(f"{method} (seed {seed})", _density_panel(grids[method], top, shown), DENSITY_SIZE)
        for method, seed in seeds.items()
    ]
    return Figure(
        f"densities-{label}",
        f"Learned and true density, {label}",
        "p(y|x) over the x-y plane, all on the colour scale beside the truth; of each method the seed whose D_KL is "
        "the median. y is shown where the truth has its mass.",
        tuple(panels),
        table[[*GRID, *seeds]],
        columns=4,
        short=f"Density {label}",
    )


def _density_panel(
    grid: pd.DataFrame, top: float, shown: tuple[float, float], with_bar: bool = False
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        x, y = grid.columns.to_numpy(float), grid.index.to_numpy(float)
        image = axes.imshow(
            grid.to_numpy(float),
            origin="lower",
            extent=(x[0], x[-1], y[0], y[-1]),
            aspect="auto",
            cmap=DENSITY_CMAP,
            vmin=0,
            vmax=top,
            interpolation="none",
        )
        axes.grid(visible=False)
        axes.set_ylim(*shown)
        axes.locator_params(axis="x", nbins=4, integer=True)
        axes.locator_params(axis="y", nbins=4)
        axes.set_xlabel("x", labelpad=1)
        axes.set_ylabel("y", labelpad=1)
        if with_bar:
            bar = axes.figure.colorbar(image, cax=axes.inset_axes((1.04, 0, 0.05, 1)), extend="max")
            bar.outline.set_visible(False)
            bar.ax.grid(visible=False)
            bar.ax.locator_params(axis="y", nbins=4)

    return draw


def _slice_figure(label: str, table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    return Figure(
        f"slices-{label}",
        f"Slices through the density, {label}",
        "p(y|x) at four x: truth in grey, of each method the seed whose D_KL is the median.",
        tuple(
            Panel(f"x = {x:.2f}".replace("-", "−"), _slice_panel(own, methods), SMALL) for x, own in table.groupby("x")
        ),
        table[[*GRID, *methods]],
        legend=(TRUTH, *methods),
        columns=4,
        short=f"Slices {label}",
    )


def _slice_panel(table: pd.DataFrame, methods: Sequence[str]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        y, true = table["y"].to_numpy(), table[TRUTH].to_numpy()
        axes.fill_between(y, true, color=TRUTH_COLOR, alpha=0.35, lw=0)
        for method in methods:
            axes.plot(y, table[method], color=palette.color(method), lw=1.1)
        mass = np.cumsum(true) / true.sum()
        low, high = y[np.searchsorted(mass, [0.002, 0.998])]
        room = 0.25 * (high - low) + 0.1
        seen = (y >= low - room) & (y <= high + room)
        axes.set_xlim(y[seen][0], y[seen][-1])
        axes.set_ylim(0, 1.06 * float(table.loc[seen, [TRUTH, *methods]].max().max()))
        axes.locator_params(axis="x", nbins=4)
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
    if rows:
        levels = pd.concat(rows).groupby(["label", "method", "level"], sort=False)["coverage"]
        ends = levels.agg(coverage="mean", low=lambda c: c.quantile(0.1), high=lambda c: c.quantile(0.9))
        table = ends.reset_index().round(5)
    elif (collected := results.collected("calibration")) is not None:
        table = collected
    else:
        return
    off = table[["coverage", "low", "high"]].sub(table["level"], axis=0)
    scale = Scale.of(off.to_numpy().ravel())
    panels = [Panel(f"{label}: calibration", _calibration_panel(part, scale)) for label, part in table.groupby("label")]
    yield Figure(
        "calibration",
        "Calibration",
        "Coverage of the central interval minus its nominal level, on held-out points; mean over seeds, band: the "
        "middle 80 % of seeds. Above zero: too wide, below: too narrow.",
        tuple(panels),
        table,
        legend=tuple(methods_of(table)),
    )


def _calibration_panel(table: pd.DataFrame, scale: Scale | None) -> Callable[[Axes], None]:
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
        if scale:
            scale.apply(axes, "y")
        axes.set_xlabel("nominal level")
        axes.set_ylabel("coverage − level")

    return draw
