"""Maximum likelihood and its relatives: the partition function by importance sampling or by Langevin dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.langevin import langevin, ran_away
from ebmbench.core.proposal import Proposal
from ebmbench.core.registry import register
from ebmbench.core.step import Step
from ebmbench.methods.base import PAPER, Method, Sampling, energies, exact_nll, log_partition, normal_mean
from ebmbench.proposals.mixture import gaussian_log_prob

if TYPE_CHECKING:
    from torch import Tensor


@register
class MLIS(Sampling):
    """Maximum likelihood, the partition function by importance sampling: `log Ẑ − f(y_i)`.

    It is biased for small M (the log of an unbiased estimate), and has a high variance where q misses the model's mass.
    """

    name = "ml-is"
    reference = PAPER
    color, marker, order = "#0072B2", "^", 30

    @override
    def blur(self, proposal: Proposal | None) -> Sequence[float]:
        return ()

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        samples, log_q = step.q().sample(y, self.num_samples, step)
        target, values = energies(f, y, samples)
        return log_partition(values, log_q) - target

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        return exact_nll(f, y, step)


@register
class KLDIS(Sampling):
    """KL divergence from `p = N(y_i, σ² I)` to the model, both terms by importance sampling.

    `log Ẑ − 1/M Σ_m f(y_m) p(y_m)/q(y_m)`. Its optimum is the data's density smoothed by σ.
    """

    name = "kld-is"
    moves_target = True
    reference = PAPER
    color, marker, order = "#56B4E9", "v", 40
    tuning = {"method.sigma": (0.005, 0.2)}  # noqa: RUF012
    counters = {  # noqa: RUF012
        "underflows": "the importance weights of {count} examples underflowed; a larger method.num_samples or narrower "
        "proposal.stds avoids it"
    }

    sigma: float = Field(0.05, gt=0, le=1e6, description="σ of the Gaussian around the target, in units of y")

    @override
    def blur(self, proposal: Proposal | None) -> Sequence[float]:
        return (self.sigma,)

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        offset, log_q = step.q().sample_offsets(y, self.num_samples, step)
        values = f(y.unsqueeze(-2) + offset)
        weights = (gaussian_log_prob(offset, self.sigma) - log_q).exp()  # p/q, bounded by K (σ_k/σ)^D
        # Where all weights of an example are zero, no sample came near the target, and nothing pulls f up there. That
        # zero belongs in the mean, which would be biased without it; but it says that the estimate is poor.
        step.count("underflows", (weights.amax(-1) == 0).expand(y.shape[:-1]))
        return log_partition(values, log_q) - (weights * values).mean(-1)

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        assert step.log_partition is not None, "the task has no exact log Z"
        return step.log_partition(f) - normal_mean(f, y, self.sigma)


def contrast(f: Energy, y: Tensor, samples: Tensor) -> Tensor:
    """Returns `mean_m f(y_m) − f(y_i)` for the ends y_m of chains: `[...]`.

    f may be finite even at infinity: a chain that ran away makes the loss nan, which stops its seed there.
    """
    target, values = energies(f, y, samples)
    return values.masked_fill(ran_away(y.unsqueeze(-2), samples), torch.nan).mean(-1) - target


@register
class MLMCMC(Method):
    """Maximum likelihood, the model's own samples by L Langevin steps from the target: `mean_m f(y_m^(L)) − f(y_i)`.

    Short chains stay near the target, so the model's mass elsewhere is not seen, nor pushed down.
    """

    name = "ml-mcmc"
    reference = PAPER
    color, marker, order = "#009E73", "D", 50
    tuning = {"method.langevin_step": (0.005, 0.2)}  # noqa: RUF012
    y_derivatives = 1

    num_samples: int = Field(64, ge=1, le=1_048_576, description="M, chains per target")
    langevin_steps: int = Field(16, ge=1, le=100_000, description="L, Langevin steps of a chain")
    langevin_step: float = Field(0.05, gt=0, le=1e6, description="λ, length of a Langevin step, in units of y")

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        start = y.unsqueeze(-2).expand(*y.shape[:-1], self.num_samples, y.shape[-1])
        samples = langevin(f, start, self.langevin_steps, self.langevin_step, step.draws)
        return contrast(f, y, samples)
