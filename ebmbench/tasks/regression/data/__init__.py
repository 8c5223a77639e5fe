"""The datasets of regression, a file for each kind. See `base` for what a dataset is."""

from ebmbench.tasks.regression.data import function, images, laws, packaged, paper, squares, table, values

__all__ = ["function", "images", "laws", "packaged", "paper", "squares", "table", "values"]
