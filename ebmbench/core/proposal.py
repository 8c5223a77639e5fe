"""What a proposal is: the distribution from which the sampling methods draw candidate targets."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from ebmbench.core.energy import Energy
from ebmbench.core.errors import UserError
from ebmbench.core.settings import Component
from ebmbench.core.step import Step

if TYPE_CHECKING:
    from torch import Tensor, nn


class Proposal(Component):
    """A distribution `q(y | x_i, y_i)` over targets, with samples and a log-density. Its fields are its settings.

    A subclass sets `name` and defines `sample` and `log_prob`. A learned one also defines `networks` and `loss`.
    """

    group: ClassVar[str] = "proposal"
    name: ClassVar[str]
    reference: ClassVar[str] = ""

    @abstractmethod
    def sample(self, y: Tensor, num_samples: int, step: Step, stream: str = "proposal") -> tuple[Tensor, Tensor]:
        """Draws M samples for each example.

        Args:
            y: the targets, `[..., D]`.
            stream: names the random numbers; another name gives independent samples.

        Returns:
            Samples `[..., M, D]` and their `log q`, `[..., M]`. The batch axis (the last of `...`) has length 1 where
            one set of offsets serves the whole mini-batch, for the `log q`.
        """

    @abstractmethod
    def log_prob(self, candidates: Tensor, y: Tensor, step: Step) -> Tensor:
        """Returns `log q` of candidates `[..., M, D]` for targets `[..., D]`: `[..., M]`."""

    def cdf(self, candidates: Tensor, y: Tensor, step: Step) -> Tensor:
        """Returns the distribution function of q, for one target: candidates `[..., M, 1]` -> `[..., M]`.

        Targets that are integers need it, for the probabilities of draws that are rounded.
        """
        raise UserError(f"proposal={self.registered()} has no cdf, which support=integers needs; use proposal=mixture")

    def support(self) -> tuple[float, float]:
        """Returns the interval on which `log_prob` is a density, in each dimension; outside it says nothing."""
        return -math.inf, math.inf

    def sample_offsets(self, y: Tensor, num_samples: int, step: Step) -> tuple[Tensor, Tensor]:
        """Draws M samples for each example as `sample` does, and returns their offsets from the target instead.

        A proposal that is centred on the target knows them exactly: `(y + offset) − y` is rounded.
        """
        samples, log_q = self.sample(y, num_samples, step)
        return samples - y.unsqueeze(-2), log_q

    def beside_target(self, y: Tensor, num_samples: int, step: Step, beta: float = 0.0) -> tuple[Tensor, Tensor]:
        """Returns the target and M samples beside it, `[..., 1 + M, D]`, and the `log q` of all, `[..., 1 + M]`.

        Args:
            beta: the scale of the noise `ν = β (ỹ − y_i)`, `ỹ ~ q`, that moves the target (nce+); 0 adds none.
        """
        samples, log_q = self.sample(y, num_samples, step)
        target = y.unsqueeze(-2)
        if beta:
            target = target + beta * (self.sample(y, 1, step, "annotation")[0] - target)
        target_log_q = self.log_prob(target, y, step)
        return (
            torch.cat((target, samples), dim=-2),
            torch.cat((target_log_q, log_q.expand(*target_log_q.shape[:-1], -1)), dim=-1),
        )

    def networks(self, features: int, dim: int) -> dict[str, nn.Module]:
        """Returns the proposal's own networks, each a map of the features of x `[..., features]`.

        They train with the model. `step.head(name)` gives their output.
        """
        return {}

    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        """Returns what a learned proposal adds to the loss of each example, `[...]`; None if it learns nothing.

        It must not pass a gradient to f: the model learns from the method alone.
        """
        return None
