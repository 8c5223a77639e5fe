"""Made images for detection: rotated, textured, overlapping, partly occluded shapes on structured noise.

An image and its boxes are a pure function of (seed, split, index), so nothing is downloaded or stored. A box is tight
around what can be seen of its shape, to half a pixel: shapes are drawn on a grid twice as fine as the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

VERSION = 2
"""Raised when the same seed makes other images: what was trained on the old ones is not taken for the new."""
CLASSES = ("ellipse", "rectangle", "triangle", "star", "cross")
SIZE = 128
"""Height and width of an image in pixels."""
MAX_SHAPES = 6
MIN_VISIBLE = 0.6
"""A shape is left out of the image if it would leave less than this part of another one, or of itself, to be seen."""
SPLITS = {"train": 0, "val": 1, "test": 2}

_FINE = 2 * SIZE
_Array = NDArray[np.float32]


@dataclass(frozen=True)
class ShapesImage:
    """One image.

    Attributes:
        image: `[SIZE, SIZE, 3]` uint8.
        boxes: `[N, 4]` float32, x1 y1 x2 y2 in pixels.
        labels: `[N]` int64, 1 to 5 in the order of CLASSES.
    """

    image: NDArray[np.uint8]
    boxes: _Array
    labels: NDArray[np.int64]


def make_image(seed: int, split: str, index: int) -> ShapesImage:
    """The image `index` of a split ("train", "val" or "test")."""
    rng = np.random.default_rng([seed, SPLITS[split], index])
    canvas = _background(rng)
    owner = np.zeros((_FINE, _FINE), dtype=np.int8)  # which shape is seen at a fine pixel; 0: none
    whole: list[int] = []  # pixels of each shape before anything covers it
    labels: list[int] = []
    for _ in range(int(rng.integers(1, MAX_SHAPES + 1))):
        for _attempt in range(5):
            label = int(rng.integers(len(CLASSES)))
            mask, (rows, columns), local = _shape_mask(rng, CLASSES[label])
            texture = _texture(rng, local)
            if _fits(owner, mask, rows, columns, whole):
                break
        else:
            continue
        whole.append(int(mask.sum()))
        labels.append(label + 1)
        owner[rows, columns][mask] = len(whole)
        canvas[rows, columns][mask] = texture[mask]
    image = (canvas[::2, ::2] + canvas[1::2, ::2] + canvas[::2, 1::2] + canvas[1::2, 1::2]) / 4
    image += rng.normal(0, rng.uniform(0.02, 0.07), image.shape).astype(np.float32)
    boxes = [_tight_box(owner == number) for number in range(1, len(whole) + 1)]
    return ShapesImage(
        image=(image.clip(0, 1) * 255).astype(np.uint8),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
    )


def annotation_noise(boxes: _Array, std: float, seed: int, index: int) -> _Array:
    """Boxes `[N, 4]` with normal noise of scale `std` in (cx/w, cy/h, log w, log h), kept inside the image.

    It is a pure function of (seed, index), apart from the image's own numbers.
    """
    noise = std * np.random.default_rng([seed, 3, index]).normal(size=boxes.shape)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + noise[:, :2] * size
    half = size * np.exp(noise[:, 2:]) / 2
    low = (centre - half).clip(0, SIZE - 1)
    high = np.maximum((centre + half).clip(0, SIZE), low + 1)
    return np.concatenate((low, high), axis=1).astype(np.float32)


@lru_cache(maxsize=8)
def _stretch(cells: int) -> _Array:
    """Bilinear interpolation from `cells + 1` knots to the pixels of an axis, `[SIZE, cells + 1]`."""
    position = np.linspace(0, cells, SIZE, dtype=np.float32)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells + 1, dtype=np.float32)))


def _background(rng: np.random.Generator) -> _Array:
    """Noise of several scales around one colour, `[_FINE, _FINE, 3]`, with a few bars that are no object."""
    canvas = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    canvas[:] = rng.uniform(0.2, 0.8, 3)
    for cells, strength in ((4, 0.14), (12, 0.08), (32, 0.05)):
        knots = rng.normal(0, strength, (cells + 1, cells + 1)).astype(np.float32)
        tint = rng.uniform(0.4, 1.0, 3).astype(np.float32)
        stretch = _stretch(cells)
        canvas += (stretch @ knots @ stretch.T)[..., None] * tint
    axis = np.arange(SIZE, dtype=np.float32)
    for _ in range(int(rng.integers(0, 4))):
        angle, offset, width = rng.uniform(0, np.pi), rng.uniform(0, SIZE), rng.uniform(1, 4)
        across = axis * np.float32(np.cos(angle)) + (axis * np.float32(np.sin(angle)))[:, None]
        canvas[np.abs(across - np.float32(offset)) < np.float32(width)] = rng.uniform(0, 1, 3)
    return canvas.repeat(2, axis=0).repeat(2, axis=1)


def _shape_mask(
    rng: np.random.Generator, name: str
) -> tuple[NDArray[np.bool_], tuple[slice, slice], tuple[_Array, _Array]]:
    """A shape's fine pixels: its mask, the window that holds it, and the window's coordinates in the shape's frame."""
    radius = float(np.exp(rng.normal(np.log(17.5), 0.42)).clip(6, 50)) * 2
    stretch = float(np.exp(rng.normal(0, 0.2)))
    a, b = radius * stretch**0.5, radius / stretch**0.5
    angle = rng.uniform(0, 2 * np.pi)
    x, y = rng.uniform(0.06 * _FINE, 0.94 * _FINE, 2)
    reach = 1.42 * max(a, b)
    rows = slice(max(0, int(y - reach)), min(_FINE, int(y + reach) + 1))
    columns = slice(max(0, int(x - reach)), min(_FINE, int(x + reach) + 1))
    dx = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - x)
    dy = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - y))[:, None]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = (dx * cos + dy * sin) / np.float32(a), (dy * cos - dx * sin) / np.float32(b)
    if name == "ellipse":
        mask = u * u + v * v < 0.85
    elif name == "rectangle":
        mask = np.maximum(np.abs(u), np.abs(v)) < 0.8
    elif name == "triangle":
        mask = (v > -0.5) & (v < 1 - np.float32(3**0.5) * np.abs(u))
    elif name == "star":
        mask = np.hypot(u, v) < 0.64 + 0.36 * np.cos(5 * np.arctan2(v, u))
    else:
        wide, narrow = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
        mask = (wide < 0.95) & (narrow < 0.26)
    local = (np.asarray(u * a, dtype=np.float32), np.asarray(v * b, dtype=np.float32))
    return mask, (rows, columns), local


def _texture(rng: np.random.Generator, local: tuple[_Array, _Array]) -> _Array:
    """Two colours in stripes, checks, spots or a gradient that turn with the shape: `[H, W, 3]`."""
    u, v = local
    first, second = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    kind, wave = int(rng.integers(4)), np.float32(2 * np.pi / rng.uniform(8, 28))
    if kind == 0:
        blend = np.sin(u * wave) > 0
    elif kind == 1:
        blend = np.sin(u * wave) * np.sin(v * wave) > 0
    elif kind == 2:
        blend = np.cos(u * wave) + np.cos(v * wave) > 0.8
    else:
        blend = 0.5 + 0.5 * np.sin(0.3 * wave * (u + v))
    return first + (second - first) * rng.uniform(0.1, 0.5) * blend.astype(np.float32)[..., None]


def _fits(owner: NDArray[np.int8], mask: NDArray[np.bool_], rows: slice, columns: slice, whole: list[int]) -> bool:
    """Whether a new shape is large enough in the image, and leaves enough of each one below it to be seen."""
    if mask.sum() < 64 or min(mask.any(0).sum(), mask.any(1).sum()) < 8:  # 4 pixels of the image wide and high
        return False
    covered = np.bincount(owner[rows, columns][mask], minlength=len(whole) + 1)[1:]
    if not covered.any():
        return True
    seen = np.bincount(owner.reshape(-1), minlength=len(whole) + 1)[1:]
    return bool(np.all(seen - covered >= MIN_VISIBLE * np.array(whole)))


def _tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0] / 2, rows[0] / 2, (columns[-1] + 1) / 2, (rows[-1] + 1) / 2
