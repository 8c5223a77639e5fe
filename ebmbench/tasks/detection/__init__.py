"""Object detection."""

from ebmbench.tasks.detection import task

__all__ = ["task"]
