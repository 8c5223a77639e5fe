"""Densities on nodes, against scipy and against brute force."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Axis
from ebmbench.tasks.regression import quadrature
from ebmbench.tasks.regression.density import Density
from ebmbench.tasks.regression.quadrature import GridDensity
from ebmbench.tasks.regression.scores import (
    central_coverage,
    crps_of_points,
    energy_score,
    mixed_nll,
    region_coverage,
)

START = torch.linspace(-20, 20, 401, dtype=torch.float64)


def of(grid: GridDensity) -> Density:
    return Density.of(Axis(Real(), 0.0, 1.0, (), BaseDensity()), grid, None)[0]


def gaussians(means: list[float], stds: list[float]) -> GridDensity:
    """Unnormalised Gaussians, with an offset that log Z has to take away."""
    mean = torch.tensor(means, dtype=torch.float64).unsqueeze(1)
    std = torch.tensor(stds, dtype=torch.float64).unsqueeze(1)
    return GridDensity.refined(lambda y: 4 - 0.5 * ((y - mean) / std).square(), START.expand(len(means), -1))


def test_moments_mass_and_quantiles_of_gaussians() -> None:
    means, stds = [0.0, -3.0, 5.0], [1.0, 0.02, 2.0]  # the narrow one lies between two starting nodes
    grid, law = gaussians(means, stds), stats.norm(np.array(means), np.array(stds))
    log_z = 4 + np.log(np.array(stds) * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(grid.log_z, log_z, atol=1e-4)
    made = of(grid)
    np.testing.assert_allclose(made.mean, means, atol=2e-3)
    np.testing.assert_allclose(made.std, stds, rtol=5e-3)
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
    assert float(made.log_z) == pytest.approx(0, abs=1e-4)
    assert float(of(made).cdf_at(torch.tensor([[0.0]]))) == pytest.approx(0.3, abs=0.01)


def two_modes(centre: torch.Tensor, std: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """log p of two equal Gaussians of a standard deviation, at 0.73 on either side of the centres `[N]`."""

    def log_p(y: torch.Tensor) -> torch.Tensor:
        modes = [-0.5 * ((y - centre.unsqueeze(1) - side) / std).square() for side in (-0.73, 0.73)]
        return torch.logaddexp(*modes) - math.log(2 * std * math.sqrt(2 * math.pi))

    return log_p


@pytest.mark.parametrize("std", [0.03, 0.01, 0.003, 0.001])
def test_two_modes_that_are_narrower_than_the_nodes_are_both_found(std: float) -> None:
    """The nodes are 0.1 apart. Without a search where mass may hide one mode is lost: log Z is 0.69 off."""
    centre = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = GridDensity.refined(two_modes(centre, std), START.expand(200, -1))
    assert float(made.log_z.abs().max()) < 0.03
    np.testing.assert_allclose(of(made).cdf_at(centre.unsqueeze(1)), 0.5, atol=0.02)
    ends = of(made).quantile(torch.tensor([0.25, 0.75]))
    np.testing.assert_allclose(ends, centre.unsqueeze(1) + torch.tensor([-0.73, 0.73]), atol=0.1 * std)


def test_a_density_that_needs_no_search_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it gets no further node, and beside one that needs a search its scores stay what they are."""
    means, wide, narrow = [0.3, -2.0, 0.43], [1.0, 0.2, 0.5], two_modes(torch.tensor([0.43]).double(), 0.001)

    def log_p(y: torch.Tensor) -> torch.Tensor:
        values = [-0.5 * ((y[k : k + 1] - means[k]) / wide[k]).square() for k in range(len(y))]
        return torch.cat(values[:2] + [narrow(y[2:])][: len(y) - 2])

    monkeypatch.setattr(quadrature, "ROUNDS", 0)
    together = GridDensity.refined(log_p, START.expand(3, -1))
    monkeypatch.setattr(quadrature, "HIDDEN", math.inf)
    alone = GridDensity.refined(log_p, START.expand(2, -1))
    assert alone.y.shape[-1] == 401 + 2 * 160 < together.y.shape[-1]
    y = torch.tensor([0.1, -2.3, 1.16], dtype=torch.float64)
    for name in ("log_z", "error"):
        torch.testing.assert_close(getattr(together, name)[:2], getattr(alone, name), atol=1e-12, rtol=0, msg=name)
    for name in ("mean", "std", "mode"):
        one, other = getattr(of(together), name)[:2], getattr(of(alone), name)
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0, msg=name)
    torch.testing.assert_close(of(together).crps(y)[:2], of(alone).crps(y[:2]), atol=1e-12, rtol=0)
    assert float(together.log_z[2].abs()) < 0.02


def test_mass_that_may_still_be_hidden_is_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadrature, "SEARCHES", 0)
    monkeypatch.setattr(quadrature, "ROUNDS", 0)
    centre = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = GridDensity.refined(two_modes(centre, 0.003), START.expand(200, -1), rounds=1)
    wrong = made.log_z.abs() > 0.1
    assert wrong.any()
    assert bool((made.error[wrong] > 0.1).all())


def test_crps_of_a_gaussian_in_closed_form() -> None:
    """Gneiting and Raftery (2007), equation 21."""
    y = np.array([0.3, -3.05, 9.0])
    mean, std = np.array([0.0, -3.0, 5.0]), np.array([1.0, 0.02, 2.0])
    z = (y - mean) / std
    expected = std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    got = of(gaussians(mean.tolist(), std.tolist())).crps(torch.from_numpy(y))
    np.testing.assert_allclose(got, expected, rtol=0.02)


def test_crps_outside_the_nodes_adds_the_distance() -> None:
    made = of(gaussians([0.0], [1.0]))
    ends = made.crps(torch.tensor([20.0]))
    assert float(made.crps(torch.tensor([28.0])) - ends) == pytest.approx(8)
    assert float(made.crps(torch.tensor([-28.0])) - ends) == pytest.approx(8, abs=1e-6)


def test_scores_of_points_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(3, 40, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    pairs = (points.unsqueeze(1) - points.unsqueeze(2)).norm(dim=-1).sum((1, 2)) / (40 * 39)  # of different points
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


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.83, 0.999])
def test_quantiles_are_scipy_s_at_the_ends_too(p: float) -> None:
    y, law = torch.linspace(-3, 3, 2049, dtype=torch.float64), stats.norm(0.3, 0.5)
    made = of(GridDensity(y.unsqueeze(0), torch.from_numpy(law.logpdf(y.numpy())).unsqueeze(0) - 7))
    assert made.quantile(torch.tensor([p], dtype=torch.float64)).item() == pytest.approx(law.ppf(p), abs=1e-4)


def test_quantiles_of_several_probabilities_for_each_density_or_for_all() -> None:
    y = torch.linspace(-4, 4, 2049, dtype=torch.float64).expand(2, -1)
    laws = stats.norm([[0], [1]], [[1], [0.1]])
    made = of(GridDensity(y, torch.from_numpy(laws.logpdf(y.numpy()))))
    own = torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.3, 0.4]], dtype=torch.float64)
    np.testing.assert_allclose(made.quantile(own), laws.ppf(own.numpy()), atol=2e-4)
    torch.testing.assert_close(made.quantile(own[0])[0], made.quantile(own)[0])


def test_quantiles_are_the_least_y_that_has_the_probability() -> None:
    """Where there is no mass between two modes, or up to the end of the grid."""
    y = torch.linspace(-3, 3, 2049, dtype=torch.float64).unsqueeze(0)
    made = of(GridDensity(y, torch.where((y.abs() > 0.5) & (y.abs() < 1), 0.0, -torch.inf)))
    p = torch.tensor([1.0, 0.5, 0.75, 1e-9], dtype=torch.float64)
    np.testing.assert_allclose(made.quantile(p)[0], [1.0, -0.5, 0.75, -1.0], atol=12 / 2048)


def test_quantiles_are_exact_for_a_linear_density_on_a_coarse_grid() -> None:
    """F(y) = y² on [0, 1] with three points."""
    y = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    p = torch.tensor([0.0, 0.04, 0.25, 0.49, 1.0], dtype=torch.float64)
    torch.testing.assert_close(of(GridDensity(y, (2 * y).log())).quantile(p)[0], p.sqrt())


@pytest.mark.parametrize("level", [0.05, 0.3, 0.5, 0.77, 0.9, 0.999])
def test_a_region_has_the_mass_that_it_is_asked_for(level: float) -> None:
    """Of a density with slopes, level cells and a gap; it is the smallest such set."""
    y = torch.tensor([[0.0, 1, 2, 2.5, 3, 4, 6, 7]], dtype=torch.float64)
    height = torch.tensor([[0.1, 0.4, 0.4, 0.0, 0.0, 0.2, 0.2, 0.0]], dtype=torch.float64)
    mass = (0.5 * (height[:, 1:] + height[:, :-1]) * y.diff()).double()
    axis = Axis(Real(), 0.0, 1.0, (), BaseDensity())
    (region,) = Density(y, mass / mass.sum(), height / mass.sum(), axis).region(level)
    fine = torch.linspace(0, 7, 700_001, dtype=torch.float64)
    dense = torch.from_numpy(np.interp(fine, y[0], height[0])).sort(descending=True).values
    least = float((dense.cumsum(0) < level * dense.sum()).sum()) * 1e-5
    if abs(region.mass - level) < 1e-6:
        assert region.length == pytest.approx(least, abs=2e-3)
    else:  # a level cell is in it as a whole
        assert region.mass > level and least <= region.length + 1e-3
