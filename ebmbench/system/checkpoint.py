"""Checkpoints, and the trained parameters of finished runs: recognised when damaged, and read as data only.

A file is a line of text, the SHA-256 of what follows, and what `torch.save` wrote. (torch's own format carries a CRC
per record, which covers neither the file's directory nor its headers.)
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ebmbench.core.errors import UserError
from ebmbench.system.files import write_atomically

_MAGIC = b"ebmbench checkpoint 1\n"
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain data) to `path`, keeping the one before it as `<name>.previous`.

    At every moment at least one of the two is whole: the new one is on disk before the old one is renamed.
    """
    data = encode(state)
    write_atomically(path, _MAGIC + hashlib.sha256(data).digest() + data, keep=_previous(path))


def load(path: Path) -> dict[str, Any] | None:
    """The state at `path`, or the one before it if that is damaged (with a warning), or None if there is neither.

    A damaged file is deleted: it must not become the one that is kept when the next is written.

    Raises:
        OSError: the file is there and cannot be read.
        UserError: it is whole, but holds something else than tensors and plain data.
    """
    for candidate, instead in ((path, "the checkpoint before it is used"), (_previous(path), "it is not used")):
        try:
            data = candidate.read_bytes()
        except FileNotFoundError:
            continue
        if _is_whole(data):
            return decode(candidate, data[_HEADER:])
        if candidate == path and not _previous(path).exists():
            instead = "there is none before it"
        warnings.warn(f"{candidate} is damaged (its checksum is wrong); {instead}", stacklevel=2)
        candidate.unlink(missing_ok=True)
    return None


def remove(path: Path) -> None:
    """Deletes the checkpoint and the one before it."""
    for candidate in (path, _previous(path)):
        candidate.unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _is_whole(data: bytes) -> bool:
    return data[:_HEADER] == _MAGIC + hashlib.sha256(data[_HEADER:]).digest()


def encode(state: dict[str, Any]) -> bytes:
    """Returns what `torch.save` writes of tensors and plain data."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def decode(path: Path, data: bytes) -> dict[str, Any]:
    """Returns tensors and plain data that `torch.save` wrote; `path` is for the error alone.

    Raises:
        UserError: it holds something else.
    """
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a checkpoint ({type(error).__name__}); move it away") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a checkpoint (it holds a {type(state).__name__}); move it away")
    return state


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is not as it was when a checkpoint was saved, in words; empty if all is: "threads 1 then and 2 now"."""
    return ", ".join(
        f"{key} {then.get(key)} then and {value} now" for key, value in now.items() if then.get(key) != value
    )
