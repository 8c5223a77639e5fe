"""Pooling as a public function, contexts, the temperature, comparisons, acceptance, and shared folders."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torchvision.ops import roi_align

from ebmbench.boxes import BoxEnergy, BoxHead, Pyramid, prroi_pool, to_boxes
from ebmbench.boxes.acceptance import Verdict
from ebmbench.boxes.artefact import computed_once, facts_of
from ebmbench.boxes.comparison import Interval, UnitMeans, joint_bootstrap, paired_bootstrap
from ebmbench.boxes.nll import UNIFORM_NLL, box_nll, fit_temperature
from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.errors import UserError
from ebmbench.core.rng import Streams

CPU = torch.device("cpu")
BOXES = torch.tensor([[10.3, 20.2, 60.6, 90.1], [31.0, 5.5, 80.2, 44.4]], dtype=torch.float64)


def features(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 14, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_prroi_pool_is_the_limit_of_roi_align() -> None:
    """With ever more sampling points a bin, torchvision's mean becomes the integral."""
    maps, index = features(), torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    rows = torch.cat((index, BOXES), 1)
    pooled = prroi_pool(maps, rows, (5, 3), spatial_scale=1 / 8)
    assert pooled.shape == (2, 3, 5, 3)
    limit = roi_align(maps, rows, (5, 3), 1 / 8, sampling_ratio=64, aligned=False)
    torch.testing.assert_close(pooled, limit, atol=1e-3, rtol=0)
    torch.testing.assert_close(prroi_pool(maps, [BOXES[:1], BOXES[1:]], (5, 3), 1 / 8), pooled)
    torch.testing.assert_close(prroi_pool(maps[:1], BOXES[:1], (5, 3), 1 / 8), pooled[:1])


def test_prroi_pool_has_two_derivatives_in_features_and_boxes() -> None:
    maps, boxes = features(1).requires_grad_(), BOXES.clone().requires_grad_()
    assert gradcheck(lambda m, b: prroi_pool(m, b, (2, 3), 1 / 8), (maps, boxes))
    assert gradgradcheck(lambda m, b: prroi_pool(m, b, 2, 1 / 8), (maps, boxes))


@pytest.mark.parametrize(
    ("boxes", "size"),
    [(BOXES, 7), (BOXES[:, :3], 7), ([BOXES], 7), (torch.tensor([[2.0, 0, 0, 1, 1]]), 7), ([BOXES, BOXES], 0)],
)
def test_prroi_pool_refuses_other_shapes(boxes: Tensor | list[Tensor], size: int) -> None:
    with pytest.raises(ValueError, match=r"boxes|size|image"):
        prroi_pool(features(), boxes, size)


class TemplateHead(BoxHead):
    """Channels are weighted by a vector of the target's template."""

    def condition(self, pooled: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None
        return pooled * context[:, None, None]


def test_the_context_of_each_target_reaches_its_candidates() -> None:
    """Doubling a template doubles the features: a network with no hidden biases sees it as doubled maps."""
    head = TemplateHead(3, (8, 8), 1, "tanh", bins=3).initialise(Streams([0], stacked=False).at(0)).double()
    pyramid = Pyramid.from_maps([features(1)], [8])
    template = torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    images, y = torch.zeros(2, dtype=torch.int64), 0.1 * torch.randn(2, 4, 4, dtype=torch.float64)
    energy = BoxEnergy(head, pyramid, BOXES, images, template)
    values = energy(y)
    for place in range(2):
        scaled = Pyramid.from_maps([features(1) * template[place, :, None, None]], [8])
        plain = BoxEnergy(TemplateHead(3, (8, 8), 1, "tanh", 3).double(), scaled, BOXES, images, torch.ones(2, 3))
        plain.head.load_state_dict(head.state_dict())
        torch.testing.assert_close(plain(y)[place], values[place])
    (to_template,) = torch.autograd.grad(energy.of(torch.tensor([1]))(y[1:]).sum(), template)
    assert not to_template[0].any() and to_template[1].all()


@pytest.mark.parametrize("factor", [0.5, 1.0, 16.0])
def test_the_temperature_undoes_an_overconfident_energy(factor: float) -> None:
    count, spread = 60, 0.08  # of true boxes around the mode of f, which is `factor` times as sharp
    modes = spread * torch.randn(count, 4, generator=torch.Generator().manual_seed(2))

    def energies(rows: Tensor) -> Energy:
        return AutogradEnergy(lambda y: -factor * 0.5 * ((y - modes[rows, None]) / spread).square().sum(-1))

    temperature = fit_temperature(energies, count, 0, CPU)
    assert temperature == pytest.approx(factor, rel=0.2)
    before, after = (float(box_nll(energies, count, 0, CPU, 256, t).nll.mean()) for t in (1.0, temperature))
    expected = 4 * (math.log(0.08) + 0.5 * math.log(2 * math.pi * math.e))
    assert after == pytest.approx(expected, abs=0.4) and after <= before + 0.05


def test_an_energy_that_knows_nothing_becomes_uniform() -> None:
    """Modes that have nothing to do with the boxes: the best temperature is high, the NLL below the uniform one's."""
    modes = 1.8 * torch.rand(60, 4, generator=torch.Generator().manual_seed(3)) - 0.9

    def energies(rows: Tensor) -> Energy:
        return AutogradEnergy(lambda y: -0.5 * ((y - modes[rows, None]) / 0.02).square().sum(-1))

    temperature = fit_temperature(energies, 60, 0, CPU)
    assert temperature > 300
    assert float(box_nll(energies, 60, 0, CPU, 256, temperature).nll.mean()) < UNIFORM_NLL


def test_a_bootstrap_of_means_is_that_of_the_differences() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 2))
    before, after = UnitMeans(range(40), values), UnitMeans(range(40), values + 0.3 + 0.1 * rng.normal(size=(40, 2)))
    found = paired_bootstrap(before, after, ("auc", "precision"), 2000)["auc"]
    difference = (after.values - before.values)[:, 0]
    assert found.value == pytest.approx(difference.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * difference.std() / 40**0.5, rel=0.1)
    with pytest.raises(ValueError, match="different units"):
        joint_bootstrap([([UnitMeans(range(1, 41), values)], [after])], ("auc", "precision"), 5)


@pytest.mark.parametrize(
    ("low", "value", "high", "answer"),
    [
        (0.1, 1.0, 1.9, "accepted"),
        (-2.0, -1.0, -0.1, "worse"),
        (-1.0, 1.0, 3.0, "undecided"),
        (math.nan, 1.0, math.nan, "undecided"),
    ],
)
def test_three_answers(low: float, value: float, high: float, answer: str) -> None:
    verdict = Verdict(Interval(value, low, high), 30)
    assert verdict.answer == answer and verdict.sentence().startswith(answer)
    if answer == "undecided" and math.isfinite(low):
        assert verdict.needed == 120 and "120 images would decide" in verdict.sentence()


def test_a_shared_folder_is_computed_once_and_checked(tmp_path: Path) -> None:
    calls = []

    def compute(folder: Path) -> dict[str, int]:
        calls.append(folder)
        (folder / "weights").write_bytes(b"abc")
        return {"size": 3}

    folder = tmp_path / "base" / "0123"
    assert [computed_once(folder, "the base", compute)["size"] for _ in range(2)] == [3, 3] and len(calls) == 1
    (folder / "weights").write_bytes(b"abd")
    with pytest.raises(UserError, match=r"weights was changed or is damaged"):
        computed_once(folder, "the base", compute)
    with pytest.raises(UserError, match=r"other, the base, is not there"):
        facts_of(tmp_path / "other", "the base")


def test_a_shared_folder_that_failed_leaves_nothing(tmp_path: Path) -> None:
    def compute(folder: Path) -> dict[str, int]:
        (folder / "weights").write_bytes(b"abc")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError):
        computed_once(tmp_path / "a", "it", compute)
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]


def test_boxes_of_the_origin_are_the_reference() -> None:
    torch.testing.assert_close(to_boxes(torch.zeros(2, 4, dtype=torch.float64), BOXES), BOXES)
