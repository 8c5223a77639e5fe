"""Intervals of sides against true boxes whose distribution is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebmbench.boxes.calibration import LEAST_SIDES, Calibration, calibrate, match, side_intervals, side_levels
from ebmbench.boxes.coordinates import to_boxes, to_relative
from ebmbench.boxes.energy import BoxEnergy
from ebmbench.boxes.nll import fit_temperature


class Normal(BoxEnergy):
    """`f = −½ |y − mode|² / spread²` around each box."""

    def __init__(self, reference: Tensor, mode: Tensor, spread: float) -> None:
        self.reference, self.mode, self.spread, self.max_boxes = reference.double(), mode, spread, 1 << 20

    def of(self, rows: Tensor) -> Normal:
        return Normal(self.reference[rows], self.mode[rows], self.spread)

    def _values(self, y: Tensor, targets: Tensor) -> Tensor:
        return -0.5 * ((y - self.mode[targets]) / self.spread).square().sum(-1)


def made(count: int, spread: float, claimed: float, seed: int) -> tuple[Normal, Tensor]:
    """Boxes with energies that claim a spread, and true boxes that scatter around the mode with another."""
    generator = torch.Generator().manual_seed(seed)
    low = 40 * torch.rand(count, 2, generator=generator)
    reference = torch.cat((low, low + 30 + 30 * torch.rand(count, 2, generator=generator)), 1)
    mode = 0.05 * torch.randn(count, 4, generator=generator)
    true = to_boxes(mode + spread * torch.randn(count, 4, generator=generator), reference)
    return Normal(reference, mode, claimed), true


@pytest.mark.parametrize("claimed", [0.08, 0.02])
@pytest.mark.parametrize("centred", [False, True])
def test_calibrated_intervals_hold_what_they_should(claimed: float, centred: bool) -> None:
    energy, true = made(150, 0.08, claimed, 0)
    levels = side_levels(energy, true, 0, 1.0, centred)
    if claimed < 0.08:
        assert (levels <= 0.9).double().mean() < 0.5
    calibration = calibrate(1.0, [levels])
    fresh, fresh_true = made(150, 0.08, claimed, 1)
    for level in (0.5, 0.9):
        if claimed < 0.08 and level > 0.8 and calibration.level(level) > 0.999:
            continue  # so narrow a density has no such interval: the temperature has to widen it first
        intervals = side_intervals(fresh, 0, level, calibration, centred)
        held = ((fresh_true >= intervals.low) & (fresh_true <= intervals.high)).double().mean()
        assert float(held) == pytest.approx(level, abs=0.07)


def test_temperature_and_levels_together_calibrate_an_overconfident_energy() -> None:
    energy, true = made(150, 0.08, 0.01, 0)
    mode = to_relative(to_boxes(energy.mode.double(), energy.reference), true.double()).float()
    around_truth = Normal(true, mode, 0.01)
    temperature = fit_temperature(around_truth.of, 150, 0, torch.device("cpu"))
    calibration = calibrate(temperature, [side_levels(energy, true, 0, temperature, False)])
    fresh, fresh_true = made(150, 0.08, 0.01, 1)
    held = side_levels(fresh, fresh_true, 0, temperature, False) <= calibration.level(0.9)
    assert 0.85 <= float(held.double().mean()) <= 0.95


def test_intervals_of_boxes_of_another_source_are_around_them() -> None:
    """The mode is far from the box that is reported: the density is moved there."""
    energy, _ = made(20, 0.05, 0.02, 0)
    energy.mode = energy.mode + 0.3
    intervals = side_intervals(energy, 0, 0.9, Calibration(), centred=True)
    assert (intervals.low <= energy.reference).all() and (intervals.high >= energy.reference).all()
    away = side_intervals(energy, 0, 0.9, Calibration(), centred=False)
    assert (away.low[:, 0] > energy.reference[:, 0]).double().mean() > 0.8


def test_levels_are_those_of_split_conformal_prediction() -> None:
    levels = torch.linspace(0.005, 0.995, 100)
    calibration = calibrate(2.0, [levels])
    assert calibration.level(0.9) == pytest.approx(float(levels[90]))  # the 91st of 100
    assert calibration.level(0.999) == 1.0
    few = calibrate(2.0, [levels[: LEAST_SIDES - 1], torch.tensor([torch.nan])])
    assert few.level(0.9) == 0.9 and few.temperature == 2.0


def test_detections_take_true_boxes_as_in_cocos_evaluation() -> None:
    true = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 11], [20, 0, 30, 10], [50, 50, 60, 60]])
    scores, classes, true_classes = [0.5, 0.9, 0.8, 0.7, 0.6], torch.tensor([1, 1, 2, 1, 1]), torch.tensor([1, 1, 2])
    found, of = match(boxes, torch.tensor(scores), classes, true, true_classes)
    assert dict(zip(found.tolist(), of.tolist(), strict=True)) == {1: 0, 3: 1}
    assert len(match(boxes[:0], torch.zeros(0), classes[:0], true, true_classes)[0]) == 0
