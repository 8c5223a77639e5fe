"""One process per run directory: a lock that ends with its process.

The kernel's flock, which Linux carries between the nodes of NFS, does that by itself; unlike a POSIX record lock it is
not lost when the process opens and closes the file a second time. Where a file system has none, a file beside it says
who holds the lock, and that it is alive: its time is renewed every few seconds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from ebmbench.core.errors import UserError

RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A heartbeat file that was not renewed for so long belongs to a dead process."""

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_SETTLE = 0.1
_PATIENCE = 0.5  # somebody who only asks `is_held` holds the lock for an instant


class Lock:
    """An exclusive lock named by a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._heartbeat: _Heartbeat | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            UserError: another process holds it.
        """
        give_up = time.monotonic() + _PATIENCE
        while not self._try():
            if time.monotonic() > give_up:
                folder, holder = self.path.parent, _holder(self.path)
                raise UserError(f"{folder} is being worked on by {holder}; wait for it to end, or stop it first")
            time.sleep(0.05)

    def _try(self) -> bool:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        taken = None
        try:
            taken = _flock(file, fcntl.LOCK_EX)
            if taken is None:
                heartbeat = _Heartbeat(_heartbeat_path(self.path))
                taken = heartbeat.take()
                self._heartbeat = heartbeat if taken else None
            taken = taken and self._is_at_path(file)  # who held it may have deleted the folder
        finally:
            if not taken:
                os.close(file)
        if not taken:
            return False
        self._file = file
        with suppress(OSError):  # for people to read: a full disk takes nothing away from the lock
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return True

    def check(self) -> None:
        """Raises OSError if the lock is no longer this process's: the folder was deleted, or taken for a dead one's."""
        assert self._file is not None
        if not self._is_at_path(self._file):
            text = "The folder was deleted while the run was under way"
            raise FileNotFoundError(errno.ENOENT, text, str(self.path.parent))
        if self._heartbeat is not None and not self._heartbeat.is_own():
            raise OSError(errno.EBUSY, "Another process took over the run", str(self.path.parent))

    def _is_at_path(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Gives the lock back; the file stays, for removing it would let two processes hold two files."""
        if self._heartbeat is not None:
            self._heartbeat.release()
            self._heartbeat = None
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_held(path: Path) -> bool:
    """Whether some process holds the lock."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        free = _flock(file, fcntl.LOCK_SH)
        return not _is_stale(_heartbeat_path(path)) if free is None else not free
    finally:
        os.close(file)


def _flock(file: int, mode: int) -> bool | None:
    """Whether the lock could be had; None where the file system has no locks."""
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise


def _holder(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip() or "another process"
    return "another process"


# ------------------------------------------------------------------------------------------------ without flock


def _heartbeat_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.alive")


class _Heartbeat:
    """A file that only one process can create, renewed by a thread while that process lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = f"{_machine()}\n{os.getpid()}\n{uuid.uuid4()}\n"
        self._stop = threading.Event()

    def take(self) -> bool:
        """Whether it could be had."""
        if _is_stale(self.path) and not self._clear():
            return False
        try:
            with open(self.path, "x") as file:
                file.write(self._text)
        except FileExistsError:
            return False
        # Another that saw the dead file too may still move this one away for it: who is there afterwards has it.
        time.sleep(_SETTLE)
        if not self.is_own():
            return False
        threading.Thread(target=self._renew, daemon=True, name="ebmbench lock").start()
        return True

    def is_own(self) -> bool:
        return _read(self.path) == self._text

    def release(self) -> None:
        self._stop.set()
        with suppress(OSError):
            if self.is_own():
                self.path.unlink()

    def _clear(self) -> bool:
        """Moves a dead process's file out of the way; of several who see it dead, one succeeds."""
        dead = _read(self.path)
        grave = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        try:
            os.rename(self.path, grave)
        except FileNotFoundError:
            return True
        if _read(grave) != dead:  # a living one's, taken since: put it back
            with suppress(OSError):
                os.link(grave, self.path)
            grave.unlink()
            return False
        grave.unlink()
        return True

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            with suppress(OSError):
                if self.is_own():
                    os.utime(self.path)


def _is_stale(path: Path) -> bool:
    """Whether there is no heartbeat: no file, a dead process of this machine's, or a time too long ago."""
    text = _read(path)
    if text is None:
        return True
    lines = text.splitlines()
    if len(lines) == 3 and lines[0] == _machine() and lines[1].isdigit():
        try:
            os.kill(int(lines[1]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # alive, and another user's
    try:
        return _file_system_time(path.parent) - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False


def _machine() -> str:
    """Names the machine, and the container on it: process numbers mean something only within one."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _file_system_time(folder: Path) -> float:
    """The clock of the file server, which is the one that heartbeats are written by."""
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
