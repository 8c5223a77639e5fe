"""The tasks. See `base` for what a task is."""
