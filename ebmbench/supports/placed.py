"""Proposals on a support: draws of any proposal, moved into it, with the log-density that they have there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from pydantic import ConfigDict
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.proposal import Proposal
from ebmbench.core.step import Step
from ebmbench.supports.targets import Axis, is_one_of

if TYPE_CHECKING:
    from torch import Tensor, nn


class Placed(Proposal):
    """A proposal on the support of one target: wrapped, mirrored or rounded, and an atom is drawn with its share."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    inner: Proposal
    axis: Axis

    @staticmethod
    def on(proposal: Proposal, axis: Axis) -> Proposal:
        """Returns the proposal, or one on the support where draws have to be moved."""
        return Placed.model_construct(inner=proposal, axis=axis) if axis.support.moves_draws else proposal

    def _placed(self, z: Tensor) -> Tensor:
        return self.axis.support.place(z, self.axis.mean, self.axis.std)

    @override
    def log_prob(self, candidates: Tensor, y: Tensor, step: Step) -> Tensor:
        axis, inner = self.axis, self.inner
        found = axis.support.placed_log_prob(
            lambda z: inner.log_prob(z.to(y.dtype).unsqueeze(-1), y, step),
            lambda z: inner.cdf(z.to(y.dtype).unsqueeze(-1), y, step),
            candidates.squeeze(-1),
            axis.mean,
            axis.std,
        )
        if not axis.shares:
            return found
        found = found + math.log1p(-sum(axis.shares))
        for share, place in zip(axis.shares, axis.atoms.tolist(), strict=True):
            one = is_one_of(candidates.squeeze(-1), candidates.new_tensor([place]))
            found = torch.where(one, math.log(share), found)
        return found

    def _with_atoms(self, z: Tensor, step: Step, stream: str) -> Tensor:
        """Returns draws `[..., M, 1]`, some of which are atoms."""
        if not self.axis.shares:
            return z
        place = step.draws.uniform(f"{stream}/atom", tuple(z.shape), z.dtype)
        end = 0.0
        for share, atom in zip(self.axis.shares, self.axis.atoms.tolist(), strict=True):
            z = torch.where((place >= end) & (place < end + share), atom, z)
            end += share
        return z

    @override
    def sample(self, y: Tensor, num_samples: int, step: Step, stream: str = "proposal") -> tuple[Tensor, Tensor]:
        drawn, _ = self.inner.sample(y, num_samples, step, stream)
        drawn = self._with_atoms(self._placed(drawn), step, stream)
        return drawn, self.log_prob(drawn, y, step)

    @override
    def sample_offsets(self, y: Tensor, num_samples: int, step: Step) -> tuple[Tensor, Tensor]:
        drawn, log_q = self.sample(y, num_samples, step)
        offset = drawn - y.unsqueeze(-2)
        return (self._placed(offset) if self.axis.support.turn else offset), log_q

    @override
    def beside_target(self, y: Tensor, num_samples: int, step: Step, beta: float = 0.0) -> tuple[Tensor, Tensor]:
        candidates, _ = self.inner.beside_target(y, num_samples, step, beta)
        target, drawn = candidates[..., :1, :], candidates[..., 1:, :]
        still = y.unsqueeze(-2)
        if not self.axis.support.discrete:  # noise moves no atom
            target = torch.where(self.axis.is_point(still), still, self._placed(target))
        else:
            target = self._placed(target)
        drawn = self._with_atoms(self._placed(drawn), step, "proposal")
        candidates = torch.cat((target, drawn), dim=-2)
        return candidates, self.log_prob(candidates, y, step)

    @override
    def networks(self, features: int, dim: int) -> dict[str, nn.Module]:
        return self.inner.networks(features, dim)

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        return self.inner.loss(f, y, step)
