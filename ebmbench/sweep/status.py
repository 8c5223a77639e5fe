"""What has become of each job of a sweep: from the run directories, and SLURM's queue where jobs are in it.

No use is made of sacct, which many clusters lack: a job that was cancelled is one that has no result and is no longer
in the queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.engine.runs import FINISHED
from ebmbench.sweep.plan import Job, Plan, sweep_dir
from ebmbench.system.files import write_atomically
from ebmbench.system.locking import is_held

STATES = ("done", "diverged", "running", "queued", "interrupted", "failed", "damaged", "missing")
ACTIVE = ("running", "queued")
NEEDED = ("config.yaml", "metrics.csv", "checkpoint.pt", "environment.json")
"""Files without which a run that says it is done is damaged."""


@dataclass(frozen=True)
class JobState:
    """A job, its state, and what there is to say of it: progress, or the last line of an error."""

    job: Job
    state: str
    detail: str = ""
    status: runs.Status | None = None


def job_states(plan: Plan, results_dir: Path, submitting: bool = False) -> list[JobState]:
    """The state of every job, in the plan's order.

    Args:
        submitting: the caller holds the sweep's lock, and is about to submit what is not queued.

    Raises:
        UserError: when submitting, if SLURM does not say what is queued. Else its jobs are taken to have ended.
    """
    folder = sweep_dir(results_dir, plan.name)
    found = [_from_directory(job, results_dir / "runs" / job.run_id, folder) for job in plan.jobs]
    unfinished = {state.job.run_id for state in found if state.state not in FINISHED}
    numbers = slurm_jobs(folder)
    queue: dict[str, str] = {}
    if unfinished & set(numbers):
        try:
            queue = slurm_queue()
        except UserError as error:
            if submitting:
                raise
            print(f"ebmbench: what is queued is not known: {error}", file=sys.stderr)
    local_pool = not submitting and is_held(folder / "lock")
    return [_with_queue(state, numbers.get(state.job.run_id), queue, local_pool, folder) for state in found]


def with_parts(states: Sequence[JobState], results_dir: Path) -> list[JobState]:
    """Puts finished runs of the same setting and fewer seeds in the place of a job that is not done.

    So a dear method may be run with five seeds of the twenty: the setting's hash says that they belong there, the table
    says n, and the seeds that lack stay missing.
    """
    unfinished = {state.job.config_hash for state in states if state.state not in FINISHED}
    prefixes = {s.job.run_id.rsplit("-", 1)[0] for s in states if s.state not in FINISHED}
    parts: dict[str, list[runs.Status]] = {}
    own = {state.job.run_id for state in states}
    for path in sorted((results_dir / "runs").iterdir()) if unfinished and (results_dir / "runs").is_dir() else ():
        if path.name in own or path.name.rsplit("-", 1)[0] not in prefixes:
            continue
        with contextlib.suppress(UserError):
            status = runs.read_status(path)
            if status and status.state == "done" and status.run_id == path.name and status.config_hash in unfinished:
                parts.setdefault(status.config_hash, []).append(status)
    found: list[JobState] = []
    for state in states:
        lacking = set(state.job.config["seeds"])
        for status in parts.get(state.job.config_hash, ()) if state.state not in FINISHED else ():
            if lacking >= set(status.seeds):
                lacking -= set(status.seeds)
                config = {**state.job.config, "seeds": status.seeds}
                job = replace(state.job, run_id=status.run_id, run_hash=status.run_hash, config=config)
                found.append(JobState(job, "diverged" if status.diverged else "done", status=status))
        if lacking:
            rest = [seed for seed in state.job.config["seeds"] if seed in lacking]
            job = replace(state.job, config={**state.job.config, "seeds": rest})
            found.append(replace(state, job=job) if len(rest) < len(state.job.config["seeds"]) else state)
    return found


def _from_directory(job: Job, run_dir: Path, folder: Path) -> JobState:
    try:
        status = runs.read_status(run_dir)
    except UserError as error:
        return JobState(job, "damaged", str(error))
    if status is None:
        last_words = _read_error(folder, job.run_id)
        if last_words:
            return JobState(job, "failed", last_words)
        stray = next((name for name in NEEDED if (run_dir / name).exists()), None)
        return (
            JobState(job, "damaged", f"{run_dir} has {stray} and no status.json") if stray else JobState(job, "missing")
        )
    if status.run_hash != job.run_hash or status.algorithms != runs.ALGORITHMS:
        return JobState(job, "damaged", f"{run_dir}/status.json is of another run ({status.run_id})", status)
    if status.state == "done":
        lacking = [name for name in NEEDED if not _has_content(f"{run_dir}/{name}")]
        if lacking:
            return JobState(job, "damaged", f"{run_dir / lacking[0]} is missing or empty", status)
        return JobState(job, "diverged" if status.diverged else "done", _diverged(status), status)
    if status.state == "running" and is_held(run_dir / "lock"):
        return JobState(job, "running", _progress(status), status)
    if status.state == "failed":
        return JobState(job, "failed", status.error or _read_error(folder, job.run_id), status)
    return JobState(job, "interrupted", _read_error(folder, job.run_id) or _progress(status), status)


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def _with_queue(state: JobState, number: str | None, queue: dict[str, str], local_pool: bool, folder: Path) -> JobState:
    """Corrects the state of a job that is in a queue and does not run yet, or again."""
    if state.state in FINISHED or state.state == "running":
        return state
    if number in queue:
        waiting = queue[number] in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED")
        detail = f"SLURM job {number}"
        return JobState(state.job, "queued" if waiting else "running", detail, state.status)
    if local_pool and state.state in ("missing", "interrupted"):
        return JobState(state.job, "queued", state.detail, state.status)
    if number and state.state == "missing":
        line = _last_line(folder / "slurm" / f"{number}_0_log.err")
        return JobState(state.job, "missing", f"SLURM job {number} has ended: {line}" if line else "", state.status)
    return state


def _progress(status: runs.Status) -> str:
    share = f" ({100 * status.step // status.num_steps} %)" if status.num_steps else ""
    job = f", SLURM job {status.slurm_job}" if status.slurm_job else ""
    return f"step {status.step} of {status.num_steps or '?'}{share} on {status.host}{job}"


def _diverged(status: runs.Status) -> str:
    return ", ".join(f"seed {seed} at step {step}" for seed, step in status.diverged.items())


# ------------------------------------------------------------------------------------------------------- errors


def error_path(folder: Path, run_id: str) -> Path:
    """Where the last line of a job's error stands if it has no run directory to say it in."""
    return folder / "errors" / f"{run_id}.txt"


def _read_error(folder: Path, run_id: str) -> str:
    try:
        return error_path(folder, run_id).read_text().strip()
    except OSError:
        return ""


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
        return list(json.loads((folder / "submissions.json").read_text()))
    except FileNotFoundError:
        return []
    except ValueError:
        raise UserError(
            f"{folder / 'submissions.json'} is damaged: delete it if none of the sweep's jobs is queued"
        ) from None


def slurm_jobs(folder: Path) -> dict[str, str]:
    """Run to its latest SLURM job."""
    return {run: number for entry in _submissions(folder) for run, number in entry["jobs"].items()}


def slurm_queue() -> dict[str, str]:
    """Job to state, of the user's jobs that have not ended.

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


def counts(states: Iterable[JobState]) -> str:
    """`12 done, 1 failed, 1 missing`."""
    number = Counter(state.state for state in states)
    return ", ".join(f"{number[state]} {state}" for state in STATES if number[state]) or "no jobs"


def show(plan: Plan, states: list[JobState], limit: int | None = 40) -> str:
    """The table that `sweep status` prints: the counts, and a line for every job that is not simply done."""
    seeds = sum(len(state.job.config["seeds"]) for state in states)
    lines = [f"{plan.name}: {len(states)} jobs, {seeds} seeds, submitted {plan.created}: {counts(states)}"]
    rest = sorted((s for s in states if s.state != "done"), key=lambda s: STATES.index(s.state))
    for state in rest[:limit]:
        lines.append(f"  {state.state:12}{state.job.run_id}  {state.detail}".rstrip())
    if limit is not None and len(rest) > limit:
        lines.append(f"  and {len(rest) - limit} more (--all shows them)")
    return "\n".join(lines)
