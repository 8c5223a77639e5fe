"""The datasets of regression, a file for each kind. See `base` for what a dataset is."""

from ebmbench.tasks.regression.data import builtin, function, images, laws, squares, table

__all__ = ["builtin", "function", "images", "laws", "squares", "table"]
