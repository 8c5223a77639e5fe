"""Checkpoints: written whole or not at all, recognised when damaged, and read as data only."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain data) to `path`, keeping the one before it as `<name>.previous`.

    At every moment at least one of the two is whole: the new one is on disk before the old one is renamed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, _previous(path))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any] | None:
    """The state at `path`, or the one before it if that is damaged (with a warning), or None if there is neither."""
    for candidate in (path, _previous(path)):
        if candidate.exists():
            state = _read(candidate)
            if state is not None:
                return state
            warnings.warn(f"{candidate} is damaged; the checkpoint before it is used", stacklevel=2)
    return None


def remove(path: Path) -> None:
    """Deletes the checkpoint and the one before it."""
    for candidate in (path, _previous(path)):
        candidate.unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with zipfile.ZipFile(path) as archive:  # torch's format is a zip file: every record carries a CRC-32
            if archive.testzip() is not None:
                return None
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever a damaged file raises, it is not a checkpoint
        return None
