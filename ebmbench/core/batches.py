"""The mini-batches of a training: every epoch is a permutation of all items, and its last batch may be short."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ebmbench.core.rng import Streams

if TYPE_CHECKING:
    from torch import Tensor


class Batches:
    """Which items are in the mini-batch of each step, a function of the seed and the step alone."""

    def __init__(self, streams: Streams, num_items: int, batch_size: int) -> None:
        self.streams, self.num_items, self.batch_size = streams, num_items, batch_size
        self.steps_per_epoch = math.ceil(num_items / batch_size)
        self._epoch, self._order = -1, torch.empty(0)

    def order(self, epoch: int) -> Tensor:
        """Returns each seed's own permutation of the items, `[S, N]`."""
        order = self.streams.at(epoch).permutation("order", self.num_items)
        return order if self.streams.stacked else order.unsqueeze(0)

    def at(self, step: int) -> Tensor:
        """Returns the places of a step's items, `[S, B]`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch != epoch:
            self._epoch, self._order = epoch, self.order(epoch)
        return self._order[:, place * self.batch_size : (place + 1) * self.batch_size]
