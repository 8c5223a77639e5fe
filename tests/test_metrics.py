"""D_KL on a grid as the 1D study publishes it, and coverage, against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from ebmbench.tasks.regression.scores import central_coverage, grid_kl

LOW, HIGH, POINTS = -3.0, 3.0, 2049
SPACING = (HIGH - LOW) / (POINTS - 1)
GRID = torch.linspace(LOW, HIGH, POINTS, dtype=torch.float64)


def gaussian(mu: float, s: float, shift: float = 0.0) -> Tensor:
    return -0.5 * ((GRID - mu) / s).square() - math.log(s * math.sqrt(2 * math.pi)) + shift


class Mixture:
    """0.8 N(-1, 0.2²) + 0.2 N(1.2, 0.1²), by scipy."""

    parts = ((0.8, stats.norm(-1, 0.2)), (0.2, stats.norm(1.2, 0.1)))

    def pdf(self, y: float | np.ndarray) -> np.ndarray:
        return sum(w * law.pdf(y) for w, law in self.parts)

    def log_values(self) -> Tensor:
        return torch.from_numpy(np.log(self.pdf(GRID.numpy()) + 1e-300))


def test_kl_of_two_gaussians_is_the_closed_form() -> None:
    (m1, s1), (m2, s2) = (0.2, 0.25), (0.0, 0.4)
    expected = math.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5
    kl = grid_kl(gaussian(m1, s1), gaussian(m2, s2, shift=33), SPACING)
    assert kl.item() == pytest.approx(expected, abs=1e-9)


def test_kl_of_a_mixture_is_scipy_s() -> None:
    law, model = Mixture(), stats.norm(-0.5, 0.5)
    mass = model.cdf(HIGH) - model.cdf(LOW)
    expected = integrate.quad(
        lambda y: law.pdf(y) * math.log(law.pdf(y) / (model.pdf(y) / mass)), -2.5, 2.0, limit=400, points=[-1, 1.2]
    )[0]
    kl = grid_kl(law.log_values(), gaussian(-0.5, 0.5), SPACING)
    assert kl.item() == pytest.approx(expected, abs=1e-7)


def test_kl_is_the_published_evaluation_line_by_line() -> None:
    """As published, in numpy: normalise by the sum times the spacing, 1e-30 on the true density alone."""
    true, model = Mixture().pdf(GRID.numpy()), np.exp(gaussian(-0.9, 0.5).numpy())
    p = true + 1e-30
    p = p / (p.sum() * SPACING)
    q = model / (model.sum() * SPACING)
    expected = (p * (np.log(p) - np.log(q))).sum() * SPACING
    kl = grid_kl(torch.from_numpy(np.log(true + 1e-320)), gaussian(-0.9, 0.5), SPACING)
    assert kl.item() == pytest.approx(expected, rel=1e-9)


def test_kl_of_equal_densities_is_zero_and_of_a_truth_that_vanishes_finite() -> None:
    truth = torch.where(GRID > -1, gaussian(0, 0.3), -torch.inf)
    assert grid_kl(truth, truth.clamp(min=-60), SPACING).item() == pytest.approx(0, abs=1e-9)
    assert grid_kl(truth, gaussian(0, 1), SPACING).isfinite()


def test_kl_keeps_leading_axes() -> None:
    true = torch.stack((gaussian(0, 0.5), gaussian(1, 0.2)))
    model = torch.stack([gaussian(0, s).expand(2, -1) for s in (0.5, 1.0, 2.0)])
    kl = grid_kl(true, model, SPACING)
    assert kl.shape == (3, 2)
    assert kl[0, 0].item() == pytest.approx(0, abs=1e-9)
    assert kl[1, 1].item() == grid_kl(true[1], model[1, 1], SPACING).item()


def test_coverage_reduces_the_last_axis_alone() -> None:
    pit = torch.tensor([[0.1, 0.5, 0.9], [0.01, 0.02, 0.99]])
    torch.testing.assert_close(central_coverage(pit, 0.9), torch.tensor([1.0, 0.0]).double())
