"""Score matching: fit the gradient of f in y, which needs no partition function."""

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
from ebmbench.methods.base import Method, normal_nodes

if TYPE_CHECKING:
    from torch import Tensor


@register
class SM(Method):
    """Score matching: `tr ∂²f/∂y² + ½ ‖∂f/∂y‖²` at the target.

    A piecewise linear network has no curvature that autograd could see: use a smooth activation.
    """

    name = "sm"
    reference = "Hyvärinen, Estimation of non-normalized statistical models by score matching, JMLR 2005"
    color, marker, order = "#7F7F7F", "X", 70
    y_derivatives = 2

    @override
    def blur(self, proposal: Proposal | None) -> Sequence[float]:
        return ()

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        with torch.enable_grad():
            point = y.detach().unsqueeze(-2).requires_grad_()
            score = f.grad(point, create_graph=True)
            trace = torch.zeros_like(score[..., 0])
            for d in range(y.shape[-1]):
                # Where f is linear in y the score does not depend on it: its derivative is zero, not an error.
                row = torch.autograd.grad(score[..., d].sum(), point, create_graph=True, materialize_grads=True)[0]
                trace = trace + row[..., d]
        return (trace + 0.5 * score.square().sum(-1)).squeeze(-1)

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        return self.loss(f, y, step)


@register
class DSM(Method):
    """Denoising score matching: `mean_m ‖∂f/∂y(ỹ_m) + (ỹ_m − y_i)/σ²‖²`, `ỹ_m ~ N(y_i, σ² I)`.

    Its optimum is the data's density smoothed by σ.
    """

    name = "dsm"
    reference = "Vincent, A connection between score matching and denoising autoencoders, Neural Computation 2011"
    color, marker, order = "#CC79A7", "P", 60
    tuning = {"method.sigma": (0.02, 0.5)}  # noqa: RUF012
    y_derivatives = 1

    num_samples: int = Field(64, ge=1, le=1_048_576, description="M, noisy targets per target")
    sigma: float = Field(0.1, gt=0, le=1e6, description="σ of the noise, in units of y")

    @override
    def blur(self, proposal: Proposal | None) -> Sequence[float]:
        return (self.sigma,)

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        shape = (*y.shape[:-1], self.num_samples, y.shape[-1])
        noise = self.sigma * step.draws.normal("denoising", shape, y.dtype)
        score = f.grad(y.unsqueeze(-2) + noise, create_graph=True)
        return (score + noise / self.sigma**2).square().sum(-1).mean(-1)

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        places, weights = normal_nodes(y)
        noise = self.sigma * places.unsqueeze(-1)
        score = f.grad(y.unsqueeze(-2) + noise, create_graph=True)
        return (score + noise / self.sigma**2).square().sum(-1) @ weights
