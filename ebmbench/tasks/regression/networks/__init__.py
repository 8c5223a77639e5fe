"""The networks of regression, a file for each. See `base` for what a network is."""

from ebmbench.tasks.regression.networks import (
    cnn,
    flow,
    gaussian,
    histogram,
    mdn,
    mlp,
    ngboost,
    paper,
    resnet18,
    treeffuser,
)

__all__ = ["cnn", "flow", "gaussian", "histogram", "mdn", "mlp", "ngboost", "paper", "resnet18", "treeffuser"]
