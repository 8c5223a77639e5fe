"""Visual tracking: an energy of boxes refines the boxes of a coarse tracker."""

from ebmbench.tasks.tracking import task

__all__ = ["task"]
