"""The models of regression in training: a network on inputs and targets, a method, and what they own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.errors import UserError
from ebmbench.core.own_networks import OwnNetworks
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Draws, Streams
from ebmbench.core.step import Step, no_counts
from ebmbench.methods.base import Method, own_networks
from ebmbench.models.stack import Stack
from ebmbench.tasks.base import Learner, count_examples

SEED_BYTES = {"fused": 128, "plain": 1024, "second": 4096}
"""Bytes that a step keeps for each evaluation of f. Measured: fused 24 to 48, plain 650 to 730, dsm 1530, sm 3960."""


class RegressionLearner(Learner):
    """S models of one network on the same training points.

    Args:
        stack: the models.
        x, y: training inputs `[N, ...]` and targets `[N, D]`, on the models' device.
        method, proposal: how they are trained.
        weight: of each training point in the loss, `[N]`; None: all alike.
        seeds: of the models.
        epochs, batch_size: passes over the training points, and points of a mini-batch.
    """

    capturable = True

    def __init__(
        self,
        stack: Stack,
        x: Tensor,
        y: Tensor,
        method: Method,
        proposal: Proposal | None,
        seeds: Sequence[int],
        epochs: int,
        batch_size: int,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.stack, self.x, self.y = stack, x, y
        self.weight = None if weight is None else weight / weight.mean()
        self.method, self.proposal = method, proposal
        self.seeds, self.device, self.target_dim = tuple(seeds), x.device, y.shape[-1]
        self.streams = Streams(self.seeds, self.device)
        self.num_items = len(x)
        self.batch_size = min(batch_size, self.num_items)
        self.steps_per_row = math.ceil(self.num_items / self.batch_size)
        self.num_steps = epochs * self.steps_per_row
        self.num_examples = epochs * self.num_items
        self.code_path = stack.code_path
        build = partial(own_networks, method, proposal, stack.num_features, self.target_dim)
        self.own = OwnNetworks(build, self.seeds, self.device, y.dtype)
        self.parameters = {"flat": stack.flat, **self.own.parameters}
        self._rows = torch.arange(len(self.seeds), device=self.device).unsqueeze(1)  # with a batch: an index of memory
        self._memory = method.memory(self.target_dim)
        for name, shape in self._memory.items():
            size = (len(self.seeds), self.num_items, *shape)
            self.state[f"memory.{name}"] = torch.full(size, torch.nan, dtype=y.dtype, device=self.device)
        self.counts = no_counts(method.counters, len(self.seeds), self.device)

    def annealed(self, epoch: Tensor) -> Tensor:
        """Returns what a cosine leaves of the learning rate after an epoch: from 1 to 0 at the last one."""
        return 0.5 * (1 + torch.cos(math.pi * epoch.double() * self.steps_per_row / self.num_steps))

    def bind(self, x: Tensor) -> tuple[Energy, Callable[[], Tensor]]:
        """Returns the energies of a mini-batch x `[S, B, ...]` as methods see them, and the features of x."""
        return self.stack.bind(x)

    def log_partition(self, draws: Draws, y: Tensor) -> Callable[[Energy], Tensor] | None:
        """Returns what gives `log Z` of the energies of a mini-batch, `[S, B]`; None where nothing does.

        Args:
            y: the targets, `[S, B, D]`.
        """
        return None

    def random_places(self, draws: Draws, count: int) -> Tensor:
        """Returns the places in [0, 1] of a midpoint rule's nodes, moved together by a random part of a step: `[S, M]`.

        Every place is then as likely to be met as the next one, so that no model can hide mass between nodes, and the
        estimate of an integral is unbiased.
        """
        shift = draws.uniform("quadrature", (len(self.seeds), 1), torch.float64)
        return (torch.arange(count, dtype=torch.float64, device=self.device) + shift) / count

    def method_losses(
        self, x: Tensor, y: Tensor, draws: Draws, memory: Mapping[str, Tensor]
    ) -> tuple[Tensor, Energy, Step]:
        """Returns the method's loss of each example, `[S, B]`, its energies, and its step.

        Args:
            x, y: a mini-batch of each model, `[S, B, ...]` and `[S, B, D]`.
            memory: what the method kept for these examples.
        """
        f, features = self.bind(x)
        step = Step(draws, self.proposal, self.own.heads(features), memory, self.log_partition(draws, y))
        return self.method.loss(f, y, step), f, step

    @override
    def losses(self, batch: Tensor, step: int | Tensor) -> Tensor:
        self.stack.start_step(step)
        y = self.y[batch]
        memory = {name: self.state[f"memory.{name}"][self._rows, batch] for name in self._memory}
        losses, f, now = self.method_losses(self.x[batch], y, self.streams.at(step), memory)
        if not isinstance(losses, Tensor) or losses.shape != y.shape[:-1]:
            given = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise UserError(
                f"the loss of method={self.method.name} is {given} for targets {tuple(y.shape)}; "
                f"it must be a tensor of shape {tuple(y.shape[:-1])}, a number for each example"
            )
        learned = self.proposal.loss(f, y, now) if self.proposal is not None else None
        for name, values in now.remembered.items():
            self.state[f"memory.{name}"][self._rows, batch] = values
        count_examples(now, self.counts, self.method.counters)
        weight = 1 if self.weight is None else self.weight[batch]
        mean = (losses * weight).mean(-1)
        return mean if learned is None else mean + (learned * weight).mean(-1)


def seed_bytes(method: Method, batch_size: int, nodes: int, fused: bool) -> int:
    """Returns the memory that a step of one seed takes, about, from the number of evaluations of f that it keeps.

    Args:
        nodes: of the quadrature for `log Z`, where a method needs it.
    """
    kind = "fused" if fused else ("second" if method.y_derivatives else "plain")
    return batch_size * (1 + (nodes if method.needs_partition else method.samples)) * SEED_BYTES[kind]
