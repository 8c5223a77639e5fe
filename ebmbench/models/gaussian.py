"""Baseline: a Gaussian whose mean and variance are functions of x."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.models.base import DensityModel
from ebmbench.models.networks.encoded import WithAnyEncoder, encoder_tuning

if TYPE_CHECKING:
    from torch import nn


@register
class Gaussian(WithAnyEncoder, DensityModel):
    """A Gaussian, mean and variance functions of x (diagonal for several targets); a density by itself.

    It is the heteroscedastic regression of Nix and Weigend.
    """

    name = "gaussian"
    color, marker, order = "#882255", "s", 200
    tuning = encoder_tuning("model")
    reference = "Nix, Weigend, Estimating the mean and variance of the target probability distribution, ICNN 1994"

    @override
    def head(self, features: int, dim: int) -> nn.Module:
        from ebmbench.models.networks.heads import GaussianHead

        return GaussianHead(features, dim)
