"""A folder of results that several runs share: computed once, by the first one, and checked when it is read."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ebmbench.core.errors import UserError
from ebmbench.system.files import fingerprint_of_file, sync_folder
from ebmbench.system.locking import Lock

RECORD = "artefact.json"
"""The file that says what a folder is: written last, so that a folder with it is whole."""
SAY_SECONDS = 30.0
"""Time between two lines of a process that waits."""


def computed_once(folder: Path, what: str, compute: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the facts of a shared folder, after computing it where it is not there.

    A second process that needs it waits, and then finds it done. A folder appears whole or not at all.

    Args:
        folder: its name should hold a hash of all that the result depends on.
        what: it is, for people: "the base detector".
        compute: writes files into a folder, and returns facts about them as plain data.

    Raises:
        UserError: it is there and damaged.
    """
    if not (folder / RECORD).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock"), what):
            if not (folder / RECORD).exists():
                _compute(folder, what, compute)
    return facts_of(folder, what)


def facts_of(folder: Path, what: str) -> dict[str, Any]:
    """Returns the facts of a shared folder that is there.

    Raises:
        UserError: it is not there, or a file of it is missing or was changed.
    """
    if not (folder / RECORD).exists():
        raise UserError(f"{folder}, {what}, is not there")
    try:
        record = json.loads((folder / RECORD).read_text())
        facts, files = dict(record["facts"]), dict(record["files"])
        damaged = [name for name, digest in files.items() if fingerprint_of_file(folder / name) != digest]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}, {what}, is damaged ({error}); delete it, and it is computed again") from None
    if damaged:
        raise UserError(f"{folder / damaged[0]} was changed or is damaged; delete {folder}, and it is computed again")
    return facts


def _compute(folder: Path, what: str, compute: Callable[[Path], Mapping[str, Any]]) -> None:
    if folder.exists():
        raise UserError(f"{folder} is there without its {RECORD}: it is not {what}; delete it")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        facts = compute(Path(scratch))
        files = {
            path.relative_to(scratch).as_posix(): fingerprint_of_file(path, sync=True)
            for path in sorted(Path(scratch).rglob("*"))
            if path.is_file()
        }
        record = {"facts": dict(facts), "files": files}
        (Path(scratch) / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        os.chmod(scratch, 0o755)
        os.rename(scratch, folder)
        sync_folder(folder.parent)
        os.mkdir(scratch)  # for TemporaryDirectory to remove


@contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    lock = Lock(path)
    started = said = time.monotonic()
    while not lock.take():
        now = time.monotonic()
        if said == started or now - said >= SAY_SECONDS:
            text = f"another process computes {what}; waiting for it since {now - started:.0f} s"
            print(f"ebmbench: {text}", file=sys.stderr, flush=True)
            said = now
        time.sleep(1)
    try:
        yield
    finally:
        lock.release()
