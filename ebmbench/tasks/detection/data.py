"""The images and boxes of a split: made shapes, or any dataset in COCO's format.

Boxes are x1 y1 x2 y2 in pixels of the image as loaded; labels are the dataset's own category ids. Nothing that a file
holds is unpickled or evaluated, and no image outside the image folder is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import sys
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError, counted, shown
from ebmbench.core.registry import register
from ebmbench.core.settings import Component
from ebmbench.system import distributed
from ebmbench.system.files import fingerprint_of_file
from ebmbench.tasks.detection import shapes
from ebmbench.tasks.pixels import eight_bits

if TYPE_CHECKING:
    from pycocotools.coco import COCO
    from torch import Tensor

Split = str
"""train, val or test."""


@dataclass(frozen=True)
class Example:
    """One image with what is to be learned from it.

    Attributes:
        image: `[3, H, W]` uint8, RGB.
        boxes: `[N, 4]` float32, neither crowds nor degenerate boxes.
        categories: `[N]` int64, category ids.
    """

    image: Tensor
    boxes: Tensor
    categories: Tensor


class Dataset(Protocol):
    """A split of a dataset."""

    split: Split
    categories: dict[int, str]  # category id -> name, by rising id
    image_ids: list[int]  # of the images in order; of a training split only those with a box to learn from
    negatives: list[int]  # images of a training split without a box; their places follow those of `image_ids`
    notes: list[str]  # what was left out, a sentence each
    content: str  # a hash of all that its images and boxes depend on
    turned: bool  # whether images are turned by their EXIF tags
    workers: int | None  # threads that read images ahead: 0 where they are in memory, None: by the cores

    def load(self, index: int) -> Example | None:
        """The example at a place in `image_ids`; None for a bad image that the user allows to be skipped."""
        ...

    def num_boxes(self, index: int) -> int:
        """How many boxes there are to learn from in an image."""
        ...

    def ground_truth(self) -> COCO:
        """All annotations, crowds included, as COCOeval takes them."""
        ...


SPLITS = ("train", "val", "test")
NAME = r"^[a-z0-9][a-z0-9_.-]{0,40}$"
NAME_TEXT = "at most 41 lower-case letters, digits, _ . and -"


class ImageData(Component):
    """Images with boxes. A subclass sets `source`; `name` is the dataset's name in runs and tables."""

    group: ClassVar[str] = "data"
    chosen_by: ClassVar[str] = "source"
    source: ClassVar[str]

    name: str = Field(pattern=NAME, description=NAME_TEXT)
    short_side: int = Field(800, ge=32, le=4096, description="images are resized to this short side, in pixels")
    long_side: int = Field(1333, ge=32, le=4096, description="the longest that a long side may be, in pixels")
    eval_split: Literal["val", "test"] = Field("val", description="the split that is scored")

    @abstractmethod
    def open(self, split: str) -> Dataset:
        """Returns a split: train, val or test.

        Raises:
            UserError: it is not there, or cannot be used.
        """

    def has(self, split: str) -> bool:
        """Returns whether there is such a split."""
        return True

    @property
    def sides(self) -> tuple[int, int]:
        """The short side that images are resized to, and the longest that the long one may be."""
        return self.short_side, self.long_side

    def of_base(self) -> ImageData:
        """Returns the data whose training split the base detector is trained on: the same, if nothing else is said."""
        return self

    def training_identity(self) -> dict[str, Any]:
        """Returns what a detector that is trained on the training split depends on."""
        return {
            key: value
            for key, value in self.identity().items()
            if key not in ("eval_split", "eval_content", "val_content")
        }


@register
class ShapesData(ImageData):
    """Made images: rotated, textured, overlapping, partly occluded shapes on structured noise. Nothing to download."""

    source = "shapes"

    name: str = Field("shapes", pattern="^shapes$", description="shapes")
    data_seed: int = Field(0, ge=0, lt=2**31, description="the draw of all images")
    base_seed: int | None = Field(
        None, ge=0, lt=2**31, description="the draw of images that the base detector is trained on; null: the same"
    )
    num_train: int = Field(2000, ge=1, le=1_000_000, description="training images")
    num_val: int = Field(500, ge=1, le=1_000_000, description="validation images")
    num_test: int = Field(500, ge=1, le=1_000_000, description="test images")
    annotation_noise: float = Field(
        0.0, ge=0, le=1, description="standard deviation of noise on the training boxes, in (cx/w, cy/h, log w, log h)"
    )
    short_side: int = Field(128, ge=32, le=4096, description="images are resized to this short side, in pixels")
    long_side: int = Field(128, ge=32, le=4096, description="the longest that a long side may be, in pixels")
    eval_split: Literal["val", "test"] = Field("test", description="the split that is scored; val is for choices")

    @override
    def open(self, split: str) -> Dataset:
        return ShapesDataset(self, split)

    @override
    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "version": shapes.VERSION}

    @override
    def of_base(self) -> ShapesData:
        if self.base_seed is None:
            return self
        return self.model_copy(update={"data_seed": self.base_seed, "base_seed": None})

    @override
    def training_identity(self) -> dict[str, Any]:
        return {key: value for key, value in super().training_identity().items() if key not in ("num_val", "num_test")}


class FileData(ImageData):
    """Images in files, with annotations as COCO has them. A subclass says where they are."""

    root: str | None = Field(None, description="the folder that holds the images and their annotations")
    skip_bad_images: bool = Field(False, description="leave out images that are missing or damaged")
    num_train: int | None = Field(
        None, ge=1, description="training images that are used, drawn once for all; null: all of them"
    )
    workers: int | None = Field(
        None, ge=0, le=256, description="threads that read images ahead; null: by the cores; changes no result"
    )

    @abstractmethod
    def part(self, split: str) -> Part:
        """Returns the annotations and the image folder of a split.

        Raises:
            UserError: they are not there, or cannot be used.
        """

    @override
    def open(self, split: str) -> Dataset:
        return CocoDataset(self, split)

    @override
    def identity(self) -> dict[str, Any]:
        """Returns the settings, with hashes of the files in the place of their names: edited data are other data."""
        files = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "annotations")]
        files += ["root", "skip_bad_images", "workers"]
        found = {key: value for key, value in super().identity().items() if key not in files}
        splits = {"train": "train", "val": "val", "eval": self.eval_split}
        return {**found, **{f"{name}_content": self.content(split) for name, split in splits.items()}}

    @override
    def has(self, split: str) -> bool:
        return self.content(split) is not None

    def content(self, split: str) -> str | None:
        """Returns a hash of a split's annotations and of its images' sizes, None where they cannot be read."""
        try:
            return self.part(split).content
        except (UserError, OSError):
            return None


@register
class CocoData(FileData):
    """COCO 2017, or any dataset in its format: `data=coco data.name=mine data.root=/data/mine`."""

    source = "coco"

    name: str = Field("coco", pattern=NAME, description=NAME_TEXT)
    train_images: str = "train2017"
    train_annotations: str = "annotations/instances_train2017.json"
    val_images: str = "val2017"
    val_annotations: str = "annotations/instances_val2017.json"
    test_images: str | None = None
    test_annotations: str | None = None

    @override
    def part(self, split: str) -> Part:
        if self.root is None:
            raise UserError(
                f"data.root is not given: the folder that holds {self.train_annotations} and {self.train_images}."
            )
        annotations, images = getattr(self, f"{split}_annotations"), getattr(self, f"{split}_images")
        if annotations is None or images is None:
            raise UserError(
                f"data.{split}_annotations and data.{split}_images are not given: {self.name} has no "
                f"{split} split (data.eval_split={self.eval_split})."
            )
        root = Path(self.root).expanduser()
        return Part.of_file(root / annotations, root / images)


def open_split(config: ImageData, split: Split) -> Dataset:
    """The split of the configured dataset; says what is left out of it, once however often it is opened.

    Raises:
        UserError: the annotations are missing or not COCO's format, name an image that is not there, or hold no box.
    """
    dataset = config.open(split)
    if distributed.world()[0] == 0:
        for note in dataset.notes:
            _say_once(dataset.content, note)
    return dataset


@cache
def _say_once(content: str, note: str) -> None:
    print(f"ebmbench: {note}", file=sys.stderr, flush=True)


made_image = lru_cache(maxsize=4096)(shapes.make_image)
"""Drawn when first asked for and kept, 48 KiB each: a run opens its splits more than once."""


class ShapesDataset:
    """Made images (see `shapes`)."""

    workers: int | None = 0
    turned = True
    negatives: list[int] = []  # noqa: RUF012

    def __init__(self, config: ShapesData, split: Split) -> None:
        self.config = config
        self.split = split
        self.categories = dict(enumerate(shapes.CLASSES, start=1))
        count = {"train": config.num_train, "val": config.num_val, "test": config.num_test}[split]
        self.image_ids = list(range(1, count + 1))
        self.notes: list[str] = []
        noise = config.annotation_noise if split == "train" else 0
        self.content = hash_of([shapes.VERSION, config.data_seed, split, noise])

    def _make(self, index: int) -> shapes.ShapesImage:
        return made_image(self.config.data_seed, self.split, index)

    def load(self, index: int) -> Example:
        """Returns an image with its boxes."""
        made = self._make(index)
        boxes = made.boxes
        if self.split == "train" and self.config.annotation_noise:
            boxes = shapes.annotation_noise(boxes, self.config.annotation_noise, self.config.data_seed, index)
        return Example(
            image=torch.from_numpy(made.image).permute(2, 0, 1).contiguous(),
            boxes=torch.from_numpy(boxes),
            categories=torch.from_numpy(made.labels),
        )

    def num_boxes(self, index: int) -> int:
        """Returns how many true boxes an image has."""
        return len(self._make(index).boxes)

    def ground_truth(self) -> COCO:
        """Returns the true boxes as pycocotools takes them."""
        annotations = []
        for index, image_id in enumerate(self.image_ids):
            made = self._make(index)
            for (x1, y1, x2, y2), label in zip(made.boxes.tolist(), made.labels.tolist(), strict=True):
                box = [x1, y1, x2 - x1, y2 - y1]
                about = {"image_id": image_id, "category_id": label, "iscrowd": 0}
                annotations.append({**about, "bbox": box, "area": box[2] * box[3]})
        images = [{"id": i, "width": shapes.SIZE, "height": shapes.SIZE} for i in self.image_ids]
        return as_coco(images, annotations, self.categories)


def as_coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], categories: dict[int, str]) -> COCO:
    """A pycocotools object without a file. Annotations are numbered from 1: COCOeval takes a match with 0 for none."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": images,
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


@dataclass(frozen=True)
class Part:
    """A split's annotations in COCO's format, and where its images are.

    Attributes:
        file: what they were read from, for people.
        annotations: the checked tables images, annotations and categories.
        folder: that the images' file names are in.
        digest: a hash of the annotations.
        notes: what people should know of how they were read, a sentence each.
        drawn: whether its images were taken at random from those for training; drawn_from: whether others were.
    """

    file: Path
    annotations: dict[str, list[dict[str, Any]]]
    folder: Path
    digest: str
    notes: tuple[str, ...] = ()
    drawn: bool = False
    drawn_from: bool = False

    @staticmethod
    def of_file(file: Path, folder: Path) -> Part:
        """Reads an annotation file; raises UserError where it is not in COCO's format."""
        return Part(file, read_annotations(file), folder, fingerprint_of(file))

    def only(self, ids: set[int]) -> Part:
        """Returns the part of some images."""
        tables = dict(self.annotations)
        tables["images"] = [image for image in tables["images"] if image["id"] in ids]
        tables["annotations"] = [one for one in tables["annotations"] if one["image_id"] in ids]
        return replace(self, annotations=tables, digest=hash_of([self.digest, sorted(ids)]))

    def some(self, count: int) -> Part:
        """Returns the part of so many images that have annotations; a larger one holds a smaller one."""
        ids = sorted({one["image_id"] for one in self.annotations["annotations"]})
        order = np.random.default_rng(0).permutation(len(ids))
        return self.only({ids[place] for place in order[:count]})

    @property
    def files(self) -> list[Path]:
        """The image files."""
        return [self.folder / str(image["file_name"]) for image in self.annotations["images"]]

    @property
    def content(self) -> str:
        """A hash of the annotations, and of the images' sizes."""
        return hash_of([self.digest, [size_of(path) for path in self.files]])


class CocoDataset:
    """A split in COCO's format: a JSON file of annotations and a folder of images.

    Grey, CMYK, palette and 16-bit images become RGB. One rule holds for images with an EXIF tag, here and in
    prediction: they are turned where the annotations' width and height fit a turned image and not the stored one; else,
    if there are any, they are taken as stored, as torchvision does.
    """

    def __init__(self, config: FileData, split: Split) -> None:
        self.config, self.split = config, split
        part = config.part(split)
        if split == "train" and config.num_train is not None:
            part = part.some(config.num_train)
        self.folder, self.annotation_file, self.content = part.folder, part.file, part.content
        self.workers, self._sides = config.workers, config.sides
        self.notes = list(part.notes)
        self.bad_images: set[int] = set()
        self._images = {image["id"]: image for image in part.annotations["images"]}
        self._annotations = part.annotations["annotations"]
        categories = sorted(part.annotations["categories"], key=lambda category: category["id"])
        self.categories = {category["id"]: str(category["name"]) for category in categories}
        self._check_names()
        self._boxes: dict[int, list[tuple[list[float], int]]] = {image_id: [] for image_id in self._images}
        crowds = slivers = ignored = 0
        for annotation in self._annotations:
            x, y, w, h = annotation["bbox"]
            image = self._images[annotation["image_id"]]
            x1, y1 = max(x, 0.0), max(y, 0.0)
            x2, y2 = min(x + w, float(image["width"])), min(y + h, float(image["height"]))
            if annotation["iscrowd"]:
                crowds += 1
            elif annotation.get("ignore"):
                ignored += 1
            elif x2 - x1 < 1 or y2 - y1 < 1:
                slivers += 1
            else:
                self._boxes[image["id"]].append(([x1, y1, x2, y2], annotation["category_id"]))
        self.image_ids = list(self._images)
        self.turned = self._are_turned()
        self._check_form()
        empty = [image_id for image_id, boxes in self._boxes.items() if not boxes]
        if len(empty) == len(self.image_ids):
            more = "; another data.split_seed draws another split" if part.drawn else ""
            raise UserError(
                f"{self.annotation_file}: {counted(len(empty), 'image')} of the {self.split} split, and no box in them "
                f"to learn from or to score{more}"
            )
        training = self.split == "train"
        self.negatives: list[int] = []
        if training:
            self.image_ids = [image_id for image_id in self.image_ids if self._boxes[image_id]]
            self.negatives = empty[: len(self.image_ids)]
        where, left = f"{self.annotation_file.name}, {self.split} split", "left out of training"
        for count, what, scored in (
            (crowds, counted(crowds, "crowd box", "crowd boxes"), "ignored by the scores"),
            (ignored, counted(ignored, "box", "boxes") + " to be ignored", "ignored by the scores"),
            (slivers, f"{counted(slivers, 'box', 'boxes')} under a pixel inside the image", "kept in the scores"),
        ):
            if count:
                self.notes.append(f"{where}: {what}, {left if training else scored}.")
        if training and empty:
            few = "" if len(self.negatives) == len(empty) else f"; {len(self.negatives)} of them are used"
            self.notes.append(
                f"{where}: {counted(len(empty), 'image')} without boxes, for the base detector alone{few}."
            )
        self._check_classes(where)
        self._check_files()
        self._check_images()

    def _check_names(self) -> None:
        """Says where two classes differ in case alone, which is a slip more often than not."""
        seen: dict[str, str] = {}
        for name in self.categories.values():
            other = seen.setdefault(name.casefold(), name)
            if other != name:
                self.notes.append(
                    f"{self.annotation_file.name}: {other!r} and {name!r} are two classes; they differ in case alone."
                )

    def _check_form(self) -> None:
        """Refuses boxes that are none of COCO's: fractions of the image, or two corners.

        They are taken for corners where all of them lie in their images as such, and a third does not otherwise.
        """
        boxes = [(a["bbox"], self._images[a["image_id"]]) for a in self._annotations]
        if boxes and all(max(box) <= 1 for box, _ in boxes):
            raise UserError(
                f"{self.annotation_file}: all boxes are fractions; COCO's are in pixels: x, y, width, height"
            )

        def is_in(x2: float, y2: float, image: dict[str, Any]) -> bool:
            return x2 <= 1.05 * image["width"] + 1 and y2 <= 1.05 * image["height"] + 1

        outside = sum(not is_in(x + w, y + h, image) for (x, y, w, h), image in boxes)
        if 3 * outside > len(boxes) and all(x < w and y < h and is_in(w, h, image) for (x, y, w, h), image in boxes):
            raise UserError(f"{self.annotation_file}: the boxes are x1, y1, x2, y2; COCO's are x, y, width, height")

    def _are_turned(self) -> bool:
        """Returns whether images with an EXIF tag are turned by it: true where none has one."""
        tagged = stored = False
        for image in list(self._images.values())[:CHECKED_IMAGES]:
            sizes = sizes_by_tag(self.folder / image["file_name"])
            if sizes is not None:
                wanted = (image["width"], image["height"])
                if wanted == sizes[1] != sizes[0]:
                    return True
                tagged, stored = True, stored or wanted == sizes[0]
        return not (tagged and stored)

    def _check_classes(self, where: str) -> None:
        """Says which classes have no box to learn from."""
        if self.split == "train":
            known = {category for boxes in self._boxes.values() for _, category in boxes}
            missing = [repr(name) for number, name in self.categories.items() if number not in known]
            if missing:
                self.notes.append(f"{where}: no box of {', '.join(missing[:9])} to learn from.")

    def _path(self, image: dict[str, Any]) -> Path:
        name = image["file_name"]
        path = os.path.normpath(name)
        if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir or "\0" in name:
            raise UserError(
                f"{self.annotation_file}: file_name {name!r} of image {image['id']} leads out of the image folder."
            )
        return self.folder / path

    def _check_files(self) -> None:
        """Names a missing image before anything is trained."""
        if not self.folder.is_dir():
            raise UserError(f"The image folder {self.folder} of data's {self.split} split does not exist.")
        present = {entry.name for entry in os.scandir(self.folder)}
        for image_id in self.image_ids:
            image = self._images[image_id]
            path = self._path(image)
            if path.name in present if path.parent == self.folder else os.path.exists(path):
                continue
            if not self.config.skip_bad_images:
                raise UserError(
                    f"{self.annotation_file}: image {image_id} ({shown(image['file_name'])}) is not in {self.folder}; "
                    "data.skip_bad_images=true leaves out such images."
                )

    def _check_images(self) -> None:
        """Reads every image once, so that a damaged one is found before anything is trained.

        Of a dataset with very many images this would take longer than it is worth: there they are found when it is
        their turn.
        """
        if len(self.image_ids) > CHECKED_IMAGES:
            return
        with ThreadPoolExecutor() as pool:
            every = [*self.image_ids, *self.negatives]
            found = [
                (image_id, fault) for image_id, fault in zip(every, pool.map(self._fault, every), strict=True) if fault
            ]
        for image_id, fault in found:
            self._leave_out(image_id, fault)
        if any(is_deep(self._path(self._images[image_id])) for image_id in self.image_ids[:1]):
            self.notes.append(
                f"{self.annotation_file.name}: images have more than 8 bits; each is scaled by the smallest of 8, 10, "
                "12, 14 and 16 bits that holds its values."
            )
        if found:
            self.image_ids = [image_id for image_id in self.image_ids if image_id not in self.bad_images]
            self.negatives = [image_id for image_id in self.negatives if image_id not in self.bad_images]
        if not any(self._boxes[image_id] for image_id in self.image_ids):
            raise UserError(f"{self.annotation_file}: no image with a box can be used; the first fault: {found[0][1]}")

    def _fault(self, image_id: int) -> str | None:
        """What is wrong with an image, None if nothing is."""
        record = self._images[image_id]
        path = self._path(record)
        try:
            about = path.stat()
            size = record["width"], record["height"]
            return _fault(path, size, self.turned, self._least_side(record), about.st_mtime_ns)
        except OSError as error:
            return error.strerror or str(error)

    def _least_side(self, record: dict[str, Any]) -> float:
        """The short side that an image has after resizing, in pixels."""
        short, long = sorted((record["width"], record["height"]))
        to_short, to_long = self._sides
        scale = min(to_short / max(short, 1), to_long / max(long, 1))
        return float(short * scale)

    def _leave_out(self, image_id: int, fault: str) -> None:
        """Leaves an image out where the user allows it.

        Raises:
            UserError: the user does not.
        """
        path = self._path(self._images[image_id])
        text = f"{path}, image {image_id} of {self.annotation_file.name}, cannot be used: {fault}"
        if not self.config.skip_bad_images:
            raise UserError(f"{text}; data.skip_bad_images=true leaves out such images.")
        self.bad_images.add(image_id)
        self.notes.append(f"{text}; it is left out.")

    def load(self, index: int) -> Example | None:
        """Returns an image with its boxes."""
        positives = len(self.image_ids)
        image_id = self.image_ids[index] if index < positives else self.negatives[index - positives]
        if image_id in self.bad_images:
            return None
        record = self._images[image_id]
        path = self._path(record)
        try:
            image = read_image(path, (record["width"], record["height"]), self.turned)
        except BAD_IMAGE as error:
            self._leave_out(image_id, str(error) or type(error).__name__)
            _say_once(self.content, self.notes[-1])
            return None
        boxes = self._boxes[image_id]
        return Example(
            image=torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))),
            boxes=torch.tensor([box for box, _ in boxes], dtype=torch.float32).reshape(-1, 4),
            categories=torch.tensor([category for _, category in boxes], dtype=torch.int64),
        )

    def num_boxes(self, index: int) -> int:
        """Returns how many true boxes an image has."""
        return len(self._boxes[self.image_ids[index]])

    def ground_truth(self) -> COCO:
        """Returns the true boxes as pycocotools takes them."""
        images = [image for image in self._images.values() if image["id"] not in self.bad_images]
        kept = {image["id"] for image in images}
        # COCOeval ignores a box whose area is none of its sizes', and what is found there.
        annotations = [{**a, "area": -1} if a.get("ignore") else a for a in self._annotations if a["image_id"] in kept]
        return as_coco(images, annotations, self.categories)


LARGE_JSON = 1 << 26
"""Bytes up to which a JSON file is searched as a whole for COCO's tables."""
ORIENTATION = 0x112
"""The EXIF tag that says how an image is turned."""
BAD_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for a file that is no image, or a damaged one."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""Endings of the names of image files."""
CHECKED_IMAGES = 5000
"""A split with no more images is read once before anything is trained."""


@lru_cache(maxsize=20_000)
def _fault(path: Path, size: tuple[int, int], turned: bool, least_side: float, changed: int) -> str | None:
    """What is wrong with an image file as it was when it `changed`; remembered, for a run opens its splits often."""
    try:
        read_image(path, size, turned)
    except BAD_IMAGE as error:
        return str(error) or type(error).__name__
    return None if least_side >= 1 else f"{size[0]}x{size[1]} pixels: its short side would be resized to less than one"


def is_deep(path: Path) -> bool:
    """Returns whether the grey values of an image have more than 8 bits."""
    try:
        with Image.open(path) as image:
            return str(image.mode).startswith(("I", "F"))
    except BAD_IMAGE:
        return False


def sizes_by_tag(path: Path) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Returns the size of an image as stored and as turned by its EXIF tag; None where it has no such tag."""
    try:
        with Image.open(path) as image:
            tag = image.getexif().get(ORIENTATION, 1)
            return None if tag not in range(2, 9) else (image.size, image.size[::-1] if tag > 4 else image.size)
    except BAD_IMAGE:
        return None


def read_image(path: Path, size: tuple[int, int] | None = None, turned: bool = True) -> Image.Image:
    """Reads an image as RGB.

    Args:
        size: width and height that it should have, as stored or turned by its EXIF tag.
        turned: it is turned by its EXIF tag, unless it has the size only as stored.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: it cannot be read, or has another size.
    """
    with Image.open(path) as opened:
        opened.load()
        both = [opened, ImageOps.exif_transpose(opened)]
        image = next((i for i in (both[::-1] if turned else both) if size in (None, i.size)), None)
        if image is None:
            sides = "x".join(map(str, size or ()))
            raise ValueError(f"it is {opened.width}x{opened.height} pixels and its annotations say {sides}")
        return eight_bits(image).convert("RGB")


def fingerprint_of(path: Path) -> str:
    """Returns a hash of a file's content, which is remembered until the file changes; raises OSError."""
    about = path.stat()
    return _fingerprint(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=32)
def _fingerprint(path: Path, *changed: int) -> str:
    return fingerprint_of_file(path)


def is_file(path: Path) -> bool:
    """Returns whether a path, which may be no name that a file can have, is a file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def looks_like_coco(path: Path) -> bool:
    """Returns whether a JSON file has the three tables of COCO's format; a large one's ends alone are looked at."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            text = file.read(LARGE_JSON if size <= LARGE_JSON else 1 << 20)
            file.seek(max(file.tell(), size - (1 << 20)))
            text += file.read()
    except OSError:
        return False
    return sum(word in text for word in (b'"images"', b'"annotations"', b'"categories"')) >= 2


def size_of(path: Path) -> int | None:
    """Returns the size of a file in bytes, None where there is none."""
    try:
        return path.stat().st_size
    except OSError:  # missing, or a name that no file can have
        return None


def hash_of(data: Any) -> str:
    """Returns a short hash of plain data."""
    return hashlib.blake2s(json.dumps(data).encode()).hexdigest()[:16]


def read_annotations(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Reads and checks a COCO annotation file; missing `area` and `iscrowd` are filled in.

    Raises:
        UserError: names the file and the entry that is not as COCO's format says.
    """
    try:
        about = path.stat()
        return _read_annotations(path, about.st_size, about.st_mtime_ns)
    except FileNotFoundError as error:
        raise UserError(
            f"The annotation file {path} does not exist; data.root and data.*_annotations say where it is."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"The annotation file {path} cannot be read as JSON: {error}") from error


@lru_cache(maxsize=8)
def _read_annotations(path: Path, *changed: int) -> dict[str, list[dict[str, Any]]]:
    content = json.loads(path.read_bytes())
    tables = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(table), list) for table in tables):
        raise UserError(f"{path} is not in COCO's format: it needs the lists images, annotations and categories.")

    def refuse(table: str, place: int, what: str) -> UserError:
        return UserError(f"{path} is not in COCO's format: {table}[{place}] {what}.")

    seen: dict[str, set[int]] = {"images": set(), "categories": set()}
    required: dict[str, dict[str, type]] = {
        "images": {"file_name": str, "width": int, "height": int},
        "categories": {"name": str},
    }
    for table, fields in required.items():
        for place, entry in enumerate(content[table]):
            if not isinstance(entry, dict):
                raise refuse(table, place, "is not an object")
            if isinstance(entry.get("file_name"), str):  # as Windows writes it
                entry["file_name"] = entry["file_name"].replace("\\", "/")
            for name, kind in {"id": int, **fields}.items():
                if kind is int and isinstance(entry.get(name), float) and entry[name].is_integer():
                    entry[name] = int(entry[name])
                if not isinstance(entry.get(name), kind):
                    what = "a whole number" if kind is int else "text"
                    raise refuse(table, place, f"has {name} {shown(entry.get(name))}, which is not {what}")
            if entry["id"] in seen[table]:
                raise refuse(table, place, f"repeats the id {entry['id']}")
            seen[table].add(entry["id"])
    names: dict[str, int] = {}
    for entry in content["categories"]:
        if names.setdefault(entry["name"], entry["id"]) != entry["id"]:
            two = f"{names[entry['name']]} and {entry['id']}"
            raise UserError(f"{path}: categories {two} are both called {entry['name']!r}; give them one id")
    for place, entry in enumerate(content["annotations"]):
        if not isinstance(entry, dict):
            raise refuse("annotations", place, "is not an object")
        box = entry.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(_is_number(v) for v in box)):
            raise refuse("annotations", place, f"has bbox {box!r}, not four finite numbers")
        for key, ids in (("image_id", seen["images"]), ("category_id", seen["categories"])):
            if not isinstance(entry.get(key), int) or entry[key] not in ids:
                table = "images" if key == "image_id" else "categories"
                raise refuse("annotations", place, f"has {key} {entry.get(key)!r}, which is not among its {table}")
        if entry.setdefault("iscrowd", 0) not in (0, 1):
            raise refuse("annotations", place, f"has iscrowd {entry['iscrowd']!r}, not 0 or 1")
        if not _is_number(entry.setdefault("area", max(box[2], 0) * max(box[3], 0))):
            raise refuse("annotations", place, f"has area {entry['area']!r}, not a number")
    if not content["images"] or not content["annotations"]:
        numbers = (
            f"{counted(len(content['images']), 'image')} and {counted(len(content['annotations']), 'box', 'boxes')}"
        )
        raise UserError(f"{path} has {numbers}: there is nothing to learn from or to score")
    return {table: content[table] for table in tables}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
