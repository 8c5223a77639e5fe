"""A model that another library trains: how to fit it, and the density that it gives. The harness does all the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.errors import UserError
from ebmbench.core.plugins import installed_imports, package_version
from ebmbench.models.base import Model
from ebmbench.models.stack import Place, Stack

if TYPE_CHECKING:
    from torch import Tensor

Fitted: TypeAlias = "Mapping[str, np.ndarray]"
"""A fitted model as plain arrays of numbers, by name."""
Density: TypeAlias = "Callable[[np.ndarray], np.ndarray]"
"""`log p(y|x)` at some rows x: candidates `[B, M, D]` -> `[B, M]`."""


class Rows(NamedTuple):
    """Standardised inputs `[N, ...]` float32, and targets `[N, D]` float64."""

    x: np.ndarray
    y: np.ndarray


class Outside(Model):
    """A model that another library trains. A subclass sets `name` and defines `fit` and `density`.

    The settings of `trainer` are not used. A run keeps
    what `fit` returned, and nothing else: no code of a library is ever read from a run's folder. A library that can
    write its models as text or bytes gives an array of those (`np.frombuffer(text.encode(), np.uint8)`); for any other,
    `fit` returns the rows and the seed, and `density` fits again.

    Attributes of the class:
        packages: the installed packages that it uses; their versions are a part of the identity of a run. If it names
            none, those count that the plug-in imports.
    """

    trains_in_steps = False
    packages: ClassVar[tuple[str, ...]] = ()

    @override
    def identity(self) -> dict[str, Any]:
        """Returns the settings, and the versions of the libraries."""
        packages = self.packages or installed_imports(type(self))
        return {**super().identity(), "versions": {name: package_version(name) for name in sorted(packages)}}

    @abstractmethod
    def fit(self, train: Rows, val: Rows, seed: int, report: Callable[[int, int], None]) -> Fitted:
        """Returns a fitted model: a function of the rows, the seed and the settings alone.

        Args:
            val: for early stopping; no row of it may be trained on.
            report: tells how much is done, and of how much. It may be called at any time, or never.
        """

    @abstractmethod
    def density(self, fitted: Fitted, x: np.ndarray) -> Density:
        """Returns `log p(y|x)` at standardised rows x `[B, ...]` float32, of standardised y.

        It must integrate to one over y, and be a function of each row by itself.
        """

    def stack(self, x_shape: tuple[int, ...], dim: int, place: Place) -> Stack:
        """Returns S models side by side."""
        return OutsideStack(self, len(place.seeds), place.device)


class OutsideStack(Stack):
    """S models of a library, in use: they have no weights that an optimiser could change."""

    normalised = True
    has_gradient = False
    code_path = "library"

    def __init__(self, model: Outside, seeds: int, device: torch.device) -> None:
        super().__init__({"none": torch.zeros(seeds, 0, device=device)})
        self.model = model
        self.fitted: list[Fitted] = []
        self._last: tuple[Tensor, list[Density]] | None = None

    @override
    def load(self, parameters: Sequence[Mapping[str, Tensor]]) -> None:
        self.fitted = [{name: value.cpu().numpy() for name, value in one.items()} for one in parameters]
        self._last = None

    @override
    def bind(self, x: Tensor, index: int | None = None) -> tuple[Energy, Callable[[], Tensor]]:
        chosen = self.fitted if index is None else self.fitted[index : index + 1]
        if len(chosen) != len(x):
            raise UserError(f"model={self.model.name} is trained by its library, which only task=regression calls")
        return _LogProb(self._densities(x, chosen)), _no_features

    def _densities(self, x: Tensor, fitted: Sequence[Fitted]) -> list[Density]:
        """Returns the density of each model; those of the last rows are kept, for they may take long to make."""
        if self._last is None or not torch.equal(self._last[0], x):
            rows = x.float().cpu().numpy()
            self._last = x, [self.model.density(one, some) for one, some in zip(fitted, rows, strict=True)]
        return self._last[1]


class _LogProb:
    """`log p(y|x)` of S models at some rows each: it has no derivatives."""

    def __init__(self, densities: Sequence[Density]) -> None:
        self.densities = densities

    def __call__(self, y: Tensor) -> Tensor:
        candidates = y.detach().double().cpu().numpy()
        values = np.stack([one(some) for one, some in zip(self.densities, candidates, strict=True)])
        return torch.from_numpy(values).to(y.device)

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        raise UserError("a model that a library trained has no derivatives in y")


def _no_features() -> Tensor:
    raise UserError("a model that a library trained has no features of x")


def as_columns(x: np.ndarray, dtype: type[np.floating[Any]]) -> np.ndarray:
    """Returns inputs of any shape as columns, as trees split them: `[B, ...] -> [B, p]`."""
    return x.reshape(len(x), -1).astype(dtype)
