"""Intervals of the sides of boxes, and what boxes that were not trained on say of them.

Two numbers make a density and its intervals right where a network is too sure of itself. The temperature (see `nll`) is
for the density. For the intervals the level is adjusted: where the central 97 % intervals hold 90 % of the sides of
validation boxes, these are the 90 % intervals (Kuleshov et al., "Accurate Uncertainties for Deep Learning Using
Calibrated Regression", ICML 2018, with the finite-sample level of split conformal prediction).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ebmbench.boxes.energy import BoxEnergy
from ebmbench.boxes.nll import weighted_samples
from ebmbench.core.importance import Weighted

SAME_OBJECT = (0.5, math.log(2))
"""How far centres and log sizes go, relative to a box, of boxes that may be the same object's."""
SAMPLES, LEAST_ESS = 128, 40
"""Importance samples for the intervals of a box, and how many of them must be effective."""
LEAST_SIDES = 80
"""Sides of validation boxes from which on levels are adjusted: with fewer the 90 % level is hardly known."""
MATCHED_IOU = 0.5
"""Overlap with a true box of its class from which on a detection is its."""


@dataclass(frozen=True)
class Calibration:
    """What validation boxes say of a head.

    Attributes:
        temperature: by which f is divided.
        levels: for each side of the validation boxes, the level of the narrowest central interval that holds it;
            rising. Empty: levels are taken as they are.
    """

    temperature: float = 1.0
    levels: tuple[float, ...] = ()

    def level(self, wanted: float) -> float:
        """Returns the level of the density's intervals that hold the wanted share of the sides."""
        count = len(self.levels)
        if count < LEAST_SIDES:
            return wanted
        place = math.ceil((count + 1) * wanted) - 1
        return self.levels[place] if place < count else 1.0

    def plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON."""
        return {"temperature": self.temperature, "levels": [round(level, 5) for level in self.levels]}


@dataclass(frozen=True)
class SideIntervals:
    """Of N boxes: `log p(y|x)` at each, in coordinates relative to it, `[N]`; ends of the intervals of x1 y1 x2 y2."""

    log_density: Tensor
    low: Tensor
    high: Tensor


@torch.no_grad()
def side_intervals(
    energy: BoxEnergy, seed: int, level: float, calibration: Calibration, centred: bool
) -> SideIntervals:
    """Returns the central intervals of each side of boxes, by the density of the boxes nearby (`SAME_OBJECT`).

    Args:
        energy: of the boxes.
        seed: of the random numbers.
        level: the probability that an interval is to hold.
        centred: the density is moved so that its median is the box: for boxes that do not come from this energy.
    """
    device, adjusted = energy.reference.device, calibration.level(level)
    log_density = torch.zeros(len(energy), dtype=torch.float64, device=device)
    low, high = torch.zeros(2, len(energy), 4, dtype=torch.float64, device=device)
    for rows, corners, target in _near(energy, seed, calibration.temperature, centred):
        log_density[rows] = target - corners.log_z[0]
        low[rows], high[rows] = (corners.quantile(p)[0] for p in ((1 - adjusted) / 2, (1 + adjusted) / 2))
    return SideIntervals(log_density, low.float(), high.float())


@torch.no_grad()
def side_levels(energy: BoxEnergy, true: Tensor, seed: int, temperature: float, centred: bool) -> Tensor:
    """Returns the level of the narrowest central interval that holds each true side, `[N, 4]`.

    The share of levels below L is the coverage of the intervals of level L.

    Args:
        energy: of the boxes whose intervals are asked for.
        true: the boxes that they stand for, `[N, 4]`.
    """
    levels = torch.full((len(energy), 4), math.nan, dtype=torch.float64, device=energy.reference.device)
    for rows, corners, _ in _near(energy, seed, temperature, centred):
        below = (corners.weights.unsqueeze(-1) * (corners.y < true[rows, None].double())).sum(-2)[0]
        levels[rows] = (2 * below - 1).abs()
    return levels


def _near(energy: BoxEnergy, seed: int, temperature: float, centred: bool) -> Iterator[tuple[Tensor, Weighted, Tensor]]:
    """Yields some boxes, weighted samples of the boxes nearby as corners in pixels, and f / T at the boxes."""
    device = energy.reference.device
    for rows, made in weighted_samples(
        energy.of, len(energy), seed, device, SAMPLES, LEAST_ESS, SAME_OBJECT, climbs=0, temperature=temperature
    ):
        some = energy.of(rows)
        target = some(torch.zeros(len(rows), 1, 4, device=device))[:, 0].double() / temperature
        corners = replace(made, y=some.boxes(made.y[0]).double().unsqueeze(0))
        if centred:
            shift = some.reference - corners.quantile(0.5)[0]
            corners = replace(corners, y=corners.y + shift[:, None])
        yield rows, corners, target


def calibrate(temperature: float, levels: Sequence[Tensor]) -> Calibration:
    """Returns the calibration that validation boxes give; the levels are those of `side_levels`."""
    known = torch.cat([one.flatten() for one in levels]) if levels else torch.zeros(0)
    return Calibration(temperature, tuple(sorted(known[known.isfinite()].tolist())))


def match(boxes: Tensor, scores: Tensor, labels: Tensor, true: Tensor, true_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns which detections stand for which true boxes of an image, `[K]` places each.

    As COCO's evaluation does: by falling score each takes the free true box of its class that it overlaps most, if by
    `MATCHED_IOU`.
    """
    if not len(boxes) or not len(true):
        none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return none, none
    overlaps = box_iou(boxes, true) * (labels[:, None] == true_labels)
    pairs: list[tuple[int, int]] = []
    for place in scores.argsort(descending=True).tolist():
        best = int(overlaps[place].argmax())
        if overlaps[place, best] >= MATCHED_IOU:
            pairs.append((place, best))
            overlaps[:, best] = 0
    found, truth = torch.tensor(pairs, dtype=torch.int64, device=boxes.device).reshape(-1, 2).unbind(1)
    return found, truth
