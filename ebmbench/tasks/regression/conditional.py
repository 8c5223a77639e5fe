"""The conditional densities of S trained models, in standardised units."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebmbench.tasks.regression.base_density import BaseDensity, NodeDensity
from ebmbench.tasks.regression.density import GridDensity
from ebmbench.tasks.regression.stack import Stack

LogDensity = Callable[[Tensor], Tensor]
"""`log p(y|x)` up to `log Z(x)`, for S models and some rows: y `[S, B, M, D]` -> `[S, B, M]`, float64."""

TAIL_POINTS = 65
"""Nodes over the whole reach of the base density, beside those where training targets are."""


class Conditionals:
    """What S models say of y for given x, without gradients and without dropout.

    Args:
        stack: the models.
        base: their base density; a normalised model has none, but its reach bounds quadratures.
        nodes: places nodes for one target; None for several.
    """

    def __init__(self, stack: Stack, base: BaseDensity, nodes: NodeDensity | None, seeds: int) -> None:
        self.stack, self.base, self.nodes, self.seeds = stack, base, nodes, seeds

    @torch.no_grad()
    def bind(self, x: Tensor) -> LogDensity:
        """Returns the energies at some rows x `[B, ...]`, the base density's included."""
        with self.stack.evaluating():
            f, _ = self.stack.bind(x.unsqueeze(0).expand(self.seeds, *x.shape))

        @torch.no_grad()
        def log_density(y: Tensor) -> Tensor:
            with self.stack.evaluating():
                values = f(y.to(x.dtype)).double()
            return values if self.stack.normalised else values + self.base.log_prob(y.double())

        return log_density

    def grids(self, x: Tensor, near: Tensor | None = None, points: int = 160) -> GridDensity:
        """Returns the densities of one target at some rows, `[S·B]` of them, seed by seed.

        Args:
            near: a y of each row that the nodes hold too, so that a narrow peak there is not missed: `[B]`.
            points: nodes that are added, twice.
        """
        f, rows = self.bind(x), len(x)

        def flat(y: Tensor) -> Tensor:
            return f(y.view(self.seeds, rows, -1, 1)).flatten(0, 1)

        return GridDensity.refined(flat, self._start(rows, near), points=points)

    def _start(self, rows: int, near: Tensor | None) -> Tensor:
        assert self.nodes is not None
        count = self.base.nodes
        device = self.nodes.y.device
        middle = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) / count
        common = torch.cat((self.nodes.at(middle)[0], self.base.grid(TAIL_POINTS).to(device)))
        start = common.expand(rows, -1)
        if near is not None:
            start = torch.cat((start, near.double().unsqueeze(1)), 1)
        return start.sort(-1).values.repeat(self.seeds, 1)


def log_partition(f: LogDensity, nodes: NodeDensity, u: Tensor, rows: int) -> Tensor:
    """Returns `log ∫ exp f dy` by the midpoint rule in the node density's variable, `[S, B]`.

    Args:
        f: energies of S models and B rows.
        u: places of the nodes in [0, 1], `[S, M]`.
    """
    y, log_g = nodes.at(u)
    y = y.to(torch.float32).unsqueeze(1).expand(-1, rows, -1).unsqueeze(-1)
    values = f(y) - log_g.to(torch.float32).unsqueeze(1)
    return torch.logsumexp(values, -1) - torch.log(torch.tensor(float(u.shape[-1])))
