"""The box NLL against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ebmbench.core.energy import AutogradEnergy
from ebmbench.core.rng import Streams
from ebmbench.tasks.detection.box_nll import STDS, _sample, box_nll, proposal_log_prob

DRAWS = Streams([0], stacked=False).at(0)


def gaussian(std: Tensor, mean: Tensor, constant: float = 0.0) -> AutogradEnergy:
    """`f` of a normal law per box and coordinate, `[N, 4]` each, up to a constant."""
    return AutogradEnergy(lambda y: constant - 0.5 * ((y - mean[:, None]) / std[:, None]).square().sum(-1))


def truncated_nll(std: Tensor, mean: Tensor) -> Tensor:
    """Of the point 0 under `N(mean, std²)` cut to the cube: `[N]`."""
    normal = torch.distributions.Normal(mean.double(), std.double())
    one = torch.ones_like(mean, dtype=torch.float64)
    inside = normal.cdf(one) - normal.cdf(-one)
    return (inside.log() - normal.log_prob(0 * one)).sum(-1)


@pytest.mark.parametrize("scale", [0.03, 0.1, 0.5, 3.0])
def test_a_quadratic_f_is_a_truncated_gaussian(scale) -> None:
    std = scale * torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.7, 1.0, 1.3, 1.0]])
    mean = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, -0.3, 0.2, 0.0]]) * scale
    result = box_nll(gaussian(std, mean, constant=7.5), 2, DRAWS, num_samples=20000)
    expected = truncated_nll(std, mean)
    assert (result.error < 0.05).all()
    assert ((result.nll - expected).abs() < 4 * result.error + 1e-6).all()


def test_the_standard_error_is_the_spread_between_seeds() -> None:
    std, mean = torch.full((1, 4), 0.08), torch.full((1, 4), 0.03)
    results = [
        box_nll(gaussian(std, mean), 1, Streams([seed], stacked=False).at(0), num_samples=500) for seed in range(200)
    ]
    spread = torch.cat([r.nll for r in results]).std()
    stated = torch.cat([r.error for r in results]).mean()
    assert 0.8 < spread / stated < 1.25


def test_a_constant_f_is_uniform_and_a_constant_changes_nothing() -> None:
    flat = box_nll(AutogradEnergy(lambda y: torch.zeros(y.shape[:-1])), 3, DRAWS, num_samples=20000)
    assert ((flat.nll - 4 * math.log(2)).abs() < 4 * flat.error).all()
    high = box_nll(AutogradEnergy(lambda y: torch.full(y.shape[:-1], 300.0)), 3, DRAWS, num_samples=20000)
    torch.testing.assert_close(high.nll, flat.nll)


def test_effective_sample_size() -> None:
    """It is the number of samples if f is log q, and near nothing where f is a needle between the samples."""
    perfect = box_nll(AutogradEnergy(lambda y: proposal_log_prob(y, STDS, 0.2)), 2, DRAWS, num_samples=300)
    torch.testing.assert_close(perfect.ess, torch.full((2,), 300.0, dtype=torch.float64), rtol=1e-4, atol=0)
    torch.testing.assert_close(perfect.nll, -proposal_log_prob(torch.zeros(2, 4), STDS, 0.2), rtol=0, atol=1e-4)
    needle = gaussian(torch.full((1, 4), 0.003), torch.full((1, 4), 0.6))
    assert box_nll(needle, 1, DRAWS, num_samples=300).ess < 5


def test_the_proposal_is_a_density_on_the_cube_and_its_samples_follow_it() -> None:
    samples = _sample(DRAWS, 1, 200_000, STDS, 0.2)[0]
    assert samples.abs().max() <= 1
    # E_q[1/q] is the volume of the cube, if q is normalised and the samples are its own.
    inverse = torch.exp(-proposal_log_prob(samples, STDS, 0.2))
    assert abs(inverse.mean() - 16) < 4 * inverse.std() / math.sqrt(len(samples))
    # The second moment of each component in closed form.
    second = 0.2 / 3
    for std in STDS:
        inside = math.erf(1 / (std * math.sqrt(2)))
        density = math.exp(-0.5 / std**2) / (std * math.sqrt(2 * math.pi))
        second += 0.8 / len(STDS) * std**2 * (1 - 2 * density / inside)
    torch.testing.assert_close(samples.square().mean(0), torch.full((4,), second).double(), rtol=0.02, atol=0)
