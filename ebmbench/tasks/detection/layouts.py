"""Images of one's own in the layout that they have: `data=mine data.root=FOLDER`.

Known layouts, in this order:
    COCO annotation files, of which the names or folders say the split: `annotations/instances_train2017.json`,
        `train/_annotations.coco.json`, `val.json`; or one such file.
    Others (`formats`): Pascal VOC, CVAT, YOLO, LabelMe, VIA, CreateML, CSV. Lists of images
        (`ImageSets/Main/train.txt`) or folders (`train/`, `images/val/`) say the split.
A split that is not there is drawn from the training images: near copies stay together, and classes keep their shares.
"""

from __future__ import annotations

import itertools
import os
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator
from typing_extensions import override

from ebmbench.core.errors import UserError, counted
from ebmbench.core.registry import register
from ebmbench.tasks.detection.data import (
    BAD_IMAGE,
    NAME,
    NAME_TEXT,
    SPLITS,
    Dataset,
    FileData,
    Part,
    fingerprint_of,
    hash_of,
    is_file,
    looks_like_coco,
    read_annotations,
    size_of,
)
from ebmbench.tasks.detection.formats import Folder, Record, read_records, split_in

LEAST_BOX = 24
"""Pixels. Images stay so large that half of the boxes keep this short side, if they had it before."""
SHORT_SIDES = (128, 512)
"""Bounds of the short side that is chosen for images that are larger."""
NEAR_BITS = 10
"""Of the 64 bits of the perceptual hashes of two images, those that may differ in near copies.

Of 66 430 pairs of blood cells and 4950 of COCO's images one has so few; of consecutive frames of eight videos most do.
"""
MOST_HASHED = 10_000
"""Images of which near copies are looked for."""
TRIES = 50
"""Random splits of which the one is taken whose classes have the best shares."""


@register
class MineData(FileData):
    """Images of your own in the layout that they have, COCO's, Pascal VOC's, YOLO's …: `data=mine data.root=FOLDER`."""

    source = "mine"

    name: str = Field("mine", pattern=NAME, description=NAME_TEXT)
    val_fraction: float = Field(0.15, gt=0, lt=1, description="of the training images, where no validation split is")
    test_fraction: float = Field(0.15, gt=0, lt=1, description="of the training images, where no test split is")
    split_seed: int = Field(0, ge=0, lt=2**31, description="of the random split")
    groups: str = Field(
        "near",
        min_length=1,
        description="images that a random split keeps together: near (near copies, such as frames of one video), "
        "folder, none, or a regular expression whose match in the file's path names the group, such as 'scene[0-9]+'",
    )
    short_side: int | None = Field(  # type: ignore[assignment]
        None, ge=32, le=4096, description="images are resized to this short side, in pixels; null: by the boxes' sizes"
    )
    long_side: int | None = Field(  # type: ignore[assignment]
        None, ge=32, le=4096, description="the longest that a long side may be, in pixels; null: twice the short side"
    )
    eval_split: Literal["val", "test"] = Field("test", description="the split that is scored")

    @field_validator("groups")
    @classmethod
    def _is_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression ({error})") from None
        return value

    @override
    def part(self, split: str) -> Part:
        if self.root is None:
            raise UserError("data.root is not given: the folder that holds your images and their annotations")
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise UserError(f"data.root={self.root} is not a folder")
        folder = Folder.of(root)
        return _parts(folder, folder.stamp(), self.val_fraction, self.test_fraction, self.split_seed, self.groups)[
            split
        ]

    @override
    def open(self, split: str) -> Dataset:
        dataset = super().open(split)
        if split == "train":
            parts = {name: self.part(name) for name in SPLITS}
            numbers = ", ".join(f"{len(part.annotations['images'])} for {name}" for name, part in parts.items())
            drawn = [name for name, part in parts.items() if part.drawn]
            text = f"{self.root}: {counted(len(dataset.categories), 'class', 'classes')}; images: {numbers}"
            text += f" ({' and '.join(drawn)} drawn at random from those for training)" if drawn else ""
            short = f"images are resized to a short side of {self.sides[0]} pixels (data.short_side changes it)"
            dataset.notes[:0] = [f"{text}; {short}.", *_in_several(parts)]
        return dataset

    @property
    @override
    def sides(self) -> tuple[int, int]:
        short = self.short_side or _short_side(self.part("train").annotations)
        return short, self.long_side or 2 * short


def _short_side(annotations: Mapping[str, Any]) -> int:
    """Returns a short side at which images are small, and their boxes still large enough to be told."""
    sizes = {image["id"]: min(image["width"], image["height"]) for image in annotations["images"]}
    usual = statistics.median(sizes.values())
    boxes = [min(a["bbox"][2:]) / max(1, sizes[a["image_id"]]) for a in annotations["annotations"]]
    share = statistics.median(boxes) or 1.0
    wanted = min(max(LEAST_BOX / max(share, 1e-3), SHORT_SIDES[0]), SHORT_SIDES[1])
    return max(32, 8 * round(min(usual, wanted) / 8))


def _in_several(parts: Mapping[str, Part]) -> Iterator[str]:
    """Yields a sentence for two splits that have images in common, or near copies of them."""
    files = {name: part.files for name, part in parts.items()}
    sizes = {name: {path: size for path in paths if (size := size_of(path))} for name, paths in files.items()}
    hashed = (
        {name: _hashes(paths) for name, paths in files.items()} if sum(map(len, files.values())) <= MOST_HASHED else {}
    )
    for one, other in itertools.combinations(parts, 2):
        both = set(sizes[one].values()) & set(sizes[other].values())
        prints = [{fingerprint_of(path) for path, size in sizes[name].items() if size in both} for name in (one, other)]
        common = len(prints[0] & prints[1])
        if common:
            yield f"{counted(common, 'image is', 'images are')} in both {one} and {other}: scores may be too good."
        elif hashed and (near := int((_distances(hashed[other], hashed[one]) <= NEAR_BITS).any(1).sum())):
            images = counted(near, f"image of {other} has", f"images of {other} have")
            yield f"{images} a near copy in {one}: scores may be too good."


# ---------------------------------------------------------------------------------------------------- random splits


@lru_cache(maxsize=4)
def _parts(folder: Folder, stamp: tuple[int, int], val: float, test: float, seed: int, groups: str) -> dict[str, Part]:
    """Returns the three splits of a folder."""
    found = _coco(folder) or _of_records(folder)
    if "train" not in found:
        raise UserError(f"{folder.root} has annotations of {', '.join(found)}, and none of a training split")
    for name, fraction in (("test", test), ("val", val)):
        if name not in found:
            found["train"], found[name] = _split_off(found["train"], fraction, seed, groups)
    return found


def _split_off(part: Part, fraction: float, seed: int, groups: str) -> tuple[Part, Part]:
    """Takes a fraction of the images away: the rest and the part."""
    images = part.annotations["images"]
    count = max(1, round(fraction * len(images)))
    if len(images) - count < 2:
        raise UserError(f"{part.file} has too few images for training, validation and test")
    members: dict[Any, list[int]] = {}
    for image, group in zip(images, _groups(part, groups), strict=True):
        members.setdefault(group, []).append(image["id"])
    whole = Counter((a["image_id"], a["category_id"]) for a in part.annotations["annotations"])
    categories = sorted({category for _, category in whole})
    table = {image["id"]: np.array([whole[image["id"], c] for c in categories], float) for image in images}
    wanted = sum(table.values(), np.zeros(len(categories))) * count / len(images)
    grouped = list(members.values())
    rng, best, lowest = np.random.default_rng(seed), set[int](), np.inf
    for _ in range(TRIES):
        taken: list[int] = []
        for place in rng.permutation(len(grouped)):
            group = grouped[place]
            if len(taken) + len(group) <= max(count, 1) or not taken:
                taken += group
            if len(taken) >= count:
                break
        shares = sum((table[image] for image in taken), np.zeros(len(categories)))
        miss = float((np.abs(shares - wanted) / np.sqrt(wanted + 1)).sum()) + 5 * abs(len(taken) - count) / count
        if miss < lowest and len(images) - len(taken) >= 2:
            best, lowest = set(taken), miss
    if not best:
        raise UserError(
            f"{part.file}: nearly all images are in one group (data.groups={groups}), so that no split can be drawn; "
            "data.groups=none draws single images"
        )
    rest = {image["id"] for image in images} - best
    notes = list(part.notes)
    if len(members) < len(images) and not part.drawn_from:
        together = counted(sum(len(group) for group in grouped if len(group) > 1), "image")
        notes.append(
            f"{together} of {part.file.name} are in groups that a split keeps together (data.groups={groups})."
        )
    left = replace(part.only(rest), notes=tuple(notes), drawn_from=True)
    return left, replace(part.only(best), notes=(), drawn=True)


def _groups(part: Part, groups: str) -> list[Any]:
    """Returns the group of each image."""
    names = [str(image["file_name"]) for image in part.annotations["images"]]
    if groups == "none":
        return list(range(len(names)))
    if groups == "folder":
        return [os.path.dirname(name) for name in names]
    if groups != "near":
        matches = [re.search(groups, name) for name in names]
        if not any(matches):
            raise UserError(f"data.groups={groups} is found in no file's path, such as {names[0]}")
        return [match.group() if match else number for number, match in enumerate(matches)]
    group = list(range(len(names)))
    if len(names) > MOST_HASHED:
        return group

    def root(place: int) -> int:
        while group[place] != place:
            place = group[place]
        return place

    hashes = _hashes(part.files)
    for place in range(len(names)):
        for other in np.flatnonzero(_distances(hashes[place : place + 1], hashes[place + 1 :])[0] <= NEAR_BITS):
            group[root(place)] = root(place + 1 + int(other))
    return [root(place) for place in range(len(names))]


def _hashes(paths: Sequence[Path]) -> NDArray[np.uint64]:
    """Returns a perceptual hash of each image: 64 bits, those of an image that cannot be read from its place."""
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(_hash, paths, (size_of(path) for path in paths)))
    unknown = np.random.default_rng(1).integers(0, 2**64, len(paths), dtype=np.uint64)
    return np.array([u if h is None else h for h, u in zip(hashes, unknown, strict=True)], dtype=np.uint64)


@lru_cache(maxsize=100_000)
def _hash(path: Path, size: int | None) -> int | None:
    """Returns whether each of 8 by 8 pixels is brighter than its left neighbour (dHash); None where it is flat."""
    try:
        with Image.open(path) as image:
            image.draft("L", (72, 64))
            small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    except BAD_IMAGE:
        return None
    if small.max() - small.min() < 8:
        return None  # an empty picture is like every other one
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)


def _distances(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Returns the numbers of bits in which hashes differ, `[one, other]`."""
    return _BITS[(one[:, None] ^ other[None])[..., None].view(np.uint8)].sum(-1, dtype=np.uint8)


# ------------------------------------------------------------------------------------------------------ annotations


def _coco(folder: Folder) -> dict[str, Part]:
    """Returns the parts that files in COCO's format give, by split."""
    files = [path for path in folder.ending(".json") if looks_like_coco(path)]
    named = {path: split for path in files if (split := split_in(path.relative_to(folder.root)))}
    if not named:
        if len(files) > 1:
            names = ", ".join(str(path.relative_to(folder.root)) for path in files[:3])
            raise UserError(f"{folder.root} holds several annotation files ({names}), and their names say no split")
        return {"train": _coco_part(folder, files[0])} if files else {}
    found: dict[str, Part] = {}
    for split in SPLITS:
        of_split = [path for path, name in named.items() if name == split]
        # COCO's own folder holds captions and keypoints of the same images too.
        chosen = [path for path in of_split if "instances" in path.name] or of_split
        if len(chosen) > 1:
            names = " and ".join(str(path.relative_to(folder.root)) for path in chosen[:2])
            raise UserError(f"{folder.root} holds two annotation files of the {split} split: {names}")
        if chosen:
            found[split] = replace(_coco_part(folder, chosen[0]), notes=folder.notes if split == "train" else ())
    return found


def _coco_part(folder: Folder, path: Path) -> Part:
    """Returns the part of one annotation file, with the folder below which most of its images are."""
    names = [str(image["file_name"]) for image in read_annotations(path)["images"]]
    some = names[:: max(1, len(names) // 50)]
    places = [path.parent, *(p for name in some if (p := folder.above(name, path)) is not None)]
    best = max(dict.fromkeys(places), key=lambda place: sum(is_file(place / name) for name in some))
    return Part.of_file(path, best)  # what is missing is named when the split is opened


def _of_records(folder: Folder) -> dict[str, Part]:
    """Returns the parts that other layouts give, by split."""
    records, notes = read_records(folder)
    if not records:
        raise UserError(
            f"{folder.root} holds no annotations of a known layout: a JSON file in COCO's format, Pascal VOC's or "
            "CVAT's XML, YOLO's, LabelMe's, VIA's or CreateML's files, or a CSV table with a box a line; datumaro "
            "writes COCO's format from others (`datum convert -f coco`)"
        )
    spelling = _spelling(records, notes)
    classes = sorted(set(spelling.values()))
    by_split: dict[str, list[Record]] = {}
    for record in records:
        by_split.setdefault(record.split or "train", []).append(record)
    parts = {split: _part(folder, by_split[split], classes, spelling) for split in SPLITS if split in by_split}
    return {split: replace(part, notes=tuple(notes) if split == "train" else ()) for split, part in parts.items()}


def _spelling(records: Sequence[Record], notes: list[str]) -> dict[str, str]:
    """Returns the name of the class of each spelling: of those that differ in case alone the most frequent one."""
    counts = Counter(box.label for record in records for box in record.boxes)
    chosen: dict[str, str] = {}
    for name, count in counts.most_common():
        usual = chosen.setdefault(name.casefold(), name)
        if usual != name:
            boxes, are = counted(count, "box", "boxes"), "is" if count == 1 else "are"
            notes.append(f"{boxes} of class {name!r} {are} taken for {usual!r}: they differ in case alone.")
    return {name: chosen[name.casefold()] for name in counts}


def _part(folder: Folder, records: Sequence[Record], classes: list[str], spelling: Mapping[str, str]) -> Part:
    number_of = {name: number for number, name in enumerate(classes, start=1)}
    tables: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    tables["categories"] = [{"id": number, "name": name} for name, number in number_of.items()]
    for number, record in enumerate(records, start=1):
        name = record.file.relative_to(folder.base).as_posix()
        size = {"width": record.width, "height": record.height}
        tables["images"].append({"id": number, "file_name": name, **size})
        for box in record.boxes:
            of_class = {"image_id": number, "category_id": number_of[spelling[box.label]]}
            area = {"bbox": list(box.xywh), "iscrowd": 0, "area": box.xywh[2] * box.xywh[3]}
            tables["annotations"].append({**of_class, **area, **({"ignore": 1} if box.ignored else {})})
    return Part(folder.root, tables, folder.base, hash_of(tables))
