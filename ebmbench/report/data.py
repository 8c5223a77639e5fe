"""The runs that a report is about, read from their directories. What is in them is data, never executed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ebmbench.config.compose import setting
from ebmbench.core.errors import UserError
from ebmbench.engine import runs as run_directories

_COLUMNS = ["run_id", "config_hash", "label", "method", "seed", "diverged", "trusted"]
_SECTIONS = ("task", "method", "proposal", "noise", "trainer")
_SHORT = {
    "method.num_samples": "M (samples per target)",
    "method.langevin_steps": "L (Langevin steps)",
    "noise.langevin_step": "λ (Langevin step length)",
    "noise.sigma": "σ (noise scale)",
    "noise.beta": "β (annotation noise)",
    "task.target_noise": "noise added to the training targets, units of y",
    "task.data_seed": "draw of the data",
}
_SYMBOLS = {
    "method.num_samples": "M",
    "method.langevin_steps": "L",
    "noise.langevin_step": "λ",
    "noise.sigma": "σ",
    "noise.beta": "β",
    "task.target_noise": "target noise",
    "task.data_seed": "data seed",
    "proposal.stds": "σ_k",
    "proposal.shared": "shared noise",
}


@dataclass(frozen=True)
class Run:
    """A run directory, or one that should be there: its state, its flat settings, and what is wrong with it."""

    folder: Path
    state: str
    label: str = "?"
    method: str = "?"
    seeds: tuple[int, ...] = ()
    status: run_directories.Status | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Results:
    """All runs of a report, and a tidy table with a row per finished run and seed."""

    name: str
    runs: tuple[Run, ...]
    frame: pd.DataFrame
    """run_id, config_hash, label, method, variant, seed, the metrics, and the settings under their dotted names."""
    sweep: str | None = None
    """The sweep's name, where the runs are one's."""
    description: str = ""
    command: str = ""
    """What runs the sweep again."""

    @cached_property
    def folders(self) -> dict[str, Path]:
        return {run.status.run_id: run.folder for run in self.runs if run.status}

    @cached_property
    def varied(self) -> dict[str, list[str]]:
        """Per method the settings that differ between its runs on one dataset."""
        found: dict[str, list[str]] = {}
        for (_, method), part in self.frame.groupby(["label", "method"], sort=False):
            keys = [key for key in setting_keys(self.frame) if part[key].nunique(dropna=False) > 1]
            found[method] = list(dict.fromkeys([*found.get(method, []), *keys]))
        return found

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """One variant per dataset and method: where settings are varied, the published one, else the most seeds'."""
        kept = []
        for (label, method), part in self.frame.groupby(["label", "method"], sort=False):
            for key in self.varied[method]:
                part = part[part[key] == _reference_value(part, key, str(label), str(method))]
            if part["config_hash"].nunique() > 1:
                largest = part.groupby("config_hash", sort=False).size().idxmax()
                part = part[part["config_hash"] == largest]
            kept.append(part.drop_duplicates(["config_hash", "seed"]))
        return pd.concat(kept, ignore_index=True) if kept else self.frame

    @property
    def varies(self) -> bool:
        return any(self.varied.values())


def setting_keys(frame: pd.DataFrame) -> list[str]:
    """The settings among the columns; most wanted first."""
    keys = [c for c in frame.columns if c.split(".")[0] in _SECTIONS and "." in c]
    return sorted(keys, key=lambda key: (key not in _SHORT, list(_SHORT).index(key) if key in _SHORT else 0, key))


def axis_title(key: str) -> str:
    """A setting's name for an axis."""
    return _SHORT.get(key, key)


def symbol(key: str) -> str:
    """A setting's name in a word."""
    return _SYMBOLS.get(key, key)


def _reference_value(part: pd.DataFrame, key: str, label: str, method: str) -> Any:
    task, _, dataset = label.partition("-")
    values = part[key]
    published = flat_value(setting(task, dataset, method, key))
    if published is not None and (values == published).any():
        return published
    if key in ("task.target_noise", "task.data_seed"):
        return values.min()
    counts = values.value_counts()
    return max(counts[counts == counts.max()].index)


def flat_value(value: Any) -> Any:
    """Lists as text, so that settings can be compared and grouped."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _flatten(raw: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        return {prefix: flat_value(raw)}
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= _flatten(value, f"{prefix}.{key}")
    return flat


def flat_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a run beside task and method, under dotted names; lists as JSON."""
    settings: dict[str, Any] = {}
    for section in _SECTIONS:
        settings |= _flatten(raw[section], section)
    for key in ("task.name", "method.name"):
        settings.pop(key, None)
    return settings


def read_run(folder: Path) -> Run:
    """A run directory as it is now; a damaged one is a Run with a `problem`."""
    try:
        status = run_directories.read_status(folder)
        state = run_directories.read_state(folder)
    except UserError as error:
        return Run(folder, "damaged", problem=str(error))
    if status is None:
        return Run(folder, "missing")
    settings: dict[str, Any] = {}
    environment: Any = {}
    problem = status.error or ""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        raw = yaml.load((folder / "config.yaml").read_text(), Loader=loader)  # a safe loader: plain data only
        settings = flat_settings(raw)
        if (folder / "environment.json").exists():
            environment = json.loads((folder / "environment.json").read_text())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        problem = problem or f"{type(error).__name__}: {error}"
    return Run(
        folder,
        state,
        f"{status.task}-{status.dataset}",
        status.method,
        tuple(status.seeds),
        status,
        settings,
        environment if isinstance(environment, dict) else {},
        problem,
    )


def load(name: str, runs: Iterable[Run], sweep: str | None = None, description: str = "", command: str = "") -> Results:
    """The results of these runs, in the order of their names."""
    found, rows = [], []
    for run in sorted(runs, key=lambda run: run.folder.name):
        found.append(run)
        if run.status is None or run.state not in run_directories.FINISHED:
            continue
        try:
            metrics = pd.read_csv(run.folder / "metrics.csv")
            seeds = sorted(metrics["seed"])
        except (OSError, ValueError, KeyError) as error:
            found[-1] = replace(run, state="damaged", problem=f"metrics.csv: {error}")
            continue
        if seeds != sorted(run.seeds):
            found[-1] = replace(run, state="damaged", problem=f"metrics.csv has {len(seeds)} seeds of {len(run.seeds)}")
            continue
        identity = {
            "run_id": run.status.run_id,
            "config_hash": run.status.config_hash,
            "label": run.label,
            "method": run.method,
        }
        rows += [{**identity, **run.settings, **row} for row in metrics.to_dict("records")]
    frame = pd.DataFrame(rows, columns=None if rows else _COLUMNS)
    results = Results(name, tuple(found), frame, sweep, description, command)
    frame["variant"] = [_variant(row, results.varied) for row in frame.to_dict("records")]
    return results


def _variant(row: Mapping[str, Any], varied: Mapping[str, Sequence[str]]) -> str:
    keys = varied.get(row["method"], [])
    return ", ".join(
        f"{symbol(key)} = {row[key]:g}" if isinstance(row[key], int | float) else f"{symbol(key)} = {row[key]}"
        for key in keys
    )


def find(targets: Sequence[str], results_dir: Path) -> Results:
    """The runs that the command line names: run directories, or one sweep.

    Raises:
        UserError: nothing is there under that name.
    """
    root = results_dir / "runs"
    folders = [Path(target) for target in targets]
    if (results_dir / "sweeps" / targets[0] / "plan.json").exists() and len(targets) == 1:
        return _planned(targets[0], results_dir)
    if all((folder / "status.json").exists() for folder in folders):
        name = folders[0].resolve().name if len(folders) == 1 else f"{len(folders)} runs"
        return load(name, map(read_run, dict.fromkeys(folders)))
    missing = [str(folder) for folder in folders if not (folder / "status.json").exists()]
    if len(targets) > 1:
        raise UserError(
            f"{missing[0]!r} is no run directory (it has no status.json); give run directories or one sweep"
        )
    # Runs of a multirun carry their sweep's name too, though it was never submitted.
    found = [folder for folder, status in _statuses(root) if status.get("sweep") == targets[0]]
    if not found:
        names = {str(raw["sweep"]) for _, raw in _statuses(root) if raw.get("sweep")}
        names |= {path.parent.name for path in (results_dir / "sweeps").glob("*/plan.json")}
        known = f"; sweeps that are there: {', '.join(sorted(names))}" if names else "; no sweep is there"
        raise UserError(f"{targets[0]!r} is neither a run directory nor a sweep with runs in {str(root)!r}{known}")
    return load(targets[0], map(read_run, found), sweep=targets[0], command=_again("submit", targets[0], results_dir))


def _planned(name: str, results_dir: Path) -> Results:
    """A submitted sweep: all of its jobs, those without a run directory too."""
    from ebmbench.sweep.plan import read_plan
    from ebmbench.sweep.status import job_states, with_parts

    plan = read_plan(results_dir, name)
    found = []
    for job in with_parts(job_states(plan, results_dir), results_dir):
        run = read_run(results_dir / "runs" / job.job.run_id)
        if run.status is None:
            settings = flat_settings(job.job.config)
            task = job.job.config["task"]
            dataset = task.get("dataset", (task.get("data") or {}).get("name"))
            method, seeds = job.job.config["method"]["name"], tuple(job.job.config["seeds"])
            run = Run(run.folder, job.state, f"{task['name']}-{dataset}", method, seeds, settings=settings)
        if job.state not in run_directories.FINISHED:
            run = replace(run, state=job.state, problem=run.problem or job.detail)
        found.append(run)
    # Not submit: the plan has all that was said then (overrides, the sweep's file, seeds per job), the name does not.
    return load(name, found, name, plan.description, _again("resume", name, results_dir))


def _again(how: str, sweep: str, results_dir: Path) -> str:
    place = [f"results_dir={results_dir}"] if results_dir != Path("results") else []
    return shlex.join(["python", "-m", "ebmbench", "sweep", how, sweep, *place])


def _statuses(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted(root.glob("*/status.json")):
        try:
            raw = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(raw, dict):
            found.append((path.parent, raw))
    return found


def provenance(results: Results) -> dict[str, str]:
    """What every table and page carries: commits, dates, versions."""
    statuses = [run.status for run in results.runs if run.status]
    times = sorted(t for s in statuses for t in (s.started, s.finished) if t)
    return {
        "commit": ", ".join(sorted({s.commit for s in statuses if s.commit})) or "unknown",
        "runs": str(len(results.runs)),
        "from": _minute(times[0]) if times else "unknown",
        "to": _minute(times[-1]) if times else "unknown",
        "algorithms": ", ".join(sorted({str(s.algorithms) for s in statuses})),
    }


def _minute(time: str) -> str:
    """2026-01-02 03:04 UTC; what is no time is shown as it is."""
    try:
        return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return time
