"""Coordinates of boxes relative to a reference box.

A candidate y for a reference box with centre (cx0, cy0) and size (w0, h0) is

    y = ((cx − cx0) / w0, (cy − cy0) / h0, log(w / w0), log(h / h0)),

the paper's (cx/w0, cy/h0, log w, log h) with the origin moved to the reference. No method sees the shift, but float32
does: cx/w0 of a small box at the far side of an image has no room for the Langevin steps of 1e-5 of ml-mcmc.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_relative(boxes: Tensor, reference: Tensor) -> Tensor:
    """Returns boxes x1 y1 x2 y2 in the relative coordinates of reference boxes: `[..., 4]`, broadcast.

    Both must have positive width and height.
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    reference_low, reference_high = reference[..., :2], reference[..., 2:]
    size = reference_high - reference_low
    centre = (low + high - reference_low - reference_high) / (2 * size)
    return torch.cat((centre, torch.log((high - low) / size)), dim=-1)


def to_boxes(y: Tensor, reference: Tensor) -> Tensor:
    """Returns relative coordinates as boxes x1 y1 x2 y2: `[..., 4]`, broadcast; the inverse of `to_relative`."""
    low, high = reference[..., :2], reference[..., 2:]
    size = high - low
    centre = (low + high) / 2 + y[..., :2] * size
    half = y[..., 2:].exp() * size / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def flip_boxes(boxes: Tensor, width: float) -> Tensor:
    """Returns the boxes of the horizontally flipped image: `[..., 4] -> [..., 4]`."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((width - x2, y1, width - x1, y2), dim=-1)
