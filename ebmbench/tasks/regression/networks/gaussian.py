"""Baseline: a Gaussian whose mean and variance are functions of x."""

from __future__ import annotations

import math

from torch import Tensor, nn
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.tasks.regression.networks.encoders import WithAnyEncoder

LOWEST_LOG_VARIANCE = -20.0
"""Keeps float32 finite where targets are known exactly; a standard deviation of 4.5e-5 of the target's own."""


class GaussianHead(nn.Module):
    """`log N(y; μ(x), diag σ²(x))`, from a linear layer that gives μ and log σ² in each dimension."""

    normalised = True

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(features, 2 * dim)

    @override
    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        mean, log_variance = self.out(h).unsqueeze(-2).chunk(2, dim=-1)
        log_variance = log_variance.clamp(min=LOWEST_LOG_VARIANCE)
        squares = (y - mean).square() * (-log_variance).exp()
        return -0.5 * (squares + log_variance + math.log(2 * math.pi)).sum(-1)


@register
class Gaussian(WithAnyEncoder):
    """A Gaussian, mean and variance functions of x (diagonal for several targets); a density by itself.

    With `method=ml-exact` it is the heteroscedastic regression of Nix and Weigend.
    """

    name = "gaussian"
    reference = "Nix, Weigend, Estimating the mean and variance of the target probability distribution, ICNN 1994"

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        return GaussianHead(features, dim)
