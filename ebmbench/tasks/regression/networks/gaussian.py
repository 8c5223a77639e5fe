"""Baseline: a Gaussian whose mean and variance are functions of x."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.tasks.regression.networks.encoded import WithAnyEncoder

if TYPE_CHECKING:
    from torch import nn


@register
class Gaussian(WithAnyEncoder):
    """A Gaussian, mean and variance functions of x (diagonal for several targets); a density by itself.

    With `method=ml-exact` it is the heteroscedastic regression of Nix and Weigend.
    """

    name = "gaussian"
    reference = "Nix, Weigend, Estimating the mean and variance of the target probability distribution, ICNN 1994"

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        from ebmbench.tasks.regression.networks.heads import GaussianHead

        return GaussianHead(features, dim)
