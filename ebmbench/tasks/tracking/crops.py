"""The square crop around a box that the network sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from ebmbench.tasks.tracking.scores import Array
from ebmbench.tasks.tracking.videos import Frame


@dataclass(frozen=True)
class Crop:
    """A part of a frame.

    Attributes:
        image: `[3, side, side]`, 0 to 1.
        low: its upper left corner in the frame, `[2]`.
        scale: pixels of the crop for a pixel of the frame.
    """

    image: Tensor
    low: Array
    scale: float

    @staticmethod
    def around(frame: Frame, box: Array, side: int, context: float) -> Crop:
        """Returns the crop of `side` pixels around a box: `context` times as large as √(w h) of it.

        What lies outside the frame has the mean colour of the rest.
        """
        size = max(context * math.sqrt(float((box[2:] - box[:2]).prod())), 8.0)
        low = (box[:2] + box[2:] - size) / 2
        start = np.floor(low - 2).clip(0).astype(int)
        stop = np.ceil(low + size + 2).clip(0).astype(int)
        part = frame[start[1] : stop[1], start[0] : stop[0]]
        if not part.size:
            part = frame.mean((0, 1), keepdims=True).astype(np.uint8)
        pixels = torch.tensor(part.copy()).permute(2, 0, 1).unsqueeze(0).float()
        mean = pixels.mean((2, 3), keepdim=True)
        region = torch.tensor(np.concatenate((low - start, low - start + size)), dtype=torch.float32)
        samples = min(4, max(1, math.ceil(size / side)))
        image = roi_align(pixels - mean, [region.unsqueeze(0)], side, 1.0, samples, aligned=True) + mean
        return Crop(image[0] / 255, low, side / size)

    def into(self, boxes: Array) -> Array:
        """Returns boxes of the frame in the crop's pixels, `[..., 4]`."""
        return np.asarray((boxes - np.tile(self.low, 2)) * self.scale)

    def back(self, boxes: Array) -> Array:
        """Returns boxes of the crop in the frame's pixels, `[..., 4]`."""
        return np.asarray(boxes / self.scale + np.tile(self.low, 2))
