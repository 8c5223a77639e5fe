"""Baseline: a histogram, regression as classification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.models.base import DensityModel
from ebmbench.models.networks.encoded import WithAnyEncoder, encoder_tuning

if TYPE_CHECKING:
    from torch import nn


@register
class Histogram(WithAnyEncoder, DensityModel):
    """A histogram whose bins' masses are a softmax: regression as classification; a density by itself."""

    name = "histogram"
    color, marker, order = "#44AA99", "v", 220
    tuning = encoder_tuning("model")
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
            raise ValueError(f"model.low={self.low} is not below model.high={self.high}")
        return self

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        from ebmbench.models.networks.heads import HistogramHead

        return HistogramHead(features, dim, self.bins, self.low, self.high, self.tail)
