"""The table that a multirun ends with."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError, counted
from ebmbench.engine import runs
from ebmbench.tasks.base import Metric

NAMED = ("method", "task", "data", "seeds")
"""Settings that have a column of their own."""
MOST_ROWS = 60
NONE = "-"
"""Stands where a run has no value of a metric; a column without any value is left out."""


@dataclass(frozen=True)
class Compared:
    """A run, and what sets it apart: the settings that the multirun varies."""

    config: RunConfig
    axes: Mapping[str, Any] = field(default_factory=dict)


def comparison(jobs: Sequence[Compared]) -> str:
    """Returns the means of the metrics over the seeds, a row for each run, a table for each task."""
    lines: list[str] = []
    for task in dict.fromkeys(type(job.config.task) for job in jobs):
        chosen = [job for job in jobs if type(job.config.task) is task]
        lines += [*_table(chosen, [metric for metric in task.metrics if metric.table]), ""]
    folders = dict.fromkeys(job.config.run_dir.parent for job in jobs)
    return "\n".join([*lines, f"files: {', '.join(map(str, folders))}"])


def _table(jobs: Sequence[Compared], metrics: Sequence[Metric]) -> list[str]:
    axes = [key for key in dict.fromkeys(key for job in jobs for key in job.axes) if key not in NAMED]
    header = ["data", "method", *axes, "seeds", *(metric.label for metric in metrics), "seconds", "state"]
    rows = [_row(job, axes, metrics) for job in jobs[:MOST_ROWS]]
    columns = [column for column in zip(header, *rows, strict=True) if set(column[1:]) != {NONE}]
    texts = 2 + len(axes)  # the columns of text on the left; numbers stand on the right
    padded = []
    for place, column in enumerate(columns):
        width, is_text = max(map(len, column)), place < texts or place == len(columns) - 1
        padded.append([cell.ljust(width) if is_text else cell.rjust(width) for cell in column])
    lines = ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
    more = len(jobs) - MOST_ROWS
    return lines + ([f"and {counted(more, 'more run')}"] if more > 0 else [])


def _row(job: Compared, axes: Sequence[str], metrics: Sequence[Metric]) -> list[str]:
    config = job.config
    rows: list[dict[str, str]] = []
    state = "missing"
    with contextlib.suppress(UserError, OSError):
        state = runs.read_state(config.run_dir)
        rows = runs.read_metrics(config.run_dir) if state in runs.FINISHED else []
    good = [row for row in rows if row.get("diverged") == "0"]
    count = f"{len(good)}/{len(config.seeds)}" if len(good) < len(config.seeds) else str(len(good))
    unsure = sum(row.get("trusted") == "0" for row in good)
    if unsure:
        state += f", {unsure} of {len(good)} unreliable"
    means = [_mean([row.get(metric.name, "") for row in good]) for metric in metrics]
    settings = [str(job.axes.get(key, "")) for key in axes]
    seconds = _mean([row.get("train_seconds", "") for row in rows])
    return [config.label, config.name, *settings, count, *means, seconds, state]


def _mean(values: Sequence[str]) -> str:
    """Returns the mean of the numbers among these texts, NONE if there are none."""
    numbers = [float(value) for value in values if value]
    numbers = [number for number in numbers if math.isfinite(number)]
    return f"{statistics.fmean(numbers):.4g}" if numbers else NONE
