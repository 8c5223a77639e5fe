"""Makes a sweep's plan: its jobs with their settings, frozen when it is submitted (see `report.planned`).

Editing conf/ or a plug-in later changes nothing of what was submitted.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ebmbench.config import compose as composition
from ebmbench.config import folders
from ebmbench.config.plugins import function_of, functions_in, keep, with_copies
from ebmbench.config.run import RunConfig, SweepConfig
from ebmbench.core import plugins
from ebmbench.core.errors import UserError
from ebmbench.engine.runs import cannot_write_folder
from ebmbench.report.planned import Job, Plan, is_name, read_plan, sweep_dir
from ebmbench.report.search import REPEAT, TRIAL
from ebmbench.report.tables import NO_AXIS, check_entries
from ebmbench.sweep import trials
from ebmbench.system import seal, yamlfile
from ebmbench.system.files import write_atomically

RESERVED = (
    "runs",
    "base",
    "sweeps",
    "cache",
    "bench",
    "report",
    "damaged",
    "multirun",
    "settings",
    "tune",
    "wandb",
    "received",
    "board",
)
"""Folders of `results/` that are no sweep's."""
FIGURES = ("ranking", "strip", "settings", "map", "pareto", "curves", "search")
"""What `sweep.figures` may name for every task; a task may have more."""


def make_plan(sweep: str, overrides: Sequence[str], commit: str | None, seeds_per_job: int | None = None) -> Plan:
    """Composes the jobs of `sweeps/<sweep>.yaml`.

    Args:
        overrides: further ones, which win over the file.
        commit: of the checkout.
        seeds_per_job: splits the seeds of a setting into runs of so many; all in one if not given.

    Raises:
        UserError: an unknown sweep or key, an empty grid, a job that is not valid.
    """
    known = folders.known_sweeps()
    if sweep not in known:
        raise UserError(f"sweep {sweep!r} is not known; choose from {', '.join(known) or 'none: sweeps/ is empty'}")
    plugins.load(_plugins_of(sweep))
    lines = composition.expand([f"+sweeps={sweep}", *overrides])
    configs = composition.compose_all(lines, overrides)
    if configs[0].sweep is None:
        raise UserError(f"sweeps/{sweep}.yaml has no `sweep:` with a name, so that its results have no place")
    return plan_of(configs[0].sweep, lines, configs, overrides, commit, seeds_per_job)


def plan_of(
    about: SweepConfig,
    lines: Sequence[Sequence[str]],
    configs: Sequence[RunConfig],
    overrides: Sequence[str],
    commit: str | None,
    seeds_per_job: int | None = None,
) -> Plan:
    """Returns the plan of some jobs: of their trials, where settings are searched.

    Args:
        lines: the words of each job, and `configs` the settings that they make.

    Raises:
        UserError: a name, a table, a figure or a search that is not possible.
    """
    if about.name in RESERVED or not is_name(about.name):
        raise UserError(f"sweep.name={about.name!r} is reserved; choose another")
    axes = _axes(lines, configs)
    check_entries(about.tables, tuple(axes), [config.task for config in configs], about.tune is not None)
    own_figures = dict.fromkeys(figure.name for config in configs for figure in config.task.sweep_figures)
    drawn = [*FIGURES, *own_figures]
    strange = [name for name in about.figures if name not in drawn]
    if strange:
        raise UserError(f"sweep.figures has {strange[0]!r}: choose from {', '.join(drawn)}")
    places: list[dict[str, int]] = []
    if about.tune is not None:
        lines, places = trials.listed(lines, configs, about.tune, overrides)
        configs = composition.compose_all(lines, overrides)
        of_grid = tuple(axes)
        axes = _axes(lines, configs)
        searched = {key: axes[key] for key in axes if key not in of_grid}
        numbers = {key: [place[key] for place in places] for key in (REPEAT, TRIAL)}
        axes = {**{key: axes[key] for key in of_grid}, **numbers, **searched}
    jobs: dict[str, Job] = {}
    for i, (config, seeds) in enumerate(zip(configs, trials.with_own_seeds(configs, places), strict=True)):
        values = {key: own[i] for key, own in axes.items()}
        for some in _chunks(seeds, seeds_per_job):
            job = job_of(dataclasses.replace(config, seeds=some, sweep=about), values)
            jobs.setdefault(job.run_id, job)
    return Plan(
        name=about.name,
        description=about.description,
        tables=about.tables,
        figures=about.figures,
        axes=tuple(axes),
        overrides=tuple(overrides),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        jobs=tuple(jobs.values()),
    )


def _plugins_of(sweep: str) -> list[str]:
    """Returns the plug-ins that a sweep's file names: they are loaded before its grid is read."""
    path = next(path for folder in folders.sweep_dirs() if (path := folder / f"{sweep}.yaml").is_file())
    raw = yamlfile.read(path)
    if not isinstance(raw, dict | None):
        raise UserError(f"{path} cannot be read: keys and values are expected, such as method: nce")
    named = (raw or {}).get("plugins") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise UserError(f"{path}: plugins={named!r} is not allowed: give a list of Python files or modules")
    return named


def _chunks(seeds: tuple[int, ...], size: int | None) -> list[tuple[int, ...]]:
    size = size or len(seeds)
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def job_of(config: RunConfig, axes: dict[str, Any]) -> Job:
    """Returns the job that is this run; `axes` are its values of what the sweep varies."""
    return Job(config.run_id, config.run_hash, config.config_hash, axes, config.to_dict())


def by_key(line: Sequence[str]) -> dict[str, str]:
    """Returns the values that the words of a job give, by key."""
    return dict(word.lstrip("+~").partition("=")[::2] for word in line)


def _axes(lines: Sequence[Sequence[str]], configs: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """Returns the keys with more than one value among the jobs that have it, in the order of the grid; per job a value.

    A job whose line does not give a key has its default.
    """
    given = list(map(by_key, lines))
    raw = [config.to_dict() for config in configs]
    keys = dict.fromkeys(key for line in given for key in line if key not in NO_AXIS)
    values = {key: [_axis_value(key, *job) for job in zip(given, raw, strict=True)] for key in keys}
    return {key: own for key, own in values.items() if len({value for value in own if value is not None}) > 1}


def _axis_value(key: str, given: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    """The resolved value of a key, None for none; the option's name where it is a group, such as proposal=single."""
    value: Any = config
    for part in re.split("[./]", key):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str | int | float):
        return value
    if value is None or key in given:
        return given.get(key)
    return value.get("name") if isinstance(value, dict) else json.dumps(value, separators=(",", ":"))


# ----------------------------------------------------------------------------------------------------- the file


def write_plan(plan: Plan, results_dir: Path) -> Plan:
    """Writes `plan.json`, and copies of its plug-ins beside it; a plan that it replaces is kept under its date.

    Returns:
        The plan as it is read back: its jobs load the copies.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = sweep_dir(results_dir, plan.name)
    make_folder(folder, results_dir)
    path = folder / "plan.json"
    try:
        used = _plugins_in(plan.jobs)
        keep(used, folder)
        jobs = tuple(dataclasses.replace(job, config=with_copies(job.config, used)) for job in plan.jobs)
        plan = dataclasses.replace(plan, jobs=jobs)
        if path.exists():  # there is a plan at every moment: the old one is copied, then replaced
            stamp = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y%m%dT%H%M%S")
            write_atomically(folder / f"plan.{stamp}.json", path.read_bytes())
        write_atomically(path, seal.encode(dataclasses.asdict(plan), indent=None))
    except OSError as error:
        raise cannot_write_folder(results_dir, error) from None
    return read_plan(results_dir, plan.name)


def _plugins_in(jobs: Sequence[Job]) -> list[plugins.Plugin]:
    """Returns the plug-ins that jobs name, and the files of their functions."""
    names = dict.fromkeys(name for job in jobs for name in job.config.get("plugins") or ())
    files = dict.fromkeys(function_of(text)[0] for job in jobs for text in functions_in(job.config))
    return [plugins.load_one(name) for name in [*names, *files]]


def make_folder(folder: Path, results_dir: Path) -> None:
    """Makes a folder of a sweep; raises UserError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise cannot_write_folder(results_dir, error) from None
