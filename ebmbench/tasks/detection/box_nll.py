"""The negative log-likelihood of a true box, its partition function by importance sampling.

The density is that of relative coordinates y within ±1 of the true box (see `head`), `exp f(y) / Z` on the cube
`[−1, 1]^4`: centres no farther than one width and height away, sizes between 1/e and e times the true ones. What
the model holds possible outside is not counted, and a density per pixel would be another number. Then

    NLL = log Z − f(0),    Z = ∫_{[−1, 1]^4} exp f(y) dy = E_q[exp f(y) / q(y)].

The proposal q is a mixture of the uniform density on the cube and of normals around the true box cut to the cube.
Cut means normalised on it: along an axis component σ has density `N(y; 0, σ²) / (2Φ(1/σ) − 1)`, and is drawn by
inverting its distribution function, so no draw is rejected and q is exact. The uniform part bounds the weights
`exp f / q` by `16 exp(max f) / share`, so their variance is finite whatever f is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmbench.core.energy import Energy
from ebmbench.core.rng import Draws

STDS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Of the proposal's normal components: from sharper than any trained head to as wide as the cube."""


@dataclass(frozen=True)
class BoxNLL:
    """Per true box, all `[N]` float64.

    Attributes:
        nll: `log Ẑ − f(0)` in nats, of the density in relative coordinates. Ẑ is unbiased; its logarithm is low by
            about half the square of `error`.
        ess: effective sample size `(Σ w)² / Σ w²` of the importance weights, at most the number of samples; where it
            is a handful, the box's NLL is not to be trusted.
        error: standard error of the NLL by the delta method.
    """

    nll: Tensor
    ess: Tensor
    error: Tensor


@torch.no_grad()
def box_nll(
    f: Energy, count: int, draws: Draws, num_samples: int = 1024, stds: Sequence[float] = STDS, uniform: float = 0.2
) -> BoxNLL:
    """The NLL of each true box.

    Args:
        f: the energy of N true boxes in coordinates relative to them, the true boxes at 0.
        count: N.
        draws: of one seed, unstacked.
        num_samples: importance samples per box.
        stds: of the proposal's normal components.
        uniform: the proposal's share of the uniform density; the normals share the rest equally.
    """
    y, log_weights = weighted_draws(f, count, draws, num_samples, stds, uniform)
    target = f(torch.zeros_like(y[:, :1], dtype=torch.float32))[:, 0].double()
    log_sum = torch.logsumexp(log_weights, dim=1)
    ess = torch.exp(2 * log_sum - torch.logsumexp(2 * log_weights, dim=1))
    return BoxNLL(
        nll=log_sum - math.log(num_samples) - target,
        ess=ess,
        error=(1 / ess - 1 / num_samples).clamp(min=0).sqrt(),
    )


@torch.no_grad()
def weighted_draws(
    f: Energy, count: int, draws: Draws, num_samples: int, stds: Sequence[float] = STDS, uniform: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Returns draws of q for each true box, `[N, M, 4]`, and the logarithms of their weights `exp f / q`, `[N, M]`."""
    y = _sample(draws, count, num_samples, stds, uniform)
    return y, f(y.float()).double() - proposal_log_prob(y, stds, uniform)


def proposal_log_prob(y: Tensor, stds: Sequence[float], uniform: float) -> Tensor:
    """`log q(y)` on the cube: `[..., 4] -> [...]`, float64."""
    y = y.double()
    dim = y.shape[-1]
    parts = [y.new_full(y.shape[:-1], math.log(uniform) - dim * math.log(2.0))]
    for std in stds:
        inside = math.erf(1 / (std * math.sqrt(2)))
        constant = math.log((1 - uniform) / len(stds)) - dim * math.log(std * math.sqrt(2 * math.pi) * inside)
        parts.append(constant - 0.5 * (y / std).square().sum(-1))
    return torch.logsumexp(torch.stack(parts), dim=0)


def _sample(draws: Draws, count: int, num_samples: int, stds: Sequence[float], uniform: float) -> Tensor:
    """Draws of q: `[count, num_samples, 4]` float64."""
    shape = (count, num_samples)
    place = draws.uniform("box_nll/place", (*shape, 4), torch.float64)
    which = draws.uniform("box_nll/component", shape, torch.float64)
    component = ((which - uniform) / (1 - uniform) * len(stds)).floor().long().clamp(max=len(stds) - 1)
    std = torch.tensor(stds, dtype=torch.float64, device=place.device)[component.clamp(min=0)][..., None]
    # Φ(y/σ) is uniform on (Φ(−1/σ), Φ(1/σ)): y = σ √2 erfinv((2u − 1) erf(1 / (σ √2))).
    normal = std * math.sqrt(2) * torch.erfinv((2 * place - 1) * torch.erf(1 / (std * math.sqrt(2))))
    return torch.where(which[..., None] < uniform, 2 * place - 1, normal.clamp(-1, 1))
