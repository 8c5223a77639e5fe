"""The datasets of regression, a file for each kind. See `base` for what a dataset is."""
