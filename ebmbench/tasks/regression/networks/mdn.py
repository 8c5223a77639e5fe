"""Baseline: a mixture density network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.tasks.regression.networks.encoded import WithAnyEncoder

if TYPE_CHECKING:
    from torch import nn


@register
class MDN(WithAnyEncoder):
    """A mixture density network: K Gaussians whose weights, means and variances are functions of x."""

    name = "mdn"
    reference = "Bishop, Mixture density networks, Aston University 1994"

    components: int = Field(4, ge=1, le=1000, description="K, Gaussians in the mixture")

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        from ebmbench.tasks.regression.networks.heads import MixtureHead

        return MixtureHead(features, dim, self.components)
