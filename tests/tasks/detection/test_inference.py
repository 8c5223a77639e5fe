"""NMS ordered by f, and refinement, against plain loops and known energies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou

from ebmbench.boxes.coordinates import to_relative
from ebmbench.boxes.energy import BoxEnergy
from ebmbench.boxes.pooling import Pyramid
from ebmbench.boxes.refinement import refine
from ebmbench.core.rng import Streams
from ebmbench.tasks.detection.architectures import Candidates
from ebmbench.tasks.detection.config import InferenceConfig
from ebmbench.tasks.detection.head import ClassHead
from ebmbench.tasks.detection.inference import detect, suppress


def random_boxes(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Overlapping boxes, a value to order them by, scores and labels."""
    g = torch.Generator().manual_seed(seed)
    low = 60 * torch.rand(count, 2, generator=g)
    boxes = torch.cat((low, low + 20 + 20 * torch.rand(count, 2, generator=g)), 1)
    return (
        boxes,
        torch.randn(count, generator=g),
        torch.rand(count, generator=g),
        torch.randint(1, 4, (count,), generator=g),
    )


def plain_nms(
    boxes: Tensor, order: Tensor, scores: Tensor, labels: Tensor, threshold: float
) -> list[tuple[int, float]]:
    """The definition, box by box."""
    iou = box_iou(boxes, boxes)
    left, found = order.argsort(descending=True).tolist(), []
    while left:
        best = left[0]
        gone = [j for j in left if j == best or (labels[j] == labels[best] and iou[best, j] > threshold)]
        found.append((best, max(scores[j].item() for j in gone)))
        left = [j for j in left if j not in gone]
    return sorted(found, key=lambda pair: -pair[1])


@pytest.mark.parametrize("seed", range(5))
def test_nms_is_its_definition(seed) -> None:
    boxes, order, scores, labels = random_boxes(80, seed)
    kept, taken = suppress(boxes, order, scores, labels, 0.5, 100)
    expected = plain_nms(boxes, order, scores, labels, 0.5)
    assert kept.tolist() == [k for k, _ in expected]
    torch.testing.assert_close(taken, torch.tensor([s for _, s in expected]))
    few, _ = suppress(boxes, order, scores, labels, 0.5, 7)
    assert few.tolist() == kept.tolist()[:7]
    assert len(kept) < 80  # something was suppressed, or this tests nothing


def test_ordered_by_the_scores_it_is_the_ordinary_nms() -> None:
    boxes, _, scores, labels = random_boxes(120)
    kept, taken = suppress(boxes, scores, scores, labels, 0.5, 100)
    ordinary = batched_nms(boxes, scores, labels, 0.5)
    assert kept.tolist() == ordinary.tolist()[:100]
    torch.testing.assert_close(taken, scores[kept])


def test_nms_merges_no_classes_where_coordinates_are_negative() -> None:
    """torchvision's own moves class 2 by the largest coordinate, here onto class 1."""
    boxes = torch.tensor([[-60.0, -60.0, -30.0, -30.0], [-51.0, -51.0, -21.0, -21.0]])
    kept, _ = suppress(boxes, torch.tensor([2.0, 1.0]), torch.tensor([0.9, 0.8]), torch.tensor([1, 2]), 0.1, 100)
    assert kept.tolist() == [0, 1]


def test_nms_of_nothing_and_of_values_that_are_not_numbers() -> None:
    empty = torch.zeros(0, 4)
    kept, taken = suppress(empty, empty[:, 0], empty[:, 0], empty[:, 0].long(), 0.5, 100)
    assert len(kept) == len(taken) == 0
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 50, 60]])
    order = torch.tensor([torch.nan, -3.0, torch.inf])
    kept, taken = suppress(boxes, order, torch.tensor([0.9, 0.2, 0.1]), torch.ones(3, dtype=torch.int64), 0.5, 100)
    assert kept.tolist() == [1, 2]  # the box without area stays too
    torch.testing.assert_close(taken, torch.tensor([0.9, 0.1]))


class Quadratic(BoxEnergy):
    """`f = −½ Σ_d c_d (y_d − p_d)²`, p the peak in each target's coordinates."""

    def __init__(self, reference: Tensor, peak: Tensor, curvature: Tensor) -> None:
        self.reference, self.peak, self.curvature = reference.double(), peak, curvature

    def _values(self, y: Tensor, targets: Tensor) -> Tensor:
        return -0.5 * (self.curvature * (y - self.peak[targets]) ** 2).sum(-1)

    max_boxes = 16384


REFERENCE = torch.tensor([[10.0, 10.0, 30.0, 50.0], [100.0, 40.0, 180.0, 60.0]])
PEAK = torch.tensor([[0.1, -0.2, 0.15, 0.3], [-0.05, 0.1, -0.2, 0.1]])


def test_refinement_climbs_a_quadratic_as_gradient_ascent_does() -> None:
    curvature = torch.tensor([1.0, 2.0, 0.5, 4.0])
    boxes, values = refine(Quadratic(REFERENCE, PEAK, curvature), 10, step_centre=0.2, step_size=0.1)
    assert boxes.shape == (11, 2, 4) and values.shape == (11, 2)
    torch.testing.assert_close(boxes[0], REFERENCE)
    y = to_relative(boxes, REFERENCE)
    rate = 1 - curvature * torch.tensor([0.2, 0.2, 0.1, 0.1])
    for step in range(11):
        torch.testing.assert_close(y[step], PEAK * (1 - rate**step), rtol=0, atol=1e-5)
    assert (values.diff(dim=0) > 0).all()


def test_a_step_that_lowers_f_is_undone_and_halves_that_box_only() -> None:
    """Curvature 1: a step above 2 overshoots to a lower f. 5 and 2.5 fail, 1.25 climbs; the other sits on its peak."""
    reference, peak = REFERENCE[[0, 0]], torch.stack((PEAK[0], torch.zeros(4)))
    energy = Quadratic(reference, peak, torch.ones(4))
    boxes, values = refine(energy, 4, step_centre=5.0, step_size=5.0)
    y = to_relative(boxes, reference)
    torch.testing.assert_close(y[:3, 0], torch.zeros(3, 4), rtol=0, atol=1e-6)
    torch.testing.assert_close(y[3, 0], 1.25 * PEAK[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(y[4, 0], PEAK[0] * (1 - 0.25**2), rtol=0, atol=1e-5)
    assert (values.diff(dim=0) >= 0).all()
    torch.testing.assert_close(boxes[:, 1], REFERENCE[0].expand(5, 4))  # it started on the peak


def test_a_huge_step_gives_no_infinite_box() -> None:
    """It is held within a box size, and within a factor e: where the density is."""
    steep = Quadratic(REFERENCE, 50 * PEAK.sign(), torch.ones(4))
    boxes, values = refine(steep, 3, step_centre=10.0, step_size=10.0)
    y = to_relative(boxes, REFERENCE)
    assert values.isfinite().all() and (y.abs() < 1 + 1e-5).all() and (y[-1].abs() > 1 - 1e-5).all()


def test_steps_of_centre_and_size_are_apart() -> None:
    boxes, _ = refine(Quadratic(REFERENCE, PEAK, torch.ones(4)), 1, step_centre=0.5, step_size=0.25)
    expected = PEAK * torch.tensor([0.5, 0.5, 0.25, 0.25])
    torch.testing.assert_close(to_relative(boxes[1], REFERENCE), expected, rtol=0, atol=1e-6)


def test_a_step_to_where_f_is_not_a_number_is_undone() -> None:
    class Cliff(Quadratic):
        def _values(self, y: Tensor, targets: Tensor) -> Tensor:
            return torch.where(y[:, 0] > 0.05, torch.nan, super()._values(y, targets))

    boxes, values = refine(Cliff(REFERENCE, PEAK, torch.ones(4)), 6, 0.9, 0.9)
    assert boxes.isfinite().all() and values.isfinite().all()
    assert (to_relative(boxes[:, 0], REFERENCE[0])[:, 0] <= 0.05 + 1e-6).all()


def _network(images: int = 2) -> tuple[ClassHead, Pyramid]:
    g = torch.Generator().manual_seed(1)
    maps = [torch.randn(images, 4, 128 // s, 128 // s, generator=g) for s in (4, 8)]
    layers = (nn.Linear(4 * 49, 16), nn.Linear(16, 16))
    head = ClassHead.start(layers, 3, "relu", from_base=False, draws=Streams([0], stacked=False).at(0))
    with torch.no_grad():
        head.energy.weight.mul_(3000)
    return head, Pyramid.from_maps(maps, (4, 8))


OPTIONS = InferenceConfig(max_detections=20, steps=5, step_centre=1e-3, step_size=4e-3)


def test_detections_of_a_network() -> None:
    head, pyramid = _network()
    candidates = []
    for seed, count in ((0, 50), (1, 30)):
        boxes, _, scores, labels = random_boxes(count, seed)
        candidates.append(Candidates(boxes, scores, labels))
    together = detect(head, pyramid, candidates, OPTIONS)
    for image, (found, given) in enumerate(zip(together, candidates, strict=True)):
        boxes, scores, labels = given.boxes, given.scores, given.labels
        assert len(found.scores) <= 20 and found.boxes.shape == (6, len(found.scores), 4)
        assert (found.scores.diff() <= 0).all()
        assert (found.energies.diff(dim=0) >= 0).all() and found.energies[-1].mean() > found.energies[0].mean()
        # NMS alone: candidates in the order of their f
        energy = BoxEnergy(head, pyramid, boxes, torch.full((len(boxes),), image), labels)
        values = energy(torch.zeros(len(boxes), 1, 4))[:, 0].detach()
        kept, taken = suppress(boxes, values, scores, labels, 0.5, 20)
        torch.testing.assert_close(found.boxes[0], boxes[kept])
        torch.testing.assert_close(found.scores, taken)
        torch.testing.assert_close(found.labels, labels[kept])
        torch.testing.assert_close(found.energies[0], values[kept])
        last = BoxEnergy(head, pyramid, boxes[kept], torch.full((len(kept),), image), labels[kept])
        y = to_relative(found.boxes[-1], boxes[kept])[:, None]
        torch.testing.assert_close(last(y)[:, 0].detach(), found.energies[-1], rtol=1e-3, atol=1e-3)
    split = detect(head, pyramid, candidates, OPTIONS, max_boxes=7)
    for one, other in zip(together, split, strict=True):
        torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=1e-3)


def test_nms_by_the_class_score_keeps_what_the_base_keeps() -> None:
    head, maps = _network(1)
    boxes, _, scores, labels = random_boxes(40)
    candidates, steps = [Candidates(boxes, scores, labels)], {"steps": 3, "step_centre": 1e-3, "step_size": 1e-3}
    (by_score,) = detect(head, maps, candidates, InferenceConfig(nms_order="score", **steps))
    kept, taken = suppress(boxes, scores, scores, labels, 0.5, 100)
    torch.testing.assert_close(by_score.boxes[0], boxes[kept], atol=1e-3, rtol=0)
    assert torch.equal(by_score.scores, taken) and torch.equal(by_score.labels, labels[kept])
    assert torch.all(by_score.energies.diff(dim=0) >= 0)
    (by_f,) = detect(head, maps, candidates, InferenceConfig(**steps))
    assert len(by_f.boxes[0]) and not torch.equal(by_f.boxes[0], by_score.boxes[0])


def test_images_without_candidates() -> None:
    head, pyramid = _network()
    boxes, _, scores, labels = random_boxes(10)
    none = Candidates(boxes[:0], scores[:0], labels[:0])
    first, second = detect(head, pyramid, [none, Candidates(boxes, scores, labels)], OPTIONS)
    assert first.boxes.shape == (6, 0, 4) and len(second.scores) > 0
    for found in detect(head, pyramid, [none, none], OPTIONS):
        assert found.boxes.shape == (6, 0, 4) and found.energies.shape == (6, 0)
