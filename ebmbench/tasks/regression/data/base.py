"""What a dataset of regression is: settings, and the rows that they give."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.rng import Draws
from ebmbench.core.settings import Component
from ebmbench.supports.base import Support, Supports
from ebmbench.supports.guess import Setting
from ebmbench.supports.real import Real

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

    def read(self, frame: Frame) -> tuple[Tensor, list[str]]:
        """Returns x of raw inputs, float32 `[N, ...]`, treated as training's were; and what was done, a sentence each.

        Raises:
            UserError: they are not of the form that the training data had.
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
        group: the group of each row, of rows that are split by groups: int64 `[N]`.
    """

    x: Tensor
    y: Tensor
    latent: Tensor | None = None
    rows: np.ndarray | None = None
    weight: Tensor | None = None
    group: np.ndarray | None = None

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
class Grid:
    """Where a study that is compared with computes D_KL, and its targets with noise.

    Attributes:
        x, y: raw inputs `[G, ...]` and equally spaced targets `[G]`, float64.
        noisy_law: of targets that carry the noise of the training targets.
        noisy_y: test targets with such noise, `[N, 1]`.
    """

    x: Tensor
    y: Tensor
    noisy_law: Law | None = None
    noisy_y: Tensor | None = None


@dataclass(frozen=True)
class Split:
    """A dataset, split into training, validation and test rows.

    Attributes:
        notes: what was done to the data, a sentence each. They are said once.
        truth: the true p(y|x), None where nobody knows it.
        transform: how to turn new raw inputs into x.
        kl_grid: where D_KL is computed, if not at the test rows.
    """

    train: Arrays
    val: Arrays
    test: Arrays
    target_names: list[str]
    feature_names: list[str]
    transform: Transform
    notes: list[str] = field(default_factory=list)
    truth: Law | None = None
    kl_grid: Grid | None = None


class Data(Component):
    """A dataset of regression. A subclass sets `source` and defines `load`; its fields are its settings.

    Attributes of the class:
        is_identified: whether `identity` has all that the rows depend on: they are made of the settings alone, or
            `identity` is defined and has a hash of the files. Else a hash of the rows that `load` returns is added.
    """

    group: ClassVar[str] = "data"
    chosen_by: ClassVar[str] = "source"
    source: ClassVar[str]
    is_identified: ClassVar[bool] = False

    name: str = Field("data", pattern=NAME, description=NAME_TEXT)
    default_support: ClassVar[Support] = Real()

    support: Supports | None = Field(
        None,
        description="the values that a target can have, such as circle or {name: circle, period: 360}; a list for "
        "several targets; null: real, or what made data have",
    )

    def supports(self, targets: int) -> tuple[Support, ...]:
        """Returns the support of each target; one that is given alone serves all."""
        given = self.support or (self.default_support,)
        return given * targets if len(given) == 1 else given

    @property
    def num_targets(self) -> int:
        """How many targets it has, as far as its settings say."""
        return len(getattr(self, "targets", ())) or 1

    @property
    def known_support(self) -> Setting | None:
        """The support of its targets, where the data say it; a run suggests it and takes it if `support` says so."""
        return None

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
