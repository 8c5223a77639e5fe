"""Scores trained runs again, with today's code: `ebmbench rescore`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine import execute, runs
from ebmbench.engine.api import read_config, read_parameters
from ebmbench.engine.train import Training
from ebmbench.system.files import write_atomically
from ebmbench.system.interrupt import StopFlag
from ebmbench.tasks.base import COST

AGAIN = ", scored again by "
"""Between the commit that trained a run and the one that scored it."""


def rescore(folder: Path) -> bool:
    """Evaluates the trained models of a finished run, and puts the new scores in the place of the old ones.

    Nothing is trained. Weights, history, cost and what else only training knows stay. `status.json` and
    `environment.json` say which commit trained the run and which one scored it. A kill leaves the old result whole.

    Returns:
        False where the run was scored by this very commit already.

    Raises:
        UserError: the run is not finished, is damaged, or would be another run today.
    """
    runs.need_whole(folder)
    before = runs.read_result(folder)
    trained, _, scored = (before.status.commit or "").partition(AGAIN)
    commit = runs.commit()
    if commit is not None and "+" not in commit and commit == scored:
        return False
    config = read_config(folder).replace(results_dir=str(folder.parent.parent), force=True)
    if config.run_dir.name != folder.name or config.run_hash != before.status.run_hash:
        raise UserError(f"{folder} cannot be scored again: its settings make another run today ({config.run_id})")
    parameters = read_parameters(folder)
    device = execute.resolve_device(config.launch.device)
    by = f"{trained or 'unknown'}{AGAIN}{commit or 'unknown'}"
    with runs.open_attempt(config, by) as attempt, StopFlag() as stop:
        if attempt is None:
            return False
        try:
            work_dir = attempt.work_dir
            for name in before.status.outputs:
                if name not in ("config.yaml", "metrics.csv") and not name.startswith(runs.FIGURES):
                    (work_dir / name).parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(work_dir / name, runs.read_output(folder, name))
            attempt.update(num_steps=before.status.num_steps)
            rows: list[dict[str, Any]] = []
            groups = execute.seed_groups(config, device)
            for seeds in groups:
                stop.check()
                rows += _scores(config, seeds, device, parameters, before.status, work_dir)
            of_all = config.task.finish(config.setup, work_dir, groups) or {}
            old = {row["seed"]: row for row in before.metrics}
            rows = [{**row, **_kept(config, old[str(row["seed"])]), **of_all} for row in rows]
            write_atomically(work_dir / "metrics.csv", execute.table(rows))
            environment = json.loads((work_dir / "environment.json").read_text())
            again = {"commit": commit, "at": runs.now(), "torch": str(torch.__version__)}
            runs.write_json(work_dir / "environment.json", {**environment, "scored_again": again})
            execute.draw(config, work_dir)
            attempt.status.diverged = {str(row["seed"]): int(row["diverged_step"]) for row in rows if row["diverged"]}
            with stop.deferred():
                attempt.publish()
        except BaseException as error:
            attempt.end("interrupted", execute.last_line(error))
            raise
    return True


def _scores(
    config: RunConfig,
    seeds: Sequence[int],
    device: torch.device,
    parameters: Mapping[int, Mapping[str, torch.Tensor]],
    status: runs.Status,
    work_dir: Path,
) -> list[dict[str, Any]]:
    """Returns the new rows of metrics.csv of seeds that were trained together."""
    learner = config.task.learner(config.setup, seeds, device)
    learner.load([parameters[seed] for seed in seeds])
    progress = Training(learner).progress
    stopped = [status.diverged.get(str(seed), -1) for seed in seeds]
    progress.diverged_step.copy_(torch.tensor(stopped, dtype=torch.int64))
    return execute.result_rows(config.task, learner, progress, work_dir)


def _kept(config: RunConfig, old: Mapping[str, str]) -> dict[str, str]:
    """Returns what only training knows of a seed, as it stood in metrics.csv."""
    metrics = [*COST, *(metric for metric in config.task.metrics if metric.of_training)]
    counters = [*config.method.counters, *map(execute.first_step_column, config.method.counters)]
    return {name: value for name, value in old.items() if name in (*(m.name for m in metrics), *counters)}
