"""The range of the training targets: beyond it an energy falls, and mass is counted.

Nothing trains f where no target and hardly a sample ever comes, and `exp f · b` needs only a few nats there to put a
mode far away from all data. So the network sees `c(y)`, a smooth clamp of y to the range, and beyond the range the
energy falls by the distance from it: `f(x, c(y)) - |y - c(y)| / TAIL`, with `|y|` the sum over coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ebmbench.core.energy import Energy

if TYPE_CHECKING:
    from torch import Tensor

MARGIN, BEND = 0.3, 0.1
"""How far beyond the outermost training targets y is clamped, and how sharply: in their standard deviations."""
TAIL = 1.0
"""The distance over which the energy falls by one nat, in the same units."""
BEYOND = 0.1
"""Mass is outside where it is farther beyond an end of the range than this share of the range."""

MUCH_OUTSIDE = 0.01
"""The mass outside from which on a row is counted."""


@dataclass(frozen=True)
class TargetRange:
    """The least and the largest of the standardised training targets, `[D]` float64 each."""

    low: Tensor
    high: Tensor
    _placed: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @staticmethod
    def of(targets: Tensor) -> TargetRange:
        """Makes it from training targets `[N, D]`."""
        return TargetRange(*targets.double().aminmax(dim=0))

    def clamp(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `c(y)`, of the shape of y `[..., D]`, and `|y - c(y)|`, `[...]`; both are smooth."""
        below, above = (torch.nn.functional.softplus(part) for part in self._beyond(y))
        return y + BEND * (below - above), BEND * (below + above).sum(-1)

    def slopes(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the derivatives of both in each coordinate, of the shape of y."""
        below, above = (torch.sigmoid(part) for part in self._beyond(y))
        return 1 - below - above, above - below

    def _beyond(self, y: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._ends(y.device, y.dtype)
        return (low - y) / BEND, (y - high) / BEND

    def _ends(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Returns where energies start to fall; kept, for a copy in each training step would wait for a GPU."""
        if (device, dtype) not in self._placed:
            self._placed[device, dtype] = (self.low - MARGIN).to(device, dtype), (self.high + MARGIN).to(device, dtype)
        return self._placed[device, dtype]

    @property
    def widened(self) -> tuple[Tensor, Tensor]:
        """The ends of the range, widened by a tenth of it: `[D]` each."""
        more = BEYOND * (self.high - self.low)
        return self.low - more, self.high + more

    def is_outside(self, y: Tensor) -> Tensor:
        """Returns whether a coordinate lies beyond the widened range: `[..., D] -> [...]`."""
        low, high = (end.to(y) for end in self.widened)
        return ((y < low) | (y > high)).any(-1)


class InRange:
    """The energy of a network's f that falls beyond the range of the training targets.

    Args:
        points: which coordinates `[..., D]` are values with a probability, which no clamp moves.
    """

    def __init__(self, inner: Energy, targets: TargetRange, points: Callable[[Tensor], Tensor] | None = None) -> None:
        self.inner, self.targets, self.points = inner, targets, points

    def __call__(self, y: Tensor) -> Tensor:
        """Returns `f(x, c(y)) - |y - c(y)| / TAIL`: y `[..., M, D]` -> `[..., M]`."""
        clamped, distance = self.targets.clamp(y)
        if self.points is not None:
            still = self.points(y)
            clamped, distance = torch.where(still, y, clamped), distance.masked_fill(still.any(-1), 0.0)
        return self.inner(clamped) - distance / TAIL

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns its derivative in y, `[..., M, D]`; with `create_graph` it can be differentiated again."""
        with torch.set_grad_enabled(create_graph):
            of_clamped, of_distance = self.targets.slopes(y)
            return self.inner.grad(self.targets.clamp(y)[0], create_graph) * of_clamped - of_distance / TAIL
