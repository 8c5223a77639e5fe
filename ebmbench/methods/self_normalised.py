"""Methods that learn the log of the partition function beside the model, by a network b(x) of their own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.registry import register
from ebmbench.core.step import Step
from ebmbench.methods.base import Sampling, energies, log_partition

if TYPE_CHECKING:
    from torch import Tensor, nn

LINEAR_FROM = 20.0
"""The exponential of snl goes on as a straight line from here: float32 overflows at 88, a gradient's square at 44."""


class SelfNormalised(Sampling):
    """A method with a network b(x) of two layers, which learns `log Z(x)`."""

    @override
    def networks(self, features: int, dim: int) -> dict[str, nn.Module]:
        layers = torch.nn.Linear(features, features), torch.nn.ReLU(), torch.nn.Linear(features, 1)
        return {"log_normaliser": torch.nn.Sequential(*layers)}

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        """Returns `b(x) − f(y_i) + Z(x)/exp b(x) − 1`, to which both methods come with many samples: `[...]`."""
        assert step.log_partition is not None, "the task has no exact log Z"
        b = step.head("log_normaliser").squeeze(-1)
        return b - f(y.unsqueeze(-2)).squeeze(-1) + (step.log_partition(f) - b).exp() - 1


@register
class NCEBinary(SelfNormalised):
    """Binary noise contrastive estimation: `−log σ(G(y_i)) − Σ_m log σ(−G(y_m))`, `G = f − b(x) − log(M q)`.

    Each point is classified alone, as data or noise. The optimum has `f − b(x) = log p(y|x)`, so b(x) learns log Z.
    """

    name = "nce-binary"
    reference = "Gutmann and Hyvärinen, Noise-contrastive estimation, AISTATS 2010"
    color, marker, order = "#8C510A", "p", 25

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        candidates, log_q = step.q().beside_target(y, self.num_samples, step)
        logits = f(candidates) - step.head("log_normaliser") - log_q - math.log(self.num_samples)
        log_sigmoid = torch.nn.functional.logsigmoid
        return -log_sigmoid(logits[..., 0]) - log_sigmoid(-logits[..., 1:]).sum(-1)


@register
class SNL(SelfNormalised):
    """Self-normalised likelihood: `b(x) − f(y_i) + 1/M Σ_m exp(f(y_m) − b(x)) / q(y_m) − 1`.

    It bounds the negative log-likelihood from above, and is equal to it where `b(x) = log Z(x)`. Its gradient is
    unbiased for every M. Where the mean `exp(log Ẑ − b)` would overflow, it goes on as its tangent.

    b(x) has to follow log Z, which is slow: in 1D snl takes a higher learning rate than the published 1e-3. Of its
    eight trials for each dataset (results/extended_1d/trials.csv) the four with 3.4e-3 or more have the best
    validation NLL.
    """

    name = "snl"
    reference = (
        "Senetaire, Jeha, Mattei, Frellsen, Learning Energy-Based Models by Self-normalising the Likelihood, 2025, "
        "arXiv 2503.07021"
    )
    color, marker, order = "#332288", "<", 35
    counters = {  # noqa: RUF012
        "overflows": "b(x) was far below the log of the partition function for {count} examples, whose loss was taken "
        "linear there; a lower trainer.learning_rate or a larger method.num_samples avoids it"
    }

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        samples, log_q = step.q().sample(y, self.num_samples, step)
        target, values = energies(f, y, samples)
        b = step.head("log_normaliser").squeeze(-1)
        excess = log_partition(values, log_q) - b
        step.count("overflows", excess > LINEAR_FROM)
        low = excess.clamp(max=LINEAR_FROM)
        return b - target + low.exp() * (1 + (excess - low)) - 1
