"""Nodes for integrals over one target: many where training targets are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ebmbench.supports.measure import Measure

if TYPE_CHECKING:
    from torch import Tensor

KERNELS = 256
NARROWEST = 0.03
"""The narrowest kernel, in standard deviations of the training targets."""
BASE_SHARE = 0.3
"""Of the base measure in the mixture."""


@dataclass(frozen=True)
class NodeDensity:
    """A density g of y by which the nodes of a quadrature are placed: many where training targets are.

    It mixes a kernel density of the training targets with the base measure b, so that `b / g` is bounded, and is taken
    as constant between the points of a table. With nodes at equal steps of g's distribution function, `∫ h dy` is the
    mean of `h / g` over the nodes (the midpoint rule, in another variable).

    Attributes:
        y: the points of the table, rising: `[T]` float64.
        cdf: the distribution function there, from 0 to 1: `[T]`.
        log_g: the logarithm of g between two points, `[T - 1]`.
        centres, widths: of the kernels.
    """

    y: Tensor
    cdf: Tensor
    log_g: Tensor
    centres: Tensor
    widths: Tensor

    @staticmethod
    def of(targets: Tensor, base: Measure) -> NodeDensity:
        """Makes it from standardised training targets `[N]`."""
        count = min(len(targets), KERNELS)
        centres = torch.quantile(targets.double().cpu(), (torch.arange(count, dtype=torch.float64) + 0.5) / count)
        ends = torch.cat((centres[:1], centres[:1], centres, centres[-1:], centres[-1:]))
        return NodeDensity.restore(centres, (0.5 * (ends[4:] - ends[:-4])).clamp(min=NARROWEST), base)

    @staticmethod
    def restore(centres: Tensor, widths: Tensor, base: Measure) -> NodeDensity:
        """Makes it from the centres and widths of its kernels, `[K]` float64 each."""
        steps = torch.linspace(-4, 4, 17, dtype=torch.float64)
        around = (centres.unsqueeze(1) + widths.unsqueeze(1) * steps).flatten()
        y = torch.unique(torch.cat((around, base.grid(1025))))
        y = y[(y >= base.ends[0]) & (y <= base.ends[1])]
        z = (y.unsqueeze(1) - centres) / widths
        kernels = ((-0.5 * z.square()).exp() / (widths * math.sqrt(2 * math.pi))).mean(1)
        g = (1 - BASE_SHARE) * kernels + BASE_SHARE * base.log_prob(y).exp()
        mass = 0.5 * (g[1:] + g[:-1]) * (y[1:] - y[:-1])
        mass = mass / mass.sum()
        cdf = torch.nn.functional.pad(mass.cumsum(0), (1, 0))
        return NodeDensity(y, cdf, (mass / (y[1:] - y[:-1])).log(), centres, widths)

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the nodes y where the distribution function is u, and `log g` there: `[...] -> [...]` twice."""
        u = u.to(self.cdf)
        left = (torch.searchsorted(self.cdf, u.contiguous(), right=True) - 1).clamp(0, len(self.cdf) - 2)
        part = (u - self.cdf[left]) / (self.cdf[left + 1] - self.cdf[left])
        return self.y[left] + part * (self.y[left + 1] - self.y[left]), self.log_g[left]

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns `log g` at any y of the table's interval: `[...] -> [...]`."""
        y = y.to(self.y)
        return self.log_g[(torch.searchsorted(self.y, y.contiguous(), right=True) - 1).clamp(0, len(self.log_g) - 1)]

    def holds(self, y: Tensor) -> Tensor:
        """Returns which y are within the table: bool of the same shape."""
        return (y >= self.y[0].to(y)) & (y <= self.y[-1].to(y))

    def to(self, device: torch.device) -> NodeDensity:
        """Returns it on a device."""
        return NodeDensity(*(getattr(self, name).to(device) for name in ("y", "cdf", "log_g", "centres", "widths")))
