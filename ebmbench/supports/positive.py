"""Numbers above 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.supports.real import Real

if TYPE_CHECKING:
    from torch import Tensor


@register
class Positive(Real):
    """Numbers above 0, such as prices and durations: log y has the base measure of the real line."""

    name = "positive"

    @property
    @override
    def text(self) -> str:
        return "above 0"

    @override
    def inside(self, y: Tensor) -> Tensor:
        return y > 0

    @override
    def coordinate(self, y: Tensor) -> Tensor:
        return y.clamp(min=1e-300).log()

    @override
    def value(self, u: Tensor) -> Tensor:
        return u.exp()

    @override
    def log_slope(self, u: Tensor) -> Tensor:
        return u
