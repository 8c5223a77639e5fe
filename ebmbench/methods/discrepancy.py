"""Energy discrepancy: compare f at the target with f at points that noise, and noise again, carried away from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.registry import register
from ebmbench.core.step import Step
from ebmbench.methods.base import Method, energies, normal_nodes

if TYPE_CHECKING:
    from torch import Tensor


@register
class EnergyDiscrepancy(Method):
    """Energy discrepancy: `log(w/M + 1/M Σ_m exp(f(ỹ_m) − f(y_i)))`, `ỹ_m = y_i + s (ξ_0 + ξ_m)`.

    ξ ~ N(0, I), one ξ_0 for each example. It is between score matching (s → 0) and maximum likelihood (s → ∞), and its
    optimum is the law itself for every s, up to the bias of a finite M. w > 0 makes it stable for small M.
    """

    name = "ed"
    moves_target = True
    reference = (
        "Schröder, Ou, Lim, Li, Vollmer, Duncan, Energy Discrepancies: A Score-Independent Loss for Energy-Based "
        "Models, NeurIPS 2023"
    )
    color, marker, order = "#999933", ">", 55
    tuning = {"method.scale": (0.02, 2.0)}  # noqa: RUF012

    num_samples: int = Field(64, ge=1, le=1_048_576, description="M, perturbed targets per target")
    scale: float = Field(0.3, gt=0, le=1e6, description="s, scale of the noise, in units of y")
    stabilisation: float = Field(1.0, ge=0, le=1e6, description="w, weight of the target itself in the mean")

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        shape = (*y.shape[:-1], 1 + self.num_samples, y.shape[-1])
        noise = self.scale * step.draws.normal("perturbation", shape, y.dtype)
        target, values = energies(f, y, y.unsqueeze(-2) + noise[..., :1, :] + noise[..., 1:, :])
        terms = values - target.unsqueeze(-1)
        if self.stabilisation:
            terms = torch.cat((terms, torch.full_like(terms[..., :1], math.log(self.stabilisation))), dim=-1)
        return torch.logsumexp(terms, dim=-1) - math.log(self.num_samples)

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        # Places of ξ_0 + ξ are sums of two nodes: f is computed once at each sum, and read in windows.
        places, weights = normal_nodes(y)
        sums = torch.linspace(2 * places[0], 2 * places[-1], 2 * len(places) - 1, dtype=y.dtype, device=y.device)
        target, values = energies(f, y, y.unsqueeze(-2) + self.scale * sums.unsqueeze(-1))
        inner = torch.logsumexp(values.unfold(-1, len(places), 1) + weights.log(), dim=-1)
        return inner @ weights - target
