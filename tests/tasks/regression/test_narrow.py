"""Densities much narrower than the nodes of a quadrature, in training, validation and scores, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.nodes import NodeDensity
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Axis, Targets
from ebmbench.tasks.regression import conditional
from ebmbench.tasks.regression.conditional import Conditionals
from ebmbench.tasks.regression.scaling import Scaling
from ebmbench.tasks.regression.scoring import one_target

BASE = BaseDensity()
UNIT = Targets((Axis(Real(), 0.0, 1.0, (), BASE),))
LOG_Z = 1.5
Parts = list[tuple[float, float, float]]
"""Weight, mean and standard deviation of the Gaussians of a mixture."""


class Known:
    """One model whose density is a mixture of Gaussians around x, with log Z = 1.5 unless it is normalised."""

    has_gradient = False

    def __init__(self, parts: Parts, normalised: bool = False) -> None:
        self.parts, self.normalised = parts, normalised

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y|x): `[...]` twice."""
        terms = [
            math.log(weight / (std * math.sqrt(2 * math.pi))) - 0.5 * ((y - x - mean) / std).square()
            for weight, mean, std in self.parts
        ]
        return torch.logsumexp(torch.stack(terms), 0)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Has no dropout to switch off."""
        yield

    def bind(self, x: Tensor, index: int | None = None) -> tuple[Callable[[Tensor], Tensor], None]:
        """The energies without the base density, which is added to them; x is `[1, B, 1]`."""

        def f(y: Tensor) -> Tensor:
            y = y.double()
            values = self.log_prob(x.double(), y.squeeze(-1))
            return values if self.normalised else values + LOG_Z - BASE.log_prob(y).squeeze(-1)

        return f, None


def rows(parts: Parts, count: int = 300) -> tuple[Tensor, Tensor]:
    """Inputs, and targets from the law: `[N, 1]` float64 each."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, generator=generator, dtype=torch.float64)
    weights = torch.tensor([part[0] for part in parts])
    of = torch.tensor(parts, dtype=torch.float64)[torch.multinomial(weights, count, True, generator=generator)]
    y = x + of[:, 1] + of[:, 2] * torch.randn(count, generator=generator, dtype=torch.float64)
    return x.unsqueeze(1), y.unsqueeze(1)


def conditionals(stack: Any) -> Conditionals:
    targets = torch.randn(800, generator=torch.Generator().manual_seed(1))
    return Conditionals(stack, UNIT, NodeDensity.of(targets, BASE), None, 1)


def one(std: float) -> Parts:
    return [(1.0, 0.0, std)]


def two(std: float) -> Parts:
    return [(0.5, -0.7, std), (0.5, 0.7, std)]


def spike(std: float) -> Parts:
    return [(0.5, 0.0, std), (0.5, 0.3, 0.7)]


@pytest.mark.parametrize("std", [0.3, 0.03, 0.01, 0.001])
@pytest.mark.parametrize("law", [one, two, spike])
def test_the_validation_nll_is_right_however_narrow_the_density(law: Callable[[float], Parts], std: float) -> None:
    """With 200 fixed nodes alone it is 0.35 nats too low for one Gaussian of 0.01, and 52 for one of 0.001."""
    stack = Known(law(std))
    x, y = rows(stack.parts)
    found = conditionals(stack).log_prob(x, y)[0]
    missed = 0.35 if law is spike and std < 0.03 else 0.01  # a spike that no node and no slope may show
    assert float((found - stack.log_prob(x, y)[:, 0]).mean().abs()) < missed


def test_validation_of_wide_densities_evaluates_nothing_further(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Known(one(0.5))
    x, y = rows(stack.parts)
    near = y.abs()[:, 0] < 2.5  # nodes are far apart beyond the targets
    monkeypatch.setattr(Conditionals, "grids", None)
    found = conditionals(stack).log_prob(x[near], y[near])[0]
    torch.testing.assert_close(found, stack.log_prob(x, y)[near, 0], atol=3e-3, rtol=0)


def test_the_partition_function_of_training_sees_a_peak_at_the_target() -> None:
    """The expectation of log Z is what a model gains by; with nodes alone it falls without end as the peak narrows."""
    nodes = conditionals(Known(one(1.0))).nodes
    assert nodes is not None
    for law, std, gain in ((one, 0.01, 0.2), (one, 0.001, 20.0), (spike, 0.003, 0.1), (spike, 0.001, 0.2)):
        stack = Known(law(std))
        x, y = rows(stack.parts, 100)
        y = torch.where((y - x).abs() < 5 * std, y, x)  # the targets that the peak is for
        f, _ = stack.bind(x.unsqueeze(0))
        parts, coarse = [], []
        for number in range(50):
            shift = torch.rand(1, 1, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
            u, near = (
                (torch.arange(count, dtype=torch.float64) + shift) / count for count in (200, conditional.NEAR_NODES)
            )

            def energy(candidates: Tensor, f: Callable[[Tensor], Tensor] = f) -> Tensor:
                return f(candidates) + BASE.log_prob(candidates.double()).squeeze(-1)

            parts.append(conditional.trained_log_partition(energy, nodes, u, y.unsqueeze(0), near))  # type: ignore
            coarse.append(conditional.log_mean_exp(conditional.node_values(energy, nodes, u, len(x))))
        assert float((torch.stack(parts).mean() - LOG_Z).abs()) < 0.05, (law, std)
        assert float(LOG_Z - torch.stack(coarse).mean()) > gain, (law, std)


def test_training_on_wide_densities_uses_the_nodes_alone() -> None:
    nodes = conditionals(Known(one(1.0))).nodes
    assert nodes is not None
    u, near = torch.arange(200).expand(1, -1) / 200, (torch.arange(32).expand(1, -1) + 0.5) / 32

    def energy(y: Tensor) -> Tensor:
        slopes = torch.linspace(-1, 1, 5).view(1, 5, 1)
        return slopes * torch.sin(y.squeeze(-1)) + BASE.log_prob(y).squeeze(-1)

    found = conditional.trained_log_partition(energy, nodes, u, torch.zeros(1, 5, 1), near)  # type: ignore[arg-type]
    assert torch.equal(found, conditional.log_mean_exp(conditional.node_values(energy, nodes, u, 5)))


def scores(stack: Known) -> tuple[Any, Tensor]:
    x, y = rows(stack.parts)
    unit = Scaling.of(torch.tensor([[-1.0], [1.0]]), UNIT)
    return one_target(conditionals(stack), unit, x, y, None), stack.log_prob(x, y)[:, 0]


@pytest.mark.parametrize("std", [0.3, 0.01, 0.001])
@pytest.mark.parametrize("law", [one, two])
def test_scores_of_narrow_densities_are_right(law: Callable[[float], Parts], std: float) -> None:
    made, truth = scores(Known(law(std)))
    assert float((made.log_prob[0] - truth).abs().mean()) < 0.01
    assert float(made.bias.mean()) < 0.01


@pytest.mark.parametrize("normalised", [False, True])
def test_a_spike_that_only_the_observation_shows_is_said(normalised: bool) -> None:
    """Half of the mass is in a spike of 0.0003 on a wide part: between nodes nothing shows it."""
    made, truth = scores(Known(spike(0.0003), normalised))
    wrong = (made.log_prob[0] - truth).abs().mean()
    assert normalised or float(wrong) > 0.1
    assert float(made.bias.mean()) > 0.05
