"""What models say of one target: densities and probabilities in the target's own units, and every answer made of them.

A `Density` holds N of them as cells between rising nodes. The density is linear within a cell. A cell without width is
a value that has a probability by itself: an atom, or an integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ebmbench.supports.targets import Axis
from ebmbench.tasks.regression.quadrature import GridDensity, midpoints
from ebmbench.tasks.regression.scores import circular_crps, square_integral

LEAST_MODE, LEAST_DIP = 0.005, 0.1
"""A mode has this mass in its basin at least, and the density falls by this share between it and the next one."""
POINTS = 128
"""Equally likely points by which a score on a circle is computed."""


class Mode(NamedTuple):
    """A local maximum of a density.

    Attributes:
        place: where it is.
        mass: the probability of its basin, which goes to the next minima on both sides.
    """

    place: float
    mass: float


class Region(NamedTuple):
    """The smallest set of some probability.

    Attributes:
        pieces: its intervals from low to high, which on a circle may pass the seam, or its runs of integers.
        length: of all together; of integers and atoms it counts none.
        mass: its probability.
    """

    pieces: tuple[tuple[float, float], ...]
    length: float
    mass: float


@dataclass(frozen=True)
class Density:
    """N densities of one target.

    Attributes:
        y: the nodes, rising, `[N, G]`.
        mass: the probability of each cell, `[N, G - 1]`; they sum to one.
        height: the density at the nodes, atoms apart, `[N, G]`.
        axis: the target's support, and how it was standardised.
        exact: `log p(y|x)` at any values `[N, K]`; None: as the nodes have it.
    """

    y: Tensor
    mass: Tensor
    height: Tensor
    axis: Axis
    exact: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def of(axis: Axis, grid: GridDensity | None, log_points: Tensor | None) -> tuple[Density, Tensor]:
        """Returns densities, and their log Z `[N]`.

        Args:
            grid: the density of z by its logarithm at nodes; None for a discrete support.
            log_points: the same at `axis.points`, `[N, K]`; None where no value has a probability.
        """
        points = None if log_points is None else axis.values.to(log_points.device)
        if grid is None:
            assert points is not None and log_points is not None
            log_z = torch.logsumexp(log_points, -1)
            made = Density._discrete(points, (log_points - log_z.unsqueeze(-1)).exp(), axis)
            return made, log_z
        u = axis.mean + axis.std * grid.y
        height = (grid.log_density - axis.density_slope(grid.y)).exp()
        made = Density(axis.support.value(u), grid.masses, height, axis)
        if log_points is None:
            return made, grid.log_z
        assert points is not None
        log_z = torch.logsumexp(torch.cat((grid.log_z.unsqueeze(-1), log_points), -1), -1)
        share = (grid.log_z - log_z).exp().unsqueeze(-1)
        probabilities = (log_points - log_z.unsqueeze(-1)).exp()
        return made._with_atoms(share, points, probabilities), log_z

    @staticmethod
    def _discrete(values: Tensor, probabilities: Tensor, axis: Axis) -> Density:
        nodes = values.repeat_interleave(2).repeat(len(probabilities), 1)
        mass = torch.stack((probabilities, torch.zeros_like(probabilities)), -1).flatten(1)[:, :-1]
        return Density(nodes, mass, torch.zeros_like(nodes), axis)

    def _with_atoms(self, share: Tensor, values: Tensor, probabilities: Tensor) -> Density:
        """Returns the mixture of a share `[N, 1]` of it and some values `[K]` with their probabilities `[N, K]`."""
        cut = self._cut(values.repeat_interleave(2).expand(len(self.y), -1))
        place = torch.searchsorted(cut.y, values.expand(len(self.y), -1).contiguous())
        return replace(cut, mass=(cut.mass * share).scatter_add(-1, place, probabilities), height=cut.height * share)

    def _cut(self, values: Tensor) -> Density:
        """Returns the same densities with further nodes `[N, K]`."""
        nodes = torch.cat((self.y, values), -1).sort(-1).values
        return replace(self, y=nodes, mass=self._cdf_at_nodes(nodes).diff(dim=-1).clamp(min=0), height=self.at(nodes))

    def _cdf_at_nodes(self, nodes: Tensor) -> Tensor:
        """Returns the distribution function at sorted nodes, `[N, K]`, which hold its own, atoms too."""
        own = torch.searchsorted(self.y, nodes)
        same = (own < self.y.shape[-1]) & (self.y.gather(-1, own.clamp(max=self.y.shape[-1] - 1)) == nodes)
        # Of equal nodes the first has what is below the atom, the last has all.
        first = torch.searchsorted(nodes, nodes)
        order = torch.arange(nodes.shape[-1], device=nodes.device) - first
        return torch.where(same & (order == 0), self.below(nodes), self.cdf_at(nodes))

    @staticmethod
    def mixture(parts: Sequence[Density]) -> Density:
        """Returns the equal mixture of densities of the same rows."""
        nodes = torch.cat([part.y for part in parts], -1).sort(-1).values
        cdf = torch.stack([part._cdf_at_nodes(nodes) for part in parts]).mean(0)
        height = torch.stack([part.at(nodes) for part in parts]).mean(0)
        return replace(parts[0], y=nodes, mass=cdf.diff(dim=-1).clamp(min=0), height=height, exact=None)

    def split(self, count: int) -> list[Density]:
        """Returns `count` parts of equal numbers of densities, in their order."""
        pieces = zip(*(part.chunk(count) for part in (self.y, self.mass, self.height)), strict=True)
        return [replace(self, y=y, mass=mass, height=height, exact=None) for y, mass, height in pieces]

    def __len__(self) -> int:
        return len(self.y)

    # ---------------------------------------------------------------------------------------------- on its own line

    @cached_property
    def _width(self) -> Tensor:
        return self.y[:, 1:] - self.y[:, :-1]

    @cached_property
    def _tilt(self) -> Tensor:
        """How the density changes within a cell: from -1 (it falls to 0) to 1 (it rises from 0), `[N, G - 1]`."""
        left, right = self.height[:, :-1], self.height[:, 1:]
        return torch.where(left + right > 0, (right - left) / (left + right).clamp(min=1e-300), 0.0)

    @cached_property
    def _cdf(self) -> Tensor:
        """The distribution function at the nodes, `[N, G]`."""
        cdf = torch.nn.functional.pad(self.mass.cumsum(-1), (1, 0))
        return cdf / cdf[:, -1:]

    def _cell(self, y: Tensor, right: bool = True) -> tuple[Tensor, Tensor]:
        """Returns the cell that holds y `[N, K]`, and y's place in it in [0, 1]; outside the nodes, the nearest end."""
        cell = (torch.searchsorted(self.y.contiguous(), y.contiguous(), right=right) - 1).clamp(0, self.y.shape[-1] - 2)
        width = self._width.gather(-1, cell)
        place = (y - self.y.gather(-1, cell)) / width.clamp(min=1e-300)
        return cell, torch.where(width > 0, place.clamp(0, 1), (y >= self.y.gather(-1, cell)).to(y.dtype))

    def _within(self, cell: Tensor, place: Tensor) -> Tensor:
        tilt = self._tilt.gather(-1, cell)
        share = place * (1 - tilt) + tilt * place.square()
        return (self._cdf.gather(-1, cell) + self.mass.gather(-1, cell) * share).clamp(0, 1)

    def at(self, y: Tensor) -> Tensor:
        """Returns the density at y `[N, K]` as the nodes have it, atoms apart; 0 outside the nodes."""
        cell, place = self._cell(y)
        height = torch.lerp(self.height.gather(-1, cell), self.height.gather(-1, cell + 1), place)
        return torch.where((y < self.y[:, :1]) | (y > self.y[:, -1:]), 0.0, height)

    def cdf_at(self, y: Tensor) -> Tensor:
        """Returns the probability of no more than y, `[N, K]`."""
        y = y.double()
        return torch.where(y < self.y[:, :1], 0.0, self._within(*self._cell(y)))

    def below(self, y: Tensor) -> Tensor:
        """Returns the probability of less than y, `[N, K]`: an atom at y does not count."""
        y = y.double()
        found = self._within(*self._cell(y, right=False))
        return torch.where(y <= self.y[:, :1], 0.0, found)

    def _quantile(self, p: Tensor) -> Tensor:
        """Returns the least y up to which there is a probability, `[N, K]`."""
        cell = (torch.searchsorted(self._cdf, p.contiguous()) - 1).clamp(0, self.mass.shape[-1] - 1)
        mass, tilt = self.mass.gather(-1, cell), self._tilt.gather(-1, cell)
        share = torch.where(mass > 0, (p - self._cdf.gather(-1, cell)) / mass.clamp(min=1e-300), 0.0).clamp(0, 1)
        # share = (1 - tilt) t + tilt t², solved for t without cancellation.
        root = ((1 - tilt).square() + 4 * tilt * share).clamp(min=0).sqrt()
        place = torch.where(share > 0, 2 * share / (1 - tilt + root).clamp(min=1e-300), 0.0).clamp(0, 1)
        return self.y.gather(-1, cell) + self._width.gather(-1, cell) * place

    @cached_property
    def _opened(self) -> Density:
        """The same densities; on a circle cut opposite to their mean, so that answers on a line are right."""
        if self.axis.support.turn is None:
            return self
        length = self._period
        cut = (self._direction + length / 2).unsqueeze(-1)
        low = self.y[:, :1]
        cut = low + torch.remainder(cut - low, length)
        made = self._cut(cut.repeat(1, 2))
        cells = torch.arange(made.mass.shape[-1], device=cut.device)
        first = torch.searchsorted(made.y, cut.contiguous(), right=True) - 1  # the cell after the cut
        order = (cells + first) % len(cells)
        start = made.y[:, :-1].gather(-1, order)
        end = made.y[:, 1:].gather(-1, order)
        turned = order < first
        nodes = torch.cat((start + length * turned, end[:, -1:] + length * turned[:, -1:]), -1)
        left, right = made.height[:, :-1].gather(-1, order), made.height[:, 1:].gather(-1, order)
        height = torch.cat((left, right[:, -1:]), -1)
        # The node of the cut is the last one too.
        centre = self._direction.unsqueeze(-1)
        shift = torch.floor((centre - nodes[:, :1]) / length) * length
        return replace(made, y=nodes + shift, mass=made.mass.gather(-1, order), height=height, exact=None)

    @property
    def _period(self) -> float:
        turn = self.axis.support.turn
        assert turn is not None
        return turn * self.axis.std

    @cached_property
    def _direction(self) -> Tensor:
        """The mean direction on a circle, `[N]`, within the nodes."""
        angle = 2 * math.pi * self._middle / self._period
        cos, sin = ((self.mass * part).sum(-1) for part in (angle.cos(), angle.sin()))
        mean = torch.atan2(sin, cos) * self._period / (2 * math.pi)
        return self.y[:, 0] + torch.remainder(mean - self.y[:, 0], self._period)

    @cached_property
    def _middle(self) -> Tensor:
        """The mean of y within each cell, `[N, G - 1]`."""
        return self.y[:, :-1] + self._width * (0.5 + self._tilt / 6)

    def _wrapped(self, y: Tensor) -> Tensor:
        """Returns answers as values of the support: on a circle within its first turn."""
        return y if self.axis.support.turn is None else self.axis.support.coordinate(y)

    def _unwrapped(self, y: Tensor) -> Tensor:
        """Returns values y within the nodes of a circle, `[N, K]`."""
        if self.axis.support.turn is None:
            return y.double()
        low = self.y[:, :1]
        return low + torch.remainder(y.double() - low, self._period)

    # ---------------------------------------------------------------------------------------------- answers

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns `log p(y|x)` at values `[N, K]`: a log-probability where a value has one, else a log-density."""
        if self.exact is not None:
            return self.exact(y)
        atoms = self.pmf(y)
        return torch.where(atoms > 0, atoms, self.at(self._unwrapped(y))).log()

    def pmf(self, y: Tensor) -> Tensor:
        """Returns the probability of the very value y, `[N, K]`: 0 where it has none."""
        return (self.cdf_at(y) - self.below(y)).clamp(min=0)

    def cdf(self, y: Tensor) -> Tensor:
        """Returns the probability of no more than y, `[N, K]`; on a circle from where its values start."""
        return self.cdf_at(y)

    def quantile(self, probability: Tensor) -> Tensor:
        """Returns the least y up to which there is a probability: `[K]` or `[N, K]` -> `[N, K]`."""
        return self._quantile(probability.double().expand(len(self.y), -1))

    def interval(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the ends of central intervals of some probabilities `[L]`: `[N, L]` each.

        On a circle they are those of the arc around the mean, from one end to the other, which may pass the seam.
        """
        low, high = self._ends(level)
        return self._wrapped(low), self._wrapped(high)

    def width(self, level: Tensor) -> Tensor:
        """Returns the lengths of central intervals of some probabilities `[L]`: `[N, L]`."""
        low, high = self._ends(level)
        return high - low

    def _ends(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the ends of central intervals; on a circle of the line that is cut opposite to the mean."""
        tails = torch.cat(((1 - level) / 2, (1 + level) / 2)).double()
        low, high = self._opened._quantile(tails.expand(len(self.y), -1)).chunk(2, -1)
        return low, high

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Returns independent draws, `[N, count]`."""
        return self.quantile(torch.rand(len(self.y), count, generator=generator, dtype=torch.float64).to(self.y.device))

    @cached_property
    def mean(self) -> Tensor:
        """`E[y]`, `[N]`; the mean direction on a circle."""
        if self.axis.support.turn is not None:
            return self._wrapped(self._direction)
        return (self.mass * self._middle).sum(-1) / self.mass.sum(-1)

    @cached_property
    def median(self) -> Tensor:
        """The median, `[N]`; on a circle of the line that is cut opposite to the mean."""
        half = self.y.new_full((len(self.y), 1), 0.5)
        return self._wrapped(self._opened._quantile(half)).squeeze(-1)

    @cached_property
    def std(self) -> Tensor:
        """The standard deviation, `[N]`; on a circle of the distance from the mean along it."""
        made = self._opened
        centre = self._direction if self.axis.support.turn is not None else self.mean
        start, width, tilt = made.y[:, :-1] - centre.unsqueeze(-1), made._width, made._tilt
        square = start.square() + 2 * start * width * (0.5 + tilt / 6) + width.square() * (1 / 3 + tilt / 6)
        return ((made.mass * square).sum(-1) / made.mass.sum(-1)).clamp(min=0).sqrt()

    @cached_property
    def mode(self) -> Tensor:
        """The likeliest value, `[N]`: that of the largest probability where values have one, else of the density."""
        if self.axis.support.discrete:
            return self.y[:, :-1].gather(-1, self.mass.argmax(-1, keepdim=True)).squeeze(-1)
        return self._wrapped(self.y.gather(-1, self.height.argmax(-1, keepdim=True)).squeeze(-1))

    def pit(self, y: Tensor, uniform: Tensor) -> Tensor:
        """Returns the distribution function at observations `[N]`; uniform if the densities are right.

        Args:
            uniform: numbers in [0, 1] that choose a place within an observation's own probability, `[N]`.
        """
        made = self._opened
        column = made._unwrapped(y.unsqueeze(-1))
        low = made.below(column)
        return (low + uniform.unsqueeze(-1) * (made.cdf_at(column) - low)).squeeze(-1)

    def interval_rank(self, y: Tensor) -> Tensor:
        """Returns the least level at which the central interval holds y, of one y each: `[N] -> [N]`."""
        made = self._opened
        column = made._unwrapped(y.unsqueeze(-1))
        return torch.maximum(1 - 2 * made.cdf_at(column), 2 * made.below(column) - 1).squeeze(-1).clamp(min=0)

    def region_rank(self, y: Tensor) -> Tensor:
        """Returns the least level at which the region holds y, of one y each: `[N] -> [N]`; at an atom 0."""
        column = self._unwrapped(y.unsqueeze(-1))
        if self.axis.support.discrete:
            own = (self.mass * (self.y[:, :-1] == column)).sum(-1, keepdim=True)
            before = (self.mass > own) | ((self.mass == own) & (self.y[:, :-1] < column))
            return torch.where(own > 0, (self.mass * before).sum(-1, keepdim=True), 1.0).squeeze(-1)
        own, least, width = self.pmf(column), self.at(column), self._width
        left, right = self.height[:, :-1], self.height[:, 1:]
        bottom, top = torch.minimum(left, right), torch.maximum(left, right)
        part = ((top - least) / (top - bottom).clamp(min=1e-300)).clamp(0, 1)
        share = part * (top + torch.maximum(least, bottom)) / (top + bottom).clamp(min=1e-300)
        above = torch.where(width > 0, self.mass * torch.where(top > least, share, 0.0), self.mass)
        return torch.where(own > 0, 0.0, above.sum(-1, keepdim=True)).squeeze(-1).clamp(max=1)

    def crps(self, y: Tensor) -> Tensor:
        """Returns the continuous ranked probability score, `∫ (F(t) − 1{t ≥ y})² dt`, of one y each: `[N] -> [N]`.

        (Gneiting and Raftery, 2007.) The cell that holds y is cut there; F is taken as linear within a piece. The
        distance is added for a y outside the nodes, where F is 0 or 1. On a circle it is the score by the distance
        along it (Grimit, Gneiting, Berrocal and Johnson, 2006), of equally likely points.
        """
        if self.axis.support.turn is not None:
            return circular_crps(self.quantile(midpoints(POINTS, y.device)), y, self._period)
        column = y.double().unsqueeze(-1)
        cell, t = self._cell(column)
        at_y = self.cdf_at(column)
        left, right = self._cdf[:, :-1], self._cdf[:, 1:]
        after = (torch.arange(left.shape[-1], device=y.device) >= cell).double()
        pieces = self._width * square_integral(left - after, right - after)
        f_left, f_right = self._cdf.gather(-1, cell), self._cdf.gather(-1, cell + 1)
        split = t * square_integral(f_left, at_y) + (1 - t) * square_integral(1 - at_y, 1 - f_right)
        whole = square_integral(1 - f_left, 1 - f_right)
        outside = (self.y[:, :1] - column).clamp(min=0) + (column - self.y[:, -1:]).clamp(min=0)
        return pieces.sum(-1) + (self._width.gather(-1, cell) * (split - whole) + outside).squeeze(-1)

    def brier(self, y: Tensor) -> Tensor:
        """Returns `Σ (p(a) - 1{y = a})²` over the atoms a, of one y each: `[N] -> [N]` (Brier, 1950)."""
        atoms = self.y.new_tensor(self.axis.support.atoms)
        return (self.pmf(atoms.expand(len(y), -1)) - (y.unsqueeze(-1) == atoms).double()).square().sum(-1)

    @cached_property
    def square(self) -> Tensor:
        """`∫ p²`, `[N]`; of a discrete support `Σ p²`."""
        if self.axis.support.discrete:
            return self.mass.square().sum(-1)
        mean = self.mass / self._width.clamp(min=1e-300)
        cells = self._width * mean.square() * (1 + self._tilt.square() / 3)
        return torch.where(self._width > 0, cells, 0.0).sum(-1)

    def mass_outside(self, low: Tensor, high: Tensor) -> Tensor:
        """Returns the mass below and above two values `[1]`, atoms apart: `[N]`."""
        count = len(self.y)
        found = self.below(low.expand(count, -1)) + 1 - self.cdf_at(high.expand(count, -1))
        for value in self.axis.support.atoms:
            at = self.y.new_tensor([[value]])
            beyond = (at < low) | (at > high)
            found = found - torch.where(beyond, self.pmf(at.expand(count, -1)), 0.0)
        return found.squeeze(-1).clamp(min=0)

    def edge_mass(self, share: float = 0.01) -> Tensor:
        """Returns the mass within a share of the length from either end, `[N]`."""
        low, high = self.y[:, :1], self.y[:, -1:]
        part = share * (high - low)
        return (self.cdf_at(low + part) + 1 - self.below(high - part)).squeeze(-1)

    def modes(self) -> list[list[Mode]]:
        """Returns the modes of each density, the one with the most mass first; an atom is a mode of its own."""
        made = self._opened
        parts = zip(made.y.cpu().numpy(), made.mass.cpu().numpy(), made.height.cpu().numpy(), strict=True)
        rows = [_modes(y, mass, height, self.axis.support.discrete) for y, mass, height in parts]
        return [[Mode(float(self._wrapped(torch.tensor(m.place))), m.mass) for m in row] for row in rows]

    def region(self, level: float) -> list[Region]:
        """Returns the smallest set of each density that has a probability; atoms come first, then where it is high."""
        made = self._opened
        parts = zip(made.y.cpu().numpy(), made.mass.cpu().numpy(), made.height.cpu().numpy(), strict=True)
        return [self._region(y, mass, height, level) for y, mass, height in parts]

    def _region(self, y: np.ndarray, mass: np.ndarray, height: np.ndarray, level: float) -> Region:
        width = np.diff(y)
        atom = (width <= 0) & (mass > 0)
        if self.axis.support.discrete:
            values, chosen = y[:-1][atom], mass[atom]
            order = np.argsort(-chosen, kind="stable")
            count = int(np.searchsorted(np.cumsum(chosen[order]), level - 1e-12)) + 1
            kept = np.sort(values[order[:count]])
            breaks = np.flatnonzero(np.diff(kept) > 1.5)
            pieces = [(float(run[0]), float(run[-1])) for run in np.split(kept, breaks + 1)]
            return Region(tuple(pieces), float(len(kept)), float(chosen[order[:count]].sum()))
        points, in_points = y[:-1][atom], float(mass[atom].sum())
        least = _threshold(width, mass, height, level - in_points)
        pieces, length, inside = _above(y, width, mass, height, least) if level > in_points else ([], 0.0, 0.0)
        if self.axis.support.turn is not None:
            pieces = [(float(low), float(high)) for low, high in self._wrapped(torch.tensor(pieces).reshape(-1, 2))]
        alone = [(float(p), float(p)) for p in points if not any(low <= p <= high for low, high in pieces)]
        return Region(tuple(sorted([*pieces, *alone])), length, inside + in_points)


def _threshold(width: np.ndarray, mass: np.ndarray, height: np.ndarray, wanted: float) -> float:
    """Returns the height above which the cells of a density have a mass.

    Between two heights of nodes the mass above t is linear in t²; a level cell is above up to its own height.
    """
    heights = np.unique(np.append(height, 0.0))
    low, high, at_low, at_high = 0, len(heights) - 1, float(mass[width > 0].sum()), 0.0
    if wanted >= at_low:
        return 0.0
    while high - low > 1:
        middle = (low + high) // 2
        found = float(_mass_above(width, mass, height, float(heights[middle])).sum())
        if found >= wanted:
            low, at_low = middle, found
        else:
            high, at_high = middle, found
    start, end = float(heights[low]), float(heights[high])
    at_high += float(mass[(width > 0) & (height[:-1] == end) & (height[1:] == end)].sum())
    if wanted <= at_high:
        return float(np.nextafter(end, 0.0))
    return math.sqrt(start**2 + (at_low - wanted) / (at_low - at_high) * (end**2 - start**2))


def _mass_above(width: np.ndarray, mass: np.ndarray, height: np.ndarray, least: float) -> np.ndarray:
    """Returns the mass of each cell where the density is above a height."""
    bottom, top = np.minimum(height[:-1], height[1:]), np.maximum(height[:-1], height[1:])
    part = np.clip((top - least) / np.maximum(top - bottom, 1e-300), 0, 1)
    share = part * (top + np.maximum(least, bottom)) / np.maximum(top + bottom, 1e-300)
    return np.where(width > 0, mass * np.where(top > least, share, 0.0), 0.0)


def _above(
    y: np.ndarray, width: np.ndarray, mass: np.ndarray, height: np.ndarray, least: float
) -> tuple[list[tuple[float, float]], float, float]:
    """Returns the intervals where a density is above a height, their length and their mass."""
    left, right = height[:-1], height[1:]
    cross = np.clip((least - left) / np.where(right == left, 1.0, right - left), 0, 1)
    start = np.where(left >= least, y[:-1], y[:-1] + cross * width)
    end = np.where(right >= least, y[1:], y[:-1] + cross * width)
    chosen = (np.maximum(left, right) > least) & (width > 0)
    pieces: list[tuple[float, float]] = []
    for low, high in zip(start[chosen], end[chosen], strict=True):
        if pieces and low <= pieces[-1][1]:
            pieces[-1] = (pieces[-1][0], float(high))
        else:
            pieces.append((float(low), float(high)))
    return pieces, float((end - start)[chosen].sum()), float(_mass_above(width, mass, height, least).sum())


def _modes(y: np.ndarray, mass: np.ndarray, height: np.ndarray, discrete: bool) -> list[Mode]:
    """Returns the modes of one density, the one with the most mass first."""
    width = np.diff(y)
    atom = (width <= 0) & (mass > 0)
    if discrete:
        heights, places, masses = mass[atom], y[:-1][atom], mass[atom]
        found: list[Mode] = []
    else:
        cells = width > 0
        heights = np.append(height[:-1][cells], height[-1])
        places = np.append(y[:-1][cells], y[-1])
        masses = np.append(mass[cells], 0.0)
        found = [Mode(float(place), float(share)) for place, share in zip(y[:-1][atom], mass[atom], strict=True)]
    basins = _basins(heights)
    bounds = [*(basin[0] for basin in basins), len(heights)]
    for (_, peak), low, high in zip(basins, bounds[:-1], bounds[1:], strict=True):
        found.append(Mode(float(places[peak]), float(masses[low:high].sum())))
    found = [mode for mode in found if mode.mass >= LEAST_MODE] or found
    return sorted(found, key=lambda mode: -mode.mass)


def _basins(heights: np.ndarray) -> list[tuple[int, int]]:
    """Returns where each basin starts and its peak; two whose density hardly dips between them are one."""
    rising = np.diff(heights, prepend=-np.inf) > 0
    falling = np.diff(heights, append=-np.inf) <= 0
    found: list[tuple[int, int]] = []
    for peak in np.flatnonzero(rising & falling).tolist():
        start = 0
        while found:
            last_start, last = found[-1]
            dip = last + int(np.argmin(heights[last : peak + 1]))
            if heights[dip] < (1 - LEAST_DIP) * min(heights[last], heights[peak]):
                start = dip
                break
            if heights[last] >= heights[peak]:
                peak = last
            found.pop()
            start = last_start
            if not found:
                break
        found.append((start, peak))
    return found
