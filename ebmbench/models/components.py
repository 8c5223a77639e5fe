"""What registers itself here: the models, and the networks of energies."""

from ebmbench.models import base, flow, gaussian, histogram, mdn, ngboost, treeffuser
from ebmbench.models.networks import cnn, mlp, paper, resnet18

__all__ = [
    "base",
    "cnn",
    "flow",
    "gaussian",
    "histogram",
    "mdn",
    "mlp",
    "ngboost",
    "paper",
    "resnet18",
    "treeffuser",
]
