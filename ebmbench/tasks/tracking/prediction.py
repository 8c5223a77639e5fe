"""A trained network for use: `ebmbench.load(run_directory)[seed].track(video, box)`, and `ebmbench predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from ebmbench.boxes.calibration import Calibration
from ebmbench.core.errors import UserError, counted
from ebmbench.core.extras import need
from ebmbench.system.files import write_atomically
from ebmbench.tasks.tracking.coarse import CSRT, NOISE, coarse_track, csrt_track
from ebmbench.tasks.tracking.evaluation import CALIBRATION
from ebmbench.tasks.tracking.model import TrackingNet
from ebmbench.tasks.tracking.refiner import FRAMES_AT_A_TIME, Refiner
from ebmbench.tasks.tracking.scores import Array
from ebmbench.tasks.tracking.videos import VIDEOS, Frame, Video, frame_files, read_videos

if TYPE_CHECKING:
    from ebmbench.tasks.tracking.task import TrackingTask

SIDES = ("x1", "y1", "x2", "y2")
LINES = (((0, 159, 230), 1), ((0, 0, 255), 2))
"""Colours (BGR) and widths of the coarse and the refined box in an annotated video."""


@dataclass(frozen=True)
class Track:
    """Boxes of a sequence, `[T, 4]` x1 y1 x2 y2 in pixels, the left edge of the first one at 0.

    Attributes:
        coarse, boxes: before and after refinement; the same if the run did not accept the model.
        low, high: ends of the central interval of each side.
    """

    coarse: Array
    boxes: Array
    low: Array
    high: Array


class TrackingModel:
    """The network of one trained seed.

    Attributes:
        accepted: whether refined boxes gained on the validation videos. Where they did not, `track` gives coarse ones.
        diverged_step: the step at which its training diverged, None if it did not.
    """

    diverged_step: int | None = None

    def __init__(self, task: TrackingTask, refiner: Refiner, accepted: bool) -> None:
        self.task, self.refiner, self.seed, self.accepted = task, refiner, refiner.seed, accepted

    @staticmethod
    def read(task: TrackingTask, parameters: Mapping[str, Tensor], seed: int, run_dir: Path) -> TrackingModel:
        """Returns the model of a run directory."""
        row = pd.read_csv(run_dir / "metrics.csv").set_index("seed").loc[seed]
        net = TrackingNet(task.model).eval()
        net.load_state_dict({**net.state_dict(), **{name: parameters[name] for name in net.trained()}})
        length = float(np.nan_to_num(row["step_length"], nan=min(task.refinement.lengths)))
        refiner = Refiner(net.requires_grad_(False), task.model, task.refinement, length, seed)
        known = json.loads((run_dir / CALIBRATION.format(seed)).read_text())
        refiner.calibration = Calibration(known["temperature"], tuple(known["levels"]))
        return TrackingModel(task, refiner, bool(row["accepted"] == 1))

    def track(self, video: Video, coarse: Array | None = None, level: float = 0.9) -> Track:
        """Returns the refined track of a sequence.

        Args:
            coarse: boxes `[T, 4]`; those of CSRT if not given.
            level: the probability of the intervals.
        """
        coarse = csrt_track(video) if coarse is None else coarse
        boxes = self.refiner.track(video, coarse) if self.accepted else coarse
        ends: list[tuple[Array, Array]] = []
        waiting: list[Frame] = []
        vector = None
        for number, frame in enumerate(video.frames()):
            vector = self.refiner.look(frame, video.boxes[0]) if vector is None else vector
            waiting.append(frame)
            if len(waiting) == FRAMES_AT_A_TIME or number == len(video) - 1:
                own = boxes[number + 1 - len(waiting) : number + 1]
                ends.append(self.refiner.intervals(waiting, own, vector, level, not self.accepted))
                waiting = []
        low, high = (np.concatenate(part) for part in zip(*ends, strict=True))
        return Track(coarse, boxes, low, high)


def predict_files(
    models: Mapping[int, TrackingModel],
    files: Sequence[Path],
    out: Path,
    level: float,
    box: Sequence[float] | None = None,
) -> None:
    """Writes the track of a video as CSV (x and y from 0), and the video with the boxes beside it.

    Args:
        models: by seed; the first one is used.
        files: one video file, folder of images, or sequence with its first box.
        box: x, y, w, h in the first frame; None for a sequence that has it.

    Raises:
        UserError: there is no video, or no box.
    """
    if len(files) != 1:
        raise UserError(f"task=tracking predicts one video at a time, and {len(files)} are given")
    model, video = next(iter(models.values())), _video(files[0], box)
    given = model.task.coarse
    own = given not in (CSRT, NOISE) and (Path(given).expanduser() / f"{video.name}.txt").is_file()
    coarse = coarse_track(given, video, out.parent) if own else csrt_track(video)
    track = model.track(video, coarse, level)
    columns: dict[str, Any] = {"frame": np.arange(len(video))}
    for prefix, boxes in (("", track.boxes), ("coarse_", track.coarse)):
        sides = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)
        columns |= {f"{prefix}{name}": sides[:, place] for place, name in enumerate("xywh")}
    for place, side in enumerate(SIDES):
        columns |= {f"{side}_low": track.low[:, place], f"{side}_high": track.high[:, place]}
    write_atomically(out, pd.DataFrame(columns).to_csv(index=False, float_format="%.2f").encode())
    picture = out.with_suffix(".mp4") if out.suffix != ".mp4" else out.with_suffix(".boxes.mp4")
    _annotate(video, track, picture)
    speed = model.refiner.frames / max(model.refiner.seconds, 1e-9)
    told = f"{speed:.0f} frames refined for a second of processor time"
    if not model.accepted:
        told = "the run did not accept its model: these are the coarse boxes"
    print(f"ebmbench: {counted(len(video), 'frame')}: {out}, and {picture}; {told}", file=sys.stderr, flush=True)


def _video(path: Path, given: Sequence[float] | None) -> Video:
    if given is None:
        videos = read_videos(path)
        if len(videos) != 1:
            raise UserError(f"{path} has {len(videos)} sequences; predict takes one")
        return replace(videos[0], boxes=videos[0].boxes[:1])
    x, y, w, h = given
    box = np.array([[x, y, x + w, y + h]])
    if path.is_dir():
        inner = path / "img"
        return Video(path.name, frame_files(inner if inner.is_dir() else path), box)
    if path.suffix.lower() not in VIDEOS:
        raise UserError(f"{path} is no video: give one ({', '.join(VIDEOS)}), or a folder of images")
    return Video(path.stem, (path,), box)


def _annotate(video: Video, track: Track, out: Path) -> None:
    cv2 = need("cv2", "tracking")
    rate = cv2.VideoCapture(str(video.source[0])).get(cv2.CAP_PROP_FPS) if video.is_video else 0
    writer = None
    for number, frame in enumerate(video.frames()):
        picture = np.ascontiguousarray(frame[:, :, ::-1])
        if writer is None:
            size = (picture.shape[1], picture.shape[0])
            writer = cv2.VideoWriter(str(out), cv2.VideoWriter_fourcc(*"mp4v"), rate or 25, size)
        for boxes, (color, width) in zip((track.coarse, track.boxes), LINES, strict=True):
            x1, y1, x2, y2 = np.rint(boxes[number]).clip(-9999, 9999).astype(int).tolist()
            cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), color, width)
        writer.write(cv2.resize(picture, size) if picture.shape[1::-1] != size else picture)
    if writer is not None:
        writer.release()
