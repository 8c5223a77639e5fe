"""Predictions for files of images, in the format that the ending of the output's name says."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ebmbench.core.errors import UserError, counted
from ebmbench.system.files import write_atomically
from ebmbench.tasks.detection.data import SUFFIXES
from ebmbench.tasks.detection.model import DetectionModel, Prediction, as_pixels

DRAWN_SCORE = 0.5
"""Class score from which a box is drawn into a picture."""
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Of the classes in pictures, in turn."""
SAY_SECONDS = 10.0
"""Time between two lines that say how far a prediction of many images is."""
BATCH = 8
"""Images that a GPU takes together."""
SIDES = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Found:
    """The objects in one file of an image of this width and height."""

    file: Path
    width: int
    height: int
    objects: Prediction


def predict_files(models: Mapping[int, DetectionModel], files: Sequence[Path], out: Path, level: float | None) -> None:
    """Writes the objects in images, and pictures with their boxes into the folder `<out>-pictures`.

    Args:
        models: by seed; the first one is used.
        files: images, or folders of images, with those below them.
        out: `.json`: everything; `.coco.json`: COCO's tables, with scores; `.csv`: a row for each object; `.zip`:
            YOLO's files of labels.
        level: of the intervals; None: without them.

    Raises:
        UserError: there is no image, or one cannot be read, or the ending is none of these.
    """
    model = next(iter(models.values()))
    ending = next((end for end in WRITERS if out.name.lower().endswith(end)), None)
    if ending is None:
        raise UserError(f"--out: {str(out)!r} must end in {', '.join(WRITERS)}")
    images = [image for path in files for image in (_images_in(path) if path.is_dir() else [path])]
    if not images:
        raise UserError(f"there is no image in {files[0]}; known are {', '.join(SUFFIXES)}")
    folder = out.with_name(f"{out.stem}-pictures")
    found: list[Found] = []
    size = BATCH if next(model.base.model.parameters()).is_cuda else 1
    started = said = time.monotonic()
    for start in range(0, len(images), size):
        now = time.monotonic()
        if now - said >= SAY_SECONDS and start:
            said, left = now, (now - started) / start * (len(images) - start)
            _say(f"{start} of {counted(len(images), 'image')}, {left:.0f} s left")
        readable: list[tuple[int, Tensor]] = []
        for number in range(start, min(start + size, len(images))):
            try:
                readable.append((number, as_pixels(images[number], model.turned)))
            except UserError as error:
                if images[number] in files:
                    raise
                _say(f"{error}; it is left out")
        if not readable:
            continue
        predictions = model.predict_all([pixels.permute(1, 2, 0) for _, pixels in readable], level)
        for (number, pixels), objects in zip(readable, predictions, strict=True):
            found.append(Found(images[number], pixels.shape[2], pixels.shape[1], objects))
            folder.mkdir(exist_ok=True)
            picture = _draw(pixels, objects, list(model.names.values()))
            picture.save(folder / f"{number:04d}-{images[number].stem[:80]}.png")
    if not found:
        raise UserError(f"{images[0].parent}: no image can be read, of {len(images)}")
    write_atomically(out, WRITERS[ending](model, found, level))
    objects_found = sum(len(one.objects.labels) for one in found)
    _say(f"{counted(objects_found, 'object')} in {counted(len(found), 'image')}: {out}, and pictures in {folder}/")


def _say(text: str) -> None:
    print(f"ebmbench: {text}", file=sys.stderr, flush=True)


def _images_in(folder: Path) -> list[Path]:
    paths = folder.rglob("*")
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _as_json(model: DetectionModel, found: Sequence[Found], level: float | None) -> bytes:
    """Returns JSON with a line for each object."""
    images = []
    for one in found:
        objects = ",\n".join(f"    {json.dumps(thing)}" for thing in _plain(one.objects, level is not None))
        head = json.dumps({"file": str(one.file), "width": one.width, "height": one.height})[:-1]
        images.append(f'  {head}, "objects": [' + (f"\n{objects}\n  " if objects else "") + "]}")
    about = {"seed": model.seed, "accepted": model.accepted, "level": level}
    return (json.dumps(about)[:-1] + ', "images": [\n' + ",\n".join(images) + "\n]}\n").encode()


def _plain(made: Prediction, with_intervals: bool) -> list[dict[str, Any]]:
    intervals = torch.stack((made.low, made.high), -1)
    rows = zip(made.labels, made.scores, made.boxes, made.energies, made.log_density, intervals, strict=True)
    plain = []
    for label, score, box, f, log_p, interval in rows:
        thing: dict[str, Any] = {"label": label, "score": round(float(score), 5)}
        thing |= {"box": [round(value, 2) for value in box.tolist()], "f": round(float(f), 5)}
        if with_intervals:
            ends = [[round(end, 2) for end in side] for side in interval.tolist()]
            thing |= {"log_density": round(float(log_p), 5), "intervals": ends}
        plain.append(thing)
    return plain


def _as_coco(model: DetectionModel, found: Sequence[Found], level: float | None) -> bytes:
    """Returns COCO's tables; an annotation has the score too, as COCO's results do."""
    number_of = {name: number for number, name in model.names.items()}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(found, start=1):
        images.append({"id": number, "file_name": str(one.file), "width": one.width, "height": one.height})
        for thing in _plain(one.objects, False):
            x1, y1, x2, y2 = thing["box"]
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": number_of.get(thing["label"], 0)}
            about = {"area": round(box[2] * box[3], 2), "iscrowd": 0, "score": thing["score"]}
            annotations.append({**place, "bbox": box, **about})
    categories = [{"id": number, "name": name} for number, name in model.names.items()]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode()


def _as_csv(model: DetectionModel, found: Sequence[Found], level: float | None) -> bytes:
    ends = [f"{side}_{end}" for side in SIDES for end in ("low", "high")] if level is not None else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "label", "score", *SIDES, *ends])
    for one in found:
        for thing in _plain(one.objects, level is not None):
            sides = [end for side in thing.get("intervals", []) for end in side]
            writer.writerow([one.file, thing["label"], thing["score"], *thing["box"], *sides])
    return text.getvalue().encode()


def _as_yolo(model: DetectionModel, found: Sequence[Found], level: float | None) -> bytes:
    """Returns a ZIP archive: a file for each image with class, centre, size and score, and the classes' names."""
    names = list(model.names.values())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("classes.txt", "\n".join(names) + "\n")
        for number, one in enumerate(found):
            lines = []
            for thing in _plain(one.objects, False):
                x1, y1, x2, y2 = thing["box"]
                w, h = one.width, one.height
                place = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h, thing["score"])
                label = names.index(thing["label"]) if thing["label"] in names else len(names)
                lines.append(f"{label} " + " ".join(f"{value:.6f}" for value in place))
            stems = [other.file.stem for other in found]
            name = one.file.stem if stems.count(one.file.stem) == 1 else f"{number:04d}-{one.file.stem}"
            archive.writestr(f"labels/{name}.txt", "".join(f"{line}\n" for line in lines))
    return buffer.getvalue()


WRITERS: dict[str, Callable[[DetectionModel, Sequence[Found], float | None], bytes]] = {
    ".coco.json": _as_coco,
    ".json": _as_json,
    ".csv": _as_csv,
    ".zip": _as_yolo,
}
"""By the ending of the output's name."""


def _draw(pixels: Tensor, made: Prediction, classes: Sequence[str]) -> Image.Image:
    """Returns the image with the boxes that have a high class score, and their names."""
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    scale = max(1, round(640 / max(picture.size)))  # small images are enlarged, so that a name can be read
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    size = max(12, round(0.018 * max(picture.size)))  # of the letters, which large images must show, too
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    for box, label, score in zip(made.boxes, made.labels, made.scores.tolist(), strict=True):
        if score >= DRAWN_SCORE:
            color = COLORS[classes.index(label) % len(COLORS)] if label in classes else COLORS[0]
            x1, y1, x2, y2 = (scale * box).tolist()
            pen.rectangle((x1, y1, x2, y2), outline=color, width=max(2, size // 6))
            place, text = (x1, max(0, y1 - 1.2 * size)), f"{label} {score:.2f}"
            left, top, right, bottom = pen.textbbox(place, text, font)
            pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), fill=color)
            pen.text(place, text, "white", font)
    return picture
