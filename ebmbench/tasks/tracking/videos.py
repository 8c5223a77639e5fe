"""Sequences of frames with true boxes: OTB, LaSOT, GOT-10k, TrackingNet, VOT, and one's own.

A sequence is known by the files that are there:

| layout | frames | true boxes |
|---|---|---|
| OTB | `NAME/img/0001.jpg` | `NAME/groundtruth_rect.txt`, or `groundtruth_rect.1.txt` … for several targets |
| LaSOT | `NAME/img/00000001.jpg` | `NAME/groundtruth.txt`; absent: `full_occlusion.txt`, `out_of_view.txt` |
| GOT-10k | `NAME/00000001.jpg` | `NAME/groundtruth.txt`; absent: `absence.label`, or 0 in `cover.label` |
| VOT | `NAME/00000001.jpg`, `NAME/color/` or `NAME/img/` | `NAME/groundtruth.txt`, four corners of a polygon a line |
| TrackingNet | `frames/NAME/0.jpg` | `anno/NAME.txt` |
| a video | `NAME.mp4` | `NAME.txt` beside it |

A line is `x, y, w, h` (or the eight numbers of a polygon) with commas, tabs or spaces. A file of one's own may have the
first line alone. Pixels of OTB, LaSOT and VOT count from 1, the others from 0; here the left edge of the first pixel
is 0. Lines belong to the frames in the order of their numbers, from the first frame on. A polygon becomes the box with
the centre and area of the polygon and the aspect of its enclosing box, which is the polygon itself if it is an upright
box.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebmbench.core.errors import UserError, shown
from ebmbench.core.extras import need
from ebmbench.system.files import fingerprint
from ebmbench.tasks.detection.data import BAD_IMAGE, SUFFIXES, read_image
from ebmbench.tasks.tracking.scores import Array, is_valid

Frame = NDArray[np.uint8]
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
STARTS = {"David": 300, "BlurCar1": 247, "BlurCar3": 3, "BlurCar4": 18}
"""OTB's sequences whose boxes begin at a later frame than the images, where all images are there."""


@dataclass(frozen=True)
class Video:
    """A sequence.

    Attributes:
        name: of the sequence.
        source: the files of its frames in order, or one video file; None for made frames.
        boxes: true boxes `[n, 4]` x1 y1 x2 y2, the first n frames'; nan where the target is absent or the box is none.
        origin: the number of the first pixel in files of boxes, 0 or 1.
        made: the frames themselves, where no file has them.
    """

    name: str
    source: tuple[Path, ...]
    boxes: Array
    origin: int = 0
    made: tuple[Frame, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not len(self.boxes) or not is_valid(self.boxes[0]):
            raise UserError(f"sequence {self.name}: the first frame has no box, from which a tracker could start")

    def __len__(self) -> int:
        return self._length

    @cached_property
    def _length(self) -> int:
        if self.made or not self.is_video:
            return len(self.made or self.source)
        return sum(1 for _ in self.frames())  # what a video file says of its length may be wrong

    @property
    def is_video(self) -> bool:
        """Whether the frames are in one video file."""
        return len(self.source) == 1 and self.source[0].suffix.lower() in VIDEOS

    @cached_property
    def truth(self) -> Array:
        """The true box of each frame, `[T, 4]`; nan where there is none."""
        truth = np.full((len(self), 4), np.nan)
        known = self.boxes[: len(self)]
        truth[: len(known)] = np.where(is_valid(known)[:, None], known, np.nan)
        return truth

    @property
    def content(self) -> str:
        """A hash of what coarse tracks depend on: the first box, and the names and sizes of the files."""
        files = [(path.name, path.stat().st_size) for path in self.source]
        made = [fingerprint(frame.tobytes()) for frame in self.made[:: max(1, len(self.made) // 4)]]
        return fingerprint(repr((files, made, len(self.made), self.boxes[0].tolist())).encode())

    def frames(self) -> Iterator[Frame]:
        """Yields the frames in order, `[H, W, 3]` RGB.

        Raises:
            UserError: one cannot be read.
        """
        yield from self.made
        if self.is_video:
            yield from _video_frames(self.source[0])
            return
        for path in self.source:
            try:
                yield np.asarray(read_image(path).convert("RGB"))
            except BAD_IMAGE as error:
                raise UserError(f"sequence {self.name}: frame {path} cannot be read ({error})") from None


def _video_frames(path: Path) -> Iterator[Frame]:
    cv2 = need("cv2", "tracking")
    capture, count = cv2.VideoCapture(str(path)), 0
    try:
        while True:
            ok, frame = capture.read()
            if not ok:
                break
            count += 1
            yield frame[:, :, ::-1]
    finally:
        capture.release()
    if not count:
        raise UserError(f"{path} is no video that OpenCV can read")


def read_boxes(path: Path, origin: int) -> Array:
    """Returns the boxes of a text file, `[n, 4]` x1 y1 x2 y2: a line `x, y, w, h`, or the corners of a polygon.

    Raises:
        UserError: it is missing, or a line is neither.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: boxes cannot be read ({error})") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return np.array([_box(line, f"{path}, line {n}", origin) for n, line in enumerate(lines, 1)]).reshape(-1, 4)


def _box(line: str, where: str, origin: int) -> Array:
    try:
        numbers = np.array([float(word) for word in re.split(r"[,;\s]+", line.strip(" \t,;\ufeff"))])
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) == 4:
        return np.concatenate((numbers[:2] - origin, numbers[:2] - origin + numbers[2:]))
    if len(numbers) == 8:
        return polygon_box(numbers.reshape(4, 2) - origin)
    raise UserError(f"{where}: {shown(line)} is not allowed; a line has x, y, w, h, or the 8 numbers of 4 corners")


def box_lines(boxes: Array, origin: int) -> str:
    """Returns boxes `[n, 4]` x1 y1 x2 y2 as the lines of a text file, `x,y,w,h`."""
    rows = np.concatenate((boxes[:, :2] + origin, boxes[:, 2:] - boxes[:, :2]), axis=1)
    return "".join(",".join(f"{value:.3f}" for value in row) + "\n" for row in rows.tolist())


def polygon_box(corners: Array) -> Array:
    """Returns the box of a polygon `[n, 2]`: its centre and area, and the aspect of its enclosing box."""
    low, high = corners.min(0), corners.max(0)
    following = np.roll(corners, -1, axis=0)
    area = abs((corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]).sum()) / 2
    enclosing = float((high - low).prod())
    half = (high - low) / 2 * (np.sqrt(area / enclosing) if enclosing > 0 else np.nan)
    centre = (low + high) / 2
    return np.concatenate((centre - half, centre + half))


def read_videos(root: Path) -> list[Video]:
    """Returns the sequences of a folder (or the one that it is), by name; see the top of this file for the layouts.

    Raises:
        UserError: there is none, or one cannot be read.
    """
    if not root.exists():
        raise UserError(f"{root} is not there; give a folder of sequences")
    found = _videos_in(root) or [video for path in _inside(root) for video in _videos_in(path)]
    found = found or [video for path in _inside(root) for inner in _inside(path) for video in _videos_in(inner)]
    if not found:
        raise UserError(f"{root} has no sequence: frames with groundtruth_rect.txt, groundtruth.txt or NAME.txt")
    names = [video.name for video in found]
    again = next((name for name in names if names.count(name) > 1), None)
    if again is not None:
        raise UserError(f"{root} has two sequences of the name {again}; give them different names")
    return sorted(found, key=lambda video: video.name)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _videos_in(path: Path) -> list[Video]:
    """Returns the sequences that a path itself holds: one, more if several targets are given, none."""
    if path.suffix.lower() in VIDEOS and path.with_suffix(".txt").is_file():
        return [Video(path.stem, (path,), read_boxes(path.with_suffix(".txt"), 0))]
    if (path / "anno").is_dir() and (path / "frames").is_dir():
        files = sorted((path / "anno").glob("*.txt"))
        return [Video(f.stem, frame_files(path / "frames" / f.stem), read_boxes(f, 0)) for f in files]
    inner = next((path / name for name in ("img", "color") if (path / name).is_dir()), None)
    files = sorted(path.glob("groundtruth_rect*.txt")) if path.is_dir() else []
    if files:
        frames = frame_files(inner or path)
        return [_otb(path.name + f.stem.removeprefix("groundtruth_rect"), frames, read_boxes(f, 1)) for f in files]
    if not (path / "groundtruth.txt").is_file():
        return []
    frames = frame_files(inner or path)
    absent = _flags(path, len(frames))
    first = next(iter((path / "groundtruth.txt").read_text(errors="replace").splitlines()), "")
    from_one = inner is not None or len(re.split(r"[,;\s]+", first.strip())) == 8
    boxes = read_boxes(path / "groundtruth.txt", int(from_one))
    boxes[absent[: len(boxes)]] = np.nan
    return [Video(path.name, frames, boxes, int(from_one))]


def _otb(name: str, frames: tuple[Path, ...], boxes: Array) -> Video:
    start = STARTS.get(name, 1)
    whole = len(frames) - len(boxes) >= start - 1 and int(re.findall(r"\d+", frames[0].stem)[-1]) <= 1
    return Video(name, frames[start - 1 :] if whole else frames, boxes, 1)


def frame_files(folder: Path) -> tuple[Path, ...]:
    """Returns the images of a folder, in the order of the last number in their names.

    Raises:
        UserError: there is none.
    """

    def place(path: Path) -> tuple[int, str]:
        numbers = re.findall(r"\d+", path.stem)
        return int(numbers[-1]) if numbers else -1, path.name

    files = sorted((p for p in _inside(folder) if p.suffix.lower() in SUFFIXES), key=place)
    if not files:
        raise UserError(f"{folder} has no image; known are {', '.join(SUFFIXES)}")
    return tuple(files)


def _flags(folder: Path, count: int) -> NDArray[np.bool_]:
    """Returns in which frames LaSOT or GOT-10k say that the target is absent, `[count]`."""
    absent = np.zeros(count, dtype=bool)
    for name, is_absent in (
        ("full_occlusion.txt", True), ("out_of_view.txt", True), ("absence.label", True), ("cover.label", False),
    ):  # fmt: skip
        path = folder / name
        if path.is_file():
            words = re.split(r"[,\s]+", path.read_text().strip(" ,\n"))
            if not all(re.fullmatch(r"\d+(\.0*)?", word) for word in words):
                raise UserError(f"{path} is not allowed: it has a number for each frame")
            flags = [(float(word) > 0) == is_absent for word in islice(words, count)]
            absent[: len(flags)] |= flags
    return absent
