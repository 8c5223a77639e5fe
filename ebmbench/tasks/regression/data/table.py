"""A table of one's own, CSV or Parquet, and the UCI sets with their published splits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BeforeValidator, Field
from typing_extensions import override

from ebmbench.core.errors import UserError, did_you_mean, shown
from ebmbench.core.registry import register
from ebmbench.tasks.regression.data.base import NAME, NAME_TEXT, Data, Split
from ebmbench.tasks.regression.data.files import digest, read_table
from ebmbench.tasks.regression.data.frames import read_columns, row_counter, split_table
from ebmbench.tasks.regression.data.splits import Splits, split_around


def _listed(value: Any) -> Any:
    values = (value,) if isinstance(value, str | int) else value
    return tuple(str(one) if type(one) is int else one for one in values) if isinstance(values, list | tuple) else value


def _values(value: Any) -> Any:
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(float(one) if type(one) is int else one for one in values)


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One column or several: `data.targets=price` or `data.targets=[lat,lon]`. A name may be a whole number."""


class TableData(Splits, Data):
    """A dataset that is a table. A subclass defines `read`.

    Missing numbers become the median of the training rows, with an input that marks them. Categories become an input
    for each level. What is done is said, and kept with the run.
    """

    targets: Names = Field((), description="the columns to predict; none: the last one")
    features: Names = Field((), description="the columns to predict from; none: all others")
    ignore: Names = Field((), description="columns that are left out")
    categorical: Names = Field((), description="columns of numbers that are categories, such as a postcode")
    missing: Annotated[tuple[float | str, ...], BeforeValidator(_values)] = Field(
        (), description="values that stand for a missing one, such as [-200]"
    )
    weights: str | None = Field(None, min_length=1, description="the column of the rows' weights in training")

    def read(self) -> tuple[pd.DataFrame, str, list[str]]:
        """Returns the table, what messages call it, and a sentence for each thing that was unusual in reading it.

        Raises:
            UserError: it is not there, or is no table.
        """
        raise NotImplementedError

    @override
    def load(self) -> Split:
        frame, source, notes = self.read()
        if frame.shape[1] == 1:
            raise UserError(
                f"{source} has one column, {str(frame.columns[0])!r}; a target and an input are two, and cells are "
                "separated by a comma, a semicolon, a tab or |"
            )
        ignore = list(self.ignore)
        if self.split_rule == "group" and self.split_by not in (*self.features, *ignore, None):
            ignore.append(str(self.split_by))
        named = (*self.features, *self.targets, *self.categorical, *ignore, self.weights, self.split_by)
        counters = [str(name).strip() for name in frame if str(name).strip() not in named and row_counter(frame, name)]
        if counters and len(counters) < frame.shape[1]:
            notes.append(f"left out, because it only counts or names the rows: {', '.join(counters)}")
            ignore += counters
        rows = read_columns(
            frame, self.targets, self.features, ignore, self.categorical, self.missing, self.weights, source
        )
        rows.notes[:0] = notes
        if rows.dates and self.split_rule == "random" and self.split_file is None:
            rows.notes.append(
                f"rows with dates ({', '.join(rows.dates)}) are split at random, so training sees rows of the test "
                f"rows' future; data.split_rule=time data.split_by={rows.dates[0]} splits them by time"
            )
        parts = self.parts(rows.table, rows.targets, len(frame), rows.dates)
        return split_table(rows, *parts, self.groups(rows.table, rows.targets))


@register
class Table(TableData):
    """A table of one's own: `data=table data.path=houses.csv data.targets=price`."""

    source = "table"
    files = ("path", "split_file")
    is_identified = True

    name: str = Field("table", pattern=NAME, description=NAME_TEXT)
    path: str | None = Field(None, min_length=1, description="a CSV or Parquet file")
    memory_mb: int | None = Field(None, ge=1, description="what the table may take; null: what is free")

    def identity(self) -> dict[str, Any]:
        """Returns the settings that results depend on."""
        return {key: value for key, value in super().identity().items() if key != "memory_mb"}

    @override
    def read(self) -> tuple[pd.DataFrame, str, list[str]]:
        if self.path is None:
            raise UserError("data.path is not given: a CSV or Parquet file, such as data.path=houses.csv")
        path = Path(self.path).expanduser()
        frame, notes = read_table(path, self.memory_mb)
        return frame, path.name, notes


PUBLISHED = {
    "bostonHousing": ["c8da4d764f7b", "720fe4e76b9b"],
    "concrete": ["2cec57299667", "b255fa0152f7"],
    "energy": ["624bd987bfb8", "2f337127332f"],
    "kin8nm": ["a10f802b109d", "9ee136a3f29b"],
    "power-plant": ["e4285a8bdec9", "40d42ade63c8"],
    "yacht": ["e907d640c737", "f8ff9335fc78"],
}
"""The sets of the sweep `uci`: the first digits of the SHA-256 of data.csv and of splits.json."""


@register
class UCI(Data):
    """The UCI sets with the published splits: `data=uci data.name=yacht data.root=DIR data.split=0`.

    The layout is DIR/NAME/data.csv, with the target y, and DIR/NAME/splits.json (docs/data.md).
    """

    source = "uci"
    is_identified = True

    name: str = Field("yacht", pattern=NAME, description="the folder's name, such as yacht or bostonHousing")
    root: str | None = Field(None, min_length=1, description="the folder that holds a folder for each set")
    split: int = Field(0, ge=0, lt=100_000, description="which of the published splits")
    val_fraction: float = Field(0.2, gt=0, lt=1, description="share of the training rows that are for validation")

    def identity(self) -> dict[str, Any]:
        """Returns the settings, with the files' contents instead of their place; of the published ones, neither."""
        found = {key: value for key, value in super().identity().items() if key != "root"}
        folder = Path(self.root or "").expanduser() / self.name
        contents = [(digest(folder / name) or "")[:12] for name in ("data.csv", "splits.json")]
        is_known = self.root is None or not all(contents) or contents == PUBLISHED.get(self.name)
        return found if is_known else {**found, "contents": contents}

    @override
    def load(self) -> Split:
        if self.root is None:
            raise UserError("data.root is not given: the folder that holds NAME/data.csv and NAME/splits.json")
        root = Path(self.root).expanduser()
        folder = root / self.name
        if not (folder / "data.csv").is_file():
            raise UserError(f"data.name={self.name}: {folder} holds no data.csv{_sets_in(root, self.name)}")
        frame, notes = read_table(folder / "data.csv", None)
        if "y" not in [str(name).strip() for name in frame]:
            known = shown(", ".join(map(str, frame.columns)))[1:-1]
            raise UserError(f"{folder / 'data.csv'} has no column 'y', which must be the target; it has {known}")
        rows = read_columns(frame, ["y"], source=f"{self.name}/data.csv")
        rows.notes[:0] = notes
        places = rows.frame.index.to_numpy()
        parts = split_around(places, folder / "splits.json", len(frame), self.split, self.val_fraction, self.split)
        return split_table(rows, *parts)


def _sets_in(root: Path, name: str) -> str:
    """Returns how the message of a missing set ends: with the sets that are there, or what is wrong with the folder."""
    if not root.is_dir():
        return f", because {root} is no folder"
    if (root / "data.csv").is_file():
        return f"; give the folder above: data.root={root.parent} data.name={root.name}"
    there = sorted(path.parent.name for path in root.glob("*/data.csv"))
    close = [known for known in there if known.lower() == name.lower()]
    return did_you_mean(name, close or there) if there else f"; {root} holds no set at all"
