"""The figures that every task's sweeps have: what each shows of the results, with those numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ebmbench.core import registry
from ebmbench.display import palette
from ebmbench.display.palette import TRUTH_COLOR
from ebmbench.display.rendering import (
    INK,
    MUTED,
    NAMES,
    SMALL,
    Figure,
    Panel,
    labels_with,
    log_axis,
    methods_of,
    plain_number,
    read_csv,
)
from ebmbench.report import scores
from ebmbench.report.data import Results, axis_title, setting_keys
from ebmbench.tasks.base import Task

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


def _spread_asks_for_log(values: Sequence[float]) -> bool:
    finite = [v for v in values if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 12


def _name_with_failures(method: str, without_value: int) -> str:
    return f"{method} ({without_value}✕)" if without_value else method


def _jitter(count: int, width: float = 0.5) -> np.ndarray:
    """Even, fixed offsets that look random: the golden ratio's multiples."""
    return ((np.arange(count) * 0.618034) % 1 - 0.5) * width


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
            color = palette.color(row["method"])
            axes.plot([row["low"], row["high"]], [place, place], color=color, lw=2, solid_capstyle="butt")
            axes.plot(row["mean"], place, marker=palette.marker(row["method"]), color=color, ms=6)
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
        for label in labels_with(frame, metric)
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
        methods = methods_of(part)[::-1]
        names = []
        for place, method in enumerate(methods):
            values = part.loc[part["method"] == method].sort_values("seed")[metric].to_numpy(float)
            finite = np.isfinite(values)
            axes.scatter(
                values[finite],
                place + _jitter(len(values))[finite],
                s=11 if len(values) > 10 else 26,
                color=palette.color(method),
                marker=palette.marker(method),
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


def pareto(results: Results) -> Figure | None:
    """Cost against quality."""
    frame = results.comparison
    panels, tables = [], []
    for metric, label in [(m, lab) for m in ("d_kl", "ap") for lab in labels_with(frame, m)]:
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
        legend=tuple(methods_of(pd.concat(tables))),
    )


def _pareto_panel(table: pd.DataFrame, metric: str, cost_title: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        front = table[table["on_front"]].sort_values("cost")
        axes.plot(front["cost"], front["mean"], color=MUTED, lw=1, ls="--", zorder=1)
        for row in table.to_dict("records"):
            color = palette.color(row["method"])
            axes.plot([row["cost"]] * 2, [row["low"], row["high"]], color=color, lw=1.5)
            axes.plot(row["cost"], row["mean"], marker=palette.marker(row["method"]), color=color, ms=6.5)
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
            for label in labels_with(frame, metric):
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
                legend=tuple(methods_of(whole)),
            )


def _settings_panel(table: pd.DataFrame, key: str, metric: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for method in methods_of(table):
            part = table[table["method"] == method].sort_values(key)
            color = palette.color(method)
            axes.fill_between(part[key], part["low"], part["high"], color=color, alpha=0.16, lw=0)
            axes.plot(part[key], part["mean"], color=color, marker=palette.marker(method))
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
        for method in methods_of(part):
            own = part[part["method"] == method]
            histories = []
            for run_id in own["run_id"].unique():
                history = read_csv(results.folders[run_id] / "history.csv", ["step", "seed", "loss"])
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
            axes.plot(wide.index, wide[seed], color=palette.color(method), lw=0.5, alpha=0.45)
        axes.plot(wide.index, wide.median(axis=1), color=palette.color(method), lw=1.8)
        finite = table["loss"].replace([np.inf, -np.inf], np.nan).dropna()
        if len(finite) > 20:  # one exploding seed must not flatten the others
            low, high = finite.quantile([0.005, 0.995])
            margin = 0.08 * (high - low) + 1e-9
            axes.set_ylim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("training step")
        axes.set_ylabel("loss")

    return draw


def all_figures(results: Results) -> list[Figure]:
    """Returns every figure that these runs have numbers for, in the order of the page."""
    if results.frame.empty:
        return []
    made = [*settings(results), ranking(results), strip(results), *of_tasks(results), pareto(results), *curves(results)]
    return [figure for figure in made if figure is not None]


def named(results: Results, name: str) -> Iterator[Figure]:
    """Yields the figures of one name, as `sweep.figures` gives it."""
    common: dict[str, Callable[[Results], Figure | Iterator[Figure] | None]] = {
        "ranking": ranking,
        "strip": strip,
        "settings": settings,
        "pareto": pareto,
        "curves": curves,
    }
    if name not in common:
        yield from of_tasks(results, name)
        return
    made = common[name](results)
    yield from [made] if isinstance(made, Figure) else made or ()


def of_tasks(results: Results, name: str | None = None) -> Iterator[Figure]:
    """Yields the figures that only one task can draw, of the tasks that are there; those of one name if it is given."""
    for task in registry.known("task").values():
        if results.frame["label"].astype(str).str.startswith(f"{task.registered()}-").any():
            for figure in cast(type[Task], task).sweep_figures:
                if name in (None, figure.name):
                    yield from figure.draw(results)
