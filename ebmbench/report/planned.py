"""A sweep's plan as a file: `<results_dir>/sweeps/<name>/plan.json`, its jobs with their frozen settings.

`sweep submit` writes it. Everything after it (the jobs in the queue, status, collect, report) reads it and never
`conf/` again. What is read is data: it is checked, and nothing is executed but the plug-ins that the user submitted.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ebmbench.config.plugins import located
from ebmbench.config.run import ALGORITHMS, RunConfig
from ebmbench.core import plugins
from ebmbench.core.errors import UserError
from ebmbench.system import seal
from ebmbench.system.files import read_bounded

SCHEMA = 2


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        axes: the value of each key that the sweep varies.
        config: the resolved settings, as `RunConfig.to_dict` gives them.
    """

    run_id: str
    run_hash: str
    config_hash: str
    axes: dict[str, Any]
    config: dict[str, Any]

    def run_config(self, results_dir: Path, **launch: Any) -> RunConfig:
        """Returns the settings, to be carried out with results in `results_dir`.

        Raises:
            UserError: they no longer make this run, because a plug-in or a default was changed.
        """
        config = RunConfig.from_dict(self.config).replace(results_dir=str(results_dir.absolute()), **launch)
        if config.run_hash != self.run_hash:
            raise UserError(
                f"{self.run_id} is another run today ({config.run_id}): its plug-in or ebmbench has changed since the "
                "sweep was submitted; submit it again"
            )
        return config


@dataclass(frozen=True)
class Plan:
    """A sweep as it was submitted; `overrides` and `launcher` are what was given on the command line."""

    name: str
    description: str
    tables: tuple[Any, ...]
    figures: tuple[Any, ...]
    axes: tuple[str, ...]
    overrides: tuple[str, ...]
    created: str
    commit: str | None
    jobs: tuple[Job, ...]
    launcher: tuple[str, ...] = ()
    schema: int = SCHEMA
    algorithms: int = ALGORITHMS


def sweep_dir(results_dir: Path, name: str) -> Path:
    """Returns where a sweep's plan, logs and submissions are."""
    return results_dir / "sweeps" / name


def error_path(folder: Path, run_id: str) -> Path:
    """Returns where the last line of a job's error is, if it had no run directory to say it in."""
    return folder / "errors" / f"{run_id}.txt"


def is_name(text: object) -> bool:
    """Returns whether a text can be the name of a sweep or a run: one part of a path, and not `.` or `..`."""
    return isinstance(text, str) and re.fullmatch(r"(?!-)[\w.+-]{1,200}", text) is not None and text.strip(".") != ""


def read_plan(results_dir: Path, name: str, with_plugins: bool = True) -> Plan:
    """Returns the plan of a submitted sweep; its plug-ins are loaded if the user accepted them.

    Raises:
        UserError: there is none, it is damaged, or of another version.
    """
    path = sweep_dir(results_dir, name) / "plan.json"
    try:
        raw = seal.decode(read_bounded(path), SCHEMA)
        raw.pop(seal.KEY)
        if raw["algorithms"] != ALGORITHMS:
            raise UserError(
                f"{path} is of version {raw['schema']}.{raw['algorithms']}, and this ebmbench reads "
                f"{SCHEMA}.{ALGORITHMS}: submit the sweep again"
            )
        jobs = tuple(_job(job, path.parent) for job in raw.pop("jobs"))
        for key in ("tables", "figures", "axes", "overrides", "launcher"):
            raw[key] = tuple(raw[key])
        plan = Plan(**raw, jobs=jobs)
        if plan.name != Path(name).name or not is_name(plan.name) or not jobs:
            raise ValueError(f"name {plan.name!r}")
        texts = [plan.description, plan.created, plan.commit or "", *plan.figures, *plan.axes]
        texts += [*plan.overrides, *plan.launcher]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(texts)
    except seal.OtherVersion as error:
        text = f"{path} is of version {error}, and this ebmbench reads {SCHEMA}: submit the sweep again"
        raise UserError(text) from None
    except FileNotFoundError:
        there = sorted(p.parent.name for p in (results_dir / "sweeps").glob("*/plan.json"))
        raise UserError(
            f"sweep {name!r} has not been submitted with results_dir={str(results_dir)!r}"
            + (f"; there are {', '.join(there)}" if there else "")
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged: submit the sweep again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if with_plugins:
        _load_plugins(plan)
    return plan


def _job(raw: dict[str, Any], folder: Path) -> Job:
    job = Job(**raw)
    seeds = job.config["seeds"]
    names = is_name(job.run_id), is_name(job.run_hash), is_name(job.config_hash), isinstance(job.axes, dict)
    chosen = [job.config[group]["name"] for group in ("method", "model") if job.config.get(group)]
    parts = [job.config["task"]["name"], *chosen]
    groups = isinstance(seeds, list), isinstance(job.config["trainer"], dict)
    if not chosen or not all((*names, *groups, *(isinstance(name, str) for name in parts))):
        raise ValueError(job.run_id)
    if not all(isinstance(seed, int) for seed in seeds):
        raise ValueError(seeds)
    return replace(job, config=located(job.config, folder))


def _plugins(job: Job) -> list[str]:
    return list(job.config.get("plugins") or ())


def _load_plugins(plan: Plan) -> None:
    """Loads the plug-ins of a plan, for their tasks' metrics and their methods' colours; a lost one is only said."""
    for name in dict.fromkeys(name for job in plan.jobs for name in _plugins(job)):
        try:
            plugins.load([name])
        except UserError as error:
            print(f"ebmbench: {error}", file=sys.stderr)
