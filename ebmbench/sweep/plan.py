"""A sweep's plan: its jobs with their settings, frozen when it is submitted.

The plan is one file, `<results_dir>/sweeps/<name>/plan.json`. Everything after submit (the jobs in the queue, status,
collect, resume) reads it and never `conf/` again, so that editing `conf/` changes nothing of what was submitted.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ebmbench.config import compose as composition
from ebmbench.config.run import ALGORITHMS, RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine.runs import cannot_write_folder
from ebmbench.report.tables import check_entries
from ebmbench.system.files import write_atomically

SCHEMA = 1
RESERVED = ("runs", "base", "sweeps", "cache", "bench", "report")
"""Folders of `results/` that are no sweep's."""
FIGURES = ("ranking", "strip", "settings", "pareto", "curves")
"""What `sweep.figures` may name for every task; a task may have more."""
_NO_AXIS = ("task", "method", "task.dataset", "task/data", "seeds")
"""Keys that have a column of their own in every table of runs."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    run_id: str
    run_hash: str
    config_hash: str
    axes: dict[str, Any]
    """Value of each key that the sweep varies."""
    config: dict[str, Any]
    """The resolved settings, as `RunConfig.to_dict` gives them."""

    def run_config(self, results_dir: Path, **launch: Any) -> RunConfig:
        """The settings, to be carried out with results in `results_dir`."""
        return RunConfig.from_dict(self.config).replace(results_dir=str(results_dir.absolute()), **launch)


@dataclass(frozen=True)
class Plan:
    """A sweep as it was submitted."""

    name: str
    description: str
    tables: tuple[Any, ...]
    figures: tuple[Any, ...]
    axes: tuple[str, ...]
    overrides: tuple[str, ...]
    """What was said on the command line."""
    created: str
    commit: str | None
    jobs: tuple[Job, ...]
    schema: int = SCHEMA
    algorithms: int = ALGORITHMS


def make_plan(sweep: str, overrides: Sequence[str], commit: str | None, seeds_per_job: int | None = None) -> Plan:
    """Composes the jobs of `sweeps/<sweep>.yaml`.

    Args:
        overrides: further ones, which win over the file; those of hydra.* are the launcher's and change no job.
        seeds_per_job: splits the seeds of a setting into runs of so many; all in one if not given.

    Raises:
        UserError: an unknown sweep or key, an empty grid, a job that is not valid.
    """
    known = composition.known_sweeps()
    if sweep not in known:
        raise UserError(f"sweep {sweep!r} is not known; choose from {', '.join(known) or 'none: sweeps/ is empty'}")
    own = [text for text in overrides if not is_launcher(text)]
    lines = composition.expand([f"+sweeps={sweep}", *own])
    configs = composition.compose_all(lines, own)
    if configs[0].sweep is None:
        raise UserError(f"sweeps/{sweep}.yaml has no `sweep:` with a name, so that its results have no place")
    about = configs[0].sweep
    if about.name in RESERVED:
        raise UserError(f"sweep.name={about.name!r} is not allowed: results/{about.name} is something else")
    axes = _axes(lines)
    check_entries(about.tables, axes)
    drawn = [*FIGURES, *(figure.name for figure in configs[0].task.sweep_figures)]
    strange = [name for name in about.figures if name not in drawn]
    if strange:
        raise UserError(f"sweep.figures has {strange[0]!r}: choose from {', '.join(drawn)}")
    jobs: dict[str, Job] = {}
    for line, config in zip(lines, configs, strict=True):
        values = {key: _axis_value(key, line, config) for key in axes}
        for seeds in _chunks(config.seeds, seeds_per_job):
            part = dataclasses.replace(config, seeds=seeds)
            jobs[part.run_id] = Job(part.run_id, part.run_hash, part.config_hash, values, part.to_dict())
    return Plan(
        name=about.name,
        description=about.description,
        tables=about.tables,
        figures=about.figures,
        axes=axes,
        overrides=tuple(own),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        jobs=tuple(jobs.values()),
    )


def is_launcher(override: str) -> bool:
    """Whether an override is of hydra.*: of how jobs are launched, not of what they are."""
    return override.lstrip("+~").startswith("hydra")


def _chunks(seeds: tuple[int, ...], size: int | None) -> list[tuple[int, ...]]:
    size = size or len(seeds)
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def _split(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.lstrip("+~"), value


def _axes(lines: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The keys with more than one value among the jobs, in the order of the grid."""
    values: dict[str, set[str]] = {}
    for line in lines:
        for key, value in map(_split, line):
            values.setdefault(key, set()).add(value)
    return tuple(key for key, found in values.items() if len(found) > 1 and key not in _NO_AXIS)


def _axis_value(key: str, line: Sequence[str], config: RunConfig) -> Any:
    """The resolved value of a key; the option's name where it is a group, such as proposal=single."""
    value: Any = config.to_dict()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str | int | float):
        return value
    return dict(map(_split, line)).get(key)


# ----------------------------------------------------------------------------------------------------- the file


def sweep_dir(results_dir: Path, name: str) -> Path:
    """Where a sweep's plan, logs and submissions lie."""
    return results_dir / "sweeps" / name


def write_plan(plan: Plan, results_dir: Path) -> None:
    """Writes `plan.json`; one that it replaces is kept beside it under its date.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = sweep_dir(results_dir, plan.name)
    make_folder(folder, results_dir)
    path = folder / "plan.json"
    try:
        if path.exists():  # there is a plan at every moment: the old one is copied, then replaced
            stamp = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y%m%dT%H%M%S")
            write_atomically(folder / f"plan.{stamp}.json", path.read_bytes())
        write_atomically(path, (json.dumps(dataclasses.asdict(plan)) + "\n").encode())
    except OSError as error:
        raise cannot_write_folder(results_dir, error) from None


def make_folder(folder: Path, results_dir: Path) -> None:
    """Raises UserError where a sweep's folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise cannot_write_folder(results_dir, error) from None


def read_plan(results_dir: Path, name: str) -> Plan:
    """The plan of a submitted sweep; `name` may be its folder too.

    Raises:
        UserError: there is none, it is damaged, or of another version.
    """
    path = sweep_dir(results_dir, name) / "plan.json"
    try:
        raw = json.loads(path.read_text())
        if (raw["schema"], raw["algorithms"]) != (SCHEMA, ALGORITHMS):
            raise UserError(
                f"{path} is of version {raw['schema']}.{raw['algorithms']}, and this ebmbench reads "
                f"{SCHEMA}.{ALGORITHMS}: submit the sweep again"
            )
        jobs = tuple(Job(**job) for job in raw.pop("jobs"))
        for key in ("tables", "figures", "axes", "overrides"):
            raw[key] = tuple(raw[key])
        return Plan(**raw, jobs=jobs)
    except FileNotFoundError:
        there = sorted(p.parent.name for p in (results_dir / "sweeps").glob("*/plan.json"))
        raise UserError(
            f"sweep {name!r} has not been submitted with results_dir={str(results_dir)!r}"
            + (f"; there are {', '.join(there)}" if there else "")
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path} is damaged: submit the sweep again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
