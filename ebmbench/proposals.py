"""The proposal distribution, from which the sampling methods draw candidate targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ebmbench.rng import Draws


def gaussian_log_prob(offset: Tensor, std: float) -> Tensor:
    """`log N(offset; 0, std² I)` over the last axis: `[..., D] -> [...]`."""
    dim = offset.shape[-1]
    return -0.5 * offset.square().sum(-1) / std**2 - dim * math.log(std * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class GaussianMixture:
    """`q(y|y_i) = 1/K Σ_k N(y; y_i, σ_k² I)`, centred on the target.

    Attributes:
        stds: σ_k of the K components, in units of y.
        shared: one set of noise serves the whole mini-batch (as published in 1D), or each example draws its own.
    """

    stds: tuple[float, ...]
    shared: bool

    def noise(self, name: str, y: Tensor, num_samples: int, draws: Draws, scale: float = 1.0) -> Tensor:
        """Draws from `1/K Σ_k N(0, (scale·σ_k)² I)` for targets y `[..., D]`.

        Returns `[..., M, D]`, where the batch axis (the last of `...`) has length 1 if the noise is shared.
        """
        lead = list(y.shape[:-1])
        if self.shared:
            lead[-1] = 1
        shape = (*lead, num_samples, y.shape[-1])
        component = draws.integers(f"{name}/component", shape[:-1], len(self.stds))
        stds = scale * _on_device(self.stds, y.dtype, y.device)
        return stds[component].unsqueeze(-1) * draws.normal(f"{name}/normal", shape, y.dtype)

    def log_prob(self, offset: Tensor) -> Tensor:
        """`log q` at offsets from the target: `[..., D] -> [...]`."""
        components = torch.stack([gaussian_log_prob(offset, std) for std in self.stds])
        return torch.logsumexp(components, dim=0) - math.log(len(self.stds))


@lru_cache(maxsize=64)
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copied once: a copy from the host at every step would wait for the device."""
    return torch.tensor(values, dtype=dtype, device=device)
