"""The exact likelihood: what normalised models are trained by, and the mark that estimators are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.errors import UserError
from ebmbench.core.proposal import Proposal
from ebmbench.core.registry import register
from ebmbench.core.step import Step
from ebmbench.methods.base import Method, exact_nll

if TYPE_CHECKING:
    from torch import Tensor


@register
class MLExact(Method):
    """Maximum likelihood with the exact partition function: `log Z(x) − f(x, y_i)`.

    `log Z` is a quadrature over y for one target. For energies it is the oracle: it has the error of the model and the
    optimiser, and none of an estimator. Models that are normalised by construction (`model=gaussian`, `mdn`, …) have
    `log Z = 0` and are trained by it too, under their own names.
    """

    name = "ml-exact"
    reference = "Fisher, On the mathematical foundations of theoretical statistics, Phil. Trans. A 1922"
    color, marker, order = "#661100", "8", 80
    needs_partition = True
    default_for = "one target"

    @override
    def blur(self, proposal: Proposal | None) -> Sequence[float]:
        return ()

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        if step.log_partition is None:
            raise UserError(
                "method=ml-exact needs the exact partition function, which there is for one target or a normalised "
                "model alone; choose model=gaussian, mdn, histogram or flow, or a method that samples, such as nce"
            )
        return exact_nll(f, y, step)

    @override
    def recovers(self, variance: float, proposal: Proposal | None) -> float:
        return variance

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        return exact_nll(f, y, step)
