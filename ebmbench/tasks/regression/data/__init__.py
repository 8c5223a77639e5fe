"""The datasets of regression, a file for each kind. See `base` for what a dataset is."""

from ebmbench.tasks.regression.data import builtin, table

__all__ = ["builtin", "table"]
