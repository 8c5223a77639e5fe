"""Images of one's own in the layout that they have: `data=mine data.root=FOLDER`.

Known layouts, in this order:
    COCO annotation files, of which the names or folders say the split: `annotations/instances_train2017.json`,
        `train/_annotations.coco.json`, `val.json`. What is missing is split off the training images.
    One COCO annotation file, which is split at random.
    Pascal VOC: an XML file for each image; `ImageSets/Main/{train,val,test}.txt`, if they are there, say the split.
"""

from __future__ import annotations

import itertools
import os
import re
import statistics
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError, counted
from ebmbench.core.registry import register
from ebmbench.tasks.detection.data import (
    BAD_IMAGE,
    NAME,
    NAME_TEXT,
    SPLITS,
    SUFFIXES,
    Dataset,
    FileData,
    Part,
    fingerprint_of,
    hash_of,
    read_annotations,
    size_of,
)

SPLIT_WORDS = {"train": "train|training", "val": "val|valid|validation|dev", "test": "test|testing"}
IMAGE_FOLDERS = ("images", "JPEGImages", "imgs", "img", "data")
MOST_FILES = 200_000
"""In a folder that is searched for annotations."""
LEAST_BOX = 24
"""Pixels. Images stay so large that half of the boxes keep this short side, if they had it before."""
SHORT_SIDES = (128, 512)
"""Bounds of the short side that is chosen for images that are larger."""


@register
class MineData(FileData):
    """Images of your own in the layout that they have, COCO's or Pascal VOC's: `data=mine data.root=FOLDER`."""

    source = "mine"

    name: str = Field("mine", pattern=NAME, description=NAME_TEXT)
    val_fraction: float = Field(0.15, gt=0, lt=1, description="of the training images, where no validation split is")
    test_fraction: float = Field(0.15, gt=0, lt=1, description="of the training images, where no test split is")
    split_seed: int = Field(0, ge=0, lt=2**31, description="of the random split")
    short_side: int | None = Field(  # type: ignore[assignment]
        None, ge=32, le=4096, description="images are resized to this short side, in pixels; null: by the boxes' sizes"
    )
    long_side: int | None = Field(  # type: ignore[assignment]
        None, ge=32, le=4096, description="the longest that a long side may be, in pixels; null: twice the short side"
    )
    eval_split: Literal["val", "test"] = Field("test", description="the split that is scored")

    @override
    def part(self, split: str) -> Part:
        if self.root is None:
            raise UserError("task.data.root is not given: the folder that holds your images and their annotations")
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise UserError(f"task.data.root={self.root} is not a folder")
        parts = _parts(root, _stamp(root), self.val_fraction, self.test_fraction, self.split_seed)
        return parts[split]

    @override
    def open(self, split: str) -> Dataset:
        made = super().open(split)
        if split == "train":
            parts = {name: self.part(name) for name in SPLITS}
            numbers = ", ".join(f"{len(part.annotations['images'])} for {name}" for name, part in parts.items())
            drawn = [name for name, part in parts.items() if part.drawn]
            text = f"{self.root}: {counted(len(made.categories), 'class', 'classes')}; images: {numbers}"
            text += f" ({' and '.join(drawn)} drawn at random from those for training)" if drawn else ""
            short = f"images are resized to a short side of {self.sides[0]} pixels (task.data.short_side changes it)"
            made.notes[:0] = [f"{text}; {short}.", *_in_several(parts)]
        return made

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
    """Yields a sentence for two splits that have images in common, by the content of their files."""
    files = {
        name: [part.folder / str(image["file_name"]) for image in part.annotations["images"]]
        for name, part in parts.items()
    }
    sizes = {name: {path: size for path in paths if (size := size_of(path))} for name, paths in files.items()}
    for one, other in itertools.combinations(parts, 2):
        both = set(sizes[one].values()) & set(sizes[other].values())
        found = [{fingerprint_of(path) for path, size in sizes[name].items() if size in both} for name in (one, other)]
        common = len(found[0] & found[1])
        if common:
            yield f"{counted(common, 'image is', 'images are')} in both {one} and {other}: scores may be too good."


def _stamp(root: Path) -> tuple[int, int]:
    """Returns the number of files of a folder and the time of the last change, to tell whether it was edited."""
    newest = count = 0
    for path in _files(root, (".json", ".xml", ".txt")):
        count, newest = count + 1, max(newest, path.stat().st_mtime_ns)
    return count, newest


def _files(root: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Yields the files below a folder whose names end so, in order.

    Raises:
        UserError: there are very many files: this is not a folder of one dataset.
    """
    seen = 0
    for folder, folders, names in os.walk(root):
        folders.sort()
        seen += len(names)
        if seen > MOST_FILES:
            raise UserError(f"{root} holds more than {MOST_FILES} files; give the folder of one dataset")
        yield from (Path(folder) / name for name in sorted(names) if name.lower().endswith(endings))


@lru_cache(maxsize=4)
def _parts(root: Path, stamp: tuple[int, int], val: float, test: float, seed: int) -> dict[str, Part]:
    """Returns the three splits of a folder."""
    found = _coco(root) or _voc(root)
    if not found:
        raise UserError(
            f"{root} holds no annotations of a known layout: a JSON file in COCO's format, or Pascal VOC's XML files"
        )
    if "train" not in found:
        raise UserError(f"{root} has annotations of {', '.join(found)}, and none of a training split")
    for name, fraction in (("test", test), ("val", val)):
        if name not in found:
            found["train"], found[name] = _split_off(found["train"], fraction, seed)
    return found


def _split_off(part: Part, fraction: float, seed: int) -> tuple[Part, Part]:
    """Takes a fraction of the images away: the rest and the part."""
    ids = [image["id"] for image in part.annotations["images"]]
    count = max(1, round(fraction * len(ids)))
    if len(ids) - count < 2:
        raise UserError(f"{part.file} has too few images for training, validation and test")
    taken = {ids[place] for place in np.random.default_rng(seed).permutation(len(ids))[:count]}
    return part.only(set(ids) - taken), replace(part.only(taken), notes=(), drawn=True)


# ---------------------------------------------------------------------------------------------------------- COCO


def _coco(root: Path) -> dict[str, Part]:
    """Returns the parts that files in COCO's format give, by split."""
    files = [path for path in _files(root, (".json",)) if _looks_like_coco(path)]
    named = {path: split for path in files if (split := _split_in(path.relative_to(root)))}
    if not named:
        if len(files) > 1:
            names = ", ".join(str(path.relative_to(root)) for path in files[:3])
            raise UserError(f"{root} holds several annotation files ({names}), and their names say no split")
        return {"train": _coco_part(root, files[0], "train")} if files else {}
    found: dict[str, Part] = {}
    for split in SPLITS:
        of_split = [path for path, name in named.items() if name == split]
        # COCO's own folder holds captions and keypoints of the same images too.
        chosen = [path for path in of_split if "instances" in path.name] or of_split
        if len(chosen) > 1:
            names = " and ".join(str(path.relative_to(root)) for path in chosen[:2])
            raise UserError(f"{root} holds two annotation files of the {split} split: {names}")
        if chosen:
            found[split] = _coco_part(root, chosen[0], split)
    return found


def _looks_like_coco(path: Path) -> bool:
    """Whether a JSON file has the three tables of COCO's format; only its first and last parts are looked at."""
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 20)
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            text = start + file.read()
    except OSError:
        return False
    return sum(word in text for word in (b'"images"', b'"annotations"', b'"categories"')) >= 2


def _split_in(path: Path) -> str | None:
    """Returns the split that a path names: the file's own name first, then the nearest folder."""
    for part in (path.stem, *(folder.name for folder in path.parents)):
        words = re.split(r"[^a-z]+", re.sub(r"\d+", " ", part.lower()))
        for split, names in SPLIT_WORDS.items():
            if any(re.fullmatch(names, word) for word in words):
                return split
    return None


def _coco_part(root: Path, path: Path, split: str) -> Part:
    """Returns the part of one annotation file, with the folder that its images are in."""
    names = [str(image["file_name"]) for image in read_annotations(path)["images"][:50]]
    near = [path.parent, *(folder for folder in path.parents if folder == root or root in folder.parents)]
    inside = [folder / name for folder in near for name in (*_named_like(folder, split), *IMAGE_FOLDERS)]
    inside += [entry for folder in near for entry in sorted(folder.iterdir()) if entry.is_dir()]
    for folder in [*near, *inside]:
        if folder.is_dir() and all(_is_file(folder / name) for name in names):
            return Part.of_file(path, folder)
    best = max([*near, *inside], key=lambda folder: sum(_is_file(folder / name) for name in names))
    return Part.of_file(path, best)  # what is missing is named when the split is opened


def _named_like(folder: Path, split: str) -> list[str]:
    """Returns the folders in a folder whose names say the split: `train2017`, `val`."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _split_in(Path(entry.name)) == split)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


# ----------------------------------------------------------------------------------------------------- Pascal VOC


@dataclass(frozen=True)
class _VocImage:
    """An image of Pascal VOC: its file, its size, and its boxes by class."""

    file: Path
    width: int
    height: int
    boxes: list[tuple[str, list[float]]]


def _voc(root: Path) -> dict[str, Part]:
    """Returns the parts that XML files give, by split."""
    paths = list(_files(root, (".xml",)))
    empty = [path for path in paths if not path.read_bytes().strip()]
    images = {path.stem: image for path in paths if path not in empty and (image := _voc_image(root, path))}
    if not images:
        return {}
    notes = [f"{path} is empty; its image is left out." for path in empty]
    spelling = _spelling(images.values(), notes)
    classes = sorted(set(spelling.values()))

    def part(chosen: Iterable[_VocImage], said: Sequence[str] = ()) -> Part:
        return replace(_voc_part(root, chosen, classes, spelling), notes=tuple(said))

    lists = {path.stem: path for path in _files(root, (".txt",)) if path.parent.name == "Main"}
    if "train" not in lists:
        return {"train": part(images.values(), notes)}
    found = {}
    for split in SPLITS:
        if split in lists:
            stems = [line.split()[0] for line in lists[split].read_text().splitlines() if line.split()]
            stems = [stem for stem in stems if stem not in {path.stem for path in empty}]
            missing = next((stem for stem in stems if stem not in images), None)
            if missing is not None:
                raise UserError(f"{lists[split]} names {missing!r}, of which there is no XML file")
            found[split] = part([images[stem] for stem in stems], notes if split == "train" else ())
    return found


def _spelling(images: Iterable[_VocImage], notes: list[str]) -> dict[str, str]:
    """Returns the name of the class of each spelling: of those that differ in case alone the most frequent one."""
    counts = Counter(name for image in images for name, _ in image.boxes)
    chosen: dict[str, str] = {}
    for name, count in counts.most_common():
        usual = chosen.setdefault(name.casefold(), name)
        if usual != name:
            boxes, are = counted(count, "box", "boxes"), "is" if count == 1 else "are"
            notes.append(f"{boxes} of class {name!r} {are} taken for {usual!r}: they differ in case alone.")
    return {name: chosen[name.casefold()] for name in counts}


def _voc_image(root: Path, path: Path) -> _VocImage | None:
    """Reads an XML file; returns None where it is none of Pascal VOC's.

    Raises:
        UserError: it is one, and something in it is missing or no number.
    """
    try:
        # Python's parser fetches nothing from outside; a document type could still blow up in memory.
        if b"<!DOCTYPE" in path.read_bytes():
            raise UserError(f"{path} has a document type, which Pascal VOC's files do not have")
        tree = ET.parse(path).getroot()
    except (ET.ParseError, OSError) as error:
        raise UserError(f"{path} cannot be read as XML ({error})") from None
    if tree.tag != "annotation":
        return None
    try:
        width, height = (int(_text(tree, f"size/{name}")) for name in ("width", "height"))
        boxes = []
        for thing in tree.iter("object"):
            x1, y1, x2, y2 = (float(_text(thing, f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax"))
            # VOC counts pixels from 1, the last one included.
            boxes.append((_text(thing, "name"), [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]))
        name = _text(tree, "filename")
    except ValueError as error:
        raise UserError(f"{path} is not in Pascal VOC's format: {error}") from None
    folders = [path.parent, path.parent.parent, *(path.parent.parent / folder for folder in IMAGE_FOLDERS)]
    near = [folder for folder in folders[2:] if folder.is_dir()] + folders[:1]
    # Where images were converted or renamed, the file beside has the XML file's own name.
    known = [name, *(path.stem + suffix for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES)))]
    # What is missing is named when the split is opened, where it may be left out.
    file = next((f / n for n in known for f in folders if _is_file(f / n)), near[0] / name)
    if not (width and height):  # as some tools write it
        width, height = _size_of_image(file)
    return _VocImage(file, width, height, boxes)


def _size_of_image(file: Path) -> tuple[int, int]:
    """Returns width and height, zero where it cannot be read: that is named when the split is opened."""
    try:
        with Image.open(file) as image:
            return image.size
    except BAD_IMAGE:
        return 0, 0


def _text(element: ET.Element, path: str) -> str:
    found = element.findtext(path)
    if not found:
        raise ValueError(f"{path} is missing")
    return found.strip()


def _voc_part(root: Path, images: Iterable[_VocImage], classes: list[str], spelling: Mapping[str, str]) -> Part:
    annotations: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    annotations["categories"] = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    for number, image in enumerate(images, start=1):
        name = str(image.file.relative_to(root))
        annotations["images"].append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        for label, box in image.boxes:
            entry = {"image_id": number, "category_id": classes.index(spelling[label]) + 1, "bbox": box}
            annotations["annotations"].append({**entry, "iscrowd": 0, "area": box[2] * box[3]})
    return Part(root, annotations, root, hash_of(annotations))
