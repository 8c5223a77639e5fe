"""Files that are there whole or not at all, and where the project keeps its own."""

from __future__ import annotations

import hashlib
import os
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path


def write_atomically(path: Path, data: bytes, keep: Path | None = None) -> None:
    """Writes to a temporary name in the same folder, syncs, and renames: at every moment the old or the new is there.

    Args:
        keep: the name under which the file that is replaced is kept; then at every moment one of the two is whole.

    Raises:
        OSError: what was there before is as it was, and nothing half-written is left.
    """
    # A name of its own: two processes, on one machine or on two, may write the same file at the same time.
    temporary = path.with_name(f".{path.name[:64]}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


MOST_BYTES = 2**28
"""Of a file of settings or of a status: a longer one is none, and is not read into memory."""


def read_bounded(path: Path, most: int = MOST_BYTES) -> bytes:
    """Returns the content of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is longer than `most` bytes, or endless.
    """
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} is longer than {most} bytes")
    return data


def remove_temporaries(folder: Path) -> None:
    """Deletes what killed processes left half-written; only for who holds the folder's lock."""
    for path in folder.rglob("*.tmp"):
        with suppress(OSError):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Writes a folder's list of names to the disk, without which a rename does not outlive a power loss.

    Some file systems cannot do this, and do not need it.
    """
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def fingerprint(data: bytes) -> str:
    """Returns the SHA-256 and the number of bytes of a file's content: `<64 hexadecimal digits>:<bytes>`."""
    return f"{hashlib.sha256(data).hexdigest()}:{len(data)}"


def fingerprint_of_file(path: Path, sync: bool = False) -> str:
    """Returns the `fingerprint` of a file's content, read in pieces.

    Args:
        sync: also makes sure that the content is on the disk.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return f"{digest}:{file.tell()}"


@cache
def share_dir() -> Path:
    """The folder that holds conf/ and sweeps/: inside an installed wheel, or the top of the repository."""
    package = Path(__file__).resolve().parent.parent
    return package / "share" if (package / "share" / "conf").is_dir() else package.parent
