"""What a dataset of regression is: settings, and the rows that they give."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from pydantic import Field

from ebmbench.core.errors import UserError, counted
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
    """

    x: Tensor
    y: Tensor
    latent: Tensor | None = None
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

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
    """A dataset of regression. A subclass sets `source` and defines `load`; its fields are its settings."""

    group: ClassVar[str] = "task/data"
    chosen_by: ClassVar[str] = "source"
    source: ClassVar[str]

    name: str = Field("data", pattern=NAME, description=NAME_TEXT)

    @property
    def label(self) -> str:
        """What runs and tables call it."""
        return self.name

    @abstractmethod
    def load(self) -> Split:
        """Returns the rows.

        Raises:
            UserError: the data are not there, or cannot be used; one sentence says why.
        """


def split_rows(
    count: int, test_fraction: float, val_fraction: float, seed: int | Sequence[int]
) -> tuple[np.ndarray, ...]:
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


def split_off(order: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Takes a fraction of shuffled rows away, at least one: the rest and the part, each in rising order."""
    num_val = max(1, round(fraction * len(order)))
    if len(order) - num_val < 2:
        raise UserError(
            f"{len(order)} rows remain for training and validation with task.data.val_fraction={fraction}; at least 2 "
            "rows to train on are needed"
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
            raise UserError(f"the targets {_names(split.target_names)} hold values that are not finite numbers")
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
            notes.append(
                f"{count} of {len(split.test)} test rows have a target {name!r} outside the range of the training "
                f"rows, {bottom:.{digits}g} to {top:.{digits}g}; the base density gives them a finite density"
            )
    return notes


def _digits(low: float, high: float) -> int:
    """Returns how many digits tell two numbers apart: two of their difference, and six at least."""
    return max(6, 2 + math.ceil(math.log10(max(abs(low), abs(high)) / (high - low))))


FAR = 100
"""Widths of the middle half of a target, beyond which a value may be a mistake."""


def far_notes(split: Split) -> list[str]:
    """Returns a sentence for each target of which a training value is so far away that it sets the scale of all."""
    notes = []
    for k, name in enumerate(split.target_names):
        y = split.train.y[:, k].double()
        low, middle, high = np.quantile(y.numpy(), (0.25, 0.5, 0.75))
        far = int((y - middle).abs().argmax())
        if high > low and abs(float(y[far]) - middle) > FAR * (high - low):
            place = "" if split.train.rows is None else f" in row {int(split.train.rows[far]) + 1}"
            digits = _digits(low, high)
            notes.append(
                f"the target {name!r} is {float(y[far]):.{digits}g}{place}, and between {low:.{digits}g} and "
                f"{high:.{digits}g} in half of the training rows: one such value sets the scale of all; "
                "leave its cell empty if it is a mistake"
            )
    return notes


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


def _names(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
