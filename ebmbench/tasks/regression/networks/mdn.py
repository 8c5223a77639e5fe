"""Baseline: a mixture density network."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.tasks.regression.networks.encoders import WithAnyEncoder
from ebmbench.tasks.regression.networks.gaussian import LOWEST_LOG_VARIANCE


class MixtureHead(nn.Module):
    """`log Σ_k π_k(x) N(y; μ_k(x), diag σ_k²(x))`, from a linear layer that gives all of π, μ and log σ²."""

    normalised = True

    def __init__(self, features: int, dim: int, components: int) -> None:
        super().__init__()
        self.components = components
        self.log_weights = nn.Linear(features, components)
        self.means = nn.Linear(features, components * dim)
        self.log_variances = nn.Linear(features, components * dim)
        with torch.no_grad():  # components that start alike would learn alike
            self.means.bias.copy_(torch.randn(components * dim))

    @override
    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        shape = (self.components, -1)
        log_weights = torch.log_softmax(self.log_weights(h), dim=-1).unsqueeze(-2)
        means = self.means(h).unflatten(-1, shape).unsqueeze(-3)
        log_variances = self.log_variances(h).unflatten(-1, shape).unsqueeze(-3).clamp(min=LOWEST_LOG_VARIANCE)
        squares = (y.unsqueeze(-2) - means).square() * (-log_variances).exp()
        log_normals = -0.5 * (squares + log_variances + math.log(2 * math.pi)).sum(-1)
        return torch.logsumexp(log_weights + log_normals, dim=-1)


@register
class MDN(WithAnyEncoder):
    """A mixture density network: K Gaussians whose weights, means and variances are functions of x."""

    name = "mdn"
    reference = "Bishop, Mixture density networks, Aston University 1994"

    components: int = Field(4, ge=1, le=1000, description="K, Gaussians in the mixture")

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        return MixtureHead(features, dim, self.components)
