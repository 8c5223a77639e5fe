"""Intervals and regions that cover what they say: split conformal prediction, by rows that trained nothing.

The score of a held row is the least level at which its target is within the interval, or the region (Chernozhukov,
Wüthrich and Zhu, 2021; Izbicki, Shimizu and Stern, 2022). A level is replaced by the quantile of these scores, so that
an interval is still one of the model's own: over draws of held rows and a new row of the same distribution it covers
the target with at least the probability that it says. It says nothing of a single x, nor of rows of another kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from ebmbench.core.errors import UserError
from ebmbench.tasks.regression.data.base import Arrays, Split

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from ebmbench.tasks.regression.density import Density

LEAST = 20
"""Held rows without which nothing is calibrated."""


def hold_back(split: Split) -> tuple[Split, Arrays]:
    """Returns a split with every second validation row, drawn at random, left out; and these rows.

    Raises:
        UserError: they are too few, or there are several targets.
    """
    if len(split.target_names) > 1:
        raise UserError(f"calibrate=true needs one target, and there are {len(split.target_names)}")
    count = len(split.val) // 2
    if count < LEAST:
        raise UserError(
            f"calibrate=true holds back half of the validation rows, and they are {len(split.val)}; "
            f"{2 * LEAST} are needed"
        )
    order = torch.randperm(len(split.val), generator=torch.Generator().manual_seed(0))
    return replace(split, val=_some(split.val, order[count:].sort().values)), _some(
        split.val, order[:count].sort().values
    )


def _some(arrays: Arrays, rows: Tensor) -> Arrays:
    parts = {field.name: getattr(arrays, field.name) for field in fields(arrays)}
    chosen = {name: part[rows.numpy() if name == "rows" else rows] for name, part in parts.items() if part is not None}
    return Arrays(**chosen)


@dataclass(frozen=True)
class Calibration:
    """The scores of held rows, rising, `[N]` each: of intervals, and of regions."""

    interval: Tensor
    region: Tensor

    @staticmethod
    def of(parts: Iterable[tuple[Density, Tensor]]) -> Calibration:
        """Makes it from densities of held rows and their targets, some rows at a time."""
        scores = [(density.interval_rank(y), density.region_rank(y)) for density, y in parts]
        interval, region = (torch.cat([score[k] for score in scores]).sort().values for k in (0, 1))
        return Calibration(interval, region)

    def interval_level(self, level: float) -> float:
        """Returns the level of the model's own interval that covers with probability `level`."""
        return _quantile(self.interval, level)

    def region_level(self, level: float) -> float:
        """Returns the level of the model's own region that covers with probability `level`."""
        return _quantile(self.region, level)


def _quantile(scores: Tensor, level: float) -> float:
    """Returns the ⌈(N + 1) level⌉-th score; 1, which is everything, where there are not so many."""
    place = math.ceil((len(scores) + 1) * level - 1e-9)
    return 1.0 if place > len(scores) else float(scores[max(place, 1) - 1])
