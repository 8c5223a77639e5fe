"""The videos of a run: made ones, pseudo videos from photographs, and sequences of a folder."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.registry import register
from ebmbench.core.settings import Component
from ebmbench.tasks.detection.data import BAD_IMAGE, NAME, NAME_TEXT, hash_of, read_image
from ebmbench.tasks.detection.layouts import MineData
from ebmbench.tasks.tracking import made
from ebmbench.tasks.tracking.scores import is_valid
from ebmbench.tasks.tracking.videos import Video, read_videos

TRAIN_FRAMES, TRAIN_SPAN = 4, 40
"""Frames of a training video, and the number of frames that they are spread over."""
LEAST_SIDE, MOST_SIDE = 24, 480
"""Pixels: the least side of an object of a photograph, and the longest side that a photograph is reduced to."""
MADE, PSEUDO = "made", "pseudo"


@register
class VideoData(Component):
    """Made videos, pseudo videos from photographs with boxes, and the sequences of a folder to be scored on."""

    group: ClassVar[str] = "data"
    chosen_by: ClassVar[str] = "source"
    source: ClassVar[str] = "videos"

    name: str = Field("videos", pattern=NAME, description=NAME_TEXT)
    root: str | None = Field(
        None, min_length=1, description="the folder of sequences that are scored; null: made test videos alone"
    )
    photographs: str | None = Field(
        None, min_length=1, description="a folder of images with boxes (COCO, VOC), for pseudo videos; null: none"
    )
    max_photographs: int = Field(300, ge=1, le=100_000, description="photographs that are used of each split, at most")
    data_seed: int = Field(0, ge=0, lt=2**31, description="of all made and pseudo videos")
    num_train: int = Field(400, ge=2, le=100_000, description="training videos of each kind, made and pseudo")
    num_val: int = Field(12, ge=2, le=10_000, description="validation videos of each kind")
    num_test: int = Field(16, ge=1, le=10_000, description="made test videos")
    frames: int = Field(60, ge=2, le=10_000, description="of a validation or test video")

    @override
    def identity(self) -> dict[str, Any]:
        """Returns the settings, with hashes of files in the place of their folders."""
        found = {key: value for key, value in super().identity().items() if key not in ("root", "photographs")}
        found["version"] = made.VERSION
        if self.root is not None:
            found["content"] = hash_of([(v.name, v.content, repr(v.boxes.tolist())) for v in _sequences(self.root)])
        if self.photographs is not None:
            found["photographs"] = [_part(self.photographs, split).content for split in ("train", "val")]
        return found

    def train(self) -> list[Video]:
        """Returns the training videos: a few frames of each."""
        return [video for videos in _videos(self, "train").values() for video in videos]

    def val(self) -> dict[str, list[Video]]:
        """Returns the validation videos by kind."""
        return _videos(self, "val")

    def test(self) -> dict[str, list[Video]]:
        """Returns the sets of sequences that are scored, by name; the first one is what the headline is of."""
        sequences = {} if self.root is None else {self.name: _sequences(self.root)}
        return {**sequences, **_videos(self, "test")}


@lru_cache(maxsize=4)
def _sequences(root: str) -> list[Video]:
    videos = read_videos(Path(root).expanduser())
    if not any(is_valid(video.boxes[1:]).any() for video in videos):
        raise UserError(
            f"data.root={root}: no sequence has a true box after the first, so there is nothing to score; "
            "`ebmbench predict` tracks such videos"
        )
    return videos


@lru_cache(maxsize=8)
def _videos(data: VideoData, split: str) -> dict[str, list[Video]]:
    number = ("train", "val", "test").index(split)
    count = (data.num_train, data.num_val, data.num_test)[number]
    rngs = [[np.random.default_rng([data.data_seed, number, kind, i]) for i in range(count)] for kind in (0, 1)]

    def places(rng: np.random.Generator) -> list[int]:
        if split != "train":
            return list(range(data.frames))
        return sorted(rng.choice(TRAIN_SPAN, TRAIN_FRAMES, replace=False).tolist())

    photographs: list[made.Photograph] = []
    if data.photographs is not None and split != "test":
        photographs = _photographs(data.photographs, split, data.max_photographs)
    found = {MADE: [made.made_video(rng, f"{MADE}-{i}", places(rng)) for i, rng in enumerate(rngs[0])]}
    if photographs:
        found[PSEUDO] = [
            made.pseudo_video(rng, f"{PSEUDO}-{i}", places(rng), photographs) for i, rng in enumerate(rngs[1])
        ]
    return found


def _part(root: str, split: str) -> Any:
    if not Path(root).expanduser().is_dir():
        raise UserError(f"data.photographs={root} is not a folder of images with boxes")
    return MineData(root=root, groups="none").part(split)


@lru_cache(maxsize=4)
def _photographs(root: str, split: str, most: int) -> list[made.Photograph]:
    part = _part(root, split)
    outlines: dict[int, list[np.ndarray]] = {}
    for entry in part.annotations["annotations"]:
        x, y, w, h = entry["bbox"]
        parts = entry.get("segmentation")
        if entry["iscrowd"] or min(w, h) < LEAST_SIDE:
            continue
        box = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], dtype=float)
        # Of an object in several parts the outline is unknown.
        polygon = isinstance(parts, list) and len(parts) == 1 and len(parts[0]) >= 6
        outlines.setdefault(entry["image_id"], []).append(np.reshape(parts[0], (-1, 2)) if polygon else box)
    images = [image for image in part.annotations["images"] if image["id"] in outlines]
    order = np.random.default_rng(0).permutation(len(images))[:most]
    found = [_photograph(part.folder / images[i]["file_name"], outlines[images[i]["id"]]) for i in order]
    readable = [photograph for photograph in found if photograph is not None]
    if not readable:
        raise UserError(
            f"data.photographs={root}: no image of the {split} split with a box of {LEAST_SIDE} pixels or more"
        )
    return readable


def _photograph(path: Path, outlines: list[np.ndarray]) -> made.Photograph | None:
    try:
        image: Image.Image = read_image(path)
    except BAD_IMAGE:
        return None
    share = min(1.0, MOST_SIDE / max(image.size))
    size = [max(8, round(share * side)) for side in image.size]
    scale = np.array(size) / image.size
    return made.Photograph(image.resize(size), tuple(outline * scale for outline in outlines))
