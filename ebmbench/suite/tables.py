"""The tables of a suite's page: the ranking, the means on each dataset, the submissions and the failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ebmbench.display.table import Cell, Table, code_cell, method_cell, number_cell
from ebmbench.engine.runs import FINISHED
from ebmbench.report import scores
from ebmbench.report.frame import task_of
from ebmbench.report.tables import FEWER, UNDECIDED, mean_cell, places_of, verdict_cell
from ebmbench.suite.received import Received
from ebmbench.suite.suite import Suite
from ebmbench.tasks.base import COST, Metric

WHAT = (
    "reported: the files are whole, and jobs and trials are the suite's. rescored: our code gives the submitted scores "
    "for the submitted weights. verified: randomly chosen seeds, trained again, give the same. Costs are as reported."
)


def tables(suite: Suite, records: Sequence[Received], frame: pd.DataFrame) -> list[Table]:
    """Returns the tables of a suite's page: the ranking, each dataset, the submissions, the failures."""
    names = list(dict.fromkeys(frame["method"]))
    task = task_of(str(frame["task"].iloc[0]))
    metric = task.metric(suite.rules.headline)
    assert metric is not None, "suites.read checks it"
    costs = frame.groupby("method")[[cost.name for cost in COST]].mean()
    over = [name for name in names if any(costs.at[name, key] > most for key, most in suite.rules.budget.items())]
    units = _units(frame, metric, task.draw_settings)
    ranked = units[~units["method"].isin(over)]
    cells = scores.summarise(ranked, ["task"], "method", [metric]) if len(ranked) else pd.DataFrame()
    by = {row["method"]: row for row in cells.to_dict("records")}
    order = sorted(names, key=lambda name: (*_place(by.get(name), metric), name))
    made = [
        _ranking(order, by, costs, frame, dict(zip(names, records, strict=True)), metric, suite.rules.budget),
        _by_data(order, ranked, metric),
        _submissions(dict(zip(names, records, strict=True))),
    ]
    failed = _failures(frame)
    return [table for table in made if table.rows] + ([failed] if failed.rows else [])


def _place(row: Mapping[str, Any] | None, metric: Metric) -> tuple[bool, float]:
    """Returns what sorts the ranking: those that are not ranked are last."""
    if row is None or not row["ranked_over"]:
        return True, 0.0
    return False, -row["mean"] if metric.better == "higher" else row["mean"]


def _units(frame: pd.DataFrame, metric: Metric, draws: Sequence[str]) -> pd.DataFrame:
    """Returns a row for each method and draw of a dataset, the mean of its seeds; `seed` numbers the draws of all.

    A draw with a seed that diverged, or whose run failed, counts as diverged.
    """
    keys = ["label", *(key for key in draws if key in frame)]
    failed = ~frame["state"].isin(FINISHED) | (frame["diverged"] != 0)
    whole = frame.assign(diverged=failed.astype(int), trusted=frame["trusted"].fillna(0))
    if "lower_bound" not in whole:
        whole = whole.assign(lower_bound=0)
    rules = {metric.name: "mean", "diverged": "max", "trusted": "min", "lower_bound": "max", "config_hash": "first"}
    found = whole.groupby(["task", "method", *keys], sort=True, dropna=False).agg(rules).reset_index()
    return found.assign(seed=found.groupby(keys, dropna=False).ngroup())


def _ranking(
    order: Sequence[str],
    by: Mapping[str, dict[str, Any]],
    costs: pd.DataFrame,
    frame: pd.DataFrame,
    records: Mapping[str, Received],
    metric: Metric,
    budget: Mapping[str, float],
) -> Table:
    places = places_of(*by.values()) if by else None
    failed = frame.assign(failed=~frame["state"].isin(FINISHED) | (frame["diverged"] != 0)).groupby("method")["failed"]
    rows = []
    for name in order:
        if name in by:
            row = by[name]
            score = [replace(mean_cell(row, places), beside=""), verdict_cell(row)]
        else:
            score = [Cell("–"), Cell("over budget")]
        level = records[name].level
        number, total = int(failed.sum()[name]), int(failed.count()[name])
        cost = [number_cell(float(costs.at[name, key])) for key in ("train_seconds", "energy_evaluations")]
        lost = Cell(f"{number} of {total}", sort=number)
        rows.append([method_cell(name), *score, Cell(level), *cost, lost])
    heads = ("test", "level", "training s", "energy evaluations", "failed models")
    notes = [
        f"{metric.label} {metric.arrow}: mean over all draws of all datasets. Bold: the best. Test: paired by draw, "
        "against the best one, Holm over all pairs; not significant does not show that they are equal. "
        f"{FEWER}: a draw has no value, so it is not ranked.",
        WHAT,
        *dict.fromkeys(str(row["note"]) for row in by.values() if row["note"]),
        *(f"Budget: at most {most:g} {key.replace('_', ' ')} a model." for key, most in budget.items()),
    ]
    header = [Cell("method"), Cell(f"{metric.label} {metric.arrow}".strip()), *map(Cell, heads)]
    return Table("Ranking", header, rows, notes)


def _by_data(order: Sequence[str], units: pd.DataFrame, metric: Metric) -> Table:
    """Returns the means on each dataset, over its draws."""
    cells = scores.summarise(units, ["label"], "method", [metric]) if len(units) else pd.DataFrame(columns=["label"])
    by = {(row["method"], row["label"]): row for row in cells.to_dict("records")}
    labels = list(dict.fromkeys(cells["label"]))
    places = {label: places_of(*(row for (_, own), row in by.items() if own == label)) for label in labels}
    rows = []
    for name in (name for name in order if any((name, label) in by for label in labels)):
        found = [by.get((name, label)) for label in labels]
        means = [
            mean_cell(row, places[label], row["verdict"] == "not significant") if row else Cell("–")
            for label, row in zip(labels, found, strict=True)
        ]
        rows.append([method_cell(name), *means])
    notes = [
        f"{metric.label} {metric.arrow}, mean over the draws of each dataset with 95 % interval. {UNDECIDED}: not "
        "significantly different from the best one, or too few draws for a test."
    ]
    return Table("On each dataset", [Cell("method"), *map(Cell, labels)], rows, notes)


def _submissions(records: Mapping[str, Received]) -> Table:
    rows = [
        [
            method_cell(name),
            Cell(record.author),
            Cell(record.licence),
            Cell(record.level),
            code_cell(" ".join(record.words)),
            Cell(record.received[:10]),
            code_cell(record.sha256[:12]),
            Cell(" ".join([*record.notes, *(["It ran without network."] if record.isolated else [])])),
        ]
        for name, record in records.items()
    ]
    heads = ("method", "author", "licence", "level", "settings", "received", "submission", "what was checked")
    return Table("Submissions", [*map(Cell, heads)], rows, folded=True)


def _failures(frame: pd.DataFrame) -> Table:
    lost = frame[~frame["state"].isin(FINISHED) | (frame["diverged"] != 0)]
    rows = []
    for (method, label, state), part in lost.groupby(["method", "label", "state"], sort=True):
        seeds = ", ".join(map(str, part["seed"]))
        rows.append([method_cell(method), Cell(label), Cell("diverged" if state in FINISHED else state), Cell(seeds)])
    return Table("Failures", [*map(Cell, ("method", "dataset", "what", "seeds"))], rows)
