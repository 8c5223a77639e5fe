"""Random numbers by compiled code: the words and normals of `core.rng`, several times as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ebmbench.native.build import kernels

if TYPE_CHECKING:
    from torch import Tensor


def words(seeds: Tensor, step: int, stream: int, size: int) -> Tensor:
    """Philox words of `core.rng.Draws.words` for seeds `[S]` int64: `[S, size]` int64."""
    to = torch.empty(len(seeds), size, dtype=torch.int64)
    kernels().ebm_words(to.data_ptr(), seeds.data_ptr(), len(seeds), step, stream, size, torch.get_num_threads())
    return to


def normal(seeds: Tensor, step: int, stream: int, size: int) -> Tensor:
    """Standard normals of `core.rng.Draws.normal` for seeds `[S]` int64: `[S, size]` float32, equal within rounding."""
    to = torch.empty(len(seeds), size)
    kernels().ebm_normal(to.data_ptr(), seeds.data_ptr(), len(seeds), step, stream, size, torch.get_num_threads())
    return to
