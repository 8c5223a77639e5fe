"""Importance sampling in several dimensions, on densities whose integral is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ebmbench.core import importance
from ebmbench.core.importance import Cloud, Weighted
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Axis, Targets, Wide
from ebmbench.tasks.base import TRUSTED_K

LEAD = (2, 3)  # seeds, rows


def generator(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def wide(dim: int) -> Wide:
    return Wide(Targets((Axis(Real(), 0.0, 1.0, (), BaseDensity()),) * dim), torch.device("cpu"))


def gaussian(mean: list[float], chol: list[list[float]]) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(
        torch.tensor(mean, dtype=torch.float64), scale_tril=torch.tensor(chol, dtype=torch.float64)
    )


def test_draws_from_a_wide_proposal_estimate_the_integral_within_their_error() -> None:
    target = gaussian([0.5, -1.0], [[1.0, 0.0], [0.6, 0.5]])
    made = importance.propose([(1.0, wide(2))], LEAD, 4096, generator()).weighted(
        lambda y: target.log_prob(y) + 5, LEAD
    )
    assert made.y.shape == (*LEAD, 4096, 2)
    assert torch.all((made.log_z - 5).abs() < 4 * made.error) and float(made.error.max()) < 0.1
    assert float((made.mean - target.mean).abs().max()) < 0.15
    assert float((made.spread - target.stddev).abs().max()) < 0.15
    assert float((made.quantile(0.5) - target.mean).abs().max()) < 0.2
    assert float(made.k_hat.max()) < TRUSTED_K


def test_weights_that_cannot_be_trusted_are_called_so() -> None:
    """A proposal much narrower than the target: the estimate of Z is far too low, and Pareto's k says it of most."""
    narrow = Cloud(torch.zeros(1, 2, dtype=torch.float64), 0.15 * torch.eye(2, dtype=torch.float64))
    target = gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    made = importance.propose([(1.0, narrow)], (1, 40), 4096, generator()).weighted(target.log_prob, (1, 40))
    assert float(made.log_z.median()) < -1 and float((made.k_hat > TRUSTED_K).double().mean()) > 0.7


@pytest.mark.parametrize("k", [0.1, 0.5, 0.9])
def test_pareto_s_k_of_weights_with_a_known_tail(k: float) -> None:
    weights = stats.genpareto(k).rvs((40, 4000), random_state=np.random.default_rng(0))
    found = importance.pareto_k(torch.from_numpy(np.log(weights)))
    assert float(found.mean()) == pytest.approx(k, abs=0.08)  # the prior draws it towards a half
    assert importance.pareto_k(torch.zeros(1, 100)).item() == -math.inf


def test_flattening_leaves_the_share_that_it_should() -> None:
    log_weights = 20 * torch.randn(5, 1000, generator=generator(), dtype=torch.float64)
    power = importance.flattening(log_weights, share=0.1)
    weights = torch.softmax(power.unsqueeze(1) * log_weights, 1)
    sizes = 1 / weights.square().sum(1)
    assert torch.all((sizes > 100) & (sizes < 103))
    assert torch.all(importance.flattening(torch.zeros(2, 50)) == 1)


def test_resampling_quantiles_and_mass_follow_the_weights() -> None:
    y = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64).view(1, 1, 4, 1)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).view(1, 1, 4)
    made = Weighted(y, weights.log(), torch.tensor([3.0, 1.0, 4.0, 2.0]).view(1, 1, 4))
    counts = torch.bincount(made.resample(1000).flatten().long())
    assert counts.tolist() == [100, 200, 300, 400]
    assert [float(made.quantile(p)) for p in (0.05, 0.25, 0.5, 0.95)] == [0, 1, 2, 3]
    assert float(made.mass_above(torch.tensor([[2.5]]))) == pytest.approx(0.4)
    assert float(made.mean) == pytest.approx(2.0) and float(made.spread) == pytest.approx(1.0)


def test_kernels_around_targets_are_a_density() -> None:
    targets = torch.randn(300, 2, generator=generator(), dtype=torch.float64)
    cloud = Cloud.of_targets(targets)
    y: Tensor = cloud.sample((1, 1), 20_000, generator(1)).reshape(1, 1, -1, 2)
    again = Cloud.restore(cloud.plain())
    torch.testing.assert_close(again.log_prob(y), cloud.log_prob(y))
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid).view(1, 1, -1, 2)
    mass = float(cloud.log_prob(points).exp().sum() * (grid[1] - grid[0]) ** 2)
    assert mass == pytest.approx(1, abs=1e-3)
