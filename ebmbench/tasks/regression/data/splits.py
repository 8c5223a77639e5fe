"""Which rows are for training, validation and test: at random, by groups, by time, or at the ends of a column."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import pandas as pd
from pydantic import Field

from ebmbench.core.errors import UserError, counted, did_you_mean, row_at, shown
from ebmbench.core.settings import Section
from ebmbench.tasks.regression.data.cells import amounts, date_form, days
from ebmbench.tasks.regression.data.files import digest

Rule: TypeAlias = Literal["random", "group", "time", "tails", "gap"]
RULES: dict[str, str] = {
    "random": "at random",
    "group": "rows with the same value stay together",
    "time": "the latest rows are for test, and the latest of the others for validation",
    "tails": "the lowest and the highest values are for test",
    "gap": "the values in the middle are for test",
}
Parts: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
MIN_ROWS = 10
"""With fewer there is nothing to train, choose and test with."""


class Splits(Section):
    """How the rows of a dataset are split: settings that many datasets have."""

    split_rule: Rule = Field("random", description="; ".join(f"{name}: {text}" for name, text in RULES.items()))
    split_by: str | None = Field(
        None,
        min_length=1,
        description="the column that the rule is about; null: the column of dates (time), or the first target",
    )
    split_file: str | None = Field(
        None,
        min_length=1,
        description='JSON, {"test": [[row, ...], ...]}: the test rows of each split, from 0; "val" too, if wanted',
    )
    split: int = Field(0, ge=0, lt=100_000, description="which split of the file; without a file, of the random ones")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of the rows that are for test, without a file")
    val_fraction: float = Field(0.2, gt=0, lt=1, description="share of the other rows that are for validation")
    split_seed: int = Field(0, ge=0, lt=2**31, description="of the random split")

    files: ClassVar[tuple[str, ...]] = ("split_file",)
    """Settings that are files: their contents count in a run's identity, not their places."""

    def identity(self) -> dict[str, Any]:
        """Returns the settings, with the files' contents instead of their places."""
        found = super().identity()
        for key in self.files:
            if key in found:
                found[key] = digest(Path(found[key]).expanduser()) or found[key]
        return found

    def parts(self, table: pd.DataFrame, targets: Sequence[str], total: int, dates: Sequence[str] = ()) -> Parts:
        """Returns the training, validation and test rows of a table, by number.

        Args:
            table: the rows that have a target; its index is their place in the source.
            targets: the names of the targets, columns of the table.
            total: the rows of the source.
            dates: the columns of dates.

        Raises:
            UserError: the rule cannot be used with these rows, or leaves too few.
        """
        if self.split_file is not None:
            path = Path(self.split_file).expanduser()
            return split_around(
                table.index.to_numpy(), path, total, self.split, self.val_fraction, [self.split_seed, self.split]
            )
        if len(table) < MIN_ROWS:
            raise UserError(f"the data have {counted(len(table), 'row')} with a target; at least {MIN_ROWS} are needed")
        seed = [self.split_seed, self.split] if self.split else self.split_seed
        random, values = np.random.default_rng(seed), rule_values(self.split_rule, self.split_by, table, targets, dates)
        rest, test = held_out(self.split_rule, values, self.test_fraction, random, len(table))
        inner = self.split_rule if self.split_rule in ("group", "time") else "random"
        val_values = values[rest] if values is not None else None
        train, val = held_out(
            inner, val_values, self.val_fraction, random, len(rest), shuffled=self.split_rule == "random"
        )
        return checked(np.sort(rest[train]), np.sort(rest[val]), np.sort(test), self.split_rule)

    def groups(self, table: pd.DataFrame, targets: Sequence[str]) -> np.ndarray | None:
        """Returns the number of each row's group; None where the rule is another one."""
        if self.split_rule != "group" or self.split_file is not None:
            return None
        return rule_values("group", self.split_by, table, targets)


def rule_values(
    rule: str, by: str | None, table: pd.DataFrame, targets: Sequence[str], dates: Sequence[str] = ()
) -> np.ndarray | None:
    """Returns what a rule goes by: numbers, or the number of each row's group; None for random.

    Raises:
        UserError: the column is not there, or is not of the kind that the rule needs.
    """
    if rule == "random":
        return None
    if by is None and rule == "group":
        raise UserError("data.split_rule=group needs data.split_by: the column whose equal values stay together")
    if by is None and rule == "time":
        if len(dates) != 1:
            which = f"one of {', '.join(dates)}" if dates else "the column that orders the rows"
            raise UserError(f"data.split_rule=time needs data.split_by: {which}")
        by = dates[0]
    by = targets[0] if by is None else by
    if by not in table:
        raise UserError(f"data.split_by={by}: the data have no such column{did_you_mean(by, list(map(str, table)))}")
    column = table[by]
    if rule == "group":
        return pd.factorize(column, use_na_sentinel=False)[0]
    if pd.api.types.is_numeric_dtype(column.dtype):
        numbers = column.to_numpy(np.float64, na_value=np.nan)
    else:
        form, _ = date_form(column)
        numbers = days(column, form) if form else amounts(column).numbers
    missing = np.flatnonzero(np.isnan(numbers))
    if len(missing):
        place = int(missing[0])
        raise UserError(
            f"data.split_by={by}: {row_at(int(table.index[place]))}, has {shown(column.iloc[place])}; a number or a "
            "date is needed in each row"
        )
    return numbers


def held_out(
    rule: str,
    values: np.ndarray | None,
    fraction: float,
    random: np.random.Generator,
    count: int,
    shuffled: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Splits row numbers by a rule: those that are kept, and those that are held out.

    Args:
        values: what `rule_values` returned.
        fraction: share of the rows that is held out, at least one row; as near as groups and equal times allow.
        shuffled: whether the rows are in random order already.
    """
    wanted = max(1, round(fraction * count))
    if rule == "random" or values is None:
        order = np.arange(count) if shuffled else random.permutation(count)
        return order[wanted:], order[:wanted]
    if rule == "group":
        sizes = np.bincount(values)
        order = random.permutation(np.flatnonzero(sizes))
        middle = np.cumsum(sizes[order]) - sizes[order] / 2
        chosen = np.isin(values, order[: max(1, int((middle <= wanted).sum()))])
    elif rule == "time":
        chosen = values >= np.sort(values)[count - wanted]
    else:
        distance = np.abs(_ranks(values) - (count - 1) / 2)
        order = np.argsort(distance, kind="stable")
        chosen = np.isin(np.arange(count), order[count - wanted :] if rule == "tails" else order[:wanted])
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value, equal ones with their mean rank."""
    return pd.Series(values).rank().to_numpy() - 1


def checked(train: np.ndarray, val: np.ndarray, test: np.ndarray, rule: str = "random") -> Parts:
    """Returns the parts, or raises UserError if one is too small."""
    if len(train) < 2 or not len(val) or not len(test):
        sizes = f"{len(train)} for training, {len(val)} for validation, {len(test)} for test"
        raise UserError(
            f"data.split_rule={rule} leaves too few rows: {sizes}; at least 2, 1 and 1 are needed. Change "
            "data.test_fraction or data.val_fraction"
        )
    return train, val, test


def split_around(
    places: np.ndarray, path: Path, total: int, split: int, val_fraction: float, seed: int | Sequence[int]
) -> Parts:
    """Splits row numbers into training, validation and test, where a file gives the test rows.

    Args:
        places: of the rows in the source, which has `total`.
    """
    chosen = {part: np.isin(places, rows) for part, rows in read_splits(path, split, total).items()}
    rest = np.flatnonzero(~chosen["test"])
    if "val" in chosen:
        return checked(rest[~chosen["val"][rest]], np.flatnonzero(chosen["val"]), np.flatnonzero(chosen["test"]))
    order = np.random.default_rng(seed).permutation(rest)
    train, val = held_out("random", None, val_fraction, np.random.default_rng(), len(order), shuffled=True)
    return checked(np.sort(order[train]), np.sort(order[val]), np.flatnonzero(chosen["test"]))


def read_splits(path: Path, split: int, total: int) -> dict[str, np.ndarray]:
    """Returns the test rows of a split, and its validation rows if the file has them.

    Raises:
        UserError: the file is not of this form, has fewer splits, or names a row that is not there.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        content = None
    given = {part: content.get(part) for part in ("test", "val")} if isinstance(content, dict) else {}
    if not isinstance(given.get("test"), list) or not given["test"]:
        raise UserError(f'{path} is no file of splits: {{"test": [[row, ...], ...]}} is expected')
    parts: dict[str, np.ndarray] = {}
    for part, splits in given.items():
        if splits is None:
            continue
        if not isinstance(splits, list) or split >= len(splits):
            count = len(splits) if isinstance(splits, list) else 0
            there = "one split, 0" if count == 1 else f"{count} splits, 0 to {count - 1}"
            raise UserError(f"data.split={split}: {path} has {there}" + (f" of {part!r}" if part != "test" else ""))
        parts[part] = _rows_of(splits[split], f"{path}: split {split}", total)
    if "val" in parts and (both := np.intersect1d(parts["test"], parts["val"])).size:
        raise UserError(f"{path}: split {split} has row {both[0]} in both test and val; give each row once")
    return parts


def _rows_of(rows: Any, where: str, total: int) -> np.ndarray:
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{where} must be a list of rows from 0 to {total - 1}")
    wrong = [row for row in rows if type(row) is not int or not 0 <= row < total]
    if wrong:
        raise UserError(f"{where} holds {shown(wrong[0])}; give rows, whole numbers from 0 to {total - 1}")
    twice = len(rows) - len(set(rows))
    if twice:
        raise UserError(f"{where} names {counted(twice, 'row')} more than once; give each row once")
    if len(rows) > total - 3:
        raise UserError(f"{where} leaves {counted(total - len(rows), 'row')} to train with")
    return np.array(rows)
