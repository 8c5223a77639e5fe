"""Files that are there whole or not at all, and where the project keeps its own."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes, keep: Path | None = None) -> None:
    """Writes to a temporary name in the same folder, syncs, and renames: at every moment the old or the new is there.

    Args:
        keep: the name under which the file that is replaced is kept; then at every moment one of the two is whole.

    Raises:
        OSError: what was there before is as it was, and nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Deletes what killed processes left half-written; only for who holds the folder's lock."""
    for path in folder.rglob("*.tmp"):
        with suppress(OSError):
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """A rename outlives a power loss only when its folder is on the disk; some file systems cannot, and need not."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def share_dir() -> Path:
    """The folder that holds conf/ and sweeps/: inside an installed wheel, or the top of the repository."""
    package = Path(__file__).resolve().parent.parent
    return package / "share" if (package / "share" / "conf").is_dir() else package.parent
