"""The record of a collected sweep: `sweep.json`, which has the checksum of every table beside it, and a seal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebmbench.core.errors import UserError
from ebmbench.report.planned import SCHEMA
from ebmbench.system import seal
from ebmbench.system.files import fingerprint_of_file, read_bounded, write_atomically

NAME = "sweep.json"
KINDS = (".csv", ".md", ".tex")
"""Of the files that are part of the record; figures can be drawn again."""


def write(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes `sweep.json` for the tables that are in a folder now.

    Raises:
        OSError: it cannot be written.
    """
    files = {path.name: fingerprint_of_file(path) for path in _tables(folder)}
    write_atomically(folder / NAME, seal.encode({**about, "schema": SCHEMA, "files": files}))


def read(folder: Path) -> dict[str, Any]:
    """Returns what `sweep.json` says.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is not what was written, of another version, or cannot be read.
    """
    path = folder / NAME
    try:
        about = seal.decode(read_bounded(path), SCHEMA)
    except FileNotFoundError:
        raise
    except seal.OtherVersion as error:
        raise UserError(f"{path} is of layout version {error}, and this ebmbench reads {SCHEMA}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {_again(folder)}") from None
    if not isinstance(about.get("files"), dict) or "runs.csv" not in about["files"]:
        raise UserError(f"{path} is damaged (it has no checksum of runs.csv): {_again(folder)}")
    return about


def faults(folder: Path) -> list[str]:
    """Returns a text for each table that is missing, or not what was written; raises as `read`."""
    files = read(folder)["files"]
    found = []
    for name, expected in files.items():
        path = folder / Path(str(name)).name
        try:
            same = fingerprint_of_file(path) == expected
        except OSError:
            found.append(f"{path} is missing")
            continue
        if not same:
            found.append(f"{path} is not what was written: {_again(folder)}")
    strange = sorted({path.name for path in _tables(folder)} - files.keys())
    return found + [f"{folder / name} is not in the record of the sweep: {_again(folder)}" for name in strange]


def read_table(folder: Path, about: Mapping[str, Any], name: str = "runs.csv") -> str:
    """Returns the text of a table of the record.

    Raises:
        FileNotFoundError: it is missing.
        UserError: it is not what was written.
    """
    path = folder / name
    data = path.read_bytes()
    if fingerprint_of_file(path) != about["files"].get(name):
        raise UserError(f"{path} is not what was written: {_again(folder)}")
    return data.decode(errors="replace")


def reseal(folder: Path) -> None:
    """Accepts the tables of a folder as they are now.

    Raises:
        UserError: it has no `sweep.json` or `runs.csv`, or cannot be written.
    """
    try:
        about = json.loads(read_bounded(folder / NAME))
        text = (folder / "runs.csv").read_text(errors="replace")
        if not isinstance(about, dict) or "\n" not in text:
            raise UserError(f"{folder} holds no collected sweep")
        header, *lines = text.splitlines()
        if "record" not in header.split(","):  # rows whose runs had no seal
            text = "\n".join([f"{header},record", *(f"{line}," for line in lines if line)]) + "\n"
            write_atomically(folder / "runs.csv", text.encode())
        write(folder, about)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / NAME} cannot be read or written ({error})") from None


def _tables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in KINDS and path.name != "README.md")


def _again(folder: Path) -> str:
    name = folder.resolve().name
    return f"collect it again, or, if the change was meant, python -m ebmbench sweep tables {name} --accept"
