"""What a proposal must keep to: checks that `ebmbench check` and the tests run (see `check/methods.py`)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ebmbench.check.methods import DIMENSIONS, targets
from ebmbench.core.energy import Energy
from ebmbench.core.errors import UserError
from ebmbench.core.proposal import Proposal
from ebmbench.core.step import Step
from ebmbench.methods.base import Method, trial_step


def _draw(proposal: Proposal, y: Tensor, count: int, number: int = 0) -> tuple[Tensor, Tensor, Step]:
    step = trial_step(_Sampler(), proposal, y, number=number)
    drawn = proposal.sample(y, count, step)
    if not isinstance(drawn, tuple) or len(drawn) != 2:
        raise UserError(
            f"sample returned a {type(drawn).__name__}; it must return two tensors, the samples and their log q"
        )
    return *drawn, step


class _Sampler(Method):
    """A method that does nothing, for steps in which a proposal alone is tried."""

    name = "none"

    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        return y.sum(-1)


def proposal_shapes(cls: type[Proposal]) -> Iterator[str]:
    """Samples are [..., M, D] with one log q each, for D = 1 and 4."""
    proposal = cls.model_validate({})
    for dim in DIMENSIONS:
        samples, log_q, _ = _draw(proposal, targets(5, dim), 7)
        if samples.shape != (5, 7, dim) or log_q.shape not in ((5, 7), (1, 7)):
            yield f"for targets (5, {dim}): samples {tuple(samples.shape)}, log q {tuple(log_q.shape)}"
        elif not (samples.isfinite().all() and log_q.isfinite().all()):
            yield f"samples or their log q are not finite for D = {dim}"


def _grid(proposal: Proposal, count: int) -> tuple[Tensor, float]:
    """Points of the support for some examples, `[count, 80001, 1]`, as far as [-40, 40], and their spacing."""
    low, high = (min(max(end, -40.0), 40.0) for end in proposal.support())
    points = torch.linspace(low, high, 80_001, dtype=torch.float64).view(1, -1, 1)
    return points.expand(count, -1, 1), (high - low) / 80_000


def proposal_density(cls: type[Proposal]) -> Iterator[str]:
    """Its density integrates to one, and is that of its samples."""
    proposal, y = cls.model_validate({}), targets(3, 1) / 4
    samples, log_q, step = _draw(proposal, y, 50)
    again = proposal.log_prob(samples, y, step)
    if not torch.allclose(again, log_q.expand_as(again), atol=1e-6):
        yield "log_prob at the samples is not the log q that sample returns"
    grid, spacing = _grid(proposal, 3)
    mass = torch.trapezoid(proposal.log_prob(grid, y, step).exp(), dx=spacing)
    if not torch.allclose(mass, torch.ones_like(mass), atol=2e-3):
        yield f"its density integrates to {', '.join(f'{value:.4f}' for value in mass.tolist())} over its support"


def proposal_samples(cls: type[Proposal]) -> Iterator[str]:
    """Its samples follow its density."""
    proposal, y = cls.model_validate({}), targets(2, 1) / 4
    samples, _, step = _draw(proposal, y, 20_000)
    grid, spacing = _grid(proposal, 2)
    distribution = (proposal.log_prob(grid, y, step).exp() * spacing).cumsum(-1)
    ordered = samples[..., 0].double().sort(dim=-1).values
    place = ((ordered - grid[0, 0, 0]) / spacing).long().clamp(0, 80_000)
    expected = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    distance = (distribution.gather(-1, place) - expected).abs().amax().item()
    if distance > 0.02:  # the 5 % point of Kolmogorov and Smirnov is 0.0096
        yield f"the largest distance between the two distribution functions is {distance:.3f}"


def proposal_partition(cls: type[Proposal]) -> Iterator[str]:
    """With it, importance sampling finds the partition function of a Gaussian."""
    for dim in (1, 2):
        proposal, y = cls.model_validate({}), targets(4, dim) / 4
        samples, log_q, _ = _draw(proposal, y, 100_000)
        values = -0.5 * (samples / 0.3).square().sum(-1) - log_q
        found = torch.logsumexp(values, -1) - math.log(100_000)
        expected = dim * math.log(0.3 * math.sqrt(2 * math.pi))
        if (found - expected).abs().max() > 0.1 * dim:
            estimates = ", ".join(f"{v:.3f}" for v in found.tolist())
            yield f"for D = {dim} log Z is {expected:.3f}, and the estimates are {estimates}"


def proposal_seeds(cls: type[Proposal]) -> Iterator[str]:
    """Another step gives other samples, and the same step the same."""
    proposal, y = cls.model_validate({}), targets(4, 1)
    first, again, later = (_draw(proposal, y, 5, number)[0] for number in (0, 0, 1))
    if not torch.equal(first, again):
        yield "the same step gives two different sets of samples"
    if torch.equal(first, later):
        yield "another step gives the same samples"


CHECKS = (proposal_shapes, proposal_density, proposal_samples, proposal_partition, proposal_seeds)
