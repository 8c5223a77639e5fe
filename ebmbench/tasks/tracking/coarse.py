"""Coarse trackers: OpenCV's CSRT, anybody's boxes from text files, and the true box with noise.

A coarse track is computed once for each sequence, and shared by all runs of a results folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ebmbench.boxes.artefact import computed_once
from ebmbench.core.errors import UserError, counted
from ebmbench.core.extras import need
from ebmbench.system.files import fingerprint_of_file
from ebmbench.tasks.detection.data import hash_of
from ebmbench.tasks.tracking.scores import Array, filled, moved
from ebmbench.tasks.tracking.videos import Video, read_boxes

CSRT, NOISE = "csrt", "noise"
NOISE_STD = np.array([0.1, 0.1, 0.2, 0.2])
"""Of the noise on the true boxes, in (cx/w, cy/h, log w, log h)."""


def identity_of(coarse: str) -> Any:
    """Returns what tracks of a coarse tracker depend on beside the sequence.

    Raises:
        UserError: it is not known, or a folder that holds no track.
    """
    if coarse == CSRT:
        return [CSRT, need("cv2", "tracking").__version__]
    if coarse == NOISE:
        return NOISE
    folder = Path(coarse).expanduser()
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise UserError(
            f"task.coarse={coarse} is not allowed; it is {CSRT}, {NOISE} (the true boxes with noise), or a folder with "
            "a file of boxes for each sequence, SEQ.txt"
        )
    return [(file.name, fingerprint_of_file(file)) for file in files]


def follows_any(coarse: str) -> bool:
    """Returns whether a coarse tracker can follow any sequence, and not only those that it has files of."""
    return coarse in (CSRT, NOISE)


def coarse_track(coarse: str, video: Video, results_dir: Path) -> Array:
    """Returns the coarse box of each frame of a sequence, `[T, 4]`; the first one is the given box."""
    if coarse == NOISE:
        return noisy_track(video)
    if coarse != CSRT:
        return _from_file(Path(coarse).expanduser() / f"{video.name}.txt", video)
    key = hash_of([identity_of(CSRT), video.content])

    def compute(folder: Path) -> Mapping[str, Any]:
        np.savetxt(folder / "boxes.txt", csrt_track(video), fmt="%.6f")
        return {"sequence": video.name, "frames": len(video)}

    folder = results_dir / "coarse" / key
    computed_once(folder, f"the coarse track of {video.name}", compute)
    return np.loadtxt(folder / "boxes.txt", ndmin=2)


def csrt_track(video: Video) -> Array:
    """Returns the track of OpenCV's CSRT from the first box on."""
    cv2 = need("cv2", "tracking")
    tracker, track = None, np.full((len(video), 4), np.nan)
    for number, frame in enumerate(video.frames()):
        picture = np.ascontiguousarray(frame[:, :, ::-1])
        if tracker is None:
            height, width = picture.shape[:2]
            x1, y1, x2, y2 = np.rint(video.boxes[0]).clip(0, [width, height] * 2).astype(int).tolist()
            if min(x2 - x1, y2 - y1) < 1:
                raise UserError(f"sequence {video.name}: the first box is outside the picture ({width} x {height})")
            tracker = cv2.TrackerCSRT.create()
            tracker.init(picture, (x1, y1, x2 - x1, y2 - y1))
            continue
        is_found, (x, y, w, h) = tracker.update(picture)
        if is_found:
            track[number] = x, y, x + w, y + h
    return filled(track, video.boxes[0], len(video))


def noisy_track(video: Video) -> Array:
    """Returns the true boxes with noise; where none is known, the last one."""
    seed = int.from_bytes(hashlib.blake2s(video.name.encode()).digest()[:4], "little")
    noise = NOISE_STD * np.random.default_rng(seed).normal(size=(len(video), 4))
    return filled(moved(filled(video.truth, video.boxes[0], len(video)), noise), video.boxes[0], len(video))


def _from_file(path: Path, video: Video) -> Array:
    if not path.is_file():
        raise UserError(f"task.coarse: {path} is not there; each sequence that is scored needs its file of boxes")
    boxes = read_boxes(path, video.origin)
    if len(boxes) < min(len(video), len(video.boxes)):
        raise UserError(f"{path} has {counted(len(boxes), 'box', 'boxes')}, and {video.name} {len(video)} frames")
    return filled(boxes, video.boxes[0], len(video))
