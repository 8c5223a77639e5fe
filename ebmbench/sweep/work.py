"""A worker: it takes the next job of a sweep from the shared results folder until none is left.

As many workers as one likes run at the same time, on any machines that share the folder, started by anything. There is
no server: a worker that holds the lock of a job has the job, and a job whose worker died is free again.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ebmbench.engine.runs import FINISHED
from ebmbench.report.frame import Run, planned_run, planned_runs
from ebmbench.report.planned import Job, Plan, sweep_dir
from ebmbench.sweep import local
from ebmbench.sweep.job import HELD
from ebmbench.sweep.plan import make_folder
from ebmbench.system.locking import Lock, is_held, sign_of_life

POLL_SECONDS = 5.0
"""So often a worker looks again while other workers have all that is left."""


def work(plan: Plan, results_dir: Path, at_a_time: int | None = None) -> int:
    """Carries out jobs until each is done, failed, or was tried by this worker; returns the exit code.

    It waits while others have what is left, to take over where one of them dies; not for those that are stopped.

    Args:
        at_a_time: so many jobs of the sweep run at a time, counted over all workers that were given a number.

    Returns:
        0; 1 where a job failed or is held by a stopped process; 130 if this worker was asked to stop.
    """
    folder = sweep_dir(results_dir, plan.name)
    for name in ("claims", "places"):
        make_folder(folder / name, results_dir)
    codes: dict[str, int] = {}
    while left := [run for run in planned_runs(plan, results_dir) if _is_open(run) and run.job.run_id not in codes]:
        with contextlib.ExitStack() as locks:
            job = _claim(left, folder, at_a_time, locks)
            if job is not None:
                slot = local.Slot({}, torch.get_num_threads())
                code = local.run_pool([job.run_config(results_dir)], [slot], folder).get(job.run_id, 130)
                if code > 128:
                    return 130
                if code != HELD:
                    codes[job.run_id] = code
                    continue
        if all(_is_stopped(run, folder) for run in left):
            for run in left:
                print(f"ebmbench: {run.job.run_id} is held by a stopped process; it is left", file=sys.stderr)
            return 1
        time.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))
    return 1 if any(codes.values()) else 0


def _is_stopped(run: Run, folder: Path) -> bool:
    """Whether the process that has a job is stopped: nobody can take the job over, and nobody knows for how long."""
    signs = (sign_of_life(path) for path in (run.folder / "lock", folder / "claims" / run.job.run_id) if is_held(path))
    return any(sign is not None and sign.is_stopped for sign in signs)


def _is_open(run: Run) -> bool:
    """Whether a run is still to be done; a failed or damaged one waits for `sweep resume` or `audit files --repair`."""
    return run.state not in (*FINISHED, "failed", "damaged")


def _claim(left: Sequence[Run], folder: Path, at_a_time: int | None, locks: contextlib.ExitStack) -> Job | None:
    """Returns a job that nobody else has, and holds its lock until `locks` is closed; None where there is none."""
    if at_a_time and not any(_take(folder / "places" / str(number), locks) for number in range(at_a_time)):
        return None
    for run in left:
        if run.state != "running" and _take(folder / "claims" / run.job.run_id, locks):
            now = planned_run(run.job, folder.parent.parent, folder)  # another may have done it just before
            if _is_open(now) and now.state != "running":
                return run.job
    return None


def _take(path: Path, locks: contextlib.ExitStack) -> bool:
    lock = Lock(path)
    if is_held(path) or not lock.take():
        return False
    locks.callback(lock.release)
    return True
