"""Baseline: boosted quantiles that the validation rows calibrate, conformalised quantile regression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.models.boosted_quantiles import BoostedQuantiles
from ebmbench.models.outside import Fitted, Rows

STOPPING = 0.15
"""Share of the training rows that choose the number of trees, which the calibration rows may not do."""


@register
class ConformalQuantiles(BoostedQuantiles):
    """Boosted quantiles, each moved so that its share of the validation rows lies below: conformal calibration.

    A quantile of level a is moved by the a-quantile of `y - q_a(x)` over the validation rows, with the correction for
    their number on each side (Romano et al., theorem 2: the two ends of an interval by themselves). A central interval
    of two levels then holds a new row with at least its probability, whatever the distribution; this takes as many
    validation rows as there are levels. No such row trains: 15 % of the training rows choose the number of trees.
    """

    name = "conformal-quantiles"
    color, marker, order = "#88CCEE", "h", 340
    reference = "Romano, Patterson, Candès, Conformalized quantile regression, NeurIPS 2019"

    @override
    def fit(self, train: Rows, val: Rows, seed: int, report: Callable[[int, int], None]) -> Fitted:
        rows = np.random.default_rng(seed).permutation(len(train.x))
        cut = max(1, round(STOPPING * len(rows)))
        kept, stop = (Rows(train.x[some], train.y[some]) for some in (rows[cut:], rows[:cut]))
        fitted = self.grow(kept, stop, seed, report)
        errors = np.sort(val.y[..., None] - super().quantiles(fitted, val.x), axis=0)
        steps, count = np.arange(1, self.levels + 1), len(val.x) + 1
        down, up = steps * count // (self.levels + 1), -(-steps * count // (self.levels + 1))
        rank = np.clip(np.where(2 * steps < self.levels + 1, down, up), 1, len(val.x))
        moved = np.take_along_axis(errors, np.broadcast_to(rank - 1, errors.shape[1:])[None], 0)[0]
        return self.with_tails({**fitted, "moved": moved}, val)

    @override
    def quantiles(self, fitted: Fitted, x: np.ndarray) -> np.ndarray:
        return super().quantiles(fitted, x) + fitted["moved"]
