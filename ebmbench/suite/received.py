"""The record of a submission that was received: one sealed JSON file, from which the board is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebmbench.core.errors import UserError
from ebmbench.suite.submission import SCHEMA
from ebmbench.system import seal


@dataclass(frozen=True)
class Received:
    """A submission on the board, as its JSON file has it.

    Attributes:
        level: reported, rescored or verified.
        notes: sentences: what was compared, and why the level is not a higher one.
        nonce: drawn after receipt; it chose what was trained again.
        rows: of the runs, as `runs.csv` has them.
    """

    suite: str
    suite_sha256: str
    entry: str
    words: list[str]
    author: str
    licence: str
    sha256: str
    received: str
    level: str
    packages: dict[str, str | None]
    chosen: dict[str, dict[str, Any]]
    axes: list[str]
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    nonce: str = ""
    isolated: bool = False
    schema: int = SCHEMA


def read_received(results_dir: Path) -> list[Received]:
    """Returns the records of all submissions that were received, in the order of receipt.

    Raises:
        UserError: one is damaged, or of another version.
    """
    found = []
    for path in sorted((results_dir / "received").glob("*/*.json")):
        try:
            raw = seal.decode(path.read_bytes(), SCHEMA)
            raw.pop(seal.KEY)
            found.append(Received(**raw))
        except (seal.Broken, seal.OtherVersion, TypeError, OSError) as error:
            raise UserError(
                f"{path} is damaged or of another version ({error}): receive the submission again"
            ) from None
    return sorted(found, key=lambda record: record.received)
