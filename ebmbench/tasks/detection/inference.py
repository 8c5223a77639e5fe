"""From the base detector's candidates to detections: NMS in the order of f, then gradient ascent on f.

The two stages overlap in what they gain, so their results are kept apart: the boxes after NMS alone are `boxes[0]`,
those after k steps `boxes[k]`; scores and classes are the same at all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmbench.boxes.energy import BoxEnergy
from ebmbench.boxes.pooling import Pyramid
from ebmbench.boxes.refinement import refine
from ebmbench.tasks.detection.architectures import Candidates
from ebmbench.tasks.detection.config import DetectionSettings, InferenceConfig
from ebmbench.tasks.detection.detector import BaseDetector
from ebmbench.tasks.detection.features import ImageFeatures, pyramid
from ebmbench.tasks.detection.head import ClassHead
from ebmbench.tasks.detection.nms import suppress


@dataclass(frozen=True)
class Detections:
    """The detections of one image, best score first.

    Attributes:
        boxes: `[T + 1, N, 4]` x1 y1 x2 y2 after 0, 1 … T refinement steps, in the frame that the candidates were given
            in; a refined box may reach out of the image a little (clip it last, when it has been mapped back).
        scores: `[N]` class scores of the base.
        labels: `[N]` int64, from 1.
        energies: `[T + 1, N]` f at each of these boxes; it never falls.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    energies: Tensor


def detect(
    head: ClassHead,
    pyramid: Pyramid,
    candidates: Sequence[Candidates],
    options: InferenceConfig,
    keep_level: bool = True,
    max_boxes: int = 16384,
) -> list[Detections]:
    """Returns the detections in each image of a pyramid, of its candidates."""
    boxes, scores, labels = (
        torch.cat([getattr(c, part) for c in candidates]) for part in ("boxes", "scores", "labels")
    )
    images = torch.cat([torch.full((len(c.boxes),), i, device=boxes.device) for i, c in enumerate(candidates)])  # [all]
    values = scores
    if options.nms_order == "f" and len(boxes):
        energy = BoxEnergy(head, pyramid, boxes, images, labels, keep_level, max_boxes)
        with torch.no_grad():
            values = energy(boxes.new_zeros(len(boxes), 1, 4))[:, 0]
    kept, kept_scores = [], []
    for image in range(len(candidates)):
        members = torch.nonzero(images == image)[:, 0]
        own = boxes[members], values[members], scores[members], labels[members]
        best, score = suppress(*own, options.nms_threshold, options.max_detections)
        kept.append(members[best])
        kept_scores.append(score)
    rows = torch.cat(kept)
    start = BoxEnergy(head, pyramid, boxes[rows], images[rows], labels[rows], keep_level, max_boxes)
    path, energies = refine(start, options.steps, options.step_centre, options.step_size)
    counts = [len(k) for k in kept]
    paths, of_paths = path.split(counts, dim=1), energies.split(counts, dim=1)
    return [Detections(*one) for one in zip(paths, kept_scores, labels[rows].split(counts), of_paths, strict=True)]


def true_boxes(
    settings: DetectionSettings, base: BaseDetector, images: Sequence[ImageFeatures], head: ClassHead
) -> BoxEnergy:
    """Returns the energy of the true boxes of some images, that have some."""
    boxes, labels = (torch.cat([getattr(image, name) for image in images]) for name in ("boxes", "labels"))
    owner = torch.tensor([place for place, image in enumerate(images) for _ in image.boxes], device=boxes.device)
    return BoxEnergy(head, pyramid(images, base.strides), boxes, owner, labels, settings.head.keep_level)
