"""Tables of results: what each says, as `display.table.Table`; and the files that a sweep ends in.

They are a pure function of the table of runs. That makes a committed table checkable: `ebmbench audit tables` makes it
again and compares.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ebmbench.core.errors import UserError, did_you_mean
from ebmbench.display.palette import in_order
from ebmbench.display.table import (
    Cell,
    Table,
    code_cell,
    csv_text,
    latex,
    latex_text,
    markdown,
    markdown_text,
    method_cell,
    number,
    number_cell,
    one_line,
    plain,
)
from ebmbench.report import scores, search
from ebmbench.report.frame import Results, costs_of, metrics_of, task_of, varying
from ebmbench.report.published import published_tables
from ebmbench.tasks.base import COST, Metric, Task

SHOWN_RUNS = 200
"""How many runs the Markdown lists; runs.csv has them all."""
DOUBTFUL = "‡"
"""Marks a mean that holds seeds that are unreliable."""
FEWER = "†"
"""Marks a mean over fewer than all seeds."""
SEARCH = "search"
"""The kind of table that is made from all trials of a search, and not from what it chose."""
UNDECIDED = "°"
"""Marks a mean whose difference from the best one is not significant."""
MOST_COLUMNS = 6
"""Of a table that a reader takes in at once."""
FIRST_METRICS = MOST_COLUMNS - 2
"""How many metrics the first table of scores shows beside the method and the test."""
NO_AXIS = ("task", "method", "data", "data.name", "seeds", "plugins")
"""Keys that are no axis of a sweep: what they say has a column of its own in every table of runs."""
MARKS = (
    "Bold: the best mean. worse: significantly (p < 0.05, paired, Holm over all pairs). not significant: the test "
    "cannot tell; that does not show that they are equal."
)


@dataclass(frozen=True)
class Group:
    """The runs of one task and dataset at equal settings: what a table is about."""

    title: str
    task: type[Task]
    frame: pd.DataFrame
    keys: tuple[str, ...]
    """The columns that are the same in all rows."""

    @property
    def headline(self) -> Metric:
        """The task's first metric."""
        return self.task.metrics[0]

    @property
    def unit(self) -> str:
        """What a row is, in a word: a seed, or a search."""
        return "search" if search.TRIAL in self.frame and self.frame[search.TRIAL].notna().any() else "seed"

    @property
    def units(self) -> str:
        """The plural of `unit`."""
        return "searches" if self.unit == "search" else "seeds"

    @property
    def methods(self) -> list[Any]:
        """Its methods, in the order of tables."""
        return in_order(self.frame["method"].tolist())


def groups(frame: pd.DataFrame, axes: Sequence[str]) -> Iterator[Group]:
    """Yields the groups of a table of runs that are done: in each, a dataset and the settings `axes` are the same.

    A setting that each model has one value of, on a dataset, is a part of the model and makes no groups.
    """
    for (name, dataset), own in frame.groupby(["task", "dataset"], sort=True, dropna=False):
        task = task_of(str(name))
        varied = varying(own, axes)
        for about, part in scores.combinations(own, varied):
            rest = [f"{axis} = {plain(value)}" for axis, value in about.items()]
            part = part.assign(**about)  # also for a method that has no such setting
            yield Group(", ".join([task.titled(str(dataset)), *rest]), task, part, ("task", "dataset", *varied))


def build(results: Results) -> dict[str, str]:
    """Returns file name to text of all that a sweep ends in, figures apart.

    Raises:
        UserError: the sweep asks for a table that is not known.
    """
    made = [*(table for _, table in asked(results)), *published_tables(results.done)]
    numbers: dict[str, list[pd.DataFrame]] = {}
    for table in made:
        if table.file and table.data is not None and len(table.data):
            numbers.setdefault(table.file, []).append(table.data)
    files = {name: csv_text(pd.concat(parts, ignore_index=True)) for name, parts in numbers.items()}
    origin = provenance(results)
    return {"tables.md": _markdown(made, results, origin), "tables.tex": _latex(made, results, origin), **files}


def asked(results: Results) -> Iterator[tuple[str, Table]]:
    """Yields the tables that a sweep asks for, each with its kind; none where no run is done."""
    for kind, options in map(parse_entry, results.tables):
        if kind == SEARCH:
            yield from ((kind, table) for table in search_tables(results))
            continue
        for table in KINDS[kind](results.done, results.axes, options) if len(results.done) else ():
            yield kind, table


def parse_entry(entry: Any) -> tuple[str, dict[str, Any]]:
    """Returns the kind and the options of an entry of `sweep.tables`: `scores`, or `{grid: {by: …}}`."""
    named = {entry: None} if isinstance(entry, str) else entry
    if not isinstance(named, dict) or len(named) != 1:
        raise UserError(f"sweep.tables has {entry!r}: give a kind of table, or one kind with its options")
    [(kind, options)] = named.items()
    if not isinstance(kind, str) or kind not in (*KINDS, SEARCH):
        raise UserError(f"sweep.tables has {kind!r}: choose from {', '.join((*KINDS, SEARCH))}")
    if not isinstance(options, dict | None):
        raise UserError(
            f"sweep.tables has {kind}={options!r}: its options are keys and values, such as by: method.beta"
        )
    options = dict(options or {})
    if not isinstance(options.get("metrics", ()), list | tuple):
        raise UserError(f"sweep.tables has {kind} with metrics={options['metrics']!r}: give a list of metrics")
    margins = options.get("margins", {})
    if not isinstance(margins, dict) or not all(isinstance(m, int | float) and m > 0 for m in margins.values()):
        raise UserError(f"sweep.tables has {kind} with margins={margins!r}: give each metric a positive number")
    return kind, options


def margins_of(entries: Iterable[Any]) -> dict[str, float]:
    """Returns for each metric the largest difference of means that does not matter, where a table of scores has it."""
    asked = [options for kind, options in map(parse_entry, entries) if kind == "scores"]
    return {name: float(margin) for options in asked for name, margin in options.get("margins", {}).items()}


def check_entries(entries: Iterable[Any], axes: Sequence[str], tasks: Iterable[Task], searches: bool = False) -> None:
    """Raises UserError for a table that could not be made, before a sweep is run for it.

    Args:
        axes: what the sweep varies, a search apart.
        searches: whether it searches settings (`sweep.tune`).
    """
    classes = dict.fromkeys(type(task) for task in tasks)
    for entry in entries:
        kind, options = parse_entry(entry)
        known = OPTIONS.get(kind, ())
        if kind == SEARCH and not searches:
            raise UserError(f"sweep.tables has {SEARCH}, and the sweep searches nothing: give sweep.tune its trials")
        for name in sorted(map(str, options.keys() - set(known))):
            close = did_you_mean(name, known) if known else ""
            raise UserError(f"sweep.tables has {kind} with {name}, and {kind} has no such option{close}")
        if kind == "grid" and not isinstance(options.get("by"), str):
            raise UserError("sweep.tables has a grid without `by`: the swept key of its rows, such as method.beta")
        for task in classes:
            if kind == "draws":
                _draw_of(task, axes)
            if kind == "grid" and options["by"] not in axes:
                raise _not_varied(kind, options["by"], axes)
            for name in (*options.get("metrics", ()), *options.get("margins", ())):
                _metric(task, name)


def _metric(task: type[Task], name: Any) -> Metric:
    metric = task.metric(name) if isinstance(name, str) else None
    if metric is None:
        known = ", ".join(metric.name for metric in task.metrics)
        raise UserError(f"sweep.tables names the metric {name!r}: choose from {known}")
    return metric


def _not_varied(kind: str, key: str, axes: Sequence[str]) -> UserError:
    if key in NO_AXIS:
        return UserError(
            f"sweep.tables has {kind} by {key}: each dataset has tables of its own, in which each method has a row or "
            f"column; give another key that the sweep varies ({', '.join(axes) or 'it has none'})"
        )
    return UserError(
        f"sweep.tables has {kind} by {key}, which the sweep does not vary (it varies {', '.join(axes) or 'nothing'}): "
        f"give {key} several values, or ask for other tables, such as sweep.tables=[scores]"
    )


# --------------------------------------------------------------------------------------------------------- kinds


def score_tables(frame: pd.DataFrame, axes: Sequence[str], options: dict[str, Any]) -> Iterator[Table]:
    """Yields tables of each group: the first metrics with the test's verdict; then all of them; then other summaries.

    Options: `metrics`, and `margins`, metric to the largest difference of means that does not matter.
    """
    margins = options.get("margins", {})
    for group in groups(frame, axes):
        there = metrics_of(group.task, group.frame)
        given = [_metric(group.task, name) for name in options.get("metrics", ())]
        main = [metric for metric in given or group.task.metrics if metric in there and (given or metric.table)]
        main = main or [group.headline]  # alone where no seed has a value, for all diverged: the table then says so
        metrics = [*main, *(metric for metric in there if metric not in main)]
        cells = scores.summarise(group.frame, group.keys, "method", metrics, margins)
        by = {(row["method"], row["metric"]): row for row in cells.to_dict("records")}
        places = _places(cells, "metric")

        def rows_of(
            some: Sequence[Metric], group: Group = group, by: Any = by, places: Any = places
        ) -> list[list[Cell]]:
            found = [[by[method, metric.name] for metric in some] for method in group.methods]
            return [[mean_cell(row, places[row["metric"]]) for row in rows] for rows in found]

        first = main[:FIRST_METRICS]
        tops = [by[method, main[0].name] for method in group.methods]
        header = [Cell("method"), *map(_head, first), Cell(f"test of {main[0].label}")]
        rows = [
            [method_cell(method), *means, verdict_cell(top)]
            for method, means, top in zip(group.methods, rows_of(first), tops, strict=True)
        ]
        shown = cells[cells["metric"].isin([metric.name for metric in first])]
        notes = [MARKS, *_draw_note(group.task), *_nominal(first), *_equivalent(shown, margins)]
        notes += [*_reservations(shown, group.task), *_notes(shown, "metric", group.task)]
        title = f"{group.title}: mean over {group.units} with 95 % interval"
        yield Table(title, header, rows, notes, cells, "scores.csv")
        if len(main) > len(first):
            rest = main[len(first) :]
            header = [Cell("method"), *map(_head, rest)]
            rows = [[method_cell(method), *means] for method, means in zip(group.methods, rows_of(rest), strict=True)]
            shown = cells[cells["metric"].isin([metric.name for metric in rest])]
            notes = [*_nominal(rest), *_reservations(shown, group.task), *_notes(shown, "metric", group.task)]
            yield Table(f"{group.title}: the other metrics", header, rows, notes, folded=True)
        if main[0] is group.headline:
            yield _headline_table(group, pd.DataFrame(tops))
        yield from group.task.sweep_tables(group.title, group.frame)


def _headline_table(group: Group, data: pd.DataFrame) -> Table:
    """Returns other summaries of the headline metric."""
    records = data.to_dict("records")
    places = places_of(*records)
    rows = []
    for row in records:
        ends = ", ".join(number(row[end], places) for end in ("median_low", "median_high"))
        known = not math.isnan(row["median_low"])
        cells = [Cell(number(row["median"], places), f"[{ends}]" * known, sort=row["median"])]
        cells += [Cell(number(row["best"], places), f"({row['best_of']} of {row['seeds']})", sort=row["best"])]
        cells += [_share_cell(row["beats_best"]), _counts_cell(row), code_cell(row["config_hash"])]
        rows.append([method_cell(row["method"]), *cells])
    heads = ("method", "median", "mean of the best quarter", "P(beats the best)", f"{group.units}", "settings")
    notes = [
        f"The best quarter of the {group.units}, as the published best 5 of 20, hides failures. The median counts a "
        f"diverged one as the worst. P(beats the best): share of the {group.units} at which the method is better than "
        "the best one.",
    ]
    title = f"{group.title}: {group.headline.label}, other summaries"
    return Table(title, [*map(Cell, heads)], rows, notes, data, folded=True)


def cost_tables(frame: pd.DataFrame, axes: Sequence[str], options: dict[str, Any]) -> Iterator[Table]:
    """Yields a table per group: what a model costs."""
    for group in groups(frame, axes):
        costs = costs_of(group.frame)
        if not costs:
            continue
        cells = scores.summarise(group.frame, group.keys, "method", costs)
        by = {(row["method"], row["metric"]): row for row in cells.to_dict("records")}
        places = {metric: _decimals_of(own["mean"], digits=3) for metric, own in cells.groupby("metric")}
        rows = []
        for method in group.methods:
            means = [number_cell(by[method, metric.name]["mean"], places[metric.name]) for metric in costs]
            rows.append([method_cell(method), *means, _counts_cell(by[method, costs[0].name])])
        header = [Cell("method"), *map(_head, costs), Cell(f"{group.units}")]
        notes = ["Means. Seeds that trained together share their time; memory is that of their process."]
        yield Table(f"{group.title}: cost", header, rows, notes, cells, "cost.csv", folded=True)


def comparison_tables(frame: pd.DataFrame, axes: Sequence[str], options: dict[str, Any]) -> Iterator[Table]:
    """Yields a table per group: at how many of the seeds a method beats another. Its CSV has all about each pair."""
    for group in groups(frame, axes):
        pairs = scores.compare(group.frame, group.keys, "method", group.headline)
        if pairs.empty:
            continue
        beats = {(row["first"], row["second"]): (row["beats"], row["p_holm"]) for row in pairs.to_dict("records")}
        beats |= {(second, first): (1 - share, p) for (first, second), (share, p) in beats.items()}
        rows = []
        for first in group.methods:
            row = [method_cell(first)]
            for second in group.methods:
                share, p = beats.get((first, second), (math.nan, math.nan))
                star = "*" if p < scores.SIGNIFICANCE else ""
                row.append(Cell("–") if first == second else Cell(_share_cell(share).text + star, sort=share))
            rows.append(row)
        header = [Cell("row beats column"), *(Cell(str(name)) for name in group.methods)]
        notes = [
            f"Share of the {group.units} at which the row's {group.headline.label} is better than the column's; a "
            "diverged one is beaten by any other. *: the means differ significantly (p < 0.05, paired sign-flip and "
            f"bootstrap-t tests, Holm over all {pairs['comparisons'].max()} pairs).",
            *_draw_note(group.task),
            *_notes(pairs),
        ]
        title = f"{group.title}: which method beats which"
        yield Table(title, header, rows, notes, pairs, "comparisons.csv", folded=True)


def audit_tables(frame: pd.DataFrame, axes: Sequence[str], options: dict[str, Any]) -> Iterator[Table]:
    """Yields a table per group: does the choice of seeds decide the ranking?"""
    for group in groups(frame, axes):
        selection = group.task.metric(group.task.selection)
        data = scores.audit(group.frame, group.keys, "method", group.headline, selection)
        if data.empty:
            continue
        names = {"all": "mean of all", "median": "median", "best": "best quarter"}
        if selection:
            names["best_by_val"] = f"best quarter by {selection.label}"
        rules = list(data["rule"].unique())
        by = {(row["method"], row["rule"]): row for row in data.to_dict("records")}
        places = _decimals_of(data["value"], digits=3)
        rows = []
        for method in group.methods:
            found = [by[method, rule] for rule in rules]
            cells = [Cell(number(row["value"], places), f"({row['rank']})", sort=row["rank"]) for row in found]
            rows.append([method_cell(method), *cells])
        header = [Cell("method"), *(Cell(names[rule]) for rule in rules)]
        taus = [f"{names[rule]} {number(by[group.methods[0], rule]['tau'], 2)}" for rule in rules[1:]]
        notes = [
            f"{group.headline.label} (rank), over the {data['seeds'].iloc[0]} {group.units} that all have. "
            f"Kendall's tau with the ranking by the mean of all: {', '.join(taus)}."
        ]
        unsure = scores.is_doubtful(group.frame, group.headline) & (group.frame["diverged"] == 0)
        doubtful = group.frame[unsure]["method"].value_counts()
        if len(doubtful):
            counts = ", ".join(f"{method} {doubtful[method]}" for method in group.methods if method in doubtful)
            notes.append(f"Unreliable values ({group.task.doubt}) are among them: {counts}.")
        changed = any(len({by[method, rule]["rank"] for rule in rules}) > 1 for method in group.methods)
        notes.append("The ranking depends on the rule." if changed else "The ranking is the same by every rule.")
        title = f"{group.title}: does the choice of {group.units} decide?"
        yield Table(title, header, rows, notes, data, "audit.csv", folded=True)


def draw_tables(frame: pd.DataFrame, axes: Sequence[str], options: dict[str, Any]) -> Iterator[Table]:
    """Yields a table per group and metric: is the ranking one of the methods, or of one draw of the data?

    Options: `metrics`.
    """
    for task_name, rows_of_task in frame.groupby("task", sort=True):
        task = task_of(str(task_name))
        draw = _draw_of(task, axes)
        task_groups = groups(rows_of_task, [axis for axis in axes if axis != draw])
        names = options.get("metrics") or [task.metrics[0].name]
        for group, metric in ((g, _metric(g.task, name)) for g in task_groups for name in names if name in g.frame):
            yield _draw_table(group, metric, draw, folded=metric.name != names[0])


def _draw_of(task: type[Task], axes: Sequence[str]) -> str:
    """Returns the varied setting that draws the data anew; raises UserError where there is none."""
    if not task.draw_settings:
        raise UserError(f"sweep.tables has draws, and task={task.name} has no setting that draws the data anew")
    draw = task.drawn_by(axes)
    if not draw:
        raise _not_varied("draws", " or ".join(task.draw_settings), axes)
    return draw


def _draw_table(group: Group, metric: Metric, draw: str, folded: bool) -> Table:
    data = scores.draws(group.frame, group.keys, metric, draw)
    records = data.to_dict("records")
    places, seeds = places_of(*records), records[0]["seeds"]
    parts = {"std_draws": "std between draws", **({"std_seeds": f"std between {group.units}"} if seeds > 1 else {})}
    std_places = _decimals_of(data[list(parts)].to_numpy().ravel(), digits=2)
    rows = []
    for row in records:
        cells = [mean_cell({**row, "seeds": row["draws"]}, places), verdict_cell(row)]
        cells += [number_cell(row[name], std_places) for name in parts]
        rows.append([method_cell(row["method"]), *cells, Cell(row["ranks"])])
    heads = ("test", *parts.values(), "rank at each draw")
    numbers = ", ".join(plain(value) for value in sorted(set(group.frame[draw])))
    units = group.units.removesuffix("s") if seeds == 1 else group.units
    each = f"{seeds} {units} each" if metric.of_model else "all seeds of a draw make one number"
    crossed = bool(data["std_residual"].notna().any())
    shared = " All draws share their seeds, so the test is that of a mixed model too, and has little power." * crossed
    notes = [
        MARKS,
        f"Draws of the {group.task.draw_of}: {draw} = {numbers}; {each}. Intervals and tests are over draws.{shared} "
        f"Mean Kendall's tau between the rankings of two draws: {number(records[0]['tau'], 2)}.",
        *_reservations(data, group.task),
        *_notes(data),
    ]
    drawn = group.task.draw_of.removeprefix("training ")
    title = f"{group.title}: {metric.label}; does the draw of the {drawn} decide?"
    header = [Cell("method"), _head(metric), *map(Cell, heads)]
    return Table(title, header, rows, notes, data, "draws.csv", folded=folded)


def grid_tables(frame: pd.DataFrame, axes: Sequence[str], options: dict[str, Any]) -> Iterator[Table]:
    """Yields a table per group and metric.

    Rows are the values of one swept key. Columns are the methods, or the values of a second key if there is one method.
    A table with more columns than rows is turned.
    """
    by = options["by"]
    if by not in axes:
        raise _not_varied("grid", by, axes)
    drawn = [key for name in frame["task"].unique() for key in task_of(str(name)).draw_settings if key != by]
    frame, axes = scores.over_draws(frame, axes, drawn)
    many = frame["method"].nunique() > 1
    other = [axis for axis in axes if axis != by]
    across = "method" if many or not other else other[0]
    if frame[across].isna().any():  # a setting that is null in some runs
        frame = frame.assign(**{across: frame[across].map(plain)})
    for group in groups(frame, [axis for axis in axes if axis not in (by, across)]):
        # Compared are the methods at equal setting; of one method, the settings.
        over, within = ("method", [*group.keys, by]) if many else (by, [*group.keys, across])
        equal = scores.at_equal_seeds(group.frame, by, [*group.keys, across])
        names = options.get("metrics") or [group.headline.name]
        for metric in (_metric(group.task, name) for name in names if name in group.frame):
            cells = scores.summarise(equal, within, over, [metric])
            some = {(row[by], row[across]): row for row in cells.to_dict("records")}
            columns = in_order([column for _, column in some])
            values = sorted({value for value, _ in some})
            is_turned = len(columns) > len(values)
            shown = by if is_turned else across
            places = _places(cells, shown)
            heads = {c: str(c) if across == "method" else f"{across.rpartition('.')[2]} = {plain(c)}" for c in columns}
            table = {
                key: mean_cell(row, places[row[shown]], row["verdict"] == "not significant")
                for key, row in some.items()
            }
            if is_turned:
                header = [Cell("method" if across == "method" else across), *(Cell(f"{plain(v)}") for v in values)]
                rows = [
                    [
                        method_cell(c) if across == "method" else Cell(heads[c]),
                        *(table.get((v, c), Cell("")) for v in values),
                    ]
                    for c in columns
                ]
            else:
                header = [Cell(by), *(Cell(heads[c]) for c in columns)]
                rows = [[Cell(plain(v), sort=v), *(table.get((v, c), Cell("")) for c in columns)] for v in values]
            counts = " to ".join(map(str, sorted({cells["n"].min(), cells["n"].max()})))
            of = "the methods at one value" if many else f"the values of {by}"
            notes = [
                f"{metric.label}, mean over the seeds that ran at every {by}, with 95 % interval; n = {counts}; "
                f"{cells['diverged'].sum()} diverged, {cells['n_untrusted'].sum()} unreliable.",
                f"Bold: the best mean of {of}. {UNDECIDED}: not significantly different from it (paired by seed, Holm "
                "over all pairs).",
                *_draw_note(group.task),
                *_reservations(cells, group.task),
                *_notes(cells, by if many else across, group.task),
            ]
            title = f"{group.title}: {metric.label} by {by}"
            yield Table(title, header, rows, notes, cells, f"grid_{by}.csv", folded=metric.name != names[0])


def variant_tables(frame: pd.DataFrame, axes: Sequence[str], options: dict[str, Any]) -> Iterator[Table]:
    """Yields a table per dataset with a row per method and value of what is varied.

    Options: `metrics`, and `intervals: false`, for means alone.
    """
    for group in groups(frame, []):
        shown = ("ranking", "settings")
        metrics = [m for m in metrics_of(group.task, group.frame) if m.table or set(shown) & set(m.figures)]
        metrics = [m for m in metrics if not m.only_with or _is_set(group.frame, m.only_with)]
        metrics = [_metric(group.task, name) for name in options.get("metrics", ())] or metrics
        cells = group.frame.assign(cell=group.frame["method"] + " | " + group.frame["variant"])
        data = scores.summarise(cells, group.keys, "cell", metrics)
        with_intervals = options.get("intervals", True)
        plain_row = {"mark": ""} if with_intervals else {"mark": "", "low": math.nan}
        by = {(row["cell"], row["metric"]): row | plain_row for row in data.to_dict("records")}
        places = _places(data, "metric")
        values = [axis for axis in axes if group.frame[axis].nunique() > 1]
        first = cells.drop_duplicates("cell").sort_values(values, kind="stable")
        rows: list[list[Cell]] = []
        for method in group.methods:
            for name, variant in first.loc[first["method"] == method, ["cell", "variant"]].itertuples(index=False):
                row = by[name, metrics[0].name]
                means = [mean_cell(by[name, metric.name], places[metric.name]) for metric in metrics]
                rows.append([method_cell(method), Cell(variant or "–", sort=len(rows)), _counts_cell(row), *means])
        header = [Cell("method"), Cell("varied"), Cell("seeds"), *map(_head, metrics)]
        notes = ["Mean over seeds with 95 % interval." if with_intervals else "Means over seeds."]
        notes += _reservations(data, group.task)
        yield Table(f"{group.title}: all variants", header, rows, notes, data, "variants.csv", folded=True)


def search_tables(results: Results) -> Iterator[Table]:
    """Yields a table per dataset: what to expect of the best of k trials; none where nothing was searched."""
    if results.axes == results.columns or results.trials.empty:
        return
    data = search.best_of(results.trials, results.tasks, results.axes)
    for keys, part in data.groupby(["label", *search.kept(data)], sort=False, dropna=False):
        task = results.tasks[str(keys[0])]
        trials = int(part["k"].max())
        shown = sorted({1, trials, *(2**power for power in range(1, 12) if 2**power < trials)})[-5:]
        by = {(row["method"], row["k"]): row for row in part.to_dict("records")}
        places = places_of(*by.values())
        rows = []
        for method in in_order(part["method"].tolist()):
            found = [by[method, k] for k in shown]
            cells = [Cell(interval_of(row, places), sort=row["mean"]) for row in found]
            rows.append([method_cell(method), *cells])
        headline, metric = task.metrics[0], search.selection_of(task)
        failed = part[part["failed"] > 0]["method"].unique()
        notes = [
            f"Mean test {headline.label} of the trial with the best {metric.label} among k, over "
            f"{part['searches'].max()} searches of {trials} trials each, with 95 % interval. Each search has a list of "
            "trials of its own, the same for every method.",
        ]
        if len(failed):
            notes.append(f"Some choices of {listed(list(map(str, failed)))} have only trials that diverged.")
        about = [f"{key} = {plain(value)}" for key, value in zip(search.kept(data), keys[1:], strict=True)]
        dataset = results.trials.loc[results.trials["label"] == keys[0], "dataset"].iloc[0]
        title = ", ".join([task.titled(str(dataset)), *about])
        header = [Cell("method"), *(Cell(f"best of {k}") for k in shown)]
        yield Table(f"{title}: the expected best of k trials", header, rows, notes, part, "search.csv")


def headline(made: Sequence[Table], tasks: Iterable[type[Task]]) -> Table | None:
    """Returns the one table that says most: at most six columns, means without their intervals.

    Where each dataset has a table of its own, it has a column for each of the first five.
    """
    shown = [table for table in made if not table.folded and table.rows]
    if not shown:
        return None
    first = shown[0]
    columns = [column for table in shown if (column := _column(table, tasks)) is not None]
    if len(columns) < 2 or len(columns) < len(shown):
        rows = [[replace(cell, beside="") for cell in row[:MOST_COLUMNS]] for row in first.rows]
        return replace(first, header=first.header[:MOST_COLUMNS], rows=rows, data=None)
    some = columns[: MOST_COLUMNS - 1]
    names = in_order([name for _, cells in some for name in cells])
    rows = [[method_cell(name), *(cells.get(name, Cell("–")) for _, cells in some)] for name in names]
    marks = " ".join(cell.marks for row in rows for cell in row)
    notes = [
        f"Bold: the best mean. {UNDECIDED}: not significantly different from it (paired tests, Holm over all pairs)."
    ]
    notes += [f"{FEWER}: some diverged or have no finite value."] * (FEWER in marks)
    notes += ["≥: a lower bound, with unreliable values."] * any(cell.text[:1] == "≥" for row in rows for cell in row)
    notes += [f"{DOUBTFUL}: with unreliable values."] * (DOUBTFUL in marks)
    if len(columns) > len(some):
        notes.append(f"{len(columns) - len(some)} more datasets are in the tables below.")
    return Table("", [Cell("method"), *(head for head, _ in some)], rows, notes)


def _column(table: Table, tasks: Iterable[type[Task]]) -> tuple[Cell, dict[Any, Cell]] | None:
    """Returns the first metric of a table of methods as a column; None for a table of something else."""
    data = table.data
    if data is None or not {"method", "metric", "verdict"} <= set(data.columns):
        return None
    name = data["metric"].iloc[0]
    own = data[data["metric"] == name]
    metric = next((found for task in tasks if (found := task.metric(str(name)))), None)
    if metric is None or not own["method"].is_unique:
        return None
    records = own.to_dict("records")
    places = places_of(*records)
    cells = {}
    for row in records:
        units = row["draws"] if "draws" in row else row["seeds"]
        cell = mean_cell({**row, "seeds": units}, places, len(records) > 1 and row["verdict"] == "not significant")
        cells[row["method"]] = replace(cell, beside="")
    title = table.title.partition(":")[0]
    return Cell(f"{title}: {metric.label} {metric.arrow}".strip()), cells


KINDS: dict[str, Callable[[pd.DataFrame, Sequence[str], dict[str, Any]], Iterable[Table]]] = {
    "scores": score_tables,
    "cost": cost_tables,
    "comparisons": comparison_tables,
    "audit": audit_tables,
    "draws": draw_tables,
    "grid": grid_tables,
    "variants": variant_tables,
}
"""What `sweep.tables` may name. Each makes tables of the runs that are done and the settings that vary."""

OPTIONS = {
    "scores": ("metrics", "margins"),
    "draws": ("metrics",),
    "grid": ("by", "metrics"),
    "variants": ("metrics", "intervals"),
}
"""The options of these kinds; the others have none."""


def _is_set(frame: pd.DataFrame, setting: str) -> bool:
    return setting in frame and bool(frame[setting].astype(bool).any())


# --------------------------------------------------------------------------------------------------------- cells


def _head(metric: Metric) -> Cell:
    text = f"{metric.label} {metric.arrow}".strip()
    return Cell(text, tex=f"{metric.tex} {latex_text(metric.arrow)}".strip() if metric.tex else None)


def mean_cell(row: dict[str, Any], places: int | None, is_open: bool = False) -> Cell:
    """Returns the cell of a mean, its interval beside it, to so many decimals; `row` is one of `scores.summarise`.

    Args:
        is_open: whether its difference from the best one is not significant.
    """
    mean, low, high = (number(row[name], places) for name in ("mean", "low", "high"))
    known = math.isfinite(row["low"]) and not row["bound"]
    mean = f"≥ {mean}" if row["bound"] == "least" else mean
    marks = [FEWER] * bool(row["n"] < row["seeds"] or row["diverged"]) + [DOUBTFUL] * (row["bound"] == "unknown")
    marks += [UNDECIDED] * is_open
    tail = rf"\,$_{{{low}}}^{{{high}}}$".replace("−", "-") * known  # narrower: these tables have many columns
    tail += "".join(rf"\,{latex_text(mark)}" for mark in marks)
    beside = f"[{low}, {high}]" * known
    return Cell(mean, beside, row["mark"], " ".join(marks), latex_text(mean), tail, sort=row["mean"])


def interval_of(row: dict[str, Any], places: int | None) -> str:
    """Returns a mean with its interval, as text; without one, if there is none."""
    mean, low, high = (number(row[name], places) for name in ("mean", "low", "high"))
    if row.get("bound"):
        return f"≥ {mean}" if row["bound"] == "least" else f"{mean} {DOUBTFUL}"
    return f"{mean} [{low}, {high}]" if math.isfinite(row["low"]) else mean


def listed(names: Sequence[str]) -> str:
    """Returns names as a sentence lists them: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def verdict_cell(row: dict[str, Any]) -> Cell:
    """Returns the test's verdict with its p-value."""
    p = row["p_holm"]
    said = "" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return Cell(str(row["verdict"]) or "–", said)


def _counts_cell(row: dict[str, Any]) -> Cell:
    """Returns how many seeds there are, and what is the matter with some."""
    some = {"diverged": row["diverged"], "without a value": row["no_value"], "unreliable": row["n_untrusted"]}
    return Cell(
        str(row["seeds"]), ", ".join(f"{count} {name}" for name, count in some.items() if count), sort=row["seeds"]
    )


def _decimals(row: dict[str, Any]) -> int | None:
    """Returns as many as give the interval's shorter side two significant digits; None where there is no interval."""
    half = min(row["high"] - row["mean"], row["mean"] - row["low"])
    half = half if half > 0 else (row["high"] - row["low"]) / 2
    return min(8, max(0, 1 - math.floor(math.log10(half)))) if math.isfinite(half) and half > 0 else None


def places_of(*rows: dict[str, Any]) -> int | None:
    """Returns the decimals of the numbers of these rows: the middle one of what their intervals ask for."""
    asked = sorted(places for row in rows if (places := _decimals(row)) is not None)
    return asked[len(asked) // 2] if asked else _decimals_of([row["mean"] for row in rows], digits=4)


def _places(cells: pd.DataFrame, by: str) -> dict[Any, int | None]:
    """Returns the decimals of each column of a table: of the rows of each value of `by`."""
    return {value: places_of(*own.to_dict("records")) for value, own in cells.groupby(by)}


def _decimals_of(values: Iterable[float], digits: int) -> int | None:
    """Returns as many as give the middle one of these numbers so many significant digits."""
    sizes = sorted(abs(value) for value in values if math.isfinite(value) and value)
    return min(8, max(0, digits - 1 - math.floor(math.log10(sizes[len(sizes) // 2])))) if sizes else None


def _share_cell(value: float) -> Cell:
    return Cell("–" if math.isnan(value) else f"{value:.2f}", sort=value)


# --------------------------------------------------------------------------------------------------------- notes


def _notes(cells: pd.DataFrame, within: str | None = None, task: type[Task] | None = None) -> list[str]:
    """Returns the notes of the rows, each once; with the values of `within` that it is about, if not about all."""
    where: dict[str, list[str]] = {}
    for row in cells.to_dict("records"):
        if row["note"]:
            where.setdefault(row["note"], []).append(_label(within, row[within], task) if within else "")
    every = {_label(within, value, task) for value in cells[within]} if within else {""}
    return [
        note if every <= set(labels) else f"{', '.join(dict.fromkeys(labels))}: {note}"
        for note, labels in where.items()
    ]


def _label(column: str, value: Any, task: type[Task] | None) -> str:
    metric = task.metric(str(value)) if task and column == "metric" else None
    return metric.label if metric else f"{column} = {plain(value)}"


def _draw_note(task: type[Task]) -> list[str]:
    """Says what seeds cannot tell."""
    if not task.draw_settings:
        return []
    return [f"All use one draw of the {task.draw_of}: intervals and tests do not cover other draws."]


def _equivalent(cells: pd.DataFrame, margins: Mapping[str, float]) -> list[str]:
    """Names what is the same as the best mean, within the margin that the sweep gives."""
    same = cells[cells["verdict"] == "equivalent"].groupby("metric", sort=False)["method"]
    parts = [f"{metric}, margin {margins[str(metric)]:g}: {', '.join(names)}" for metric, names in same]
    return [f"Equivalent to the best mean (two one-sided tests): {'; '.join(parts)}."] if parts else []


def _nominal(metrics: Sequence[Metric]) -> list[str]:
    """Says how metrics are ranked that are best at a value."""
    labels = [metric.label for metric in metrics if isinstance(metric.better, float)]
    return [f"{', '.join(labels)}: best is the smallest mean distance from this value, by seed."] if labels else []


def _reservations(cells: pd.DataFrame, task: type[Task]) -> list[str]:
    """Explains the marks of means that are there, and how few seeds there are."""
    notes = []
    if ((cells["bound"] == "least") & (cells["n_untrusted"] > 0)).any():
        notes.append(f"≥: a lower bound, with unreliable values ({task.doubt}).")
    if ((cells["bound"] == "least") & (cells["n_untrusted"] == 0)).any():
        notes.append(
            "≥ without unreliable values: log Z is computed from draws, which miss modes that nothing points to. Such "
            "values are ranked as they are."
        )
    if (cells["bound"] == "unknown").any():
        notes.append(f"{DOUBTFUL}: with unreliable values ({task.doubt}).")
    fewer = cells["n"] < cells["draws" if "draws" in cells else "seeds"]
    if fewer.any() or (cells["diverged"] > 0).any():
        notes.append(f"{FEWER}: some diverged or have no finite value; the mean is over the others, and is not ranked.")
    fewest = cells.loc[cells["n"] > 1, "n"].min()
    if fewest < 10:
        notes.append(
            f"n = {fewest}: where values are skewed, a 95 % interval covers the mean in less than 95 % of cases (about "
            "86 % for n = 3 and 89 % for n = 5)."
        )
    return notes


# --------------------------------------------------------------------------------------------------------- files


def provenance(results: Results) -> list[str]:
    """Returns where the numbers come from: sweep, what is done and what is not, settings, commits, dates."""
    frame, good = results.frame, results.done
    runs, done = frame.drop_duplicates("run_id"), good.drop_duplicates("run_id")
    digest = hashlib.sha256(" ".join(hashes := sorted(set(frame["config_hash"]))).encode()).hexdigest()[:12]
    doubt = ", ".join(sorted({task.doubt for task in results.tasks.values() if task.doubt})) or "see each run"
    lines = [f"Sweep {results.name}. {results.description}".strip()]
    lines.append(
        f"{len(done)} of {len(runs)} runs and {len(good)} of {len(frame)} seeds are in these tables; "
        f"{int((good['diverged'] == 1).sum())} seeds diverged, {count_doubtful(good)} more are unreliable ({doubt})."
    )
    for state, part in runs[~runs["run_id"].isin(done["run_id"])].groupby("state", sort=True):
        names = part["run_id"].tolist()
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        lines.append(f"Not in them, {state}: {shown}.")
    dates = sorted(str(date)[:10] for date in done["finished"].dropna())
    when = f"{dates[0]} to {dates[-1]}" if dates else "none"
    lines.append(
        f"Made by commit {commits_of(good)}; runs finished {when} (UTC). "
        f"{len(hashes)} settings, digest {digest}; each one's hash is in runs.csv."
    )
    return [one_line(line) for line in lines]


def commits_of(done: pd.DataFrame) -> str:
    """Returns the commits that made the runs."""
    commits = sorted({str(commit) for commit in done["commit"].dropna()})
    return ("; " if any("," in commit for commit in commits) else ", ").join(commits) or "unknown"


def count_doubtful(done: pd.DataFrame) -> int:
    """Returns how many seeds did not diverge and are unreliable."""
    return int(((done["trusted"] == 0) & (done["diverged"] == 0)).sum())


def _markdown(tables: Sequence[Table], results: Results, origin: Sequence[str]) -> str:
    lines = [f"# {markdown_text(results.name)}", "", *(f"{markdown_text(line)}  " for line in origin), ""]
    if not tables:
        lines += ["No run is done yet." if results.done.empty else "The sweep asks for no table: see runs.csv.", ""]
    lines += [markdown(table) for table in tables]
    frame = results.frame.assign(seeds=results.frame.groupby("run_id")["run_id"].transform("size"))
    runs = frame.drop_duplicates("run_id")[["run_id", "method", "seeds", "config_hash", "state", "finished"]]
    shown = runs.head(SHOWN_RUNS).astype(object).where(lambda cells: cells.notna(), "")
    rows = [[Cell(str(text)) for text in row] for row in shown.itertuples(index=False)]
    if len(runs) > SHOWN_RUNS:
        rows.append([Cell(f"and {len(runs) - SHOWN_RUNS} more in runs.csv"), *[Cell("")] * 5])
    header = [Cell(name) for name in ("run", "method", "seeds", "settings", "state", "finished")]
    return "\n".join([*lines, markdown(Table("Settings", header, rows)).rstrip()]) + "\n"


def _latex(tables: Sequence[Table], results: Results, origin: Sequence[str]) -> str:
    lines = [f"% {line}" for line in origin]
    said = origin if len(origin) > 3 else [origin[0], origin[-1]]  # what is missing, wherever the table goes
    lines += [r"% In the preamble: \usepackage{booktabs}, \usepackage{graphicx}. Then: \input{tables.tex}", ""]
    metrics = [*COST, *(metric for task in dict.fromkeys(results.tasks.values()) for metric in task.metrics)]
    symbols = {metric.label: metric.tex for metric in metrics if metric.tex and "_" in metric.label}
    for index, table in enumerate(tables):
        lines.append(latex(table, f"{results.name}-{index + 1}", symbols, said))
    return "\n".join(lines)
