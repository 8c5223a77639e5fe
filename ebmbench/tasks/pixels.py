"""Images of more than 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image


def eight_bits(image: Image.Image) -> Image.Image:
    """Returns grey values of 16 bits and of floating point as 8 bits: by 1/256; by 255 where none is above 1.

    Pillow's own conversion cuts them, and makes such an image white or black. Other images stay as they are.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    scale = 1 / 256 if image.mode.startswith("I") or values.max() > 255 else 255 if values.max() <= 1 else 1
    return Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
