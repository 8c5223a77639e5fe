"""Object detection."""

from ebmbench.tasks.detection import layouts, task

__all__ = ["layouts", "task"]
