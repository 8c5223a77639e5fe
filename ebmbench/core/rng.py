"""Random numbers as a pure function of (seed, stream name, step, index).

A counter-based generator has no state: nothing to checkpoint, seed k draws the same numbers alone or stacked among
twenty, on the CPU or on a GPU, and a step can be captured in a CUDA graph. The generator is Philox4x32-10 (Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), with

    key      (seed mod 2^32, seed div 2^32)
    counter  (index div 4, step, stream, 0),  stream = first four bytes of blake2s(name)

Element e of a seed's block is word e mod 4 of the counter e div 4. Normals come from pairs of words by Box-Muller.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from ebmbench.native import build, random

if TYPE_CHECKING:
    from torch import Tensor

_MASK = 0xFFFFFFFF


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Philox4x32-10 on int64 tensors that hold 32-bit words; they broadcast. Returns the four output words.

    int64 products wrap modulo 2^64, so their bits are those of the unsigned product.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return [c0, c1, c2, c3]


@lru_cache(maxsize=1024)
def stream_id(name: str) -> int:
    """The 32-bit number of a named stream."""
    return int.from_bytes(hashlib.blake2s(name.encode()).digest()[:4], "little")


class Streams:
    """The random streams of S seeds.

    Args:
        seeds: the seeds, each in [0, 2^63).
        device: where the numbers are made.
        stacked: whether drawn shapes carry a leading seed axis (always for more than one seed).
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu", stacked: bool = True) -> None:
        if not stacked and len(seeds) != 1:
            raise ValueError(f"only a single seed can do without a seed axis, not {len(seeds)}")
        self.seeds = tuple(seeds)
        self.stacked = stacked
        self.device = torch.device(device)
        self.seed_tensor = torch.tensor(self.seeds, dtype=torch.int64, device=device)
        keys = self.seed_tensor[:, None]
        self.keys = (keys & _MASK, keys >> 32)

    def at(self, step: int | Tensor) -> Draws:
        """The draws of one step: a number, or an int64 tensor on the streams' device (never synchronised)."""
        return Draws(self, step)


@dataclass(frozen=True)
class Draws:
    """What is drawn in one step. The same name and shape give the same numbers every time."""

    streams: Streams
    step: int | Tensor

    @property
    def _compiled(self) -> bool:
        """Whether to draw with compiled code: the same words, and normals equal within rounding."""
        return self.streams.device.type == "cpu" and build.unavailable() is None

    def _block(self, shape: Sequence[int]) -> tuple[tuple[int, ...], int]:
        """The shape, and how many numbers each seed draws."""
        shape, streams = tuple(shape), self.streams
        if streams.stacked and shape[:1] != (len(streams.seeds),):
            raise ValueError(f"the first axis of {shape} is not the {len(streams.seeds)} seeds")
        return shape, math.prod(shape[1:] if streams.stacked else shape)

    def words(self, name: str, shape: Sequence[int]) -> Tensor:
        """Uniform 32-bit words as int64, of `shape`; the first axis is the seeds' where they are stacked."""
        streams = self.streams
        shape, size = self._block(shape)
        if self._compiled and isinstance(self.step, int):
            return random.words(streams.seed_tensor, self.step, stream_id(name), size).reshape(shape)
        block = torch.arange((size + 3) // 4, device=streams.device)
        step = self.step
        if isinstance(step, int):  # filled in there: a copy from the host would wait for the device
            step = torch.full((), step, dtype=torch.int64, device=streams.device)
        stream = torch.full((), stream_id(name), dtype=torch.int64, device=streams.device)
        words = philox((block, step, stream, torch.zeros_like(stream)), streams.keys)
        return torch.stack(words, dim=-1).reshape(len(streams.seeds), -1)[:, :size].reshape(shape)

    def uniform(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Uniform numbers in (0, 1) (in float32, the default, the largest rounds to 1), of `shape`."""
        return _to_unit(self.words(name, shape), dtype or torch.float32)

    def normal(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers of `shape`, in float32 by default."""
        streams, dtype = self.streams, dtype or torch.float32
        shape, size = self._block(shape)
        lead = shape[:1] if streams.stacked else ()
        if dtype == torch.float32 and self._compiled and isinstance(self.step, int):
            return random.normal(streams.seed_tensor, self.step, stream_id(name), size).reshape(shape)
        pairs = _to_unit(self.words(name, (*lead, (size + 3) // 4 * 4)), dtype).unflatten(-1, (-1, 2))
        radius = torch.sqrt(-2 * torch.log(pairs[..., 0]))
        angle = 2 * math.pi * pairs[..., 1]
        normals = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
        return normals.flatten(-2)[..., :size].reshape(shape)

    def integers(self, name: str, shape: Sequence[int], high: int) -> Tensor:
        """Integers in [0, high) of `shape`, int64; the bias is below high / 2^32."""
        return (self.words(name, shape) * high) >> 32

    def permutation(self, name: str, n: int) -> Tensor:
        """A permutation of 0..n-1 per seed: `[S, n]`, or `[n]` where the seeds are not stacked."""
        lead = (len(self.streams.seeds),) if self.streams.stacked else ()
        return self.words(name, (*lead, n)).argsort(dim=-1, stable=True)


def _to_unit(words: Tensor, dtype: torch.dtype) -> Tensor:
    return (words.to(dtype) + 0.5) * 2.0**-32
