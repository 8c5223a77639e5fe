"""S models side by side: their parameters in one tensor, and their energies for a mini-batch each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ebmbench.core.energy import Energy
from ebmbench.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Place:
    """The seeds of S models, and where and how they compute."""

    seeds: Sequence[int]
    device: torch.device
    dtype: torch.dtype = field(default_factory=lambda: torch.float32)  # PyTorch is loaded where models are, no sooner
    backend: str = "auto"


class Stack(ABC):
    """S models of one network.

    Attributes:
        flat: the parameters of all, `[S, P]`: one optimiser operation serves them all.
        code_path: which implementation computes, for the record.
        num_features: F, the number of features of x; 0 if the network has no encoder of its own.
        normalised: whether `exp f` integrates to one by construction.
        has_gradient: whether f has derivatives in y.
    """

    code_path = "plain"
    num_features: int = 0
    normalised: bool = False
    has_gradient: bool = True

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        """Takes the initial parameters by name, `[S, ...]` each."""
        self._shapes = {name: p.shape[1:] for name, p in named.items()}
        self.flat = torch.cat([p.detach().reshape(len(p), -1) for p in named.values()], dim=1)
        self.flat.requires_grad_().grad = torch.zeros_like(self.flat)

    def load(self, parameters: Sequence[Mapping[str, Tensor]]) -> None:
        """Takes the trained parameters of each model by name, as a run's checkpoint holds them.

        Raises:
            UserError: they are those of another network.
        """
        flat = torch.stack([one["flat"] for one in parameters])
        if flat.shape != self.flat.shape:
            raise UserError(
                f"the run holds {flat.shape[1]} weights and its network has {self.flat.shape[1]}: another version of "
                "ebmbench, or of a plug-in, trained it; run it again with force=true"
            )
        with torch.no_grad():
            self.flat.copy_(flat)

    def views(self) -> dict[str, Tensor]:
        """Returns the parameters by name, `[S, ...]`: views of one tensor through which gradients flow back to it."""
        return split_flat(self.flat, self._shapes)

    @abstractmethod
    def bind(self, x: Tensor, index: int | None = None) -> tuple[Energy, Callable[[], Tensor]]:
        """Gives the energies of a mini-batch.

        Args:
            x: inputs `[S, B, ...]`; `[1, B, ...]` if there is an index.
            index: only this model, without its gradient.

        Returns:
            The energy, of candidates `[S, B, M, D]`, and a function that returns the features of x, `[S, B, F]`.
        """

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the models are as they are used: no dropout."""
        yield

    def start_step(self, step: int | Tensor) -> None:  # noqa: B027
        """Says which training step is next, for what is random inside the network."""


def split_flat(flat: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Returns the parameters of S models by name, `[S, *shape]`: views of one tensor `[S, P]`, in this order."""
    parts = flat.split([math.prod(shape) for shape in shapes.values()], dim=1)
    named = zip(shapes.items(), parts, strict=True)
    return {name: part.unflatten(1, shape) if shape else part.squeeze(1) for (name, shape), part in named}
