"""What registers itself here: the task `detection` and its data."""

from ebmbench.tasks.detection import layouts, task

__all__ = ["layouts", "task"]
