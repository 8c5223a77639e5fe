"""Frozen features and base detections of a dataset's images, computed once and kept on disk where that is wanted.

Feature maps are always rounded to half precision, kept or not, so that the cache changes no result.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmbench.boxes.coordinates import flip_boxes
from ebmbench.boxes.pooling import Pyramid
from ebmbench.tasks.detection.architectures import Candidates
from ebmbench.tasks.detection.data import Dataset, Example
from ebmbench.tasks.detection.detector import BaseDetector, Features
from ebmbench.tasks.detection.read_ahead import ReadAhead

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
        self._ahead = ReadAhead(dataset)
        self._left = limit_mb * 2**20
        if self.enabled and folder.is_dir():
            self._left -= sum(path.stat().st_size for path in folder.glob("*.npz"))

    def expect(self, places: Iterable[tuple[int, bool]]) -> None:
        """Starts to read the images whose features are asked for next, where those are not kept."""
        self._ahead.expect(index for index, flipped in places if not self._is_kept(self._path(index, flipped)))

    def load(self, places: Sequence[tuple[int, bool]]) -> list[ImageFeatures | None]:
        """Returns the features of images, flipped or not; None for a bad image that the user allows to be skipped."""
        found: list[ImageFeatures | None] = []
        missing: dict[int, Example] = {}
        for number, (index, flipped) in enumerate(places):
            kept = self._read(self._path(index, flipped))
            found.append(None if kept is None else _from_arrays(kept, self.device))
            example = self._ahead.load(index) if kept is None else None
            if example is not None:
                missing[number] = _flipped(example) if flipped else example
        made = self.base.features([example.image for example in missing.values()])
        for (number, example), features in zip(missing.items(), made, strict=True):
            found[number] = self._keep_features(self._path(*places[number]), example, features)
        return found

    def with_candidates(
        self, indices: Sequence[int], score_threshold: float
    ) -> list[tuple[ImageFeatures, Candidates] | None]:
        """Returns the features and the base detector's candidates of images as they are; None for a bad image."""
        found: list[tuple[ImageFeatures, Candidates] | None] = []
        missing: dict[int, Example] = {}
        for number, index in enumerate(indices):
            kept, beside = self._read(self._path(index)), self._read(self._beside(index, score_threshold))
            if kept is not None and beside is not None:
                parts = (torch.from_numpy(beside[name]).to(self.device) for name in ("boxes", "scores", "labels"))
                found.append((_from_arrays(kept, self.device), Candidates(*parts)))
                continue
            found.append(None)
            example = self._ahead.load(index)
            if example is not None:
                missing[number] = example
        made = self.base.candidates([example.image for example in missing.values()], score_threshold)
        for (number, example), (features, boxes) in zip(missing.items(), made, strict=True):
            arrays = {name: getattr(boxes, name).cpu().numpy() for name in ("boxes", "scores", "labels")}
            self._keep(self._beside(indices[number], score_threshold), arrays)
            found[number] = self._keep_features(self._path(indices[number]), example, features), boxes
        return found

    def _path(self, index: int, flipped: bool = False) -> Path:
        return self.folder / f"{self.dataset.image_ids[index]}{'-flipped' if flipped else ''}.npz"

    def _beside(self, index: int, score_threshold: float) -> Path:
        return self.folder / f"{self.dataset.image_ids[index]}-candidates-{score_threshold}.npz"

    def _is_kept(self, path: Path) -> bool:
        return self.enabled and path.exists()

    def _read(self, path: Path) -> dict[str, NDArray[Any]] | None:
        if not self._is_kept(path):
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except _DAMAGED:
            path.unlink(missing_ok=True)  # it is made again
            return None

    def _keep_features(self, path: Path, example: Example, features: Features) -> ImageFeatures:
        size, original = features.size, (int(example.image.shape[1]), int(example.image.shape[2]))
        scale = torch.tensor([size[1] / original[1], size[0] / original[0]]).repeat(2)
        result = ImageFeatures(
            features.maps,
            size,
            original,
            (example.boxes * scale).to(self.device),
            self.base.labels(example.categories).to(self.device),
        )
        self._keep(path, _to_arrays(result))
        return result

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


def _flipped(example: Example) -> Example:
    image = example.image.flip(-1)
    return Example(image, flip_boxes(example.boxes, image.shape[-1]), example.categories)


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


@dataclass
class Frozen:
    """What all seeds and methods of a process share."""

    train: FeatureStore
    scored: FeatureStore
    val: FeatureStore | None = None  # for the history, and on which a head is accepted or not
