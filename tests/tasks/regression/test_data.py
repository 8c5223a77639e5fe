"""The two laws of 1D regression, against scipy, and the points drawn from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from ebmbench.core.rng import Streams
from ebmbench.tasks.regression.data.base import Split
from ebmbench.tasks.regression.data.paper import Law1, Law2, PaperLaw

XS = [-2.5, -1.3, -0.2, 0.0, 0.4, 2.9]
SMALL = {"data_seed": 0, "num_train": 500, "num_val": 20, "num_test": 30, "target_noise": 0.0, "grid_points": 129}


def draw(dataset: int, **changes: float) -> Split:
    return {1: Law1, 2: Law2}[dataset].model_validate({**SMALL, **changes}).load()


class Scipy:
    """p(y|x) as docs/data.md states it, by scipy."""

    def __init__(self, dataset: int, x: float) -> None:
        if dataset == 2:
            self.parts = [(1.0, stats.norm(math.sin(x), 0.15 / (1 + math.exp(-x))))]
        elif x < 0:
            self.parts = [(0.8, stats.norm(math.sin(x), 0.075)), (0.2, stats.norm(-math.sin(x), 0.075))]
        else:
            self.parts = [(1.0, stats.lognorm(s=0.25, loc=-1))]

    def pdf(self, y: float | np.ndarray) -> np.ndarray:
        return sum(weight * law.pdf(y) for weight, law in self.parts)

    def cdf(self, y: float | np.ndarray) -> np.ndarray:
        return sum(weight * law.cdf(y) for weight, law in self.parts)


def distribution(dataset: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The law's distribution function at pairs, by scipy."""
    if dataset == 2:
        return stats.norm.cdf(y, np.sin(x), 0.15 / (1 + np.exp(-x)))
    modes = 0.8 * stats.norm.cdf(y, np.sin(x), 0.075) + 0.2 * stats.norm.cdf(y, -np.sin(x), 0.075)
    return np.where(x < 0, modes, stats.lognorm.cdf(y, s=0.25, loc=-1))


@pytest.mark.parametrize("dataset", [1, 2])
@pytest.mark.parametrize("x", XS)
def test_the_density_is_the_published_one_and_integrates_to_one(dataset: int, x: float) -> None:
    y = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    density = PaperLaw(dataset).log_prob(torch.tensor([[x]], dtype=torch.float64), y.view(1, -1, 1))[0].exp()
    np.testing.assert_allclose(density.numpy(), Scipy(dataset, x).pdf(y.numpy()), rtol=1e-6, atol=1e-12)
    assert torch.trapezoid(density, y).item() == pytest.approx(1, abs=1e-6)


def test_the_density_broadcasts_and_is_zero_below_the_log_normal() -> None:
    x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([-2.0, -1.0, 0.0]).view(1, 3, 1)
    log_prob = PaperLaw(1).log_prob(x, y)
    assert log_prob.shape == (2, 3) and log_prob.dtype == torch.float64
    assert log_prob[0].isfinite().all()
    assert log_prob[1].isneginf().tolist() == [True, True, False]


@pytest.mark.parametrize("dataset", [1, 2])
def test_training_points_follow_the_law(dataset: int) -> None:
    points = draw(dataset, num_train=20_000).train
    x, y = points.x[:, 0].numpy(), points.y[:, 0].numpy()
    assert stats.kstest(x, stats.uniform(-3, 6).cdf).pvalue > 0.005
    u = distribution(dataset, x, y)
    assert stats.kstest(u, "uniform").pvalue > 0.005
    assert abs(np.corrcoef(x, u)[0, 1]) < 0.03
    if dataset == 1:
        right = y[x >= 0]
        law = stats.lognorm(s=0.25, loc=-1)
        assert right.mean() == pytest.approx(law.mean(), abs=0.01)
        assert right.std() == pytest.approx(law.std(), rel=0.03)
        major = np.abs(y - np.sin(x)) < np.abs(y + np.sin(x))
        far = (x < -0.5) & (x > -2.6)
        assert major[far].mean() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize("dataset", [1, 2])
@pytest.mark.parametrize("noise", [0.01, 0.1, 0.149, 0.151, 0.5, 2.0])
@pytest.mark.parametrize("x", [-1.3, 0.4])
def test_the_noisy_density_is_the_numerical_convolution(dataset: int, noise: float, x: float) -> None:
    law = Scipy(dataset, x)
    for y in (-1.1, -0.6, 0.0, 0.37, 0.9, 1.8):
        marks = sorted({y, -0.9, 0.0, math.sin(x), -math.sin(x)})
        expected = integrate.quad(
            lambda t, y=y: law.pdf(t) * stats.norm.pdf(y, t, noise), -3, 6, points=marks, limit=2000, epsabs=1e-12
        )[0]
        got = PaperLaw(dataset, noise).log_prob(torch.tensor([[x]]), torch.tensor([[[y]]])).exp().item()
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_target_noise_is_added_to_training_targets_alone() -> None:
    clean, noisy = draw(1, num_train=5000), draw(1, num_train=5000, target_noise=0.3)
    assert torch.equal(clean.train.x, noisy.train.x)
    difference = noisy.train.y - clean.train.y
    assert stats.kstest(difference[:, 0].numpy() / 0.3, "norm").pvalue > 0.005
    for name in ("val", "test"):
        assert torch.equal(getattr(clean, name).y, getattr(noisy, name).y)


def test_points_are_a_function_of_the_data_seed_alone() -> None:
    first, again, other = (draw(1, data_seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.train.y, again.train.y)
    assert not torch.equal(first.train.y, other.train.y)
    # A larger set begins with the smaller one, and the three sets share no point.
    assert torch.equal(draw(1, data_seed=3, num_train=900).train.x[:500], first.train.x)
    every = torch.cat((first.train.x, first.val.x, first.test.x))
    assert len(every.unique()) == 550


def test_a_law_s_sample_takes_its_x_as_given() -> None:
    x = torch.full((20_000,), 1.0, dtype=torch.float64)
    y = PaperLaw(2).sample(x.unsqueeze(1), 1, Streams([0], stacked=False).at(0), "s")
    assert stats.kstest(y.flatten().numpy(), Scipy(2, 1.0).cdf).pvalue > 0.005
