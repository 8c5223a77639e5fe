"""Regression: from x of any shape to y of D numbers."""

from ebmbench.tasks.regression import data, task

__all__ = ["data", "task"]
