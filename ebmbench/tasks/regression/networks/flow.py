"""Baseline: a conditional neural spline flow, from the package zuko."""

from __future__ import annotations

from typing import Any, cast

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.registry import register
from ebmbench.tasks.regression.networks.encoders import WithAnyEncoder


class FlowHead(nn.Module):
    """`log p(y|x)` of a neural spline flow whose splines are functions of the features of x."""

    normalised = True

    def __init__(self, features: int, dim: int, transforms: int, bins: int, width: int) -> None:
        super().__init__()
        self.flow = _zuko().flows.NSF(dim, features, bins=bins, transforms=transforms, hidden_features=(width, width))

    @override
    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        return cast(Tensor, self.flow(h.unsqueeze(-2)).log_prob(y))


def _zuko() -> Any:
    try:
        import zuko
    except ImportError:
        raise UserError("network=flow needs the package zuko: pip install 'ebmbench[baselines]'") from None
    return zuko


@register
class Flow(WithAnyEncoder):
    """A conditional neural spline flow; a density by itself, normal far from the targets."""

    name = "flow"
    reference = "Durkan, Bekasov, Murray, Papamakarios, Neural spline flows, NeurIPS 2019"

    transforms: int = Field(2, ge=1, le=100, description="splines, one after the other")
    bins: int = Field(8, ge=2, le=1000, description="pieces of a spline")
    head_width: int = Field(32, ge=1, le=65_536, description="units of the two layers that give a spline")

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        return FlowHead(features, dim, self.transforms, self.bins, self.head_width)
