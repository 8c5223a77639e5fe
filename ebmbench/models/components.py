"""What registers itself here: the models, and the networks of energies."""

from ebmbench.models import (
    base,
    boosted_quantiles,
    conformal_quantiles,
    flow,
    gaussian,
    histogram,
    mdn,
    ngboost,
    quantile_forest,
    tabicl,
    tabpfn,
    treeffuser,
)
from ebmbench.models.networks import cnn, mlp, paper, resnet18

__all__ = [
    "base",
    "boosted_quantiles",
    "cnn",
    "conformal_quantiles",
    "flow",
    "gaussian",
    "histogram",
    "mdn",
    "mlp",
    "ngboost",
    "paper",
    "quantile_forest",
    "resnet18",
    "tabicl",
    "tabpfn",
    "treeffuser",
]
