"""The base density and the quadrature nodes, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ebmbench.core.energy import AutogradEnergy
from ebmbench.supports.measure import TAIL, BaseDensity
from ebmbench.supports.nodes import NodeDensity
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Axis, Targets, WithBase
from ebmbench.tasks.regression import conditional

KINDS = [BaseDensity(), BaseDensity(kind="student", scale=2.0, df=3.0), BaseDensity(kind="student", df=1.0)]


def law(base: BaseDensity) -> stats.rv_continuous:
    return stats.norm(0, base.scale) if base.kind == "normal" else stats.t(base.df, 0, base.scale)


def targets(base: BaseDensity, dim: int) -> Targets:
    return Targets((Axis(Real(), 0.0, 1.0, (), base),) * dim)


@pytest.mark.parametrize("base", KINDS, ids=str)
def test_density_score_reach_and_draws(base: BaseDensity) -> None:
    y = torch.linspace(-20, 20, 41, dtype=torch.float64).unsqueeze(1)
    np.testing.assert_allclose(base.log_prob(y)[:, 0], law(base).logpdf(y[:, 0].numpy()), rtol=1e-10)
    step = 1e-5
    slope = (base.log_prob(y + step) - base.log_prob(y - step)) / (2 * step)
    np.testing.assert_allclose(base.score(y), slope, atol=1e-6)
    assert law(base).sf(base.ends[1]) <= TAIL * 1.01
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    uniform = torch.rand(20_000, 1, generator=generator, dtype=torch.float64)
    assert stats.kstest(base.sample(normal, uniform)[:, 0].numpy(), law(base).cdf).pvalue > 1e-3


def test_coordinates_are_independent() -> None:
    y = torch.tensor([[0.5, -2.0, 7.0]], dtype=torch.float64)
    base = targets(BaseDensity(kind="student"), 3)
    assert float(base.log_prob(y)) == pytest.approx(float(BaseDensity(kind="student").log_prob(y).sum()))


@pytest.mark.parametrize("base", KINDS, ids=str)
def test_the_model_s_energy_and_slope_hold_the_base_density(base: BaseDensity) -> None:
    def f(y: Tensor) -> Tensor:
        return y.sin().sum(-1)

    of_three = targets(base, 3)
    energy = WithBase(AutogradEnergy(f), of_three)
    y = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(energy(y), f(y) + base.log_prob(y).sum(-1))
    point = y.clone().requires_grad_()
    expected = torch.autograd.grad((f(point) + base.log_prob(point).sum(-1)).sum(), point)[0]
    torch.testing.assert_close(energy.grad(y), expected)
    assert not energy.grad(y).requires_grad and energy.grad(y.requires_grad_(), create_graph=True).requires_grad


@pytest.mark.parametrize("base", KINDS, ids=str)
def test_nodes_integrate_the_base_density_and_narrow_gaussians(base: BaseDensity) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.cat(
        (0.2 * torch.randn(500, generator=generator) - 1, 0.5 * torch.randn(500, generator=generator) + 1)
    )
    nodes = NodeDensity.of(targets, base)
    u = ((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000).expand(1, -1)

    def log_z(f: object) -> float:
        return float(conditional.log_mean_exp(conditional.node_values(f, nodes, u, rows=1)))  # type: ignore[arg-type]

    reached = law(base).cdf(base.ends[1]) - law(base).cdf(-base.ends[1])
    assert log_z(lambda y: base.log_prob(y.double()).squeeze(-1)) == pytest.approx(math.log(reached), abs=0.02)
    for mean in (-1.0, 0.0, 1.0):
        normal = torch.distributions.Normal(mean, 0.05)
        assert log_z(lambda y, n=normal: n.log_prob(y.squeeze(-1)) + 7) == pytest.approx(7, abs=0.02)
    places, log_g = nodes.at(u)
    assert torch.equal(nodes.log_prob(places), log_g)


def test_nodes_are_read_back_as_they_were() -> None:
    nodes = NodeDensity.of(torch.randn(50, generator=torch.Generator().manual_seed(0)), BaseDensity())
    again = NodeDensity.restore(nodes.centres, nodes.widths, BaseDensity())
    u = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(nodes.at(u), again.at(u), strict=True))
    assert torch.all(nodes.at(u)[0].diff() > 0)
