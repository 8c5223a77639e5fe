"""Regression: from x of any shape to y of D numbers."""

from ebmbench.tasks.regression import data, networks, task

__all__ = ["data", "networks", "task"]
