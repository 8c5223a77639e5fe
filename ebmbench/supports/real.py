"""All real numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.supports.base import Support
from ebmbench.supports.measure import BaseDensity, Measure

if TYPE_CHECKING:
    from torch import Tensor


@register
class Real(Support):
    """All real numbers; the base measure is a wide normal or Student-t."""

    name = "real"
    line = True

    @property
    @override
    def text(self) -> str:
        return "that are real numbers"

    @override
    def inside(self, y: Tensor) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool)

    @override
    def measure(self, base: BaseDensity, mean: float, std: float) -> Measure:
        return base
