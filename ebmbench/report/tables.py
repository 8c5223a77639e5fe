"""Tables of a sweep, as Markdown, LaTeX (booktabs) and CSV: a pure function of its tidy table of runs.

That it is pure is what makes a committed table checkable: `ebmbench sweep check` builds it again and compares.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ebmbench.errors import UserError
from ebmbench.report import scores
from ebmbench.report.scores import COST, METRICS

SCORES_1D = ("d_kl", "nll", "crps", "coverage_50", "coverage_90", "edge_mass")
SCORES_DETECTION = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar", "box_nll")
SHOWN_RUNS = 200
"""How many runs the Markdown lists; runs.csv has them all."""
DRAW = "task.data_seed"
"""The key that a table of draws is over."""
KINDS = ("scores", "cost", "comparisons", "audit", "draws", "grid")
MARKS = "Bold: the best mean. A difference from it is decided where p < 0.05 (paired by seed, Holm over all pairs)."


@dataclass(frozen=True)
class Sweep:
    """What of a sweep its tables depend on, beside its runs."""

    name: str
    description: str
    tables: tuple[Any, ...]
    axes: tuple[str, ...]
    """Columns of the tidy table that the sweep varies, beside task, dataset and method."""


@dataclass(frozen=True)
class Cell:
    """A text, and how it is marked: best or not."""

    text: str
    mark: str = ""
    tex: str | None = None
    """LaTeX, where it is not the escaped text."""
    tail: str = ""
    """LaTeX after it, which is not marked."""


@dataclass(frozen=True)
class Table:
    """A table before it is Markdown or LaTeX."""

    title: str
    header: list[Cell]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


def build(frame: pd.DataFrame, sweep: Sweep) -> dict[str, str]:
    """File name to text of all that a sweep ends in, figures apart.

    Args:
        frame: one row per run and seed, done or not, as `sweep.collect` gives it.

    Raises:
        UserError: the sweep asks for a table that is not known.
    """
    good = scores.finished(frame)
    tables: list[Table] = []
    files: dict[str, str] = {}
    for entry in sweep.tables:
        kind, options = _parse(entry)
        if len(good):
            made, data = _BUILDERS[kind](good, sweep, options)
            tables += made
            files |= {name: csv_text(csv_frame) for name, csv_frame in data.items() if len(csv_frame)}
    origin = provenance(frame, sweep)
    return {"tables.md": _markdown(tables, sweep, origin, frame), "tables.tex": _latex(tables, sweep, origin), **files}


def _parse(entry: Any) -> tuple[str, dict[str, Any]]:
    """`scores` or `{grid: {by: …}}`."""
    if isinstance(entry, str):
        kind, options = entry, None
    elif isinstance(entry, dict) and len(entry) == 1:
        kind, options = next(iter(entry.items()))
    else:
        raise UserError(f"sweep.tables has {entry!r}: give a kind of table, or one kind with its options")
    if kind not in KINDS:
        raise UserError(f"sweep.tables has {kind!r}: choose from {', '.join(KINDS)}")
    if not isinstance(options, dict | None):
        raise UserError(f"sweep.tables has {kind}={options!r}: its options are keys and values, such as by: noise.beta")
    return kind, dict(options or {})


def check_entries(tables: Iterable[Any], axes: Sequence[str]) -> None:
    """Raises UserError for a table that could not be built, before a sweep is run for it; `axes` as in Sweep."""
    for entry in tables:
        kind, options = _parse(entry)
        if kind == "grid" and not isinstance(options.get("by"), str):
            raise UserError("sweep.tables has a grid without `by`: the swept key of its rows, such as noise.beta")
        key = {"grid": options.get("by"), "draws": DRAW}.get(kind)
        if key and key not in axes:
            raise _not_varied(kind, key, axes)
        for metric in options.get("metrics", ()):
            if metric not in METRICS:
                raise UserError(f"sweep.tables names the metric {metric!r}: choose from {', '.join(METRICS)}")


def _not_varied(kind: str, key: str, axes: Sequence[str]) -> UserError:
    return UserError(
        f"sweep.tables has {kind} by {key}, which the sweep does not vary (it varies {', '.join(axes) or 'nothing'}): "
        f"give {key} several values, or ask for other tables, such as sweep.tables=[scores]"
    )


# ------------------------------------------------------------------------------------------------------- tables


def _groups(sweep: Sweep, without: Sequence[str] = ()) -> list[str]:
    return ["task", "dataset", *(axis for axis in sweep.axes if axis not in without)]


def _title(groups: Sequence[str], row: Any) -> str:
    values = dict(zip(groups, row, strict=True))
    name = {"1d": "1D, dataset"}.get(values["task"], str(values["task"]).capitalize() + ",")
    rest = [f"{axis} = {_plain(values[axis])}" for axis in groups if axis not in ("task", "dataset")]
    return ", ".join([f"{name} {values['dataset']}", *rest])


def _main_metrics(frame: pd.DataFrame, options: dict[str, Any]) -> list[str]:
    top = scores.headline(frame)
    given = options.get("metrics") or (SCORES_1D if top == "d_kl" else SCORES_DETECTION)
    # The headline alone where no seed has a value, for all diverged: the table then says so.
    return [metric for metric in given if metric in frame and frame[metric].notna().any()] or [top]


def _scores(frame: pd.DataFrame, sweep: Sweep, options: dict[str, Any]) -> tuple[list[Table], dict[str, pd.DataFrame]]:
    """Two tables per group: every metric's mean, and the headline's other summaries."""
    groups, main, top = _groups(sweep), _main_metrics(frame, options), scores.headline(frame)
    more = [metric for metric in METRICS if metric in frame and metric not in (*main, *COST)]
    cells = scores.summarise(frame, groups, "method", [*main, *more])
    tables = []
    for key, part in cells.groupby(groups, sort=True, dropna=False):
        title = _title(groups, key)
        by = {(row["method"], row["metric"]): row for row in part.to_dict("records")}
        methods = scores.in_order(part["method"].tolist())
        rows = []
        for method in methods:
            row = by[method, main[0]]
            rows.append([Cell(str(method)), *(_mean_cell(by[method, metric]) for metric in main), *_counts(row)])
        header = [Cell("method"), *(_head(metric, arrow=True) for metric in main), Cell("n"), Cell("diverged")]
        shown = part[part["metric"].isin(main)]
        notes = [MARKS, *_undecided(shown, "method", "metric"), *_few_seeds(shown)]
        tables.append(Table(f"{title}: mean over seeds with 95 % interval", header, rows, notes))
        tables.append(_headline_table(title, part[part["metric"] == top].to_dict("records"), top))
        if "base_ap" in frame:
            group = _select(frame, groups, key)
            tables.append(_stages_table(title, group))
    return tables, {"scores.csv": cells}


def _headline_table(title: str, rows: list[dict[str, Any]], metric: str) -> Table:
    label, lines = METRICS[metric].label, []
    for row in rows:
        lines.append(
            [
                Cell(str(row["method"])),
                _mean_cell(row),
                Cell(number(row["median"], _decimals(row))),
                Cell(f"{number(row['best'], _decimals(row))} ({row['best_of']} of {row['seeds']})"),
                Cell(_share(row["beats_best"])),
                Cell(_p_value(row["p_holm"])),
                Cell(str(row["verdict"]) or "–"),
                *_counts(row),
                Cell(str(row["config_hash"]), tex=rf"\texttt{{{row['config_hash']}}}"),
            ]
        )
    header = [Cell("method"), _head(metric, arrow=True), Cell("median"), Cell("mean of the best")]
    header += [Cell("P(beats the best)"), Cell("p (Holm)"), Cell("verdict")]
    header += [Cell("n"), Cell("diverged"), Cell("settings")]
    notes = [
        "The best are a quarter of the seeds, as in the published best 5 of 20; that hides failures. The median counts "
        "a diverged seed as the worst. P(beats the best): share of the seeds at which the method is better than it. "
        f"p (Holm): of equal means, over {max(row['comparisons'] for row in rows)} comparisons; a large one is no "
        "equality, but a difference that is not decided.",
        *_notes(pd.DataFrame(rows)),
    ]
    return Table(f"{title}: {label}, other summaries", header, lines, notes)


def _stages_table(title: str, group: pd.DataFrame) -> Table:
    """Detection: what NMS by f and what refinement gain, apart, with the interval over images."""
    rows = []
    for method in scores.in_order(group["method"].tolist()):
        mine = group[group["method"] == method]

        def mean(metric: str, mine: pd.DataFrame = mine) -> str:
            good = [v for v in scores.usable(mine, metric) if math.isfinite(v)] if metric in mine else []
            return f"{sum(good) / len(good):.2f}" if good else "–"

        gains = [
            Cell(f"{mean(name)} [{mean(f'{name}_low')}, {mean(f'{name}_high')}]") for name in ("ap_gain", "ap75_gain")
        ]
        stages = [Cell(mean(name)) for name in ("base_ap", "nms_ap", "ap", "base_ap75", "nms_ap75", "ap75")]
        rows.append([Cell(str(method)), *stages, *gains])
    header = [Cell("method"), Cell("AP: base"), Cell("NMS by f"), Cell("refined"), Cell("AP75: base"), Cell("NMS by f")]
    header += [Cell("refined"), Cell("gain in AP"), Cell("gain in AP75")]
    notes = ["Means over seeds. In brackets: means over seeds of the ends of the 95 % bootstrap interval over images."]
    return Table(f"{title}: what each stage gains", header, rows, notes)


def _cost(frame: pd.DataFrame, sweep: Sweep, options: dict[str, Any]) -> tuple[list[Table], dict[str, pd.DataFrame]]:
    groups = _groups(sweep)
    cells = scores.summarise(frame, groups, "method", COST)
    tables = []
    for key, part in cells.groupby(groups, sort=True, dropna=False):
        by = {(row["method"], row["metric"]): row for row in part.to_dict("records")}
        methods = scores.in_order(part["method"].tolist())
        rows = []
        for method in methods:
            means = [Cell(number(by[method, metric]["mean"])) for metric in COST]
            rows.append([Cell(str(method)), *means, *_counts(by[method, COST[0]])])
        header = [Cell("method"), *(_head(metric) for metric in COST), Cell("n"), Cell("diverged")]
        notes = ["Means over seeds. Seeds that trained together share their time; memory is that of their process."]
        tables.append(Table(f"{_title(groups, key)}: cost", header, rows, notes))
    return tables, {"cost.csv": cells}


def _comparisons(
    frame: pd.DataFrame, sweep: Sweep, options: dict[str, Any]
) -> tuple[list[Table], dict[str, pd.DataFrame]]:
    groups, top = _groups(sweep), scores.headline(frame)
    pairs = scores.compare(frame, groups, "method", top)
    tables = []
    for key, part in pairs.groupby(groups, sort=True, dropna=False) if len(pairs) else []:
        beats = {(row["first"], row["second"]): (row["beats"], row["p_holm"]) for row in part.to_dict("records")}
        beats |= {(second, first): (1 - share, p) for (first, second), (share, p) in beats.items()}
        names = scores.in_order([*part["first"], *part["second"]])
        rows = []
        for first in names:
            row = [Cell(str(first))]
            for second in names:
                share, p = beats.get((first, second), (math.nan, math.nan))
                star = "*" if p < scores.SIGNIFICANCE else ""
                row.append(Cell("–" if first == second else _share(share) + star))
            rows.append(row)
        header = [Cell("row beats column"), *(Cell(str(name)) for name in names)]
        note = (
            f"Share of the seeds at which the row's {METRICS[top].label} is better than the column's; a diverged seed "
            "is beaten by any other. *: the means differ (p < 0.05, paired sign-flip and bootstrap-t tests, Holm over "
            f"all {part['comparisons'].max()} pairs); without it the difference is not decided."
        )
        tables.append(Table(f"{_title(groups, key)}: which method beats which", header, rows, [note, *_notes(part)]))
    return tables, {"comparisons.csv": pairs}


_RULE_NAMES = {
    "all": "mean of all",
    "median": "median",
    "best": "best quarter",
    "best_by_val": "best quarter by validation NLL",
}


def _audit(frame: pd.DataFrame, sweep: Sweep, options: dict[str, Any]) -> tuple[list[Table], dict[str, pd.DataFrame]]:
    groups, top = _groups(sweep), scores.headline(frame)
    data = scores.audit(frame, groups, "method", top)
    tables = []
    for key, part in data.groupby(groups, sort=True, dropna=False) if len(data) else []:
        rules = [rule for rule in scores.RULES if rule in set(part["rule"])]
        by = {(row["method"], row["rule"]): row for row in part.to_dict("records")}
        methods = scores.in_order(part["method"].tolist())
        rows = []
        for method in methods:
            found = [by[method, rule] for rule in rules]
            rows.append([Cell(str(method)), *(Cell(f"{number(row['value'])} ({row['rank']})") for row in found)])
        header = [Cell("method"), *(Cell(_RULE_NAMES[rule]) for rule in rules)]
        taus = [f"{_RULE_NAMES[rule]} {by[methods[0], rule]['tau']:.2f}" for rule in rules[1:]]
        note = f"{METRICS[top].label} (rank). Kendall's tau with the ranking by the mean of all: {', '.join(taus)}."
        changed = any(len({by[method, rule]["rank"] for rule in rules}) > 1 for method in methods)
        verdict = "The ranking depends on the rule." if changed else "The ranking is the same by every rule."
        tables.append(Table(f"{_title(groups, key)}: does the choice of seeds decide?", header, rows, [note, verdict]))
    return tables, {"audit.csv": data}


def _draws(frame: pd.DataFrame, sweep: Sweep, options: dict[str, Any]) -> tuple[list[Table], dict[str, pd.DataFrame]]:
    if DRAW not in frame:
        raise _not_varied("draws", DRAW, sweep.axes)
    groups, top = _groups(sweep, without=[DRAW]), scores.headline(frame)
    data = scores.draws(frame, groups, top, DRAW)
    tables = []
    for key, part in data.groupby(groups, sort=True, dropna=False):
        rows = []
        records = part.to_dict("records")
        for row in records:
            cells = [_mean_cell({**row, "seeds": row["draws"]})]
            cells += [Cell(number(row[name])) for name in ("std_draws", "std_seeds", "std_residual")]
            cells += [Cell(row["ranks"]), Cell(_p_value(row["p_holm"])), Cell(str(row["verdict"]) or "–")]
            cells.append(Cell(str(row["diverged"])))
            rows.append([Cell(row["method"]), *cells])
        header = [Cell("method"), _head(top, arrow=True), Cell("std between draws"), Cell("std between seeds")]
        header += [Cell("std of the rest"), Cell("rank at each draw"), Cell("p (Holm)"), Cell("verdict")]
        header.append(Cell("diverged"))
        numbers = ", ".join(_plain(value) for value in sorted(set(frame[DRAW])))
        note = (
            f"Draws of the training data: task.data_seed = {numbers}. Mean and 95 % interval over draws and "
            f"{records[0]['seeds']} seeds, by a mixed model; tests paired by draw. Mean Kendall's tau between the "
            f"rankings of two draws: {records[0]['tau']:.2f}."
        )
        marks = MARKS.replace("by seed", "by draw")
        tables.append(
            Table(
                f"{_title(groups, key)}: does the draw of the data decide?", header, rows, [marks, note, *_notes(part)]
            )
        )
    return tables, {"draws.csv": data}


def _grid(frame: pd.DataFrame, sweep: Sweep, options: dict[str, Any]) -> tuple[list[Table], dict[str, pd.DataFrame]]:
    """Rows: the values of one swept key. Columns: the methods, or the values of a second key if there is one method."""
    by = options["by"]
    if by not in frame:
        raise _not_varied("grid", by, sweep.axes)
    metrics = [m for m in options.get("metrics") or [scores.headline(frame)] if m in frame]
    many = frame["method"].nunique() > 1
    other = [axis for axis in sweep.axes if axis != by]
    across = "method" if many else (other[0] if other else "method")
    groups = [g for g in _groups(sweep, without=[by]) if g != across]
    # Compared are the methods at equal setting; of one method, the settings.
    over, within = ("method", [*groups, by]) if many else (by, [*groups, across])
    cells = scores.summarise(scores.at_equal_seeds(frame, by, [*groups, across]), within, over, metrics)
    tables = []
    for key, part in cells.groupby(groups, sort=True, dropna=False):
        for metric in metrics:
            some = {(row[by], row[across]): row for row in part.to_dict("records") if row["metric"] == metric}
            columns = scores.in_order([column for _, column in some])
            rows = []
            for value in sorted({value for value, _ in some}):
                found = [some.get((value, column)) for column in columns]
                rows.append([Cell(_plain(value)), *(_mean_cell(row) if row else Cell("") for row in found)])
            names = [str(c) if across == "method" else f"{across.rpartition('.')[2]} = {_plain(c)}" for c in columns]
            seeds = sorted({row["n"] for row in some.values()})
            lost = sum(row["diverged"] for row in some.values())
            about = (
                f"{METRICS[metric].label}, mean over the seeds that ran at every {by}, with 95 % interval; "
                f"n = {_range(seeds)}; {lost} diverged."
            )
            own = part[part["metric"] == metric]
            note = MARKS if many else MARKS.replace("all pairs", f"all pairs of values of {by}")
            notes = [about, note, *_undecided(own, over, by if many else across), *_few_seeds(own)]
            title = f"{_title(groups, key)}: {METRICS[metric].label} by {by}"
            tables.append(Table(title, [Cell(by), *map(Cell, names)], rows, notes))
    return tables, {f"grid_{by}.csv": cells}


_BUILDERS = {
    "scores": _scores,
    "cost": _cost,
    "comparisons": _comparisons,
    "audit": _audit,
    "draws": _draws,
    "grid": _grid,
}


def _select(frame: pd.DataFrame, groups: Sequence[str], key: Any) -> pd.DataFrame:
    for name, value in zip(groups, key, strict=True):
        frame = frame[frame[name] == value]
    return frame


# -------------------------------------------------------------------------------------------------------- cells


def _head(metric: str, arrow: bool = False) -> Cell:
    better = METRICS[metric].better
    sign = {"lower": "↓", "higher": "↑"}.get(better, "") if arrow and isinstance(better, str) else ""
    tex = {"↓": r" $\downarrow$", "↑": r" $\uparrow$"}.get(sign, "")
    return Cell(f"{METRICS[metric].label} {sign}".strip(), tex=METRICS[metric].tex + tex)


def _mean_cell(row: dict[str, Any]) -> Cell:
    places = _decimals(row)
    mean = number(row["mean"], places)
    text, tail = mean, ""
    if math.isfinite(row["low"]):
        low, high = number(row["low"], places), number(row["high"], places)
        text += f" [{low}, {high}]"
        tail = rf"\,$_{{{low}}}^{{{high}}}$".replace("−", "-")  # narrower: these tables have many columns
    if row["n"] < row["seeds"] or row["diverged"]:
        text += " †"
        tail += r"\,$\dagger$"
    return Cell(text, row["mark"], _escape(mean), tail)


def _counts(row: dict[str, Any]) -> list[Cell]:
    return [Cell(str(row["n"])), Cell(str(row["diverged"]))]


def _decimals(row: dict[str, Any]) -> int | None:
    """As many as the interval's half width has two significant digits; None where there is no interval."""
    half = (row["high"] - row["low"]) / 2
    return min(8, max(0, 1 - math.floor(math.log10(half)))) if math.isfinite(half) and half > 0 else None


def number(value: float, decimals: int | None = None) -> str:
    """A number as it is printed: to so many decimals, else to four significant digits; a tiny one as 1.7e-05."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if decimals is None:
        text = f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"
    else:
        text = f"{value:.{decimals}f}" if decimals < 6 else f"{value:.2g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _p_value(p: float) -> str:
    if math.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _notes(cells: pd.DataFrame, within: str | None = None) -> list[str]:
    """The notes of the rows, each once; with the values of `within` that it is about, if not about all."""
    where: dict[str, list[str]] = {}
    for row in cells.to_dict("records"):
        if row["note"]:
            where.setdefault(row["note"], []).append(_label(within, row[within]) if within else "")
    every = {_label(within, value) for value in cells[within]} if within else {""}
    return [
        note if every <= set(labels) else f"{', '.join(dict.fromkeys(labels))}: {note}"
        for note, labels in where.items()
    ]


def _undecided(cells: pd.DataFrame, over: str, within: str) -> list[str]:
    """Names what is not decided against the best mean, for each value of `within`; then the rows' notes."""
    parts = []
    for value, own in cells.groupby(within, sort=False):
        names = scores.in_order(own[own["verdict"] == "not decided"][over].tolist())
        if names:
            parts.append(f"{_label(within, value)}: {', '.join(map(_plain, names))}")
    said = [f"Not decided against the best mean, which is not equality: {'; '.join(parts)}."] if parts else []
    return [*said, *_notes(cells, within)]


def _label(column: str, value: Any) -> str:
    return METRICS[value].label if column == "metric" else f"{column} = {_plain(value)}"


def _few_seeds(cells: pd.DataFrame) -> list[str]:
    notes = []
    if (cells["n"] < cells["seeds"]).any() or (cells["diverged"] > 0).any():
        notes.append("†: over fewer than all seeds, for some diverged or have no finite value; never marked as best.")
    fewest = cells.loc[cells["n"] > 1, "n"].min()
    if fewest < 10:
        notes.append(
            f"n = {fewest} seeds: where they are skewed, as those of paper_1d are, a 95 % interval covers the mean in "
            "less than 95 % of cases (about 86 % for n = 3 and 89 % for n = 5; results/bench/coverage.md)."
        )
    return notes


# --------------------------------------------------------------------------------------------------- provenance


def provenance(frame: pd.DataFrame, sweep: Sweep) -> list[str]:
    """Where the numbers come from: sweep, what is done and what is not, settings, commits, dates."""
    good = scores.finished(frame)
    doubtful = int(((good["trusted"] == 0) & (good["diverged"] == 0)).sum())
    runs, done = frame.drop_duplicates("run_id"), good.drop_duplicates("run_id")
    hashes = sorted(set(frame["config_hash"]))
    digest = hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12]
    lines = [f"Sweep {sweep.name}. {sweep.description}".strip()]
    lines.append(
        f"{len(done)} of {len(runs)} runs and {len(good)} of {len(frame)} seeds are in these tables; "
        f"{int((good['diverged'] == 1).sum())} seeds diverged, {doubtful} more are "
        "doubtful (mass at the edge of the grid, or a quadrature error)."
    )
    for state, part in runs[~runs["run_id"].isin(done["run_id"])].groupby("state", sort=True):
        names = part["run_id"].tolist()
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        lines.append(f"Not in them, {state}: {shown}.")
    commits = sorted({str(commit) for commit in done["commit"].dropna()}) or ["unknown"]
    dates = sorted(str(date)[:10] for date in done["finished"].dropna())
    when = f"{dates[0]} to {dates[-1]}" if dates else "none"
    lines.append(
        f"Made by commit {', '.join(commits)}; runs finished {when} (UTC). "
        f"{len(hashes)} settings, digest {digest}; each one's hash is in runs.csv."
    )
    return lines


# -------------------------------------------------------------------------------------------------------- output


def csv_text(frame: pd.DataFrame) -> str:
    """CSV to ten significant digits: more than any use needs, and fewer than other machines may round differently."""
    return frame.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def _markdown(tables: Sequence[Table], sweep: Sweep, origin: Sequence[str], frame: pd.DataFrame) -> str:
    lines = [f"# {sweep.name}", "", *(f"{line}  " for line in origin), ""]
    if not tables:
        lines += ["No run is done yet.", ""]
    for table in tables:
        lines += [f"## {table.title}", ""]
        lines.append("| " + " | ".join(_md(cell) for cell in table.header) + " |")
        lines.append("|" + "---|" + "---:|" * (len(table.header) - 1))
        lines += ["| " + " | ".join(_md(cell) for cell in row) + " |" for row in table.rows]
        lines += ["", *(f"{note}  " for note in table.notes), ""]
    lines += ["## Settings", "", "| run | method | seeds | settings | state | finished |", "|---|---|---:|---|---|---|"]
    seeds = frame["run_id"].value_counts()
    runs = frame[["run_id", "method", "config_hash", "state", "finished"]].drop_duplicates("run_id")
    for row in runs.head(SHOWN_RUNS).to_dict("records"):
        date = "" if pd.isna(row["finished"]) else row["finished"]
        cells = (row["run_id"], row["method"], seeds[row["run_id"]], row["config_hash"], row["state"], date)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if len(runs) > SHOWN_RUNS:
        lines.append(f"| and {len(runs) - SHOWN_RUNS} more in runs.csv | | | | | |")
    return "\n".join(lines) + "\n"


def _md(cell: Cell) -> str:
    text = cell.text.replace("|", r"\|").replace("*", r"\*")
    return f"**{text}**" if cell.mark == "best" else text


def _latex(tables: Sequence[Table], sweep: Sweep, origin: Sequence[str]) -> str:
    lines = [f"% {line}" for line in origin]
    said = origin if len(origin) > 3 else [origin[0], origin[-1]]  # what is missing, wherever the table goes
    lines += [r"% In the preamble: \usepackage{booktabs}, \usepackage{graphicx}. Then: \input{tables.tex}", ""]
    for index, table in enumerate(tables):
        tails = any(cell.tail for row in table.rows for cell in row)
        lines += [r"\begin{table}[htbp]", r"\centering", *([r"\renewcommand{\arraystretch}{1.3}"] if tails else [])]
        lines += [rf"\caption{{{_escape(table.title)}.}}"]
        lines += [
            rf"\label{{tab:{sweep.name}-{index + 1}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        ]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}", r"\toprule"]
        lines.append(" & ".join(_tex(cell) for cell in table.header) + r" \\")
        lines.append(r"\midrule")
        lines += [" & ".join(_tex(cell) for cell in row) + r" \\" for row in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}}"]
        ends = ["Below and above a mean: the ends of its 95 % interval."] if tails else []
        notes = " ".join(_escape(note) for note in [*ends, *table.notes, *said])
        lines += ["", r"\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {notes}}}", r"\end{table}", ""]
    return "\n".join(lines)


def _tex(cell: Cell) -> str:
    text = _escape(cell.text) if cell.tex is None else cell.tex
    return (rf"\textbf{{{text}}}" if cell.mark == "best" else text) + cell.tail


_TEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": "$-$",
    "∞": r"$\infty$",
    "≥": r"$\geq$",
    "†": r"$\dagger$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\rightarrow$",
    "…": r"\dots{}",
    "×": r"$\times$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "θ": r"$\theta$",
}


def _escape(text: str) -> str:
    escaped = "".join(_TEX.get(character, character) for character in text)
    return escaped.replace(r"D\_KL", METRICS["d_kl"].tex)
