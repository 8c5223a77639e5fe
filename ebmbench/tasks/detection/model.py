"""A trained head with its base detector, for use: `ebmbench.load(run_directory)[seed].predict(image)`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ebmbench.boxes.calibration import Calibration, side_intervals
from ebmbench.boxes.energy import BoxEnergy
from ebmbench.core.errors import UserError, counted
from ebmbench.core.rng import Streams
from ebmbench.system.files import write_atomically
from ebmbench.tasks.detection.base import reopen
from ebmbench.tasks.detection.config import DetectionSettings
from ebmbench.tasks.detection.data import BAD_IMAGE, SUFFIXES, read_image
from ebmbench.tasks.detection.detector import BaseDetector
from ebmbench.tasks.detection.features import ImageFeatures, pyramid
from ebmbench.tasks.detection.head import ClassHead
from ebmbench.tasks.detection.inference import detect
from ebmbench.tasks.detection.nms import base_detections

RECORD = "detector.json"
"""The file of a run directory that says which base detector its heads stand on."""
DRAWN_SCORE = 0.5
"""Class score from which a box is drawn into a picture."""
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Of the classes in pictures, in turn."""
SAY_SECONDS = 10.0
"""Time between two lines that say how far a prediction of many images is."""


@dataclass(frozen=True)
class Prediction:
    """The objects in one image, the highest class score first.

    Attributes:
        boxes: x1 y1 x2 y2 in pixels of the image, `[N, 4]`.
        labels: names of the classes, N of them.
        scores: class scores of the base detector, `[N]`.
        energies: f at the boxes, `[N]`.
        log_density: `log p(y|x)` at the boxes, at the temperature that fits validation boxes, in coordinates relative
            to them (docs/detection.md), `[N]` float64; the density is that of the boxes nearby, whose centre is at most
            half the width and height away and whose sides are half to twice as long: those farther away are other
            objects'.
        low, high: ends of the interval of each of x1 y1 x2 y2, `[N, 4]`: the central one of this density whose level
            holds as many sides of validation boxes as it should.
    """

    boxes: Tensor
    labels: list[str]
    scores: Tensor
    energies: Tensor
    log_density: Tensor
    low: Tensor
    high: Tensor


class DetectionModel:
    """The head of one trained seed on its base detector.

    Attributes:
        seed: the seed that it was trained with.
        accepted: whether the head gained on images that it was not trained on. Where it did not, `predict` gives the
            base's boxes, and intervals around them.
        calibration: what validation boxes say of its density and its intervals.
        turned: whether files of images are turned by their EXIF tags, as those were that it was trained on.
        diverged_step: the step at which its training diverged, None if it did not.
    """

    diverged_step: int | None = None

    def __init__(
        self,
        task: DetectionSettings,
        base: BaseDetector,
        names: Mapping[int, str],
        head: ClassHead,
        seed: int,
        accepted: bool,
        calibration: Calibration,
        turned: bool = True,
    ) -> None:
        self.task, self.base, self.head = task, base, head.eval().requires_grad_(False)
        self.names, self.seed, self.accepted, self.calibration = dict(names), seed, accepted, calibration
        self.turned = turned

    @staticmethod
    def read(task: DetectionSettings, parameters: Mapping[str, Tensor], seed: int, run_dir: Path) -> DetectionModel:
        """Returns the model of a run directory.

        Raises:
            UserError: the run does not say what its base detector is, or that is not there.
        """
        try:
            record = json.loads((run_dir / RECORD).read_text())
            names = {int(number): str(name) for number, name in record["names"].items()}
            turned = bool(record["turned"])
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"{run_dir / RECORD} is missing or damaged ({type(error).__name__}); run it again with force=true"
            ) from None
        base = reopen(task, record, run_dir.parent.parent)
        draws = Streams([seed], stacked=False).at(0)
        options, start = task.head, task.head.from_base and base.has_box_head
        head = ClassHead.start(base.hidden_layers, len(base.category_ids), options.activation, start, draws)
        head.load_state_dict({**head.state_dict(), **{n: parameters[n] for n in head.trained(options.frozen)}})
        verdict = _is_accepted(run_dir, seed), _calibration(run_dir, seed)
        return DetectionModel(task, base, names, head, seed, *verdict, turned)

    @torch.no_grad()
    def predict(self, image: Any, level: float = 0.9) -> Prediction:
        """Returns the objects in an image.

        Args:
            image: a path, a PIL image, or a uint8 array or tensor `[H, W, 3]`.
            level: the probability of the intervals.

        Raises:
            UserError: it is no image.
        """
        pixels = as_pixels(image, self.turned)
        options = self.task.inference
        ((features, found),) = self.base.candidates([pixels], options.score_threshold)
        original, none = (int(pixels.shape[1]), int(pixels.shape[2])), found.boxes.new_zeros(0)
        one = ImageFeatures(features.maps, features.size, original, none.view(0, 4), none.long())
        maps = pyramid([one], self.base.strides)
        if self.accepted:
            (result,) = detect(self.head, maps, [found], options, self.task.head.keep_level)
            boxes, scores, labels = result.boxes[-1], result.scores, result.labels
        else:
            boxes, scores, labels = base_detections(found, options)
        images = torch.zeros(len(boxes), dtype=torch.int64)
        energy = BoxEnergy(self.head, maps, boxes, images, labels, self.task.head.keep_level)
        values = energy(torch.zeros(len(energy), 1, 4, device=boxes.device))[:, 0] if len(energy) else scores
        sides = side_intervals(energy, self.seed, level, self.calibration, centred=not self.accepted)
        return Prediction(
            boxes=one.in_image(boxes),
            labels=[self.names.get(self.base.category_ids[label - 1], "?") for label in labels.tolist()],
            scores=scores,
            energies=values,
            log_density=sides.log_density,
            low=sides.low * one.scale,
            high=sides.high * one.scale,
        )


def _is_accepted(run_dir: Path, seed: int) -> bool:
    """Whether a run reports the head's boxes: it does where it was not asked to judge them."""
    table = pd.read_csv(run_dir / "metrics.csv").set_index("seed")
    return "accepted" not in table or bool(table.loc[seed, "accepted"] == 1)


def _calibration(run_dir: Path, seed: int) -> Calibration:
    """Returns the calibration that a run wrote for a seed; raises UserError where it is missing or damaged."""
    path = run_dir / f"calibration.{seed}.json"
    try:
        content = json.loads(path.read_text())
        return Calibration(float(content["temperature"]), tuple(map(float, content["levels"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{path} is missing or damaged ({type(error).__name__}): `ebmbench rescore` writes it again"
        raise UserError(text) from None


def as_pixels(image: Any, turned: bool = True) -> Tensor:
    """Returns an image as `[3, H, W]` uint8.

    Args:
        turned: a file is turned by its EXIF tag, as those were that the detector was trained on.

    Raises:
        UserError: it cannot be read, or is not of this form.
    """
    if isinstance(image, str | Path):
        try:
            image = read_image(Path(image), turned=turned)
        except BAD_IMAGE as error:
            raise UserError(f"{str(image)!r} is no image that can be read ({error})") from None
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGB"))
    pixels = torch.as_tensor(image)
    if pixels.dim() != 3 or pixels.shape[2] != 3 or pixels.dtype != torch.uint8 or not pixels.numel():
        raise UserError(f"an image is a uint8 array [H, W, 3], and this is {pixels.dtype} {tuple(pixels.shape)}")
    return pixels.permute(2, 0, 1).contiguous()


# -------------------------------------------------------------------------------------------------------- files


def predict_files(models: Mapping[int, DetectionModel], files: Sequence[Path], out: Path, level: float) -> None:
    """Writes the objects in images as JSON, and pictures with their boxes into the folder `<out>-pictures`.

    Args:
        models: by seed; the first one is used.
        files: images, or folders of images.

    Raises:
        UserError: there is no image, or one cannot be read.
    """
    model = next(iter(models.values()))
    images = [image for path in files for image in (_images_in(path) if path.is_dir() else [path])]
    if not images:
        raise UserError(f"there is no image in {files[0]}; known are {', '.join(SUFFIXES)}")
    folder = out.with_name(f"{out.stem}-pictures")
    found: list[dict[str, Any]] = []
    started = said = time.monotonic()
    for number, path in enumerate(images):
        now = time.monotonic()
        if now - said >= SAY_SECONDS and number:
            said, left = now, (now - started) / number * (len(images) - number)
            _say(f"{number} of {counted(len(images), 'image')}, {left:.0f} s left")
        try:
            pixels = as_pixels(path, model.turned)
        except UserError as error:
            if path in files:
                raise
            _say(f"{error}; it is left out")
            continue
        made = model.predict(pixels.permute(1, 2, 0), level)
        found.append({"file": str(path), "width": pixels.shape[2], "height": pixels.shape[1], "objects": _plain(made)})
        folder.mkdir(exist_ok=True)
        _draw(pixels, made, list(model.names.values())).save(folder / f"{number:04d}-{path.stem[:80]}.png")
    if not found:
        raise UserError(f"{images[0].parent}: no image can be read, of {len(images)}")
    write_atomically(out, _as_json({"seed": model.seed, "accepted": model.accepted, "level": level}, found).encode())
    objects = sum(len(image["objects"]) for image in found)
    _say(f"{counted(objects, 'object')} in {counted(len(found), 'image')}: {out}, and pictures in {folder}/")


def _say(text: str) -> None:
    print(f"ebmbench: {text}", file=sys.stderr, flush=True)


def _as_json(about: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> str:
    """Returns JSON with a line for each object."""
    images = []
    for image in found:
        objects = ",\n".join(f"    {json.dumps(one)}" for one in image["objects"])
        head = json.dumps({key: value for key, value in image.items() if key != "objects"})[:-1]
        images.append(f'  {head}, "objects": [' + (f"\n{objects}\n  " if objects else "") + "]}")
    return json.dumps(about)[:-1] + ', "images": [\n' + ",\n".join(images) + "\n]}\n"


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _plain(made: Prediction) -> list[dict[str, Any]]:
    intervals = torch.stack((made.low, made.high), -1)
    rows = zip(made.labels, made.scores, made.boxes, made.energies, made.log_density, intervals, strict=True)
    return [
        {
            "label": label,
            "score": round(float(score), 5),
            "box": [round(value, 2) for value in box.tolist()],
            "f": round(float(f), 5),
            "log_density": round(float(log_p), 5),
            "intervals": [[round(end, 2) for end in ends] for ends in interval.tolist()],
        }
        for label, score, box, f, log_p, interval in rows
    ]


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
