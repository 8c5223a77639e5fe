"""A proposal that learns: a mixture of Gaussians whose parameters are functions of x."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.proposal import Proposal
from ebmbench.core.registry import register
from ebmbench.core.step import Step

if TYPE_CHECKING:
    from torch import Tensor, nn


WIDEST = 3.0
"""Bound of a standard deviation, in units of `scale`. Nothing holds f down where no samples come: a Gaussian that is
very wide meets a high f there, is drawn to it, and grows without end. Without a bound all seeds diverged at K = 16."""


@dataclass(frozen=True)
class Mixture:
    """K Gaussians for each example: means and log variances `[..., K, D]`, logarithms of the weights `[..., K]`."""

    means: Tensor
    log_variances: Tensor
    log_weights: Tensor

    def detach(self) -> Mixture:
        """Returns the same mixture without gradients."""
        return Mixture(self.means.detach(), self.log_variances.detach(), self.log_weights.detach())

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns the log-density of `[..., M, D]`: `[..., M]`."""
        offset = y.unsqueeze(-2) - self.means.unsqueeze(-3)  # [..., M, K, D]
        scaled = (offset.square() * (-self.log_variances).exp().unsqueeze(-3)).sum(-1)
        log_norm = self.log_weights - 0.5 * (self.log_variances + math.log(2 * math.pi)).sum(-1)
        return torch.logsumexp(log_norm.unsqueeze(-2) - 0.5 * scaled, dim=-1)


@register
class Learned(Proposal):
    """`q_φ(y|x) = Σ_k w_k(x) N(y; μ_k(x), diag σ_k²(x))`, a mixture density network on the detached features of x.

    φ learns by `log 1/M Σ_m exp(f(y_m)) / q_φ(y_m)` with f and the samples held (`importance`): the gradient of
    KL(model ‖ q_φ), by the model's own importance weights. Or it learns by `−log q_φ(y_i)` (`nll`). The method's own
    loss passes no gradient to φ.

    Where q_φ puts no samples, nothing holds f down, and neither loss looks for it. Of snl with K = 1 and M = 128, two
    seeds a case: on 1D dataset 1 `importance` had D_KL 1.31 and 0.09 (for x < −1.6 the first one's mass was at y = 3,
    far from all data), `nll` 0.03 and 0.04. On dataset 2 `importance` had 0.16 and 0.21, `nll` 0.56 and 1.49. With
    K = 4 `importance` had 0.08 and 0.04 on dataset 1: take more than one Gaussian.
    """

    name = "learned"
    reference = (
        "Gustafsson, Danelljan, Schön, Learning Proposals for Practical Energy-Based Regression, AISTATS 2022; "
        "trained by nll: Singh et al., Revisiting Energy Based Models as Policies, 2023, arXiv 2309.05803"
    )

    components: int = Field(4, ge=1, le=1000, description="K, Gaussians of the mixture")
    trained_by: Literal["importance", "nll"] = Field(
        "importance", description="importance: the model's importance weights; nll: the targets' likelihood under q"
    )
    scale: float = Field(1.0, gt=0, le=1e6, description="about how wide the Gaussians are at the start, in units of y")

    @override
    def networks(self, features: int, dim: int) -> dict[str, nn.Module]:
        from ebmbench.core.own_networks import Beside

        outputs = (self.components * dim, self.components * dim, self.components)  # means, log variances, logits
        return {"proposal": Beside(features, outputs)}

    def mixture(self, y: Tensor, step: Step) -> Mixture:
        """Returns the mixtures of the mini-batch with targets y `[..., D]`."""
        dim, count = y.shape[-1], self.components
        means, log_variances, logits = step.head("proposal").to(y.dtype).split((count * dim, count * dim, count), -1)
        most = 2 * math.log(WIDEST)
        log_variances = most - torch.nn.functional.softplus(most - log_variances)  # nearly the same far below the bound
        return Mixture(
            self.scale * means.unflatten(-1, (count, dim)),
            log_variances.unflatten(-1, (count, dim)) + 2 * math.log(self.scale),
            torch.log_softmax(logits, dim=-1),
        )

    @override
    def sample(self, y: Tensor, num_samples: int, step: Step, stream: str = "proposal") -> tuple[Tensor, Tensor]:
        mixture = self.mixture(y, step).detach()
        shape = (*y.shape[:-1], num_samples, y.shape[-1])
        place = step.draws.uniform(f"{stream}/component", (*shape[:-1], 1), y.dtype)
        # The last edge is left out: rounding may leave it below one.
        edges = mixture.log_weights.exp().cumsum(-1)[..., :-1].unsqueeze(-2)
        component = (place > edges).sum(-1, keepdim=True).expand(shape)
        means, deviations = mixture.means, (0.5 * mixture.log_variances).exp()
        normal = step.draws.normal(f"{stream}/normal", shape, y.dtype)
        samples = means.gather(-2, component) + deviations.gather(-2, component) * normal
        step.kept[stream] = samples
        return samples, mixture.log_prob(samples)

    @override
    def log_prob(self, candidates: Tensor, y: Tensor, step: Step) -> Tensor:
        return self.mixture(y, step).detach().log_prob(candidates)

    @override
    def cdf(self, candidates: Tensor, y: Tensor, step: Step) -> Tensor:
        mixture = self.mixture(y, step).detach()
        unit = (candidates - mixture.means.squeeze(-1).unsqueeze(-2)) / (0.5 * mixture.log_variances).exp().squeeze(
            -1
        ).unsqueeze(-2)
        return (torch.special.ndtr(unit.double()) * mixture.log_weights.double().exp().unsqueeze(-2)).sum(-1)

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        mixture = self.mixture(y, step)
        if self.trained_by == "nll":
            return -mixture.log_prob(y.unsqueeze(-2)).squeeze(-1)
        samples = step.kept["proposal"]  # what the method drew
        with torch.no_grad():
            values = f(samples)
        return torch.logsumexp(values - mixture.log_prob(samples), dim=-1) - math.log(samples.shape[-2])
