"""The head of the energy networks: joins the features of x with y."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from ebmbench.models.networks.base import Network
from ebmbench.models.networks.encoded import Encoded

if TYPE_CHECKING:
    from torch import nn

    from ebmbench.models.stack import Place, Stack


class WithEnergyHead(Encoded, Network):
    """A network whose head is an energy of y and the features of x; it has no normalised density by itself."""

    head_width: int = Field(32, ge=1, le=65_536, description="units of the head, which joins y with the features of x")
    slope: float = Field(3.0, gt=0, le=1000, description="largest slope in y with which a unit of the head starts")
    relative: bool = Field(
        False, description="whether the head sees y relative to a place and a width that the features of x give"
    )

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        from ebmbench.models.networks.heads import EnergyHead

        return EnergyHead(features, dim, self.head_width, self.slope, self.relative)

    @override
    def stack(self, x_shape: tuple[int, ...], dim: int, place: Place) -> Stack:
        from ebmbench.models.networks.fused_head import HeadStack, can_fuse

        if not can_fuse(self.head_width, dim, place.backend, place.device, place.dtype):
            return super().stack(x_shape, dim, place)
        return HeadStack(lambda: self.build(x_shape, dim), place.seeds, place.device, place.dtype)
