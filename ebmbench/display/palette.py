"""One fixed colour and marker per method, everywhere: each method's class says its own.

The project's are Okabe and Ito's (jfly.uni-koeln.de/color), told apart with every common form of colour blindness,
without their yellow and black, which vanish on a white or a dark page. Related methods have
related colours (warm: noise contrastive; blue: importance sampling). Markers repeat the code for print in grey.
"""

from __future__ import annotations

from collections.abc import Iterable

from ebmbench.core import registry

TRUTH_COLOR = "#808080"
"""True densities, ideal lines, ground-truth boxes: readable on white and on dark."""

BASE_COLOR = "#56B4E9"
"""What a method starts from, such as the boxes of a base detector."""

DENSITY_CMAP = "cividis"
"""Sequential, perceptually uniform, the same to the colour-blind eye."""

UNKNOWN_COLOR, UNKNOWN_MARKER = "#5b5c5e", "o"
"""Of a method whose plug-in is not loaded."""


def in_order(names: Iterable[object]) -> list[object]:
    """Returns different methods in the order in which tables and legends show them; anything else ascending."""
    place = {name: index for index, name in enumerate(registry.known("method"))}
    return sorted(set(names), key=lambda name: (place.get(str(name), len(place)), name))


def color(method: str) -> str:
    """Returns a method's colour."""
    return str(getattr(registry.known("method").get(method), "color", UNKNOWN_COLOR))


def marker(method: str) -> str:
    """Returns a method's marker, as matplotlib names it."""
    return str(getattr(registry.known("method").get(method), "marker", UNKNOWN_MARKER))
