"""What results say, in sentences: the page opens with them, and documents hold those of the committed results.

`python -m ebmbench report claims` writes what stands between marks such as `<!-- results -->` and
`<!-- end of results -->`.
Each sentence follows from a test that could have said otherwise; what no test decides is called not decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ebmbench.display.palette import in_order
from ebmbench.display.table import Cell, Table, markdown_rows, method_cell, number, plain
from ebmbench.report import frame, scores
from ebmbench.report.frame import Results, task_of, varying
from ebmbench.report.settings import symbol
from ebmbench.report.tables import (
    DOUBTFUL,
    FEWER,
    Group,
    draw_tables,
    groups,
    interval_of,
    listed,
    margins_of,
    mean_cell,
    parse_entry,
    places_of,
)
from ebmbench.tasks.base import Metric

COMPARED = ("paper_1d", "shapes")
"""The sweeps that compare the paper's seven methods at published settings, or as near to them as two cores allow."""
REDRAWN = "data_seeds"
"""The sweep that makes the comparison again on other draws of the data."""
UNDECIDED = "°"
"""Marks a mean whose difference from the best one is not decided."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What one comparison decided, as the cells of a row; names stand between backticks.

    Attributes:
        at: the value of a setting at which it was made, if it is one of several.
        best: the name with the best mean, and that mean; – where there is no ranking.
        undecided: names whose difference from the best one is not decided.
        note: sentences that say why something is not ranked, tested or there.
    """

    best: str
    undecided: str
    worse: str
    note: str
    at: str = ""


@dataclass(frozen=True)
class Finding:
    """What the statistics say of one dataset: two sentences, in which names stand between backticks.

    Attributes:
        about: what was compared: a mean, over what.
        verdicts: the comparisons that the sentences sum up.
        setting: the symbol of what they are `at`.
        values: the means that were compared, in words.
    """

    title: str
    text: str
    about: str
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
        records = _at_equal_seeds(group.frame, "method", metric, results)
        yield _of_methods(group, metric, records, _lacking(results, group.frame))
    elif len(varied) == 1:
        axis, method = varied[0], str(group.methods[0])
        sign = symbol(axis, group.task.name, method)
        if len(group.methods) == 1:
            equal = scores.at_equal_seeds(group.frame, axis, ["method"])
            records = _at_equal_seeds(equal, axis, metric, results)
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


def _of_methods(group: Group, metric: Metric, records: Sequence[Row], lacking: str = "") -> Finding:
    names = [_code(row["method"]) for row in records]
    return _said(group.title, metric, records, names, "seed", _seeds_of(group), lacking)


def _lacking(results: Results, own: pd.DataFrame, setting: str = "") -> str:
    """Names what the sweep compares elsewhere and has no run of here; nothing where the runs are no sweep's.

    Args:
        own: the runs that are here.
        setting: what is named has this setting.
    """
    rows = results.done[results.done["task"].isin(own["task"])]
    rows = rows[rows[setting].notna()] if setting else rows
    names = [_code(name) for name in in_order(rows["method"].tolist()) if name not in set(own["method"])]
    if not names or not results.sweep:
        return ""
    return f"Without {listed(names)}, which {'has' if len(names) == 1 else 'have'} no runs here."


def _code(name: object) -> str:
    """Returns a name between backticks, without what would end them or a cell of a table."""
    return f"`{re.sub('[`|]', ' ', str(name))}`"


def _seeds_of(group: Group) -> str:
    return f"seeds on one draw of the {group.task.draw_of}" if group.task.draw_settings else "seeds"


def _at_equal_seeds(rows: pd.DataFrame, over: str, metric: Metric, results: Results) -> list[Row]:
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
    decided: list[str] = []
    verdicts: list[Verdict] = []
    for value, own in table.groupby(axis, sort=True):
        records = own.to_dict("records")
        lacking = _lacking(results, having[having[axis] == value], axis)
        verdicts.append(_verdict(records, [_code(row["method"]) for row in records], plain(value), lacking))
        firsts = [row for row in records if row["verdict"] == "best"]
        best += [f"{_code(row['method'])} at {plain(value)}{_doubt(row)}" for row in firsts]
        if set(own["verdict"]) == {"best", "worse"}:
            decided.append(plain(value))
    notes: dict[str, list[str]] = {}
    for verdict in verdicts:
        notes.setdefault(verdict.note, []).append(verdict.at)
    if best:
        where = f"At {sign} = {listed(decided)} it is" if decided else f"At no {sign} is it"
        text = (
            f"The best mean {metric.label} by {sign}, over {_seeds_of(group)}: {', '.join(best)}. {where} decided "
            f"against all others (p < {scores.SIGNIFICANCE}, paired by seed, Holm)."
        )
    else:
        text = f"There is no ranking by mean {metric.label} at any {sign}."
    text += "".join(f" At {sign} = {listed(values)}: {note}" for note, values in notes.items() if note)
    return Finding(group.title, text, f"mean {metric.label} over {_seeds_of(group)}", tuple(verdicts), sign)


def _of_draws(part: pd.DataFrame, results: Results) -> Iterator[Finding]:
    """Yields what is said where the training data, or what else a task draws, were drawn several times."""
    options = next((options for kind, options in map(parse_entry, results.tables) if kind == "draws"), {})
    task = task_of(str(part["task"].iloc[0]))
    metric = next((m for name in options.get("metrics", ()) if (m := task.metric(name))), task.metrics[0])
    options = {**options, "metrics": [metric.name]}
    for table in draw_tables(part, results.axes, options):
        assert table.data is not None
        rows = table.data.to_dict("records")
        names = [_code(row["method"]) for row in rows]
        title = table.title.partition(f": {metric.label}")[0]
        over = f"draws of the {task.draw_of}, {rows[0]['seeds']} seeds each"
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
    values = ", ".join(f"{name} {number(row['mean'], places)}{_without(row, places)}" for name, row in by_name.items())
    found: dict[str, list[str]] = {}
    for name, row in by_name.items():
        found.setdefault(str(row["verdict"]), []).append(name)
    first = by_name[found["best"][0]] if "best" in found else max(rows, key=lambda row: int(row["n"]))
    about = f"mean {metric.label} over {first['n']} {over.replace('seeds', 'seed', 1) if first['n'] == 1 else over}"
    interval = f"{interval_of(first, places)}{_without(first, places)}"
    if len(rows) == 1:
        return Finding(
            title, f"{names[0]} has a {about} of {interval}. Nothing is compared with it.", about, values=values
        )
    said = [f"There is no ranking by {about}."]
    if "best" in found:
        worse = ""
        if "worse" in found:
            verb = "is" if len(found["worse"]) == 1 else "are"
            how = f"p < {scores.SIGNIFICANCE}, paired by {unit}, Holm over {first['comparisons']} comparisons"
            worse = f"; {listed(found['worse'])} {verb} worse ({how})"
        said = [f"{found['best'][0]} has the best {about}, {interval}{worse}."]
    if "equivalent" in found:
        said.append(f"Equivalent to it: {listed(found['equivalent'])}.")
    if "not decided" in found:
        said.append(f"Not decided against it: {listed(found['not decided'])}.")
    if set(found) == {"best", "worse"}:
        said.append("Every difference from it is decided.")
    text = " ".join(filter(None, [*said, first["note"], lacking]))
    return Finding(title, text, about, (_verdict(rows, names, lacking=lacking),), values=values)


def _verdict(rows: Sequence[Row], names: Sequence[str], at: str = "", lacking: str = "") -> Verdict:
    places = places_of(*rows)
    found: dict[str, list[str]] = {}
    for name, row in zip(names, rows, strict=True):
        said = f"{name}, {interval_of(row, places)}{_doubt(row)}" if row["verdict"] == "best" else name
        found.setdefault(str(row["verdict"]), []).append(said)
    if len(found.get("not decided", ())) == len(rows) - 1 > 1:
        found["not decided"] = ["all others"]
    best, undecided, equivalent, worse = (
        ", ".join(found.get(verdict, "–")) for verdict in ("best", "not decided", "equivalent", "worse")
    )
    equal = f"Equivalent to the best one: {equivalent}." if "equivalent" in found else ""
    return Verdict(best, undecided, worse, " ".join(filter(None, [equal, str(rows[0]["note"]), lacking])), at)


def _without(row: Row, places: int | None) -> str:
    """Says what a mean is without the seeds that are not trusted, if there are any."""
    count = row["n_untrusted"]
    if not count:
        return ""
    if row["mean_trusted"] != row["mean_trusted"]:
        return " (no seed is trusted)"
    return f" ({number(row['mean_trusted'], places)} without {count} doubtful seed{'s' if count > 1 else ''})"


def _doubt(row: Row) -> str:
    return f" ({row['n_untrusted']} of {row['n']} seeds doubtful)" if row["n_untrusted"] else ""


# ------------------------------------------------------------------------------------------------------ documents


def replaced(document: str, mark: str, text: str) -> str:
    """Returns a document with `text` between its marks `<!-- mark -->` and `<!-- end of mark -->`.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    pattern = f"(?s){re.escape(begin)}\n.*?{re.escape(end)}"
    made, count = re.subn(pattern, lambda found: f"{begin}\n{text}{end}", document)
    if not count:
        raise ValueError(f"there is no {begin} … {end}")
    return made


def _collected(results_dir: Path) -> list[Results]:
    return [frame.load(path.parent) for path in sorted(results_dir.glob("*/sweep.json"))]


def findings_text(results_dir: Path) -> str:
    """Returns what all collected sweeps say, as Markdown: a paragraph for each question that one compares.

    A sweep without tables, such as one that tries settings, says nothing.
    """
    lines: list[str] = []
    for results in (results for results in _collected(results_dir) if results.tables):
        said = [finding for finding in findings(results) if finding.verdicts]
        lines += [f"**{results.description.rstrip('.')}** ([tables]({results.name}/tables.md))", ""] if said else []
        for finding in said:
            values = f" Means: {finding.values}." if finding.values else ""
            lines.append(f"- {finding.title}: {finding.text}{values}")
        lines += [""] if said else []
    return "\n".join(lines) + "\n"


def results_text(results_dir: Path) -> str:
    """Returns the comparison of methods in one table, as Markdown, and what the tests say, of other draws too.

    A column is the headline metric of one dataset of the sweeps in COMPARED.
    """
    columns = [
        (group, _at_equal_seeds(group.frame, "method", group.headline, results))
        for results in _collected(results_dir)
        if results.name in COMPARED
        for group in groups(results.done, ())
    ]
    methods = list(dict.fromkeys(method for group, _ in columns for method in group.methods))
    rows = [[method_cell(method), *(_marked_cell(records, method) for _, records in columns)] for method in methods]
    header = [Cell("method")]
    for group, records in columns:
        header.append(
            Cell(f"{group.title}: {group.headline.label} {group.headline.arrow} ({records[0]['seeds']} seeds)")
        )
    lines = markdown_rows(Table("", header, rows))
    legend = (
        "Mean over seeds and its 95 % interval, each column on one draw of its data or of its base detector: they say "
        "nothing of other draws. Bold: the best mean. "
        f"{UNDECIDED}: the difference from it is not decided; every other one is."
    )
    doubtful = [
        f"{group.title}: {', '.join(means)}"
        for group, records in columns
        if (means := [_code(row["method"]) + text for row in records if (text := _without(row, places_of(*records)))])
    ]
    if doubtful:
        legend += f" {DOUBTFUL}: with seeds whose numbers are not trusted. {'; '.join(doubtful)}."
        having = [group for group, records in columns if any(row["n_untrusted"] for row in records)]
        doubts = {group.title.partition(",")[0]: group.task.doubt for group in having}
        legend += f" Reasons not to trust a seed: {'; '.join(f'{k}, {v}' for k, v in doubts.items())}."
    if any(FEWER in line for line in lines):
        legend += f" {FEWER}: over fewer than all seeds, for some diverged or have no finite value."
    said = [_of_methods(group, group.headline, records) for group, records in columns]
    said += [found for results in _collected(results_dir) if results.name == REDRAWN for found in findings(results)]
    return "\n".join([*lines, "", legend, "", *(f"- {finding.title}: {finding.text}" for finding in said)]) + "\n"


def _marked_cell(records: Sequence[Row], method: object) -> Cell:
    row = next((row for row in records if row["method"] == method), None)
    if row is None:
        return Cell("–")
    cell = mean_cell(row, places_of(*records))
    is_open = len(records) > 1 and row["verdict"] in ("not decided", "")
    return replace(cell, beside=" ".join([cell.beside, *[UNDECIDED] * is_open]).strip())


def speed_text(results_dir: Path) -> str:
    """Returns what the committed benchmark of 1D training says, as Markdown."""
    table = pd.read_csv(results_dir / "bench" / "one_d.csv")
    lines = []
    for threads, part in table[table["seeds"] == 20].groupby("threads"):
        each = ", ".join(f"`{row.method}` {row.ratio:.1f}" for row in part.itertuples())
        cores = "one core" if threads == 1 else f"{threads} cores"
        lines.append(f"- On {cores}, 20 seeds at the published settings, times the textbook way: {each}.")
    lines += ["", "([results/bench/one_d.md](../results/bench/one_d.md); `python -m benchmarks`)", ""]
    return "\n".join(lines)


PUBLISHED = "`dsm` and `ml-mcmc` have published settings tuned for each dataset, the others do not."
SPLITS = "Splits of a set share most of their rows: what is decided holds for splits of this set, not for new rows."
GUIDE = (
    ("One target, proposal scales as published", "paper_1d", PUBLISHED),
    (
        "One target, all methods with equal tuning and 128 samples",
        "extended_1d",
        "Each method has the best of eight trials on each dataset.",
    ),
    (
        "Proposal scales that nobody knows",
        "learned_proposals",
        "Only K is compared: nce with fixed scales is in [paper_1d](../results/paper_1d/tables.md).",
    ),
    ("Another draw of the training data", "data_seeds", PUBLISHED),
    ("Few samples a step", "num_samples", PUBLISHED),
    (
        "Noise on the labels",
        "annotation_noise",
        "D_KL is to the clean law; the tables have it to the noisy one too. `dsm` has a published σ for each dataset.",
    ),
    (
        "More targets at once",
        "dimension",
        "`laws` is a mixture of three Gaussians, `banana` a bent one, `ring` a shell. Each method has the best of six "
        "trials on the mixture at D = 4, and the same settings everywhere.",
    ),
    (
        "Up to four targets, with seeds enough for a test",
        "dimension_seeds",
        "Seeds 0 to 4 are those of the sweep dimension, and so are the settings.",
    ),
    (
        "A table: an energy, or another density or trees, equal tuning",
        "uci",
        "Each model has the best of five settings on each set. Set by hand, for some sets alone: passes and "
        "mini-batches of all networks, the proposal, M and `network.relative` of nce (conf/recipe/regression/uci/). "
        f"{SPLITS}",
    ),
    (
        "A table: the same at default settings, and by the exact likelihood",
        "uci_small",
        f"The defaults are those of commit 309daca8d886. {SPLITS}",
    ),
    (
        "An image with several right answers",
        "squares",
        "The settings are those of sweeps/squares.yaml: no search was made with equal trials.",
    ),
    (
        "A number for an image",
        "cells",
        "Each model has the best of four settings. The draws are halves of the same 200 images.",
    ),
    ("Boxes on images", "shapes", "Each method has the best of six trials."),
    ("Boxes on photographs", "bccd", "Both have the settings chosen on shapes."),
)
"""A situation of practice, the sweep that answers for it, and what to know of that comparison."""


def guide_text(results_dir: Path) -> str:
    """Returns what each sweep says to somebody who has to choose a method, as Markdown: a table for each situation."""
    lines: list[str] = []
    for situation, name, caveat in GUIDE:
        results = frame.load(results_dir / name)
        figures = sorted((results_dir / name / "figures").glob("*.png"), key=lambda path: path.stem)
        shown = "".join(f", [{path.stem}](../results/{name}/figures/{path.name})" for path in figures[:1])
        tried = f"{results.description.rstrip('.')} ([tables](../results/{name}/tables.md){shown})."
        said = findings(results)
        abouts = list(dict.fromkeys(finding.about for finding in said))
        lines += [
            f"### {situation}",
            "",
            f"{tried} Compared: {'; '.join(abouts)}. {caveat}",
            "",
            *_verdict_rows(said),
            "",
        ]
    return "\n".join(lines)


def _verdict_rows(said: Sequence[Finding]) -> Iterator[str]:
    """Yields the lines of a table of verdicts, then the notes on it."""
    setting = next((finding.setting for finding in said if finding.setting), "")
    header = ["data", *[setting] * bool(setting), "best mean", "not decided against it", "worse"]
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    notes: dict[str, dict[str, list[str]]] = {}
    for finding in said:
        for verdict in finding.verdicts:
            at = [verdict.at] * bool(setting)
            yield f"| {' | '.join([finding.title, *at, verdict.best, verdict.undecided, verdict.worse])} |"
            if verdict.note:
                notes.setdefault(verdict.note, {}).setdefault(finding.title, []).extend(at)
    if notes:
        yield ""
    for note, places in notes.items():
        where = (f"{title}, {setting} = {listed(values)}" if values else title for title, values in places.items())
        yield f"- {'; '.join(where)}: {note}"


DOCUMENTS = {
    "README.md": ("results", results_text),
    "results/README.md": ("findings", findings_text),
    "docs/speed.md": ("speed", speed_text),
    "docs/which-method.md": ("guide", guide_text),
}
"""Document to its mark, and to what writes the text between: of a folder of results."""
