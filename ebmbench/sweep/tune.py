"""Searches settings with the same budget for every method: `ebmbench tune`.

The search space is what the classes declare (`tuning`), the objective a task's metric on its validation split
(`Task.selection`), and a trial is a job of the sweep layer, on this machine or on SLURM. Everything that was tried is
in a journal, from which an interrupted search goes on:

<results_dir>/tune/<name>/journal.log         Optuna's journal: trials and their values
<results_dir>/tune/<name>/trials.csv          a row for each trial, with its settings, score and cost
<results_dir>/tune/<name>/settings/best.yaml  the best settings: `--config-dir <results_dir>/tune/<name>` uses them
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ebmbench.config import compose as composition
from ebmbench.config.run import Launch, RunConfig, SweepConfig
from ebmbench.core.errors import UserError, counted
from ebmbench.core.extras import need
from ebmbench.display.table import csv_text
from ebmbench.engine.runs import FINISHED, commit
from ebmbench.report import frame
from ebmbench.report.planned import Plan
from ebmbench.sweep.best import Table, place_of_best, write
from ebmbench.sweep.plan import job_of, make_folder
from ebmbench.sweep.status import job_states
from ebmbench.sweep.submit import Preset, submit
from ebmbench.system.files import write_atomically
from ebmbench.tasks.base import Metric

SAMPLERS = {"random": "RandomSampler", "tpe": "TPESampler"}
"""Optuna's classes of what `--sampler` names."""
TOGETHER = 4
"""Trials of a method that `tpe` proposes at a time: it learns from those before."""


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        settings: of all trials, in full (`task.network.width=64`); the method apart.
        trials: of each method.
        seed: of the search; the same one proposes the same trials again.
    """

    name: str
    settings: tuple[str, ...]
    methods: tuple[str, ...]
    trials: int
    sampler: str
    seed: int

    @property
    def asked(self) -> list[str]:
        """The settings that results depend on: not where results lie and what computes."""
        return [word for word in self.settings if word.partition("=")[0] not in Launch.model_fields]

    @property
    def network(self) -> str:
        """The network that is set for all trials, as it stands behind a method in a table of settings."""
        given = [word.partition("=")[2] for word in self.settings if word.startswith("task/network=")]
        return f", {given[-1]}" if given else ""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One trial: its settings, and the run that they make."""

    method: str
    number: int
    params: Mapping[str, Any]
    config: RunConfig

    @property
    def words(self) -> dict[str, Any]:
        """Its settings by key, as plain data."""
        return {key: _plain(value) for key, value in self.params.items()}


def run(search: Search, results_dir: Path, preset: Preset, bound: int | None, dry_run: bool) -> pd.DataFrame:
    """Carries out a search as far as it can be now; returns a row for each trial.

    Where jobs are queued, as on SLURM, the rest is for the next call.

    Raises:
        UserError: the task has no validation metric, or a search of this name asked for something else.
    """
    optuna = need("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = results_dir / "tune" / search.name
    make_folder(folder, results_dir)
    configs = {method: composition.compose([*search.settings, f"method={method}"]) for method in search.methods}
    metric = _metric(configs[search.methods[0]])
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    direction = "maximize" if metric.better == "higher" else "minimize"
    studies = {
        method: optuna.create_study(storage=storage, study_name=method, direction=direction, load_if_exists=True)
        for method in search.methods
    }
    for study in studies.values():
        _check_same(study, search)
    spaces = {method: _without(space(config), search.settings) for method, config in configs.items()}
    told = -1
    while True:
        for method, study in studies.items():
            _ask(optuna, study, spaces[method], search, method)
        trials = [trial for method, study in studies.items() for trial in _trials(study, search, method)]
        plan = _plan(search, trials)
        code = submit(plan, results_dir, preset, bound, dry_run, is_new=True)
        results = frame.of_plan(plan, results_dir, job_states)
        rows = _rows(trials, results, metric, search)
        for row in rows:
            _tell(optuna, studies[str(row["method"])], row, metric)
        table = pd.DataFrame(rows)
        _write(folder, table, trials, metric, search)
        count = sum(row["state"] != "waiting" for row in rows)
        if dry_run or code not in (0, 1) or count == told or count == search.trials * len(search.methods):
            return table
        told = count


def _metric(config: RunConfig) -> Metric:
    metric = config.task.metric(config.task.selection)
    if metric is None:
        raise UserError(f"task={config.task.name} cannot be tuned: it names no metric of its validation split")
    return metric


def _check_same(study: Any, search: Search) -> None:
    """Keeps a search apart from another one of the same name; more trials are the same search."""
    asked = {"settings": search.asked, "sampler": search.sampler, "seed": search.seed}
    known = study.user_attrs.get("search")
    if known is None:
        study.set_user_attr("search", asked)
    elif known != asked:
        changed = ", ".join(f"{key}={known[key]}" for key in asked if known[key] != asked[key])
        raise UserError(f"--name={search.name}: a search of this name has {changed}; give another name")


# --------------------------------------------------------------------------------------------------------- space


def space(config: RunConfig) -> dict[str, Any]:
    """Returns the search space that the classes of a run declare: by dotted key `(low, high)` or a list of choices.

    What the task says goes before what the others say: it knows its targets' scale.
    """
    found: dict[str, Any] = {}
    trainer = [config.trainer] if config.task.uses_trainer else []
    for part in (*config.components[1:], *trainer, config.task):
        found |= part.tuning
    return {key: values for key, values in found.items() if config.proposal or not key.startswith("proposal.")}


def _without(found: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Returns the space without what the user has set."""
    given = {word.lstrip("+~").partition("=")[0] for word in settings}
    return {key: values for key, values in found.items() if key not in given}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """Returns a sampled value as it stands in YAML: numbers to three digits, what was written as text as it was."""
    return float(f"{value:.3g}") if isinstance(value, float) else yaml.safe_load(value)


# -------------------------------------------------------------------------------------------------------- trials


def _ask(optuna: Any, study: Any, found: Mapping[str, Any], search: Search, method: str) -> None:
    """Proposes the trials that are next; each has a random stream of its own, so that no interruption changes it."""
    distributions = {
        key: optuna.distributions.FloatDistribution(*values, log=True)
        if isinstance(values, tuple)
        else optuna.distributions.CategoricalDistribution([_text(value) for value in values])
        for key, values in found.items()
    }
    asked = study.get_trials(deepcopy=False)
    waiting = sum(not trial.state.is_finished() for trial in asked)
    room = search.trials - len(asked)
    count = room if search.sampler == "random" else min(room, TOGETHER - waiting)
    for number in range(len(asked), len(asked) + count):
        digest = hashlib.blake2s(f"{search.seed}/{method}/{number}".encode(), digest_size=4).digest()
        sampler = getattr(optuna.samplers, SAMPLERS[search.sampler])
        study.sampler = sampler(seed=int.from_bytes(digest, "little"))
        study.ask(fixed_distributions=distributions)


def _trials(study: Any, search: Search, method: str) -> list[Trial]:
    found = study.get_trials(deepcopy=False)[: search.trials]
    lines = [
        [
            *search.settings,
            f"method={method}",
            *(f"{key}={_text(_plain(value))}" for key, value in trial.params.items()),
        ]
        for trial in found
    ]
    configs = composition.compose_all(lines)
    about = SweepConfig(name=f"tune-{search.name}")
    return [
        Trial(method, trial.number, dict(trial.params), dataclasses.replace(config, sweep=about))
        for trial, config in zip(found, configs, strict=True)
    ]


def _plan(search: Search, trials: Sequence[Trial]) -> Plan:
    jobs = [job_of(trial.config, {"method": trial.method, "trial": trial.number}) for trial in trials]
    return Plan(
        name=f"tune-{search.name}",
        description=f"{counted(search.trials, 'trial')} of each method",
        tables=(),
        figures=(),
        axes=("method",),
        overrides=search.settings,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        jobs=tuple({job.run_id: job for job in jobs}.values()),
    )


def _rows(trials: Sequence[Trial], results: frame.Results, metric: Metric, search: Search) -> list[dict[str, Any]]:
    by_run = {str(run): part for run, part in results.frame.groupby("run_id")}
    rows = []
    for trial in trials:
        part = by_run[trial.config.run_id]
        states = set(part["state"])
        values = part[metric.name] if metric.name in part else pd.Series(dtype=float)
        value = float(values.mean(skipna=False)) if states <= set(FINISHED) else math.nan
        if states <= set(FINISHED):
            state = "done" if math.isfinite(value) else "diverged"
        else:
            state = "failed" if states & {"failed", "damaged"} else "waiting"
        costs = {name: part[name].sum() for name in ("train_seconds", "energy_evaluations") if name in part}
        rows.append(
            {
                "method": trial.method,
                "trial": trial.number,
                "budget": search.trials,
                "state": state,
                metric.name: value,
                "seeds": len(trial.config.seeds),
                **costs,
                "settings": " ".join(f"{key}={_text(value)}" for key, value in trial.words.items()),
                "run_id": trial.config.run_id,
            }
        )
    return rows


def _tell(optuna: Any, study: Any, row: Mapping[str, Any], metric: Metric) -> None:
    """Writes what a trial came to into the journal, once."""
    trial = study.get_trials(deepcopy=False)[row["trial"]]
    if trial.state.is_finished() or row["state"] == "waiting":
        return
    if row["state"] == "done":
        study.tell(row["trial"], row[metric.name])
    else:
        study.tell(row["trial"], state=optuna.trial.TrialState.FAIL)


def best(rows: pd.DataFrame, trials: Sequence[Trial], metric: Metric, network: str = "") -> Table:
    """Returns the settings of each method's best trial; one that is not done, or diverged, is none.

    Args:
        network: what stands behind the method there, such as `, mdn`.
    """
    table: Table = {}
    for method, part in rows[rows["state"] == "done"].groupby("method", sort=False):
        number = part["trial"][place_of_best(part[metric.name], metric)]
        trial = next(trial for trial in trials if (trial.method, trial.number) == (method, number))
        table.setdefault(trial.config.label, {})[f"{method}{network}"] = trial.words
    return table


def _write(folder: Path, rows: pd.DataFrame, trials: Sequence[Trial], metric: Metric, search: Search) -> None:
    write_atomically(folder / "trials.csv", csv_text(rows).encode())
    if table := best(rows, trials, metric, search.network):
        told = (
            f"The best of {counted(search.trials, 'trial')} of each method by {metric.name}: {search.sampler} search, "
            f"seed {search.seed}.\nSet for all: {' '.join(search.asked)}"
        )
        write(table, folder, told)
