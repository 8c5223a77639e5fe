"""Maximum likelihood with the exact partition function."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.errors import UserError
from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.methods.base import trial_step
from ebmbench.methods.baselines import MLExact
from tests.tasks.regression import one_d_problem

GRID = torch.linspace(-12, 12, 4001, dtype=torch.float64)


def quadrature(f: Energy) -> Tensor:
    """The trapezoidal rule for three examples; the ends are negligible."""
    return torch.logsumexp(f(GRID.view(-1, 1).expand(3, -1, 1)), dim=-1) + math.log(GRID[1] - GRID[0])


def step(log_partition: object) -> Step:
    return Step(Streams([0], stacked=False).at(0), log_partition=log_partition)  # type: ignore[arg-type]


def gaussian(mean: Tensor, std: Tensor) -> Energy:
    """An unnormalised Gaussian: f has an offset that the partition function must cancel."""
    return AutogradEnergy(lambda y: 5.0 - 0.5 * ((y[..., 0] - mean.unsqueeze(-1)) / std.unsqueeze(-1)).square())


def test_the_loss_is_the_negative_log_likelihood_in_closed_form() -> None:
    mean = torch.tensor([0.0, -1.0, 2.0], dtype=torch.float64)
    std = torch.tensor([1.0, 0.3, 0.7], dtype=torch.float64)
    y = torch.tensor([[0.5], [0.0], [2.0]], dtype=torch.float64)
    loss = MLExact().loss(gaussian(mean, std), y, step(quadrature))
    torch.testing.assert_close(loss, -torch.distributions.Normal(mean, std).log_prob(y[:, 0]))


def test_the_gradient_is_that_of_the_negative_log_likelihood() -> None:
    mean = torch.tensor([0.0, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([1.0, 0.3, 0.7], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0.5], [0.0], [1.2]], dtype=torch.float64)
    MLExact().loss(gaussian(mean, std), y, step(quadrature)).sum().backward()
    residual = y[:, 0] - mean.detach()
    assert mean.grad is not None and std.grad is not None
    torch.testing.assert_close(mean.grad, -residual / std.detach() ** 2)
    torch.testing.assert_close(std.grad, 1 / std.detach() - residual**2 / std.detach() ** 3)


def test_the_loss_of_a_normalised_model_is_minus_its_log_density() -> None:
    normal = torch.distributions.Normal(0.3, 0.8)
    f = AutogradEnergy(lambda y: normal.log_prob(y[..., 0]))
    y = torch.randn(3, 1, dtype=torch.float64)
    loss = MLExact().loss(f, y, step(lambda f: torch.zeros(3, dtype=torch.float64)))
    torch.testing.assert_close(loss, -normal.log_prob(y[:, 0]))


def test_without_a_partition_function_the_sentence_says_what_helps() -> None:
    with pytest.raises(UserError, match=r"method=ml-exact needs .*choose model=gaussian.* such as nce"):
        MLExact().loss(gaussian(torch.zeros(3), torch.ones(3)), torch.zeros(3, 1), step(None))


def test_a_trial_step_has_a_partition_function_for_one_target() -> None:
    y = torch.zeros(2, 1, dtype=torch.float64)
    loss = MLExact().loss(AutogradEnergy(lambda y: -0.5 * y.square().sum(-1)), y, trial_step(MLExact(), None, y))
    torch.testing.assert_close(loss, torch.full((2,), 0.5 * math.log(2 * math.pi), dtype=torch.float64))


def test_in_1d_the_partition_function_of_training_is_unbiased_over_the_interval() -> None:
    """`log Z` over [-3, 3] of a smooth and of a narrow density, against the closed form."""
    learner = one_d_problem.problem("nce", [0, 1], dtype=torch.float64, num_train=8)
    for std, tolerance in ((0.5, 1e-4), (0.003, 0.065)):  # four standard errors: nodes stand where the targets are
        normal = torch.distributions.Normal(0.4, std)
        f = AutogradEnergy(lambda y, normal=normal: normal.log_prob(y[..., 0]) + 3)
        parts = []
        for number in range(400):
            partition = learner.log_partition(learner.streams.at(number), torch.zeros(2, 4, 1).double())
            assert partition is not None
            parts.append(partition(f))
        assert parts[0].shape == (2, 4)
        mean = torch.stack(parts).exp().mean(0)
        torch.testing.assert_close(mean.log(), torch.full((2, 4), 3.0, dtype=torch.float64), atol=tolerance, rtol=0)
