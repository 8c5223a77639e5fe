"""What a support must keep to: checks that `ebmbench check` and the tests run (see `check/methods.py`).

The training targets of a check are draws of the support's own base measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.supports.base import Support
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.nodes import NodeDensity
from ebmbench.supports.placed import Placed
from ebmbench.supports.targets import Axis, Targets, Wide

DRAWS = 20_000
FINE = 400_001
"""Points of a trapezoid rule over a base measure."""


def _targets(support: Support) -> Tensor:
    """Returns values of the support, `[1000]` float64, near the middle of its base measure."""
    generator = torch.Generator().manual_seed(0)
    normal, uniform = torch.randn(1000, generator=generator).double(), torch.rand(1000, generator=generator).double()
    made = support.measure(BaseDensity(scale=1.0), 0.0, 1.0)
    u = made.sample(normal, uniform)
    return support.value(u.round() if support.discrete else u)


def _axis(cls: type[Support]) -> tuple[Axis, Tensor]:
    support = cls.model_validate({})
    y = _targets(support)
    return Axis.of("y", support, y, BaseDensity(), True), y


def support_values(cls: type[Support]) -> Iterator[str]:
    """Its values are inside, go to the coordinate and back, and have the slope that it says."""
    axis, y = _axis(cls)
    support = axis.support
    if not support.inside(y).all():
        yield f"inside refuses {float(y[~support.inside(y)][0]):g}, which its base measure draws"
    back = axis.value(axis.z(y))
    if not torch.allclose(back, y, rtol=1e-6, atol=1e-6 * float(y.abs().max())):
        worst = int((back - y).abs().argmax())
        yield f"value(coordinate({float(y[worst]):g})) is {float(back[worst]):g}"
    if support.discrete:
        return
    u, step = support.coordinate(y), 1e-5 * max(axis.std, 1e-12)
    slope = (support.value(u + step) - support.value(u - step)) / (2 * step)
    inner = slope > 0  # a coordinate that starts again has none at its seam
    if inner.double().mean() < 0.9 or not torch.allclose(support.log_slope(u)[inner], slope[inner].log(), atol=1e-3):
        yield "log_slope is not the logarithm of the derivative of value"


def support_mass(cls: type[Support]) -> Iterator[str]:
    """The mass of its base measure is 1."""
    axis, _ = _axis(cls)
    if axis.support.discrete:
        mass = float(axis.log_prob(axis.points).exp().sum())
    else:
        z = torch.linspace(*axis.measure.ends, FINE, dtype=torch.float64)
        mass = float(torch.trapezoid(axis.measure.log_prob(z).exp(), z))
    if abs(mass - 1) > 1e-3:
        yield f"the mass is {mass:.4f}"


def support_draws(cls: type[Support]) -> Iterator[str]:
    """Draws of its base measure follow it, and are within its ends."""
    axis, _ = _axis(cls)
    z = Wide(Targets((axis,)), torch.device("cpu")).sample((1, 1), DRAWS, torch.Generator().manual_seed(1))
    z = z.flatten().double().sort().values
    if axis.outside(z).any() or not axis.support.inside(axis.value(z)).all():
        yield "some draws are outside the support"
    grid = axis.points if axis.support.discrete else torch.linspace(*axis.measure.ends, FINE, dtype=torch.float64)
    p = axis.log_prob(grid).exp()
    cdf = (p / p.sum()).cumsum(0)
    share = torch.searchsorted(z, grid + 1e-9 * (1 + grid.abs()), right=True) / len(z)
    distance = float((share - cdf).abs().max())
    if distance > 0.02:  # the 5 % point of Kolmogorov and Smirnov is 0.0096
        yield f"the largest distance between the two distribution functions is {distance:.3f}"


def support_nodes(cls: type[Support]) -> Iterator[str]:
    """The nodes that integrals are taken on hold all of its mass."""
    axis, y = _axis(cls)
    if axis.support.discrete:
        values = axis.values
        if (values.diff() <= 0).any() or not axis.support.inside(values).all():
            yield "points must be values of the support, rising"
        return
    nodes = NodeDensity.of(axis.z(y), axis.measure)
    z, log_g = nodes.at((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
    mass = float((axis.measure.log_prob(z) - log_g).exp().mean())
    if abs(mass - 1) > 0.02:
        yield f"the mass on 1000 nodes is {mass:.4f}: grid must go from one end of the measure to the other"


def support_proposals(cls: type[Support]) -> Iterator[str]:
    """Draws of a proposal that place moves are in the support, with the density that placed_log_prob says."""
    axis, y = _axis(cls)
    proposal = Placed.on(GaussianMixture(stds=(0.3, 3.0)), axis)
    for number, target in enumerate(axis.z(y[:3])):
        step = Step(Streams([0], stacked=False).at(number), proposal)
        drawn, log_q = proposal.sample(target.view(1, 1), DRAWS, step)
        if axis.outside(drawn).any() or not axis.support.inside(axis.value(drawn)).all():
            yield "place leaves draws outside the support"
            return
        weights = (axis.log_prob(drawn.squeeze(-1)) - log_q).exp()
        error = 5 * float(weights.std()) / math.sqrt(DRAWS) + 1e-3
        if not abs(float(weights.mean()) - 1) < error:
            yield f"importance sampling of the base measure's mass gives {float(weights.mean()):.3f}, ± {error:.3f}"
            return


def support_embedding(cls: type[Support]) -> Iterator[str]:
    """What networks see of a value has the size that features says, and the derivative that slopes says."""
    axis, _ = _axis(cls)
    z = torch.linspace(-1, 1, 7, dtype=torch.float64)
    seen = axis.support.embed(z)
    if seen.shape != (7, axis.support.features):
        yield f"embed returned {tuple(seen.shape)} for 7 values, and features is {axis.support.features}"
        return
    slope = (axis.support.embed(z + 1e-5) - axis.support.embed(z - 1e-5)) / 2e-5
    if not torch.allclose(axis.support.slopes(z).expand_as(slope), slope, atol=1e-4):
        yield "slopes is not the derivative of embed"
    turn = axis.support.turn
    if turn is not None and not torch.allclose(axis.support.embed(z + turn), seen, atol=1e-6):
        yield f"embed differs a turn of {turn:.6g} apart"


CHECKS = (support_values, support_mass, support_draws, support_nodes, support_proposals, support_embedding)
