"""The network for tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebmbench.core.errors import UserError
from ebmbench.core.registry import register
from ebmbench.tasks.regression.networks.base import Network

UNITS = 32
"""Of the joint layers."""


@register
class MLP(Network):
    """Two hidden layers for x; units tanh(a·y + b + W h(x)) for y, one residual layer, and a linear one."""

    name = "mlp"

    def build(self, x_shape: tuple[int, ...], dim: int) -> nn.Module:
        if len(x_shape) != 1:
            raise UserError(f"network=mlp takes a row of features, not inputs of shape {x_shape}")
        return _MLP(x_shape[0], dim)


class _MLP(nn.Module):
    num_features = 50

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        width = self.num_features
        self.encoder = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.from_x = nn.Linear(width, UNITS)
        direction = nn.functional.normalize(torch.randn(UNITS, dim), dim=1)
        self.slopes = nn.Parameter(direction * torch.empty(UNITS, 1).uniform_(0.5, 3.0))
        with torch.no_grad():
            self.from_x.bias.copy_(-(self.slopes * torch.empty(UNITS, dim).uniform_(-2, 2)).sum(1))
        self.hidden = nn.Linear(UNITS, UNITS)
        self.out = nn.Linear(UNITS, 1)

    def encode(self, x: Tensor) -> Tensor:
        result: Tensor = self.encoder(x)
        return result

    def energy(self, h: Tensor, y: Tensor) -> Tensor:
        z = torch.tanh(y @ self.slopes.T + self.from_x(h).unsqueeze(1))
        z = z + torch.tanh(self.hidden(z))
        result: Tensor = self.out(z).squeeze(-1)
        return result
