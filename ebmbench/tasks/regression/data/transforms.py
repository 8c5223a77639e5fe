"""Turning raw inputs into x, and the transform of plain arrays. A transform registers itself under its `kind`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ebmbench.core.errors import UserError
from ebmbench.tasks.regression.data.base import Frame, Transform

if TYPE_CHECKING:
    from torch import Tensor

_kinds: dict[str, Callable[[dict[str, Any]], Transform]] = {}


def register_transform(kind: str, restore: Callable[[dict[str, Any]], Transform]) -> None:
    """Makes a kind of transform known.

    Args:
        restore: makes it from what its `plain` returned, without `kind`.
    """
    _kinds[kind] = restore


def restore(plain: Mapping[str, Any]) -> Transform:
    """Returns the transform that a run kept as plain data."""
    values = dict(plain)
    return _kinds[values.pop("kind")](values)


@dataclass(frozen=True)
class ArrayInput:
    """Inputs that are arrays already.

    Attributes:
        shape: of one input.
        columns: the names of the features, if a table with these columns may be given too.
    """

    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()

    def read(self, frame: Frame) -> tuple[Tensor, list[str]]:
        """Returns inputs `[N, ...]` float32 of arrays, or of a table with these columns; and what was done: nothing.

        Raises:
            UserError: they are no numbers, or do not fit the model.
        """
        if isinstance(frame, pd.DataFrame):
            frame = _columns(frame, self.columns)
        try:
            x = torch.as_tensor(np.asarray(frame, dtype=np.float32))
        except (ValueError, TypeError):
            raise UserError("the inputs hold something that is no number") from None
        if x.shape == self.shape:
            raise UserError(f"the inputs have shape {tuple(x.shape)}, which is one row; give a list of rows")
        if self.shape == (1,) and x.dim() == 1:
            x = x.unsqueeze(1)
        if tuple(x.shape[1:]) != self.shape:
            raise UserError(f"a row of the inputs has shape {tuple(x.shape[1:])}, and the model takes {self.shape}")
        if not x.isfinite().all():
            raise UserError("the inputs hold values that are not finite numbers")
        return x, []

    @property
    def used(self) -> Sequence[str]:
        """The columns that it reads, of a table."""
        return self.columns

    def plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON."""
        return {"kind": "array", "shape": list(self.shape), "columns": list(self.columns)}


def _columns(frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    if not columns:
        raise UserError("the model takes an array, not a table")
    missing = [name for name in columns if name not in frame]
    if missing:
        raise UserError(f"the table lacks the column {missing[0]!r}; the model takes {', '.join(columns)}")
    return frame[list(columns)]


register_transform("array", lambda plain: ArrayInput(tuple(plain["shape"]), tuple(plain["columns"])))
