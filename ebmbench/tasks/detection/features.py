"""Frozen features and base detections of a dataset's images, computed once and kept on disk where that is wanted.

Feature maps are always rounded to half precision, kept or not, so that the cache changes no result.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmbench.tasks.detection.architectures import Candidates
from ebmbench.tasks.detection.base import BaseDetector, Features
from ebmbench.tasks.detection.data import Dataset, Example, flip_boxes
from ebmbench.tasks.detection.pooling import Pyramid

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class ImageFeatures:
    """One image as the energy sees it.

    Attributes:
        maps: pyramid levels, finest first, `[C, H_l, W_l]` half precision each.
        size: height and width after resizing.
        original: height and width before.
        boxes: `[N, 4]` the ground truth in the resized frame.
        labels: `[N]` the detector's labels.
    """

    maps: list[Tensor]
    size: tuple[int, int]
    original: tuple[int, int]
    boxes: Tensor
    labels: Tensor

    @property
    def scale(self) -> Tensor:
        """The factors of x1 y1 x2 y2 from the resized frame to the image as it was, `[4]`."""
        return self.boxes.new_tensor([self.original[1] / self.size[1], self.original[0] / self.size[0]]).repeat(2)

    def in_image(self, boxes: Tensor) -> Tensor:
        """Returns boxes of the resized frame in the image as it was, cut at its edges: `[..., 4]`."""
        limit = boxes.new_tensor([self.original[1], self.original[0]]).repeat(2)
        return torch.minimum((boxes * self.scale).clamp(min=0), limit)


class FeatureStore:
    """The features of a split's images, by place in the split and whether flipped.

    Args:
        folder: where features are kept, shared by all runs with the same base detector; those of each content of a
            split are in a folder of their own.
        limit_mb: no more than this is kept of a split; 0 keeps none.
    """

    def __init__(self, base: BaseDetector, dataset: Dataset, folder: Path, limit_mb: int) -> None:
        self.base, self.dataset, self.folder = base, dataset, folder / dataset.content
        self.device = next(base.model.parameters()).device
        self.enabled = limit_mb > 0
        self._left = limit_mb * 2**20
        if self.enabled and folder.is_dir():
            self._left -= sum(path.stat().st_size for path in folder.glob("*.npz"))

    def load(self, index: int, flipped: bool = False) -> ImageFeatures | None:
        """Returns an image's features; None for a bad image that the user allows to be skipped."""
        path = self._path(index, "-flipped" if flipped else "")
        kept = self._read(path)
        if kept is not None:
            return _from_arrays(kept, self.device)
        example = self.dataset.load(index)
        if example is None:
            return None
        if flipped:
            image = example.image.flip(-1)
            example = Example(image, flip_boxes(example.boxes, image.shape[-1]), example.categories)
        return self._keep_features(path, example, self.base.features([example.image]))

    def with_candidates(self, index: int, score_threshold: float) -> tuple[ImageFeatures, Candidates] | None:
        """Returns the features and the base detector's candidates of the image as it is; None for a bad image."""
        path, beside = self._path(index), self._path(index, f"-candidates-{score_threshold}")
        kept, kept_beside = self._read(path), self._read(beside)
        if kept is not None and kept_beside is not None:
            parts = (torch.from_numpy(kept_beside[name]).to(self.device) for name in ("boxes", "scores", "labels"))
            return _from_arrays(kept, self.device), Candidates(*parts)
        example = self.dataset.load(index)
        if example is None:
            return None
        features, (found,) = self.base.candidates([example.image], score_threshold)
        arrays = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}
        self._keep(beside, {name: value.cpu().numpy() for name, value in arrays.items()})
        return self._keep_features(path, example, features), found

    def _path(self, index: int, ending: str = "") -> Path:
        return self.folder / f"{self.dataset.image_ids[index]}{ending}.npz"

    def _read(self, path: Path) -> dict[str, NDArray[Any]] | None:
        if not self.enabled or not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except _DAMAGED:
            path.unlink(missing_ok=True)  # it is made again
            return None

    def _keep_features(self, path: Path, example: Example, features: Features) -> ImageFeatures:
        size, original = features.sizes[0], (int(example.image.shape[1]), int(example.image.shape[2]))
        scale = torch.tensor([size[1] / original[1], size[0] / original[0]]).repeat(2)
        result = ImageFeatures(
            [level[0].half() for level in features.maps],
            size,
            original,
            (example.boxes * scale).to(self.device),
            self.base.labels(example.categories).to(self.device),
        )
        self._keep(path, _to_arrays(result))
        return result

    def num_boxes(self) -> list[int]:
        """How many boxes there are to learn from in each image; known without its features."""
        return [self.dataset.num_boxes(index) for index in range(len(self.dataset.image_ids))]

    def _keep(self, path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        if self._left <= 0 or path.exists():
            return
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        content = buffer.getvalue()
        if len(content) > self._left:
            self._left = 0  # full: nothing more is written, and what is there is still read
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)  # not synced to the disk: a damaged file is made again
        os.replace(temporary, path)
        self._left -= len(content)


def _to_arrays(features: ImageFeatures) -> dict[str, NDArray[Any]]:
    arrays = {f"map{level}": m.cpu().numpy() for level, m in enumerate(features.maps)}
    arrays |= {"boxes": features.boxes.cpu().numpy(), "labels": features.labels.cpu().numpy()}
    return {**arrays, "sizes": np.array([features.size, features.original])}


def _from_arrays(arrays: dict[str, NDArray[Any]], device: torch.device) -> ImageFeatures:
    levels = sum(name.startswith("map") for name in arrays)
    size, original = arrays["sizes"].tolist()
    return ImageFeatures(
        [torch.from_numpy(arrays[f"map{level}"]).to(device) for level in range(levels)],
        (size[0], size[1]),
        (original[0], original[1]),
        torch.from_numpy(arrays["boxes"]).to(device),
        torch.from_numpy(arrays["labels"]).to(device),
    )


def pyramid(images: Sequence[ImageFeatures], strides: Sequence[int]) -> Pyramid:
    """The feature maps of images of any sizes, in single precision, to pool boxes from."""
    return Pyramid.stack(
        [Pyramid.from_maps([level[None].float() for level in image.maps], strides) for image in images]
    )
