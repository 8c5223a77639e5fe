"""A trained head with its base detector, for use: `ebmbench.load(run_directory)[seed].predict(image)`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ebmbench.boxes.calibration import Calibration, SideIntervals, side_intervals
from ebmbench.boxes.energy import BoxEnergy
from ebmbench.core.errors import UserError
from ebmbench.core.rng import Streams
from ebmbench.tasks.detection.base import reopen
from ebmbench.tasks.detection.config import DetectionSettings
from ebmbench.tasks.detection.data import BAD_IMAGE, read_image
from ebmbench.tasks.detection.detector import BaseDetector
from ebmbench.tasks.detection.features import ImageFeatures, pyramid
from ebmbench.tasks.detection.head import ClassHead
from ebmbench.tasks.detection.inference import detect
from ebmbench.tasks.detection.nms import base_detections

RECORD = "detector.json"
"""The file of a run directory that says which base detector its heads stand on."""


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

    def predict(self, image: Any, level: float | None = 0.9) -> Prediction:
        """Returns the objects in an image.

        Args:
            image: a path, a PIL image, or a uint8 array or tensor `[H, W, 3]`.
            level: the probability of the intervals; None: without them, in a fifth of the time.

        Raises:
            UserError: it is no image.
        """
        return self.predict_all([image], level)[0]

    @torch.no_grad()
    def predict_all(self, images: Sequence[Any], level: float | None = 0.9) -> list[Prediction]:
        """Returns the objects in each of some images; the arguments are those of `predict`."""
        pixels = [as_pixels(image, self.turned) for image in images]
        options, keep = self.task.inference, self.task.head.keep_level
        made = self.base.candidates(pixels, options.score_threshold)
        none = torch.zeros(0, 4, device=made[0][1].boxes.device)
        frames = [
            ImageFeatures(f.maps, f.size, (int(p.shape[1]), int(p.shape[2])), none, none[:, 0].long())
            for p, (f, _) in zip(pixels, made, strict=True)
        ]
        maps, candidates = pyramid(frames, self.base.strides), [found for _, found in made]
        if self.accepted:
            results = detect(self.head, maps, candidates, options, keep)
            found = [(one.boxes[-1], one.scores, one.labels) for one in results]
        else:
            found = [base_detections(one, options) for one in candidates]
        predictions = []
        for place, (frame, (boxes, scores, labels)) in enumerate(zip(frames, found, strict=True)):
            owner = torch.full((len(boxes),), place, dtype=torch.int64, device=boxes.device)
            energy = BoxEnergy(self.head, maps, boxes, owner, labels, keep)
            values = energy(torch.zeros(len(energy), 1, 4, device=boxes.device))[:, 0] if len(energy) else scores
            unknown = torch.full_like(boxes, torch.nan)
            sides = SideIntervals(unknown[:, 0].double(), unknown, unknown)
            if level is not None:
                sides = side_intervals(energy, self.seed, level, self.calibration, centred=not self.accepted)
            predictions.append(
                Prediction(
                    boxes=frame.in_image(boxes),
                    labels=[self.names.get(self.base.category_ids[label - 1], "?") for label in labels.tolist()],
                    scores=scores,
                    energies=values,
                    log_density=sides.log_density,
                    low=sides.low * frame.scale,
                    high=sides.high * frame.scale,
                )
            )
        return predictions


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
