"""The best settings among those that a sweep tries: `ebmbench sweep best`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ebmbench.core.errors import UserError
from ebmbench.report.frame import Results
from ebmbench.system.files import write_atomically

NETWORK = "task/network"

Table = dict[str, dict[str, dict[str, Any]]]


def best(results: Results) -> Table:
    """Returns the best settings of each model on each dataset as a table of settings: task-dataset, model, key, value.

    A model is a method, with its network where the sweep has several. The best setting has the best mean of its task's
    metric of validation data, over seeds and draws of the data. A setting that lacks a run, or has a seed that
    diverged, is not chosen.

    Raises:
        UserError: a task has no such metric, or a model has no setting of which all runs are there.
    """
    table: Table = {}
    several = [NETWORK] if NETWORK in results.axes else []
    for (label, method, *network), part in results.done.groupby(["label", "method", *several], sort=False):
        task = results.tasks[str(label)]
        metric = task.metric(task.selection)
        if metric is None or metric.name not in part:
            raise UserError(f"{results.name} has no best settings: task={task.name} has no metric of validation data")
        keys = [key for key in results.axes if key not in (NETWORK, task.draw_setting) and part[key].notna().any()]
        if not keys or len(part[keys].drop_duplicates()) == 1:
            raise UserError(f"{results.name} has no best settings: it tries one setting of {method} on {label}")
        model = ", ".join([str(method), *map(str, network)])
        table.setdefault(str(label), {})[model] = _best_of(part, keys, metric.name, metric.better == "higher")
    if not table:
        raise UserError(f"{results.name} has no best settings: no run is done")
    return table


def _best_of(part: pd.DataFrame, keys: Sequence[str], metric: str, higher: bool) -> dict[str, Any]:
    """Returns the setting with the best mean, among those with the most values."""
    found = part.groupby(list(keys), dropna=False, sort=False)[metric].agg(["mean", "count"]).reset_index()
    whole = found[found["count"] == max(found["count"].max(), 1)]
    means = whole["mean"] if higher else -whole["mean"]
    return {key: yaml.safe_load(str(found.at[means.idxmax(), key])) for key in keys}


def write(results: Results, folder: Path) -> Path:
    """Writes the best settings to `folder/settings/best.yaml`, for `--config-dir folder`; returns the file."""
    told = f"# The best of the sweep {results.name}, by validation data: python -m ebmbench sweep best {results.name}\n"
    path = folder / "settings" / "best.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (told + yaml.safe_dump(best(results), sort_keys=False, allow_unicode=True)).encode())
    return path
