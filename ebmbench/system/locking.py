"""One process per run directory: a lock that ends with its process.

It takes two things to hold it. The kernel's flock decides among the processes of one machine, and ends with its process
however that dies. On NFS and Lustre it may be local to a node, or not there at all. Therefore a file beside it says who
holds the lock, and that it is alive, by a time that is renewed every few seconds. A holder on another machine is taken
for dead only if that time is old (or in the future, from a wrong clock), and does not change while it is watched.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ebmbench.core.errors import UserError

try:
    import fcntl
except ImportError:
    raise ImportError("ebmbench needs flock and POSIX signals, which Windows lacks; use it in WSL") from None

RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A heartbeat file that was not renewed for so long is that of a dead process, if it stays so for `WATCH_SECONDS`."""
WATCH_SECONDS = 2 * RENEW_SECONDS
"""So long it is watched before it is taken away."""

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_SETTLE = 0.1
_PATIENCE = 0.5  # somebody who only asks `is_held` holds the lock for an instant


class HeldError(UserError):
    """Another process holds a lock."""


class Lock:
    """An exclusive lock named by a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._heartbeat: _Heartbeat | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            HeldError: another process holds it.
        """
        give_up = time.monotonic() + _PATIENCE
        while not self.take():
            if time.monotonic() > give_up:
                folder, holder = self.path.parent, _holder(self.path)
                raise HeldError(f"{folder} is being worked on by {holder}; wait for it to end, or stop it first")
            time.sleep(0.005)

    def take(self) -> bool:
        """Takes the lock if nobody has it; returns whether it did. Raises OSError where the file cannot be written."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        taken = False
        try:
            flock = _flock(file, fcntl.LOCK_EX)
            if flock is not False and self._is_at_path(file):  # who held it may have deleted the folder
                heartbeat = _Heartbeat(_heartbeat_path(self.path))
                taken = heartbeat.take(has_flock=flock is True)
                self._heartbeat = heartbeat if taken else None
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
        assert self._file is not None and self._heartbeat is not None
        if not self._is_at_path(self._file):
            text = "The folder was deleted while the run was under way"
            raise FileNotFoundError(errno.ENOENT, text, str(self.path.parent))
        if not self._heartbeat.is_own():
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
        flock = _flock(file, fcntl.LOCK_SH)
        return flock is False or _is_alive(_heartbeat_path(path), has_flock=flock is True)
    finally:
        os.close(file)


@dataclass(frozen=True)
class Sign:
    """The last sign of life of who holds a lock.

    Attributes:
        age: seconds since its last heartbeat.
        is_stopped: whether it is stopped, as by Ctrl-Z, or has long been silent while it still holds the lock.
    """

    age: float
    is_stopped: bool


def sign_of_life(path: Path) -> Sign | None:
    """Returns the last sign of life of who holds a lock; None where nobody left one."""
    heartbeat = _heartbeat_path(path)
    text = _read(heartbeat)
    try:
        age = max(0.0, _file_system_time(path.parent) - heartbeat.stat().st_mtime)
    except OSError:
        return None
    is_stopped = _is_stopped(text or "")
    return Sign(age, age > STALE_SECONDS if is_stopped is None else is_stopped)


def _is_stopped(text: str) -> bool | None:
    """Whether a heartbeat is of a process that is stopped; None if it is of another machine, or there is no /proc."""
    machine, _, rest = text.partition("\n")
    space, _, number = rest.partition("\n")[0].rpartition(" ")
    if machine != _machine() or space != _processes() or not number.isdecimal():
        return None
    with suppress(OSError, IndexError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    return None


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


# ----------------------------------------------------------------------------------------------- between machines


def _heartbeat_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.alive")


class _Heartbeat:
    """A file that only one process can create, renewed by a thread while that process lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = f"{_machine()}\n{_processes()} {os.getpid()}\n{uuid.uuid4()}\n"
        self._stop = threading.Event()

    def take(self, has_flock: bool) -> bool:
        """Whether it could be had.

        Args:
            has_flock: this process holds the flock, so that no other of this machine can be at work.
        """
        found = _read(self.path)
        if _is_alive(self.path, has_flock):
            return False
        if found is not None:
            if not _is_known_dead(found, has_flock) and not self._is_still_for(WATCH_SECONDS):
                return False
            if not self._clear(found):
                return False
        try:
            with open(self.path, "x") as file:
                file.write(self._text)
        except FileExistsError:
            return False
        if found is not None or not has_flock:
            # Another that saw the dead file too may still move this one away for it: who is there afterwards has it.
            time.sleep(_SETTLE)
            if not self.is_own():
                return False
        threading.Thread(target=self._renew, daemon=True, name="ebmbench lock").start()
        return True

    def _is_still_for(self, seconds: float) -> bool:
        """Whether the file does not change while it is watched, by this process's own clock."""
        before, give_up = _changed(self.path), time.monotonic() + seconds
        while time.monotonic() < give_up:
            time.sleep(0.1)
            if _changed(self.path) != before:
                return False
        return True

    def is_own(self) -> bool:
        return _read(self.path) == self._text

    def release(self) -> None:
        self._stop.set()
        with suppress(OSError):
            if self.is_own():
                self.path.unlink()

    def _clear(self, dead: str) -> bool:
        """Moves a dead process's file out of the way; of several who see it dead, one succeeds."""
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


def _is_alive(path: Path, has_flock: bool) -> bool:
    """Whether a heartbeat file is there whose process is not known to be dead, and whose time is near the present."""
    text = _read(path)
    if text is None or _is_known_dead(text, has_flock):
        return False
    try:
        return abs(_file_system_time(path.parent) - path.stat().st_mtime) <= STALE_SECONDS
    except FileNotFoundError:
        return False


def _is_known_dead(text: str, has_flock: bool) -> bool:
    """Whether a heartbeat is of this machine, and its process is gone: it would hold the flock, or have its number."""
    machine, _, rest = text.partition("\n")
    if machine != _machine():
        return False
    if has_flock:
        return True
    space, _, number = rest.partition("\n")[0].rpartition(" ")
    if space != _processes() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # alive, and another user's
    return False


def _machine() -> str:
    """Names the kernel that runs: all its containers share their flocks."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _processes() -> str:
    """Names the container: process numbers mean something only within one."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _changed(path: Path) -> tuple[int, str | None]:
    try:
        return path.stat().st_mtime_ns, _read(path)
    except OSError:
        return 0, None


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
