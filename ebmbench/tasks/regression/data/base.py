"""What a dataset of regression is: settings, and the rows that they give."""

from __future__ import annotations

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError, counted, row_at
from ebmbench.core.rng import Draws
from ebmbench.core.settings import Component

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

NAME = r"^[\w.-]{1,60}$"
NAME_TEXT = "its name in runs and tables: at most 60 letters, digits, _ . and -"

Frame: TypeAlias = "pd.DataFrame | np.ndarray | Tensor"
"""Raw inputs, as a user has them: a table with the columns of training, or an array."""


class Law(Protocol):
    """The true p(y|x) of made data. Its x are `Arrays.given`."""

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `log p(y|x)` in the target's units, float64: x `[N, ...]`, y `[N, M, D]` -> `[N, M]`."""
        ...

    def sample(self, x: Tensor, count: int, draws: Draws, name: str) -> Tensor:
        """Returns `count` independent y for each x, float64 `[N, count, D]`, from the named random stream."""
        ...


class Transform(Protocol):
    """Turns raw inputs into x. It was made from the training rows alone."""

    @property
    def used(self) -> Sequence[str]:
        """The columns that it reads, of a table; none where it takes arrays alone."""
        ...

    def encode(self, frame: Frame) -> Tensor:
        """Returns x of new raw inputs, float32 `[N, ...]`.

        Raises:
            UserError: they are not of the form that the training data had.
        """
        ...

    def read(self, table: pd.DataFrame) -> tuple[Tensor, list[str]]:
        """Returns x of a table from a file, treated as the training table was; and what was done, a sentence each.

        Raises:
            UserError: a column is not there, or holds what cannot be used.
        """
        ...

    def plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON, with its `kind`."""
        ...


@dataclass(frozen=True)
class Arrays:
    """Inputs and targets of some rows.

    Attributes:
        x: float32 `[N, ...]`.
        y: `[N, D]`, in the target's own units; float64 where they are measured, float32 where they are made.
        latent: what the truth depends on, if that is not x: `[N, ...]`.
        rows: the place of each row in the source, if it has one: int64 `[N]`.
        weight: how much each row counts in training and in early stopping, at least 0: float32 `[N]`; None: all alike.
    """

    x: Tensor
    y: Tensor
    latent: Tensor | None = None
    rows: np.ndarray | None = None
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def places(self) -> np.ndarray:
        """The place of each row in the source, or here if it has none: int64 `[N]`."""
        return np.arange(len(self)) if self.rows is None else self.rows

    @property
    def given(self) -> Tensor:
        """What the truth depends on, `[N, ...]`."""
        return self.x if self.latent is None else self.latent


@dataclass(frozen=True)
class Split:
    """A dataset, split into training, validation and test rows.

    Attributes:
        notes: what was done to the data, a sentence each. They are said once.
        truth: the true p(y|x), None where nobody knows it.
        transform: how to turn new raw inputs into x.
    """

    train: Arrays
    val: Arrays
    test: Arrays
    target_names: list[str]
    feature_names: list[str]
    transform: Transform
    notes: list[str] = field(default_factory=list)
    truth: Law | None = None


class Data(Component):
    """A dataset of regression. A subclass sets `source` and defines `load`; its fields are its settings.

    Attributes of the class:
        is_identified: whether `identity` has all that the rows depend on: they are made of the settings alone, or
            `identity` is defined and has a hash of the files. Else a hash of the rows that `load` returns is added.
    """

    group: ClassVar[str] = "task/data"
    chosen_by: ClassVar[str] = "source"
    source: ClassVar[str]
    is_identified: ClassVar[bool] = False

    name: str = Field("data", pattern=NAME, description=NAME_TEXT)

    @property
    def label(self) -> str:
        """What runs and tables call it."""
        return self.name

    @override
    def identity(self) -> dict[str, Any]:
        """Returns what the rows depend on: the settings, and a hash of the rows unless the class `is_identified`."""
        found = super().identity()
        return found if self.is_identified else {**found, "content": self._content()}

    def _content(self) -> str | None:
        """Returns a hash of the rows; None where they cannot be loaded, which a run then says."""
        try:
            split = self.load()
        except Exception:
            return None
        hashed = hashlib.sha256(json.dumps([split.target_names, split.feature_names]).encode())
        for rows in (split.train, split.val, split.test):
            for part in fields(rows):
                value = getattr(rows, part.name)
                if isinstance(value, torch.Tensor | np.ndarray):
                    array = np.ascontiguousarray(value)
                    hashed.update(f"{part.name} {array.dtype} {array.shape}".encode())
                    hashed.update(array.tobytes())
        return hashed.hexdigest()[:32]

    @abstractmethod
    def load(self) -> Split:
        """Returns the rows.

        Raises:
            UserError: the data are not there, or cannot be used; one sentence says why.
        """


def names_of(y: Any, dim: int) -> list[str]:
    """Returns the names of `dim` targets as their table or column has them; `y1`, `y2`, … if it has not."""
    names = [str(name) for name in getattr(y, "columns", [])] or [str(getattr(y, "name", None) or "y")]
    return names if len(names) == dim else [f"y{k + 1}" for k in range(dim)]


def split_rows(
    count: int, test_fraction: float, val_fraction: float, seed: int | Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits row numbers at random into training, validation and test.

    Args:
        val_fraction: of the rows that are not for test.

    Raises:
        UserError: there are too few rows.
    """
    if count < MIN_ROWS:
        raise UserError(f"the data have {counted(count, 'row')} with a target; at least {MIN_ROWS} are needed")
    order = np.random.default_rng(seed).permutation(count)
    num_test = max(1, round(test_fraction * count))
    train, val = split_off(order[num_test:], val_fraction)
    return train, val, np.sort(order[:num_test])


def split_around(
    places: np.ndarray, test: np.ndarray, val_fraction: float, seed: int | Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits row numbers into training, validation and test, where the test rows are given.

    Args:
        places: of the rows in the source; test: the places of the test rows.
        val_fraction: of the rows that are not for test.
    """
    chosen = np.isin(places, test)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~chosen))
    return *split_off(order, val_fraction), np.flatnonzero(chosen)


def split_off(order: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Takes a fraction of shuffled rows away, at least one: the rest and the part, each in rising order."""
    num_val = max(1, round(fraction * len(order)))
    if len(order) - num_val < 2:
        raise UserError(
            f"{counted(len(order), 'row remains', 'rows remain')} for training and validation with "
            f"task.data.val_fraction={fraction}; at least 2 rows to train on are needed"
        )
    return np.sort(order[num_val:]), np.sort(order[:num_val])


MIN_ROWS = 10
"""With fewer there is nothing to train, choose and test with."""


LEAST_SPREAD = 1e-12
"""The least standard deviation of a target, relative to its largest value: less is rounding."""


def check_targets(split: Split) -> None:
    """Refuses targets that no density can be fitted to.

    Raises:
        UserError: a training target is constant, or a target is not finite.
    """
    for part in (split.train, split.val, split.test):
        if not len(part):
            raise UserError("the training, validation and test rows must each be one at least")
        if not part.y.isfinite().all():
            names = ", ".join(map(repr, split.target_names))
            raise UserError(f"the targets {names} hold values that are not finite numbers")
        if not part.x.isfinite().all():
            raise UserError("the inputs hold values that are not finite numbers")
    spread = split.train.y.double().std(0) if len(split.train) > 1 else torch.zeros(split.train.y.shape[1])
    scale = split.train.y.double().abs().amax(0).clamp(min=1e-30)
    ends = zip(split.train.y.amin(0).tolist(), split.train.y.amax(0).tolist(), strict=True)
    for name, value, size, (low, high) in zip(split.target_names, spread.tolist(), scale.tolist(), ends, strict=True):
        if low == high:
            raise UserError(
                f"the target {name!r} is {low:g} in all training rows; a density of a constant cannot be learned"
            )
        if value <= max(LEAST_SPREAD * size, 1e-30):
            raise UserError(
                f"the target {name!r} varies too little for its size, from {low!r} to {high!r} in the training rows; "
                "subtract a constant, or give it in another unit"
            )


def outside_notes(split: Split) -> list[str]:
    """Returns a sentence for each target that leaves the range of the training targets in the test rows."""
    low, high = split.train.y.amin(0), split.train.y.amax(0)
    outside = ((split.test.y < low) | (split.test.y > high)).sum(0).tolist()
    notes = []
    for name, count, bottom, top in zip(split.target_names, outside, low.tolist(), high.tolist(), strict=True):
        if count:
            digits = _digits(bottom, top)
            have = "has" if count == 1 else "have"
            notes.append(
                f"{count} of {len(split.test)} test rows {have} a target {name!r} outside the range of the training "
                f"rows, {bottom:.{digits}g} to {top:.{digits}g}; the base density gives them a finite density"
            )
    return notes


def _digits(low: float, high: float) -> int:
    """Returns how many digits tell two numbers apart: two of their difference, and six at least."""
    return max(6, 2 + math.ceil(math.log10(max(abs(low), abs(high)) / (high - low))))


FAR, MOST_FAR = 100, 0.25
"""Values may be mistakes if they are this many times as far from the median as all others are, and if no more than this
share of the rows has them."""


def far_notes(split: Split) -> list[str]:
    """Returns `far_notes_of` each target."""
    columns = zip(split.target_names, split.train.y.numpy().T, strict=True)
    return [note for name, y in columns for note in far_notes_of(f"target {name!r}", y, split.train.rows)]


def far_notes_of(what: str, values: np.ndarray, rows: np.ndarray | None) -> list[str]:
    """Returns a sentence if some values are so far away from all others that they set the scale of all.

    There is a gap then: three quarters of the rows or more are within a distance of the median, and all others are
    `FAR` times as far away. Skewed columns, counts and columns of mostly zeros have no such gap.

    Args:
        what: how the sentence names them.
        values: of the training rows, `[N]`; nan where there is none.
        rows: the place of each in the source, if it has one.
    """
    there = np.flatnonzero(np.isfinite(values))
    known = values[there].astype(np.float64)
    distance = np.abs(known - np.median(known))
    ordered = np.sort(distance)
    first = max(1, math.ceil((1 - MOST_FAR) * len(ordered)))  # of the values that may be far away
    last_near, next_one = ordered[first - 1 : -1], ordered[first:]
    gaps = np.flatnonzero((last_near > 0) & (next_one > FAR * last_near))
    if not len(gaps):
        return []
    near = known[distance <= last_near[gaps[0]]]
    far = int(distance.argmax())
    place = "" if rows is None else f" in {row_at(int(rows[there[far]]))}"
    return [
        f"the {what} is {known[far]:g}{place}, and between {near.min():g} and {near.max():g} in {len(near)} of "
        f"{counted(len(known), 'training row')}: such a value sets the scale of all; leave its cell empty if it is a "
        "mistake, or stands for a missing number"
    ]


FEW_VALUES = 0.05
"""Different values of a target, as a share of its rows, up to which a density can put a spike on each."""


def discrete_notes(split: Split) -> list[str]:
    """Returns a sentence for each target that takes few values: no NLL of a density has a lower end there."""
    notes = []
    for k, name in enumerate(split.target_names):
        count = len(split.train.y[:, k].unique())
        if count <= FEW_VALUES * len(split.train):
            notes.append(
                f"the target {name!r} takes {count} different values in {len(split.train)} training rows: a density "
                "with a spike on each has an NLL as low as one likes; compare models by CRPS too"
            )
    return notes
