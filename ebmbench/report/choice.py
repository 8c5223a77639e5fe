"""Which model to take: the answer of `ebmbench compare`, from the scores on the same splits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ebmbench.display.table import Cell, Table, method_cell, number_cell
from ebmbench.report.frame import Results
from ebmbench.tasks.base import Metric

SPLIT = "split"
TEST_SHARE = 0.25
"""Test rows per training row of the default split: they enter the variance of a mean over splits."""


@dataclass(frozen=True)
class Choice:
    """The answer.

    Attributes:
        sentence: which model to take, and whether the first one, the energy, pays.
        model: its name; `run_id` of its run on the first split.
        table: the scores of all models.
    """

    sentence: str
    model: str
    run_id: str
    table: Table


def choose(results: Results, metrics: list[Metric], first: str) -> Choice:
    """Returns which model has the best first metric.

    Models are compared split by split. The splits share most of their rows: the interval of a difference is that of
    Nadeau and Bengio (2003). Of two models whose difference is not significant the faster one is taken.

    Args:
        metrics: what the table shows; the first one decides.
        first: the energy's name in tables.
    """
    done, metric = results.done, metrics[0]
    axis = next(axis for axis in results.axes if axis.endswith(f".{SPLIT}"))
    scores = done.pivot_table(metric.name, "method", axis, "mean")
    whole = scores.dropna()
    means = whole.mean(axis=1).sort_values(ascending=metric.better == "lower")
    seconds = done.groupby("method")["train_seconds"].mean()
    best = str(means.index[0])
    others = [str(name) for name in means.index if name != first]
    sentence = f"Take {best}: no other model has a score on each split."
    if first in means.index and others:
        sentence, best = _sentence(whole, seconds, metric, first, others[0])
    elif first not in means.index:
        sentence = f"Take {best}: the best {metric.label} on the same splits. The energy has no score on each split."
    chosen = done[done["method"] == best].sort_values(axis)
    return Choice(sentence, best, str(chosen["run_id"].iloc[0]), _table(done, list(means.index), metrics))


def _sentence(scores: pd.DataFrame, seconds: pd.Series, metric: Metric, first: str, other: str) -> tuple[str, str]:
    """Returns the sentence and the model to take, from the energy and the best of the others."""
    low, high = difference((scores.loc[first] - scores.loc[other]).to_numpy())
    if metric.better != "lower":
        low, high = -high, -low
    mine, theirs = (f"{scores.loc[name].mean():.3g}" for name in (first, other))
    interval = f"(95 % interval of the difference: {low:.2g} to {high:.2g})"
    if high < 0:
        return f"Take {first}, {metric.label} {mine} where {other} has {theirs} {interval}: the energy pays.", first
    if low > 0:
        return (
            f"Take {other}, {metric.label} {theirs} where {first} has {mine} {interval}: the energy does not pay.",
            other,
        )
    fast = min((first, other), key=lambda name: seconds.get(name, math.inf))
    text = (
        f"Take {fast}, the faster one: {first} ({metric.label} {mine}, {seconds[first]:.3g} s) and {other} ({theirs}, "
        f"{seconds[other]:.3g} s) are not significantly different {interval}"
    )
    return (
        f"{text}: {'the energy costs nothing here' if fast == first else 'it is not shown that the energy pays'}.",
        fast,
    )


def difference(values: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the 95 % interval of a mean over splits that share rows, `[J]` (Nadeau and Bengio, 2003)."""
    count = len(values)
    if count < 2:
        return -math.inf, math.inf
    half = stats.t.ppf(0.975, count - 1) * values.std(ddof=1) * math.sqrt(1 / count + TEST_SHARE)
    return float(values.mean() - half), float(values.mean() + half)


def _table(done: pd.DataFrame, models: list[str], metrics: list[Metric]) -> Table:
    columns = [*(metric.name for metric in metrics), "train_seconds"]
    rows = [
        [method_cell(name), *(number_cell(done.loc[done["method"] == name, column].mean()) for column in columns)]
        for name in [*models, *sorted(set(map(str, done["method"])) - set(models))]
    ]
    header = [Cell("model"), *(Cell(metric.label) for metric in metrics), Cell("seconds")]
    return Table("Means over the splits, the best first", header, rows)
