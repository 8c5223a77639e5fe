"""What a support is: the values that a target can have, and the base measure on them.

Networks, methods, proposals and quadratures work in a coordinate z of the target: on the real line the standardised
target, for a positive one its standardised logarithm, on a circle the angle. A support says how to go there and back.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field

from ebmbench.core import registry
from ebmbench.core.errors import UserError, shown
from ebmbench.core.settings import Component
from ebmbench.supports.measure import BaseDensity, Measure

if TYPE_CHECKING:
    from torch import Tensor

REPEATED, MOST_ATOMS = 0.05, 16
"""A value is an atom, with `atoms: auto`, if more than this share of the training rows has it; so many at most."""

LogProb = Callable[["Tensor"], "Tensor"]


class Support(Component):
    """The values that a target can have. A subclass sets `name` and defines `inside` and `measure`.

    The coordinate u is the value itself, if `coordinate`, `value` and `log_slope` are not defined; z is u less a mean,
    over a standard deviation. Values that have a probability by themselves (atoms, integers) are points.

    Attributes of the class:
        discrete: whether each value has a probability; there is no density then.
        line: whether the coordinate is all of R, so that a density on R is one here.
        features: how many numbers a network sees of a value.
        turn: the period of z, if it is periodic.
        bounded: whether it ends at both sides, where a model's mass is reported.
    """

    group: ClassVar[str] = "support"
    name: ClassVar[str]
    discrete: ClassVar[bool] = False
    line: ClassVar[bool] = False
    features: ClassVar[int] = 1
    turn: ClassVar[float | None] = None
    bounded: ClassVar[bool] = False

    atoms: tuple[float, ...] = Field(
        (),
        max_length=MOST_ATOMS,
        description="values of positive probability beside the density, such as [0]; auto: those that more than 5 % of "
        "the training rows have",
    )
    find_atoms: Literal[True] | None = Field(None, description="what atoms: auto sets")

    @abstractmethod
    def inside(self, y: Tensor) -> Tensor:
        """Returns which values belong to the support, atoms apart: bool of the shape of y."""

    @property
    @abstractmethod
    def text(self) -> str:
        """Its values in words, for messages: `above 0`."""

    @abstractmethod
    def measure(self, base: BaseDensity, mean: float, std: float) -> Measure:
        """Returns the base measure of z, atoms apart. Its mass is one.

        Args:
            base: the settings of a base density on the real line.
            mean, std: z = (u - mean) / std.
        """

    def points(self, measure: Measure, mean: float, std: float) -> Tensor | None:
        """Returns the values of a discrete support that carry mass, rising, `[K]` float64; None for any other."""
        return None

    def fitted(self, y: Tensor) -> Support:
        """Returns it with what is chosen by the training targets `[N]`."""
        if self.find_atoms is None:
            return self
        return self.model_copy(update={"atoms": tuple(repeated(y.numpy())), "find_atoms": None})

    def coordinate(self, y: Tensor) -> Tensor:
        """Returns u for values y."""
        return y

    def value(self, u: Tensor) -> Tensor:
        """Returns y for coordinates u."""
        return u

    def log_slope(self, u: Tensor) -> Tensor:
        """Returns `log dy/du`: what the log-density of u has more than that of y."""
        return torch.zeros_like(u)

    def difference(self, y: Tensor, other: Tensor) -> Tensor:
        """Returns how far values y are above others; on a circle by the shorter way."""
        return y - other

    def scale(self, u: Tensor) -> tuple[float, float]:
        """Returns the mean and standard deviation by which training coordinates `[N]` are standardised."""
        return float(u.mean()), float(u.std(correction=0))

    def embed(self, z: Tensor) -> Tensor:
        """Returns what a network sees of z: `[...] -> [..., features]`."""
        return z.unsqueeze(-1)

    def slopes(self, z: Tensor) -> Tensor:
        """Returns the derivative of `embed`, `[..., features]`."""
        return torch.ones_like(z).unsqueeze(-1)

    def place(self, z: Tensor, mean: float, std: float) -> Tensor:
        """Returns draws of a proposal on the real line, moved into the support."""
        return z

    def placed_log_prob(self, log_q: LogProb, cdf: LogProb, z: Tensor, mean: float, std: float) -> Tensor:
        """Returns the log-density (or log-probability) of draws that `place` has moved, at z.

        Args:
            log_q, cdf: log-density and distribution function of the proposal on the real line.
        """
        return log_q(z)

    @property
    def moves_draws(self) -> bool:
        """Whether `place` changes draws."""
        return type(self).place is not Support.place or bool(self.atoms)


def repeated(y: np.ndarray) -> list[float]:
    """Returns the values that more than a share `REPEATED` of the rows `[N]` has, `MOST_ATOMS` at most; rising."""
    values, counts = np.unique(y, return_counts=True)
    often = np.flatnonzero(counts > REPEATED * len(y))
    return sorted(values[often[np.argsort(-counts[often], kind="stable")[:MOST_ATOMS]]].tolist())


def support_of(given: Any) -> Support:
    """Returns a support from its settings: a name, or a mapping with `name`.

    Raises:
        ValueError: there is no such support, or a setting is wrong.
    """
    if isinstance(given, Support):
        return given
    raw = {"name": given} if isinstance(given, str) else given
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
        raise ValueError(f"{shown(given)} is no support: give a name, such as circle, or {{name: circle, period: 360}}")
    try:
        cls = registry.get("support", raw["name"])
    except UserError as error:
        raise ValueError(str(error)) from None
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in raw.items() if key != "name"}
    if settings.get("atoms") == "auto":
        settings |= {"atoms": (), "find_atoms": True}
    for key in settings:
        if key not in cls.model_fields:
            raise ValueError(f"support={raw['name']} has no {key}; it has {', '.join(cls.model_fields)}")
    made = cls.model_validate(settings)
    assert isinstance(made, Support)
    return made


def _supports(given: Any) -> Any:
    return tuple(map(support_of, given)) if isinstance(given, list | tuple) else (support_of(given),)


Supports = Annotated[tuple[Support, ...], BeforeValidator(_supports)]
"""A field that holds the support of each target; it takes a name, a mapping, or a list of them."""
