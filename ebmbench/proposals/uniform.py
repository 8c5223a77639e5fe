"""The uniform distribution over a support."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator
from typing_extensions import override

from ebmbench.core.proposal import Proposal
from ebmbench.core.registry import register
from ebmbench.core.step import Step

if TYPE_CHECKING:
    from torch import Tensor


@register
class Uniform(Proposal):
    """`q(y) = 1 / (high − low)^D` on [low, high]^D, whatever x and the target are.

    `log q` is the same constant outside, so that a target there has a finite logit; it cancels in nce, as in implicit
    behavioural cloning.
    """

    name = "uniform"
    reference = "Florence et al., Implicit Behavioral Cloning, CoRL 2021"

    low: float = Field(-3.0, ge=-1e6, le=1e6, description="lower end of the support in each dimension, in units of y")
    high: float = Field(3.0, ge=-1e6, le=1e6, description="upper end of the support in each dimension, in units of y")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"proposal.low={self.low:g} is not allowed: it must be below proposal.high={self.high:g}")
        return self

    @override
    def support(self) -> tuple[float, float]:
        return self.low, self.high

    @override
    def sample(self, y: Tensor, num_samples: int, step: Step, stream: str = "proposal") -> tuple[Tensor, Tensor]:
        unit = step.draws.uniform(stream, (*y.shape[:-1], num_samples, y.shape[-1]), y.dtype)
        samples = self.low + (self.high - self.low) * unit
        return samples, self.log_prob(samples, y, step)

    @override
    def log_prob(self, candidates: Tensor, y: Tensor, step: Step) -> Tensor:
        log_q = -candidates.shape[-1] * math.log(self.high - self.low)
        return candidates.new_full(candidates.shape[:-1], log_q)

    @override
    def cdf(self, candidates: Tensor, y: Tensor, step: Step) -> Tensor:
        return ((candidates.squeeze(-1).double() - self.low) / (self.high - self.low)).clamp(0, 1)
