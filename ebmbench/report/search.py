"""What searches found: the setting that each one chose, and the expected best of k trials.

A search is one draw of the data and one repeat: its own list of trials, which all methods share (`sweep.trials`). Its
choice is the trial with the best validation score. The test score of that trial is the method's score in this search.
Methods are compared over searches, paired, as they are over seeds elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ebmbench.report import stats
from ebmbench.tasks.base import Metric, Task

REPEAT, TRIAL = "repeat", "trial"
"""The columns that tell which trial of which search a run is."""
SPREAD = (0.1, 0.9)
"""The quantiles that show how far single searches are apart."""

_Group = tuple[str, str, tuple[Any, ...]]


def _searches(trials: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yields the trials of each search of each model, one row a trial: its seeds' mean, nan where one diverged."""
    by = ["label", "method", *keys, REPEAT]
    for values, part in trials.groupby(by, sort=False, dropna=False):
        numbers = part.select_dtypes("number").columns.difference([*by, TRIAL, "seed"])
        means = part.groupby(TRIAL, sort=True)[list(numbers)].mean()
        diverged = part.groupby(TRIAL)["diverged"].max()
        means = means.mask(diverged == 1).assign(diverged=diverged, trusted=part.groupby(TRIAL)["trusted"].min())
        texts = part.groupby(TRIAL)[list(part.columns.difference([*numbers, TRIAL, "seed"]))].first()
        yield dict(zip(by, values, strict=True)), texts.join(means)


def chosen(trials: pd.DataFrame, tasks: Mapping[str, type[Task]], keys: Sequence[str]) -> pd.DataFrame:
    """Returns a row for each search of each model: the trial that it chose by validation data.

    The `seed` of a row is the number of its search, another one at each draw of the data. A search whose trials all
    diverged counts as diverged.
    """
    rows = []
    units: dict[tuple[Any, ...], int] = {}
    for about, table in _searches(trials, keys):
        task = tasks[about["label"]]
        unit = tuple(about[key] for key in keys if key in task.draw_settings)
        number = units.setdefault((*unit, about[REPEAT]), len(units))
        metric = selection_of(task)
        order = _order(table, metric)
        row = table.loc[order[0]]
        rows.append({**row.to_dict(), **about, "seed": number, TRIAL: order[0]})
    return pd.DataFrame(rows, columns=list(trials.columns))


def selection_of(task: type[Task]) -> Metric:
    """Returns the metric by which a search chooses."""
    metric = task.metric(task.selection)
    assert metric is not None, f"task={task.name} has no metric of validation data"
    return metric


def _order(table: pd.DataFrame, metric: Metric) -> list[Any]:
    """Returns the trials from the best to the worst by validation data; those that diverged come last."""
    return list(table[metric.name].sort_values(ascending=metric.better != "higher", na_position="last").index)


def best_of(trials: pd.DataFrame, tasks: Mapping[str, type[Task]], keys: Sequence[str]) -> pd.DataFrame:
    """Returns what is to be expected of the best of k trials, for each model and each k up to all trials.

    The best is the one that validation data choose; its score is the headline metric of test data. Every choice of k
    trials of a search is counted, in closed form.

    Returns:
        Columns: label, method, the keys that are no draw of the data; k; searches (how many there are); mean, low,
        high (over searches, with its 95 % interval); lower, upper (the 10 % and the 90 % quantile of single searches);
        failed (the share of choices of which all trials diverged; the rest is over the others).
    """
    rows = []
    of_model: dict[tuple[Any, ...], list[pd.DataFrame]] = {}
    for about, table in _searches(trials, keys):
        fixed = [key for key in keys if key not in tasks[about["label"]].draw_settings]
        of_model.setdefault((about["label"], about["method"], tuple((key, about[key]) for key in fixed)), []).append(
            table
        )
    for (label, method, pairs), tables in of_model.items():
        task = tasks[label]
        headline, metric = task.metrics[0], selection_of(task)
        scores = [table.loc[_order(table, metric), headline.name].to_numpy(float) for table in tables]
        for k in range(1, min(map(len, scores)) + 1):
            weights = [_chances(len(own), k) * np.isfinite(own) for own in scores]
            reached = [weight.sum() for weight in weights]
            means = [float(np.nansum(w * own) / r) for w, own, r in zip(weights, scores, reached, strict=True) if r]
            low, high = stats.mean_interval(np.array(means)) if means else (np.nan, np.nan)
            lower, upper = _quantiles(np.concatenate(scores), np.concatenate(weights))
            rows.append(
                {
                    "label": label,
                    "method": method,
                    **dict(pairs),
                    "k": k,
                    "searches": len(scores),
                    "mean": float(np.mean(means)) if means else np.nan,
                    "low": low,
                    "high": high,
                    "lower": lower,
                    "upper": upper,
                    "failed": 1 - float(np.mean(reached)),
                }
            )
    return pd.DataFrame(rows)


def kept(best: pd.DataFrame) -> list[str]:
    """Returns the columns of `best_of` that are settings."""
    return list(best.columns[2 : list(best.columns).index("k")])


def _chances(trials: int, k: int) -> stats.Values:
    """Returns the chance of each trial, best first, to be the best of k that are drawn without replacement."""
    ways = math.comb(trials, k)
    return np.array([math.comb(trials - 1 - place, k - 1) / ways for place in range(trials)])


def _quantiles(values: stats.Values, weights: stats.Values) -> tuple[float, float]:
    """Returns the quantiles SPREAD of weighted values; nan without any."""
    there = weights > 0
    if not there.any():
        return np.nan, np.nan
    order = np.argsort(values[there], kind="stable")
    values, shares = values[there][order], np.cumsum(weights[there][order])
    places = np.searchsorted(shares / shares[-1], np.array(SPREAD) - 1e-12)
    return float(values[places[0]]), float(values[places[1]])
