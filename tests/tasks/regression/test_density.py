"""Densities on nodes, against scipy and against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ebmbench.tasks.regression.density import (
    GridDensity,
    central_coverage,
    crps_of_points,
    energy_score,
    mixed_nll,
    region_coverage,
)

START = torch.linspace(-20, 20, 401, dtype=torch.float64)


def gaussians(means: list[float], stds: list[float]) -> GridDensity:
    """Unnormalised Gaussians, with an offset that log Z has to take away."""
    mean = torch.tensor(means, dtype=torch.float64).unsqueeze(1)
    std = torch.tensor(stds, dtype=torch.float64).unsqueeze(1)
    return GridDensity.refined(lambda y: 4 - 0.5 * ((y - mean) / std).square(), START.expand(len(means), -1))


def test_moments_mass_and_quantiles_of_gaussians() -> None:
    means, stds = [0.0, -3.0, 5.0], [1.0, 0.02, 2.0]  # the narrow one lies between two starting nodes
    made, law = gaussians(means, stds), stats.norm(np.array(means), np.array(stds))
    log_z = 4 + np.log(np.array(stds) * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(made.log_z, log_z, atol=2e-3)
    np.testing.assert_allclose(made.mean, means, atol=2e-3)
    np.testing.assert_allclose(made.variance.sqrt(), stds, rtol=5e-3)
    np.testing.assert_allclose(made.mode, means, atol=0.02)
    p = torch.tensor([0.001, 0.05, 0.5, 0.9, 0.999], dtype=torch.float64)
    quantiles = made.quantile(p)
    np.testing.assert_allclose(quantiles.T, law.ppf(p.numpy()[:, None]), atol=2e-2)
    np.testing.assert_allclose(made.cdf_at(quantiles), p.expand(3, -1), atol=1e-9)  # one is the inverse of the other


def test_the_error_that_is_stated_is_about_the_error_that_is_made() -> None:
    """Without refinement, on nodes a standard deviation apart and closer."""
    for spacing in (1.0, 0.7, 0.5):
        y = torch.arange(-8, 8 + spacing / 2, spacing, dtype=torch.float64).unsqueeze(0) + 0.2 * spacing
        skewed = GridDensity(y, torch.from_numpy(stats.gamma(3, loc=-4).logpdf(y.numpy()).clip(-700)))
        wrong = float(skewed.log_z.abs())
        assert wrong < 4 * float(skewed.error) + 1e-6


def test_a_narrow_mode_far_from_the_other_is_found_if_a_node_is_near() -> None:
    def two(y: torch.Tensor) -> torch.Tensor:
        first = torch.from_numpy(stats.norm(-4, 0.05).logpdf(y.numpy()))
        second = torch.from_numpy(stats.norm(6.03, 0.02).logpdf(y.numpy()))
        return torch.logaddexp(first + math.log(0.3), second + math.log(0.7))

    made = GridDensity.refined(two, START.unsqueeze(0), rounds=3)
    assert float(made.log_z) == pytest.approx(0, abs=0.01)
    assert float(made.cdf_at(torch.tensor([[0.0]]))) == pytest.approx(0.3, abs=0.01)


def test_crps_of_a_gaussian_in_closed_form() -> None:
    """Gneiting and Raftery (2007), equation 21."""
    y = np.array([0.3, -3.05, 9.0])
    mean, std = np.array([0.0, -3.0, 5.0]), np.array([1.0, 0.02, 2.0])
    z = (y - mean) / std
    expected = std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    got = gaussians(mean.tolist(), std.tolist()).crps(torch.from_numpy(y))
    np.testing.assert_allclose(got, expected, rtol=0.02)


def test_crps_outside_the_nodes_adds_the_distance() -> None:
    made = gaussians([0.0], [1.0])
    ends = made.crps(torch.tensor([20.0]))
    assert float(made.crps(torch.tensor([28.0])) - ends) == pytest.approx(8)
    assert float(made.crps(torch.tensor([-28.0])) - ends) == pytest.approx(8, abs=1e-6)


def test_scores_of_points_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(3, 40, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    pairs = (points.unsqueeze(1) - points.unsqueeze(2)).norm(dim=-1).mean((1, 2))
    expected = (points - y.unsqueeze(1)).norm(dim=-1).mean(1) - 0.5 * pairs
    torch.testing.assert_close(energy_score(points, y), expected)
    first = (points[..., 0].unsqueeze(1) - points[..., 0].unsqueeze(2)).abs().mean((1, 2))
    crps = (points[..., 0] - y[:, :1]).abs().mean(1) - 0.5 * first
    torch.testing.assert_close(crps_of_points(points[..., 0], y[:, 0]), crps)


def test_coverage_and_the_nll_with_a_share_of_the_base() -> None:
    pit = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert float(central_coverage(pit, 0.9)) == pytest.approx(0.9)
    assert float(region_coverage(pit, 0.9)) == pytest.approx(0.9)
    log_prob, log_base = torch.tensor([-1.0, -1e4]), torch.tensor([-3.0, -3.0])
    expected = -np.log(0.98 * np.exp([-1.0, -1e4]) + 0.02 * np.exp(-3.0))
    np.testing.assert_allclose(mixed_nll(log_prob, log_base), expected, rtol=1e-6)
