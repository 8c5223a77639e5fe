"""Run directories: `<results_dir>/runs/<run id>/`, found again from their settings.

A run directory holds

    config.yaml       the resolved configuration
    status.json       state, step, diverged seeds, error, identity (schema in `Status`)
    metrics.csv       one row per seed, only when the run is done
    history.csv       training history, one row per epoch and seed
    checkpoint.pt     the trained parameters (torch.load with weights_only=True)
    environment.json  versions, commit, device, threads, seconds, peak memory
    figures/          PNG and PDF

Every file is written under a temporary name and renamed, so that no reader sees half of one. With `force=true` a new
attempt works in `attempt/`, of the same layout, and its files take the place of the old ones when it is complete.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ebmbench.config.run import ALGORITHMS, RunConfig
from ebmbench.core.errors import UserError
from ebmbench.system.files import remove_temporaries, share_dir, write_atomically
from ebmbench.system.locking import Lock, is_held

SCHEMA = 1
"""Version of the run directory's layout."""

FINISHED = ("done", "diverged")
"""The states of a run that needs no more work (see `read_state`)."""


@dataclass
class Status:
    """What `status.json` holds."""

    run_id: str
    run_hash: str
    config_hash: str
    task: str
    dataset: str
    method: str
    seeds: list[int]
    sweep: str | None
    state: str
    """running, done, failed or interrupted; `read_state` says what becomes of `running` when nobody runs it."""
    attempt: int = 1
    step: int = 0
    num_steps: int = 0
    diverged: dict[str, int] = field(default_factory=dict)
    """Seed to the step at which its loss or gradient turned non-finite."""
    error: str | None = None
    started: str | None = None
    updated: str | None = None
    finished: str | None = None
    host: str | None = None
    pid: int | None = None
    slurm_job: str | None = None
    commit: str | None = None
    schema: int = SCHEMA
    algorithms: int = ALGORITHMS

    @classmethod
    def of(cls, config: RunConfig, state: str, **fields: Any) -> Status:
        """The status of this configuration's run: its identity, and what is given."""
        return cls(
            run_id=config.run_id,
            run_hash=config.run_hash,
            config_hash=config.config_hash,
            task=config.task.name,
            dataset=config.task.dataset_name,
            method=config.method.name,
            seeds=list(config.seeds),
            sweep=config.sweep.name if config.sweep else None,
            state=state,
            **fields,
        )


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_status(run_dir: Path) -> Status | None:
    """The status of a run directory, None where there is none.

    Raises:
        UserError: where `status.json` is damaged or of another version.
    """
    path = run_dir / "status.json"
    try:
        raw = json.loads(path.read_text())
        if raw.get("schema") != SCHEMA:
            raise UserError(f"{path} is of layout version {raw.get('schema')}, and this ebmbench reads {SCHEMA}")
        return Status(**raw)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged; delete the run directory {run_dir} to start the run anew") from None


def read_state(run_dir: Path) -> str:
    """missing, running, interrupted, failed, diverged (done, with a seed that diverged) or done."""
    status = read_status(run_dir)
    if status is None:
        return "missing"
    if status.state == "running" and not is_held(run_dir / "lock"):
        status = read_status(run_dir) or status  # it may have ended since
        if status.state == "running":
            return "interrupted"  # killed: nobody holds the lock
    return "diverged" if status.state == "done" and status.diverged else status.state


def read_metrics(run_dir: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv` as text."""
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


class Attempt:
    """A run under way: writes its status, and publishes its files at the end."""

    def __init__(self, run_dir: Path, work_dir: Path, status: Status, lock: Lock) -> None:
        self.run_dir, self.work_dir, self.status = run_dir, work_dir, status
        self._lock = lock
        self._written = 0.0
        self._complete = False

    def update(self, **changes: Any) -> None:
        """Changes the status, and writes it.

        Raises:
            OSError: it cannot be written, or the folder is no longer this process's.
        """
        self._lock.check()
        for name, value in changes.items():
            setattr(self.status, name, value)
        self.status.updated = now()
        write_json(self.work_dir / "status.json", asdict(self.status))
        self._written = time.monotonic()

    def heartbeat(self, step: int, every_seconds: float = 2.0) -> None:
        """Writes the step, not more often than said."""
        if time.monotonic() - self._written >= every_seconds:
            self.update(step=step)

    def end(self, state: str, error: str | None = None, trace: str | None = None) -> None:
        """The attempt ended before it was complete. Raises nothing: what ended it is what is to be told."""
        if self._complete:
            return
        with suppress(OSError):
            if trace is not None:
                (self.work_dir / "error.txt").write_text(trace)
        with suppress(OSError):
            self.update(state=state, error=error)

    def publish(self) -> None:
        """The attempt is complete: `status.json` says done last of all."""
        self.update(state="done", step=self.status.num_steps, finished=now(), error=None)
        self._complete = True
        if self.work_dir != self.run_dir:
            _promote(self.work_dir, self.run_dir)


@contextmanager
def open_attempt(config: RunConfig, commit: str | None) -> Iterator[Attempt | None]:
    """Locks the run directory and gives the attempt to work on: a new one, or the unfinished one that is there.

    None if there is nothing to do: another process finished the run meanwhile, or an attempt that `force` asked for is
    complete and was stopped just before its end.

    Raises:
        UserError: the folder cannot be written, or another process works on the run. Nothing is left of it then.
    """
    run_dir = config.run_dir
    created = _make_run_dir(run_dir)
    lock = Lock(run_dir / "lock")
    try:
        lock.acquire()
    except OSError as error:
        _remove_created(created)
        raise _cannot_write(config, error) from None
    except UserError:
        _remove_created(created)
        raise
    try:
        remove_temporaries(run_dir)
        promoted = is_promotion_pending(run_dir)
        if promoted:
            _promote(run_dir / "attempt", run_dir)
        done = _is_done(run_dir)
        if done and (promoted or not config.launch.force or _is_requeued(run_dir)):
            yield None
            return
        work_dir = run_dir / "attempt" if done else run_dir
        work_dir.mkdir(exist_ok=True)
        old = read_status(work_dir)
        published = read_status(run_dir)
        number = old.attempt if old else (published.attempt + 1 if published else 1)
        status = Status.of(
            config,
            "running",
            attempt=number,
            step=old.step if old else 0,
            started=old.started if old else now(),
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_job=slurm_job(),
            commit=commit,
        )
        try:
            write_atomically(work_dir / "config.yaml", config.to_yaml().encode())
            attempt = Attempt(run_dir, work_dir, status, lock)
            attempt.update()
        except OSError as error:
            _remove_created(created)
            raise _cannot_write(config, error) from None
        try:
            yield attempt
        except UserError:
            # What the user can put right leaves nothing behind; a sweep's status is to show what failed, though.
            if created and config.sweep is None and not any(work_dir.glob("*.ckpt*")):
                _remove_created(created)
            raise
    finally:
        lock.release()


def slurm_job() -> str | None:
    """`<array job>_<task>` or the job's id, inside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def write_json(path: Path, data: Any) -> None:
    """Plain data as JSON, whole or not at all."""
    write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())


def is_promotion_pending(run_dir: Path) -> bool:
    """Whether a complete attempt's files are still to take the place of the old ones: it was killed just then."""
    return _is_done(run_dir / "attempt")


def _is_requeued(run_dir: Path) -> bool:
    """Whether this very SLURM job, started before, has made the result that is there."""
    status = read_status(run_dir)
    restarted = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    return restarted and status is not None and status.slurm_job == slurm_job()


def _make_run_dir(run_dir: Path) -> list[Path]:
    """Creates the directory; returns the folders made. Leaves nothing behind where it cannot be written."""
    created: list[Path] = []
    try:
        for folder in (*reversed(run_dir.parents), run_dir):
            if not folder.exists():
                # Of two that start at once, one makes it: the other must not take it for its own, and remove it.
                with suppress(FileExistsError):
                    folder.mkdir()
                    created.append(folder)
        if not os.access(run_dir, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(run_dir))
    except OSError as error:
        _remove_created(created)
        raise cannot_write_folder(run_dir.parent.parent, error) from None
    return created


def _remove_created(created: list[Path]) -> None:
    """Deletes the run directory that was made, and its parents that were made with it and hold nothing else."""
    for folder in reversed(created):
        with suppress(OSError):
            if folder == created[-1]:
                shutil.rmtree(folder)
            else:
                folder.rmdir()


def _cannot_write(config: RunConfig, error: OSError) -> UserError:
    return cannot_write_folder(Path(config.launch.results_dir), error)


def cannot_write_folder(folder: Path, error: OSError) -> UserError:
    """The sentence for a results folder, given as `results_dir`, that nothing can be written to."""
    return UserError(f"results_dir={str(folder)!r} cannot be written ({error.strerror}); give a folder that can be")


def _is_done(folder: Path) -> bool:
    status = read_status(folder)
    return status is not None and status.state == "done"


def _promote(work_dir: Path, run_dir: Path) -> None:
    """Moves an attempt's files over the old ones, `status.json` last; can be done again after a kill at any moment."""
    paths = [path for path in work_dir.rglob("*") if path.is_file() and ".ckpt" not in path.name]
    for path in sorted(paths, key=lambda path: path == work_dir / "status.json"):
        target = run_dir / path.relative_to(work_dir)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
    shutil.rmtree(work_dir)


def commit() -> str | None:
    """The commit of this checkout (with `+` where files differ from it), None in an installed package."""
    root = share_dir()
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + "+" if _git(root, "status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    result = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10)
    return result.stdout.strip()
