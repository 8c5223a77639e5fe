"""A table of units × seeds, and the paired bootstrap of a difference over it.

A unit is what is drawn with replacement: an image, a sequence. A score is any function of how often each unit counts,
such as AP over images, or the mean of a number of each sequence (`UnitMeans`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Scores(Protocol):
    """The scores of one seed on a set of units."""

    @property
    def units(self) -> Sequence[Hashable]:
        """The ids of the units, in order."""
        ...

    def score(self, weights: Array) -> Array:
        """Returns the metrics, `[M]`, with each unit counted `weights [U]` times."""
        ...


@dataclass(frozen=True)
class UnitMeans:
    """Scores that are means of numbers of each unit.

    Attributes:
        units: their ids.
        values: the metrics of each unit, `[U, M]`.
    """

    units: Sequence[Hashable]
    values: Array

    def score(self, weights: Array) -> Array:
        """Returns the weighted means, `[M]`."""
        return np.asarray(weights @ self.values / weights.sum())


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % interval."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """Returns the three numbers as columns of a table: `NAME`, `NAME_low` and `NAME_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


Groups = Sequence[tuple[Sequence[Scores], Sequence[Scores]]]
"""For each base (a detector, a tracker; what the seeds stand on) what is compared, before and after: scores by seed.
One score before stands for all seeds."""


def joint_bootstrap(groups: Groups, metrics: Sequence[str], resamples: int) -> dict[str, Interval]:
    """Returns 95 % intervals of the mean of after − before: units, seeds and bases drawn with replacement together.

    Both sides are scored on the same resampled units, so what a unit does to both cancels.

    Args:
        groups: all scores are on the same units.
        metrics: names of the M metrics.
        resamples: with 0 of them the ends are NaN.

    Raises:
        ValueError: the scores are on different units.
    """
    units = list(groups[0][1][0].units)
    if any(list(scores.units) != units for pair in groups for side in pair for scores in side):
        raise ValueError("the scores that are compared are on different units")
    rng = np.random.default_rng(0)

    def mean(scores: Sequence[Scores], weights: Array, seeds: Sequence[int]) -> Array:
        places = [seed % len(scores) for seed in seeds]  # one stands for all seeds
        by_place = {place: scores[place].score(weights) for place in set(places)}
        return np.asarray(np.mean([by_place[place] for place in places], axis=0))

    def change(weights: Array, chosen: Sequence[tuple[int, Sequence[int]]]) -> Array:
        pairs = [(*groups[number], seeds) for number, seeds in chosen]
        means = [mean(after, weights, seeds) - mean(before, weights, seeds) for before, after, seeds in pairs]
        return np.asarray(np.mean(means, axis=0))

    centre = change(np.ones(len(units)), [(number, range(len(after))) for number, (_, after) in enumerate(groups)])
    drawn = []
    for _ in range(resamples):
        weights = np.bincount(rng.integers(len(units), size=len(units)), minlength=len(units)).astype(float)
        bases = rng.integers(len(groups), size=len(groups)) if len(groups) > 1 else [0]
        sizes = [len(groups[number][1]) for number in bases]
        seeds = [rng.integers(size, size=size).tolist() if size > 1 else [0] for size in sizes]
        drawn.append(change(weights, list(zip(bases, seeds, strict=True))))
    ends = np.nanpercentile(drawn, [2.5, 97.5], axis=0) if drawn else np.full((2, len(metrics)), np.nan)
    return {name: Interval(float(centre[k]), float(ends[0, k]), float(ends[1, k])) for k, name in enumerate(metrics)}


def paired_bootstrap(before: Scores, after: Scores, metrics: Sequence[str], resamples: int) -> dict[str, Interval]:
    """Returns 95 % intervals of after − before, units drawn with replacement."""
    return joint_bootstrap([([before], [after])], metrics, resamples)
