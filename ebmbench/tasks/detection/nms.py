"""Non-maximum suppression in the order of any value."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from ebmbench.tasks.detection.architectures import Candidates
from ebmbench.tasks.detection.config import InferenceConfig


def base_detections(found: Candidates, options: InferenceConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Returns boxes, scores and labels that the base detector itself reports: NMS in the order of the class score."""
    limits = options.nms_threshold, options.max_detections
    kept, scores = suppress(found.boxes, found.scores, found.scores, found.labels, *limits)
    return found.boxes[kept], scores, found.labels[kept]


def suppress(
    boxes: Tensor, order: Tensor, scores: Tensor, labels: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Per-class NMS of one image in the order of any value: which boxes stay, and the scores they take.

    Greedy: the highest value first; it stays and suppresses the boxes of its class that overlap it by more than the
    threshold. It takes the highest class score among itself and those it suppresses. The best `limit` by score stay, in
    that order. With `order = scores` this is the ordinary NMS.

    Args:
        boxes: `[N, 4]`; order, scores: `[N]`; labels: `[N]` int64.
        order: a value that is not a number counts as the lowest.
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device), scores
    order = order.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    # torchvision moves the boxes of each class apart by the largest coordinate: none may be negative.
    kept = batched_nms((boxes - boxes.min()).float(), order.float(), labels, threshold)
    over = (box_iou(boxes[kept].float(), boxes.float()) > threshold) & (labels[kept, None] == labels)
    over[torch.arange(len(kept), device=boxes.device), kept] = True  # a box without area overlaps nothing
    suppressor = over.int().argmax(0)  # the first, hence highest, kept box that overlaps it
    counted = torch.where(over.any(0), scores, -torch.inf)  # the two IoUs may differ in the last bit
    taken = scores[kept].scatter_reduce(0, suppressor, counted, "amax")
    best = taken.argsort(descending=True, stable=True)[:limit]
    return kept[best], taken[best]
