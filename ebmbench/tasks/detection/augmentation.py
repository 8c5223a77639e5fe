"""What is done to an image before a base detector trains on it, as a function of a seed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from ebmbench.boxes.coordinates import flip_boxes
from ebmbench.tasks.detection.data import Example


def changed(example: Example, flipped: bool, seed: int, augment: str) -> Example:
    """Returns an image with its boxes, flipped or not, augmented or not.

    Args:
        seed: of the random numbers.
        augment: none, or v2: photometric distortion, zooming out, and crops that keep boxes.
    """
    if augment == "v2":
        size = (int(example.image.shape[1]), int(example.image.shape[2]))
        boxes: Any = tv_tensors.BoundingBoxes(example.boxes, format="XYXY", canvas_size=size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            target = {"boxes": boxes, "labels": example.categories}
            image, target = _transforms(bool(len(example.boxes)))(tv_tensors.Image(example.image), target)
        example = Example(image.as_subclass(torch.Tensor), target["boxes"].as_subclass(torch.Tensor), target["labels"])
    if flipped:
        boxes = flip_boxes(example.boxes, example.image.shape[-1])
        example = Example(example.image.flip(-1), boxes, example.categories)
    return example


@lru_cache(maxsize=2)
def _transforms(with_boxes: bool) -> v2.Compose:
    """Returns torchvision's recipe for SSD, without its flips; a crop around boxes needs some."""
    steps: list[v2.Transform] = [v2.RandomPhotometricDistort(p=0.5)]
    if with_boxes:
        steps += [v2.RandomZoomOut(side_range=(1.0, 2.0), p=0.25), v2.RandomIoUCrop(min_scale=0.5)]
        steps += [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1)]
    return v2.Compose(steps)
