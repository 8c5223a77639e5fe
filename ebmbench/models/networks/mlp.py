"""The energy network for tables."""

from __future__ import annotations

from ebmbench.core.registry import register
from ebmbench.models.networks.encoded import WithMLP
from ebmbench.models.networks.energy_head import WithEnergyHead


@register
class MLP(WithEnergyHead, WithMLP):
    """An MLP of x, and a small head that joins its features with y."""

    name = "mlp"
    tuning = {**WithMLP.tuning, "network.relative": [False, True]}  # noqa: RUF012
