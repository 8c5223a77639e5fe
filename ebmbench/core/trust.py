"""The plug-ins that the user accepted, by hash: `$XDG_CONFIG_HOME/ebmbench/trusted`, a line for each."""

from __future__ import annotations

import os
import re
import uuid
from contextlib import suppress
from pathlib import Path

from ebmbench.core.errors import UserError, shown


def path() -> Path:
    """Returns the file, in the user's own settings."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ebmbench" / "trusted"


_here: set[str] = set()
"""Accepted for this process alone."""


def is_accepted(sha256: str) -> bool:
    """Returns whether the user accepted a plug-in of this hash."""
    return sha256 in _here or sha256 in _read()


def accept_here(sha256: str) -> None:
    """Accepts a plug-in for this process: another one, which has checked it, sent the job."""
    _here.add(sha256)


def accept(sha256: str, name: str) -> None:
    """Remembers that the user accepted a plug-in. A file that cannot be written changes nothing.

    Args:
        name: what it is called, for people who read the file.
    """
    if is_accepted(sha256):
        return
    with suppress(OSError):
        _write([*_read().values(), f"{sha256} {' '.join(name.split())}"])


def accept_by_hand(sha256: str) -> None:
    """Remembers what `--trust HASH` says.

    Raises:
        UserError: it is no hash, or the file cannot be written.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", sha256):
        raise UserError(f"--trust {shown(sha256)} is not allowed: give the 32 digits of the plug-in's hash")
    try:
        _write([*_read().values(), f"{sha256} --trust"])
    except OSError as error:
        raise UserError(f"{path()} cannot be written ({error.strerror})") from None


def _read() -> dict[str, str]:
    try:
        lines = path().read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {line.split()[0]: line for line in lines if line.strip()}


def _write(lines: list[str]) -> None:
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".trusted.{uuid.uuid4().hex}.tmp")
    temporary.write_text("\n".join(lines) + "\n")
    os.replace(temporary, target)
