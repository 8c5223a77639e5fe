"""Images in a folder, and a CSV file with their targets: `data=images data.root=cells data.labels=counts.csv`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError, counted
from ebmbench.core.registry import register
from ebmbench.tasks.pixels import eight_bits
from ebmbench.tasks.regression.data.base import NAME, NAME_TEXT, Arrays, Data, Frame, Split
from ebmbench.tasks.regression.data.files import digest, free_memory, read_table
from ebmbench.tasks.regression.data.frames import read_columns
from ebmbench.tasks.regression.data.splits import Splits
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
    """

    column: str
    root: str
    channels: int
    height: int
    width: int

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
        free = free_memory()
        need = 2 * 4 * len(names) * int(np.prod(shape))
        if free is not None and need > free:
            raise UserError(
                f"{len(names)} images of {shape} take about {need / 2**20:.0f} MB of memory where "
                f"{free / 2**20:.0f} MB are free; give a smaller data.size"
            )
        x = torch.empty(len(names), *shape)
        for place, name in enumerate(names):
            x[place] = torch.from_numpy(self._read(name))
        return x, []

    @property
    def used(self) -> Sequence[str]:
        """The column that it reads, of a table."""
        return [self.column]

    def _read(self, name: str) -> np.ndarray:
        path = Path(self.root) / name  # an absolute name replaces the root
        try:
            with Image.open(path) as file:
                image = eight_bits(file).convert("L" if self.channels == 1 else "RGB")
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


register_transform("images", lambda plain: ImageFiles(**plain))


@register
class Images(Splits, Data):
    """Images of one's own, with a target each: `data=images data.root=cells data.labels=counts.csv`."""

    source = "images"
    is_identified = True

    name: str = Field("images", pattern=NAME, description=NAME_TEXT)
    root: str | None = Field(None, min_length=1, description="the folder that file names are relative to")
    labels: str = Field("labels.csv", min_length=1, description="the CSV file of file names and targets, in root")
    column: str | None = Field(None, description="the column of file names; null: the first one")
    targets: Names = Field((), description="the columns to predict; none: the last one")
    size: int = Field(64, ge=4, le=2048, description="pixels of a side that images are resized to")
    channels: Literal[1, 3] = Field(3, description="3: colours; 1: grey")
    test_fraction: float = Field(0.5, gt=0, lt=1, description="share of the images that are for test, without a file")

    def identity(self) -> dict[str, Any]:
        """Returns the settings, with the labels' contents instead of the folder's place."""
        found = super().identity()
        if self.root is not None:
            root = Path(self.root).expanduser()
            labels = digest(root / self.labels)
            if labels is not None:
                found.pop("root")
                found["labels"] = labels
                found["images"] = self._images(root)
        return found

    def _images(self, root: Path) -> str | None:
        """Returns a hash of all images that the labels name; None where they cannot be read."""
        try:
            frame, _ = read_table(root / self.labels, None)
            frame.columns = pd.Index([str(name).strip() for name in frame.columns])
            column = frame[self.column or frame.columns[0]].dropna()
            hashes = [digest(root / str(name)) for name in column]
        except (UserError, KeyError):
            return None
        return hashlib.sha256(" ".join(map(str, hashes)).encode()).hexdigest()[:32]

    @override
    def load(self) -> Split:
        if self.root is None:
            raise UserError(f"data.root is not given: the folder that holds {self.labels} and the images")
        root = Path(self.root).expanduser()
        path = root / self.labels
        if not path.is_file():
            raise UserError(f"data.labels={self.labels}: {path} is not a file; give a CSV of file names and targets")
        frame, _ = read_table(path, None)
        frame.columns = pd.Index([str(name).strip() for name in frame.columns])
        column = self.column or str(frame.columns[0])
        if column not in frame:
            raise UserError(f"data.column={column}: {path.name} has the columns {', '.join(frame.columns)}")
        rows = read_columns(frame, self.targets, (), (column,), source=path.name)
        kept = rows.frame.dropna(subset=[column])
        if len(kept) < len(rows.frame):
            rows.notes.append(f"left out, for they name no image: {counted(len(rows.frame) - len(kept), 'row')}")
        places, table = kept.index.to_numpy(), rows.table.loc[kept.index]
        y = table[rows.targets].to_numpy()
        parts = self.parts(table, rows.targets, len(frame), rows.dates)
        transform = ImageFiles(column, str(root.absolute()), self.channels, self.size, self.size)
        x, _ = transform.read(kept)
        fit, check, score = (Arrays(x[part], torch.from_numpy(y[part]), rows=places[part]) for part in parts)
        return Split(fit, check, score, rows.targets, ["image"], transform, rows.notes)
