"""Integrals of densities of one number, on nodes that are close together where the mass is. Everything is float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

HIDDEN = 0.05
"""The mass that may be hidden between nodes, over the mass they show, from which on more nodes are wanted."""
SEARCHES, SEARCHED = 6, 8
"""How often nodes are added where mass may be hidden, at most, and in how many cells at a time."""

PRECISE, ROUNDS = 3e-5, 3
"""The error of a log Z from which on nodes are added where the curvature is high, and how often, at most."""

UNEVEN = 64
"""How many times wider than the next one a cell may be, so that its curvature counts in full."""

LogDensity = Callable[[Tensor], Tensor]
"""`log p` up to a constant: y `[N, G]` -> `[N, G]`."""


def midpoints(count: int, device: torch.device | None = None) -> Tensor:
    """Returns the middles of `count` equal parts of [0, 1], `[count]`."""
    return (torch.arange(count, dtype=torch.float64, device=device) + 0.5) / count


@dataclass(frozen=True)
class GridDensity:
    """N densities, each on its own nodes.

    Attributes:
        y: the nodes, rising, `[N, G]`.
        log_values: the logarithm of the density there, up to a constant for each, `[N, G]`.
    """

    y: Tensor
    log_values: Tensor

    @staticmethod
    def refined(log_p: LogDensity, start: Tensor, rounds: int = 2, points: int = 160) -> GridDensity:
        """Evaluates densities at start nodes, then where these show the mass to be.

        Args:
            start: rising nodes that are not to miss any mode, `[N, G]`.
            rounds: how often nodes are added.
            points: nodes that a round adds.
        """
        made = GridDensity(start, log_p(start).double())
        middle = midpoints(points, start.device)
        for _ in range(rounds):
            made = made._with(made.spread(middle), log_p)
        coarse = (made.hidden > HIDDEN).unsqueeze(-1)
        if not coarse.any():
            return made._exact(log_p, points)
        # The other densities get their last node again, which changes nothing: none depends on those beside it.
        for _ in range(SEARCHES):
            wanted = coarse & (made.hidden > HIDDEN).unsqueeze(-1)
            if not wanted.any():
                break
            made = made._with(torch.where(wanted, made._within_cells(points), made.y[:, -1:]), log_p)
        for _ in range(rounds):
            made = made._with(torch.where(coarse, made.spread(middle), made.y[:, -1:]), log_p)
        return made._exact(log_p, points)

    def _exact(self, log_p: LogDensity, points: int) -> GridDensity:
        """Returns it with further nodes in densities whose integral is not known well."""
        made = self
        for _ in range(ROUNDS):
            rough = made.rule_error > PRECISE
            if not rough.any():
                break
            made = made._with(torch.where(rough.unsqueeze(-1), made.finer(points), made.y[:, -1:]), log_p)
        return made

    def _with(self, y: Tensor, log_p: LogDensity) -> GridDensity:
        """Returns it with further nodes, `[N, K]`."""
        nodes, order = torch.cat((self.y, y), -1).sort(-1)
        return GridDensity(nodes, torch.cat((self.log_values, log_p(y).double()), -1).gather(-1, order))

    @cached_property
    def _gaps(self) -> Tensor:
        """The mass that each cell may hold beyond what its ends show, over the mass that is seen, `[N, G - 1]`.

        Where `log p` is concave it is above the line between a cell's ends, and below the lines through the two nodes
        before the cell and the two after it. These bounds are those of adaptive rejection sampling (Gilks, 1992).
        """
        values, width = self.log_density, self.spacing
        left, right = values[:, :-1], values[:, 1:]
        # A line through two nodes that are close together is uncertain: it is not drawn out farther than 1024 times.
        slope = (right - left).nan_to_num(0.0, 0.0, 0.0)
        before = torch.nn.functional.pad(slope, (1, 0))[:, :-1] * _ratio(width, torch.roll(width, 1, -1))
        after = torch.nn.functional.pad(slope, (0, 1))[:, 1:] * _ratio(width, torch.roll(width, -1, -1))
        above_right, above_left = left + before - right, right - after - left
        place = above_left / (above_left + above_right)  # where the lines meet
        peak = (left + before * place).clamp(max=300)
        low, high, top = self.density[:, :-1], self.density[:, 1:], peak.exp()
        most = place * _mean_exp(left, peak, low, top) + (1 - place) * _mean_exp(peak, right, top, high)
        gap = width * (most - _mean_exp(left, right, low, high))
        return torch.where((above_right > 0) & (above_left > 0), gap, 0.0)

    @cached_property
    def hidden(self) -> Tensor:
        """The mass that may be hidden between nodes, over the mass that they show, `[N]`."""
        return self._gaps.sum(-1)

    def _within_cells(self, points: int) -> Tensor:
        """Returns nodes at even steps in the cells that may hide the most, `[N, points]`."""
        cell = self._gaps.topk(SEARCHED, -1).indices
        count = points // SEARCHED
        part = (torch.arange(count, dtype=self.y.dtype, device=self.y.device) + 1) / (count + 1)
        low, width = self.y.gather(-1, cell), self.spacing.gather(-1, cell)
        return (low.unsqueeze(-1) + width.unsqueeze(-1) * part).flatten(1)

    @cached_property
    def spacing(self) -> Tensor:
        """The distances of neighbouring nodes, `[N, G - 1]`."""
        return self.y[:, 1:] - self.y[:, :-1]

    @cached_property
    def _highest(self) -> Tensor:
        """The largest `log_values` of each density, `[N, 1]`; 0 where none is finite."""
        return self.log_values.amax(-1, keepdim=True).nan_to_num(0.0, 0.0, 0.0)

    @cached_property
    def _values(self) -> Tensor:
        return (self.log_values - self._highest).exp()

    @cached_property
    def _bends(self) -> Tensor:
        """The mass of each cell that the trapezoidal rule misses, by the curvature at its ends, `[N, G - 1]`.

        It is `-h³ p''/12`, with p'' from second differences; at most half of what the rule gives. Where a cell is far
        narrower than the next one p'' is mostly rounding, and counts in part.
        """
        values, width = self._values, self.spacing
        slope = torch.where(width > 0, (values[:, 1:] - values[:, :-1]) / width.clamp(min=1e-300), 0.0)
        turn = 2 * (slope[:, 1:] - slope[:, :-1]) / (width[:, 1:] + width[:, :-1]).clamp(min=1e-300)
        narrow, wide = torch.minimum(width[:, 1:], width[:, :-1]), torch.maximum(width[:, 1:], width[:, :-1])
        turn = turn * (UNEVEN * narrow / wide.clamp(min=1e-300)).clamp(max=1)
        ends = torch.cat((turn[:, :1], turn, turn[:, -1:]), -1)
        most = 0.25 * width * (values[:, 1:] + values[:, :-1])
        bend = -(width**3) * (ends[:, 1:] + ends[:, :-1]) / 24
        return torch.where(bend.isfinite(), torch.minimum(torch.maximum(bend, -most), most), 0.0)

    @cached_property
    def _masses(self) -> Tensor:
        """The mass of each cell, over `exp(highest)`, `[N, G - 1]`."""
        return 0.5 * self.spacing * (self._values[:, 1:] + self._values[:, :-1]) + self._bends

    @cached_property
    def log_z(self) -> Tensor:
        """The logarithm of the integral of `exp(log_values)`, `[N]`."""
        return self._masses.sum(-1).log() + self._highest.squeeze(-1)

    @cached_property
    def rule_error(self) -> Tensor:
        """How far `log_z` moves when every other node is left out, over 3, `[N]`.

        For a smooth integrand the error falls with the square of the spacing or faster, so a third of the difference
        bounds it.
        """
        y, values = (torch.cat((part[:, :-1:2], part[:, -1:]), -1) for part in (self.y, self.log_values))
        return (self.log_z - GridDensity(y, values).log_z).abs() / 3

    @property
    def error(self) -> Tensor:
        """The error of `log_z`, `[N]`: that of the rule, or the mass that may still be hidden between nodes."""
        return torch.where(self.hidden > HIDDEN, torch.maximum(self.rule_error, self.hidden.log1p()), self.rule_error)

    @cached_property
    def log_density(self) -> Tensor:
        """The normalised `log p` at the nodes, `[N, G]`."""
        return self.log_values - self.log_z.unsqueeze(-1)

    @cached_property
    def density(self) -> Tensor:
        """The density at the nodes, `[N, G]`."""
        return self.log_density.exp()

    @cached_property
    def masses(self) -> Tensor:
        """The probability of each cell between two nodes, `[N, G - 1]`."""
        return self._masses / self._masses.sum(-1, keepdim=True)

    def spread(self, probability: Tensor) -> Tensor:
        """Returns nodes at equal steps of the mass, a tenth of it spread evenly over the cells: `[K] -> [N, K]`."""
        return self._at_steps(self.masses, probability)

    def _at_steps(self, weights: Tensor, probability: Tensor) -> Tensor:
        p = probability.double().expand(len(self.y), -1)
        cdf = torch.nn.functional.pad(weights.cumsum(-1), (1, 0))
        even = torch.linspace(0, 1, cdf.shape[-1], dtype=cdf.dtype, device=cdf.device)
        cdf = 0.9 * cdf / cdf[:, -1:].clamp(min=1e-300) + 0.1 * even
        cell = (torch.searchsorted(cdf, p.contiguous()) - 1).clamp(0, cdf.shape[-1] - 2)
        below, above = cdf.gather(-1, cell), cdf.gather(-1, cell + 1)
        part = (p - below) / (above - below).clamp(min=1e-300)
        return self.y.gather(-1, cell) + self.spacing.gather(-1, cell) * part.clamp(0, 1)

    def finer(self, count: int) -> Tensor:
        """Returns further nodes where the curvature is high, `[N, count]`."""
        return self._at_steps(self._bends.abs().pow(1 / 3), midpoints(count, self.y.device))


def _ratio(width: Tensor, other: Tensor) -> Tensor:
    """How many times longer cells are than others, at most 1024."""
    return width / torch.maximum(other, width / 1024).clamp(min=1e-300)


def _mean_exp(a: Tensor, b: Tensor, exp_a: Tensor, exp_b: Tensor) -> Tensor:
    """The mean of `exp` over a piece on which its argument goes from a to b on a straight line."""
    fall = a - b
    return torch.where(fall.abs() < 1e-6, exp_a, (exp_a - exp_b) / fall)
