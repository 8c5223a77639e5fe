"""Data that a Python function of the user's own returns: `data=function data.function=my_data.py:load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core import plugins
from ebmbench.core.errors import UserError, counted, first_line
from ebmbench.core.registry import register
from ebmbench.tasks.regression.data.base import NAME, NAME_TEXT, Arrays, Data, Split, names_of
from ebmbench.tasks.regression.data.frames import LARGEST, read_columns, split_table
from ebmbench.tasks.regression.data.notes import column_notes
from ebmbench.tasks.regression.data.splits import Splits
from ebmbench.tasks.regression.data.transforms import ArrayInput


def arrays_split(
    x: np.ndarray,
    y: np.ndarray,
    seed: int = 0,
    test_fraction: float = 0.2,
    val_fraction: float = 0.2,
    names: Sequence[str] = (),
    notes: Sequence[str] = (),
    by: Splits | None = None,
) -> Split:
    """Splits arrays into training, validation and test rows.

    Args:
        x, y: inputs `[N, ...]` and targets `[N, D]`; `[N]` is one of each.
        seed, test_fraction, val_fraction: of a split at random; the last one is a share of the rows not for test.
        names: of the targets.
        by: how the rows are split; None: at random.

    Raises:
        UserError: there are too few rows, or x and y do not fit each other.
    """
    x, y = _numbers(x, np.float32), _numbers(y, np.float64)
    _check_shapes(x, y)
    large = np.abs(y[np.isfinite(y)]).max(initial=0)
    if large > LARGEST:
        raise UserError(f"a target is {large:g}, beyond {LARGEST:g}; give it in another unit")
    shape = tuple(x.shape[1:])
    columns = tuple(f"x{k + 1}" for k in range(shape[0])) if len(shape) == 1 else ()
    targets = list(names) or [f"y{k + 1}" for k in range(y.shape[1])]
    rule = by or Splits(split_seed=seed, test_fraction=test_fraction, val_fraction=val_fraction)
    table = pd.DataFrame(y, columns=targets)
    if columns and rule.split_by is not None:
        table = pd.concat([table, pd.DataFrame(x, columns=columns)], axis=1)
    parts = rule.parts(table, targets, len(x))
    group = rule.groups(table, targets)
    fit, check, score = (
        Arrays(torch.from_numpy(x[k]), torch.from_numpy(y[k]), rows=k, group=None if group is None else group[k])
        for k in parts
    )
    inputs = zip(columns, fit.x.numpy().T, strict=bool(columns))
    said = [note for name, values in inputs for note in column_notes(f"input {name!r}", values, fit.rows)]
    return Split(fit, check, score, targets, list(columns) or ["x"], ArrayInput(shape, columns), [*notes, *said])


def _numbers(values: Any, dtype: type) -> np.ndarray:
    """Returns an array of numbers, `[N]` as `[N, 1]`; what is masked is nan. Raises TypeError or ValueError."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    array = np.asarray(values)
    if array.dtype.kind == "c":
        raise TypeError("complex numbers")
    with np.errstate(over="ignore"):
        array = array.astype(dtype)
    return array.reshape(-1, 1) if array.ndim == 1 else array


def _check_shapes(x: np.ndarray | pd.DataFrame, y: np.ndarray, source: str = "") -> None:
    if len(x.shape) < 2 or y.ndim != 2 or len(x) != len(y) or 0 in x.shape[1:] or not y.shape[1]:
        raise UserError(
            f"{source}x has the shape {tuple(x.shape)} and y {y.shape}; give x [N, ...] and y [N] or [N, D]"
        )


@register
class Function(Splits, Data):
    """What a Python function returns: x, an array `[N, ...]` or a table, and y, `[N]` or `[N, D]`."""

    source = "function"

    name: str = Field("function", pattern=NAME, description=NAME_TEXT)
    function: str | None = Field(None, min_length=1, description="FILE.py:FUNCTION, called without arguments")

    def identity(self) -> dict[str, Any]:
        """Returns the settings, with the file's contents instead of its place."""
        found = super().identity()
        if self.function is not None:
            file, _, called = self.function.rpartition(":")
            is_there = Path(file).expanduser().is_file()
            found["function"] = f"{plugins.load_one(file).sha256 if is_there else file}:{called}"
        return found

    @override
    def load(self) -> Split:
        x, y, names = self._call()
        if isinstance(x, pd.DataFrame):
            frame = x.reset_index(drop=True)
            names = [f"{name} (target)" if name in frame else name for name in names]
            frame = frame.assign(**{name: y[:, k] for k, name in enumerate(names)})
            rows = read_columns(frame, names, source=str(self.function))
            parts = self.parts(rows.table, rows.targets, len(frame), rows.dates)
            return split_table(rows, *parts, self.groups(rows.table, rows.targets))
        known = np.isfinite(y).all(1)
        lacking = counted(int((~known).sum()), "row without a target is", "rows without a target are")
        notes = [] if known.all() else [f"{lacking} left out"]
        x, y = x[known], y[known]
        return arrays_split(x, y, names=names, notes=notes, by=self)

    def _call(self) -> tuple[Any, np.ndarray, list[str]]:
        """Returns x (a table, or an array float32), y `[N, D]` float64, and the names of the targets."""
        if self.function is None:
            raise UserError("data.function is not given: FILE.py:FUNCTION, such as data.function=my_data.py:load")
        made = _imported(self.function)
        try:
            result = made()
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.function} failed ({type(error).__name__}: {first_line(error)})") from None
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise UserError(f"{self.function} must return x and y, two arrays, and returned a {type(result).__name__}")
        x, given = result
        try:
            y = _numbers(given, np.float64)
            x = x if isinstance(x, pd.DataFrame) else _numbers(x, np.float32)
        except (ValueError, TypeError):
            raise UserError(f"{self.function} returned something that is no number; give arrays of numbers") from None
        _check_shapes(x, y, f"{self.function}: ")
        if isinstance(x, np.ndarray) and not np.isfinite(x).all():
            raise UserError(f"{self.function} returned x with values that are not finite numbers")
        return x, y, names_of(given, y.shape[1])


def _imported(text: str) -> Any:
    """Returns the function that `FILE.py:FUNCTION` names."""
    file, _, called = text.rpartition(":")
    path = Path(file).expanduser()
    if not file.endswith(".py") or not called.isidentifier():
        raise UserError(f"data.function={text} is not allowed: give FILE.py:FUNCTION")
    if not path.is_file():
        raise UserError(f"data.function={text}: {path} is not a file")
    module = plugins.load_one(str(path)).module
    if not callable(getattr(module, called, None)):
        raise UserError(f"data.function={text}: {path} defines no function {called}")
    return getattr(module, called)
