"""A frozen base detector: feature maps, candidates, and the layers that the energy's hidden layers start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from ebmbench.core.errors import UserError
from ebmbench.tasks.detection.architectures import Architecture, Candidates

HIDDEN = 1024
"""Width of the energy's hidden layers where the detector has no box head to start from."""


@dataclass(frozen=True)
class Features:
    """The frozen features of an image.

    Attributes:
        maps: pyramid levels that boxes are pooled from, finest first, `[C, H_l, W_l]` each, in half precision.
        size: height and width after resizing, without padding.
    """

    maps: list[Tensor]
    size: tuple[int, int]


class BaseDetector:
    """A frozen detector in evaluation mode.

    Args:
        kind: what it is.
        model: its network.
        category_ids: the dataset's category id of label 1, 2, …
    """

    def __init__(self, kind: Architecture, model: nn.Module, category_ids: Sequence[int]) -> None:
        self.kind = kind
        self.model: Any = model.eval().requires_grad_(False)
        self.category_ids = tuple(category_ids)
        self._label_of = {category: label for label, category in enumerate(self.category_ids, start=1)}
        self.strides = list(kind.strides)

    @property
    def num_classes(self) -> int:
        """With the background."""
        return len(self.category_ids) + 1

    @property
    def has_box_head(self) -> bool:
        """Whether there are layers for the energy's to start from."""
        return self.kind.hidden_layers(self.model) is not None

    @property
    def hidden_layers(self) -> tuple[nn.Linear, nn.Linear]:
        """The two hidden layers of the box head, which the energy's start from; else two of the shape to give them."""
        found = self.kind.hidden_layers(self.model)
        if found is not None:
            return found
        device = next(self.model.parameters()).device
        channels = self.model.backbone.out_channels
        return nn.Linear(49 * channels, HIDDEN, device=device), nn.Linear(HIDDEN, HIDDEN, device=device)

    def labels(self, categories: Tensor) -> Tensor:
        """The detector's labels of category ids: `[N] -> [N]`.

        Raises:
            UserError: a category that the detector does not know.
        """
        try:
            return torch.tensor([self._label_of[c] for c in categories.tolist()], dtype=torch.int64)
        except KeyError as error:
            raise UserError(
                f"The base detector does not know category {error.args[0]} of the dataset; it knows "
                f"{len(self.category_ids)} of them: task.base.weights must have been trained on this dataset."
            ) from None

    def to(self, device: torch.device | str) -> BaseDetector:
        """Moves the model to a device; returns the detector."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def features(self, images: Sequence[Tensor]) -> list[Features]:
        """The pyramid levels that boxes are pooled from, of uint8 images `[3, H, W]` of any sizes."""
        found: dict[int, Features] = {}
        for places, batch in self._batches(images):
            found |= zip(places, self._features(self._maps(batch), batch), strict=True)
        return [found[place] for place in range(len(images))]

    @torch.no_grad()
    def candidates(self, images: Sequence[Tensor], score_threshold: float) -> list[tuple[Features, Candidates]]:
        """Features, and every class-specific box whose class score is above the threshold."""
        found: dict[int, tuple[Features, Candidates]] = {}
        for places, batch in self._batches(images):
            maps = self._maps(batch)
            boxes = self.kind.candidates(self.model, batch, maps, score_threshold)
            found |= zip(places, zip(self._features(maps, batch), boxes, strict=True), strict=True)
        return [found[place] for place in range(len(images))]

    def _batches(self, images: Sequence[Tensor]) -> Iterator[tuple[list[int], ImageList]]:
        """Yields batches of resized, normalised, padded images, and the places of these images.

        On a GPU those of one padded size are taken together, else each image alone: what is made of an image must not
        depend on which others are there, and a CPU gains little by more than one.
        """
        device = next(self.model.parameters()).device
        groups: dict[Any, list[tuple[int, ImageList]]] = {}
        for place, image in enumerate(images):
            one, _ = self.model.transform([image.to(device, non_blocking=True).float() / 255])
            key = one.tensors.shape if device.type == "cuda" else place
            groups.setdefault(key, []).append((place, one))
        for group in groups.values():
            tensors, sizes = [one.tensors for _, one in group], [size for _, one in group for size in one.image_sizes]
            yield [place for place, _ in group], ImageList(torch.cat(tensors), sizes)

    def _maps(self, batch: ImageList) -> dict[str, Tensor]:
        """All maps of the backbone; a GPU computes them in half precision, to which they are rounded afterwards."""
        device = batch.tensors.device
        with torch.autocast(device.type, dtype=torch.float16, enabled=device.type == "cuda"):
            maps = self.model.backbone(batch.tensors)
        return {name: level.float() for name, level in maps.items()}

    def _features(self, maps: Mapping[str, Tensor], batch: ImageList) -> list[Features]:
        levels = [maps[level].half() for level in self.kind.levels]
        return [Features([m[place] for m in levels], size) for place, size in enumerate(batch.image_sizes)]
