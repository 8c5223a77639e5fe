"""Boxes: their coordinates, Precise RoI Pooling, and energies of boxes. Detection and tracking are built on it.

`prroi_pool` is public: Precise RoI Pooling in PyTorch itself, with no extension to compile.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmbench.boxes.coordinates import to_boxes, to_relative
    from ebmbench.boxes.energy import BoxEnergy, BoxHead
    from ebmbench.boxes.pooling import Pyramid, pool_boxes, prroi_pool
    from ebmbench.boxes.refinement import refine

_WHERE = {
    "BoxEnergy": "energy",
    "BoxHead": "energy",
    "Pyramid": "pooling",
    "pool_boxes": "pooling",
    "prroi_pool": "pooling",
    "refine": "refinement",
    "to_boxes": "coordinates",
    "to_relative": "coordinates",
}

__all__ = ["BoxEnergy", "BoxHead", "Pyramid", "pool_boxes", "prroi_pool", "refine", "to_boxes", "to_relative"]


def __getattr__(name: str) -> Any:
    # PyTorch is imported when it is needed.
    if name in _WHERE:
        return getattr(import_module(f"ebmbench.boxes.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'ebmbench.boxes' has no attribute {name!r}")
