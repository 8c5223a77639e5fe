"""Images of more than 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image


def eight_bits(image: Image.Image, bits: int | None = None) -> Image.Image:
    """Returns grey values of up to 16 bits and of floating point as 8 bits.

    Whole numbers are divided by the range of the smallest of 8, 10, 12, 14 and 16 bits that holds them all, fractions
    of at most 1 multiplied by 255. Pillow's own conversion cuts them, and makes such an image white or black. Other
    images stay as they are.

    Args:
        bits: of the whole numbers, where brightness must be comparable between images; None: by their largest one.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    largest = values.max(initial=0)
    if bits is None or image.mode.startswith("F"):
        bits = next((bits for bits in (8, 10, 12, 14) if largest < 2**bits), 16)
    scale = 255 if image.mode.startswith("F") and largest <= 1 else 2.0 ** (8 - bits)
    return Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
