"""Run directories: `<results_dir>/runs/<run id>/`, found again from their settings.

A run directory holds

    config.yaml       the resolved configuration
    status.json       state, step, diverged seeds, error, identity (schema in `Status`)
    metrics.csv       one row per seed, only when the run is done
    history.csv       training history, one row per epoch and seed
    checkpoint.pt     the trained parameters (torch.load with weights_only=True)
    environment.json  versions, commit, device, threads, seconds, peak memory
    figures/          PNG and PDF

Every file is written under a temporary name and renamed, so that no reader sees half of one. With `force=true`, or
where the result that is there is damaged, a new attempt works in `attempt/`, of the same layout, and its files take the
place of the old ones when it is complete.

A finished run is checked when it is read: `status.json` lists every file that the run wrote (`Status.outputs`) with its
SHA-256. Whoever starts the run again, loads its models or puts it into a table checks all of them, and so does
`ebmbench audit files`; a reader of one file checks that file (`read_output`). `read_state` alone compares only the
sizes, so that the state of 10 000 runs can be shown.
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
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter

from ebmbench.config.run import ALGORITHMS, RunConfig
from ebmbench.core.errors import UserError
from ebmbench.system import seal
from ebmbench.system.files import (
    fingerprint,
    fingerprint_of_file,
    read_bounded,
    remove_temporaries,
    share_dir,
    sync_folder,
    write_atomically,
)
from ebmbench.system.locking import Lock, is_held

SCHEMA = 2
"""Version of the run directory's layout."""

FINISHED = ("done", "diverged")
"""The states of a run that needs no more work (see `read_state`)."""

FIGURES = "figures/"
"""Pictures can be drawn again from the rest: a missing or changed one is reported, and makes no result damaged."""


class Damaged(UserError):
    """A file of a run is not what the run wrote; the run is computed again when it is started again."""


@dataclass
class Status:
    """What `status.json` holds."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

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
    outputs: dict[str, str] = field(default_factory=dict)
    """Of a run that is done: its files, each by its path in the run directory, with its `files.fingerprint`."""
    schema: int = SCHEMA
    algorithms: int = ALGORITHMS
    seal: str = ""
    """Of all of the above, so that it stands for the whole run: `outputs` has the checksums of its files."""

    @classmethod
    def of(cls, config: RunConfig, state: str, **fields: Any) -> Status:
        """The status of this configuration's run: its identity, and what is given."""
        return cls(
            run_id=config.run_id,
            run_hash=config.run_hash,
            config_hash=config.config_hash,
            task=config.task.name,
            dataset=config.task.dataset_name,
            method=config.name,
            seeds=list(config.seeds),
            sweep=config.sweep.name if config.sweep else None,
            state=state,
            **fields,
        )


_STATUS = TypeAdapter(Status)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_status(run_dir: Path) -> Status | None:
    """Returns the status of a run directory, None where there is none.

    Raises:
        Damaged: `status.json` is not what a run writes.
        UserError: it is of another version, or cannot be read.
    """
    path = run_dir / "status.json"
    try:
        text = read_bounded(path)
        seal.decode(text, SCHEMA)
        return _STATUS.validate_json(text)
    except seal.OtherVersion as error:
        raise UserError(f"{path} is of layout version {error}, and this ebmbench reads {SCHEMA}") from None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, IsADirectoryError):  # ValidationError is a ValueError
        raise Damaged(f"{path} is damaged; the run is computed again when it is started again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def write_status(folder: Path, status: Status) -> None:
    """Writes `status.json`, sealed.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(folder / "status.json", seal.encode(asdict(status)))


def all_diverged(run_dir: Path) -> bool:
    """Returns whether a run is through, and no seed of it trained to its end."""
    status = read_status(run_dir)
    return status is not None and status.state == "done" and len(status.diverged) == len(status.seeds)


def read_state(run_dir: Path, thorough: bool = False) -> str:
    """Returns missing, running, interrupted, failed, damaged, done, or diverged (done, with a seed that diverged).

    A damaged run says that it is done, and one of its files is missing or not what the run wrote.

    Args:
        thorough: reads all files; else their sizes are compared.

    Raises:
        UserError: `status.json` is of another version, or cannot be read.
    """
    try:
        status, folders = _published(run_dir)
    except Damaged:
        return "damaged"
    if status is None:
        return "missing"
    if status.state == "running" and not is_held(run_dir / "lock"):
        status = read_status(run_dir) or status  # it may have ended since
        if status.state == "running":
            return "interrupted"  # killed: nobody holds the lock
    if status.state != "done":
        return status.state
    if _damage(status, folders, thorough):
        return "damaged"
    return "diverged" if status.diverged else "done"


def check_state(config: RunConfig) -> str:
    """Returns the state of a configuration's run after reading all of its files; another run's result is damaged."""
    state = read_state(config.run_dir, thorough=True)
    status, _ = _published(config.run_dir) if state in FINISHED else (None, [])
    return "damaged" if status is not None and status.run_hash != config.run_hash else state


# -------------------------------------------------------------------------------------------- what a finished run holds


@dataclass(frozen=True)
class Result:
    """A finished run, checked: its status, and the rows of `metrics.csv` as text, one per seed."""

    status: Status
    metrics: list[dict[str, str]]


def read_result(run_dir: Path) -> Result:
    """Returns a finished run's metrics.

    Raises:
        Damaged: `metrics.csv` or `status.json` is missing or not what the run wrote.
        UserError: the run is not finished, or a file cannot be read.
    """
    data = read_output(run_dir, "metrics.csv")
    status, _ = _published(run_dir)
    assert status is not None
    rows = list(csv.DictReader(data.decode(errors="replace").splitlines()))
    if sorted(row.get("seed") or "" for row in rows) != sorted(map(str, status.seeds)):
        raise Damaged(f"{run_dir}/metrics.csv does not have one row for each seed; start the run again to compute it")
    return Result(status, rows)


def read_metrics(run_dir: Path) -> list[dict[str, str]]:
    """Returns the rows of a finished run's `metrics.csv` as text; raises as `read_result`."""
    return read_result(run_dir).metrics


def read_output(run_dir: Path, name: str) -> bytes:
    """Returns the content of a finished run's file.

    Raises:
        Damaged: it is missing or not what the run wrote.
        UserError: the run is not finished, or the file cannot be read.
    """
    for _ in range(2):  # a forced attempt may have taken the place of the old files just now
        status, folders = _published(run_dir)
        if status is None or status.state != "done":
            raise UserError(f"{run_dir} holds no finished run")
        path, expected = _place(name, folders), status.outputs.get(name, "")
        try:
            # The size first: a link to a device, or a pipe, would never end.
            data = path.read_bytes() if _has_size_of(path, expected) else b""
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except OSError as error:
            raise UserError(f"{run_dir / name} cannot be read ({error.strerror})") from None
        if fingerprint(data) == expected:
            return data
    raise Damaged(f"{run_dir / name} is damaged or missing; start the run again to compute it")


def need_whole(run_dir: Path) -> None:
    """Reads all files of a finished run.

    Raises:
        Damaged: one of them, figures apart, is missing or not what the run wrote.
        UserError: `status.json` is of another version, or a file cannot be read.
    """
    damage: list[str] = []
    for _ in range(2):  # as in `read_output`
        status, folders = _published(run_dir)
        damage = _damage(status, folders, thorough=True) if status is not None and status.state == "done" else []
        if not damage:
            return
    raise Damaged(f"{run_dir} is damaged: {damage[0]}; start the run again to compute it")


@dataclass(frozen=True)
class Check:
    """What is wrong with the files of a finished run, a text for each file."""

    damage: list[str]
    """Files that are missing or not what the run wrote: the result cannot be used."""
    notes: list[str]
    """Figures that are missing or changed, and files that the run did not write."""


def inspect(run_dir: Path) -> Check:
    """Reads all files of a finished run and returns what is wrong with them; nothing where the run is not finished.

    Raises:
        UserError: `status.json` is of another version, or a file cannot be read.
    """
    try:
        status, folders = _published(run_dir)
    except Damaged:
        return Check(["status.json is damaged"], [])
    if status is None or status.state != "done":
        return Check([], [])
    faults = _faults(status, folders, thorough=True)
    figures = [text for text in faults if text.startswith(FIGURES)]
    foreign = {path.relative_to(run_dir).as_posix() for path in output_files(run_dir)} - status.outputs.keys()
    notes = figures + [f"{name} was not written by the run" for name in sorted(foreign)]
    return Check([text for text in faults if text not in figures], notes)


def verify(run_dir: Path) -> list[str]:
    """Returns a text for each file of a finished run that is missing, changed, or not the run's; see `inspect`."""
    check = inspect(run_dir)
    return check.damage + check.notes


def output_files(folder: Path) -> list[Path]:
    """Returns the files of a run in its folder: all but its status, lock, checkpoints, trace and temporary files."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts) or parts[0] == "attempt" or not path.is_file():
            continue
        if len(parts) == 1 and (parts[0] in ("status.json", "error.txt") or parts[0].partition(".")[0] == "lock"):
            continue
        if ".ckpt" not in path.name and path.suffix != ".tmp":
            found.append(path)
    return found


def record_outputs(folder: Path) -> dict[str, str]:
    """Makes sure that a run's files are on the disk, and returns `Status.outputs`.

    Raises:
        OSError: a file cannot be read, or not be written to the disk.
    """
    files = output_files(folder)
    outputs = {path.relative_to(folder).as_posix(): fingerprint_of_file(path, sync=True) for path in files}
    for parent in sorted({path.parent for path in files} | {folder}):
        sync_folder(parent)
    return outputs


def _published(run_dir: Path) -> tuple[Status | None, list[Path]]:
    """Returns the status that counts, and the folders in which its files are, the first one first.

    Where the process ended while a complete attempt's files took the place of the old ones, they are in either folder.
    """
    attempt = run_dir / "attempt"
    if is_promotion_pending(run_dir) and (status := read_status(attempt)) is not None:
        return status, [attempt, run_dir]
    return read_status(run_dir), [run_dir]


def _place(name: str, folders: Sequence[Path]) -> Path:
    return next((folder / name for folder in folders[:-1] if (folder / name).exists()), folders[-1] / name)


def _damage(status: Status, folders: Sequence[Path], thorough: bool) -> list[str]:
    """Returns what makes a result damaged: faults of its files, figures apart."""
    return [text for text in _faults(status, folders, thorough) if not text.startswith(FIGURES)]


def _faults(status: Status, folders: Sequence[Path], thorough: bool) -> list[str]:
    """Returns a text for each file that is missing or not what the run wrote; it begins with the file's name."""
    # A run lists what it wrote. Where a status without this list says done, nothing is known of the files.
    faults = [f"{name} has no checksum" for name in ("metrics.csv", "checkpoint.pt") if name not in status.outputs]
    for name, expected in status.outputs.items():
        path = _place(name, folders)
        try:
            same = _has_size_of(path, expected)
            if thorough and same:
                same = fingerprint_of_file(path) == expected
        except (FileNotFoundError, NotADirectoryError):
            faults.append(f"{name} is missing")
            continue
        except IsADirectoryError:
            same = False
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        if not same:
            faults.append(f"{name} is not what the run wrote")
    return faults


def _has_size_of(path: Path, fingerprint: str) -> bool:
    return str(path.stat().st_size) == fingerprint.rpartition(":")[2]


# -------------------------------------------------------------------------------------------------- a run under way


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
        write_status(self.work_dir, self.status)
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
        """Declares the attempt complete: `status.json` says done last of all, when all other files are on the disk.

        Raises:
            OSError: a file cannot be read or written, or the folder is no longer this process's.
        """
        outputs = record_outputs(self.work_dir)
        self.update(state="done", step=self.status.num_steps, finished=now(), error=None, outputs=outputs)
        self._complete = True
        if self.work_dir != self.run_dir:
            _promote(self.work_dir, self.run_dir)
        _remove_checkpoints(self.run_dir)  # now, so that a kill loses no work


@contextmanager
def open_attempt(config: RunConfig, commit: str | None) -> Iterator[Attempt | None]:
    """Locks the run directory and gives the attempt to work on: a new one, or the unfinished one that is there.

    None if there is nothing to do: another process finished the run meanwhile, or an attempt that `force` asked for is
    complete and was stopped just before its end. A damaged result is computed again, and one line says so.

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
        raise cannot_write_folder(run_dir.parent.parent, error) from None
    except UserError:
        _remove_created(created)
        raise
    try:
        remove_temporaries(run_dir)
        promoted = finish_promotion(run_dir)
        published = _status_to_go_on_from(run_dir)
        done = published is not None and published.state == "done"
        damage = _damage_of(published, run_dir, config.run_hash) if published is not None and done else []
        if done and not damage and (promoted or not config.launch.force or _is_requeued(run_dir)):
            yield None
            return
        if damage:
            more = f" and {len(damage) - 1} more" if len(damage) > 1 else ""
            warnings.warn(f"{run_dir} is damaged ({damage[0]}{more}); it is computed again", stacklevel=1)
        work_dir = run_dir / "attempt" if done else run_dir
        if done and not (work_dir / "status.json").exists() and work_dir.exists():
            shutil.rmtree(work_dir)  # left by an attempt whose files have taken their place
        work_dir.mkdir(exist_ok=True)
        sync_folder(run_dir)
        try:
            attempt = _begin(config, commit, lock, work_dir, published)
        except OSError as error:
            _remove_created(created)
            raise cannot_write_folder(run_dir.parent.parent, error) from None
        try:
            yield attempt
        except UserError:
            # What the user can put right leaves nothing behind; a sweep's status is to show what failed, though.
            if created and config.sweep is None and not any(work_dir.glob("*.ckpt*")):
                _remove_created(created)
            raise
    finally:
        lock.release()


def _begin(config: RunConfig, commit: str | None, lock: Lock, work_dir: Path, published: Status | None) -> Attempt:
    """Writes the settings and the first status of an attempt, and returns it.

    Args:
        work_dir: may hold an unfinished attempt, which then goes on.
        published: what the run directory holds; None if nothing.
    """
    old = _status_to_go_on_from(work_dir)
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
    write_atomically(work_dir / "config.yaml", config.to_kept_yaml().encode())
    attempt = Attempt(config.run_dir, work_dir, status, lock)
    attempt.update()
    return attempt


def remove_leftovers(run_dir: Path) -> None:
    """Deletes what a kill left in a finished run just after it became one; nothing where somebody works on it now."""
    attempt = run_dir / "attempt"
    promoted = attempt.exists() and not (attempt / "status.json").exists()
    lock = Lock(run_dir / "lock")
    with suppress(OSError):  # a folder that can only be read stays as it is
        if not (promoted or any(run_dir.glob("*.ckpt*")) or any(run_dir.glob("*.tmp"))) or not lock.take():
            return
        try:
            _remove_checkpoints(run_dir)
            remove_temporaries(run_dir)
            if not (attempt / "status.json").exists():
                shutil.rmtree(attempt, ignore_errors=True)
        finally:
            lock.release()


def _remove_checkpoints(run_dir: Path) -> None:
    for path in run_dir.glob("*.ckpt*"):
        path.unlink(missing_ok=True)


def slurm_job() -> str | None:
    """`<array job>_<task>` or the job's id, inside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def write_json(path: Path, data: Any) -> None:
    """Plain data as JSON, whole or not at all."""
    write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())


def is_promotion_pending(run_dir: Path) -> bool:
    """Whether a complete attempt's files are still to take the place of the old ones: it was killed just then."""
    try:
        status = read_status(run_dir / "attempt")
    except Damaged:
        return False
    return status is not None and status.state == "done"


def finish_promotion(run_dir: Path) -> bool:
    """Carries on where `is_promotion_pending`, and returns whether it was; only for who holds the lock."""
    pending = is_promotion_pending(run_dir)
    if pending:
        _promote(run_dir / "attempt", run_dir)
    return pending


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
                    sync_folder(folder.parent)
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


def cannot_write_folder(folder: Path, error: OSError) -> UserError:
    """The sentence for a results folder, given as `results_dir`, that nothing can be written to."""
    return UserError(f"results_dir={str(folder)!r} cannot be written ({error.strerror}); give a folder that can be")


def _status_to_go_on_from(folder: Path) -> Status | None:
    """Returns the status in a folder; None where there is none or it is damaged, and one line says so."""
    try:
        return read_status(folder)
    except Damaged:
        text = f"{folder / 'status.json'} is damaged; the run goes on from its checkpoint, or is computed again"
        warnings.warn(text, stacklevel=1)
        return None


def _damage_of(status: Status, run_dir: Path, run_hash: str) -> list[str]:
    """Returns why a finished result cannot be used for the run of this hash; empty if it can."""
    if status.run_hash != run_hash:
        return [f"status.json is of another run, {status.run_id}"]
    return _damage(status, [run_dir], thorough=True)


def _promote(work_dir: Path, run_dir: Path) -> None:
    """Moves a complete attempt's files over the old ones, and `status.json` last.

    Can be done again after a kill or a power loss at any moment. Files of the old result that the new one does not have
    are deleted.
    """
    new = read_status(work_dir)
    assert new is not None
    old = _status_to_go_on_from(run_dir)
    for name in sorted(new.outputs):
        target = run_dir / name
        if (work_dir / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(work_dir / name, target)
    for name in set(old.outputs if old else ()) - set(new.outputs):
        with suppress(FileNotFoundError, NotADirectoryError):
            (run_dir / name).unlink()
    for folder in {(run_dir / name).parent for name in new.outputs}:
        sync_folder(folder)
    os.replace(work_dir / "status.json", run_dir / "status.json")
    sync_folder(run_dir)
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
