"""The mixture of Gaussians around the target."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.proposal import Proposal
from ebmbench.core.registry import register
from ebmbench.core.step import Step

if TYPE_CHECKING:
    from torch import Tensor


def gaussian_log_prob(offset: Tensor, std: float) -> Tensor:
    """Returns `log N(offset; 0, std² I)` over the last axis: `[..., D] -> [...]`."""
    dim = offset.shape[-1]
    return -0.5 * offset.square().sum(-1) / std**2 - dim * math.log(std * math.sqrt(2 * math.pi))


@register
class GaussianMixture(Proposal):
    """`q(y|y_i) = 1/K Σ_k N(y; y_i, σ_k² I)`, centred on the target."""

    name = "mixture"
    reference = "Gustafsson et al., BMVC 2020"
    tuning = {"proposal.stds": [[0.05, 0.4], [0.1, 0.8], [0.2, 1.6], [0.05, 0.2, 0.8]]}  # noqa: RUF012

    stds: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(
        (0.05, 0.2, 0.8, 3.0), min_length=1, max_length=1000, description="σ_k of the K components, in units of y"
    )
    shared: bool = Field(False, description="one set of noise for the whole mini-batch, or its own for each example")

    @override
    def sample(self, y: Tensor, num_samples: int, step: Step, stream: str = "proposal") -> tuple[Tensor, Tensor]:
        noise = self.noise(stream, y, num_samples, step)
        return y.unsqueeze(-2) + noise, self.offset_log_prob(noise)

    @override
    def sample_offsets(self, y: Tensor, num_samples: int, step: Step) -> tuple[Tensor, Tensor]:
        noise = self.noise("proposal", y, num_samples, step)
        return noise, self.offset_log_prob(noise)

    @override
    def log_prob(self, candidates: Tensor, y: Tensor, step: Step) -> Tensor:
        return self.offset_log_prob(candidates - y.unsqueeze(-2))

    @override
    def cdf(self, candidates: Tensor, y: Tensor, step: Step) -> Tensor:
        offset = (candidates - y.unsqueeze(-2)).squeeze(-1).double()
        return torch.stack([torch.special.ndtr(offset / std) for std in self.stds]).mean(0)

    @override
    def beside_target(self, y: Tensor, num_samples: int, step: Step, beta: float = 0.0) -> tuple[Tensor, Tensor]:
        # log q of the offsets themselves: `(y + offset) − y` is rounded.
        noise = self.noise("proposal", y, num_samples, step)
        shift = self.noise("annotation", y, 1, step, beta) if beta else torch.zeros_like(noise[..., :1, :])
        offset = torch.cat((shift, noise), dim=-2)
        return y.unsqueeze(-2) + offset, self.offset_log_prob(offset)

    def noise(self, stream: str, y: Tensor, num_samples: int, step: Step, scale: float = 1.0) -> Tensor:
        """Draws from `1/K Σ_k N(0, (scale·σ_k)² I)` for targets y `[..., D]`.

        Returns:
            `[..., M, D]`. The batch axis (the last of `...`) has length 1 if the noise is shared.
        """
        lead = list(y.shape[:-1])
        if self.shared:
            lead[-1] = 1
        shape = (*lead, num_samples, y.shape[-1])
        component = step.draws.integers(f"{stream}/component", shape[:-1], len(self.stds))
        stds = scale * _on_device(self.stds, y.dtype, y.device)
        return stds[component].unsqueeze(-1) * step.draws.normal(f"{stream}/normal", shape, y.dtype)

    def offset_log_prob(self, offset: Tensor) -> Tensor:
        """Returns `log q` at offsets from the target: `[..., D] -> [...]`."""
        components = torch.stack([gaussian_log_prob(offset, std) for std in self.stds])
        return torch.logsumexp(components, dim=0) - math.log(len(self.stds))


@lru_cache(maxsize=64)
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copies once: a copy from the host at every step would wait for the device."""
    return torch.tensor(values, dtype=dtype, device=device)
