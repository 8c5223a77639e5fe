"""What results say, in sentences: the page opens with them.

Each sentence follows from a test that could have said otherwise. What the test cannot tell is "not significant".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ebmbench.core.errors import counted
from ebmbench.display.palette import in_order
from ebmbench.display.table import number, plain
from ebmbench.report import scores
from ebmbench.report.frame import Results, task_of, varying
from ebmbench.report.settings import symbol
from ebmbench.report.tables import (
    Group,
    draw_tables,
    groups,
    interval_of,
    listed,
    margins_of,
    parse_entry,
    places_of,
)
from ebmbench.tasks.base import Metric

Row = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What one comparison decided, as the cells of a row; names stand between backticks.

    Attributes:
        at: the value of a setting at which it was made, if it is one of several.
        best: the name with the best mean, and that mean; – where there is no ranking.
        open: names whose difference from the best one is not significant.
        note: sentences that say why something is not ranked, tested or there.
    """

    best: str
    open: str
    worse: str
    note: str
    at: str = ""


@dataclass(frozen=True)
class Finding:
    """What the statistics say of one dataset, in sentences in which names stand between backticks.

    Attributes:
        short: the one sentence that a reader must know.
        about: what was compared: a mean, over what.
        verdicts: the comparisons that the sentences sum up.
        setting: the symbol of what they are `at`.
        values: the means that were compared, in words.
    """

    title: str
    text: str
    about: str
    short: str = ""
    verdicts: tuple[Verdict, ...] = ()
    setting: str = ""
    values: str = ""


# ------------------------------------------------------------------------------------------------------- findings


def findings(results: Results) -> list[Finding]:
    """Returns what the runs say, a finding for each dataset; none where no run is done."""
    if results.done.empty:
        return []
    found: list[Finding] = []
    for (task, _), part in results.done.groupby(["task", "dataset"], sort=True):
        if task_of(str(task)).drawn_by(varying(part, results.axes)):
            found += _of_draws(part, results)
        else:
            found += [finding for group in groups(part, ()) for finding in _of_group(group, results)]
    return found


def _of_group(group: Group, results: Results) -> Iterator[Finding]:
    """Yields what is said of methods, of the values of one method's setting, or of methods at each value."""
    varied = varying(group.frame, results.axes)
    metric = _asked(group, results)
    if not varied:
        records = at_equal_seeds(group.frame, "method", metric, results)
        yield of_methods(group, metric, records, _lacking(results, group.frame))
    elif len(varied) == 1:
        axis, method = varied[0], str(group.methods[0])
        sign = symbol(axis, group.task.name, method)
        if len(group.methods) == 1:
            equal = scores.at_equal_seeds(group.frame, axis, ["method"])
            records = at_equal_seeds(equal, axis, metric, results)
            names = [f"{sign} = {plain(record[axis])}" for record in records]
            yield _said(group.title, metric, records, names, "seed", _seeds_of(group))
        else:
            yield _at_each_value(group, metric, axis, sign, results)


def _asked(group: Group, results: Results) -> Metric:
    """Returns the metric that the sweep's tables ask for first, if any does; else the task's first."""
    for _, options in map(parse_entry, results.tables):
        for name in options.get("metrics", ()):
            metric = group.task.metric(name)
            if metric is not None and name in group.frame:
                return metric
    return group.headline


def of_methods(group: Group, metric: Metric, records: Sequence[Row], lacking: str = "") -> Finding:
    """Returns what the tests say of the methods of a group; `records` are rows of `scores.summarise`."""
    names = [code(row["method"]) for row in records]
    return _said(group.title, metric, records, names, "seed", _seeds_of(group), lacking)


def _lacking(results: Results, own: pd.DataFrame, setting: str = "") -> str:
    """Names what the sweep compares elsewhere and has no run of here; nothing where the runs are no sweep's.

    Args:
        own: the runs that are here.
        setting: what is named has this setting.
    """
    rows = results.done[results.done["task"].isin(own["task"])]
    rows = rows[rows[setting].notna()] if setting else rows
    names = [code(name) for name in in_order(rows["method"].tolist()) if name not in set(own["method"])]
    if not names or not results.sweep:
        return ""
    return f"Without {listed(names)}, which {'has' if len(names) == 1 else 'have'} no runs here."


def code(name: object) -> str:
    """Returns a name between backticks, without what would end them or a cell of a table."""
    return f"`{re.sub('[`|]', ' ', str(name))}`"


def _seeds_of(group: Group) -> str:
    drawn = group.frame["seed"].nunique() and bool(group.task.draw_settings) and group.unit == "seed"
    return f"seeds on one draw of the {group.task.draw_of}" if drawn else group.units


def at_equal_seeds(rows: pd.DataFrame, over: str, metric: Metric, results: Results) -> list[Row]:
    """Returns the summary of each that is compared, over the seeds that all of them have."""
    equal = scores.at_equal_seeds(rows, over, ["task", "dataset"])
    table = scores.summarise(equal, ["task", "dataset"], over, [metric], margins_of(results.tables))
    return list(table.to_dict("records"))


def _at_each_value(group: Group, metric: Metric, axis: str, sign: str, results: Results) -> Finding:
    """Returns the best mean at each value of a setting that several methods share."""
    having = group.frame[group.frame[axis].notna()]  # a method may not have the setting
    equal = scores.at_equal_seeds(having, axis, ["method"])
    table = scores.summarise(equal, ["task", "dataset", axis], "method", [metric])
    best: list[str] = []
    clear: list[str] = []
    verdicts: list[Verdict] = []
    for value, own in table.groupby(axis, sort=True):
        records = own.to_dict("records")
        lacking = _lacking(results, having[having[axis] == value], axis)
        verdicts.append(_verdict(records, [code(row["method"]) for row in records], plain(value), lacking))
        firsts = [row for row in records if row["verdict"] == "best"]
        best += [f"{code(row['method'])} at {plain(value)}" for row in firsts]
        if set(own["verdict"]) == {"best", "worse"}:
            clear.append(plain(value))
    notes: dict[str, list[str]] = {}
    for verdict in verdicts:
        notes.setdefault(verdict.note, []).append(verdict.at)
    if best:
        where = f"At {sign} = {listed(clear)} it is" if clear else f"At no {sign} is it"
        short = f"The best mean {metric.label}: {', '.join(best)}. {where} significantly better than all others."
        text = (
            f"The best mean {metric.label} by {sign}, over {_seeds_of(group)}: {', '.join(best)}. {where} "
            f"significantly better than all others (p < {scores.SIGNIFICANCE}, paired by seed, Holm)."
        )
    else:
        text = short = f"There is no ranking by mean {metric.label} at any {sign}."
    text += "".join(f" At {sign} = {listed(values)}: {note}" for note, values in notes.items() if note)
    about = f"mean {metric.label} over {_seeds_of(group)}"
    return Finding(group.title, text, about, short, tuple(verdicts), sign)


def _of_draws(part: pd.DataFrame, results: Results) -> Iterator[Finding]:
    """Yields what is said where the training data, or what else a task draws, were drawn several times."""
    options = next((options for kind, options in map(parse_entry, results.tables) if kind == "draws"), {})
    task = task_of(str(part["task"].iloc[0]))
    metric = next((m for name in options.get("metrics", ()) if (m := task.metric(name))), task.metrics[0])
    options = {**options, "metrics": [metric.name]}
    for table in draw_tables(part, results.axes, options):
        assert table.data is not None
        rows = table.data.to_dict("records")
        names = [code(row["method"]) for row in rows]
        title = table.title.partition(f": {metric.label}")[0]
        over = f"draws of the {task.draw_of}, {counted(int(rows[0]['seeds']), 'seed')} each"
        finding = _said(title, metric, rows, names, "draw", over, _lacking(results, part))
        tau = rows[0]["tau"]
        agree = f" Mean Kendall's tau between the rankings of two draws: {number(tau, 2)}." if tau == tau else ""
        yield replace(finding, text=finding.text + agree)


def _said(
    title: str, metric: Metric, rows: Sequence[Row], names: Sequence[str], unit: str, over: str, lacking: str = ""
) -> Finding:
    """Returns what the tests say of means.

    Args:
        over: over what the means are, in words.
        lacking: a sentence that names what has no runs here.
    """
    by_name = dict(zip(names, rows, strict=True))
    places = places_of(*rows)
    values = ", ".join(f"{name} {_mean(row, places)}" for name, row in by_name.items())
    found: dict[str, list[str]] = {}
    for name, row in by_name.items():
        found.setdefault(str(row["verdict"]), []).append(name)
    first = by_name[found["best"][0]] if "best" in found else max(rows, key=lambda row: int(row["n"]))
    about = f"mean {metric.label} over {first['n']} {over.replace('seeds', 'seed', 1) if first['n'] == 1 else over}"
    interval = f"{interval_of(first, places)}{_doubt(first)}"
    if len(rows) == 1:
        text = f"{names[0]} has a {about} of {interval}. Nothing is compared with it."
        return Finding(title, text, about, text, values=values)
    said = [f"There is no ranking by {about}."]
    short = said[0]
    if "best" in found:
        worse = ""
        if "worse" in found:
            verb = "is" if len(found["worse"]) == 1 else "are"
            how = f"p < {scores.SIGNIFICANCE}, paired by {unit}, Holm over {first['comparisons']} comparisons"
            worse = f"; {listed(found['worse'])} {verb} worse ({how})"
        said = [f"{found['best'][0]} has the best {about}, {interval}{worse}."]
        short = (
            f"{found['best'][0]} has the best mean {metric.label}, {_mean(first, places)}. {_count(found, len(rows))}"
        )
    if "equivalent" in found:
        said.append(f"Equivalent to it: {listed(found['equivalent'])}.")
    if "not significant" in found:
        said.append(f"Not significantly different from it: {listed(found['not significant'])}.")
    text = " ".join(filter(None, [*said, first["note"], lacking]))
    return Finding(title, text, about, short, (_verdict(rows, names, lacking=lacking),), values=values)


def _count(found: dict[str, list[str]], total: int) -> str:
    """Says how many of the others are worse than the best one."""
    worse = len(found.get("worse", ()))
    if worse == total - 1:
        return "All others are significantly worse." if worse > 1 else "The other one is significantly worse."
    return f"{worse} of the {total - 1} others {'is' if worse == 1 else 'are'} significantly worse."


def _verdict(rows: Sequence[Row], names: Sequence[str], at: str = "", lacking: str = "") -> Verdict:
    places = places_of(*rows)
    found: dict[str, list[str]] = {}
    for name, row in zip(names, rows, strict=True):
        said = f"{name}, {interval_of(row, places)}{_doubt(row)}" if row["verdict"] == "best" else name
        found.setdefault(str(row["verdict"]), []).append(said)
    if len(found.get("not significant", ())) == len(rows) - 1 > 1:
        found["not significant"] = ["all others"]
    best, unclear, equivalent, worse = (
        ", ".join(found.get(verdict, "–")) for verdict in ("best", "not significant", "equivalent", "worse")
    )
    equal = f"Equivalent to the best one: {equivalent}." if "equivalent" in found else ""
    return Verdict(best, unclear, worse, " ".join(filter(None, [equal, str(rows[0]["note"]), lacking])), at)


def _mean(row: Row, places: int | None) -> str:
    """Returns a mean without its interval; a lower bound says so."""
    return interval_of({**row, "low": float("nan")}, places)


def _doubt(row: Row) -> str:
    return f" ({row['n_untrusted']} values unreliable)" if row["n_untrusted"] else ""
