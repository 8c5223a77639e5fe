"""What a method loses whose optimum is the true density smoothed by noise: `KL(p ‖ p∗ν)`, for one target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

INPUTS, NODES = 64, 8192
"""Inputs over which it is a mean, and places of y for each."""


def floor(log_prob: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, stds: Sequence[float], reach: float) -> float:
    """Returns `KL(p ‖ p∗ν)` in nats, a mean over some inputs; ν is normal noise, each of its widths equally likely.

    The convolution is a product of Fourier transforms, and the integral the trapezoidal rule on even places: both
    converge geometrically for smooth densities, however small the noise is.

    Args:
        log_prob: `log p(y|x)` of x `[X, 1]` and y `[Q]`: `[X, Q]`.
        inputs: `[X]`.
        stds: standard deviations of the noise; empty for none.
        reach: p and p∗ν lie within -reach and reach.
    """
    if not len(stds):
        return 0.0
    y = torch.linspace(-reach, reach, NODES + 1, dtype=torch.float64)[:-1]
    spacing = float(y[1] - y[0])
    p = log_prob(inputs.unsqueeze(-1), y).exp()
    frequencies = 2 * torch.pi * torch.fft.rfftfreq(NODES, spacing, dtype=torch.float64)
    factor = torch.stack([torch.exp(-0.5 * (std * frequencies).square()) for std in stds]).mean(0)
    smooth = torch.fft.irfft(torch.fft.rfft(p) * factor, NODES).clamp(min=1e-30)
    terms = torch.where(p > 1e-14, p * (p.clamp(min=1e-300).log() - smooth.log()), 0.0)
    return float(terms.sum(-1).mean() * spacing)
