"""One fixed colour and marker per method, everywhere.

The colours are Okabe and Ito's (jfly.uni-koeln.de/color), told apart with every common form of colour blindness,
without their yellow and black, which vanish on a white or a dark page; `sm` is a middle grey instead. Related methods
have related colours (warm: noise contrastive; blue: importance sampling). Markers repeat the code for print in grey.
"""

from __future__ import annotations

METHODS = ("nce+", "nce", "ml-is", "kld-is", "ml-mcmc", "dsm", "sm")
"""The order in which figures and legends show the methods."""

METHOD_COLORS: dict[str, str] = {
    "nce+": "#D55E00",  # vermilion
    "nce": "#E69F00",  # orange
    "ml-is": "#0072B2",  # blue
    "kld-is": "#56B4E9",  # sky blue
    "ml-mcmc": "#009E73",  # bluish green
    "dsm": "#CC79A7",  # reddish purple
    "sm": "#7F7F7F",  # grey
}
METHOD_MARKERS: dict[str, str] = {
    "nce+": "o",
    "nce": "s",
    "ml-is": "^",
    "kld-is": "v",
    "ml-mcmc": "D",
    "dsm": "P",
    "sm": "X",
}
TRUTH_COLOR = "#808080"
"""True densities, ideal lines, ground-truth boxes: readable on white and on dark."""

BASE_COLOR = "#56B4E9"
"""The base detector's boxes, before refinement."""

DENSITY_CMAP = "cividis"
"""Sequential, perceptually uniform, the same to the colour-blind eye."""
