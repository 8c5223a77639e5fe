"""Images in a folder with their targets: one's own in a CSV file, and sets with a layout of their own."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError, counted, first_line
from ebmbench.core.registry import register
from ebmbench.tasks.pixels import eight_bits
from ebmbench.tasks.regression.data.base import NAME, NAME_TEXT, Arrays, Data, Frame, Split
from ebmbench.tasks.regression.data.files import digest, free_memory, read_table
from ebmbench.tasks.regression.data.frames import read_columns
from ebmbench.tasks.regression.data.splits import Rule, Splits
from ebmbench.tasks.regression.data.table import Names
from ebmbench.tasks.regression.data.transforms import register_transform

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageFiles:
    """Reads images from files, resized: x is `[N, C, height, width]` in [0, 1].

    Attributes:
        column: of a table, which holds the file names.
        root: the folder that relative names are in.
        box: the columns with the left, upper, right and lower end of the part that counts; none: the whole image.
    """

    column: str
    root: str
    channels: int
    height: int
    width: int
    box: tuple[str, ...] = ()

    def read(self, frame: Frame) -> tuple[Tensor, list[str]]:
        """Returns inputs `[N, ...]` float32 of image files, or of arrays of their shape; and what was done: nothing.

        Raises:
            UserError: an image is not there, or they do not fit the model or into memory.
        """
        shape = (self.channels, self.height, self.width)
        if not isinstance(frame, pd.DataFrame):
            x = torch.as_tensor(np.asarray(frame, dtype=np.float32))
            if tuple(x.shape[1:]) != shape:
                raise UserError(f"images of shape {tuple(x.shape[1:])} do not fit; the model takes {shape}")
            return x, []
        if self.column not in frame:
            raise UserError(f"the table lacks the column {self.column!r}, which holds the names of image files")
        names = [str(name) for name in frame[self.column]]
        boxes = frame[list(self.box)].to_numpy(np.float64) if self.box else [None] * len(frame)
        free = free_memory()
        need = 2 * 4 * len(names) * int(np.prod(shape))
        if free is not None and need > free:
            raise UserError(
                f"{len(names)} images of {shape} take about {need / 2**20:.0f} MB of memory where "
                f"{free / 2**20:.0f} MB are free; give a smaller data.size"
            )
        x = torch.empty(len(names), *shape)
        for place, (name, box) in enumerate(zip(names, boxes, strict=True)):
            x[place] = torch.from_numpy(self._image(name, box))
        return x, []

    @property
    def used(self) -> Sequence[str]:
        """The columns that it reads, of a table."""
        return [self.column, *self.box]

    def _image(self, name: str, box: np.ndarray | None) -> np.ndarray:
        path = Path(self.root) / name  # an absolute name replaces the root
        try:
            with Image.open(path) as file:
                image = eight_bits(file, 16).convert("L" if self.channels == 1 else "RGB")
                if box is not None:
                    left, top, right, bottom = (round(float(end)) for end in box)
                    image = image.crop((left, top, right, bottom))
                if image.size != (self.width, self.height):
                    image = image.resize((self.width, self.height), Image.Resampling.BILINEAR)
                pixels = np.asarray(image, dtype=np.float32) / 255
        except FileNotFoundError:
            raise UserError(f"the image {path}, which the column {self.column!r} names, is not there") from None
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            raise UserError(f"{path} is no image that can be read") from None
        return pixels.reshape(self.height, self.width, self.channels).transpose(2, 0, 1)

    def plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON."""
        return {"kind": "images", **{name: getattr(self, name) for name in self.__dataclass_fields__}}


register_transform("images", lambda plain: ImageFiles(**{**plain, "box": tuple(plain["box"])}))


class ImageData(Splits, Data):
    """A dataset of images. A subclass defines `table`."""

    is_identified = True
    scale: ClassVar[str | None] = None
    """The published scale of the proposal, for a note."""
    range_share: ClassVar[float | None] = None
    """The same as a share of the targets' range; None where it is no such share."""

    root: str | None = Field(None, min_length=1, description="the folder of the images")
    size: int = Field(64, ge=4, le=2048, description="pixels of a side that images are resized to")
    channels: Literal[1, 3] = Field(3, description="3: colours; 1: grey")

    def identity(self) -> dict[str, Any]:
        """Returns the settings, with a hash of the targets and the images instead of the folder's place."""
        found = super().identity()
        try:
            root = self.folder()
            rows, column, *_ = self.table(root)
        except UserError:
            return found
        content = [rows.to_csv(), *(str(digest(root / str(name))) for name in rows[column].dropna())]
        del found["root"]
        return {**found, "content": hashlib.sha256(" ".join(content).encode()).hexdigest()[:32]}

    def folder(self) -> Path:
        """Returns the folder of the images, or raises UserError."""
        if self.root is None:
            raise UserError(f"data.root is not given: the folder of the images of data={self.source}")
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise UserError(f"data.root={self.root} is no folder")
        return root

    def table(self, root: Path) -> tuple[pd.DataFrame, str, Sequence[str], Sequence[str]]:
        """Returns a row for each image, the column of file names, those of the targets, and those of a part's ends.

        Args:
            root: the folder; names are relative to it.

        Raises:
            UserError: the folder is not of the layout.
        """
        raise NotImplementedError

    @override
    def load(self) -> Split:
        root = self.folder()
        frame, column, targets, box = self.table(root)
        rows = read_columns(frame, targets, (), (column, *box), source=f"data={self.source}")
        kept = rows.frame.dropna(subset=[column])
        if len(kept) < len(rows.frame):
            rows.notes.append(f"{counted(len(rows.frame) - len(kept), 'row')} without an image left out")
        places, table = kept.index.to_numpy(), rows.table.loc[kept.index]
        y = table[rows.targets].to_numpy()
        parts = self.parts(table, rows.targets, len(frame), rows.dates)
        transform = ImageFiles(column, str(root.absolute()), self.channels, self.size, self.size, tuple(box))
        x, _ = transform.read(kept)
        fit, check, score = (Arrays(x[part], torch.from_numpy(y[part]), rows=places[part]) for part in parts)
        if self.scale is not None:
            rows.notes.append(f"published proposal: {self.scale}{_as_setting(self.range_share, fit.y)}")
        return Split(fit, check, score, rows.targets, ["image"], transform, rows.notes)


def _as_setting(share: float | None, y: Tensor) -> str:
    """Returns how a share of the targets' range is written as a setting, in standard deviations of the targets."""
    if share is None:
        return ""
    stds = share * (y.amax(0) - y.amin(0)) / y.std(0, unbiased=False)
    return f"; here proposal.stds=[{float(stds.mean()):.2g}]"


@register
class Images(ImageData):
    """Images of one's own, with a target each: `data=images data.root=cells data.labels=counts.csv`."""

    source = "images"

    name: str = Field("images", pattern=NAME, description=NAME_TEXT)
    labels: str = Field("labels.csv", min_length=1, description="the CSV file of file names and targets, in root")
    column: str | None = Field(None, description="the column of file names; null: the first one")
    targets: Names = Field((), description="the columns to predict; none: the last one")
    test_fraction: float = Field(0.5, gt=0, lt=1, description="share of the images that are for test, without a file")

    @override
    def table(self, root: Path) -> tuple[pd.DataFrame, str, Sequence[str], Sequence[str]]:
        path = root / self.labels
        if not path.is_file():
            raise UserError(f"data.labels={self.labels}: {path} is not a file; give a CSV of file names and targets")
        frame, _ = read_table(path, None)
        frame.columns = pd.Index([str(name).strip() for name in frame.columns])
        column = self.column or str(frame.columns[0])
        if column not in frame:
            raise UserError(f"data.column={column}: {path.name} has the columns {', '.join(frame.columns)}")
        return frame, column, self.targets, ()


@register
class UTKFace(ImageData):
    """UTKFace: the age of a face, which a file's name begins with (`25_0_1_20170116174525125.jpg.chip.jpg`).

    As in Cao et al. (2020) and Gustafsson et al. (2020), faces of 21 to 60 years; `data.ages` has the ends.
    """

    source = "utkface"
    scale = "standard deviations of 0.1 and 20 years (ebms_proposals)"

    name: str = Field("utkface", pattern=NAME, description=NAME_TEXT)
    ages: tuple[int, int] = Field((21, 60), description="the youngest and the oldest age that counts")

    @override
    def table(self, root: Path) -> tuple[pd.DataFrame, str, Sequence[str], Sequence[str]]:
        names = sorted(path.name for path in root.iterdir() if re.fullmatch(r"\d+_.*\.(jpg|jpeg|png)", path.name))
        frame = pd.DataFrame({"file": names, "age": [int(name.split("_")[0]) for name in names]})
        frame = frame[frame["age"].between(*self.ages)].reset_index(drop=True)
        if not len(frame):
            raise UserError(f"data.root={self.root} holds no faces such as 25_0_1_20170116174525125.jpg of these ages")
        return frame, "file", ["age"], ()


HEAD_MM = 250.0
"""The side of the square around the centre of a head, in millimetres."""


@register
class Biwi(ImageData):
    """BIWI Kinect Head Pose: yaw, pitch and roll of a head, in degrees. Persons stay together when rows are split.

    The layout is ROOT/01/frame_00003_rgb.png, …_pose.txt (a rotation matrix and the place of the head) and, in each
    folder, rgb.cal, by which the head is cut out. (Fanelli et al., 2013; the angles as in Ruiz et al., 2018.)
    """

    source = "biwi"
    scale, range_share = "standard deviations of 1/10 of the range of each angle (ebms_proposals)", 0.1

    name: str = Field("biwi", pattern=NAME, description=NAME_TEXT)
    split_rule: Rule = Field("group", description="how the rows are split")
    split_by: str | None = Field("person", min_length=1, description="the column that the rule is about")
    test_fraction: float = Field(0.3, gt=0, lt=1, description="share of the images that are for test, without a file")

    @property
    @override
    def num_targets(self) -> int:
        return 3

    @override
    def table(self, root: Path) -> tuple[pd.DataFrame, str, Sequence[str], Sequence[str]]:
        rows: list[dict[str, Any]] = []
        for path in sorted(root.glob("*/frame_*_pose.txt")):
            pose = _numbers(path, 12)
            (_, _, _), (r10, _, _), (r20, r21, r22) = rotation = pose[:9].reshape(3, 3).T
            roll, pitch = -math.atan2(r10, rotation[0, 0]), math.atan2(r21, r22)
            yaw = math.atan2(r20, math.hypot(r21, r22))
            angles = {name: math.degrees(value) for name, value in (("yaw", yaw), ("pitch", pitch), ("roll", roll))}
            image = path.with_name(path.name.replace("_pose.txt", "_rgb.png"))
            cal = _numbers(path.with_name("rgb.cal"), 25)
            camera, turn, shift = cal[:9].reshape(3, 3), cal[13:22].reshape(3, 3), cal[22:25]
            u, v, depth = camera @ (turn @ pose[9:12] + shift)
            half = 0.5 * HEAD_MM * camera[0, 0] / depth
            ends = (u / depth - half, v / depth - half, u / depth + half, v / depth + half)
            row = {"file": image.relative_to(root).as_posix(), "person": path.parent.name, **angles}
            rows.append({**row, **dict(zip(BOX, ends, strict=True))})
        if not rows:
            raise UserError(f"data.root={self.root} holds no poses such as 01/frame_00003_pose.txt")
        return pd.DataFrame(rows), "file", ["yaw", "pitch", "roll"], BOX


BOX = ("left", "top", "right", "bottom")


def _numbers(path: Path, count: int) -> np.ndarray:
    """Returns the numbers of a text file, of which there must be so many at least."""
    try:
        numbers = np.array(path.read_text().split(), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as numbers ({first_line(error)})") from None
    if len(numbers) < count:
        raise UserError(f"{path} holds {len(numbers)} numbers, and at least {count} are expected")
    return numbers


@register
class Steering(ImageData):
    """Steering angles of a drive, in degrees: ROOT/data.txt has a line `0.jpg 12.3` for each image (Chen, 2017)."""

    source = "steering"
    scale, range_share = "a standard deviation of 1/40 of the range (ebms_proposals)", 1 / 40

    name: str = Field("steering", pattern=NAME, description=NAME_TEXT)

    @override
    def table(self, root: Path) -> tuple[pd.DataFrame, str, Sequence[str], Sequence[str]]:
        path = root / "data.txt"
        try:
            lines = [line.replace(",", " ").split() for line in path.read_text().splitlines() if line.strip()]
            rows = [(words[0], float(words[1])) for words in lines]  # a third word is the time
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f"{path} must hold lines such as `0.jpg 12.3` ({first_line(error)})") from None
        if not rows:
            raise UserError(f"{path} holds no lines")
        return pd.DataFrame(rows, columns=["file", "angle"]), "file", ["angle"], ()
