"""The networks of regression, a file for each. See `base` for what a network is."""

from ebmbench.tasks.regression.networks import mlp, paper

__all__ = ["mlp", "paper"]
