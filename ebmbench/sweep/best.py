"""The best settings among those that a sweep or `tune` tries, and their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ebmbench.core.errors import UserError
from ebmbench.core.settings import nested
from ebmbench.report import settings
from ebmbench.report.frame import Results
from ebmbench.report.search import REPEAT, TRIAL
from ebmbench.system.files import write_atomically
from ebmbench.tasks.base import Metric

Table = dict[str, dict[str, dict[str, Any]]]
"""Settings by key, for each `TASK/DATA` (`regression/uci/yacht`) and `METHOD` or `METHOD/NETWORK` (`nce/mlp`)."""


def best(results: Results) -> Table:
    """Returns the best settings of each model on each dataset.

    A model is a method, with its network where the sweep has several, or one that no method trains. The best setting
    has the best mean of its task's metric of validation data, over seeds and draws of the data. A setting that lacks a
    run, or has a seed that diverged, is not chosen.

    Raises:
        UserError: a task has no such metric, or a model has no setting of which all runs are there.
    """
    table: Table = {}
    several = ["network"] if "network" in results.trials else []
    groups = results.trials.groupby(["label", "method", *several], sort=False, dropna=False)
    for (label, method, *networks), part in groups:
        task = results.tasks[str(label)]
        metric = task.metric(task.selection)
        if metric is None or metric.name not in part:
            raise UserError(f"{results.name} has no best settings: task={task.name} has no metric of validation data")
        axes = [key for key in results.columns if key not in (*task.draw_settings, REPEAT, TRIAL)]
        keys = [key for key in axes if part[key].nunique() > 1]  # others vary for other models alone
        if not keys:
            raise UserError(f"{results.name} has no best settings: it tries one setting of {method} on {label}")
        model = "/".join([method, *(str(name) for name in networks if isinstance(name, str))])
        place = f"{task.name}/{part['data'].iloc[0]}"
        found = _best_of(part, keys, metric)
        if found is None:
            raise UserError(f"{results.name} has no best settings: no run of {model} on {label} has {metric.name}")
        if model in table.setdefault(place, {}):
            raise UserError(
                f"{results.name} has several data sets of one source, {place}, which can have one best setting"
            )
        table[place][model] = found
    if not table:
        raise UserError(f"{results.name} has no best settings: no run is done")
    return table


def _best_of(part: pd.DataFrame, keys: list[str], metric: Metric) -> dict[str, Any] | None:
    """Returns the setting with the best mean, among those with the most values; None where there is no value."""
    # Whole numbers are floats in a column that other models leave empty.
    floats = part[keys].select_dtypes("float")
    part = part.assign(**{key: pd.to_numeric(floats[key], downcast="integer") for key in floats})
    found = part.groupby(keys, dropna=False, sort=False)[metric.name].agg(["mean", "count"]).reset_index()
    whole = found[found["count"] == max(found["count"].max(), 1)]
    if whole.empty:
        return None
    place = whole["mean"].idxmax() if metric.better == "higher" else whole["mean"].idxmin()
    return {key: yaml.safe_load(str(found.at[place, key])) for key in keys}


def write(table: Table, folder: Path, told: str) -> list[Path]:
    """Writes settings to `folder/best/`, which `--config-dir folder` uses: a file for each task, data and model.

    Args:
        told: what they are, for the comment at the top of each.
    """
    comment = "# @package _global_\n" + "".join(f"# {line}\n" for line in told.splitlines())
    paths = []
    for place, models in table.items():
        for model, chosen in models.items():
            group = "best/model" if settings.group_of(model) == "model" else "best"
            path = folder / group / place / f"{model}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(nested(chosen), sort_keys=False, allow_unicode=True, default_flow_style=None)
            write_atomically(path, (comment + text).encode())
            paths.append(path)
    return paths
