"""The figures of a report."""

from __future__ import annotations

from ebmbench.report.palette import (
    BASE_COLOR,
    DENSITY_CMAP,
    METHOD_COLORS,
    METHOD_MARKERS,
    METHODS,
    TRUTH_COLOR,
)

__all__ = ["BASE_COLOR", "DENSITY_CMAP", "METHODS", "METHOD_COLORS", "METHOD_MARKERS", "TRUTH_COLOR"]
