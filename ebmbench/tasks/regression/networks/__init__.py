"""The networks of regression, a file for each. See `base` for what a network is."""

from ebmbench.tasks.regression.networks import paper

__all__ = ["paper"]
