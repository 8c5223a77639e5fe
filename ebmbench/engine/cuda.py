"""Training steps captured in CUDA graphs: replayed with one launch, without a word between host and device.

A step of S small models is hundreds of short kernels, which the host cannot launch as fast as a GPU runs them. All that
changes from step to step lies on the device: the step's number, from which the random numbers follow, and the epoch's
order of the data. Two graphs are captured, for full batches and for the last, short one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ebmbench.core.batches import Batches
from ebmbench.core.errors import first_line
from ebmbench.tasks.base import Learner

if TYPE_CHECKING:
    from torch import Tensor

EAGER_STEPS = 3
"""Steps of each length that run eagerly before capture, so that every library and cached tensor is there."""


class CapturedSteps:
    """Runs the steps of a learner, by replay once they have been captured.

    Args:
        learner, batches: whose steps.
        update: given losses `[S]` and the step's number on the device, changes the parameters. It may use nothing that
            changes on the host.
    """

    def __init__(self, learner: Learner, batches: Batches, update: Callable[[Tensor, Tensor], None]) -> None:
        self.learner, self.batches, self.update = learner, batches, update
        self.step = torch.zeros((), dtype=torch.int64, device=learner.device)
        self.order = batches.order(0).clone()
        self.epoch = 0
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.eager: dict[int, int] = {}
        self.capture = learner.device.type == "cuda"

    def __call__(self, step: int) -> None:
        """Does the step with this number."""
        epoch, place = divmod(step, self.batches.steps_per_epoch)
        if epoch != self.epoch:
            self.order.copy_(self.batches.order(epoch))
            self.epoch = epoch
        self.step.fill_(step)
        batch_size, points = self.batches.batch_size, self.order.shape[1]
        length = min(batch_size, points - place * batch_size)
        if length in self.graphs:
            self.graphs[length].replay()
        elif not self.capture:
            self._body(length)
        elif self.eager.get(length, 0) < EAGER_STEPS:
            self._aside(length)
        else:
            self._captured(length)

    def _body(self, length: int) -> None:
        """One step; reads its number and the order of the data on the device."""
        first = self.step % self.batches.steps_per_epoch * self.batches.batch_size
        batch = self.order.index_select(1, first + torch.arange(length, device=self.learner.device))
        self.update(self.learner.losses(batch, self.step), self.step)

    def _aside(self, length: int) -> None:
        """A step on another stream, as PyTorch asks of what runs before a capture."""
        self.eager[length] = self.eager.get(length, 0) + 1
        stream = torch.cuda.Stream(self.learner.device)
        stream.wait_stream(torch.cuda.current_stream(self.learner.device))
        with torch.cuda.stream(stream):
            self._body(length)
        torch.cuda.current_stream(self.learner.device).wait_stream(stream)

    def _captured(self, length: int) -> None:
        graph = torch.cuda.CUDAGraph()
        device = self.learner.device
        generator = torch.cuda.default_generators[device.index or 0]
        random_state = generator.clone_state()
        try:
            with torch.cuda.graph(graph):
                self._body(length)
        except RuntimeError as error:
            self.capture = False
            generator.graphsafe_set_state(random_state)  # what failed left it waiting for the end of the capture
            text = f"steps are not captured in CUDA graphs, which is slower: {first_line(_cause(error))}"
            print(f"ebmbench: {text}", file=sys.stderr)
            self._body(length)
            return
        self.graphs[length] = graph
        graph.replay()  # capturing has computed nothing


def _cause(error: BaseException) -> BaseException:
    """Returns the error that came first: that a capture could not be ended says nothing."""
    return error if error.__context__ is None else _cause(error.__context__)
