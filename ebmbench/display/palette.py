"""One fixed colour and marker per method or model, everywhere: each class says its own.

The project's are Okabe and Ito's (jfly.uni-koeln.de/color), told apart with every common form of colour blindness,
without their yellow and black, which vanish on a white or a dark page. Related methods have
related colours (warm: noise contrastive; blue: importance sampling). Markers repeat the code for print in grey.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ebmbench.core import registry
from ebmbench.core.settings import Component

TRUTH_COLOR = "#808080"
"""True densities, ideal lines, ground-truth boxes: readable on white and on dark."""

BASE_COLOR = "#56B4E9"
"""What a method starts from, such as the boxes of a base detector."""

DENSITY_CMAP = "cividis"
"""Sequential, perceptually uniform, the same to the colour-blind eye."""

UNKNOWN_COLOR, UNKNOWN_MARKER = "#5b5c5e", "o"
"""Of a method or model whose plug-in is not loaded."""


def in_order(names: Iterable[object]) -> list[object]:
    """Returns different methods in the order in which tables and legends show them; anything else ascending."""
    return sorted(set(names), key=place)


def place(name: object) -> tuple[int, Any]:
    """Returns what sorts methods in this order."""
    known = list(_known())
    return known.index(str(name)) if name in known else len(known), name


def color(name: str) -> str:
    """Returns the colour of a method, or of a model that no method trains."""
    return str(getattr(_known().get(name), "color", UNKNOWN_COLOR))


def on_dark(color: str, paper: str) -> str:
    """Returns a colour `#rrggbb`, with as much white as it takes to be seen on dark paper (WCAG's contrast 3)."""
    rgb = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    mixed = (f"#{''.join(f'{round(c + (255 - c) * share / 20):02x}' for c in rgb)}" for share in range(21))
    return next(made for made in mixed if _luminance(made) + 0.05 >= 3 * (_luminance(paper) + 0.05))


def _luminance(color: str) -> float:
    """Returns WCAG 2's relative luminance of `#rrggbb`, 0 to 1."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def marker(name: str) -> str:
    """Returns the marker of a method or model, as matplotlib names it."""
    return str(getattr(_known().get(name), "marker", UNKNOWN_MARKER))


def _known() -> dict[str, type[Component]]:
    return {**registry.known("method"), **registry.known("model")}
