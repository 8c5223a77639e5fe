"""Densities of one number on nodes that are close together where the mass is. Everything is float64.

A density is known by its logarithm at rising nodes, up to a constant. It is taken to be linear between them, and its
mass to be all within them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

HIDDEN = 0.05
"""The mass that may be hidden between nodes, over the mass they show, from which on more nodes are wanted."""
SEARCHES, SEARCHED = 6, 8
"""How often nodes are added where mass may be hidden, at most, and in how many cells at a time."""

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
            made = made._with(made.quantile(middle, flatten=0.1), log_p)
        coarse = (made.hidden > HIDDEN).unsqueeze(-1)
        if not coarse.any():
            return made
        # The other densities get their last node again, which changes nothing.
        for _ in range(SEARCHES):
            made = made._with(torch.where(coarse, made._within_cells(points), made.y[:, -1:]), log_p)
            if not (made.hidden > HIDDEN).any():
                break
        for _ in range(rounds):
            made = made._with(torch.where(coarse, made.quantile(middle, flatten=0.1), made.y[:, -1:]), log_p)
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

    def mixed(self, count: int) -> GridDensity:
        """Returns the equal mixtures of number k, k + N / count, ... for each k: `[N / count, count·G]`."""
        nodes = self.y.unflatten(0, (count, -1)).movedim(0, 1).flatten(1).sort(-1).values
        cell, t = self._cell(nodes.repeat(count, 1))
        left, right = self.density.gather(-1, cell), self.density.gather(-1, cell + 1)
        density = (left + t * (right - left)).unflatten(0, (count, -1))
        return GridDensity(nodes, density.mean(0).log())

    @cached_property
    def spacing(self) -> Tensor:
        """The distances of neighbouring nodes, `[N, G - 1]`."""
        return self.y[:, 1:] - self.y[:, :-1]

    @cached_property
    def log_z(self) -> Tensor:
        """The logarithm of the integral of `exp(log_values)` by the trapezoidal rule, `[N]`."""
        return _log_trapezoid(self.y, self.log_values)

    @cached_property
    def error(self) -> Tensor:
        """How far `log_z` moves when every other node is left out, over 3, `[N]`.

        For a smooth integrand the error falls with the square of the spacing, so a third of the difference is its size.
        Where much may still be hidden between nodes, that is the error.
        """
        last = self.y[:, -1:]
        thin = torch.cat((self.y[:, :-1:2], last), -1)
        values = torch.cat((self.log_values[:, :-1:2], self.log_values[:, -1:]), -1)
        error = (self.log_z - _log_trapezoid(thin, values)).abs() / 3
        return torch.where(self.hidden > HIDDEN, torch.maximum(error, self.hidden.log1p()), error)

    @cached_property
    def log_density(self) -> Tensor:
        """The normalised `log p` at the nodes, `[N, G]`."""
        return self.log_values - self.log_z.unsqueeze(-1)

    @cached_property
    def density(self) -> Tensor:
        """The density at the nodes, `[N, G]`."""
        return self.log_density.exp()

    @cached_property
    def cdf(self) -> Tensor:
        """The distribution function at the nodes, `[N, G]`."""
        cells = 0.5 * (self.density[:, 1:] + self.density[:, :-1]) * self.spacing
        return torch.nn.functional.pad(cells.cumsum(-1), (1, 0)).clamp(max=1)

    def _cell(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The cell that holds y `[N, K]`, and y's place in it in [0, 1]; outside the nodes, the nearest end."""
        cell = (torch.searchsorted(self.y, y.contiguous(), right=True) - 1).clamp(0, self.y.shape[-1] - 2)
        width = self.spacing.gather(-1, cell)
        place = (y - self.y.gather(-1, cell)) / width.clamp(min=1e-300)
        return cell, place.clamp(0, 1)

    def cdf_at(self, y: Tensor) -> Tensor:
        """The distribution function at any y: `[N, K] -> [N, K]`."""
        cell, t = self._cell(y.double())
        left, right = self.density.gather(-1, cell), self.density.gather(-1, cell + 1)
        part = self.spacing.gather(-1, cell) * t * (left + 0.5 * t * (right - left))
        return (self.cdf.gather(-1, cell) + part).clamp(0, 1)

    def mass_outside(self, low: Tensor, high: Tensor) -> Tensor:
        """The mass below `low` and above `high`, a number each (`[1]`): `[N]`."""
        below, to_high = self.cdf_at(torch.cat((low, high)).expand(len(self.y), -1)).unbind(-1)
        return below + (self.cdf[:, -1] - to_high).clamp(min=0)

    def quantile(self, probability: Tensor, flatten: float = 0.0) -> Tensor:
        """The least y up to which the density has a probability: `[N, K]` or `[K]` -> `[N, K]`.

        Args:
            flatten: how much of an even spread over the nodes is mixed in; only for placing new nodes.
        """
        p = probability.double().expand(len(self.y), -1)
        cdf = self.cdf
        if flatten:
            even = torch.linspace(0, 1, cdf.shape[-1], dtype=cdf.dtype, device=cdf.device)
            cdf = (1 - flatten) * cdf + flatten * even
        p = p * cdf[:, -1:]
        cell = (torch.searchsorted(cdf, p.contiguous()) - 1).clamp(0, cdf.shape[-1] - 2)
        low, width = self.y.gather(-1, cell), self.spacing.gather(-1, cell)
        below, above = cdf.gather(-1, cell), cdf.gather(-1, cell + 1)
        if flatten:
            part = (p - below) / (above - below).clamp(min=1e-300)
            return low + width * part.clamp(0, 1)
        left, right = self.density.gather(-1, cell), self.density.gather(-1, cell + 1)
        # mass = left t + (right - left) t²/2 in a cell of unit length, solved for t without cancellation.
        mass = torch.where(width > 0, (p - below) / width.clamp(min=1e-300), 0.0)
        root = (left.square() + 2 * (right - left) * mass).clamp(min=0).sqrt()
        place = torch.where(mass > 0, 2 * mass / (left + root).clamp(min=1e-300), 0.0).clamp(0, 1)
        return low + width * place

    @cached_property
    def mean(self) -> Tensor:
        """`E[y]`, `[N]`."""
        return self._moment(self.y)

    @cached_property
    def variance(self) -> Tensor:
        """`Var[y]`, `[N]`."""
        return self._moment((self.y - self.mean.unsqueeze(-1)).square())

    def _moment(self, values: Tensor) -> Tensor:
        return torch.trapezoid(self.density * values, self.y, dim=-1)

    @cached_property
    def mode(self) -> Tensor:
        """The node with the highest density, `[N]`."""
        return self.y.gather(-1, self.log_values.argmax(-1, keepdim=True)).squeeze(-1)

    def crps(self, y: Tensor) -> Tensor:
        """Continuous ranked probability score, `∫ (F(t) − 1{t ≥ y})² dt`, of one y each: `[N] -> [N]`.

        (Gneiting and Raftery, 2007.) The cell that holds y is cut there; F is taken as linear within a piece. The
        distance is added for a y outside the nodes, where F is 0 or 1.
        """
        column = y.double().unsqueeze(-1)
        cell, t = self._cell(column)
        at_y = self.cdf_at(column)
        left, right = self.cdf[:, :-1], self.cdf[:, 1:]
        after = (torch.arange(left.shape[-1], device=y.device) >= cell).double()
        pieces = self.spacing * square_integral(left - after, right - after)
        f_left, f_right = self.cdf.gather(-1, cell), self.cdf.gather(-1, cell + 1)
        split = t * square_integral(f_left, at_y) + (1 - t) * square_integral(1 - at_y, 1 - f_right)
        whole = square_integral(1 - f_left, 1 - f_right)
        outside = (self.y[:, :1] - column).clamp(min=0) + (column - self.y[:, -1:]).clamp(min=0)
        return pieces.sum(-1) + (self.spacing.gather(-1, cell) * (split - whole) + outside).squeeze(-1)


def _log_trapezoid(y: Tensor, log_values: Tensor) -> Tensor:
    gaps = torch.nn.functional.pad(y[:, 1:] - y[:, :-1], (1, 1))
    weights = 0.5 * (gaps[:, 1:] + gaps[:, :-1])
    return torch.logsumexp(log_values + weights.log(), dim=-1)


def _ratio(width: Tensor, other: Tensor) -> Tensor:
    """How many times longer cells are than others, at most 1024."""
    return width / torch.maximum(other, width / 1024).clamp(min=1e-300)


def _mean_exp(a: Tensor, b: Tensor, exp_a: Tensor, exp_b: Tensor) -> Tensor:
    """The mean of `exp` over a piece on which its argument goes from a to b on a straight line."""
    fall = a - b
    return torch.where(fall.abs() < 1e-6, exp_a, (exp_a - exp_b) / fall)


def square_integral(a: Tensor, b: Tensor) -> Tensor:
    """∫ of the square of a linear function over a piece of unit length, from its ends."""
    return (a * a + a * b + b * b) / 3


def crps_of_points(points: Tensor, y: Tensor) -> Tensor:
    """The CRPS of equally likely points: `[N, Q], [N] -> [N]`."""
    points = points.double().sort(-1).values
    count = points.shape[-1]
    distance = (points - y.double().unsqueeze(-1)).abs().mean(-1)
    # E|Y − Y'| of a sorted sample.
    rank = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=points.device) - count - 1
    return distance - (rank * points).sum(-1) / count**2


def energy_score(points: Tensor, y: Tensor) -> Tensor:
    """`E‖Y − y‖ − ½ E‖Y − Y'‖` from draws Y: `[N, Q, D], [N, D] -> [N]` (Gneiting and Raftery, 2007).

    The second mean is over pairs of different draws, so that the estimate is unbiased.
    """
    points, y = points.double(), y.double().unsqueeze(1)
    distance = (points - y).norm(dim=-1).mean(-1)
    count = points.shape[1]
    pairs = torch.cat([torch.cdist(part, part).sum((1, 2)) for part in points.split(64)]) / (count * (count - 1))
    return distance - 0.5 * pairs


INTERVAL = (0.05, 0.95)
"""The ends of the 90 % interval that is scored, as probabilities."""


def interval_score(ends: Tensor, y: Tensor) -> Tensor:
    """The score of `INTERVAL` (Gneiting and Raftery, 2007): its ends `[N, 2]`, y `[N]` -> `[N]`.

    It is the interval's length, and 20 times the distance of a y outside from it.
    """
    low, high = ends.unbind(-1)
    missed = (low - y).clamp(min=0) + (y - high).clamp(min=0)
    return high - low + missed / INTERVAL[0]


def central_coverage(pit: Tensor, level: float) -> Tensor:
    """Share of observations inside the central interval of a level, from their PIT: `[..., N] -> [...]`."""
    tail = (1 - level) / 2
    return ((pit >= tail) & (pit <= 1 - tail)).double().mean(-1)


def region_coverage(outside: Tensor, level: float) -> Tensor:
    """Share of observations inside the region of highest density of a level: `[..., N] -> [...]`.

    Args:
        outside: the model's mass where its density is higher than at the observation.
    """
    return (outside <= level).double().mean(-1)


LEVELS = [round(0.05 * k, 2) for k in range(1, 20)]
"""Levels of calibration curves."""


def mixed_nll(log_prob: Tensor, log_base: Tensor, share: float = 0.02) -> Tensor:
    """The NLL after a share of the base density is mixed in, which bounds what a single point can cost."""
    return -torch.logaddexp(log_prob + math.log1p(-share), log_base + math.log(share))


def point_metrics(log_prob: Tensor, mean: Tensor, median: Tensor, y: Tensor, log_base: Tensor) -> dict[str, Tensor]:
    """Returns robust summaries of the NLL, and errors of points: `[N]`, `[N, D]` twice, `[N, D]`, `[N]`."""
    return {
        "nll_median": -log_prob.median(),
        "nll_mixed": mixed_nll(log_prob, log_base).mean(),
        "rmse": (mean - y).square().mean().sqrt(),
        "mae": (median - y).abs().mean(),
    }


def calibration_metrics(pit: Tensor, one: bool) -> dict[str, Tensor]:
    """Returns coverages, and how far the calibration curve is off in the mean, from the PIT `[N]`."""
    curve = calibration_curve(pit, one)
    return {
        "coverage_50": curve[LEVELS.index(0.5)],
        "coverage_90": curve[LEVELS.index(0.9)],
        "calibration_error": (curve - curve.new_tensor(LEVELS)).abs().mean(),
    }


def calibration_curve(pit: Tensor, one: bool) -> Tensor:
    """Returns the coverage at each of `LEVELS`: of central intervals, or of regions for several targets."""
    covered = central_coverage if one else region_coverage
    return torch.stack([covered(pit, level) for level in LEVELS])
