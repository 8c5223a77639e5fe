"""What registers itself here: the task `tracking` and its data."""

from ebmbench.tasks.tracking import task

__all__ = ["task"]
