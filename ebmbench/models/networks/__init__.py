"""The networks f(x, y) of energies, a file for each. See `base` for what a network is."""

from ebmbench.models.networks import cnn, mlp, paper, resnet18

__all__ = ["cnn", "mlp", "paper", "resnet18"]
