"""Scores of densities on a grid, against closed forms and scipy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from ebmbench.tasks.regression import metrics
from ebmbench.tasks.regression.density import central_coverage

LOW, HIGH, POINTS = -3.0, 3.0, 2049
SPACING = (HIGH - LOW) / (POINTS - 1)
GRID = metrics.grid(LOW, HIGH, POINTS)


def normalised(log_values: Tensor) -> Tensor:
    return (log_values.double() - metrics.log_integral(log_values, SPACING).unsqueeze(-1)).exp()


def gaussian(mu: float, s: float, shift: float = 0.0) -> Tensor:
    return -0.5 * ((GRID - mu) / s).square() - math.log(s * math.sqrt(2 * math.pi)) + shift


class Mixture:
    """0.8 N(-1, 0.2²) + 0.2 N(1.2, 0.1²), by scipy."""

    parts = ((0.8, stats.norm(-1, 0.2)), (0.2, stats.norm(1.2, 0.1)))

    def pdf(self, y: float | np.ndarray) -> np.ndarray:
        return sum(w * law.pdf(y) for w, law in self.parts)

    def cdf(self, y: float | np.ndarray) -> np.ndarray:
        return sum(w * law.cdf(y) for w, law in self.parts)

    def log_values(self) -> Tensor:
        return torch.from_numpy(np.log(self.pdf(GRID.numpy()) + 1e-300))

    def density(self) -> Tensor:
        return normalised(self.log_values() - 7)


def crps_by_quadrature(cdf: Callable[[float], float], y: float) -> float:
    below = integrate.quad(lambda t: cdf(t) ** 2, LOW, y, limit=200)[0]
    return below + integrate.quad(lambda t: (1 - cdf(t)) ** 2, y, HIGH, limit=200)[0]


# ------------------------------------------------------------------------------------------ integrals


def test_grid_has_its_ends_and_is_equally_spaced() -> None:
    assert GRID.dtype == torch.float64
    assert GRID[0] == LOW and GRID[-1] == HIGH
    torch.testing.assert_close(GRID.diff(), torch.full((POINTS - 1,), SPACING, dtype=torch.float64))


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_log_integral_of_a_gaussian_is_its_mass_on_the_interval_at_any_level(shift: float) -> None:
    law = stats.norm(0.4, 0.9)
    expected = math.log(law.cdf(HIGH) - law.cdf(LOW)) + shift
    assert metrics.log_integral(gaussian(0.4, 0.9, shift), SPACING).item() == pytest.approx(expected, abs=1e-7)


def test_log_integral_keeps_leading_axes_and_takes_float32() -> None:
    values = torch.stack((gaussian(0, 0.5), gaussian(1, 0.2))).view(2, 1, -1)
    out = metrics.log_integral(values.float(), SPACING)
    assert out.shape == (2, 1) and out.dtype == torch.float64
    torch.testing.assert_close(out, torch.zeros(2, 1).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("points", [33, 129, 513])
@pytest.mark.parametrize("f", [lambda y: 2 * y, lambda y: torch.sin(2 * y) + y, lambda y: -0.2 * (y - 1) ** 2])
def test_the_quadrature_error_is_the_true_error_where_it_is_smooth(points: int, f: Callable[[Tensor], Tensor]) -> None:
    """Against scipy's adaptive quadrature: within 10 % of the error that is there (30 % on the coarsest grid)."""
    y = metrics.grid(LOW, HIGH, points)
    spacing = (HIGH - LOW) / (points - 1)
    exact, _ = integrate.quad(lambda t: f(torch.tensor(t, dtype=torch.float64)).exp().item(), LOW, HIGH, epsabs=1e-13)
    error = abs(metrics.log_integral(f(y), spacing).item() - math.log(exact))
    stated = metrics.quadrature_error(f(y), metrics.log_integral(f(y), spacing), spacing).item()
    assert stated == pytest.approx(error, rel=0.3 if points == 33 else 0.1)


def test_the_quadrature_error_warns_of_a_peak_that_the_grid_misses() -> None:
    """A density far narrower than a cell, on a grid point: the true error is large and may not be reported as small."""
    log_values = -0.5 * ((GRID - 0.0) / (0.1 * SPACING)).square()
    exact = math.log(0.1 * SPACING * math.sqrt(2 * math.pi))
    error = abs(metrics.log_integral(log_values, SPACING).item() - exact)
    assert error > 0.5
    assert metrics.quadrature_error(log_values, metrics.log_integral(log_values, SPACING), SPACING).item() > 0.2


def test_normalise_gives_a_density() -> None:
    density = normalised(torch.stack((gaussian(0, 1, 500), gaussian(-2.9, 0.3, -500))))
    torch.testing.assert_close(torch.trapezoid(density, dx=SPACING), torch.ones(2).double())


# ------------------------------------------------------------------------------------------ KL divergence


def test_kl_of_two_gaussians_is_the_closed_form() -> None:
    (m1, s1), (m2, s2) = (0.2, 0.25), (0.0, 0.4)
    expected = math.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5
    kl = metrics.kl_divergence(gaussian(m1, s1), gaussian(m2, s2, shift=33), SPACING)
    assert kl.item() == pytest.approx(expected, abs=1e-9)


def test_kl_of_a_mixture_is_scipy_s() -> None:
    law, model = Mixture(), stats.norm(-0.5, 0.5)
    mass = model.cdf(HIGH) - model.cdf(LOW)
    expected = integrate.quad(
        lambda y: law.pdf(y) * math.log(law.pdf(y) / (model.pdf(y) / mass)), -2.5, 2.0, limit=400, points=[-1, 1.2]
    )[0]
    kl = metrics.kl_divergence(law.log_values(), gaussian(-0.5, 0.5), SPACING)
    assert kl.item() == pytest.approx(expected, abs=1e-7)


def test_kl_is_the_published_evaluation_line_by_line() -> None:
    """As published, in numpy: normalise by the sum times the spacing, 1e-30 on the true density alone."""
    true, model = Mixture().pdf(GRID.numpy()), np.exp(gaussian(-0.9, 0.5).numpy())
    p = true + 1e-30
    p = p / (p.sum() * SPACING)
    q = model / (model.sum() * SPACING)
    expected = (p * (np.log(p) - np.log(q))).sum() * SPACING
    kl = metrics.kl_divergence(torch.from_numpy(np.log(true + 1e-320)), gaussian(-0.9, 0.5), SPACING)
    assert kl.item() == pytest.approx(expected, rel=1e-9)


def test_kl_of_equal_densities_is_zero_and_of_a_truth_that_vanishes_finite() -> None:
    truth = torch.where(GRID > -1, gaussian(0, 0.3), -torch.inf)
    assert metrics.kl_divergence(truth, truth.clamp(min=-60), SPACING).item() == pytest.approx(0, abs=1e-9)
    assert metrics.kl_divergence(truth, gaussian(0, 1), SPACING).isfinite()


def test_kl_keeps_leading_axes() -> None:
    true = torch.stack((gaussian(0, 0.5), gaussian(1, 0.2)))
    model = torch.stack([gaussian(0, s).expand(2, -1) for s in (0.5, 1.0, 2.0)])
    kl = metrics.kl_divergence(true, model, SPACING)
    assert kl.shape == (3, 2)
    assert kl[0, 0].item() == pytest.approx(0, abs=1e-9)
    assert kl[1, 1].item() == metrics.kl_divergence(true[1], model[1, 1], SPACING).item()


# ------------------------------------------------------------------------------------------ distribution, PIT, coverage


def test_cdf_and_pit_are_scipy_s() -> None:
    density = Mixture().density()
    np.testing.assert_allclose(metrics.cdf(density, SPACING).numpy(), Mixture().cdf(GRID.numpy()), atol=5e-6)
    y = torch.tensor([-2.7, -1.0003, -0.61, 0.0, 1.17, 1.2011, 2.9999], dtype=torch.float64)
    pit = metrics.probability_integral_transform(density.expand(7, -1), y, LOW, SPACING)
    np.testing.assert_allclose(pit.numpy(), Mixture().cdf(y.numpy()), atol=5e-6)


def test_pit_between_grid_points_integrates_the_linear_density_exactly() -> None:
    """A density 2y on [0, 1] with three points: F(y) = y², no matter how coarse the grid."""
    density = torch.tensor([[0.0, 1.0, 2.0]]).double().expand(4, -1)
    y = torch.tensor([0.0, 0.3, 0.77, 1.0]).double()
    torch.testing.assert_close(metrics.probability_integral_transform(density, y, 0.0, 0.5), y.square())


def test_pit_outside_the_grid_is_zero_or_one() -> None:
    y = torch.tensor([-4.0, 5.0]).double()
    pit = metrics.probability_integral_transform(Mixture().density().expand(2, -1), y, LOW, SPACING)
    torch.testing.assert_close(pit, torch.tensor([0.0, 1.0]).double())


def test_the_pit_of_a_calibrated_model_is_uniform_and_its_coverage_nominal() -> None:
    rng = np.random.default_rng(0)
    which = rng.random(4000) < 0.8
    y = torch.from_numpy(np.where(which, rng.normal(-1, 0.2, 4000), rng.normal(1.2, 0.1, 4000)))
    pit = metrics.probability_integral_transform(Mixture().density().expand(4000, -1), y, LOW, SPACING)
    assert stats.kstest(pit.numpy(), "uniform").pvalue > 0.01
    for level in (0.5, 0.9):
        assert central_coverage(pit, level).item() == pytest.approx(level, abs=0.03)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_coverage_of_a_model_too_sharp_or_too_wide_is_the_closed_form(scale: float) -> None:
    y = torch.from_numpy(stats.norm(0, 0.4).ppf((np.arange(5000) + 0.5) / 5000))
    density = normalised(gaussian(0, 0.4 * scale))
    pit = metrics.probability_integral_transform(density.expand(5000, -1), y, LOW, SPACING)
    for level in (0.5, 0.9):
        expected = 2 * stats.norm.cdf(stats.norm.ppf(0.5 + level / 2) * scale) - 1
        assert central_coverage(pit, level).item() == pytest.approx(expected, abs=2e-3)


def test_coverage_reduces_the_last_axis_alone() -> None:
    pit = torch.tensor([[0.1, 0.5, 0.9], [0.01, 0.02, 0.99]])
    torch.testing.assert_close(central_coverage(pit, 0.9), torch.tensor([1.0, 0.0]).double())


# ------------------------------------------------------------------------------------------ CRPS


@pytest.mark.parametrize(("mu", "s"), [(0.0, 0.3), (0.5, 0.05)])
def test_crps_of_a_gaussian_is_the_closed_form(mu: float, s: float) -> None:
    """`s (z (2Φ(z) − 1) + 2φ(z) − 1/√π)` (Gneiting and Raftery, 2007)."""
    y = np.array([-2.5, -0.3, mu, mu + 0.0101, 0.77, 2.2])
    z = (y - mu) / s
    expected = s * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    density = normalised(gaussian(mu, s)).expand(len(y), -1)
    score = metrics.crps(density, torch.from_numpy(y), LOW, SPACING)
    np.testing.assert_allclose(score.numpy(), expected, atol=2e-5)


def test_crps_of_a_mixture_is_scipy_s() -> None:
    law = Mixture()
    y = [-1.5, -0.9, 0.1234, 1.21]
    score = metrics.crps(law.density().expand(4, -1), torch.tensor(y).double(), LOW, SPACING)
    expected = [crps_by_quadrature(lambda t: float(law.cdf(t)), value) for value in y]
    np.testing.assert_allclose(score.numpy(), expected, atol=1e-5)


def test_crps_outside_the_grid_adds_the_distance() -> None:
    density = normalised(gaussian(0, 0.3)).expand(4, -1)
    inside_low, outside_low, inside_high, outside_high = metrics.crps(
        density, torch.tensor([LOW, LOW - 1.5, HIGH, HIGH + 0.25]).double(), LOW, SPACING
    )
    assert (outside_low - inside_low).item() == pytest.approx(1.5)
    assert (outside_high - inside_high).item() == pytest.approx(0.25)


def test_crps_is_proper_here() -> None:
    """On observations of the law itself no wrong model may score better."""
    y = torch.from_numpy(stats.norm(0.2, 0.3).ppf((np.arange(400) + 0.5) / 400))
    models = {(m, s): normalised(gaussian(m, s)) for m in (0.1, 0.2, 0.3) for s in (0.2, 0.3, 0.45)}
    scores = {key: metrics.crps(d.expand(400, -1), y, LOW, SPACING).mean().item() for key, d in models.items()}
    assert min(scores, key=scores.__getitem__) == (0.2, 0.3)


# ------------------------------------------------------------------------------------------ edge mass


@pytest.mark.parametrize(("mu", "s"), [(0.0, 0.3), (2.9, 0.2), (-3.0, 1.0)])
def test_edge_mass_is_the_mass_in_the_outer_hundredths(mu: float, s: float) -> None:
    law = stats.norm(mu, s)
    width = 0.06
    ends = law.cdf(LOW + width) - law.cdf(LOW) + law.cdf(HIGH) - law.cdf(HIGH - width)
    expected = ends / (law.cdf(HIGH) - law.cdf(LOW))
    density = normalised(gaussian(mu, s))
    assert metrics.edge_mass(density, SPACING).item() == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_edge_mass_of_a_uniform_density_is_its_share() -> None:
    density = normalised(torch.zeros(3, POINTS))
    torch.testing.assert_close(metrics.edge_mass(density, SPACING), torch.full((3,), 0.02).double())
