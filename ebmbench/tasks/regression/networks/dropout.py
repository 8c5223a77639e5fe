"""Dropout whose mask is a pure function of the seed, the training step and the place."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebmbench.core.rng import philox

_MASK = 0xFFFFFFFF


class Dropout(nn.Module):
    """Sets a share `rate` of the activations to zero in training, and divides the others by `1 − rate`.

    The mask comes from the counter-based generator of `core.rng`, with the key `seed` and the counter
    `(place div 4, step)`. So training goes on bit for bit from a checkpoint, and a seed alone has the mask that it has
    among many. Both numbers are buffers: PyTorch's global generator draws `seed` when the module is built, and
    `stack.ModuleStack` writes `step` before each training step.
    """

    seed: Tensor
    step: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, h: Tensor) -> Tensor:
        """Returns the activations of any shape, some of them zero in training."""
        if not self.training or not self.rate:
            return h
        size = math.prod(h.shape)
        block = torch.arange((size + 3) // 4, device=h.device)
        zero = torch.zeros_like(self.step)
        words = philox((block, self.step, zero, zero), (self.seed & _MASK, self.seed >> 32))
        kept = torch.stack(words, dim=-1).flatten()[:size].reshape(h.shape) >= round(self.rate * 2**32)
        return h * kept / (1 - self.rate)
