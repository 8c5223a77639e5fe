"""Dropout whose mask is a pure function of the seed, the training step and the place."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ebmbench.core.rng import philox
from ebmbench.native import build, random

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
        words: Tensor = _Words.apply(self.seed, self.step, size)
        kept = words.reshape(h.shape) >= round(self.rate * 2**32)
        return h * kept / (1 - self.rate)


class _Words(torch.autograd.Function):
    """Words of the generator for one model, `[size]`; under `vmap` for all models at once.

    So compiled code can make them: in PyTorch operations they take longer than an MLP.
    """

    @staticmethod
    def forward(seed: Tensor, step: Tensor, size: int) -> Tensor:
        return _words(seed.reshape(1), step.reshape(1), size)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, seed: Tensor, step: Tensor, size: int) -> tuple[Tensor, int]:
        return _words(seed, step, size), 0


def _words(seeds: Tensor, steps: Tensor, size: int) -> Tensor:
    """Returns the words of models, `[S, size]`, from their seeds and the step that they are all at, `[S]` each."""
    if seeds.device.type == "cpu" and build.unavailable() is None:
        return random.words(seeds.contiguous(), int(steps[0]), 0, size)
    block, zero = torch.arange((size + 3) // 4, device=seeds.device), torch.zeros_like(seeds[:, None])
    words = philox((block, steps[:, None], zero, zero), (seeds[:, None] & _MASK, seeds[:, None] >> 32))
    return torch.stack(words, dim=-1).flatten(1)[:, :size]
