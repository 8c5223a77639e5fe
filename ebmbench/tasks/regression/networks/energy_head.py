"""The head of the energy networks: joins the features of x with y."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebmbench.tasks.regression.networks.encoders import Encoded
from ebmbench.tasks.regression.networks.fused_head import HeadStack, can_fuse
from ebmbench.tasks.regression.stack import Stack


class EnergyHead(nn.Module):
    """`z = tanh(A y + b + W h)`, `z ← z + tanh(V z + v)`, `f = w · z`: smooth in y, and bounded.

    The units start as steps in y: their slopes A are uniform up to `slope`, and b puts the places of the steps where
    standardised targets are.
    """

    def __init__(self, features: int, dim: int, width: int, slope: float) -> None:
        super().__init__()
        slopes = slope * (2 * torch.rand(width, dim) - 1)
        self.from_y = nn.Parameter(slopes)
        self.from_x = nn.Linear(features, width)
        with torch.no_grad():
            self.from_x.bias.copy_(-(slopes * 1.5 * torch.randn(width, dim)).sum(-1))
        self.mix = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)

    @override
    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        z = torch.tanh(y @ self.from_y.T + self.from_x(h).unsqueeze(-2))
        z = z + torch.tanh(self.mix(z))
        out: Tensor = self.out(z)
        return out.squeeze(-1)


class WithEnergyHead(Encoded):
    """A network whose head is an energy of y and the features of x; it has no normalised density by itself."""

    head_width: int = Field(32, ge=1, le=65_536, description="units of the head, which joins y with the features of x")
    slope: float = Field(3.0, gt=0, le=1000, description="largest slope in y with which a unit of the head starts")

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        return EnergyHead(features, dim, self.head_width, self.slope)

    @override
    def stack(
        self,
        x_shape: tuple[int, ...],
        dim: int,
        seeds: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        backend: str,
    ) -> Stack:
        if not can_fuse(self.head_width, dim, backend, device, dtype):
            return super().stack(x_shape, dim, seeds, device, dtype, backend)
        return HeadStack(lambda: self.build(x_shape, dim), seeds, device, dtype)
