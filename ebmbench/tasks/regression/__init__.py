"""Regression: from x of any shape to y of D numbers."""

from ebmbench.tasks.regression import data, networks, one_d, task

__all__ = ["data", "networks", "one_d", "task"]
