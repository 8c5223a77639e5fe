"""Made data whose p(y|x) is said to be known: the density integrates to one, and the draws follow it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ebmbench.core.rng import Streams
from ebmbench.tasks.regression.data.base import Law
from ebmbench.tasks.regression.data.laws import LAWS, Laws, normal_log_prob
from ebmbench.tasks.regression.data.squares import Squares

X = torch.tensor([[-0.8, 0.3], [0.1, -0.9], [0.7, 0.7]], dtype=torch.float64)
LOW = [("mixture", 1), ("mixture", 2), ("banana", 2), ("ring", 1), ("ring", 2), ("ring", 4)]
HIGH = [("mixture", 4), ("banana", 4)]


def draws_of(law: Law, x: torch.Tensor, count: int, number: int = 0) -> torch.Tensor:
    return law.sample(x, count, Streams([0], stacked=False).at(number), "test")


@pytest.mark.parametrize(("name", "dim"), LOW)
def test_a_law_integrates_to_one(name: str, dim: int) -> None:
    """Importance sampling from a wider Gaussian around its own draws, with four standard errors."""
    law = LAWS[name](dim)
    y = draws_of(law, X, 4000)
    mean, std = y.mean(1, keepdim=True), 1.5 * y.std(1, keepdim=True)
    noise = torch.randn(3, 400_000, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_q = normal_log_prob(noise) - std.log().sum(-1)
    weights = (law.log_prob(X, mean + std * noise) - log_q).exp()
    error = weights.std(1) / math.sqrt(weights.shape[1])
    assert torch.all((weights.mean(1) - 1).abs() < 4 * error) and float(error.max()) < 0.1


@pytest.mark.parametrize(("name", "dim"), [*LOW, *HIGH])
def test_draws_follow_the_density(name: str, dim: int) -> None:
    """`E[q(y) / p(y)] = 1` over draws y of p, for a narrow Gaussian q inside its support; and no draw is impossible."""
    law = LAWS[name](dim)
    y = draws_of(law, X, 200_000)
    assert law.log_prob(X, y).isfinite().all()
    centre = y[:, :1]  # a place where the law has mass
    q = normal_log_prob((y - centre) / 0.2) - dim * math.log(0.2)
    ratio = (q - law.log_prob(X, y)).exp()
    # The ratio has heavy tails where q reaches beyond p: only places near the centre are counted, on both sides.
    near = ((y - centre).norm(dim=-1) < 0.2).double()
    noise = torch.randn(3, 200_000, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    share = (0.2 * noise.norm(dim=-1) < 0.2).double().mean(1)
    near_q = law.log_prob(X, centre + 0.2 * noise) > -math.inf
    assert near_q.all()
    estimate, error = (ratio * near).mean(1), (ratio * near).std(1) / math.sqrt(200_000)
    assert torch.all((estimate - share).abs() < 5 * error + 0.01)


def test_the_data_are_draws_of_the_law_and_the_same_each_time() -> None:
    data = Laws(law="ring", dim=2, num_train=200, num_val=20, num_test=50)
    split, again = data.load(), data.load()
    assert split.train.x.shape == (200, 2) and split.train.y.shape == (200, 2) and len(split.val) == 20
    assert torch.equal(split.test.y, again.test.y)
    assert not torch.equal(split.train.x[:20], split.val.x)
    assert split.truth is not None
    of_train, of_test = (
        float(split.truth.log_prob(part.x, part.y.unsqueeze(1)).mean()) for part in (split.train, split.test)
    )
    assert of_train == pytest.approx(of_test, abs=0.4)


def test_the_angle_of_a_shape_has_as_many_answers_as_it_should() -> None:
    law = Squares(label_noise=0.1).truth()
    latent = torch.tensor([[0.3, 4.0], [-3.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    grid = torch.linspace(-math.pi, math.pi, 8001, dtype=torch.float64)[:-1]
    density = law.log_prob(latent, grid.view(1, -1, 1).expand(3, -1, 1)).exp()
    np.testing.assert_allclose(density.sum(1) * (grid[1] - grid[0]), 1, atol=1e-6)
    peaks = (density > density.roll(1, 1)) & (density > density.roll(-1, 1))
    assert peaks.sum(1).tolist() == [4, 2, 1]
    y = draws_of(law, latent, 20_000)[..., 0]
    for row, curve in zip(y, density, strict=True):
        cdf = (curve.cumsum(0) * (grid[1] - grid[0])).numpy()
        found = np.interp(row.numpy(), grid.numpy(), cdf)
        assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_pictures_show_the_angle() -> None:
    """A square that is turned by a quarter looks the same, one turned by an eighth does not; a marked one tells."""
    from ebmbench.tasks.regression.data.squares import draw

    angles = torch.tensor([0.2, 0.2 + math.pi / 2, 0.2 + math.pi / 4], dtype=torch.float64)
    place = torch.zeros(3, 2, dtype=torch.float64)
    square = draw(32, angles, torch.full((3,), 4), place)
    assert float((square[0] - square[1]).abs().max()) < 1e-5 < 0.5 < float((square[0] - square[2]).abs().max())
    marked = draw(32, angles, torch.full((3,), 1), place)
    assert float((marked[0] - marked[1]).abs().max()) > 0.5
