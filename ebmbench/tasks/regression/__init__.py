"""Regression: from x of any shape to y of D numbers."""

from ebmbench.tasks.regression import networks, one_d

__all__ = ["networks", "one_d"]
