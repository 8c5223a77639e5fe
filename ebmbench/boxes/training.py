"""The loss of a mini-batch of boxes and its gradient, in passes of bounded memory, on one process or on several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from typing_extensions import override

from ebmbench.boxes.energy import BoxEnergy
from ebmbench.core.own_networks import OwnNetworks
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Draws, Streams
from ebmbench.core.step import Step
from ebmbench.methods.base import Method

MAX_EVALUATIONS = 2**15
"""Boxes pooled at a time, so that an image with very many of them fits into memory."""


@dataclass(frozen=True)
class BoxDraws(Draws):
    """The random numbers of some of a mini-batch's boxes.

    Every box keeps the numbers that it has in the whole mini-batch, however that is split over passes or processes.

    Attributes:
        rows: which boxes of the mini-batch, `[n]`; total: how many it has.
        shared: whether all boxes have the same numbers, as the proposal was told.
    """

    rows: Tensor
    total: int
    shared: bool

    def _whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape) if self.shared else (self.total, *shape[1:])

    def _part(self, numbers: Tensor) -> Tensor:
        return numbers if self.shared else numbers[self.rows]

    @override
    def uniform(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return self._part(super().uniform(name, self._whole(shape), dtype))

    @override
    def normal(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return self._part(super().normal(name, self._whole(shape), dtype))

    @override
    def integers(self, name: str, shape: Sequence[int], high: int) -> Tensor:
        return self._part(super().integers(name, self._whole(shape), high))


@dataclass(frozen=True)
class BoxLoss:
    """The loss of boxes by a method, at samples around each of them.

    Attributes:
        method, proposal: the training method, and what it samples from.
        networks: those that the method or the proposal owns, on the last hidden layer at the target box.
        streams: the random numbers of the seed, without a seed axis.
        half_precision: matrix products of the network in bfloat16.
    """

    method: Method
    proposal: Proposal | None
    networks: OwnNetworks
    streams: Streams
    half_precision: bool = False

    def passes(
        self, energy: BoxEnergy, rows: Tensor, total: int, step: int
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yields the summed loss of some boxes at a time, and the numbers of boxes that the method counted.

        Args:
            energy: of the boxes.
            rows: their places among the `total` boxes of the step, `[N]`.
        """
        shared = bool(getattr(self.proposal, "shared", False))
        device = self.streams.device
        each = max(1, MAX_EVALUATIONS // (1 + max(1, self.method.samples)))
        for part in torch.arange(len(energy), device=device).split(each) if len(energy) else ():
            f = energy.of(part)
            target = torch.zeros(len(part), 4, device=device)  # in its own coordinates
            now = Step(BoxDraws(self.streams, step, rows[part], total, shared), self.proposal, self._heads(f))
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.half_precision):
                loss = self.method.loss(f, target, now).float().sum()
                learned = self.proposal.loss(f, target, now) if self.proposal is not None else None
                if learned is not None:
                    loss = loss + learned.float().sum()
            yield loss, {name: now.counts[name].long().sum() for name in self.method.counters if name in now.counts}

    def _heads(self, energy: BoxEnergy) -> dict[str, Callable[[], Tensor]]:
        stacked = self.networks.heads(lambda: energy.features().unsqueeze(0))
        return {name: partial(_of_one_seed, output) for name, output in stacked.items()}

    def sums(self, energy: BoxEnergy | None, rows: Tensor, total: int, step: int, parameters: Sequence[Tensor]) -> Sums:
        """Returns what the boxes of this process add to a step; the arguments are those of `passes`.

        Args:
            energy: None if this process has no boxes.
            parameters: those that learn.
        """
        device = self.streams.device
        loss = torch.zeros((), device=device)
        counts = dict.fromkeys(self.method.counters, torch.zeros((), device=device))
        gradient = torch.zeros(sum(p.numel() for p in parameters), device=device)
        for part, counted in self.passes(energy, rows, total, step) if energy is not None else ():
            counts = {name: count + counted.get(name, 0) for name, count in counts.items()}
            gradients = torch.autograd.grad(part, parameters, allow_unused=True, materialize_grads=True)
            loss += part.detach()
            gradient += torch.cat([g.flatten() for g in gradients])
        return Sums(loss, torch.tensor(float(len(rows)), device=device), counts, gradient)


@dataclass(frozen=True)
class Sums:
    """Sums over the boxes of a step: of the loss, the boxes, what the method counted, and the gradient of the loss."""

    loss: Tensor
    boxes: Tensor
    counts: Mapping[str, Tensor]
    gradient: Tensor

    def as_vector(self) -> Tensor:
        """Returns all numbers in one vector: the sum of the vectors of all processes is that of the step."""
        return torch.cat((torch.stack((self.loss, self.boxes, *self.counts.values())), self.gradient))

    @staticmethod
    def from_vector(vector: Tensor, counters: Sequence[str]) -> Sums:
        """Returns the sums that a vector holds."""
        counts = dict(zip(counters, vector[2 : 2 + len(counters)], strict=True))
        return Sums(vector[0], vector[1], counts, vector[2 + len(counters) :])

    def mean_loss(self, parameters: Sequence[Tensor], clip: float | None = None) -> Tensor:
        """Returns the mean loss of a box, `[1]`, whose gradient in the parameters is known already.

        Args:
            clip: the largest norm of the gradient.
        """
        count = self.boxes.clamp(min=1)
        gradient = self.gradient / count
        if clip is not None:
            gradient = gradient * (clip / gradient.norm()).clamp(max=1)
        parts = gradient.split([p.numel() for p in parameters])
        gradients = tuple(part.view_as(p).to(p.dtype) for part, p in zip(parts, parameters, strict=True))
        result: Tensor = _WithGradient.apply((self.loss / count).float().unsqueeze(0), gradients, *parameters)
        return result


class _WithGradient(Function):
    """A loss whose gradient is known already: passes of bounded memory computed it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (None, None, *(grads[0].sum() * gradient for gradient in ctx.gradients))


def _of_one_seed(output: Callable[[], Tensor]) -> Tensor:
    """Returns an output without the seed axis: `[1, N, outputs] -> [N, outputs]`."""
    return output().squeeze(0)
