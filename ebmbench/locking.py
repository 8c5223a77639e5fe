"""One process per run directory: an advisory lock that ends with its process."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from ebmbench.errors import UserError


class Lock:
    """An exclusive lock on a file, held by the kernel: a dead process holds none.

    flock, which Linux carries between the nodes of NFS; unlike a POSIX record lock it is not lost when this process
    opens and closes the file a second time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            UserError: another process holds it.
        """
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = self.path.read_text().strip() or "another process"
            os.close(file)
            raise UserError(
                f"{self.path.parent} is being worked on by {holder}; wait for it to end, or stop it first"
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._file = file

    def release(self) -> None:
        """Gives the lock back; the file stays, for removing it would let two processes hold two files."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_held(path: Path) -> bool:
    """Whether some process holds the lock."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(file)
