"""Noise contrastive estimation: tell the target among samples of the proposal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.proposal import Proposal
from ebmbench.core.registry import register
from ebmbench.core.step import Step
from ebmbench.methods.base import PAPER, Sampling, exact_nll, normal_mean
from ebmbench.proposals.mixture import GaussianMixture

if TYPE_CHECKING:
    from torch import Tensor


def target_among_samples(f: Energy, y: Tensor, step: Step, num_samples: int, beta: float = 0.0) -> Tensor:
    """Returns `−log softmax` of the target, moved by noise of scale `beta`, among itself and M samples: `[...]`."""
    candidates, log_q = step.q().beside_target(y, num_samples, step, beta)
    return -torch.log_softmax(f(candidates) - log_q, dim=-1)[..., 0]


@register
class NCE(Sampling):
    """Noise contrastive estimation: tell the target among M samples of q, with logits `f − log q`."""

    name = "nce"
    reference = PAPER
    color, marker, order = "#E69F00", "s", 20
    default_for = "several targets"

    @override
    def blur(self, proposal: Proposal | None) -> Sequence[float]:
        return ()

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        return target_among_samples(f, y, step, self.num_samples)

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        return exact_nll(f, y, step)


@register
class NCEPlus(Sampling):
    """NCE with noise on the annotation: the target is `y_i + ν`, `ν ~ 1/K Σ_k N(0, (βσ_k)² I)`.

    The logits still use q of the samples, with σ_k and not βσ_k. Its optimum is the data's density smoothed by ν.
    With another proposal than the mixture the noise is `ν = β (ỹ − y_i)`, `ỹ ~ q`.

    Why it is not ahead of nce and ml-is in 1D here: the noise costs what the density loses by it, `KL(p ‖ p∗ν)`, 0.024
    nats at β = 0.025 on law 2 (kld-is 0.098, dsm 0.393; results/bench/floors.md, `python -m benchmarks floors`). It
    pays where targets are noisy or boxes are drawn by hand; these targets are exact, and no β > 0 helps
    (results/nce_plus_beta). What nce and ml-is differ by is their proposal, not their loss.
    """

    name = "nce+"
    default_for = "published tasks"
    reference = PAPER
    color, marker, order = "#D55E00", "o", 10
    tuning = {"method.beta": (0.003, 0.3)}  # noqa: RUF012

    beta: float = Field(0.002, gt=0, le=1e6, description="β, the scale of the noise on the target, βσ_k")

    @override
    def blur(self, proposal: Proposal | None) -> Sequence[float] | None:
        return [self.beta * std for std in proposal.stds] if isinstance(proposal, GaussianMixture) else None

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        return target_among_samples(f, y, step, self.num_samples, self.beta)

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        if not isinstance(step.proposal, GaussianMixture):
            return None
        assert step.log_partition is not None, "the task has no exact log Z"
        stds = step.proposal.stds
        return step.log_partition(f) - sum(normal_mean(f, y, self.beta * std) for std in stds) / len(stds)
