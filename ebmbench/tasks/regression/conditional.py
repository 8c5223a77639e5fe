"""The conditional densities of S trained models, in standardised units."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ebmbench.core import importance
from ebmbench.core.energy import Energy
from ebmbench.core.importance import Cloud, Proposal, Proposed
from ebmbench.core.tempering import Tempered, tempered
from ebmbench.models.stack import Stack
from ebmbench.supports.nodes import NodeDensity
from ebmbench.supports.targets import Targets, Wide
from ebmbench.tasks.regression.density import Density
from ebmbench.tasks.regression.quadrature import GridDensity, midpoints

LogDensity = Callable[[Tensor], Tensor]
"""`log p(y|x)` up to `log Z(x)`, for S models and some rows: y `[S, B, M, D]` -> `[S, B, M]`, float64."""

NEAR = 0.3
"""The standard deviation of a normal around a target, whose mass is not to be missed."""
REACH = 12.0
"""Standard deviations of the training targets beyond which no mass counts: four of the base density."""
START_NODES, TAIL_POINTS = 200, 65
"""Nodes from which a quadrature starts: where training targets are, at most, and over the base measure's reach."""
HALVES_APART, LARGEST_SHARE = 0.1, 0.3
"""Nodes are too few if half of them give another log Z, by this much, or if one of them has this share of Z."""
ASIDE = 0.01
"""How far from an atom the node is that stands for it."""
NEAR_NODES, NEAREST, FARTHEST = 32, 3e-5, 0.3
"""Further nodes around a target in training, and the least and the largest offset of them from it."""


class Bound:
    """The energies of S models at some rows, as a `LogDensity` and an Energy.

    Args:
        f: of z, the base measure included.
        dtype: of the networks.
    """

    def __init__(self, f: Energy, stack: Stack, dtype: torch.dtype) -> None:
        self.f, self.stack, self.dtype = f, stack, dtype

    @torch.no_grad()
    def __call__(self, y: Tensor) -> Tensor:
        """Returns the energies: `[S, B, M, D] -> [S, B, M]`, float64."""
        with self.stack.evaluating():
            return self.f(y.to(self.dtype)).double()

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns their gradient in y, `[S, B, M, D]`; zeros where the network has none, which moves can do without."""
        y = y.to(self.dtype)
        if not self.stack.has_gradient:
            return torch.zeros_like(y)
        with self.stack.evaluating():
            return self.f.grad(y, create_graph)


class Conditionals:
    """What S models say of y for given x, without gradients and without dropout.

    Args:
        stack: the models.
        targets: their supports and base measure; a normalised model has none, but its reach bounds quadratures.
        nodes: places nodes for one target; None for several.
        cloud: kernels around training targets, from which sampling starts; not needed for one target.

    Attributes:
        normalised: whether the networks give `log p` of z by themselves.
    """

    def __init__(
        self, stack: Stack, targets: Targets, nodes: NodeDensity | None, cloud: Cloud | None, seeds: int
    ) -> None:
        self.stack, self.targets, self.nodes, self.cloud, self.seeds = stack, targets, nodes, cloud, seeds
        self.base = targets.base
        self.normalised = stack.normalised and targets.line
        self._index: int | None = None

    def each(self) -> list[Conditionals]:
        """Returns the models one by one: what is made of one is the same, bit for bit, whichever are beside it.

        A quadrature of several at once has as many nodes as the most demanding of them needs.
        """
        found = [copy.copy(self) for _ in range(self.seeds)]
        for index, one in enumerate(found):
            one.seeds, one._index = 1, index
        return found

    @torch.no_grad()
    def bind(self, x: Tensor) -> Bound:
        """Returns the energies at some rows x `[B, ...]`, the base measure's included."""
        with self.stack.evaluating():
            f, _ = self.stack.bind(x.unsqueeze(0).expand(self.seeds, *x.shape), self._index)
        return Bound(self.targets.energy(f, self.normalised), self.stack, x.dtype)

    def _at_points(self, f: LogDensity | Energy, rows: int) -> Tensor | None:
        """Returns the energies at values that have a probability, `[S, B, K]`; None where no value has."""
        points = self.targets.axes[0].points
        if not len(points):
            return None
        device = self.stack.flat.device
        return f(points.to(device, self.stack.flat.dtype).expand(self.seeds, rows, -1).unsqueeze(-1))

    def grids(self, x: Tensor, near: Tensor | None = None) -> GridDensity:
        """Returns the densities of z of one target at some rows, atoms apart: `[S·B]` of them, seed by seed.

        Args:
            near: a z of each row that the nodes hold too, so that a narrow peak there is not missed: `[B]`.
        """
        f, rows = self.bind(x), len(x)

        def flat(y: Tensor) -> Tensor:
            return f(y.view(self.seeds, rows, -1, 1)).flatten(0, 1)

        return GridDensity.refined(flat, self.start(rows, near).repeat(self.seeds, 1))

    def densities(self, x: Tensor, near: Tensor | None = None) -> tuple[Density, Tensor, GridDensity | None]:
        """Returns the densities of one target at some rows, `[S·B]` of them, seed by seed; their log Z, `[S·B]`.

        The third is what `grids` returns; None for a discrete target.
        """
        axis = self.targets.axes[0]
        grid = None if axis.support.discrete else self.grids(x, near)
        points = self._at_points(self.bind(x), len(x))
        density, log_z = Density.of(axis, grid, None if points is None else points.flatten(0, 1).double())
        return density, torch.zeros_like(log_z) if self.normalised else log_z, grid

    def start(self, rows: int, near: Tensor | None) -> Tensor:
        """Returns the nodes from which quadratures start, `[B, G]`; a y of each row may be one of them, `[B]`."""
        assert self.nodes is not None
        device = self.nodes.y.device
        places, _ = self.nodes.at(midpoints(min(self.base.nodes, START_NODES), device))
        axis = self.targets.axes[0]
        measure = axis.measure
        start = torch.cat((places, measure.grid(TAIL_POINTS).to(device))).expand(rows, -1)
        if near is not None:
            near = near.double()
            near = torch.where(axis.is_point(near), near + ASIDE, near)  # a node there would have the atom's mass
            start = torch.cat((start, near.clamp(*measure.ends).unsqueeze(1)), 1)
        return start.sort(-1).values

    def tempered(self, x: Tensor, near: Proposal | None, number: int) -> Tempered:
        """Returns draws of several targets at some rows x `[B, ...]`, with an estimate of log Z.

        Args:
            near: what mass is not to be missed, such as that of the truth or of a row's target.
            number: of the random numbers.
        """
        assert self.cloud is not None
        wide = Wide(self.targets, x.device)
        shares = (1 / 3, 2 / 3) if near is None else (0.25, 0.5)
        start: list[tuple[float, Proposal]] = [(shares[0], self.cloud.as_one()), (shares[1], wide)]
        if near is not None:
            start.append((0.25, near))
        generator = torch.Generator().manual_seed(number)
        with self.stack.evaluating():
            return tempered(self.bind(x), start, (self.seeds, len(x)), self.base.samples, generator)

    def log_prob(self, x: Tensor, y: Tensor, drawn: Proposed | None = None) -> Tensor:
        """Returns `log p` of z with a quick estimate of log Z, `[S, B]` float64; y is z, `[B, D]`.

        Args:
            drawn: what `around` returned, where there are several targets.
        """
        f = self.bind(x)
        at_y = f(y.unsqueeze(1).expand(self.seeds, -1, -1, -1)).squeeze(-1)
        if self.normalised:
            return at_y
        if drawn is not None:
            return at_y - drawn.weighted(f, (self.seeds, len(x))).log_z
        return at_y - self._log_z(f, x, y, at_y)

    def exact_log_prob(self, x: Tensor, y: Tensor, rows: int = 256) -> Tensor:
        """Returns `log p` of z of one target by quadrature, `[S, B]` float64; y is z, `[B, 1]`."""

        def of(model: Conditionals, x: Tensor, y: Tensor) -> Tensor:
            return model.bind(x)(y.view(1, -1, 1, 1)).flatten() - model.densities(x, y[:, 0])[1]

        pieces = list(zip(x.split(rows), y.split(rows), strict=True))
        return torch.stack([torch.cat([of(model, *piece) for piece in pieces]) for model in self.each()])

    def _log_z(self, f: LogDensity, x: Tensor, y: Tensor, at_y: Tensor) -> Tensor:
        """Returns log Z of one target, `[S, B]`: on fixed nodes, and where these are too coarse on finer ones.

        Args:
            y: a target of each row, `[B, 1]`, around which the model is likely to have mass.
            at_y: the energies there, `[S, B]`.
        """
        points = self._at_points(f, len(x))
        if self.nodes is None:
            assert points is not None
            return torch.logsumexp(points.double(), -1)
        count = self.base.nodes
        places = midpoints(count, x.device).expand(self.seeds, -1)
        values = node_values(f, self.nodes, places, len(x), x.dtype)
        log_z = log_mean_exp(values)
        as_node = at_y - self.nodes.log_prob(y.squeeze(1)) - math.log(count) - log_z
        coarse = are_coarse(values, log_z) | (as_node > math.log(LARGEST_SHARE))
        some = coarse.any(0).nonzero().squeeze(1)
        log_z = log_z.double()
        for rows in some.split(max(1, len(x) // 8)) if len(some) else ():
            finer = self.grids(x[rows], y[rows, 0]).log_z.view(self.seeds, -1)
            log_z[:, rows] = torch.where(coarse[:, rows], finer, log_z[:, rows])
        return log_z if points is None else torch.logaddexp(log_z, torch.logsumexp(points.double(), -1))

    def trained_log_z(self, f: Energy, u: Tensor, y: Tensor, near: Tensor) -> Tensor:
        """Returns log Z for training by an exact likelihood, `[S, B]`, for one target.

        Args:
            f: the energies of z in training.
            u, near, y: see `trained_log_partition`.
        """
        points = self._at_points(f, y.shape[1])
        if self.nodes is None:
            assert points is not None
            return torch.logsumexp(points, -1)
        log_z = trained_log_partition(f, self.nodes, u, y, near)
        return log_z if points is None else torch.logaddexp(log_z, torch.logsumexp(points, -1))

    def around(self, y: Tensor, count: int, number: int) -> Proposed | None:
        """Returns draws around targets `[B, D]`, where training targets are, and far away: the same for all models.

        They are for an importance sampling of log Z. None for one target or a normalised model, which need none.

        Args:
            count: draws for each target.
            number: of the random numbers.
        """
        if self.cloud is None or self.normalised:
            return None
        near: list[tuple[float, Proposal]] = [(0.3, around(y, std)) for std in (0.1, 0.4)]
        parts = [*near, (0.3, self.cloud), (0.1, Wide(self.targets, y.device))]
        return importance.propose(parts, (1, len(y)), count, torch.Generator().manual_seed(number))


def around(y: Tensor, std: float) -> Cloud:
    """Returns one Gaussian around each y `[B, D]`, or around the nearest place that the base density reaches."""
    return Cloud(y.clamp(-REACH, REACH).unsqueeze(1), std * torch.eye(y.shape[1], dtype=y.dtype, device=y.device))


def node_values(
    f: LogDensity | Energy, nodes: NodeDensity, u: Tensor, rows: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Returns `log(exp f / g)` at nodes, `[S, B, M]`, whose mean is Z by the midpoint rule in g's own variable.

    Args:
        f: energies of S models and B rows.
        nodes: the density g.
        u: places of the nodes in [0, 1], `[S, M]`.
    """
    y, log_g = nodes.at(u)
    y = y.to(dtype).unsqueeze(1).expand(-1, rows, -1).unsqueeze(-1)
    return f(y) - log_g.to(dtype).unsqueeze(1)


def log_mean_exp(values: Tensor) -> Tensor:
    """Returns the logarithm of the mean of `exp(values)`: `[..., M] -> [...]`."""
    return torch.logsumexp(values, -1) - torch.log(torch.tensor(float(values.shape[-1])))


def are_coarse(values: Tensor, log_z: Tensor) -> Tensor:
    """Returns where nodes are too few for their mean: `[..., M], [...] -> [...]`.

    There half of the nodes give another mean than all of them, or one node has much of it.

    Args:
        log_z: the logarithm of the mean.
    """
    half = (values[..., ::2] - log_z.unsqueeze(-1)).exp().mean(-1).log()
    largest = values.amax(-1) - log_z - math.log(values.shape[-1])
    return (half.abs() > HALVES_APART) | (largest > math.log(LARGEST_SHARE))


def trained_log_partition(f: Energy, nodes: NodeDensity, u: Tensor, y: Tensor, near: Tensor) -> Tensor:
    """Returns log Z for training, `[S, B]`: by nodes, and where these are too coarse by further ones around the target.

    A peak at a target that is narrower than the nodes' distance would be met by none of them most of the time, and a
    model would gain by making it narrower. The offsets of the further nodes from the target are log-uniform. Both kinds
    are put together by the balance heuristic (Veach and Guibas, 1995), which leaves the estimate of Z unbiased.

    Args:
        u, near: places in [0, 1] of the nodes of both kinds, `[S, M]` and `[S, K]`.
        y: the targets, `[S, B, 1]`.
    """
    values = node_values(f, nodes, u, y.shape[1], y.dtype)
    log_z = log_mean_exp(values)
    side = 2 * near.unsqueeze(1) - 1
    offset = side.sign() * NEAREST * (side.abs() * math.log(FARTHEST / NEAREST)).exp()
    around = y + offset.to(y.dtype)
    at_near = f(around.unsqueeze(-1)).masked_fill(~nodes.holds(around), -math.inf)
    with torch.no_grad():
        place, log_g = (part.to(y.dtype).unsqueeze(1) for part in nodes.at(u))
        count, further = u.shape[-1], near.shape[-1]
        of_nodes = log_g - (count * log_g.exp() + further * _log_uniform(place - y)).log()
        of_near = -(count * nodes.log_prob(around).to(y.dtype).exp() + further * _log_uniform(around - y)).log()
    finer = torch.logsumexp(torch.cat((values + of_nodes, at_near + of_near), -1), -1)
    with torch.no_grad():
        coarse = are_coarse(values, log_z) | ((finer - log_z).abs() > HALVES_APART)
    return torch.where(coarse, finer, log_z)


def _log_uniform(offset: Tensor) -> Tensor:
    """Returns the density of offsets whose logarithm is uniform, on either side of 0."""
    distance = offset.abs()
    inside = (distance >= NEAREST) & (distance <= FARTHEST)
    return torch.where(inside, 1 / (2 * math.log(FARTHEST / NEAREST) * distance), 0.0)
