"""The figures that every task's sweeps have: what each shows of the results, with those numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ebmbench.core.errors import first_line
from ebmbench.display import palette
from ebmbench.display.palette import TRUTH_COLOR
from ebmbench.display.rendering import (
    INK,
    MUTED,
    PAPER,
    SMALL,
    Figure,
    Panel,
    Scale,
    log_axis,
    methods_of,
    plain_number,
    read_csv,
)
from ebmbench.display.table import plain
from ebmbench.report import scores, search
from ebmbench.report import settings as reported
from ebmbench.report.frame import Results, costs_of
from ebmbench.tasks.base import Metric

MOST_PANELS = 12
"""Combinations of other settings for which a sweep's figure against one has a panel each."""
COUNTS = "✕ counts the seeds without a value (diverged), ‡ those with an unreliable one."


def _name_with_failures(method: str, without_value: int, doubtful: int) -> str:
    counts = [f"{count}{mark}" for count, mark in ((without_value, "✕"), (doubtful, "‡")) if count]
    return f"{method} ({', '.join(counts)})" if counts else method


def _note(table: pd.DataFrame) -> str:
    """Returns what hollow markers mean, if a table of means gives rise to one."""
    return "Hollow: a mean with unreliable values (≥ or ‡ in the tables)." if table["n_untrusted"].any() else ""


def _two_digits(value: float) -> str:
    return plain_number(float(f"{value:.2g}"))


def _unit(results: Results, metric: Metric, label: str) -> tuple[str, ...]:
    """Returns what panels have in common that show a metric on one scale."""
    task = results.tasks[label]
    return (task.name, metric.name) if task.one_unit else (task.name, metric.name, label)


class _Scales:
    """One scale for all panels with something in common."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, ...], tuple[list[float], list[float]]] = {}

    def add(self, unit: tuple[str, ...], table: pd.DataFrame, values: Sequence[str], ends: Sequence[str] = ()) -> None:
        """Takes columns of a table: what is shown, and the ends of intervals."""
        for kept, columns in zip(self._shown.setdefault(unit, ([], [])), (values, ends), strict=True):
            kept.extend(table[list(columns)].to_numpy(float).ravel())

    def __getitem__(self, unit: tuple[str, ...]) -> Scale | None:
        return Scale.of(*self._shown[unit])


def summary_table(results: Results, label: str, metric: Metric) -> pd.DataFrame:
    """Returns means by method on one dataset: over seeds, or over draws and seeds; empty where there is no value."""
    part, draw = _labelled(results, label), results.draw_of(label)
    if draw:
        table = scores.draws(part, ["label"], metric, draw).assign(best=np.nan)
        table["without_value"] = table["diverged"]
    else:
        table = scores.summarise(part, ["label"], "method", [metric])
        table["without_value"] = table["seeds"] - table["n"]
    return table if table["n"].any() else table.iloc[:0]


def ranking(results: Results) -> Iterator[Figure]:
    """Mean over seeds with its interval, best method on top: of the headline metric, then of the others."""
    shown, scales = [], _Scales()
    for metric, label in results.shown_by("ranking"):
        part = summary_table(results, label, metric)
        if len(part):
            scales.add(_unit(results, metric, label), part, ["mean", "best"], ["low", "high"])
            # The last row is drawn highest: the best on top.
            badness = scores.badness(metric, part["mean"].to_numpy(dtype=np.float64))
            part = part.assign(badness=badness).sort_values("badness", ascending=False, na_position="first")
            shown.append((metric, label, part.drop(columns="badness")))
    for is_first, name, title in ((True, "ranking", "Ranking"), (False, "ranking-others", "Ranking by other metrics")):
        own = [found for found in shown if (found[0] is results.tasks[found[1]].metrics[0]) == is_first]
        if not own:
            continue
        panels = [
            Panel(_title(metric, label), partial(_draw_ranking, part, metric, scales[_unit(results, metric, label)]))
            for metric, label, part in own
        ]
        whole = pd.concat(part for *_, part in own)
        seeds = "Hollow diamonds: the mean of the best quarter (the paper's best 5 of 20), which hides failures. "
        if whole["best"].isna().all():
            seeds = "Means and intervals are over draws and seeds. "
        yield Figure(
            name,
            title,
            "Mean over all seeds that have a value (filled) with its 95 % interval, best on top. " + seeds + COUNTS,
            tuple(panels),
            whole,
        )


def _labelled(results: Results, label: str) -> pd.DataFrame:
    return results.models[results.models["label"] == label]


def _title(metric: Metric, label: str) -> str:
    return f"{label}: {metric.heading.split(',')[0]}"


def _name_rows(axes: Axes, names: Sequence[str], metric: Metric) -> None:
    """Names what is drawn in rows, from below, and the metric across."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(metric.heading)


def _clipped(table: pd.DataFrame, scale: Scale | None) -> pd.DataFrame:
    """Returns means with the ends of their intervals inside the picture: nothing more is known of unreliable ones."""
    if scale is None:
        return table
    return table.assign(low=table["low"].clip(lower=scale.low), high=table["high"].clip(upper=scale.high))


def _draw_ranking(part: pd.DataFrame, metric: Metric, scale: Scale | None, axes: Axes) -> None:
    rows = _clipped(part, scale).to_dict("records")
    for place, row in enumerate(rows):
        color = palette.color(row["method"])
        axes.plot([row["low"], row["high"]], [place, place], color=color, lw=2, solid_capstyle="butt")
        axes.plot(row["mean"], place, marker=palette.marker(row["method"]), color=color, ms=6)
        axes.plot(row["best"], place, marker="D", mfc="none", mec=color, ms=5)
    names = [_name_with_failures(row["method"], row["without_value"], row["n_untrusted"]) for row in rows]
    _name_rows(axes, names, metric)
    if scale:
        scale.apply(axes)


def strip(results: Results) -> Figure | None:
    """Every seed as a point; and once more, enlarged, where the better methods lie close together."""
    shown = results.shown_by("strip")
    shown = sorted(shown, key=lambda pair: [metric for metric, _ in shown].index(pair[0]))
    scales = _Scales()
    for metric, label in shown:
        scales.add(_unit(results, metric, label), _labelled(results, label), [metric.name])
    rows = []
    for metric, label in shown:
        part = _labelled(results, label)
        whole, near = scales[_unit(results, metric, label)], _window(part, metric)
        if whole and near:
            rows.append((metric, label, part, whole, near))
    enlarged = any(whole.share(near) < 0.5 for *_, whole, near in rows)
    panels = []
    for metric, label, part, whole, near in rows:
        title = _title(metric, label)
        panels.append(Panel(title, partial(_draw_strip, part, metric, whole)))
        if enlarged:
            panels.append(Panel("the better half, enlarged", partial(_draw_strip, part, metric, near)))
    if not panels:
        return None
    columns = ["label", "method", "run_id", "seed", "diverged", *dict.fromkeys(metric.name for metric, _ in shown)]
    right = " On the right the better half of the methods, enlarged; the numbers count the seeds beyond an edge."
    return Figure(
        "strip",
        "Every seed",
        f"One point per seed; the line is the median. {COUNTS}" + right * enlarged,
        tuple(panels),
        results.models[columns],
        paired=enlarged,
    )


def _window(part: pd.DataFrame, metric: Metric) -> Scale | None:
    """Returns the range of the better half of the methods, by the median, without their outermost seeds."""
    seeds = {method: own[np.isfinite(own)] for method, own in part.groupby("method")[metric.name]}
    methods = [method for method, own in seeds.items() if len(own)]
    order = np.argsort(scores.badness(metric, np.array([seeds[method].median() for method in methods])))
    better = [methods[place] for place in order[: math.ceil(len(methods) / 2)]]
    return Scale.of([end for method in better for end in seeds[method].quantile([0.05, 0.95])])


def _draw_strip(part: pd.DataFrame, metric: Metric, scale: Scale, axes: Axes) -> None:
    methods = methods_of(part)[::-1]
    names = []
    for place, method in enumerate(methods):
        own = part[part["method"] == method].sort_values("seed")
        values = own[metric.name].to_numpy(float)
        finite = np.isfinite(values)
        jitter = ((np.arange(len(values)) * 0.618034) % 1 - 0.5) * 0.5  # the golden ratio's multiples look random
        axes.scatter(
            values[finite],
            place + jitter[finite],
            s=11 if len(values) > 10 else 26,
            color=palette.color(method),
            marker=palette.marker(method),
            alpha=0.75,
            linewidths=0,
        )
        if finite.any():
            axes.plot([np.median(values[finite])] * 2, [place - 0.38, place + 0.38], color=INK, lw=1.4)
        doubtful = int((finite & scores.is_doubtful(own, metric)).sum())
        names.append(_name_with_failures(method, int((~finite).sum()), doubtful))
        below, above = int((values < scale.low).sum()), int((values > scale.high).sum())
        beyond = f"‹ {below}  " * bool(below) + f"{above} ›" * bool(above)
        axes.text(1.01, place, beyond, transform=axes.get_yaxis_transform(), va="center", color=MUTED, fontsize=6.5)
    _name_rows(axes, names, metric)
    if isinstance(metric.better, float):
        axes.axvline(metric.better, color=TRUTH_COLOR, lw=1, ls="--")
    scale.apply(axes)


def pareto(results: Results) -> Figure | None:
    """Cost against quality."""
    shown, scales = [], _Scales()
    for metric, label in results.shown_by("pareto"):
        part = _labelled(results, label)
        for cost in (cost for cost in costs_of(part) if cost.title):
            quality = summary_table(results, label, metric).set_index("method")
            quality["cost_name"] = cost.name
            quality["cost"] = part.groupby("method")[cost.name].mean()
            quality = quality[quality["mean"].notna() & (quality["cost"] > 0)]
            if quality.empty:
                continue
            badness = scores.badness(metric, quality["mean"].to_numpy(dtype=np.float64))
            quality["on_front"] = [
                not ((quality["cost"] <= c) & (badness <= b) & ((quality["cost"] < c) | (badness < b))).any()
                for c, b in zip(quality["cost"], badness, strict=True)
            ]
            table = quality.reset_index()
            shown.append((metric, label, cost, table))
            scales.add(_unit(results, metric, label), table, ["mean"], ["low", "high"])
            scales.add((cost.name,), table, ["cost"])
    if not shown:
        return None
    panels = []
    for metric, label, cost, table in shown:
        draw = partial(_draw_pareto, table, metric, cost, scales[cost.name,], scales[_unit(results, metric, label)])
        panels.append(Panel(_title(metric, label), draw))
    whole = pd.concat(table for *_, table in shown)
    return Figure(
        "pareto",
        "Cost against quality",
        "Mean over seeds with its 95 % interval. The steps join the methods that no other one beats in both cost and "
        "quality: the best to be had at that cost. Training time depends on the machine; the number of energy "
        "evaluations does not.",
        tuple(panels),
        whole,
        legend=tuple(methods_of(whole)),
        note=_note(whole),
    )


def _draw_pareto(
    table: pd.DataFrame, metric: Metric, cost: Metric, across: Scale | None, up: Scale | None, axes: Axes
) -> None:
    if across:
        across.apply(axes)
    if up:
        up.apply(axes, "y")
    front = table[table["on_front"]].sort_values("cost")
    x, y = front["cost"].tolist(), front["mean"].tolist()
    axes.step([*x, axes.get_xlim()[1]], [*y, y[-1]], where="post", color=MUTED, lw=1, ls="--", zorder=1)
    for row in _clipped(table, up).to_dict("records"):
        color = palette.color(row["method"])
        axes.plot([row["cost"]] * 2, [row["low"], row["high"]], color=color, lw=1.5)
        face = PAPER if row["n_untrusted"] else color
        axes.plot(row["cost"], row["mean"], marker=palette.marker(row["method"]), mfc=face, color=color, ms=6.5)
    axes.set_xlabel(cost.title)
    axes.set_ylabel(metric.label)


def settings(results: Results) -> Iterator[Figure]:
    """For every numeric setting that the runs vary: quality against it, a line per method (the M sweep, β, σ, λ)."""
    varied = {key for keys in results.varied.values() for key in keys}
    drawn = [key for task in results.tasks.values() for key in task.draw_settings]
    for key in (key for key in results.axes if key in varied):
        done, axes = scores.over_draws(results.done, results.axes, [other for other in drawn if other != key])
        numeric = done.assign(**{key: pd.to_numeric(done[key], errors="coerce")})
        others = [other for other in axes if other != key]
        shown, scales, at = [], _Scales(), set[str]()
        apart = others if _asked_by(results, key) else []
        for metric, label in results.shown_by("settings"):
            task = results.tasks[label]
            if key in task.draw_settings or metric.only_with not in ("", key):
                continue
            whole = numeric[(numeric["label"] == label) & numeric[key].notna()]
            for about, part in _panels_of(whole, apart):
                kept = list(_widest(part, key, [other for other in others if other not in about]))
                if not kept:
                    continue
                table = pd.concat(scores.summarise(own, ["label", "method"], key, [metric]) for own in kept)
                table = table[table["n"] > 0].assign(**about)
                if table[key].nunique() < 2:  # a metric may be there at one value alone
                    continue
                shown.append((metric, label, table, about))
                at |= _held(part, pd.concat(kept), [other for other in others if other not in about])
                scales.add(_unit(results, metric, label), table, ["mean"], ["low", "high"])
                name = reported.title(key, task.name, methods_of(table))
        if not shown:
            continue
        values = pd.concat(table[key] for _, _, table, _ in shown).tolist()
        asked = _asked_by(results, key) & {metric.name for metric, *_ in shown}
        first = asked or {results.tasks[label].metrics[0].name for _, label, *_ in shown}
        for ending, is_first in (("", True), ("-others", False)):
            some = [one for one in shown if (one[0].name in first) == is_first]
            if not some:
                continue
            panels = []
            for metric, label, table, about in some:
                draw = partial(_draw_settings, table, key, values, name, metric, scales[_unit(results, metric, label)])
                said = [f"{other.rpartition('.')[2]} {plain(value)}" for other, value in about.items()]
                panels.append(Panel(", ".join([_title(metric, label), *said]), draw))
            whole = pd.concat(table for _, _, table, _ in some)
            yield Figure(
                "settings-" + key.replace(".", "-") + ending,
                f"Against {name}" + ": other metrics" * (not is_first),
                "Mean with its 95 % interval, over the seeds that ran at every value.",
                tuple(panels),
                whole,
                legend=tuple(methods_of(whole)),
                note=" ".join(filter(None, [_note(whole), f"At {'; '.join(sorted(at))}." if at else ""])),
                short=key.rpartition(".")[2].replace("_", " "),
            )


def _panels_of(part: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """Yields the values of some settings, and the rows that have them; all at once where there are too many."""
    varied = [key for key in keys if part[key].nunique() > 1]
    found = list(scores.combinations(part, varied))
    yield from found if 1 < len(found) <= MOST_PANELS else [({}, part)]


def _asked_by(results: Results, key: str) -> set[str]:
    """Returns the metrics that the sweep's tables by a setting ask for."""
    grids = [entry["grid"] for entry in results.tables if isinstance(entry, dict) and "grid" in entry]
    return {name for grid in grids if grid["by"] == key for name in (grid.get("metrics") or ())[:1]}


def _widest(part: pd.DataFrame, key: str, others: list[str]) -> Iterator[pd.DataFrame]:
    """Yields the runs of each method that varies a setting: those that share all other settings with most."""
    for _, own in part.groupby("method", sort=False):
        groups = [group for _, group in own.groupby(others, dropna=False)] if others else [own]
        widest = max(groups, key=lambda group: group[key].nunique())
        if widest[key].nunique() > 1:
            yield scores.at_equal_seeds(widest, key, ["method"])


def _held(part: pd.DataFrame, kept: pd.DataFrame, others: list[str]) -> set[str]:
    """Returns the values, in words, of other settings that differ between runs and not between those that are kept."""
    apart = [other for other in others if part[other].nunique() > 1]
    return {f"{other} = {plain(value)}" for other in apart for value in kept[other].dropna().unique()}


def _draw_settings(
    table: pd.DataFrame, key: str, values: list[float], name: str, metric: Metric, scale: Scale | None, axes: Axes
) -> None:
    """Draws a metric against a setting; `values` of the setting, in any panel, choose the axis."""
    table = table.assign(high=table["high"].where(table["bound"] == ""))  # a band without an end would cover all
    for method in methods_of(table):
        part = table[table["method"] == method].sort_values(key)
        color = palette.color(method)
        axes.fill_between(part[key], part["low"], part["high"], color=color, alpha=0.16, lw=0)
        axes.plot(part[key], part["mean"], color=color, marker=palette.marker(method))
        doubtful = part[part["n_untrusted"] > 0]
        if len(doubtful):
            axes.plot(doubtful[key], doubtful["mean"], color=color, marker=palette.marker(method), mfc=PAPER, lw=0)
    axes.set_xlabel(name)
    axes.set_ylabel(metric.label)
    across = Scale.of(values)
    if across and across.log:
        if all(math.log2(value).is_integer() for value in values):  # numbers of samples, most often
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
        else:
            log_axis(axes)
    if scale:
        scale.apply(axes, "y")


def maps(results: Results) -> Iterator[Figure]:
    """The sweep's grids as pictures: a row per method with its cost, a column per value of the setting."""
    grids = [entry["grid"] for entry in results.tables if isinstance(entry, dict) and "grid" in entry]
    for key, names in ((grid["by"], grid.get("metrics")) for grid in grids if grid["by"] in results.axes):
        tables, panels = [], []
        for label, task in results.tasks.items():
            part = results.done[results.done["label"] == label]
            part = scores.at_equal_seeds(part, key, ["method"])
            if part["method"].nunique() < 2 or part[key].nunique() < 2:
                continue
            for metric in (metric for metric in task.metrics if metric.name in (names or [task.metrics[0].name])):
                table = scores.summarise(part, ["label", key], "method", [metric])
                if table.empty or table["mean"].isna().all():
                    continue
                costs = costs_of(part)
                spent = part.groupby("method")[[cost.name for cost in costs]].mean()
                tables.append(table.join(spent, on="method"))
                column = reported.title(key, task.name, methods_of(part))
                draw = partial(_draw_map, tables[-1], key, column, metric, [cost for cost in costs if cost.title])
                size = (4.6, 0.75 + 0.19 * table["method"].nunique())
                panels.append(Panel(_title(metric, label), draw, size))
        if panels:
            yield Figure(
                "map-" + key.replace(".", "-"),
                f"Method by {column}",
                "Mean over the seeds that ran at every value. Bright is the best of a column, dark the worst, and a "
                "frame marks the best mean, where methods are ranked; whether it is significant is in the tables. A "
                "number in brackets has unreliable values alone. On the right what a seed cost, as a mean over the "
                "columns.",
                tuple(panels),
                pd.concat(tables),
                short=f"Map of {key.rpartition('.')[2].replace('_', ' ')}",
            )


def _draw_map(table: pd.DataFrame, key: str, name: str, metric: Metric, costs: list[Metric], axes: Axes) -> None:
    methods, values = methods_of(table), sorted(table[key].unique())
    means = table.pivot(index="method", columns=key, values="mean").loc[methods, values]
    unsure = set(table.loc[table["n_untrusted"] == table["n"], ["method", key]].itertuples(index=False, name=None))
    for column, value in enumerate(values):
        bad = scores.badness(metric, means[value].to_numpy(float))
        scale = Scale.of(bad)
        for row, (mean, badness) in enumerate(zip(means[value], bad, strict=True)):
            if scale is None or not np.isfinite(badness):
                continue
            place = Scale(scale.low, float(badness), scale.log)
            color = colormaps[palette.DENSITY_CMAP](1 - scale.share(place))
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=color, lw=0))
            ink = "#000000" if np.dot(color[:3], (0.299, 0.587, 0.114)) > 0.5 else "#ffffff"
            text = f"({_two_digits(mean)})" if (methods[row], value) in unsure else _two_digits(mean)
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)
    for method, value in table.loc[table["mark"] == "best", ["method", key]].itertuples(index=False):
        corner = (values.index(value) - 0.46, methods.index(method) - 0.42)
        axes.add_patch(Rectangle(corner, 0.92, 0.84, fill=False, ec="#000000", lw=1.2))
    axes.set_xlim(-0.5, len(values) - 0.5 + 1.1 * len(costs))
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xticks(range(len(values)), [plain_number(value) for value in values])
    axes.set_yticks(range(len(methods)), methods)
    axes.tick_params(length=0)
    axes.set_xlabel(name, loc="left")
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    spent = table.groupby("method")[[cost.name for cost in costs]].first().loc[methods]
    for column, cost in enumerate(costs):
        right = len(values) - 0.5 + 1.1 * (column + 1)
        for row, value in enumerate(spent[cost.name]):
            axes.text(right, row, _two_digits(value), ha="right", va="center", fontsize=7)
        head = cost.label.replace(" ", "\n", 1)
        axes.text(right, len(methods) - 0.35, head, ha="right", va="top", fontsize=6.5, color=MUTED)


def curves(results: Results) -> Iterator[Figure]:
    """Training loss of all seeds, a panel per method, since the losses of different methods have different scales."""
    folders = results.folders
    for label, part in results.comparison.groupby("label", sort=False):
        panels, tables = [], []
        for method in methods_of(part):
            own = part[part["method"] == method]
            columns = ["step", "seed", "loss"]
            read = [read_csv(folders.get(run_id), "history.csv", columns) for run_id in own["run_id"].unique()]
            histories = [history for history in read if history is not None]
            if all(history.empty for history in histories):
                continue
            table = pd.concat(histories)
            steps = np.sort(table["step"].unique())
            if len(steps) > 150:  # long runs: an even choice of points
                table = table[table["step"].isin(steps[:: math.ceil(len(steps) / 150)])]
            tables.append(table.assign(label=label, method=method))
            panels.append(Panel(method, partial(_draw_curves, table, method), SMALL))
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


def _draw_curves(table: pd.DataFrame, method: str, axes: Axes) -> None:
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


def best_of_trials(results: Results) -> Figure | None:
    """The expected best of k trials, a line per method: a ranking holds for the budget that its methods had."""
    if results.axes == results.columns or results.trials.empty:
        return None
    data = search.best_of(results.trials, results.tasks, results.axes)
    keys = ["label", *search.kept(data)]
    scales, panels = _Scales(), []
    for label, part in data.groupby("label", sort=False):
        scales.add(_unit(results, results.tasks[str(label)].metrics[0], str(label)), part, ["mean"], ["lower", "upper"])
    for values, part in data.groupby(keys, sort=False, dropna=False):
        metric = results.tasks[str(values[0])].metrics[0]
        about = [f"{key} = {plain(value)}" for key, value in zip(keys[1:], values[1:], strict=True)]
        draw = partial(_draw_best_of_trials, part, metric, scales[_unit(results, metric, str(values[0]))])
        panels.append(Panel(", ".join([_title(metric, str(values[0])), *about]), draw))
    return Figure(
        "search",
        "The best of k trials",
        "The test score of the best of k trials, chosen by validation data, for every k: its mean over searches "
        "(line), and where eight of ten single searches lie (band). All methods try the same learning rates.",
        tuple(panels),
        data,
        legend=tuple(methods_of(data)),
        short="Best of k",
    )


def _draw_best_of_trials(part: pd.DataFrame, metric: Metric, scale: Scale | None, axes: Axes) -> None:
    for method in methods_of(part):
        own, color = part[part["method"] == method], palette.color(method)
        axes.fill_between(own["k"], own["lower"], own["upper"], color=color, alpha=0.1, lw=0)
        axes.plot(own["k"], own["mean"], color=color, marker=palette.marker(method))
    axes.set_xlabel("trials k")
    axes.set_ylabel(metric.label)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if scale:
        scale.apply(axes, "y")


COMMON: dict[str, Callable[[Results], Figure | Iterator[Figure] | None]] = {
    "settings": settings,
    "map": maps,
    "ranking": ranking,
    "strip": strip,
    "pareto": pareto,
    "curves": curves,
    "search": best_of_trials,
}
"""The figures that every task's results have."""


def named(results: Results, name: str) -> list[Figure]:
    """Returns the figures of one name, as `sweep.figures` gives it: of all tasks, or of one that draws it."""
    if name in COMMON:
        made = COMMON[name](results)
        return [made] if isinstance(made, Figure) else list(made or ())
    tasks = dict.fromkeys(results.tasks.values())
    return [
        made for task in tasks for figure in task.sweep_figures if figure.name == name for made in figure.draw(results)
    ]


def all_figures(results: Results, failures: list[str] | None = None) -> list[Figure]:
    """Returns every figure that these runs have numbers for, in the order of the page.

    Args:
        failures: takes a sentence for each figure that cannot be drawn, because a file of a run is damaged; if it is
            not given, the error is raised.
    """
    if results.done.empty:
        return []
    special = [figure for task in dict.fromkeys(results.tasks.values()) for figure in task.sweep_figures]
    needs_runs = ["curves", *(figure.name for figure in special if figure.from_runs)]
    found, absent = [], []
    for name in (
        "search",
        "settings",
        "map",
        "ranking",
        "strip",
        *(figure.name for figure in special),
        "pareto",
        "curves",
    ):
        try:
            made = named(results, name)
        except Exception as error:
            if failures is None:
                raise
            failures.append(f"The figure {name} cannot be drawn ({type(error).__name__}: {first_line(error)}).")
            continue
        found += made
        absent += [name] if name in needs_runs and not made else []
    if failures is not None and absent and not results.runs:
        failures.append(f"The run directories are not here: figures that need them are left out ({', '.join(absent)}).")
    return found
