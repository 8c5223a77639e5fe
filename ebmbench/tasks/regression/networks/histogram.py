"""Baseline: a histogram, regression as classification."""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.tasks.regression.networks.encoders import WithAnyEncoder


class HistogramHead(nn.Module):
    """A density that is constant in each of `bins` equal bins of [low, high], with an exponential tail on both sides.

    A softmax gives the masses of the bins and the two tails. A tail falls with the length `tail`, so that the density
    is one on all of R. Several targets are independent given x.
    """

    normalised = True

    def __init__(self, features: int, dim: int, bins: int, low: float, high: float, tail: float) -> None:
        super().__init__()
        self.dim, self.bins, self.low, self.high, self.tail = dim, bins, low, high, tail
        self.logits = nn.Linear(features, dim * (bins + 2))

    @override
    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        log_masses = torch.log_softmax(self.logits(h).unflatten(-1, (self.dim, self.bins + 2)), dim=-1)  # [B, D, bins]
        width = (self.high - self.low) / self.bins
        place = ((y - self.low) / width).floor().clamp(-1, self.bins).long() + 1  # 0 and bins + 1 are the tails
        masses = log_masses.transpose(-1, -2).gather(-2, place)  # [B, M, D]
        beyond = torch.relu(self.low - y) + torch.relu(y - self.high)
        inside = (place > 0) & (place <= self.bins)
        log_density = masses - torch.where(inside, math.log(width), math.log(self.tail) + beyond / self.tail)
        return log_density.sum(-1)


@register
class Histogram(WithAnyEncoder):
    """A histogram whose bins' masses are a softmax: regression as classification; a density by itself.

    Its energy is constant in y within a bin, so methods that take derivatives in y cannot train it.
    """

    name = "histogram"
    reference = "Torgo, Gama, Regression by classification, SBIA 1996"

    bins: int = Field(64, ge=1, le=100_000, description="bins between low and high")
    low: float = Field(
        -3.0, ge=-1e6, le=1e6, description="start of the first bin, in standard deviations of the target"
    )
    high: float = Field(4.0, ge=-1e6, le=1e6, description="end of the last bin, in standard deviations of the target")
    tail: float = Field(0.5, gt=0, le=1e6, description="length of the exponential tails, in standard deviations")

    @model_validator(mode="after")
    def _check(self) -> Histogram:
        if self.low >= self.high:
            raise ValueError(f"network.low={self.low} is not below network.high={self.high}")
        return self

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        return HistogramHead(features, dim, self.bins, self.low, self.high, self.tail)
