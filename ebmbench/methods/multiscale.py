"""Denoising score matching with noise of many scales."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import torch
from pydantic import Field, model_validator
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.registry import register
from ebmbench.core.step import Step
from ebmbench.methods.base import Method, normal_nodes

if TYPE_CHECKING:
    from torch import Tensor


@register
class MDSM(Method):
    """Multiscale denoising score matching: `mean_m 1/σ_m² ‖y_i − ỹ_m − σ_0² ∂f/∂y(ỹ_m)‖²`, `ỹ_m ~ N(y_i, σ_m² I)`.

    σ_m is a random one of L scales, in a geometric row from sigma_low to sigma_high. With one scale it is dsm. Wide
    scales show the model what is far from the target; f is that of the law smoothed by about σ_0.
    """

    name = "mdsm"
    reference = (
        "Li, Chen, Sommer, Learning Energy-Based Models in High-Dimensional Spaces with Multiscale Denoising Score "
        "Matching, 2019, arXiv 1910.07762"
    )
    color, marker, order = "#882255", "*", 65
    y_derivatives = 1
    tuning = {"method.sigma_low": (0.01, 0.3), "method.sigma_high": (0.3, 3.0)}  # noqa: RUF012

    num_samples: int = Field(64, ge=1, le=1_048_576, description="M, noisy targets per target")
    sigma_low: float = Field(0.05, gt=0, le=1e6, description="smallest σ of the noise, in units of y")
    sigma_high: float = Field(0.5, gt=0, le=1e6, description="largest σ of the noise, in units of y")
    levels: int = Field(16, ge=1, le=10_000, description="L, number of scales")
    sigma0: float | None = Field(
        None, gt=0, le=1e6, description="σ_0, in units of y; null: the root of the harmonic mean of the σ²"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_low > self.sigma_high:
            raise ValueError(
                f"method.sigma_low={self.sigma_low:g} is not allowed: it may not exceed method.sigma_high="
                f"{self.sigma_high:g}"
            )
        return self

    @property
    def target_sigma(self) -> float:
        """σ_0. Where it is not given it is the one with which a Gaussian law of variance s² gives s² + σ_0²."""
        if self.sigma0 is not None:
            return self.sigma0
        return math.sqrt(self.levels / sum(sigma**-2 for sigma in self.sigmas))

    @property
    def sigmas(self) -> list[float]:
        """σ of the noise at each level, in a geometric row."""
        ratio = (self.sigma_high / self.sigma_low) ** (1 / max(1, self.levels - 1))
        return [self.sigma_low * ratio**level for level in range(self.levels)]

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        shape = (*y.shape[:-1], self.num_samples, y.shape[-1])
        level = step.draws.integers("level", (*shape[:-1], 1), self.levels).to(y.dtype)
        ratio = math.log(self.sigma_high / self.sigma_low) / max(1, self.levels - 1)
        sigma = self.sigma_low * (ratio * level).exp()
        noise = step.draws.normal("denoising", shape, y.dtype)
        score = f.grad(y.unsqueeze(-2) + sigma * noise, create_graph=True)
        return (noise + self.target_sigma**2 / sigma * score).square().sum(-1).mean(-1)

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        noise, weights = normal_nodes(y)
        noise = noise.unsqueeze(-1)
        losses = []
        for sigma in self.sigmas:
            score = f.grad(y.unsqueeze(-2) + sigma * noise, create_graph=True)
            losses.append((noise + self.target_sigma**2 / sigma * score).square().sum(-1) @ weights)
        return torch.stack(losses).mean(0)
