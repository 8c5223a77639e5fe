"""A density from quantiles: what models share that give quantiles of y and no density."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.models.outside import Density, Fitted, Outside, Rows

NARROWEST = 1e-2
"""Quantiles are at least as far apart as those of a uniform density of this width, in standard deviations of y."""
GAUSSIAN_TAIL = 0.13
"""The mean excess beyond a Gaussian's 95 % quantile, over the distance of its 5 % and 95 % quantiles."""


def piecewise(points: np.ndarray, masses: np.ndarray, lengths: np.ndarray) -> Density:
    """Returns densities that are constant between points and fall exponentially beyond the outermost ones.

    Several targets are independent given x.

    Args:
        points: rising, `[B, D, Q]`.
        masses: below the first point, of each cell between points, and above the last one, `[B or 1, D or 1, Q + 1]`.
        lengths: of the lower and the upper tail, `[B, D, 2]`.
    """
    ends, widths = points[..., [0, -1]], np.diff(points)
    scales = np.concatenate((lengths[..., :1], widths, lengths[..., 1:]), -1)
    heights = np.log(np.maximum(masses, 1e-300)) - np.log(scales)

    def log_prob(y: np.ndarray) -> np.ndarray:
        total = np.zeros(y.shape[:2])
        for k in range(y.shape[2]):
            each = np.ascontiguousarray(y[:, :, k])
            nodes = torch.from_numpy(points[:, k].copy())
            cell = torch.searchsorted(nodes, torch.from_numpy(each), right=True).numpy()
            below, above = (np.maximum(gap, 0) for gap in (ends[:, k, :1] - each, each - ends[:, k, 1:]))
            total += np.take_along_axis(heights[:, k], cell, 1)
            total -= below / lengths[:, k, :1] + above / lengths[:, k, 1:]
        return total

    return log_prob


def smoothed(quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Returns quantiles in rising order, `[B, D, Q]`, whose distances are not all noise.

    Quantiles that cross are sorted (Chernozhukov, Fernández-Val and Galichon, 2010). Each but the two outermost is then
    the mean of itself and its two neighbours: between two raw ones there may be a single training target, and the log
    score of such cells is poor. At the end a small multiple of its level is added to each, at most half of `NARROWEST`.
    """
    rising = np.sort(quantiles, -1)
    rising[..., 1:-1] = (rising[..., :-2] + rising[..., 1:-1] + rising[..., 2:]) / 3
    return rising + NARROWEST * (levels - 0.5)


class Quantiles(Outside):
    """A model of quantiles. A subclass defines `fit`, which ends with `with_tails`, and `quantiles`.

    Its distribution function is linear between the quantiles and exponential beyond the outermost ones. Each tail has
    the mean excess of those validation rows that lie beyond its quantile: one length for all rows, or one share of the
    distance of a row's outermost quantiles, whichever makes these rows more likely.
    """

    levels: int = Field(19, ge=3, le=999, description="quantiles, at even steps: 19 are 5 %, 10 %, …, 95 %")

    @property
    def probabilities(self) -> np.ndarray:
        """The levels of the quantiles, `[Q]`."""
        return np.arange(1, self.levels + 1) / (self.levels + 1)

    @abstractmethod
    def quantiles(self, fitted: Fitted, x: np.ndarray) -> np.ndarray:
        """Returns quantiles of each target at some rows, in any order: `[B, ...] -> [B, D, Q]`."""

    def points(self, fitted: Fitted, x: np.ndarray) -> np.ndarray:
        """Returns the points between which the density is constant, `[B, D, Q]`."""
        return smoothed(self.quantiles(fitted, x), self.probabilities)

    def with_tails(self, fitted: Fitted, val: Rows) -> Fitted:
        """Returns a fitted model with the lengths of its tails, in standard deviations and in shares: `[D, 2, 2]`.

        One made row, of a Gaussian's tail and the mean distance, stands beside the validation rows.
        """
        ends = self.points(fitted, val.x)[..., [0, -1]]
        spread = ends[..., 1] - ends[..., 0]
        tails = np.zeros((spread.shape[1], 2, 2))
        for k, side in np.ndindex(tails.shape[:2]):
            excess = (2 * side - 1) * (val.y[:, k] - ends[:, k, side])
            beyond = excess > 0
            spreads = np.append(spread[beyond, k], spread[:, k].mean())
            excesses = np.append(excess[beyond], GAUSSIAN_TAIL * spreads[-1])
            length, share = excesses.mean(), (excesses / spreads).mean()
            is_shared = np.log(share) + np.log(spreads).mean() < np.log(length)
            tails[k, side] = (0, share) if is_shared else (length, 0)
        return {**fitted, "tails": tails}

    @override
    def density(self, fitted: Fitted, x: np.ndarray) -> Density:
        points = self.points(fitted, x)
        spread = points[..., -1:] - points[..., :1]
        lengths = np.maximum(fitted["tails"][..., 0] + fitted["tails"][..., 1] * spread, NARROWEST)
        masses = np.full((1, 1, self.levels + 1), 1 / (self.levels + 1))
        return piecewise(points, np.broadcast_to(masses, (1, points.shape[1], self.levels + 1)), lengths)
