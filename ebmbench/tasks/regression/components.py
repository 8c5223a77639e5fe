"""What registers itself here: the tasks `regression` and `1d`, and their data."""

from ebmbench.tasks.regression import task
from ebmbench.tasks.regression.data import function, images, laws, packaged, paper, squares, table, values

__all__ = ["function", "images", "laws", "packaged", "paper", "squares", "table", "task", "values"]
