"""Returns what has become of each job of a sweep: the run directories say it, and SLURM's queue where jobs are in it.

It does not ask sacct, which many clusters do not have: a job that was cancelled is one that has no result and is no
longer in the queue.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ebmbench.core.errors import UserError, counted, printable
from ebmbench.engine import runs
from ebmbench.engine.runs import FINISHED
from ebmbench.report.frame import Run, planned_runs
from ebmbench.report.planned import Plan, sweep_dir
from ebmbench.system.files import write_atomically
from ebmbench.system.locking import is_held

STATES = ("done", "diverged", "running", "queued", "interrupted", "failed", "damaged", "missing")
ACTIVE = ("running", "queued")


def job_states(plan: Plan, results_dir: Path, submitting: bool = False) -> list[Run]:
    """Returns the run of every job with its state, in the plan's order.

    Args:
        submitting: the caller holds the sweep's lock, and is about to submit what is not queued.

    Raises:
        UserError: when submitting, if SLURM does not say what is queued. Else its jobs are taken to have ended.
    """
    folder = sweep_dir(results_dir, plan.name)
    found = planned_runs(plan, results_dir)
    unfinished = {run.job.run_id for run in found if run.state not in FINISHED}
    numbers = slurm_jobs(folder)
    queue: dict[str, str] = {}
    if unfinished & set(numbers):
        try:
            queue = slurm_queue()
        except UserError as error:
            if submitting:
                raise
            print(f"ebmbench: what is queued is not known: {error}", file=sys.stderr)
            numbers = {}
    local_pool = not submitting and is_held(folder / "lock")
    return [_with_queue(run, numbers.get(run.job.run_id), queue, local_pool, folder) for run in found]


def _with_queue(run: Run, number: str | None, queue: dict[str, str], local_pool: bool, folder: Path) -> Run:
    """Corrects the state of a job that is in a queue and does not run yet, or again."""
    if run.state in FINISHED or run.state == "running":
        return run
    if number in queue:
        waiting = queue[number] in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED")
        state = "" if queue[number] in ("PENDING", "RUNNING") else f", {queue[number]}"
        return replace(run, state="queued" if waiting else "running", detail=f"SLURM job {number}{state}")
    if local_pool and run.state in ("missing", "interrupted"):
        return replace(run, state="queued")
    if number and run.state == "missing":
        line = _last_line(folder / "slurm" / f"{number}_0_log.err")
        return replace(run, detail=f"SLURM job {number} has ended{f': {line}' if line else ' before it began'}")
    return run


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


# -------------------------------------------------------------------------------------------------------- SLURM


def record_submission(folder: Path, numbers: dict[str, str], launcher: str) -> None:
    """Remembers which run is which SLURM job."""
    path = folder / "submissions.json"
    entry = {"submitted": runs.now(), "launcher": launcher, "jobs": numbers}
    write_atomically(path, (json.dumps([*_submissions(folder), entry], indent=1) + "\n").encode())


def _submissions(folder: Path) -> list[dict[str, Any]]:
    try:
        entries = list(json.loads((folder / "submissions.json").read_text()))
        for entry in entries:
            if not all(isinstance(text, str) for pair in entry["jobs"].items() for text in pair):
                raise ValueError(entry)
        return entries
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{folder / 'submissions.json'} is damaged: delete it if none of the sweep's jobs is queued"
        ) from None


def slurm_jobs(folder: Path) -> dict[str, str]:
    """Returns the latest SLURM job of each run."""
    return {run: number for entry in _submissions(folder) for run, number in entry["jobs"].items()}


def slurm_queue() -> dict[str, str]:
    """Returns the state of each of the user's jobs that have not ended.

    Raises:
        UserError: SLURM does not answer, so that nobody knows what is queued.
    """
    if shutil.which("squeue") is None:
        raise UserError("the sweep was submitted to SLURM, and squeue is not on this machine")
    words = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        text = getattr(error, "stderr", "") or str(error)
        raise UserError(f"squeue does not answer: {text.strip().splitlines()[-1]}") from None
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())


# ------------------------------------------------------------------------------------------------------ display


def counts(found: Iterable[Run]) -> str:
    """Returns how many are in each state: `12 done, 1 failed, 1 missing`."""
    number = Counter(run.state for run in found)
    return ", ".join(f"{number[state]} {state}" for state in STATES if number[state]) or "no jobs"


def show(plan: Plan, found: Sequence[Run], limit: int | None = 40) -> str:
    """Returns what `sweep status` prints: the counts, and a line for every job that is not simply done."""
    seeds = counted(sum(len(run.seeds) for run in found), "seed")
    lines = [f"{plan.name}: {counted(len(found), 'job')}, {seeds}, submitted {plan.created}: {counts(found)}"]
    rest = sorted((run for run in found if run.state != "done"), key=lambda run: STATES.index(run.state))
    for run in rest[:limit]:
        lines.append(f"  {run.state:12}{run.job.run_id}  {run.detail}".rstrip())
    if limit is not None and len(rest) > limit:
        lines.append(f"  and {len(rest) - limit} more (--all shows them)")
    return printable("\n".join(lines))
