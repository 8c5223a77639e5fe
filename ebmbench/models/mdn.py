"""Baseline: a mixture density model."""

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
class MDN(WithAnyEncoder, DensityModel):
    """A mixture density network: K Gaussians whose weights, means and variances are functions of x."""

    name = "mdn"
    color, marker, order = "#AA4499", "^", 210
    tuning = encoder_tuning("model")
    reference = "Bishop, Mixture density networks, Aston University 1994"

    components: int = Field(4, ge=1, le=1000, description="K, Gaussians in the mixture")

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        from ebmbench.models.networks.heads import MixtureHead

        return MixtureHead(features, dim, self.components)
