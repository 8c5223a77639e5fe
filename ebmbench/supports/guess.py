"""A guess of the support of a target from its training rows: a suggestion, which nothing takes by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ebmbench.supports.base import repeated

TURNS = ((-math.pi, math.pi), (0.0, 2 * math.pi), (-180.0, 180.0), (0.0, 360.0))
"""Where angles start and end."""
NEAR_END, IN_QUARTER = 0.05, 0.05
"""Angles come this near to both ends of their turn, in turns, and have this share of rows in its first and its last
quarter."""
LARGEST, FEW, FEW_SHARE = 1000, 20, 0.1
"""Whole numbers up to the first may be counts, if they have few different values, or few for the rows."""
SKEWED = 1.0
"""The skewness from which on a positive target is skewed, if its logarithm is less than half as skewed."""
MOST_ATOMS = 2
"""More values that repeat are no atoms, but rounded numbers."""

Setting = str | dict[str, Any]
"""Of a support, as `data.support` takes it."""


def guess(y: np.ndarray) -> tuple[Setting, str] | None:
    """Returns the support that a target may have, and what it looks like; None where that is the real line.

    Args:
        y: of the training rows, `[N]` float64.
    """
    low, high, whole = float(y.min()), float(y.max()), bool((y % 1 == 0).all())
    for first, last in TURNS:
        if _is_turn(y, first, last) and not (whole and last % 1):
            return {"name": "circle", "period": round(last - first, 6)}, f"goes from {low:.4g} to {high:.4g}, as angles"
    if whole and max(-low, high) <= LARGEST and len(np.unique(y)) <= max(min(FEW, len(y) / 4), FEW_SHARE * len(y)):
        setting: Setting = "integers" if low >= 0 else {"name": "integers", "low": None}
        return setting, f"has whole numbers from {low:g} to {high:g}"
    atoms = _atoms(y)
    rest = y[~np.isin(y, atoms)]
    kind, why = _continuous(rest, 0.0 in atoms and low == 0)
    if atoms:
        share = np.isin(y, atoms).mean()
        often = f"is {' or '.join(f'{value:g}' for value in atoms)} in {share:.0%} of the training rows"
        return kind | {"atoms": atoms}, " and ".join([*why, often])
    if kind["name"] == "real":
        return None
    return (kind if len(kind) > 1 else str(kind["name"])), why[0]


def _is_turn(y: np.ndarray, first: float, last: float) -> bool:
    low, high, turn = float(y.min()), float(y.max()), last - first
    if not (first - 1e-6 <= low < first + NEAR_END * turn and last - NEAR_END * turn < high <= last + 1e-6):
        return False
    return bool(min(np.mean(y < first + turn / 4), np.mean(y > last - turn / 4)) > IN_QUARTER)


def _atoms(y: np.ndarray) -> list[float]:
    """Returns values that repeat, and do so much more than all others."""
    atoms = repeated(y)
    counts = np.sort(np.unique(y[~np.isin(y, atoms)], return_counts=True)[1])
    least = min((int((y == value).sum()) for value in atoms), default=0)
    return atoms if len(atoms) <= MOST_ATOMS and len(counts) > FEW and 2 * counts[-1] < least else []


def _continuous(y: np.ndarray, has_zeros: bool) -> tuple[dict[str, Any], list[str]]:
    """Returns the support of the values beside atoms, and what they look like."""
    low, high = float(y.min()), float(y.max())
    if 0 <= low < 0.2 and 0.5 < high <= 1:
        return {"name": "interval", "low": 0, "high": 1}, ["lies between 0 and 1"]
    if low > 0 and has_zeros:
        return {"name": "positive"}, ["is never negative"]
    if low > 0 and _skewness(y) > max(SKEWED, 2 * abs(_skewness(np.log(y)))):
        return {"name": "positive"}, ["is positive and skewed"]
    return {"name": "real"}, []


def _skewness(values: np.ndarray) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / max(float(centred.std()) ** 3, 1e-300))


def text_of(setting: Any) -> str:
    """Returns a support's setting as the command line has it: `{name: circle, period: 360}`."""
    if isinstance(setting, Mapping):
        return "{" + ", ".join(f"{key}: {text_of(value)}" for key, value in setting.items()) + "}"
    if isinstance(setting, list | tuple):
        return "[" + ", ".join(map(text_of, setting)) + "]"
    return "null" if setting is None else f"{setting:.9g}" if isinstance(setting, float) else str(setting)
