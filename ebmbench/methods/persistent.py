"""Persistent contrastive divergence: Langevin chains that go on where they stopped at the last visit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.langevin import langevin
from ebmbench.core.registry import register
from ebmbench.core.step import Step
from ebmbench.methods.base import Method
from ebmbench.methods.likelihood import contrast

if TYPE_CHECKING:
    from torch import Tensor


@register
class PCD(Method):
    """Persistent contrastive divergence: `mean_m f(y_m^(L)) − f(y_i)`, as ml-mcmc, but y_m goes on from the last visit.

    Each training example keeps its M chains from epoch to epoch. They start at the target, and a chain starts there
    again with a small probability at each visit. Long chains reach the model's mass far from the target.
    """

    name = "pcd"
    reference = (
        "Tieleman, Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient, ICML 2008"
    )
    color, marker, order = "#117733", "d", 52
    y_derivatives = 1
    tuning = {"method.langevin_step": (0.005, 0.2)}  # noqa: RUF012

    num_samples: int = Field(64, ge=1, le=1_048_576, description="M, chains per target")
    langevin_steps: int = Field(10, ge=1, le=100_000, description="L, Langevin steps of a chain at each visit")
    langevin_step: float = Field(0.05, gt=0, le=1e6, description="λ, length of a Langevin step, in units of y")
    restart: float = Field(0.05, ge=0, le=1, description="probability with which a chain starts at the target again")

    @override
    def memory(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"chains": (self.num_samples, dim)}

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        chains = step.memory["chains"]
        fresh = step.draws.uniform("restart", (*chains.shape[:-1], 1), y.dtype) < self.restart
        start = torch.where(fresh | chains.isnan(), y.unsqueeze(-2), chains)
        samples = langevin(f, start, self.langevin_steps, self.langevin_step, step.draws)
        step.remember("chains", samples)
        return contrast(f, y, samples)
