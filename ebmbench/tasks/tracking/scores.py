"""Scores of a one-pass evaluation: success, precision, normalised precision, average overlap.

Boxes are `[T, 4]`: x1 y1 x2 y2. The rules, in which toolkits differ:

- Success: the share of frames with IoU > t for t = 0, 0.05 … 1. A perfect tracker has 20/21, as no IoU is above 1. The
  curve of each sequence counts the same; AUC is the mean of the mean curve (OTB, LaSOT, got10k).
- Precision: the share of frames whose centre is at most 20 pixels from the true one.
- Normalised precision: the distance along each axis is divided by the true side. `norm_precision` is the share within
  0.20 (LaSOT's toolkit, pytracking), `norm_precision_mean` the mean of the shares within 0, 0.01 … 0.5 (TrackingNet,
  got10k).
- AO, SR50, SR75 as in GOT-10k: the mean overlap and the shares with IoU > 0.5 and > 0.75 of all frames of all
  sequences, each without its first. GOT-10k's toolkit also cuts boxes at the edges of the picture.
- A frame without a valid true box is left out of numerator and denominator. (LaSOT's and pysot's toolkits divide by all
  frames, and count such a frame as precise; LaSOT's plots leave out sequences whose curve is zero.)
- A prediction that is missing, or no box, is the last valid one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
OVERLAPS = np.linspace(0, 1, 21)
PIXELS = np.arange(51.0)
SHARES = np.linspace(0, 0.5, 51)


def is_valid(boxes: Array) -> NDArray[np.bool_]:
    """Returns which boxes are finite and have a positive width and height: `[..., 4] -> [...]`."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(boxes).all(-1) & (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def moved(boxes: Array, offsets: Array) -> Array:
    """Returns boxes moved by offsets relative to them, (cx/w, cy/h, log w, log h): `[..., 4]`."""
    size = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + offsets[..., :2] * size
    half = size * np.exp(offsets[..., 2:]) / 2
    return np.concatenate((centre - half, centre + half), -1)


def filled(boxes: Array, first: Array, length: int) -> Array:
    """Returns a track of `length` frames that begins with the box `first`; an invalid box is the last valid one."""
    track = np.full((length, 4), np.nan)
    track[: len(boxes)] = boxes[:length]
    track[0] = first
    last = np.maximum.accumulate(np.where(is_valid(track), np.arange(length), 0))
    return track[last]


def overlap(boxes: Array, truth: Array) -> Array:
    """Returns the IoU of valid boxes: `[T, 4]`, `[T, 4] -> [T]`."""
    sides = np.minimum(boxes[:, 2:], truth[:, 2:]) - np.maximum(boxes[:, :2], truth[:, :2])
    both = sides.clip(min=0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (truth[:, 2:] - truth[:, :2]).prod(1) - both
    return np.asarray(both / union)


@dataclass(frozen=True)
class Score:
    """The score of one sequence.

    Attributes:
        overlaps: IoU in each frame that counts, `[n]`; `later` `[m]`: without the first frame.
        success: shares above `OVERLAPS`, `[21]`; `precision`: within `PIXELS`, `[51]`; `normalised`: within
            `SHARES`, `[51]`.
    """

    overlaps: Array
    later: Array
    success: Array
    precision: Array
    normalised: Array

    @property
    def auc(self) -> float:
        """The mean of the success curve, in percent."""
        return 100 * float(self.success.mean())

    @staticmethod
    def of(track: Array, truth: Array, count_first: bool = True) -> Score | None:
        """Returns the score of a track; None if no frame after the first has a true box.

        Args:
            track: predicted boxes `[T, 4]`, all valid (see `filled`).
            truth: true boxes `[T, 4]`; an absent one is nan.
            count_first: whether the first frame, which the tracker is given, counts.
        """
        seen = is_valid(truth)
        places = np.flatnonzero(seen)[0 if count_first else int(seen[0]) :]
        if not seen[1:].any():
            return None
        track, truth = track[places], truth[places]
        values = overlap(track, truth)
        offset = (track[:, :2] + track[:, 2:] - truth[:, :2] - truth[:, 2:]) / 2
        distance = np.linalg.norm(offset, axis=1)
        relative = np.linalg.norm(offset / (truth[:, 2:] - truth[:, :2]), axis=1)
        return Score(
            values,
            values[places > 0],
            (values[:, None] > OVERLAPS).mean(0),
            (distance[:, None] <= PIXELS).mean(0),
            (relative[:, None] <= SHARES).mean(0),
        )


def summary(scores: Sequence[Score]) -> dict[str, float]:
    """Returns the scores of a set of sequences in percent; nan where there is no sequence."""
    names = ("auc", "precision", "norm_precision", "norm_precision_mean", "ao", "sr50", "sr75")
    if not scores:
        return dict.fromkeys(names, float("nan"))
    normalised = np.mean([score.normalised for score in scores], axis=0)
    values = np.concatenate([score.later for score in scores])
    later = [values.mean(), (values > 0.5).mean(), (values > 0.75).mean()] if len(values) else [np.nan] * 3
    found = [
        np.mean([score.success.mean() for score in scores]),
        np.mean([score.precision[20] for score in scores]),
        normalised[20],
        normalised.mean(),
        *later,
    ]
    return {name: 100 * float(value) for name, value in zip(names, found, strict=True)}
