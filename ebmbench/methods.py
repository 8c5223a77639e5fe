"""The seven methods that train `p(y|x) = exp f(x, y) / Z(x)`, each a loss for one example.

Equations: Gustafsson, Danelljan, Timofte, Schön, "How to Train Your Energy-Based Model for Regression", BMVC 2020
(arXiv 2005.01698). `f` is the unnormalised log-density. A loss takes the energy of a mini-batch, its targets
`y [..., D]` and the step's random draws, and returns one number per example, `[...]`. It knows nothing of networks,
images or grids: one implementation serves every task. All is computed in log space.

A method's fields are what it needs, and the configuration holds it to them: `num_samples` and `langevin_steps` come
from `method`, `proposal` from `proposal`, and `sigma`, `beta` and `langevin_step` from `noise`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ebmbench.energy import Energy
from ebmbench.langevin import langevin, ran_away
from ebmbench.proposals import GaussianMixture, gaussian_log_prob
from ebmbench.rng import Draws


class Method(Protocol):
    """A training method: frozen hyper-parameters and a loss."""

    def loss(self, f: Energy, y: Tensor, draws: Draws) -> Tensor:
        """The loss of each example: targets `[..., D] -> [...]`."""
        ...


def _energies(f: Energy, target: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """`f` at the targets `[..., D]` and at their samples `[..., M, D]`, in one pass: `[...]` and `[..., M]`."""
    values = f(torch.cat((target.unsqueeze(-2), samples), dim=-2))
    return values[..., 0], values[..., 1:]


def _log_partition(values: Tensor, log_q: Tensor) -> Tensor:
    """The importance-sampling estimate `log 1/M Σ_m exp(f_m) / q_m`: `[..., M] -> [...]`."""
    return torch.logsumexp(values - log_q, dim=-1) - math.log(values.shape[-1])


@dataclass(frozen=True)
class MLIS:
    """Maximum likelihood, the partition function by importance sampling: `log Ẑ − f(y_i)`.

    Biased for small M (the log of an unbiased estimate), and of high variance where q misses the model's mass.
    """

    proposal: GaussianMixture
    num_samples: int

    def loss(self, f: Energy, y: Tensor, draws: Draws) -> Tensor:
        noise = self.proposal.noise("proposal", y, self.num_samples, draws)
        target, values = _energies(f, y, y.unsqueeze(-2) + noise)
        return _log_partition(values, self.proposal.log_prob(noise)) - target


@dataclass(frozen=True)
class KLDIS:
    """KL divergence from `p = N(y_i, σ² I)` to the model, both terms by importance sampling.

    `log Ẑ − 1/M Σ_m f(y_m) p(y_m)/q(y_m)`. Its optimum is the data's density smoothed by σ.
    """

    proposal: GaussianMixture
    num_samples: int
    sigma: float

    def loss(self, f: Energy, y: Tensor, draws: Draws) -> Tensor:
        return self.loss_and_underflows(f, y, draws)[0]

    def loss_and_underflows(self, f: Energy, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The loss, and whether the weights p/q of all samples of an example are zero: targets `[..., D] -> [...]`.

        No sample came near the target then, and the loss is `log Ẑ` alone: nothing pulls f up there. That zero belongs
        in the mean, which would be biased without it; but it is counted, for it says that the estimate is poor.
        """
        noise = self.proposal.noise("proposal", y, self.num_samples, draws)
        values = f(y.unsqueeze(-2) + noise)
        log_q = self.proposal.log_prob(noise)
        weights = (gaussian_log_prob(noise, self.sigma) - log_q).exp()  # p/q, bounded by K (σ_k/σ)^D
        loss = _log_partition(values, log_q) - (weights * values).mean(-1)
        return loss, (weights.amax(-1) == 0).expand(y.shape[:-1])


@dataclass(frozen=True)
class MLMCMC:
    """Maximum likelihood, the model's own samples by L Langevin steps from the target: `mean_m f(y_m^(L)) − f(y_i)`.

    Short chains stay near the target, so the model's mass elsewhere is not seen, nor pushed down.
    """

    num_samples: int
    langevin_steps: int
    langevin_step: float

    def loss(self, f: Energy, y: Tensor, draws: Draws) -> Tensor:
        start = y.unsqueeze(-2).expand(*y.shape[:-1], self.num_samples, y.shape[-1])
        samples = langevin(f, start, self.langevin_steps, self.langevin_step, draws)
        target, values = _energies(f, y, samples)
        # f may be finite even at infinity: a chain that ran away makes the loss nan, which stops its seed there.
        return values.masked_fill(ran_away(start, samples), torch.nan).mean(-1) - target


@dataclass(frozen=True)
class NCE:
    """Noise contrastive estimation: tell the target among M samples of q, with logits `f − log q`."""

    proposal: GaussianMixture
    num_samples: int

    def loss(self, f: Energy, y: Tensor, draws: Draws) -> Tensor:
        noise = self.proposal.noise("proposal", y, self.num_samples, draws)
        return _nce_loss(f, y, torch.zeros_like(noise[..., :1, :]), noise, self.proposal)


@dataclass(frozen=True)
class NCEPlus:
    """NCE with noise on the annotation: the target is `y_i + ν`, `ν ~ 1/K Σ_k N(0, (βσ_k)² I)`.

    The logits still use q of the samples, with σ_k and not βσ_k. Its optimum is the data's density smoothed by ν.
    """

    proposal: GaussianMixture
    num_samples: int
    beta: float

    def loss(self, f: Energy, y: Tensor, draws: Draws) -> Tensor:
        noise = self.proposal.noise("proposal", y, self.num_samples, draws)
        shift = self.proposal.noise("annotation", y, 1, draws, scale=self.beta)
        return _nce_loss(f, y, shift, noise, self.proposal)


def _nce_loss(f: Energy, y: Tensor, shift: Tensor, noise: Tensor, q: GaussianMixture) -> Tensor:
    """`−log softmax` of the entry `y + shift` (`[..., 1, D]`) among itself and `y + noise` (`[..., M, D]`)."""
    offset = torch.cat((shift, noise), dim=-2)
    logits = f(y.unsqueeze(-2) + offset) - q.log_prob(offset)
    return -torch.log_softmax(logits, dim=-1)[..., 0]


@dataclass(frozen=True)
class SM:
    """Score matching (Hyvärinen, 2005): `tr ∂²f/∂y² + ½ ‖∂f/∂y‖²` at the target.

    A piecewise linear network has no curvature that autograd could see: use a smooth activation.
    """

    def loss(self, f: Energy, y: Tensor, draws: Draws) -> Tensor:
        with torch.enable_grad():
            point = y.detach().unsqueeze(-2).requires_grad_()
            score = f.grad(point, create_graph=True)
            trace = torch.zeros_like(score[..., 0])
            for d in range(y.shape[-1]):
                # Where f is linear in y the score does not depend on it: its derivative is zero, not an error.
                row = torch.autograd.grad(score[..., d].sum(), point, create_graph=True, materialize_grads=True)[0]
                trace = trace + row[..., d]
        return (trace + 0.5 * score.square().sum(-1)).squeeze(-1)


@dataclass(frozen=True)
class DSM:
    """Denoising score matching (Vincent, 2011): `mean_m ‖∂f/∂y(ỹ_m) + (ỹ_m − y_i)/σ²‖²`, `ỹ_m ~ N(y_i, σ² I)`.

    Its optimum is the data's density smoothed by σ.
    """

    num_samples: int
    sigma: float

    def loss(self, f: Energy, y: Tensor, draws: Draws) -> Tensor:
        shape = (*y.shape[:-1], self.num_samples, y.shape[-1])
        noise = self.sigma * draws.normal("denoising", shape, y.dtype)
        score = f.grad(y.unsqueeze(-2) + noise, create_graph=True)
        return (score + noise / self.sigma**2).square().sum(-1).mean(-1)


METHODS: dict[str, type[Method]] = {
    "ml-is": MLIS,
    "ml-mcmc": MLMCMC,
    "kld-is": KLDIS,
    "nce": NCE,
    "nce+": NCEPlus,
    "sm": SM,
    "dsm": DSM,
}
"""The methods by the names that users type."""
