"""What is unusual about the rows of a dataset, a sentence each; in Python they are warnings of one class."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ebmbench.core.errors import counted, row_at
from ebmbench.supports.guess import Setting, guess, text_of

if TYPE_CHECKING:
    from ebmbench.methods.base import Method
    from ebmbench.supports.base import Support
    from ebmbench.tasks.regression.data.base import Split

FAR, MOST_FAR = 100, 0.25
"""Values may be mistakes if they are this many times as far from the median as all others are, and if no more than this
share of the rows has them."""
FEW_VALUES = 0.05
"""Different values of a target, as a share of its rows, up to which a density can put a spike on each."""
REPEATED = 0.1
"""A value of a target is a spike if this share of the training rows has it."""
CODE_SHARE, CODE_GAP = 0.01, 0.25
"""A value may stand for a missing one if this share of the rows has it, and if its distance from all others is more
than this share of their range."""


class DataWarning(UserWarning):
    """Something about the rows that a user should know, such as a value far away from all others.

    `warnings.filterwarnings("ignore", category=ebmbench.DataWarning)` hides them all.
    """


def warn(notes: Iterable[str], stacklevel: int = 3) -> None:
    """Gives a `DataWarning` for each sentence."""
    for note in notes:
        warnings.warn(note, DataWarning, stacklevel + 1)


def target_notes(split: Split, supports: Sequence[Support]) -> list[str]:
    """Returns what is unusual about the training targets."""
    notes = []
    for name, y, support in zip(split.target_names, split.train.y.numpy().T, supports, strict=True):
        notes += column_notes(f"target {name!r}", y, split.train.rows)
        if support.find_atoms:
            atoms = support.fitted(torch.from_numpy(y)).atoms
            listed = ", ".join(f"{value:g} ({np.mean(y == value):.0%} of the training rows)" for value in atoms)
            notes.append(f"atoms of the target {name!r} by atoms=auto: {listed or 'none'}")
        count = len(np.unique(y))
        if count <= FEW_VALUES * len(y) and not support.discrete:
            notes.append(
                f"the target {name!r} takes {count} different values in {len(y)} training rows: a density with a spike "
                "on each has an NLL as low as one likes; compare models by CRPS too"
            )
    return notes


def sampling_notes(split: Split, method: Method, supports: Sequence[Support]) -> list[str]:
    """Returns a sentence if a method that samples is to learn a density that often has one and the same value."""
    if split.train.y.shape[1] > 1 or not method.samples or supports[0].discrete:
        return []
    y = split.train.y.double()[:, 0]
    atoms = supports[0].fitted(y).atoms
    values, counts = np.unique(y[~torch.isin(y, y.new_tensor(atoms))].numpy(), return_counts=True)
    if not len(counts):
        return []
    most = counts.argmax()
    if counts[most] < max(2, REPEATED * len(split.train)):
        return []
    return [
        f"{counts[most] / len(split.train):.0%} of the training rows have the target {values[most]:g}: a method that "
        f"samples, such as method={method.name}, makes such a value too likely or the rest too unlikely; use "
        "method=ml-exact, or a larger method.num_samples"
    ]


def column_notes(what: str, values: np.ndarray, rows: np.ndarray | None) -> list[str]:
    """Returns a sentence if a value of a column may stand for a missing one, or may be a mistake.

    Args:
        what: how the sentence names the column.
        values: of the training rows, `[N]`; nan where there is none.
        rows: the place of each in the source, if it has one.
    """
    code = missing_code(values)
    if code is not None:
        count = int((values == code).sum())
        return [
            f"the {what} is {code:g} in {count} of {counted(len(values), 'training row')} and far from it in all "
            f"others: it may stand for a missing value; missing=[{code:g}] leaves it out"
        ]
    return far_notes(what, values, rows)


def missing_code(values: np.ndarray) -> float | None:
    """Returns a value of a column, nan where there is none, that may stand for a missing one, such as -200 or 9999.

    It is the least or the largest value, not 0 or 1, in several rows, and further from all others than these are apart
    (one made of nines may be nearer); or it is the one negative number, a whole one.
    """
    known = values[np.isfinite(values)]
    unique, counts = np.unique(known, return_counts=True)
    if len(unique) < 4:
        return None
    for place, others in ((0, unique[1:]), (-1, unique[:-1])):
        value, count = float(unique[place]), int(counts[place])
        gap, spread = float(np.abs(others - value).min()), float(others[-1] - others[0])
        is_only_negative = value < 0 <= others[0] and value % 1 == 0
        is_nines, has_many = set(f"{abs(value):g}") == {"9"}, len(others) >= 10
        apart = is_only_negative or gap > (CODE_GAP if is_nines and has_many else 1) * spread
        is_likely = is_only_negative or is_nines or has_many
        if value not in (0, 1) and count >= max(3, CODE_SHARE * len(known)) and apart and is_likely:
            return value
    return None


def far_notes(what: str, values: np.ndarray, rows: np.ndarray | None) -> list[str]:
    """Returns a sentence if some values are so far away from all others that they set the scale of all.

    There is a gap then: three quarters of the rows or more are within a distance of the median, and all others are
    `FAR` times as far away. Skewed columns, counts and columns of mostly zeros have no such gap. The arguments are
    those of `column_notes`.
    """
    there = np.flatnonzero(np.isfinite(values))
    known = values[there].astype(np.float64)
    distance = np.abs(known - np.median(known))
    ordered = np.sort(distance)
    first = max(1, math.ceil((1 - MOST_FAR) * len(ordered)))  # of the values that may be far away
    last_near, next_one = ordered[first - 1 : -1], ordered[first:]
    gaps = np.flatnonzero((last_near > 0) & (next_one > FAR * last_near))
    if not len(gaps):
        return []
    near = known[distance <= last_near[gaps[0]]]
    far = int(distance.argmax())
    place = "" if rows is None else f" in {row_at(int(rows[there[far]]))}"
    return [
        f"the {what} is {known[far]:g}{place}, and between {near.min():g} and {near.max():g} in {len(near)} of "
        f"{counted(len(known), 'training row')}: this outlier dominates the scaling; remove it if it is an error, or "
        "name it in missing=[...] if it stands for a missing value"
    ]


def outside_notes(split: Split) -> list[str]:
    """Returns a sentence for each target that leaves the range of the training targets in the test rows."""
    low, high = split.train.y.amin(0), split.train.y.amax(0)
    outside = ((split.test.y < low) | (split.test.y > high)).sum(0).tolist()
    notes = []
    for name, count, bottom, top in zip(split.target_names, outside, low.tolist(), high.tolist(), strict=True):
        if count:
            digits = max(6, 2 + math.ceil(math.log10(max(abs(bottom), abs(top)) / (top - bottom))))
            have = "has" if count == 1 else "have"
            notes.append(
                f"{count} of {len(split.test)} test rows {have} a target {name!r} outside the range of the training "
                f"rows, {bottom:.{digits}g} to {top:.{digits}g}; the base density gives them a finite density"
            )
    return notes


def support_notes(split: Split, known: Setting | None = None, python: bool = False) -> list[str]:
    """Returns a sentence if targets that are taken for real numbers may be others. It changes nothing.

    Args:
        known: the support that the data say they have.
        python: whether `EnergyRegressor` has the setting.
    """
    columns = split.train.y.double().numpy().T
    many = len(columns) > 1
    found = [guess(y) if known is None and missing_code(y) is None else None for y in columns]
    if many:  # the other supports take one target
        found = [one if one and one[0] == "positive" else None for one in found]
    settings: list[Setting] = [known or (one[0] if one else "real") for one in found]
    if all(setting == "real" for setting in settings):
        return []
    reasons = [f"{name!r} {one[1]}" for name, one in zip(split.target_names, found, strict=True) if one]
    alone = settings[0] if all(setting == settings[0] for setting in settings) else settings
    setting = f"support={alone!r}" if python else f"data.support={text_of(alone)}"
    setting = f"'{setting}'" if not python and " " in setting else setting
    what = " and ".join(reasons) if known is None else f"{', '.join(map(repr, split.target_names))} has a known support"
    kind = "real numbers" if many else "a real number"
    return [f"the target {what}: {setting} models it so; as it stands it is taken for {kind}"]
