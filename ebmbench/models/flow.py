"""Baseline: a conditional neural spline flow, from the package zuko."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.models.base import DensityModel
from ebmbench.models.networks.encoded import WithAnyEncoder, encoder_tuning

if TYPE_CHECKING:
    from torch import nn


@register
class Flow(WithAnyEncoder, DensityModel):
    """A conditional neural spline flow; a density by itself, normal far from the targets."""

    name = "flow"
    color, marker, order = "#117733", "D", 230
    tuning = encoder_tuning("model")
    reference = "Durkan, Bekasov, Murray, Papamakarios, Neural spline flows, NeurIPS 2019"

    transforms: int = Field(2, ge=1, le=100, description="splines, one after the other")
    bins: int = Field(8, ge=2, le=1000, description="pieces of a spline")
    head_width: int = Field(32, ge=1, le=65_536, description="units of the two layers that give a spline")

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        from ebmbench.models.networks.heads import FlowHead

        return FlowHead(features, dim, self.transforms, self.bins, self.head_width)
