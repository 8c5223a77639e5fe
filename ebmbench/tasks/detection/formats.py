"""Annotations of boxes in the formats of other tools, as records: an image file and its boxes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from ebmbench.core.errors import UserError, counted
from ebmbench.system import yamlfile
from ebmbench.tasks.detection.data import BAD_IMAGE, SPLITS, SUFFIXES

SPLIT_WORDS = {"train": "train|training|trainval", "val": "val|valid|validation|dev", "test": "test|testing"}
MOST_FILES = 200_000
"""In a folder that is searched for annotations."""
COLUMNS = {
    "file": ("filename", "file_name", "image", "image_path", "image_name", "img", "file", "path", "image_id"),
    "label": ("class", "label", "class_name", "category", "name", "label_name"),
    "x1": ("xmin", "x1", "left", "x_min", "bbox_x1"),
    "y1": ("ymin", "y1", "top", "y_min", "bbox_y1"),
    "x2": ("xmax", "x2", "right", "x_max", "bbox_x2"),
    "y2": ("ymax", "y2", "bottom", "y_max", "bbox_y2"),
}
"""What a table of boxes may call its columns."""


@dataclass(frozen=True)
class Box:
    """One box: its class, x, y, width and height in pixels, and whether training and scores ignore it."""

    label: str
    xywh: tuple[float, float, float, float]
    ignored: bool = False

    @staticmethod
    def of_corners(label: str, corners: Sequence[float], ignored: bool = False) -> Box:
        """Returns the box of x1, y1, x2, y2."""
        x1, y1, x2, y2 = corners
        return Box(label, (x1, y1, x2 - x1, y2 - y1), ignored)

    @staticmethod
    def around(label: str, points: Iterable[Sequence[float]]) -> Box:
        """Returns the box around points."""
        xs, ys = zip(*((float(x), float(y)) for x, y, *_ in points), strict=True)
        return Box.of_corners(label, (min(xs), min(ys), max(xs), max(ys)))


@dataclass(frozen=True)
class Record:
    """An image file, its size in pixels, its boxes, and the split that lists or folders say; None where they do not."""

    file: Path
    width: int
    height: int
    boxes: list[Box]
    split: str | None


@dataclass(eq=False)
class Folder:
    """The files below a folder, without what macOS and others leave there.

    Attributes:
        root: the folder; files: in order.
        notes: what was left out, a sentence each.
    """

    root: Path
    files: list[Path]
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(root: Path) -> Folder:
        """Reads the names of all files; raises UserError where there are very many."""
        files, rubbish = [], 0
        for folder, folders, names in os.walk(root, followlinks=True):
            hidden = [name for name in folders if name.startswith((".", "__MACOSX"))]
            rubbish += len([name for name in hidden if name == "__MACOSX"])
            folders[:] = sorted(set(folders) - set(hidden))
            rubbish += len([name for name in names if name.startswith("._")])
            files += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
            if len(files) > MOST_FILES:
                raise UserError(f"{root} holds more than {MOST_FILES} files; give the folder of one dataset")
        left = counted(rubbish, "file or folder", "files or folders")
        return Folder(root, files, (f"{root}: {left} of macOS left out.",) if rubbish else ())

    def __hash__(self) -> int:
        return hash(self.root)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and self.root == other.root

    def stamp(self) -> tuple[int, int]:
        """Returns the number of annotation files and the time of the last change, to tell whether it was edited."""
        times = [path.stat().st_mtime_ns for path in self.ending(".json", ".xml", ".txt", ".csv", ".yaml", ".yml")]
        return len(times), max(times, default=0)

    def ending(self, *endings: str) -> list[Path]:
        """Returns the files whose names end so."""
        return [path for path in self.files if path.name.lower().endswith(endings)]

    @cached_property
    def base(self) -> Path:
        """The folder that all images are in: the root, or the one above where there is no image below the root."""
        return self.root if self.ending(*SUFFIXES) else self.root.parent

    @cached_property
    def images(self) -> dict[str, list[Path]]:
        """The image files by their names without endings, in lower case."""
        files = self if self.base == self.root else Folder.of(self.base)
        index: dict[str, list[Path]] = defaultdict(list)
        for path in files.ending(*SUFFIXES):
            index[path.stem.lower()].append(path)
        return index

    def image(self, annotation: Path, *names: str) -> Path:
        """Returns the image that one of some names stands for, the one nearest to its annotation file.

        Where none is found it is beside the annotation, which is named when the split is opened.
        """
        for name in names:
            wanted = PurePosixPath(name.replace("\\", "/"))
            known = self.images.get((wanted.stem if wanted.suffix.lower() in SUFFIXES else wanted.name).lower(), [])
            if known:
                words = {*annotation.parent.parts, *wanted.parent.parts}
                return max(known, key=lambda path: (path.name == wanted.name, len(words & set(path.parent.parts))))
        return annotation.parent / PurePosixPath(names[-1].replace("\\", "/")).name

    def above(self, name: str, annotation: Path) -> Path | None:
        """Returns the folder below which an image has this name, folders included; None where there is none."""
        wanted = PurePosixPath(name)
        if wanted.is_absolute():
            return None
        for path in self.images.get(wanted.stem.lower(), []):
            if path.parts[-len(wanted.parts) :] == wanted.parts:
                return path.parents[len(wanted.parts) - 1]
        return None


def split_in(path: Path) -> str | None:
    """Returns the split that a path names: the file's own name first, then the nearest folder."""
    for part in (path.stem, *(folder.name for folder in path.parents)):
        words = re.split(r"[^a-z]+", re.sub(r"\d+", " ", part.lower()))
        for split, names in SPLIT_WORDS.items():
            if any(re.fullmatch(names, word) for word in words):
                return split
    return None


def read_records(folder: Folder) -> tuple[list[Record], list[str]]:
    """Returns the records of the first format that a folder has, and what people should know of them.

    Raises:
        UserError: a file has that format, and something in it is missing or no number.
    """
    readers: tuple[Callable[[Folder, list[str]], Iterator[Record]], ...] = (_xml, _json, _csv, _yolo)
    for reader in readers:
        notes = list(folder.notes)
        records = list(reader(folder, notes))
        if records:
            return _listed(folder, records), notes
    return [], []


def _record(folder: Folder, file: Path, size: tuple[Any, Any], boxes: list[Box], source: Path) -> Record:
    """Returns a record; a size that is not known is read from the image, zero where it cannot be read."""
    width, height = (int(float(side or 0)) for side in size)
    if not (width and height):
        try:
            with Image.open(file) as image:
                width, height = image.size
        except BAD_IMAGE:
            pass  # named when the split is opened
    splits = (
        split_in(p.parent.relative_to(b)) for p, b in ((source, folder.root), (file, folder.base)) if b in p.parents
    )
    return Record(file, width, height, boxes, next((split for split in splits if split), None))


def _listed(folder: Folder, records: list[Record]) -> list[Record]:
    """Returns the records with the splits that lists of images say, `ImageSets/Main/{train,val,trainval,test}.txt`."""
    lists = {path.stem: path for path in folder.ending(".txt") if path.parent.name == "Main"}
    if "train" not in lists and "trainval" in lists:
        lists["train"] = lists["trainval"]
    if "train" not in lists:
        return records
    by_stem = {record.file.stem: record for record in records}
    chosen = []
    for split in (name for name in SPLITS if name in lists):
        stems = [line.split()[0] for line in lists[split].read_text().splitlines() if line.split()]
        missing = next((stem for stem in stems if stem not in by_stem), None)
        if missing is not None:
            raise UserError(f"{lists[split]} names {missing!r}, which has no annotations")
        for stem in stems:
            record = by_stem[stem]
            chosen.append(Record(record.file, record.width, record.height, record.boxes, split))
    return chosen


def _numbers(path: Path, values: Iterable[Any]) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: a box has a side that is no number ({error})") from None


# ---------------------------------------------------------------------------------------------- Pascal VOC and CVAT


def _xml(folder: Folder, notes: list[str]) -> Iterator[Record]:
    for path in folder.ending(".xml"):
        content = path.read_bytes()
        if not content.strip():
            notes.append(f"{path} is empty; its image is left out.")
            continue
        # Python's parser fetches nothing from outside; a document type could still blow up in memory.
        if b"<!DOCTYPE" in content:
            raise UserError(f"{path} has a document type, which Pascal VOC's files do not have")
        try:
            tree = ET.fromstring(content)
        except ET.ParseError as error:
            raise UserError(f"{path} cannot be read as XML ({error})") from None
        if tree.tag == "annotation":
            yield _voc(folder, path, tree)
        elif tree.tag == "annotations":
            for image in tree.iter("image"):
                file, boxes = folder.image(path, image.get("name", "")), []
                for box in image.iter("box"):
                    corners = _numbers(path, (box.get(key) for key in ("xtl", "ytl", "xbr", "ybr")))
                    boxes.append(Box.of_corners(box.get("label", ""), corners))
                for polygon in image.iter("polygon"):
                    points = [_numbers(path, pair.split(",")) for pair in polygon.get("points", "").split(";")]
                    boxes.append(Box.around(polygon.get("label", ""), points))
                yield _record(folder, file, (image.get("width"), image.get("height")), boxes, path)


def _voc(folder: Folder, path: Path, tree: ET.Element) -> Record:
    def text(element: ET.Element, place: str) -> str:
        value = element.findtext(place)
        if not value:
            raise UserError(f"{path} is not in Pascal VOC's format: {place} is missing")
        return value.strip()

    boxes = []
    for thing in tree.iter("object"):
        x1, y1, x2, y2 = _numbers(path, (text(thing, f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")))
        # VOC counts pixels from 1, the last one included.
        difficult = (thing.findtext("difficult") or "0").strip() == "1"
        boxes.append(Box(text(thing, "name"), (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1), difficult))
    # Files that were renamed or copied keep a wrong <filename>: the XML file's own name comes first.
    file = folder.image(path, path.stem, text(tree, "filename"))
    sides = _numbers(path, (tree.findtext(f"size/{name}") or 0 for name in ("width", "height")))
    return _record(folder, file, (sides[0], sides[1]), boxes, path)


# ------------------------------------------------------------------------------------------- LabelMe, VIA, CreateML


def _json(folder: Folder, notes: list[str]) -> Iterator[Record]:
    for path in folder.ending(".json"):
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError, OSError):
            continue
        try:
            if isinstance(content, dict) and isinstance(content.get("shapes"), list):
                name, size = (
                    str(content.get("imagePath") or ""),
                    (content.get("imageWidth"), content.get("imageHeight")),
                )
                shapes = [Box.around(str(one["label"]), one["points"]) for one in content["shapes"]]
                yield _record(folder, folder.image(path, path.stem, name), size, shapes, path)
                continue
            table = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
            if (
                isinstance(table, dict)
                and table
                and all(isinstance(e, dict) and "regions" in e for e in table.values())
            ):
                for entry in table.values():
                    regions = entry["regions"]
                    boxes = [_region(one) for one in (regions.values() if isinstance(regions, dict) else regions)]
                    yield _record(folder, folder.image(path, entry["filename"]), (0, 0), boxes, path)
            elif isinstance(content, list) and all(isinstance(e, dict) and "annotations" in e for e in content):
                for entry in content:
                    boxes = []
                    for one in entry["annotations"]:
                        x, y, w, h = _numbers(path, (one["coordinates"][k] for k in ("x", "y", "width", "height")))
                        boxes.append(Box(str(one["label"]), (x - w / 2, y - h / 2, w, h)))
                    name = str(entry.get("image") or entry.get("imagefilename"))
                    yield _record(folder, folder.image(path, name), (0, 0), boxes, path)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: an entry is not as LabelMe, VIA or CreateML write it ({error!r})") from None


def _region(region: dict[str, Any]) -> Box:
    """Returns the box of a region of VIA."""
    shape, label = region["shape_attributes"], next(iter(region.get("region_attributes", {}).values()), "object")
    if "all_points_x" in shape:
        return Box.around(str(label), zip(shape["all_points_x"], shape["all_points_y"], strict=True))
    x, y, w, h = (float(shape[key]) for key in ("x", "y", "width", "height"))
    return Box(str(label), (x, y, w, h))


# ------------------------------------------------------------------------------------------------------ CSV and YOLO


def _csv(folder: Folder, notes: list[str]) -> Iterator[Record]:
    for path in folder.ending(".csv"):
        rows = [row for row in csv.reader(io.StringIO(path.read_text("utf-8-sig", errors="replace"))) if any(row)]
        if not rows:
            continue
        header = [cell.strip().lower() for cell in rows[0]]
        places = {key: next((header.index(n) for n in names if n in header), None) for key, names in COLUMNS.items()}
        if None in places.values():  # RetinaNet's tables have no header: file, corners, class
            if len(header) != 6 or Path(header[0]).suffix not in SUFFIXES:
                continue
            places, rows = dict(zip(("file", "x1", "y1", "x2", "y2", "label"), range(6), strict=True)), [[], *rows]
        boxes: dict[str, list[Box]] = {}
        for row in rows[1:]:
            cells = {
                key: row[place].strip() if place is not None and place < len(row) else ""
                for key, place in places.items()
            }
            of_image = boxes.setdefault(cells["file"], [])
            if cells["label"]:  # else an image without boxes
                corners = _numbers(path, (cells[key] for key in ("x1", "y1", "x2", "y2")))
                of_image.append(Box.of_corners(cells["label"], corners))
        split = split_in(Path(path.name))
        for name, own in boxes.items():
            record = _record(folder, folder.image(path, name), (0, 0), own, path)
            yield Record(record.file, record.width, record.height, record.boxes, record.split or split)


def _yolo(folder: Folder, notes: list[str]) -> Iterator[Record]:
    settings: dict[str, Any] = {}
    for path in folder.ending(".yaml", ".yml"):
        try:
            content = yamlfile.read(path)
        except UserError:
            continue
        if isinstance(content, dict) and "names" in content:
            settings = content
    labels = {path for path in folder.ending(".txt") if _is_yolo(path)}
    if not labels:
        return
    names = settings.get("names")
    for path in folder.ending("classes.txt", "obj.names"):
        names = names or path.read_text().split("\n")
    names = dict(enumerate(names)) if isinstance(names, list) else dict(names or {})
    splits = {
        split: [PurePosixPath(p) for p in (paths if isinstance(paths, list) else [paths])]
        for split in SPLITS
        if (paths := settings.get(split))
    }
    for files in folder.images.values():
        for file in files:
            inside = file.relative_to(folder.base)
            mirrored = Path(*("labels" if part == "images" else part for part in inside.parts)).with_suffix(".txt")
            beside = [p for p in (folder.base / mirrored, file.with_suffix(".txt")) if p in labels]
            record = _record(folder, file, (0, 0), [], file)
            boxes = [box for p in beside[:1] for box in _yolo_boxes(p, names, record.width, record.height)]
            listed = (s for s, ps in splits.items() if any(_ends_in(inside.parent, p) for p in ps))
            yield Record(file, record.width, record.height, boxes, next(listed, record.split))


def _ends_in(folder: Path, path: PurePosixPath) -> bool:
    """Returns whether the words of a path in a YAML file are in those of a folder, in order."""
    words = "/".join(part for part in path.parts if part not in ("..", ".", "/"))
    return bool(words) and f"/{words}/" in f"/{folder.as_posix()}/"


def _is_yolo(path: Path) -> bool:
    """Returns whether the first line of a file is a class and four numbers, or more, between 0 and 1."""
    try:
        with open(path) as file:
            cells = file.readline().split()
        return len(cells) >= 5 and cells[0].isdecimal() and all(-0.01 <= float(cell) <= 1.01 for cell in cells[1:])
    except (OSError, UnicodeDecodeError, ValueError):
        return False


def _yolo_boxes(path: Path, names: dict[Any, Any], width: int, height: int) -> Iterator[Box]:
    for line in path.read_text().splitlines():
        cells = line.split()
        if not cells:
            continue
        label = str(names.get(int(cells[0]), cells[0])).strip() if cells[0].isdecimal() else cells[0]
        numbers = _numbers(path, cells[1:])
        if len(numbers) in (4, 5):  # five: with a confidence
            x, y, w, h = numbers[:4]
            yield Box(label, ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height))
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:
            yield Box.around(label, [(x * width, y * height) for x, y in zip(numbers[::2], numbers[1::2], strict=True)])
        else:
            raise UserError(f"{path}: a line has {counted(len(cells), 'number')}, and YOLO's have 5, or a polygon's")
