"""Reading tables from files: CSV, in most of the forms that programs and people write it, and Parquet."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ebmbench.core.errors import UserError, counted, first_line, shown
from ebmbench.tasks.regression.data.cells import amounts, date_form, is_none, refuse_nested

PARQUET = (".parquet", ".pq")
"""How the names of Parquet files end; all others are CSV."""
SEPARATORS = (",", ";", "\t", "|")
CHUNK_ROWS = 100_000
COPIES = 3
"""Of the numbers in memory at a time: the table, x, and x standardised."""


@lru_cache(maxsize=2**16)
def _digest(path: Path, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str | None:
    """Returns the SHA-256 of a file's contents, None if it cannot be read."""
    try:
        about = path.stat()
        return _digest(path.absolute(), about.st_size, about.st_mtime_ns)
    except OSError:
        return None


def read_table(path: Path, memory_mb: int | None) -> tuple[pd.DataFrame, list[str]]:
    """Reads a CSV or Parquet file; returns the table, and a sentence for each thing that was unusual in reading it.

    Args:
        memory_mb: what it may take; None: what is free.

    Raises:
        UserError: it is not there, is no table, or does not fit into memory.
    """
    if not path.is_file():
        raise UserError(f"{str(path)!r} is not a file; give a CSV or Parquet file")
    if path.suffix.lower() in PARQUET:
        return _parquet(path, memory_mb), []
    try:
        form, names = _form(path)
        first = pd.read_csv(path, **form.options, nrows=1000)
        _check_names(path, names, first)
        form, notes = _with_more_cells(path, form, first)
        _check_memory(path, first, memory_mb)
        frame = pd.concat(_chunks(path, form), ignore_index=True)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror})") from None
    except (ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} is no CSV file that can be read ({first_line(error)})") from None
    if not len(frame):
        raise UserError(f"{path} holds no rows")
    blank = [name for name in frame if re.fullmatch(r"(Unnamed: \d+)?", str(name).strip())]
    nameless = [name for name in blank if is_none(frame[name]).all()]
    return frame.drop(columns=nameless), form.notes + notes


def _check_names(path: Path, names: list[str], first: pd.DataFrame) -> None:
    """Refuses a first line that is a row like the others, and a name that two columns have.

    Args:
        first: the first rows.
    """
    numbers = [re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?", name, re.IGNORECASE) is not None for name in names]
    if any(numbers) and all(numbers):
        raise UserError(f"{path} begins with a row of numbers; give it a first line with the names of the columns")
    if len(names) == first.shape[1] and _is_row(names, first):
        raise UserError(
            f"{path} begins with a row of cells like those below; give it a first line with the names of the columns"
        )
    duplicates = [name for name in dict.fromkeys(names) if names.count(name) > 1 and name]
    if duplicates:
        raise UserError(f"{path.name} has {names.count(duplicates[0])} columns named {duplicates[0]!r}; rename one")


def _is_row(names: Sequence[str], first: pd.DataFrame) -> bool:
    """Whether the first line is like the rows below it.

    A number above numbers of the same unit is enough if it is no whole one such as 2019, and so is a date above dates.
    Else each name must be a whole number above numbers, stand for a missing value, or be a cell of its column too.
    """
    fits = []
    for place, name in enumerate(names):
        column = first.iloc[:, place]
        there, cell = column[~is_none(column)], pd.Series([name], dtype="string")
        number, numbers = amounts(cell), amounts(there)
        if date_form(cell)[0] and date_form(there)[0]:
            return True
        if np.isfinite(number.numbers[0]):
            above = len(there) and np.isfinite(numbers.numbers).mean() >= 0.5 and numbers.unit == number.unit
            if above and not re.fullmatch(r"\d+", name):
                return True
            fits.append(bool(above))
        else:
            is_missing = bool(is_none(cell)[0]) or name.lower() in ("na", "n/a", "nan", "null", "none")
            fits.append(is_missing or name in set(column.astype("string").str.strip()))
    return all(fits) and any(names)


@dataclass(frozen=True)
class Form:
    """How a CSV file is written.

    Attributes:
        skipped: lines before the names of the columns.
        ends_empty: whether each row ends in a separator, and the first line does not.
    """

    separator: str
    encoding: str
    decimal: str
    skipped: int = 0
    ends_empty: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What pandas is to be told."""
        options = {"sep": self.separator, "encoding": self.encoding, "decimal": self.decimal, "skiprows": self.skipped}
        return {**options, "index_col": False} if self.ends_empty else options

    @property
    def notes(self) -> list[str]:
        """What is unusual, a sentence each."""
        encoding = {"latin-1": ["it is not UTF-8, and was read as Latin-1"], "utf-16": ["it was read as UTF-16"]}
        decimal = ["the comma is taken as the decimal point"] if self.decimal == "," else []
        return encoding.get(self.encoding, []) + decimal


def _with_more_cells(path: Path, form: Form, first: pd.DataFrame) -> tuple[Form, list[str]]:
    """Returns how to read rows that have more cells than there are names, and what is to be said of it.

    Args:
        first: the first rows, as pandas reads them: it takes the cells in front for the names of the rows.
    """
    if isinstance(first.index, pd.RangeIndex):
        return form, []
    if first.index.nlevels > 1:
        extra, names = first.index.nlevels, first.shape[1]
        raise UserError(
            f"{path.name} has {counted(names, 'name')} of columns in its first line, and {names + extra} cells in a row"
        )
    if first.iloc[:, -1].isna().all():
        return dataclasses.replace(form, ends_empty=True), []
    return form, ["the rows have one cell more than there are names; the first one is taken for the row's name"]


def _chunks(path: Path, form: Form) -> Iterator[pd.DataFrame]:
    """Reads in pieces. The numbers of a large file are kept in single precision."""
    large = path.stat().st_size > 2**27
    with pd.read_csv(path, **form.options, chunksize=CHUNK_ROWS) as reader:
        for chunk in reader:
            yield chunk.astype({name: np.float32 for name in chunk.select_dtypes("number")}) if large else chunk


def _form(path: Path) -> tuple[Form, list[str]]:
    """Returns how a CSV file is written, and the names of its columns.

    Raises:
        ValueError: it is no text.
    """
    encoding = _encoding(path)
    with open(path, newline="", encoding=encoding) as file:
        text = file.read(2**16)
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        raise ValueError(_kind(path))
    lines = text.splitlines()
    skipped = next((number for number, line in enumerate(lines) if line.strip()), 0)
    said = re.fullmatch(r'"?sep=(.)"?', lines[skipped].strip()) if lines else None  # Excel's first line
    skipped += said is not None
    line = next((line for line in lines[skipped:] if line.strip()), "")
    separator = said[1] if said else _separator(text)
    if separator not in line:
        _check_title(path, line, lines[skipped + 1 :])
    # Dates and thousands have points too.
    numbers = re.sub(r"\d{1,2}\.\d{1,2}\.\d{2,4}|\d{1,3}(\.\d{3})+(?=,\d)", "0", text)
    decimal = "," if separator != "," and re.search(r"\d,\d", numbers) and not re.search(r"\d\.\d", numbers) else "."
    names = [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    return Form(separator, encoding, decimal, skipped if said else 0), names


def _separator(text: str) -> str:
    """Returns what separates the cells: what makes the most rows as long as the first one, which has several.

    The comma comes last: in `0,5;1,5` it makes rows of one length too.

    Args:
        text: the begin of the file.
    """

    def fitting(separator: str) -> int:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if "".join(row).strip()]
        return sum(len(row) == len(rows[0]) for row in rows[:20]) if rows and len(rows[0]) > 1 else 0

    return max(reversed(SEPARATORS), key=fitting)


def _check_title(path: Path, line: str, rest: Sequence[str]) -> None:
    """Refuses a file whose first line is a title or a comment: one cell, and more of them in a line after it."""
    if line.count('"') % 2:
        return  # a name goes on in the next line
    for number, other in enumerate(rest[:10], 2):
        count = max(len(next(csv.reader([other], delimiter=separator), [])) for separator in SEPARATORS)
        if count > 1:
            raise UserError(
                f"{path.name} begins with the line {shown(line.strip())}, which is one cell, and line {number} has "
                f"{count}; its first line must hold the names of the columns"
            )


KINDS = {
    b"\x1f\x8b": "it is compressed by gzip; unpack it first",
    b"PK\x03\x04": "it is an Excel file or a zip archive; save the table as CSV",
    b"\xd0\xcf\x11\xe0": "it is an Excel file; save the table as CSV",
    b"PAR1": "it is a Parquet file; give it a name that ends in .parquet",
}
"""What files that are no text begin with."""


def _kind(path: Path) -> str:
    """Returns what a file is that is no text."""
    with open(path, "rb") as file:
        start = file.read(8)
    return next((text for magic, text in KINDS.items() if start.startswith(magic)), "it holds bytes that are no text")


def _encoding(path: Path) -> str:
    """Returns `utf-8-sig` (with a byte order mark or without), `utf-16`, or `latin-1` for all other bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        file.seek(0)
        try:
            while block := file.read(2**20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


def _check_memory(path: Path, first: pd.DataFrame, memory_mb: int | None) -> None:
    """Refuses a file whose table would not fit, from its first rows."""
    size = path.stat().st_size
    written = len(first.to_csv(index=False).encode()) / max(1, len(first))
    rows = size / max(1.0, written)
    words = first.select_dtypes(exclude="number")
    each = COPIES * 4 * first.shape[1] + (float(words.memory_usage(deep=True, index=False).sum()) / max(1, len(first)))
    _refuse_beyond(path, rows * each, memory_mb)


def _refuse_beyond(path: Path, need: float, memory_mb: int | None) -> None:
    free = memory_mb * 2**20 if memory_mb is not None else free_memory()
    if free is not None and need > free:
        size = path.stat().st_size
        raise UserError(
            f"{path} has {size / 2**20:.0f} MB, and its table takes about {need / 2**20:.0f} MB of memory where "
            f"{free / 2**20:.0f} MB may be used; give a file with fewer rows or columns, or a larger "
            "data.memory_mb"
        )


def free_memory() -> int | None:
    """Returns the bytes of memory that are free, None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _parquet(path: Path, memory_mb: int | None) -> pd.DataFrame:
    _refuse_beyond(path, float(3 * path.stat().st_size), memory_mb)  # Parquet is compressed
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise UserError(f"{path} needs pyarrow (pip install 'ebmbench[parquet]'); or give a CSV file") from None
    except Exception as error:
        raise UserError(f"{path} is no Parquet file that can be read ({first_line(error)})") from None
    if frame.index.names != [None]:
        frame = frame.reset_index()
    refuse_nested(frame, path.name)
    if not len(frame):
        raise UserError(f"{path} holds no rows")
    return frame
