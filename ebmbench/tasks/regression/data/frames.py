"""From a table of numbers, categories and dates to arrays: what is done to a column is decided on the training rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ebmbench.core.errors import UserError, counted, did_you_mean, row_at, shown
from ebmbench.tasks.regression.data.base import Arrays, Frame, Split
from ebmbench.tasks.regression.data.cells import amounts, date_form, days, is_none, refuse_nested, without_codes
from ebmbench.tasks.regression.data.notes import column_notes
from ebmbench.tasks.regression.data.transforms import register_transform

if TYPE_CHECKING:
    from torch import Tensor

COMMON_LEVELS, MOST_LEVELS, COMMON_ROWS = 30, 300, 5
"""The 30 most common categories of a column become inputs, and up to 300 that are in 5 training rows at least."""
LARGEST = 1e38
"""Single precision, in which networks compute, holds no number beyond 3.4e38."""


@dataclass(frozen=True)
class Written:
    """How a column of numbers is written: dates in a form, or amounts in a unit."""

    date: str | None = None
    unit: str = ""

    def read(self, column: pd.Series) -> tuple[np.ndarray, list[str]]:
        """Returns a column as numbers, dates as days since 1970, with nan for a missing value; and what was done.

        Text, infinity and amounts in another unit count as missing values.

        Raises:
            UserError: a number is too large.
        """
        name = f"the column {column.name!r}"
        if pd.api.types.is_bool_dtype(column.dtype):
            return column.to_numpy(np.float64, na_value=np.nan), []
        if pd.api.types.is_timedelta64_dtype(column.dtype):
            return (column / pd.Timedelta(days=1)).to_numpy(np.float64), [f"{name} holds durations, which become days"]
        notes = []
        if self.date is not None and not pd.api.types.is_numeric_dtype(column.dtype):
            numbers = days(column, self.date)
        else:
            found = amounts(column, self.unit)
            numbers = found.numbers
            if found.written is not None:
                cell = shown(column.iloc[found.written])
                notes.append(f"{name} has numbers such as {cell}, read as {numbers[found.written]:.10g}")
        large = np.flatnonzero((np.abs(numbers) > LARGEST) & np.isfinite(numbers))
        if len(large):
            raise UserError(
                f"{name} holds {numbers[large[0]]:g} in {row_at(int(large[0]))}, beyond {LARGEST:g}; give it in "
                "another unit, or leave the cell empty"
            )
        text, infinite = np.isnan(numbers) & ~is_none(column), np.isinf(numbers)
        for kind, there in (
            ("text" + (f", or another unit than {self.unit}," if self.unit else ""), text),
            ("infinity", infinite),
        ):
            if there.any():
                row = int(there.argmax())
                notes.append(
                    f"{name} holds {kind} in {counted(int(there.sum()), 'row')} (such as {shown(column.iloc[row])} in "
                    f"{row_at(row)}), which counts as a missing value"
                )
        return np.where(infinite, np.nan, numbers), notes


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers.

    Attributes:
        fill: what stands for a missing value: the median of the training rows.
        indicator: whether a second input says that the value is missing.
        low, high: the ends of the training rows' numbers.
        shift: what is subtracted, where single precision would not tell the numbers apart.
        date, unit: how it is written, as in `Written`.
    """

    name: str
    fill: float
    indicator: bool
    low: float
    high: float
    shift: float = 0.0
    date: str | None = None
    unit: str = ""

    @property
    def names(self) -> list[str]:
        """The names of its inputs."""
        return [self.name, f"{self.name} is missing"] if self.indicator else [self.name]

    def encode(self, column: pd.Series) -> tuple[np.ndarray, list[str]]:
        """Returns its inputs, float32 `[N, 1 or 2]`, and what was done, a sentence each.

        Raises:
            UserError: it holds something, and no number or date.
        """
        kind, example = ("number", "") if self.date is None else ("date", " such as 2024-01-31")
        numbers, notes = Written(self.date, self.unit).read(column)
        missing = np.isnan(numbers)
        if missing.all() and not is_none(column).all():
            text = shown(column[~is_none(column)].iloc[0])
            raise UserError(
                f"the column {self.name!r} holds no {kind}{example} (but {text}), where the model takes {kind}s"
            )
        if missing.any():
            notes.append(
                f"the column {self.name!r} has no {kind} in {counted(int(missing.sum()), 'row')}: training's median, "
                f"{self._text(self.fill)}, is taken"
            )
        outside = np.maximum(self.low - numbers, numbers - self.high)
        far = np.flatnonzero(outside > self.high - self.low)
        if len(far):
            worst = int(np.nanargmax(outside))
            notes.append(
                f"the column {self.name!r} is far outside of training's {self._text(self.low)} to "
                f"{self._text(self.high)} in {counted(len(far), 'row')} (such as {self._text(numbers[worst])} in "
                f"{row_at(worst)}): no training row says what holds there"
            )
        inputs = [np.where(missing, self.fill, numbers) - self.shift, missing]
        return np.stack(inputs[: 1 + self.indicator], axis=1).astype(np.float32), notes

    def _text(self, number: float) -> str:
        return str(np.datetime64(math.floor(number), "D")) if self.date else f"{number:.6g}"


@dataclass(frozen=True)
class CategoryColumn:
    """A column of categories: an input for each level, 1 where the row has it. Other categories give zeros."""

    name: str
    levels: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The names of its inputs."""
        return [f"{self.name}={level}" for level in self.levels]

    def encode(self, column: pd.Series) -> tuple[np.ndarray, list[str]]:
        """Returns its inputs, float32 `[N, levels]`, and what was done, a sentence each."""
        texts = category_texts(column)
        new = np.flatnonzero(~texts.isin(self.levels) & (texts != ""))
        notes = []
        if len(new):
            notes.append(
                f"the column {self.name!r} holds a category that training did not have in {counted(len(new), 'row')} "
                f"(such as {shown(texts.iloc[new[0]])} in {row_at(int(new[0]))}), which counts as none"
            )
        return (texts.to_numpy(object)[:, None] == np.array(self.levels, object)).astype(np.float32), notes


@dataclass(frozen=True)
class TableColumns:
    """Turns tables with the columns of the training table into x, float32 `[N, p]`.

    Attributes:
        missing: the codes that stand for a missing value.
    """

    columns: tuple[NumberColumn | CategoryColumn, ...]
    missing: tuple[float | str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the p inputs."""
        return [name for column in self.columns for name in column.names]

    @property
    def used(self) -> list[str]:
        """The columns that it reads."""
        return [column.name for column in self.columns]

    def read(self, frame: Frame) -> tuple[Tensor, list[str]]:
        """Returns inputs of new rows, treated as the training rows were; and what was done, a sentence each."""
        table = without_codes(self._table(frame), self.missing)
        parts = [column.encode(table[column.name]) for column in self.columns]
        x = np.concatenate([part for part, _ in parts], axis=1)
        return torch.from_numpy(x), [note for _, notes in parts for note in notes]

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
        return frame[names]

    def plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON."""
        return {"kind": "table", "columns": [asdict(column) for column in self.columns], "missing": list(self.missing)}

    @staticmethod
    def restore(plain: Mapping[str, Any]) -> TableColumns:
        """Reads back what `plain` returned."""
        columns = (
            CategoryColumn(one["name"], tuple(one["levels"])) if "levels" in one else NumberColumn(**one)
            for one in plain["columns"]
        )
        return TableColumns(tuple(columns), tuple(plain["missing"]))


register_transform("table", TableColumns.restore)


def category_texts(values: pd.Series) -> pd.Series:
    """Returns a column of categories as text; a whole number loses its `.0`, and a missing one is empty."""
    if pd.api.types.is_float_dtype(values.dtype) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    texts = values.astype("string").str.strip().fillna("")
    return texts.where(~is_none(values), "")


@dataclass
class Rows:
    """A table with targets, before it is split.

    Attributes:
        frame: its index is the place of each row in the source. Columns of numbers are read already.
        numbers: how the columns of numbers are written; the other features are categories.
        weight: of each row, None if all count alike.
    """

    frame: pd.DataFrame
    features: list[str]
    targets: list[str]
    y: np.ndarray
    numbers: dict[str, Written]
    missing: tuple[float | str, ...]
    weight: np.ndarray | None
    notes: list[str] = field(default_factory=list)

    @property
    def dates(self) -> list[str]:
        """The columns of dates."""
        return [name for name, written in self.numbers.items() if written.date]

    @property
    def table(self) -> pd.DataFrame:
        """The rows with their targets as numbers: what a rule of splitting goes by."""
        return self.frame.assign(**{name: self.y[:, k] for k, name in enumerate(self.targets)})


def read_columns(
    frame: pd.DataFrame,
    targets: Sequence[str] = (),
    features: Sequence[str] = (),
    ignore: Sequence[str] = (),
    categorical: Sequence[str] = (),
    missing: Sequence[float | str] = (),
    weights: str | None = None,
    source: str = "the table",
) -> Rows:
    """Finds targets and features in a table, and drops rows without a target.

    Args:
        targets: columns; none: the last one.
        features: columns; none: all that are not targets.
        ignore: columns that are left out.
        categorical: columns of numbers that are categories.
        missing: values that stand for a missing one.
        weights: the column of the rows' weights.
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
    chosen = {"targets": targets, "features": features, "ignore": ignore, "categorical": categorical}
    _check_keys({**chosen, "weights": () if weights is None else (weights,)}, names, source)
    refuse_nested(frame[[name for name in names if name not in ignore]], source)
    notes = []
    left = [name for name in names if name not in ignore and name != weights]
    if not targets:
        if not left:
            raise UserError(f"{source} has no column that could be the target")
        targets = left[-1:]
        notes.append(f"the target is the last column, {targets[0]!r} (data.targets names another)")
    features = list(features) or [name for name in left if name not in targets]
    frame = without_codes(frame, tuple(missing))
    y = np.stack([_target(frame[name], source, notes) for name in targets], axis=1)
    weight = None if weights is None else _weights(frame[weights], source)
    known = np.isfinite(y).all(1)
    if not known.all():
        notes.append(f"{counted(int((~known).sum()), 'row without a target is', 'rows without a target are')} left out")
        frame, y, weight = frame[known], y[known], None if weight is None else weight[known]
    numbers: dict[str, Written] = {}
    for name in features:
        written = None if name in categorical else written_as(frame[name])
        if written is not None:
            values, said = written.read(frame[name])
            notes += said
            frame = frame.assign(**{name: values})
            numbers[name] = written
    dates = {name: written.date for name, written in numbers.items() if written.date}
    if dates:
        notes.append(f"dates become days: {', '.join(map(_as_read, dates, dates.values()))}")
    return Rows(frame, features, list(targets), y, numbers, tuple(missing), weight, notes)


def written_as(column: pd.Series) -> Written | None:
    """Returns how a column of numbers or dates is written; None for categories.

    Text is a number where at least half of the values that are there are amounts in one unit. Text of whole numbers
    alone is a category, as of a pandas `category`, unless most rows have a value of their own.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        return None
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        return Written()
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return Written()
    form, _ = date_form(column)
    if form is not None:
        return Written(date=form)
    there = column[~is_none(column)]
    if not len(there):
        return Written()
    texts = there[there.map(lambda value: isinstance(value, str))].str.strip()
    if len(texts) == column.notna().sum() and texts.str.fullmatch(r"\d+").all():
        padded = bool(texts.str.fullmatch(r"0\d+").any())
        if padded or texts.nunique() <= min(MOST_LEVELS, len(texts) / 2):
            return None
    found = amounts(there)
    return Written(unit=found.unit) if np.isfinite(found.numbers).mean() >= 0.5 else None


def _check_keys(chosen: Mapping[str, Sequence[str]], names: Sequence[str], source: str) -> None:
    """Refuses columns that are not there, that a key names twice, or that two keys name which exclude each other."""
    for key, columns in chosen.items():
        unknown = [name for name in columns if name not in names]
        if unknown:
            raise UserError(f"data.{key}: {source} has no column {unknown[0]!r}{did_you_mean(unknown[0], names)}")
        twice = [name for name in columns if list(columns).count(name) > 1]
        if twice:
            raise UserError(f"data.{key} names {twice[0]!r} more than once")
    pairs = [("targets", key) for key in ("features", "ignore", "categorical", "weights")]
    for one, other in (*pairs, ("features", "ignore"), ("features", "weights")):
        both = [name for name in chosen[one] if name in chosen[other]]
        if both:
            raise UserError(f"data.{one} and data.{other} both name {both[0]!r}")


def _target(column: pd.Series, source: str, notes: list[str]) -> np.ndarray:
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        raise UserError(
            f"the target {column.name!r} of {source} holds dates; give numbers, such as days since one of them"
        )
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    unit = "" if pd.api.types.is_numeric_dtype(column.dtype) else amounts(column).unit
    values, said = Written(unit=unit).read(column)
    text = np.flatnonzero(np.isnan(values) & ~is_none(column) & ~np.isinf(pd.to_numeric(column, errors="coerce")))
    if len(text) and not pd.api.types.is_numeric_dtype(column.dtype):
        row = int(text[0])
        raise UserError(
            f"the target {column.name!r} of {source} holds the text {shown(column.iloc[row])} in {row_at(row)}; give "
            "numbers" + (f" in {unit}" if unit else "") + ", or name the text in data.missing"
        )
    if pd.api.types.is_bool_dtype(column.dtype):
        notes.append(f"the target {column.name!r} is true or false: 1 stands for true")
    notes += said
    return values


def _weights(column: pd.Series, source: str) -> np.ndarray:
    values, _ = Written().read(column)
    wrong = np.flatnonzero(~(values >= 0))
    if len(wrong) or not values.sum() > 0:
        where = f"{shown(column.iloc[wrong[0]])} in {row_at(int(wrong[0]))}" if len(wrong) else "only zeros"
        raise UserError(
            f"the weights {column.name!r} of {source} hold {where}; give numbers from 0, and not only zeros"
        )
    return values


def _as_read(name: str, form: str) -> str:
    """Returns a column's name; with the order of day and month, where its cells told it."""
    order = {"%d %m": " (day, month, year)", "%m %d": " (month, day, year)"}
    return name + order.get(form[:5], "")


def read_targets(table: pd.DataFrame, names: Sequence[str], transform: Any) -> tuple[np.ndarray, list[str]]:
    """Returns the targets of new rows, `[N, D]`, nan where there is none; and what was done, a sentence each."""
    table = without_codes(table[list(names)], getattr(transform, "missing", ()))
    columns = [(written_as(table[name]) or Written()).read(table[name]) for name in names]
    return np.stack([values for values, _ in columns], axis=1), [note for _, notes in columns for note in notes]


def split_table(
    rows: Rows, train: np.ndarray, val: np.ndarray, test: np.ndarray, group: np.ndarray | None = None
) -> Split:
    """Encodes a table; what is done to each column is decided on the training rows alone.

    Args:
        train, val, test: row numbers.
        group: of each row, where the rows of a group stay together.

    Raises:
        UserError: no column can be used as an input.
    """
    notes = list(rows.notes)
    columns = _columns(rows, rows.frame.iloc[train], rows.y[train], notes)
    if not columns:
        raise UserError(
            "no column is left as an input: each is constant, empty, the target, or a different category in most rows"
        )
    transform = TableColumns(tuple(columns), rows.missing)
    x, _ = transform.read(rows.frame)
    places, y = rows.frame.index.to_numpy(), torch.from_numpy(rows.y)
    weight = None if rows.weight is None else torch.from_numpy(rows.weight.astype(np.float32))
    fit, check, score = (
        Arrays(
            x[part],
            y[part],
            rows=places[part],
            weight=None if weight is None else weight[part],
            group=None if group is None else group[part],
        )
        for part in (train, val, test)
    )
    return Split(fit, check, score, rows.targets, transform.names, transform, notes)


def _columns(rows: Rows, train: pd.DataFrame, y: np.ndarray, notes: list[str]) -> list[NumberColumn | CategoryColumn]:
    """Decides on each column by the training rows and their targets."""
    kept: list[NumberColumn | CategoryColumn] = []
    seen: dict[bytes, str] = {}
    dropped: dict[str, list[str]] = {}
    for name in rows.features:
        values, written = train[name], rows.numbers.get(name)
        reason = _useless(values, written is not None)
        if reason is None:
            numbers = None if written is None else values.to_numpy(np.float64)
            content = "\0".join(category_texts(values)).encode() if numbers is None else numbers.tobytes()
            equal = [] if numbers is None else [np.array_equal(numbers, target) for target in y.T]
            if any(equal):
                reason = f"a copy of the target {rows.targets[equal.index(True)]!r}"
            elif content in seen:
                reason = f"a copy of {seen[content]!r}"
            seen.setdefault(content, name)
        if reason is not None:
            dropped.setdefault(reason, []).append(name)
        elif written is not None:
            middle, low, high = float(values.median()), float(values.min()), float(values.max())
            coarse = max(abs(low), abs(high)) * 2**-24 > 1e-4 * float(values.std())
            kept.append(
                NumberColumn(
                    name, middle, bool(values.isna().any()), low, high, middle if coarse else 0.0, **asdict(written)
                )
            )
            notes += column_notes(f"input {name!r}", values.to_numpy(np.float64), values.index.to_numpy())
        else:
            kept.append(_categories(values, notes))
    notes += [f"left out, as {reason}: {', '.join(names)}" for reason, names in dropped.items()]
    filled = [column.name for column in kept if isinstance(column, NumberColumn) and column.indicator]
    if filled:
        notes.append(f"missing numbers get the training median, and an input that marks them: {', '.join(filled)}")
    categories = [column for column in kept if isinstance(column, CategoryColumn)]
    if categories:
        text = ", ".join(f"{column.name} ({len(column.levels)})" for column in categories)
        notes.append(f"one input for each category: {text}")
    return kept


def _useless(values: pd.Series, number: bool) -> str | None:
    """Returns why a column cannot be an input, None if it can."""
    there = values.dropna()
    if there.empty:
        return "empty"
    if there.nunique() == 1 and len(there) == len(values):
        return "constant"
    date = None if number else date_form(there)[1]
    if date is not None:
        return f"dates such as {shown(date)}, where no cell tells day from month, or cells differ (write 2024-01-31)"
    if not number and len(values) >= 10 and there.nunique() > 0.5 * len(there):
        return "a different category in most rows"
    return None


def _categories(values: pd.Series, notes: list[str]) -> CategoryColumn:
    counts = category_texts(values).value_counts()
    levels = counts.index[: max(COMMON_LEVELS, min(MOST_LEVELS, int((counts >= COMMON_ROWS).sum())))]
    if len(counts) > len(levels):
        notes.append(
            f"the column {values.name!r} has {len(counts)} categories; the {len(levels)} most common ones are inputs"
        )
    return CategoryColumn(str(values.name), tuple(sorted(str(level) for level in levels)))


def row_counter(frame: pd.DataFrame, name: str) -> bool:
    """Whether a column of whole numbers, none twice, is an id by its name, or is the first one and counts the rows."""
    column = frame[name]
    if not pd.api.types.is_integer_dtype(column.dtype) or len(column) < 3 or not column.is_unique:
        return False
    is_id = re.fullmatch(r"(.*[ _-])?id|index|unnamed: 0", str(name).strip().lower()) is not None
    counts = column.min() in (0, 1) and column.max() - column.min() == len(column) - 1
    return is_id or (name == frame.columns[0] and counts)
