"""The one reader of run directories: many runs become one table, from which everything else is made.

The table has a row per run and seed, whether it is done or not: what identifies it, the settings that vary, and the
metrics. `runs.csv` of a collected sweep is this table. What is in a run directory is data, never executed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shlex
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pandas as pd

from ebmbench.core import registry
from ebmbench.core.errors import UserError, first_line
from ebmbench.display.table import plain
from ebmbench.engine import runs as run_directories
from ebmbench.engine.runs import FINISHED, Status, read_output, read_status
from ebmbench.report import collected, search, settings
from ebmbench.report.planned import Job, Plan, error_path, is_name, read_plan, sweep_dir
from ebmbench.report.search import REPEAT
from ebmbench.system import yamlfile
from ebmbench.system.files import read_bounded
from ebmbench.system.locking import RENEW_SECONDS, is_held, sign_of_life
from ebmbench.tasks.base import COST, Metric, Task

IDENTITY = (
    "run_id", "config_hash", "task", "dataset", "data", "method", "seed", "state", "error", "commit", "finished",
    "record",
)  # fmt: skip
"""The columns that every table of runs begins with; the settings that vary follow, then the metrics."""
NEEDED = ("config.yaml", "metrics.csv", "checkpoint.pt", "environment.json")
"""Files without which a run that says it is done is damaged."""
APART = ", with "
"""Stands between the name of a dataset and what sets it apart from others of this name."""


# -------------------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class Run:
    """A run that was planned, or a run directory that is there: its state, and what there is to say of it.

    Attributes:
        state: done, diverged, running, queued, interrupted, failed, damaged or missing.
        detail: progress, or the last line of an error.
        apart: what sets its data apart from others of the same name, in words.
    """

    job: Job
    folder: Path
    state: str
    detail: str = ""
    status: Status | None = None
    apart: str = ""

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings as plain data; empty where they cannot be read."""
        return self.job.config

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its models."""
        return tuple(self.config.get("seeds", self.status.seeds if self.status else ()))

    @property
    def task(self) -> str:
        """The task's name, `?` where nothing says it."""
        return str(self.config["task"]["name"] if self.config else self.status.task if self.status else "?")

    @property
    def dataset(self) -> str:
        """The dataset's name, with what sets it apart; `?` where nothing says it."""
        name = settings.dataset_of(self.config) if self.config else self.status.dataset if self.status else "?"
        return f"{name}{APART}{self.apart}" if self.apart else name

    @property
    def method(self) -> str:
        """The name of the method, or of the model that no method trains; `?` where nothing says it."""
        return settings.name_of(self.config) if self.config else self.status.method if self.status else "?"

    @property
    def label(self) -> str:
        """Task and dataset: `1d-1`."""
        return f"{self.task}-{self.dataset}" if self.config or self.status else "?"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What results depend on beside task and method, under dotted names."""
        return settings.flat(self.config) if self.config else {}


def planned_run(job: Job, results_dir: Path, sweep_folder: Path | None = None) -> Run:
    """Returns a job's run as its directory is now; `sweep_folder` has the last words of jobs that have none."""
    folder = results_dir / "runs" / job.run_id

    def last_words() -> str:
        try:
            return error_path(sweep_folder, job.run_id).read_text(errors="replace").strip() if sweep_folder else ""
        except OSError:
            return ""

    try:
        status = read_status(folder)
    except UserError as error:
        return Run(job, folder, "damaged", str(error))
    if status is None:
        if text := last_words():
            return Run(job, folder, "failed", text)
        stray = next((name for name in NEEDED if (folder / name).exists()), None)
        return Run(job, folder, *(("damaged", f"{folder} has {stray} and no status.json") if stray else ("missing",)))
    if status.run_hash != job.run_hash or status.algorithms != run_directories.ALGORITHMS:
        return Run(job, folder, "damaged", f"{folder}/status.json is of another run ({status.run_id})", status)
    if status.state == "done":
        lacking = next((name for name in NEEDED if not _has_content(f"{folder}/{name}")), None)
        if lacking:
            return Run(job, folder, "damaged", f"{folder / lacking} is missing or empty", status)
        diverged = ", ".join(f"seed {seed} at step {step}" for seed, step in status.diverged.items())
        return Run(job, folder, "diverged" if diverged else "done", diverged, status)
    if status.state == "running" and is_held(folder / "lock"):
        return Run(job, folder, "running", _progress(status) + _silence(folder), status)
    if status.state == "failed":
        return Run(job, folder, "failed", status.error or last_words(), status)
    return Run(job, folder, "interrupted", last_words() or _progress(status), status)


def read_run(folder: Path) -> Run:
    """Returns the run of a directory; its settings come from its config.yaml."""
    unknown = Job(folder.name, "", "", {}, {})
    try:
        status = read_status(folder)
    except UserError as error:
        return Run(unknown, folder, "damaged", str(error))
    if status is None:
        return Run(unknown, folder, "missing")
    job = Job(folder.resolve().name, status.run_hash, status.config_hash, {}, {})
    try:
        done = status.state == "done"
        text = read_output(folder, "config.yaml") if done else read_bounded(folder / "config.yaml")
        raw = yamlfile.parse(text)
        names = (raw["task"]["name"], settings.name_of(raw))
        if settings.dataset_of(raw) and settings.flat(raw) and names == (status.task, status.method):
            job = replace(job, config={**raw, "seeds": status.seeds})
    except UserError as error:
        return Run(job, folder, "damaged", str(error), status)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Run(job, folder, "damaged", f"config.yaml: {first_line(error)}", status)
    return replace(planned_run(job, folder.resolve().parent.parent), folder=folder)


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def _silence(folder: Path) -> str:
    """Returns how long nothing was heard of who works on a run, if that is long; and that it is stopped."""
    sign = sign_of_life(folder / "lock")
    if sign is None or (sign.age < 2 * RENEW_SECONDS and not sign.is_stopped):
        return ""
    return f", last heartbeat {sign.age:.0f} s ago" + (": its process is stopped" if sign.is_stopped else "")


def _progress(status: Status) -> str:
    share = f" ({100 * status.step // status.num_steps} %)" if status.num_steps else ""
    job = f", SLURM job {status.slurm_job}" if status.slurm_job else ""
    return f"step {status.step} of {status.num_steps or '?'}{share} on {status.host}{job}"


def planned_runs(plan: Plan, results_dir: Path) -> list[Run]:
    """Returns the run of every job, in the plan's order, as the run directories are now."""
    folder = sweep_dir(results_dir, plan.name)
    return [planned_run(job, results_dir, folder) for job in plan.jobs]


def with_parts(found: Sequence[Run], results_dir: Path) -> list[Run]:
    """Puts finished runs of the same setting and fewer seeds in the place of a job that is not done.

    So a costly method can be run with five seeds of the twenty: the hash of the setting says that they belong there,
    the table says n, and the seeds that are not there stay missing.
    """
    unfinished = [run for run in found if run.state not in FINISHED]
    hashes = {run.job.config_hash for run in unfinished}
    prefixes = {run.job.run_id.rsplit("-", 1)[0] for run in unfinished}
    own = {run.job.run_id for run in found}
    parts: dict[str, list[Status]] = {}
    root = results_dir / "runs"
    for path in sorted(root.iterdir()) if unfinished and root.is_dir() else ():
        if path.name in own or path.name.rsplit("-", 1)[0] not in prefixes:
            continue
        with contextlib.suppress(UserError):
            status = read_status(path)
            if status and status.state == "done" and status.run_id == path.name and status.config_hash in hashes:
                parts.setdefault(status.config_hash, []).append(status)
    result: list[Run] = []
    for run in found:
        lacking = set(run.seeds)
        for status in parts.get(run.job.config_hash, ()) if run.state not in FINISHED else ():
            if lacking >= set(status.seeds):
                lacking -= set(status.seeds)
                config = {**run.config, "seeds": status.seeds}
                job = replace(run.job, run_id=status.run_id, run_hash=status.run_hash, config=config)
                result.append(planned_run(job, results_dir))
        if lacking:
            rest = [seed for seed in run.seeds if seed in lacking]
            job = replace(run.job, config={**run.config, "seeds": rest})
            result.append(replace(run, job=job) if len(rest) < len(run.seeds) else run)
    return result


# ------------------------------------------------------------------------------------------------------ one table


@dataclass(frozen=True)
class Results:
    """Runs as one table, and what tables and figures need to know beside it.

    Attributes:
        frame: a row per run and seed, done or not: IDENTITY, `axes`, metrics.
        columns: the columns of settings that vary; from `repeat` on they are those of a search (`sweep.tune`).
        runs: the runs; none where the table was read from runs.csv.
        sweep: the sweep's name, where the runs are one's.
        tables: the tables that the sweep asks for.
        command: what runs all of it again.
        overrides: of a collected sweep, what its command line gave, paths apart.
        pictures: a folder of figures, of a collected sweep whose runs are not there.
    """

    name: str
    frame: pd.DataFrame
    columns: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    sweep: str | None = None
    description: str = ""
    tables: tuple[Any, ...] = ()
    command: str = ""
    overrides: tuple[str, ...] = ()
    pictures: Path | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        """The settings that vary, without those of a search."""
        return self.columns[: self.columns.index(REPEAT)] if REPEAT in self.columns else self.columns

    @cached_property
    def trials(self) -> pd.DataFrame:
        """The rows that are results, diverged seeds too, with a `label` (task and dataset)."""
        done = self.frame[self.frame["state"].isin(FINISHED)]
        return done.assign(label=done["task"].astype(str) + "-" + done["dataset"].astype(str)).reset_index(drop=True)

    @cached_property
    def done(self) -> pd.DataFrame:
        """The rows of `trials` with their `variant`; where settings are searched, what each search chose."""
        done = self.trials if self.axes == self.columns else search.chosen(self.trials, self.tasks, self.axes)
        varied = _varied(done, self.axes)
        return done.assign(variant=[_variant(row, varied) for row in done.to_dict("records")])

    @cached_property
    def tasks(self) -> dict[str, type[Task]]:
        """The task of each label.

        Raises:
            UserError: a task is not known.
        """
        pairs = self.trials[["label", "task"]].drop_duplicates().sort_values("label")
        return {str(label): task_of(str(task)) for label, task in pairs.itertuples(index=False)}

    @property
    def folders(self) -> dict[str, Path]:
        """The directory of each run that is there."""
        return {run.job.run_id: run.folder for run in self.runs if run.status}

    @cached_property
    def varied(self) -> dict[str, list[str]]:
        """Per method the settings that differ between its runs on one dataset."""
        return _varied(self.done, self.axes)

    def draw_of(self, label: str) -> str:
        """Returns the setting that draws the data anew, if the runs of a label vary it; else nothing."""
        draw = self.tasks[label].drawn_by(self.axes)
        part = self.done[self.done["label"] == label]
        return draw if draw and part[draw].nunique() > 1 else ""

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """One variant per dataset and method: where settings are varied, the published one, else the most seeds'."""
        return self._chosen(all_draws=False)

    @cached_property
    def models(self) -> pd.DataFrame:
        """The same, at all draws of the data."""
        return self._chosen(all_draws=True)

    def _chosen(self, all_draws: bool) -> pd.DataFrame:
        kept = []
        for (label, method), part in self.done.groupby(["label", "method"], sort=False):
            draw = self.draw_of(str(label)) if all_draws else ""
            for key in (key for key in self.varied[str(method)] if key != draw):
                value = _reference_value(part, key, self.tasks[str(label)], str(method))
                part = part[part[key].isna() if value is None else part[key] == value]
            if not draw and part["config_hash"].nunique() > 1:
                largest = part.groupby("config_hash", sort=False).size().idxmax()
                part = part[part["config_hash"] == largest]
            kept.append(part)
        return pd.concat(kept, ignore_index=True) if kept else self.done

    @property
    def varies(self) -> bool:
        """Whether settings beside the method and the dataset vary."""
        return any(self.varied.values())

    def collected(self, figure: str) -> pd.DataFrame | None:
        """Returns the numbers of a figure that was collected with the tables; None if it was not."""
        try:
            return pd.read_csv(self.pictures / f"{figure}.csv") if self.pictures else None
        except (OSError, ValueError):
            return None

    def shown_by(self, figure: str) -> list[tuple[Metric, str]]:
        """Returns the metrics that a figure shows, each with a label that has values of it."""
        found = []
        parts = {label: self.done[self.done["label"] == label] for label in self.tasks}
        for task in dict.fromkeys(self.tasks.values()):
            for metric in (metric for metric in task.metrics if figure in metric.figures):
                labels = [label for label, other in self.tasks.items() if other is task]
                found += [(metric, label) for label in labels if has_values(parts[label], metric)]
        return found


def task_of(name: str) -> type[Task]:
    """Returns the class of a task; raises UserError where it is not known."""
    return cast(type[Task], registry.get("task", name))


def has_values(frame: pd.DataFrame, metric: Metric) -> bool:
    """Returns whether the table has a value of a metric."""
    return metric.name in frame and bool(frame[metric.name].notna().any())


def metrics_of(task: type[Task], frame: pd.DataFrame) -> list[Metric]:
    """Returns the metrics of a task that the table has a value of; the headline always."""
    return [metric for metric in task.metrics if metric is task.metrics[0] or has_values(frame, metric)]


def costs_of(frame: pd.DataFrame) -> list[Metric]:
    """Returns what a run cost, as far as the table has values of it."""
    return [metric for metric in COST if has_values(frame, metric)]


def varying(frame: pd.DataFrame, axes: Iterable[str]) -> list[str]:
    """Returns the settings of which a model has several values in these runs."""
    models = frame.groupby("method", sort=False)
    return [axis for axis in axes if models[axis].nunique(dropna=False).gt(1).any()]


def _varied(done: pd.DataFrame, axes: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for (_, method), part in done.groupby(["label", "method"], sort=False):
        found[str(method)] = list(dict.fromkeys([*found.get(str(method), []), *varying(part, axes)]))
    return found


def _variant(row: Mapping[Any, Any], varied: Mapping[str, Sequence[str]]) -> str:
    keys = varied.get(row["method"], [])
    names = [settings.symbol(key, row["task"], row["method"]) for key in keys]
    return ", ".join(f"{name} = {plain(row[key])}" for name, key in zip(names, keys, strict=True))


def _reference_value(part: pd.DataFrame, key: str, task: type[Task], method: str) -> Any:
    """Returns the published value, else the class's default, else the most frequent one (the largest of them).

    None stands for a setting that most of these runs do not have.
    """
    values = part[key]
    data = part["data"].iloc[0] if "data" in part else None
    published = settings.published(key, task.name, data if isinstance(data, str) else "", method)
    if published is not None and (values == published).any():
        return published
    counts = values.value_counts(dropna=False)
    return max(counts[counts == counts.max()].index.dropna(), default=None)


def read(name: str, runs: Iterable[Run], axes: Sequence[str] | None = None, **about: Any) -> Results:
    """Reads the metrics of the runs that are done. What is damaged is named in its state, and never counted.

    Args:
        axes: the settings that vary, with a value in each job's `axes`; those that differ between runs if not given.
        about: further fields of Results.
    """
    checked: list[Run] = []
    metrics: list[dict[int, dict[str, float]]] = []
    for run in runs:
        metrics.append({})
        if run.state in FINISHED:
            try:
                metrics[-1] = _read_metrics(run)
            except UserError as error:
                run = replace(run, state="damaged", detail=str(error))
        checked.append(run)
    if axes is None:
        checked = _told_apart(checked)
        axes = _differing(checked)
        checked = [replace(r, job=replace(r.job, axes={key: r.settings.get(key) for key in axes})) for r in checked]
    return Results(name, _tidy(checked, metrics, tuple(axes)), tuple(axes), tuple(checked), **about)


def _read_metrics(run: Run) -> dict[int, dict[str, float]]:
    """Returns the metrics of each seed; raises UserError where they are not what the run wrote."""
    path = run.folder / "metrics.csv"
    run_directories.need_whole(run.folder)
    text = read_output(run.folder, path.name).decode(errors="replace")
    try:
        found = [{name: _number(value) for name, value in row.items()} for row in csv.DictReader(text.splitlines())]
        by_seed = {int(row.pop("seed")): row for row in found}
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged: it holds no numbers by seed") from None
    if sorted(by_seed) != sorted(run.seeds) or len(found) != len(by_seed):
        raise UserError(f"{path} has {len(found)} seeds, and the run {len(run.seeds)}")
    if not all({"diverged", "trusted"} <= row.keys() for row in found):
        raise UserError(f"{path} does not say which seeds diverged")
    return by_seed


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text) if text else math.nan


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs with their data told apart where the models of one dataset did not have the same.

    What all models vary alike is an axis of the study and makes no other dataset; draws need one that all have.
    """
    values: dict[tuple[str, str], dict[tuple[Any, ...], set[Any]]] = {}
    draws: dict[str, tuple[str, ...]] = {}
    for run in runs:
        if run.state not in FINISHED:
            continue
        # Runs of a plug-in that is not loaded are in the table too.
        task = cast(type[Task], registry.known("task").get(run.task, Task))
        draws[run.label] = task.draw_settings
        model = (run.method, run.settings.get("network"), run.settings.get("network.name"))
        for key, value in run.settings.items():
            if key.startswith(task.data_settings):
                values.setdefault((run.label, key), {}).setdefault(model, set()).add(value)
    apart: dict[str, list[str]] = {}
    for (label, key), by_model in values.items():
        first, *others = by_model.values()
        if not first.intersection(*others) if key in draws[label] else any(other != first for other in others):
            found = apart.setdefault(label, [])
            if len(_kinds(runs, label, [*found, key])) > len(_kinds(runs, label, found)):  # it is not said already
                found.append(key)
    return [replace(run, apart=_named_data(run, apart[run.label])) if run.label in apart else run for run in runs]


def _kinds(runs: Sequence[Run], label: str, keys: Sequence[str]) -> set[tuple[Any, ...]]:
    return {tuple(map(run.settings.get, keys)) for run in runs if run.label == label and run.state in FINISHED}


def _named_data(run: Run, keys: Iterable[str]) -> str:
    named = ((key.removeprefix("task."), run.settings.get(key)) for key in keys)
    return ", ".join(f"{name} = {plain(value)}" for name, value in named if value is not None)


def _differing(runs: Sequence[Run]) -> tuple[str, ...]:
    """Returns the settings that differ between runs of one method on one dataset."""
    values: dict[tuple[str, str, str], set[Any]] = {}
    for run in runs:
        for key, value in run.settings.items() if run.state in FINISHED else ():
            values.setdefault((run.label, run.method, key), set()).add(value)
    return tuple(dict.fromkeys(key for (_, _, key), found in values.items() if len(found) > 1))


def _tidy(
    runs: Sequence[Run], metrics: Sequence[Mapping[int, Mapping[str, float]]], axes: tuple[str, ...]
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    measured: dict[str, None] = {}
    for run, by_seed in zip(runs, metrics, strict=True):
        measured |= dict.fromkeys(name for row in by_seed.values() for name in row)
        row = {
            "run_id": run.job.run_id,
            "config_hash": run.job.config_hash,
            "task": run.task,
            "dataset": run.dataset,
            "data": run.config.get("data_option"),
            "method": run.method,
            "state": run.state,
            "error": run.detail if run.state in ("failed", "damaged") else None,
            "commit": run.status.commit if run.status else None,
            "finished": run.status.finished if run.status and run.state in FINISHED else None,
            "record": run.status.seal if run.status and run.state in FINISHED else None,
            **{key: run.job.axes.get(key) for key in axes},
        }
        rows += [{**row, "seed": seed, **by_seed.get(seed, {})} for seed in run.seeds]
    measured |= dict.fromkeys(("diverged", "trusted"))  # there also if no run is done
    frame = pd.DataFrame(rows, columns=[*IDENTITY, *axes, *measured])
    # Runs of one setting are put together; a seed that two of them have counts once, for they hold the same numbers.
    done = frame["state"].isin(FINISHED)
    ordered = pd.concat([frame[done], frame[~done]]).drop_duplicates(["config_hash", "seed"]).sort_index()
    return ordered.reset_index(drop=True)


# ----------------------------------------------------------------------------------------------- finding the runs


def results(*targets: str | Path, results_dir: str | Path = "results") -> pd.DataFrame:
    """Returns a table of runs: a row per run and seed, with the settings that vary and the metrics.

    Args:
        targets: a sweep's name, its folder of tables, run directories, or a results folder; all runs in `results_dir`
            if none is given.

    Returns:
        Columns: `IDENTITY` (run_id, config_hash, task, dataset, method, seed, state, error, commit, finished, and
            record, the seal of the run), the settings that vary under their dotted names, the metrics, `diverged` and
            `trusted` (0 or 1).

    Raises:
        UserError: nothing is there under that name, or a file is damaged; of many runs, a damaged one is warned about.
    """
    found = find([str(target) for target in targets or [results_dir]], Path(results_dir))
    damaged = [run for run in found.runs if run.state == "damaged"]
    if damaged and len(damaged) == len(found.runs):
        raise UserError(damaged[0].detail)
    for run in damaged:
        warnings.warn(f"{run.job.run_id} is damaged and has no results in the table: {run.detail}", stacklevel=2)
    return found.frame


def find(
    targets: Sequence[str], results_dir: Path, states: Callable[[Plan, Path], list[Run]] = planned_runs
) -> Results:
    """Returns the results that a name or paths stand for; see `results`.

    Args:
        states: gives the runs of a plan, such as `sweep.status.job_states`, which also asks SLURM.

    Raises:
        UserError: nothing is there under that name.
    """
    folders = [Path(target) for target in targets]
    name, only = targets[0], folders[0]
    if len(targets) == 1:
        if (only / "sweep.json").is_file() or (only / "plan.json").is_file():
            name = only.resolve().name
            results_dir = only.parent if (only / "sweep.json").is_file() else only.parent.parent
        if (sweep_dir(results_dir, name) / "plan.json").exists():
            return of_plan(read_plan(results_dir, name), results_dir, states)
    missing = [str(folder) for folder in folders if not (folder / "status.json").exists()]
    if not missing:
        title = only.resolve().name if len(folders) == 1 else f"{len(folders)} runs"
        return _of_folders(title, dict.fromkeys(folders))
    if len(targets) > 1:
        raise UserError(
            f"{missing[0]!r} is no run directory (it has no status.json); give run directories or one sweep"
        )
    if (only / "runs").is_dir():
        return _of_folders(only.resolve().name, [path.parent for path in only.glob("runs/*/status.json")])
    # Runs of a multirun carry their sweep's name too, though it was never submitted.
    sweeps = _sweeps(results_dir / "runs")
    if name in sweeps:
        return _of_folders(name, sweeps[name], sweep=name, command=_again("submit", name, results_dir))
    if is_name(name) and (results_dir / name / "runs.csv").is_file():
        return load(results_dir / name)
    names = {*sweeps, *(path.parent.name for path in (results_dir / "sweeps").glob("*/plan.json"))}
    names |= {path.parent.name for path in results_dir.glob("*/runs.csv")}
    known = f"; sweeps that are there: {', '.join(sorted(names))}" if names else "; no sweep is there"
    raise UserError(
        f"{name!r} is neither a run directory nor a sweep with runs in {str(results_dir / 'runs')!r}{known}"
    )


def of_plan(plan: Plan, results_dir: Path, states: Callable[[Plan, Path], list[Run]] = planned_runs) -> Results:
    """Returns a submitted sweep's results: all of its jobs, those without a run directory too."""
    found = with_parts(states(plan, results_dir), results_dir)
    # Not submit: the plan has all that was said then (overrides, the sweep's file, seeds per job), the name does not.
    again = _again("resume", plan.name, results_dir)
    about = {"description": plan.description, "tables": plan.tables, "command": again}
    return read(plan.name, found, plan.axes, sweep=plan.name, **about)


def _of_folders(name: str, folders: Iterable[Path], **about: Any) -> Results:
    return read(name, map(read_run, sorted(folders, key=lambda folder: folder.name)), **about)


def _again(how: str, sweep: str, results_dir: Path) -> str:
    place = [f"results_dir={results_dir}"] if results_dir != Path("results") else []
    return shlex.join(["python", "-m", "ebmbench", "sweep", how, sweep, *place])


def _sweeps(root: Path) -> dict[str, list[Path]]:
    """Returns the run directories of each sweep that left its name in them."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.glob("*/status.json")):
        with contextlib.suppress(OSError, ValueError):
            raw = json.loads(path.read_text())
            if isinstance(raw, dict) and isinstance(raw.get("sweep"), str):
                found.setdefault(raw["sweep"], []).append(path.parent)
    return found


# ------------------------------------------------------------------------------------------------------- runs.csv


def load(folder: Path) -> Results:
    """Returns a collected sweep from its runs.csv and sweep.json: no run directory is needed.

    Raises:
        UserError: a file is missing, damaged or of another version.
    """
    try:
        about = collected.read(folder)
        frame = read_runs_csv(collected.read_table(folder, about))
        name, description = about["name"], about["description"]
        axes, asked = tuple(about["axes"]), tuple(about["tables"])
        overrides = tuple(text for text in about["overrides"] if "…" not in text)
        lacking = {*IDENTITY, *axes, "diverged", "trusted"} - set(frame.columns)
        if lacking or not isinstance(name, str) or not isinstance(description, str):
            raise ValueError(lacking)
        twice = frame.loc[frame.duplicated(["run_id", "seed"]), ["run_id", "seed"]]
        if not twice.empty:
            run, seed = twice.iloc[0]
            raise UserError(f"{folder / 'runs.csv'} has seed {seed} of {run} more than once")
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is missing: python -m ebmbench sweep collect {folder.name} makes it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is damaged: python -m ebmbench sweep collect {folder.name} makes it again") from None
    pictures = folder / "figures" if (folder / "figures").is_dir() else None
    again = _again("submit", name, folder.parent)
    about = {"sweep": name, "description": description, "tables": asked, "command": again}
    return Results(name, frame, axes, **about, pictures=pictures, overrides=overrides)


def read_runs_csv(text: str) -> pd.DataFrame:
    """Returns what `sweep collect` wrote, its numbers to their last digit."""
    kinds = dict.fromkeys(("run_id", "config_hash", "dataset", "commit", "error", "record"), str)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas 3 reads so unasked, and warns of being asked
        return pd.read_csv(io.StringIO(text), float_precision="round_trip", dtype=kinds)
