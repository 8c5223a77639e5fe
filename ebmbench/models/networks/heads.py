"""The modules that join the features of x with y: each maps h `[B, F]` and y `[B, M, D]` to f `[B, M]`."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebmbench.core.errors import UserError

LOWEST_LOG_VARIANCE = -20.0
"""Keeps float32 finite where targets are known exactly; a standard deviation of 4.5e-5 of the target's own."""


class EnergyHead(nn.Module):
    """`z = tanh(A u + b + W h)`, `z ← z + tanh(V z + v)`, `f = w · z`: smooth in y, and bounded.

    u is y, or y in a frame of its own for each x: `u = (y - m(x)) exp s(x)`, with m and s linear in the features. The
    noise may be ten times smaller at one x than at another, and A, which is the same for every x, cannot say so.

    The units start as steps in y: their slopes A are uniform up to `slope`, and b puts the places of the steps where
    standardised targets are. m and s start at 0.
    """

    def __init__(self, features: int, dim: int, width: int, slope: float, relative: bool) -> None:
        super().__init__()
        slopes = slope * (2 * torch.rand(width, dim) - 1)
        self.from_y = nn.Parameter(slopes)
        self.from_x = nn.Linear(features, width)
        with torch.no_grad():
            self.from_x.bias.copy_(-(slopes * 1.5 * torch.randn(width, dim)).sum(-1))
        self.mix = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        self.frame = nn.Linear(features, 2 * dim) if relative else None
        if self.frame is not None:
            nn.init.zeros_(self.frame.weight)
            nn.init.zeros_(self.frame.bias)

    @override
    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        if self.frame is not None:
            place, scale = frame(self.frame(h))
            y = (y - place) * scale
        z = torch.tanh(y @ self.from_y.T + self.from_x(h).unsqueeze(-2))
        z = z + torch.tanh(self.mix(z))
        out: Tensor = self.out(z)
        return out.squeeze(-1)


def frame(of_x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns m and `exp s` of the frame `u = (y - m) exp s`: m and s `[..., 2 D]` -> twice `[..., 1, D]`."""
    place, log_scale = of_x.unsqueeze(-2).chunk(2, dim=-1)
    return place, log_scale.clamp(max=-0.5 * LOWEST_LOG_VARIANCE).exp()


class GaussianHead(nn.Module):
    """`log N(y; μ(x), diag σ²(x))`, from a linear layer that gives μ and log σ² in each dimension."""

    normalised = True

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(features, 2 * dim)

    @override
    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        mean, log_variance = self.out(h).unsqueeze(-2).chunk(2, dim=-1)
        log_variance = log_variance.clamp(min=LOWEST_LOG_VARIANCE)
        squares = (y - mean).square() * (-log_variance).exp()
        return -0.5 * (squares + log_variance + math.log(2 * math.pi)).sum(-1)


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


class MixtureHead(nn.Module):
    """`log Σ_k π_k(x) N(y; μ_k(x), diag σ_k²(x))`, from a linear layer that gives all of π, μ and log σ²."""

    normalised = True

    def __init__(self, features: int, dim: int, components: int) -> None:
        super().__init__()
        self.components = components
        self.log_weights = nn.Linear(features, components)
        self.means = nn.Linear(features, components * dim)
        self.log_variances = nn.Linear(features, components * dim)
        with torch.no_grad():  # components that start alike would learn alike
            self.means.bias.copy_(torch.randn(components * dim))

    @override
    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        shape = (self.components, -1)
        log_weights = torch.log_softmax(self.log_weights(h), dim=-1).unsqueeze(-2)
        means = self.means(h).unflatten(-1, shape).unsqueeze(-3)
        log_variances = self.log_variances(h).unflatten(-1, shape).unsqueeze(-3).clamp(min=LOWEST_LOG_VARIANCE)
        squares = (y.unsqueeze(-2) - means).square() * (-log_variances).exp()
        log_normals = -0.5 * (squares + log_variances + math.log(2 * math.pi)).sum(-1)
        return torch.logsumexp(log_weights + log_normals, dim=-1)


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
        raise UserError("model=flow needs the package zuko: pip install 'ebmbench[baselines]'") from None
    return zuko
