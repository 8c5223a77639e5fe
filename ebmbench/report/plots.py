"""The figures of a report: what each shows of the results, with those numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ebmbench.report import scores
from ebmbench.report.data import Results, axis_title, setting_keys
from ebmbench.report.palette import (
    DENSITY_CMAP,
    METHOD_COLORS,
    METHOD_MARKERS,
    METHODS,
    TRUTH_COLOR,
)
from ebmbench.report.rendering import INK, MUTED, Figure, Panel, log_axis, plain_number

SMALL, DENSITY_SIZE = (2.2, 1.8), (1.9, 1.6)
NAMES = 0.78  # inches that the names of the methods take

METRIC_TITLES = {
    "d_kl": "D_KL(true ‖ model), nats",
    "nll": "NLL on held-out points, nats",
    "d_kl_noisy": "D_KL(noisy truth ‖ model), nats",
    "nll_noisy": "NLL on noisy held-out points, nats",
    "crps": "CRPS, units of y",
    "coverage_90": "coverage of the 90 % interval",
    "ap": "AP after refinement, %",
    "ap75": "AP75 after refinement, %",
    "ap_gain": "AP gained on the base, points",
    "box_nll": "box NLL, nats",
}


# ----------------------------------------------------------------------------------------------------- small tools


def _methods(frame: pd.DataFrame) -> list[str]:
    present = set(frame["method"])
    return [method for method in METHODS if method in present] + sorted(present - set(METHODS))


def _color(method: str) -> str:
    return METHOD_COLORS.get(method, MUTED)


def _marker(method: str) -> str:
    return METHOD_MARKERS.get(method, "o")


def _spread_asks_for_log(values: Sequence[float]) -> bool:
    finite = [v for v in values if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 12


def _name_with_failures(method: str, without_value: int) -> str:
    return f"{method} ({without_value}✕)" if without_value else method


def _read_csv(path: Path, columns: list[str]) -> pd.DataFrame | None:
    """Columns of a CSV file; None if it is missing or damaged."""
    try:
        return pd.read_csv(path, usecols=columns)
    except (OSError, ValueError):  # pandas' parser errors are ValueErrors
        return None


def _jitter(count: int, width: float = 0.5) -> np.ndarray:
    """Even, fixed offsets that look random: the golden ratio's multiples."""
    return ((np.arange(count) * 0.618034) % 1 - 0.5) * width


def _labels_with(frame: pd.DataFrame, metric: str) -> list[str]:
    if metric not in frame:
        return []
    return [label for label, part in frame.groupby("label") if part[metric].notna().any()]


# -------------------------------------------------------------------------------------------------- method figures


def summary_table(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """`scores.summarise` by method within each dataset; rows without any value are left out."""
    table = scores.summarise(frame, ["label"], "method", [m for m in metrics if m in frame])
    if table.empty:
        return table
    usable = table.groupby(["label", "metric"])["n"].transform("sum") > 0
    return table[usable].assign(without_value=table["seeds"] - table["n"])


def ranking(results: Results) -> Figure | None:
    """Mean over seeds with its interval, best method on top."""
    table = summary_table(results.comparison, ["d_kl", "nll", "ap", "ap_gain", "box_nll"])
    if table.empty:
        return None
    panels = []
    for (metric, label), part in table.groupby(["metric", "label"], sort=False):
        # The last row is drawn highest: the best on top.
        part = part.sort_values("mean", ascending=scores.METRICS[metric].better != "lower", na_position="first")
        panels.append(Panel(f"{label}: {_metric_name(metric)}", _ranking_panel(part, metric), left=NAMES))
    return Figure(
        "ranking",
        "Ranking",
        "Mean over all seeds that have a value (filled) with its 95 % interval, best on top. Hollow "
        "diamonds: the mean of the best quarter (the paper's best 5 of 20), which hides failures. "
        "✕ counts the seeds without a value (diverged).",
        tuple(panels),
        table,
    )


def _metric_name(metric: str) -> str:
    return METRIC_TITLES.get(metric, metric).split(",")[0]


def _ranking_panel(part: pd.DataFrame, metric: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        rows = part.to_dict("records")
        spread = [row[key] for row in rows for key in ("low", "high", "best")]
        for place, row in enumerate(rows):
            color = _color(row["method"])
            axes.plot([row["low"], row["high"]], [place, place], color=color, lw=2, solid_capstyle="butt")
            axes.plot(row["mean"], place, marker=_marker(row["method"]), color=color, ms=6)
            axes.plot(row["best"], place, marker="D", mfc="none", mec=color, ms=5)
        axes.set_yticks(range(len(rows)), [_name_with_failures(row["method"], row["without_value"]) for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(METRIC_TITLES.get(metric, metric))
        if _spread_asks_for_log([float(v) for v in spread]):
            log_axis(axes)

    return draw


def strip(results: Results) -> Figure | None:
    """Every seed as a point."""
    frame = results.comparison
    metrics = [m for m in ("d_kl", "nll", "crps", "coverage_90", "ap", "ap75", "box_nll") if m in frame]
    panels = [
        Panel(f"{label}: {_metric_name(metric)}", _strip_panel(frame[frame["label"] == label], metric), left=NAMES)
        for metric in metrics
        for label in _labels_with(frame, metric)
    ]
    if not panels:
        return None
    columns = ["label", "method", "run_id", "seed", "diverged", *metrics]
    return Figure(
        "strip",
        "Every seed",
        "One point per seed; the line is the median. ✕ counts the seeds without a value (diverged).",
        tuple(panels),
        frame[[c for c in columns if c in frame]],
    )


def _strip_panel(part: pd.DataFrame, metric: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        methods = _methods(part)[::-1]
        names = []
        for place, method in enumerate(methods):
            values = part.loc[part["method"] == method].sort_values("seed")[metric].to_numpy(float)
            finite = np.isfinite(values)
            axes.scatter(
                values[finite],
                place + _jitter(len(values))[finite],
                s=11 if len(values) > 10 else 26,
                color=_color(method),
                marker=_marker(method),
                alpha=0.75,
                linewidths=0,
            )
            if finite.any():
                axes.plot([np.median(values[finite])] * 2, [place - 0.38, place + 0.38], color=INK, lw=1.4)
            names.append(_name_with_failures(method, int((~finite).sum())))
        axes.set_yticks(range(len(methods)), names)
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(METRIC_TITLES.get(metric, metric))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        if metric == "coverage_90":
            axes.axvline(0.9, color=TRUTH_COLOR, lw=1, ls="--")
        elif _spread_asks_for_log(part[metric].to_list()):
            log_axis(axes)

    return draw


@dataclass(frozen=True)
class _Densities:
    """A label's densities on one grid: the truth, and per method the seed with the median D_KL."""

    x: np.ndarray
    y: np.ndarray
    true: np.ndarray
    models: dict[str, tuple[int, np.ndarray]]


def _median_seed_densities(results: Results) -> dict[str, _Densities]:
    found: dict[str, _Densities] = {}
    frame = results.comparison
    if "d_kl" not in frame:
        return found
    for (label, method), part in frame.groupby(["label", "method"], sort=False):
        part = part[part["d_kl"].notna()].sort_values(["d_kl", "seed"])
        if part.empty:
            continue
        row = part.iloc[(len(part) - 1) // 2]
        try:
            with np.load(results.folders[row["run_id"]] / "densities.npz", allow_pickle=False) as arrays:
                model = arrays["model"][arrays["seeds"].tolist().index(int(row["seed"]))].astype(float)
                fresh = _Densities(arrays["x"], arrays["y"], arrays["true"].astype(float), {})
        except (OSError, ValueError, KeyError, BadZipFile):
            continue  # missing or damaged: the others are drawn
        entry = found.setdefault(label, fresh)
        if model.shape == entry.true.shape:
            entry.models[method] = (int(row["seed"]), model)
    return found


def densities(results: Results) -> Iterator[Figure]:
    """Learned against true density, side by side, a figure per dataset; and cuts through it at four x."""
    for label, entry in _median_seed_densities(results).items():
        methods = [m for m in METHODS if m in entry.models]
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
            legend=("true", *methods),
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
            axes.plot(entry.y, entry.models[method][1][index], color=_color(method), lw=1.1)
        mass = np.cumsum(entry.true[index]) / entry.true[index].sum()
        low, high = entry.y[np.searchsorted(mass, [0.002, 0.998])]
        margin = 0.25 * (high - low) + 0.1
        axes.set_xlim(max(low - margin, entry.y[0]), min(high + margin, entry.y[-1]))
        axes.set_ylim(0, 1.35 * float(entry.true[index].max()))
        axes.set_xlabel("y")
        axes.set_ylabel("p(y|x)")

    return draw


def pareto(results: Results) -> Figure | None:
    """Cost against quality."""
    frame = results.comparison
    panels, tables = [], []
    for metric, label in [(m, lab) for m in ("d_kl", "ap") for lab in _labels_with(frame, m)]:
        for cost, title in (
            ("train_seconds", "training time per model, s"),
            ("energy_evaluations", "energy evaluations per model"),
        ):
            part = frame[frame["label"] == label]
            if cost not in part or part[cost].isna().all():
                continue
            quality = summary_table(part, [metric]).set_index("method")
            quality["cost_name"] = cost
            quality["cost"] = part.groupby("method")[cost].mean()
            quality = quality[quality["mean"].notna() & (quality["cost"] > 0)]
            if quality.empty:
                continue
            badness = scores.badness(metric, quality["mean"].to_numpy(dtype=np.float64))
            quality["on_front"] = [
                not ((quality["cost"] <= c) & (badness <= b) & ((quality["cost"] < c) | (badness < b))).any()
                for c, b in zip(quality["cost"], badness, strict=True)
            ]
            table = quality.reset_index()
            tables.append(table)
            panels.append(Panel(f"{label}: {_metric_name(metric)}", _pareto_panel(table, metric, title), left=0.66))
    if not panels:
        return None
    return Figure(
        "pareto",
        "Cost against quality",
        "Mean over seeds with its 95 % interval. The line joins the methods that no other one beats in both cost and "
        "quality. Training time depends on the machine; the number of energy evaluations does not.",
        tuple(panels),
        pd.concat(tables),
        legend=tuple(_methods(pd.concat(tables))),
    )


def _pareto_panel(table: pd.DataFrame, metric: str, cost_title: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        front = table[table["on_front"]].sort_values("cost")
        axes.plot(front["cost"], front["mean"], color=MUTED, lw=1, ls="--", zorder=1)
        for row in table.to_dict("records"):
            color = _color(row["method"])
            axes.plot([row["cost"]] * 2, [row["low"], row["high"]], color=color, lw=1.5)
            axes.plot(row["cost"], row["mean"], marker=_marker(row["method"]), color=color, ms=6.5)
        axes.margins(x=0.12, y=0.12)
        axes.set_xlabel(cost_title)
        axes.set_ylabel(METRIC_TITLES[metric].split("(")[0].replace(" on held-out points", ""))
        if _spread_asks_for_log(table["cost"].to_list()):
            log_axis(axes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
        if _spread_asks_for_log([*table["low"], *table["high"]]):
            log_axis(axes, "y")

    return draw


def calibration(results: Results) -> Figure | None:
    """How far the coverage of central intervals is off, at every level."""
    frame = results.comparison
    rows = []
    for run_id in frame["run_id"].unique():
        part = _read_csv(results.folders[run_id] / "calibration.csv", ["seed", "level", "coverage"])
        if part is not None:
            run = frame[frame["run_id"] == run_id]
            part = part[part["seed"].isin(run.loc[run["diverged"] != 1, "seed"])]
            rows.append(part.assign(label=run["label"].iloc[0], method=run["method"].iloc[0]))
    if not rows:
        return None
    table = (
        pd.concat(rows)
        .groupby(["label", "method", "level"], sort=False)["coverage"]
        .agg(coverage="mean", low=lambda c: c.quantile(0.1), high=lambda c: c.quantile(0.9))
        .reset_index()
    )
    panels = [
        Panel(f"{label}: calibration", _calibration_panel(part), left=0.66) for label, part in table.groupby("label")
    ]
    return Figure(
        "calibration",
        "Calibration",
        "Coverage of the central interval minus its nominal level, on held-out points; mean over seeds, band: the "
        "middle 80 % of seeds. Above zero: too wide, below: too narrow.",
        tuple(panels),
        table.round(5),
        legend=tuple(_methods(table)),
    )


def _calibration_panel(table: pd.DataFrame) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.axhline(0, color=TRUTH_COLOR, lw=2, alpha=0.7)
        for method in _methods(table):
            part = table[table["method"] == method].sort_values("level")
            color = _color(method)
            axes.fill_between(
                part["level"], part["low"] - part["level"], part["high"] - part["level"], color=color, alpha=0.13, lw=0
            )
            axes.plot(
                part["level"],
                part["coverage"] - part["level"],
                color=color,
                marker=_marker(method),
                markevery=4,
                ms=4,
            )
        axes.set_xlim(0, 1)
        axes.set_xlabel("nominal level")
        axes.set_ylabel("coverage − level")

    return draw


def settings(results: Results) -> Iterator[Figure]:
    """For every numeric setting that the runs vary: quality against it, a line per method (the M sweep, β, σ, λ)."""
    frame = results.frame
    varied = {key for keys in results.varied.values() for key in keys}
    for key in setting_keys(frame):
        if key not in varied or key == "task.data_seed":
            continue
        panels, tables = [], []
        noisy = ("d_kl_noisy", "nll_noisy") if key == "task.target_noise" else ()
        for metric in ("d_kl", "nll", *noisy, "ap", "box_nll"):
            for label in _labels_with(frame, metric):
                numeric = pd.to_numeric(frame[key], errors="coerce")
                part = frame.assign(**{key: numeric})[(frame["label"] == label) & numeric.notna()]
                # Only methods that vary it, and of these only runs that share all other settings with most.
                kept = []
                for _, own in part.groupby("method", sort=False):
                    others = [c for c in setting_keys(frame) if c != key]
                    groups = [g for _, g in own.groupby(others, dropna=False)] if others else [own]
                    widest = max(groups, key=lambda g: g[key].nunique())
                    if widest[key].nunique() > 1:
                        kept.append(scores.at_equal_seeds(widest, key, ["method"]))
                if not kept:
                    continue
                table = pd.concat(scores.summarise(own, ["label", "method"], key, [metric]) for own in kept)
                table = table[table["n"] > 0]
                tables.append(table)
                panels.append(Panel(f"{label}: {_metric_name(metric)}", _settings_panel(table, key, metric), left=0.66))
        if panels:
            whole = pd.concat(tables)
            yield Figure(
                "settings-" + key.replace(".", "-"),
                f"Against {axis_title(key)}",
                "Mean with its 95 % interval, over the seeds that ran at every value.",
                tuple(panels),
                whole,
                legend=tuple(_methods(whole)),
            )


def _settings_panel(table: pd.DataFrame, key: str, metric: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for method in _methods(table):
            part = table[table["method"] == method].sort_values(key)
            color = _color(method)
            axes.fill_between(part[key], part["low"], part["high"], color=color, alpha=0.16, lw=0)
            axes.plot(part[key], part["mean"], color=color, marker=_marker(method))
        axes.set_xlabel(axis_title(key))
        axes.set_ylabel(METRIC_TITLES.get(metric, metric).split("(")[0].replace(" on held-out points", ""))
        if _spread_asks_for_log(table[key].to_list()):
            axes.set_xscale("log", base=2 if key == "method.num_samples" else 10)
            if key == "method.num_samples":
                axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
        if _spread_asks_for_log([*table["low"], *table["high"]]):
            log_axis(axes, "y")

    return draw


def curves(results: Results) -> Iterator[Figure]:
    """Training loss of all seeds, a panel per method, since the losses of different methods have different scales."""
    frame = results.comparison
    for label, part in frame.groupby("label", sort=False):
        panels, tables = [], []
        for method in _methods(part):
            own = part[part["method"] == method]
            histories = []
            for run_id in own["run_id"].unique():
                history = _read_csv(results.folders[run_id] / "history.csv", ["step", "seed", "loss"])
                if history is not None:
                    histories.append(history)
            if not histories or all(h.empty for h in histories):
                continue
            table = pd.concat(histories)
            steps = np.sort(table["step"].unique())
            if len(steps) > 150:  # long runs: an even choice of points
                table = table[table["step"].isin(steps[:: math.ceil(len(steps) / 150)])]
            tables.append(table.assign(label=label, method=method))
            panels.append(Panel(method, _curves_panel(table, method), SMALL, 0.42))
        if panels:
            yield Figure(
                f"curves-{label}",
                f"Training curves, {label}",
                "Mean training loss of every seed (thin) and their median (thick). Losses of different methods are "
                "different quantities: compare shapes, not heights.",
                tuple(panels),
                pd.concat(tables)[["label", "method", "seed", "step", "loss"]].round({"loss": 6}),
                columns=4,
                short=f"Curves {label}",
            )


def _curves_panel(table: pd.DataFrame, method: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        wide = table.pivot_table(index="step", columns="seed", values="loss", dropna=False)
        for seed in list(wide.columns)[:40]:
            axes.plot(wide.index, wide[seed], color=_color(method), lw=0.5, alpha=0.45)
        axes.plot(wide.index, wide.median(axis=1), color=_color(method), lw=1.8)
        finite = table["loss"].replace([np.inf, -np.inf], np.nan).dropna()
        if len(finite) > 20:  # one exploding seed must not flatten the others
            low, high = finite.quantile([0.005, 0.995])
            margin = 0.08 * (high - low) + 1e-9
            axes.set_ylim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("training step")
        axes.set_ylabel("loss")

    return draw


# ------------------------------------------------------------------------------------------------ detection figures


def detection_stages(results: Results) -> Figure | None:
    """AP of the base detector, with f-ordered NMS alone, and with refinement."""
    frame = results.comparison
    stages = {
        "AP": ("base_ap", "nms_ap", "ap"),
        "AP75": ("base_ap75", "nms_ap75", "ap75"),
    }
    panels, rows = [], []
    for title, columns in stages.items():
        for label in _labels_with(frame, columns[-1]):
            if not set(columns) <= set(frame.columns):
                continue
            part = frame[frame["label"] == label]
            mean = part.groupby("method")[list(columns)].mean().loc[_methods(part)]
            rows.append(mean.reset_index().melt("method", var_name="stage", value_name="mean").assign(label=label))
            panels.append(Panel(f"{label}: {title}", _stages_panel(mean, title), left=NAMES))
    if not panels:
        return None
    return Figure(
        "stages",
        "What each stage gains",
        "Grey line: the base detector. Hollow: non-maximum suppression ordered by f alone. Filled: with "
        "gradient-ascent refinement of the boxes. Mean over seeds.",
        tuple(panels),
        pd.concat(rows),
    )


def _stages_panel(mean: pd.DataFrame, title: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        base, nms, refined = mean.columns
        axes.axvline(float(mean[base].mean()), color=TRUTH_COLOR, lw=2, alpha=0.7)
        methods = list(mean.index)[::-1]
        for place, method in enumerate(methods):
            color, marker = _color(method), _marker(method)
            axes.plot([mean.at[method, nms], mean.at[method, refined]], [place] * 2, color=color, lw=1.2)
            axes.plot(mean.at[method, nms], place, marker=marker, mfc="none", mec=color, ms=6)
            axes.plot(mean.at[method, refined], place, marker=marker, color=color, ms=6)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{title}, % (line: base; hollow: NMS by f; filled: refined)")

    return draw


def detection_sizes(results: Results) -> Figure | None:
    """AP by object size."""
    frame = results.comparison
    sizes = {"ap_small": "small", "ap_medium": "medium", "ap_large": "large"}
    if not set(sizes) <= set(frame.columns):
        return None
    panels, rows = [], []
    for label in _labels_with(frame, "ap_small"):
        part = frame[frame["label"] == label]
        mean = part.groupby("method")[list(sizes)].mean().loc[_methods(part)]
        rows.append(mean.reset_index().assign(label=label))
        there = mean.dropna(axis="columns", how="all")  # a dataset may have no objects of a size
        names = [sizes[column] for column in there.columns]
        panels.append(Panel(f"{label}: AP by object size", _sizes_panel(there, names)))
    if not panels:
        return None
    return Figure(
        "sizes",
        "AP by object size",
        "After refinement, mean over seeds; sizes as COCO defines them.",
        tuple(panels),
        pd.concat(rows),
        legend=tuple(_methods(frame[frame["ap_small"].notna()])),
    )


def _sizes_panel(mean: pd.DataFrame, names: list[str]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for index, method in enumerate(mean.index):
            offset = (index - (len(mean) - 1) / 2) * 0.09
            axes.plot(
                np.arange(len(names)) + offset,
                mean.loc[method],
                marker=_marker(method),
                color=_color(method),
                ls="none",
                ms=6,
            )
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylabel("AP, %")
        axes.grid(axis="x", visible=False)

    return draw


def all_figures(results: Results) -> list[Figure]:
    """Every figure that these runs have numbers for, in the order of the page."""
    if results.frame.empty:
        return []
    made = [*settings(results), ranking(results), strip(results), detection_stages(results), detection_sizes(results)]
    made += [*densities(results), calibration(results), pareto(results), *curves(results)]
    return [figure for figure in made if figure is not None]
