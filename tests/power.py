"""A disk that can lose its power: what would be left of a folder, at each moment at which a file operation begins.

The worst that POSIX allows: a file has the content that it had at its last fsync, and a folder the names that it had at
its last fsync. The disk may have written more by then: any name, any content, or the first half of one.
A rename is one operation, as in all file systems with a journal: what is moved is never at neither place.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

OPERATIONS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir")


class Disk:
    """Follows the operations on a folder, and keeps a copy of what each power cut would leave.

    Args:
        root: the folder that is followed; what is in it at the beginning is on the disk.
        cuts: where the copies go, a folder each.
        seed: of what the disk had written beyond what it was asked for.
    """

    def __init__(self, root: Path, cuts: Path, seed: int = 0) -> None:
        self.root, self.cuts = root, cuts
        self.end = root
        """What a cut at the end leaves."""
        self._chance = random.Random(seed)
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._pins: list[int] = []  # an open file keeps its inode's number from being used again
        self._seen: dict[str, Path] = {}
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            for path in (folder, *(path for path in folder.iterdir() if path.is_file())):
                self._sync(os.open(path, os.O_RDONLY))

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Inside, a copy is kept of what a power cut just before each operation would leave, and at the end."""
        with mock.patch.multiple(os, **{name: self._wrapped(getattr(os, name)) for name in OPERATIONS}):
            yield
        self.cut(worst=True)

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def operation(*args: Any, **options: Any) -> Any:
            self.cut(worst=True)
            for _ in range(3):
                self.cut(worst=False)
            if real.__name__ == "fsync":
                return self._sync(os.dup(args[0]))
            return real(*args, **options)

        return operation

    def _sync(self, file: int) -> None:
        about = os.fstat(file)
        self._pins.append(file)
        path = Path(f"/proc/self/fd/{file}")
        if stat.S_ISDIR(about.st_mode):
            self._names[about.st_ino] = self._live_names(path)
        else:
            self._content[about.st_ino] = path.read_bytes()

    @staticmethod
    def _live_names(folder: Path) -> dict[str, int]:
        return {entry.name: entry.inode() for entry in os.scandir(folder)}

    def cut(self, worst: bool) -> None:
        """Keeps what a power cut would leave now, if it is not what an earlier one left."""
        live = {path.stat().st_ino: path for path in (self.root, *self.root.rglob("*"))}
        left: dict[str, bytes | None] = {}
        gone: dict[str, int] = {}
        there = self._collect(self.root.stat().st_ino, "", live, worst, left, gone)
        for name, moved in gone.items():
            if moved in live and moved not in there:
                left[name] = self._content.get(moved, b"")
        digest = hashlib.sha256(repr(sorted(left.items())).encode()).hexdigest()
        if digest not in self._seen:
            self._seen[digest] = self.cuts / str(len(self._seen))
            self._write(left, self._seen[digest])
        self.end = self._seen[digest]

    def _collect(
        self,
        folder: int,
        at: str,
        live: dict[int, Path],
        worst: bool,
        left: dict[str, bytes | None],
        gone: dict[str, int],
    ) -> set[int]:
        """Puts the files of a folder into `left`, names that it lost into `gone`; returns the inodes of the files."""
        there: set[int] = set()
        durable, now = self._names.get(folder, {}), self._live_names(live[folder]) if folder in live else {}
        for name in sorted(durable | now):
            chosen = durable.get(name) if worst else self._chance.choice((durable.get(name), now.get(name)))
            if chosen is None:
                if name in durable and durable[name] not in self._names:
                    gone[at + name] = durable[name]
                continue
            path = live.get(chosen)
            if chosen in self._names or (path is not None and path.is_dir()):
                left[at + name] = None
                there |= self._collect(chosen, f"{at}{name}/", live, worst, left, gone)
            else:
                data = self._content.get(chosen, b"")
                whole = path.read_bytes() if path is not None else data
                synced = worst or data == whole
                left[at + name] = data if synced else self._chance.choice((data, whole, whole[: len(whole) // 2]))
                there.add(chosen)
        return there

    def _write(self, left: dict[str, bytes | None], target: Path) -> None:
        with mock.patch.multiple(os, **{name: _REAL[name] for name in OPERATIONS}):
            target.mkdir(parents=True)
            for name, data in left.items():
                if data is None:
                    (target / name).mkdir()
                else:
                    (target / name).write_bytes(data)

    def folders(self) -> list[Path]:
        """Returns what the cuts left."""
        return list(self._seen.values())


_REAL = {name: getattr(os, name) for name in OPERATIONS}
