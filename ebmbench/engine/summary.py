"""The table that a run ends with on the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ebmbench.config.run import RunConfig
from ebmbench.core.errors import counted
from ebmbench.engine import runs
from ebmbench.engine.execute import Outcome, first_step_column
from ebmbench.tasks.base import Metric

SHOWN = 5
"""How many numbers a run ends with."""
HIDDEN = ("seed", "diverged", "diverged_step", "trusted", "peak_memory_mb", "energy_evaluations")


def summary(outcome: Outcome, config: RunConfig, everything: bool = False) -> str:
    """Returns the table of a run that is through, and says if it was there before."""
    existed = "This result exists already (force=true makes it anew).\n" if outcome.existed else ""
    return existed + table(runs.read_metrics(outcome.run_dir), config, everything)


def table(rows: Sequence[Mapping[str, str]], config: RunConfig, everything: bool = False) -> str:
    """Returns the means of the numbers that matter over the seeds, with their spread, and where the files are.

    Args:
        rows: of `metrics.csv`, as text.
        everything: whether all numbers are shown, and not the `SHOWN` first ones that figures show.
    """
    good = [row for row in rows if row["diverged"] == "0"]
    lines = [f"{config.name} on {config.label}, {counted(len(rows), 'seed')}"]
    many = len(good) > 1
    hidden = {*HIDDEN, *_unused(config)}
    known = [name for name in rows[0] if name not in hidden and any(row[name] not in ("", "nan") for row in good)]
    drawn = [metric.name for metric in config.task.metrics if {"ranking", "strip"} & set(metric.figures)]
    matter = [*[name for name in drawn if name in known][: SHOWN - 1], "train_seconds"]
    names = known if everything or len(matter) < 2 else [name for name in known if name in matter]
    width = max([16, *map(len, names)]) + 2
    lines.append(f"  {'metric':<{width}}{'mean':>12}" + (f"{'std':>12}{'min':>12}{'max':>12}" if many else ""))
    for name in names:
        values = [float(row[name]) for row in good if row[name] not in ("", "nan")]
        if not values:
            continue
        numbers = [statistics.fmean(values)]
        if min(values) < max(values):  # else it is one number for all seeds, such as that of their mixture
            numbers += [statistics.stdev(values), min(values), max(values)]
        lines.append(f"  {name:<{width}}" + "".join(f"{number:>12.4g}" for number in numbers))
    if len(names) < len(known):
        lines.append(f"  --all shows {counted(len(known) - len(names), 'more number')}")
    diverged = {row["seed"]: row["diverged_step"] for row in rows if row["diverged"] == "1"}
    if diverged:
        steps = ", ".join(f"seed {seed} at step {step}" for seed, step in diverged.items())
        count = f"{len(diverged)} of {counted(len(rows), 'seed')}"
        lines.append(f"  diverged: {count} ({steps}); they are not in the means")
    unreliable = [row["seed"] for row in good if row["trusted"] == "0"]
    if unreliable:
        lines.append(f"  unreliable scores: seed {', '.join(unreliable)} ({config.task.doubt})")
    uninformed = [row["seed"] for row in good if config.task.is_uninformed(_scores(row))]
    if uninformed:
        lines.append(f"  {config.task.uninformed}: seed {', '.join(uninformed)}")
    for row in good:
        lines += [f"  seed {row['seed']}: {remark}" for remark in config.task.remarks(_scores(row))]
    for name, text in config.method.counters.items():
        for row in rows:
            if row.get(name, "0") not in ("", "0"):
                said = text.format(count=row[name])
                lines.append(f"  seed {row['seed']}, first at step {row[first_step_column(name)]}: {said}")
    lines.append(f"files: {config.run_dir}")
    return "\n".join(lines)


def _scores(row: Mapping[str, str]) -> dict[str, float]:
    """Returns the numbers of a row of metrics.csv."""
    return {name: float(value) for name, value in row.items() if value != ""}


def _unused(config: RunConfig) -> set[str]:
    """Returns the columns that the table leaves out: counters have lines of their own, others say nothing new."""
    counters = {*config.method.counters, *map(first_step_column, config.method.counters)}
    unset = {metric.name for metric in config.task.metrics if metric.only_with and not _is_set(config, metric)}
    return counters | unset


def _is_set(config: RunConfig, metric: Metric) -> bool:
    value: Any = config.to_dict()
    for part in metric.only_with.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return bool(value)
