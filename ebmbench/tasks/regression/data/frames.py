"""From a table of numbers and words to arrays: what is done to a column is decided on the training rows, and said."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ebmbench.core.errors import UserError, counted, did_you_mean, row_at, shown
from ebmbench.tasks.regression.data.base import Arrays, Frame, Split, far_notes_of
from ebmbench.tasks.regression.data.transforms import register_transform
from ebmbench.tasks.regression.data.written import (
    days,
    first_written,
    is_none,
    looks_dated,
    numeric,
    slashed_form,
    unclear_date,
)

if TYPE_CHECKING:
    from torch import Tensor

COMMON_LEVELS, MOST_LEVELS, COMMON_ROWS = 30, 300, 5
"""Of a column of words the 30 most common ones become inputs, and up to 300 that are in 5 training rows at least."""


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers.

    Attributes:
        fill: what stands for a missing number: the median of the training rows.
        indicator: whether a second input says that the number is missing.
        date: whether it holds dates, which become days since 1970; where they have slashes, their form (`%m/%d/%Y`).
        shift: what is subtracted, where single precision would not tell the numbers apart.
        low, high: the ends of the training rows' numbers; nan in runs of before they were kept.
    """

    name: str
    fill: float
    indicator: bool
    date: bool | str = False
    shift: float = 0.0
    low: float = math.nan
    high: float = math.nan

    @property
    def wanted(self) -> str:
        """What each of its cells is, in a word."""
        return "date" if self.date else "number"

    def as_text(self, number: float) -> str:
        """Returns one of its numbers as people write it."""
        return str(np.datetime64(math.floor(number), "D")) if self.date else f"{number:.6g}"

    def far_notes(self, numbers: np.ndarray) -> list[str]:
        """Returns a sentence if new numbers lie further outside those of training than these are apart."""
        outside = np.maximum(self.low - numbers, numbers - self.high)
        far = np.flatnonzero(outside > self.high - self.low)
        if not len(far):
            return []
        worst = int(np.nanargmax(outside))
        return [
            f"the column {self.name!r} is far outside of training's {self.as_text(self.low)} to "
            f"{self.as_text(self.high)} in {counted(len(far), 'row')} (such as {self.as_text(numbers[worst])} in "
            f"{row_at(worst)}): no training row says what holds there"
        ]


@dataclass(frozen=True)
class WordColumn:
    """A column of words: an input for each level, 1 where the row has it. Other words give zeros."""

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class TableColumns:
    """Turns tables with the columns of the training table into x, float32 `[N, p]`."""

    columns: tuple[NumberColumn | WordColumn, ...]

    @property
    def names(self) -> list[str]:
        """The names of the p inputs."""
        names = []
        for column in self.columns:
            if isinstance(column, WordColumn):
                names += [f"{column.name}={level}" for level in column.levels]
            else:
                names += [column.name, f"{column.name} is missing"] if column.indicator else [column.name]
        return names

    def encode(self, frame: Frame) -> Tensor:
        """Returns inputs `[N, ...]` float32 of rows, or raises UserError."""
        frame = self._table(frame)
        parts: list[np.ndarray] = []
        for column in self.columns:
            values = frame[column.name]
            if isinstance(column, WordColumn):
                words = words_of(values)
                parts += [(words == level).to_numpy(np.float32) for level in column.levels]
                continue
            numbers, bad = numbers_of(values, column.date)
            if bad is not None:
                raise UserError(
                    f"the column {column.name!r} holds {shown(values.iloc[bad])} in {row_at(bad)}, where the "
                    f"model takes {column.wanted}s; leave a cell empty if its {column.wanted} is missing"
                )
            missing = ~np.isfinite(numbers)
            parts.append((np.where(missing, column.fill, numbers) - column.shift).astype(np.float32))
            if column.indicator:
                parts.append(missing.astype(np.float32))
        return torch.from_numpy(np.stack(parts, axis=1))

    @property
    def used(self) -> list[str]:
        """The columns that it reads."""
        return [column.name for column in self.columns]

    def read(self, table: pd.DataFrame) -> tuple[Tensor, list[str]]:
        """Returns x of a table from a file, treated as the training table was; and what was done, a sentence each."""
        table, notes = self._table(table), []
        for column in self.columns:
            values = table[column.name]
            if isinstance(column, WordColumn):
                words = words_of(values)
                new = np.flatnonzero(~words.isin(column.levels) & (words != ""))
                if len(new):
                    notes.append(
                        f"the column {column.name!r} holds a word that is none of training's in "
                        f"{counted(len(new), 'row')} (such as {shown(words.iloc[new[0]])} in {row_at(new[0])}), "
                        "which counts as no word"
                    )
                continue
            numbers, said = clean_numbers(values, column.date)
            if np.isnan(numbers).all() and not is_none(values).all():
                text = shown(values[~is_none(values)].iloc[0])
                example = " such as 2024-01-31" if column.date else ""
                raise UserError(
                    f"the column {column.name!r} holds no {column.wanted}{example} (but {text}), where the model takes "
                    f"{column.wanted}s"
                )
            notes += said
            missing = int(np.isnan(numbers).sum())
            if missing:
                notes.append(
                    f"the column {column.name!r} lacks a {column.wanted} in {counted(missing, 'row')}: "
                    f"training's median, {column.as_text(column.fill)}, is taken"
                )
            notes += column.far_notes(numbers)
            table = table.assign(**{column.name: numbers})
        return self.encode(table), notes

    def _table(self, frame: Frame) -> pd.DataFrame:
        names = self.used
        if not isinstance(frame, pd.DataFrame):
            array = np.asarray(frame)
            if array.ndim != 2 or array.shape[1] != len(names):
                raise UserError(
                    f"inputs of shape {array.shape} do not fit: give rows of {counted(len(names), 'column')}: "
                    f"{', '.join(names)}"
                )
            return pd.DataFrame(array, columns=names)
        missing = [name for name in names if name not in frame]
        if len(missing) == len(names):
            raise UserError(f"the table has none of the model's columns, which are {', '.join(map(repr, names))}")
        if missing:
            known = [str(name) for name in frame.columns if name not in names]
            raise UserError(f"the table lacks the column {missing[0]!r}{did_you_mean(missing[0], known)}")
        return frame

    def plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON."""
        columns: list[dict[str, Any]] = []
        for column in self.columns:
            if isinstance(column, WordColumn):
                columns.append({"name": column.name, "levels": list(column.levels)})
            else:
                columns.append({"name": column.name, "fill": column.fill, "indicator": column.indicator})
                columns[-1] |= {"date": column.date} if column.date else {}
                columns[-1] |= {"shift": column.shift} if column.shift else {}
                columns[-1] |= {} if math.isnan(column.low) else {"low": column.low, "high": column.high}
        return {"kind": "table", "columns": columns}

    @staticmethod
    def restore(plain: Mapping[str, Any]) -> TableColumns:
        """Reads back what `plain` returned."""
        return TableColumns(
            tuple(
                WordColumn(one["name"], tuple(one["levels"])) if "levels" in one else NumberColumn(**one)
                for one in plain["columns"]
            )
        )


register_transform("table", TableColumns.restore)


LARGEST = 1e38
"""Single precision, in which networks compute, holds no number beyond 3.4e38."""


def numbers_of(values: pd.Series, date: bool | str = False) -> tuple[np.ndarray, int | None]:
    """Returns a column as numbers, nan where there is none, and the first row that holds text instead.

    Args:
        date: dates become days since 1970 (see `NumberColumn`); numbers are such days already.

    Raises:
        UserError: a number is too large.
    """
    if pd.api.types.is_bool_dtype(values.dtype):
        return values.to_numpy(np.float64), None
    if pd.api.types.is_timedelta64_dtype(values.dtype):
        return (values / pd.Timedelta(days=1)).to_numpy(np.float64), None
    is_number = pd.api.types.is_numeric_dtype(values.dtype)
    slashed = date if isinstance(date, str) else None
    numbers = days(values, slashed) if date and not is_number else numeric(values)
    large = np.flatnonzero((np.abs(numbers) > LARGEST) & np.isfinite(numbers))
    if len(large):
        raise UserError(
            f"the column {values.name!r} holds {numbers[large[0]]:g} in {row_at(large[0])}, beyond {LARGEST:g}; "
            "give it in another unit, or leave the cell empty"
        )
    bad = np.flatnonzero(np.isnan(numbers) & ~is_none(values))
    return numbers, int(bad[0]) if len(bad) else None


def clean_numbers(column: pd.Series, date: bool | str = False) -> tuple[np.ndarray, list[str]]:
    """Returns a column as numbers, with text and infinity as missing, and what is to be said of it, a sentence each."""
    values, bad = numbers_of(column, date)
    notes = [] if date else _written_notes(column, values)
    if bad is not None:
        count = int((np.isnan(values) & ~is_none(column)).sum())
        notes.append(
            f"the column {column.name!r} holds text in {counted(count, 'row')} (such as {shown(column.iloc[bad])} "
            f"in {row_at(bad)}), which counts as missing"
        )
    infinite = np.isinf(values)
    if infinite.any():
        count = int(infinite.sum())
        notes.append(f"the column {column.name!r} holds infinity in {counted(count, 'row')}, which counts as missing")
    return np.where(infinite, np.nan, values), notes


def _written_notes(column: pd.Series, values: np.ndarray) -> list[str]:
    """Returns a sentence if numbers of a column are written in another way than programs do."""
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return [f"the column {column.name!r} holds durations, which become days"]
    place = first_written(column, values)
    if place is None:
        return []
    return [f"the column {column.name!r} has numbers such as {shown(column.iloc[place])}, read as {values[place]:.10g}"]


def words_of(values: pd.Series) -> pd.Series:
    """Returns a column as words; a whole number loses its `.0`, and a missing one is empty."""
    if pd.api.types.is_float_dtype(values.dtype) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype("string").str.strip().fillna("")


@dataclass
class Rows:
    """A table with targets, before it is split.

    Attributes:
        numbers: the columns of the frame that hold numbers; the others hold words.
        dates: those of the numbers that are days since 1970, with what `NumberColumn` keeps of them.
    """

    frame: pd.DataFrame
    features: list[str]
    targets: list[str]
    y: np.ndarray
    numbers: set[str]
    dates: dict[str, bool | str]
    notes: list[str] = field(default_factory=list)


def refuse_nested(frame: pd.DataFrame, source: str) -> None:
    """Raises UserError if a column holds what is neither a number nor a word nor a date."""
    for name, column in frame.items():
        is_complex = pd.api.types.is_complex_dtype(column.dtype)
        first = column.dropna().iloc[:1]
        if is_complex or any(isinstance(value, list | tuple | set | dict | np.ndarray | bytes) for value in first):
            kind = "complex numbers" if is_complex else "lists or bytes"
            raise UserError(f"the column {str(name)!r} of {source} holds {kind}; give a table of numbers and words")


def read_columns(
    frame: pd.DataFrame,
    targets: Sequence[str] = (),
    features: Sequence[str] = (),
    ignore: Sequence[str] = (),
    categorical: Sequence[str] = (),
    source: str = "the table",
) -> Rows:
    """Finds targets and features in a table, and drops rows without a target.

    Args:
        targets: columns; none: the last one.
        features: columns; none: all that are not targets.
        ignore: columns that are left out.
        categorical: columns of numbers that are names.
        source: what messages call the table.

    Raises:
        UserError: a column is not there, twice there, or a target holds text; or no row has a target.
    """
    frame = frame.copy(deep=False)
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    names = list(frame.columns)
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"{source} has {names.count(twice[0])} columns named {twice[0]!r}; rename or delete one")
    _check_keys({"targets": targets, "features": features, "ignore": ignore, "categorical": categorical}, names, source)
    refuse_nested(frame[[name for name in names if name not in ignore]], source)
    notes = []
    if not targets:
        left = [name for name in names if name not in ignore]
        if not left:
            raise UserError(f"{source} has no column that could be the target")
        targets = left[-1:]
        notes.append(f"the target is the last column, {targets[0]!r} (task.data.targets names another)")
    features = list(features) or [name for name in names if name not in targets and name not in ignore]
    y = np.stack([_target(frame[name], source, notes) for name in targets], axis=1)
    known = np.isfinite(y).all(1)
    if not known.all():
        count = int((~known).sum())
        notes.append(f"{counted(count, 'row without a target is', 'rows without a target are')} left out")
        frame, y = frame[known], y[known]
    numbers: set[str] = set()
    dates: dict[str, bool | str] = {}
    for name in features:
        column = frame[name]
        if name in categorical:
            continue
        if date := _date_of(column):
            dates[name] = date
        elif _holds_words(column):
            continue
        values, said = clean_numbers(column, date)
        notes += said
        frame = frame.assign(**{name: values})
        numbers.add(name)
    if dates:
        notes.append(f"dates become days: {', '.join(map(_as_read, dates, dates.values()))}")
    return Rows(frame, features, list(targets), y, numbers, dates, notes)


def _check_keys(chosen: Mapping[str, Sequence[str]], names: Sequence[str], source: str) -> None:
    """Refuses columns that are not there, that a key names twice, or that two keys name which exclude each other."""
    for key, columns in chosen.items():
        unknown = [name for name in columns if name not in names]
        if unknown:
            raise UserError(f"task.data.{key}: {source} has no column {unknown[0]!r}{did_you_mean(unknown[0], names)}")
        twice = [name for name in columns if list(columns).count(name) > 1]
        if twice:
            raise UserError(f"task.data.{key} names {twice[0]!r} more than once")
    for one, other in (
        ("targets", "features"),
        ("targets", "ignore"),
        ("targets", "categorical"),
        ("features", "ignore"),
    ):
        both = [name for name in chosen[one] if name in chosen[other]]
        if both:
            raise UserError(f"task.data.{one} and task.data.{other} both name {both[0]!r}")


def _target(column: pd.Series, source: str, notes: list[str]) -> np.ndarray:
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        raise UserError(
            f"the target {column.name!r} of {source} holds dates; give numbers, such as days since one of them"
        )
    values, bad = numbers_of(column)
    if bad is not None:
        text = shown(column.iloc[bad])
        raise UserError(f"the target {column.name!r} of {source} holds the text {text} in {row_at(bad)}; give numbers")
    if pd.api.types.is_bool_dtype(column.dtype):
        notes.append(f"the target {column.name!r} is true or false: 1 stands for true")
    notes += _written_notes(column, values)
    return values


def _date_of(column: pd.Series) -> bool | str:
    """Whether at least half of the values that are there are dates; where they have slashes, their form."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return True
    if pd.api.types.is_numeric_dtype(column.dtype) or not _holds_words(column):
        return False
    there = column.dropna().astype("string")
    dated = there[looks_dated(there)]
    slashed = slashed_form(dated)
    found = len(dated) >= 0.5 * len(there) and bool(np.isfinite(days(dated, slashed)).mean() >= 0.5)
    return slashed or True if found else False


def _as_read(name: str, date: bool | str) -> str:
    """Returns a column's name; with the order of day and month, where its cells told it."""
    if not isinstance(date, str):
        return name
    return f"{name} ({'day, month' if date.startswith('%d') else 'month, day'}, year)"


def _holds_words(column: pd.Series) -> bool:
    """Whether fewer than half of the values that are there are numbers."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return False
    there = column[~is_none(column)]
    return bool(len(there)) and bool(np.isfinite(numeric(there)).mean() < 0.5)


def split_table(rows: Rows, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> Split:
    """Encodes a table; what is done to each column is decided on the training rows alone.

    Args:
        train, val, test: row numbers.

    Raises:
        UserError: no column can be used as an input.
    """
    notes = list(rows.notes)
    columns = _columns(rows, rows.frame.iloc[train], rows.y[train], notes)
    if not columns:
        raise UserError(
            "no column is left as an input: each is constant, empty, the target, or a different word in most rows"
        )
    transform = TableColumns(tuple(columns))
    x = transform.encode(rows.frame)
    places = rows.frame.index.to_numpy()
    fit, check, score = (
        Arrays(x[part], torch.from_numpy(rows.y[part]), rows=places[part]) for part in (train, val, test)
    )
    return Split(fit, check, score, rows.targets, transform.names, transform, notes)


def _columns(rows: Rows, train: pd.DataFrame, y: np.ndarray, notes: list[str]) -> list[NumberColumn | WordColumn]:
    """Decides on each column by the training rows and their targets."""
    kept: list[NumberColumn | WordColumn] = []
    seen: dict[bytes, str] = {}
    dropped: dict[str, list[str]] = {}
    filled: list[str] = []
    for name in rows.features:
        values = train[name]
        numbers = values.to_numpy(np.float64) if name in rows.numbers else None
        reason = _useless(values, numbers is not None)
        if reason is None:
            content = "\0".join(words_of(values)).encode() if numbers is None else numbers.tobytes()
            equal = [] if numbers is None else [np.array_equal(numbers, target) for target in y.T]
            if any(equal):
                reason = f"a copy of the target {rows.targets[equal.index(True)]!r}"
            elif content in seen:
                reason = f"a copy of {seen[content]!r}"
            else:
                seen[content] = name
        if reason is not None:
            dropped.setdefault(reason, []).append(name)
        elif numbers is not None:
            missing = bool(values.isna().any())
            middle = float(values.median())
            coarse = float(values.abs().max()) * 2**-24 > 1e-4 * float(values.std())
            shift, ends = middle if coarse else 0.0, (float(values.min()), float(values.max()))
            kept.append(NumberColumn(name, middle, missing, rows.dates.get(name, False), shift, *ends))
            notes += far_notes_of(f"input {name!r}", numbers, values.index.to_numpy())
            filled += [name] if missing else []
        else:
            kept.append(_words(values, notes))
    for reason, names in dropped.items():
        notes.append(f"left out, as {reason}: {', '.join(names)}")
    if filled:
        notes.append(
            f"missing numbers become the training rows' median, with an input that says so: {', '.join(filled)}"
        )
    words = [column for column in kept if isinstance(column, WordColumn)]
    if words:
        text = ", ".join(f"{column.name} ({len(column.levels)})" for column in words)
        notes.append(f"one input for each word: {text}")
    return kept


def _useless(values: pd.Series, number: bool) -> str | None:
    """Returns why a column cannot be an input, None if it can."""
    there = values.dropna()
    if there.empty:
        return "empty"
    if there.nunique() == 1 and len(there) == len(values):
        return "constant"
    date = None if number else unclear_date(there)
    if date is not None:
        return f"dates such as {shown(date)}, where no cell tells day from month, or cells differ (write 2024-01-31)"
    if not number and len(values) >= 10 and there.nunique() > 0.5 * len(there):
        return "a different word in most rows"
    return None


def _words(values: pd.Series, notes: list[str]) -> WordColumn:
    counts = words_of(values).value_counts()
    levels = counts.index[: max(COMMON_LEVELS, min(MOST_LEVELS, int((counts >= COMMON_ROWS).sum())))]
    if len(counts) > len(levels):
        notes.append(
            f"the column {values.name!r} has {len(counts)} different words; the {len(levels)} most common count"
        )
    return WordColumn(str(values.name), tuple(sorted(str(level) for level in levels)))


def row_counter(frame: pd.DataFrame, name: str) -> bool:
    """Whether a column of whole numbers, none twice, is an id by its name, or is the first one and counts the rows."""
    column = frame[name]
    if not pd.api.types.is_integer_dtype(column.dtype) or len(column) < 3 or not column.is_unique:
        return False
    is_id = re.fullmatch(r"(.*[ _-])?id|index|unnamed: 0", str(name).strip().lower()) is not None
    counts = column.min() in (0, 1) and column.max() - column.min() == len(column) - 1
    return is_id or (name == frame.columns[0] and counts)
