"""The scores of tracking: values by hand, and got10k's toolkit where it has the same rule."""

from __future__ import annotations

import numpy as np
import pytest

from ebmbench.tasks.tracking.scores import Score, filled, overlap, summary

TRUTH = np.array([[10.0, 10, 30, 50]]).repeat(5, 0)
AWAY = TRUTH + 1000
ABSENT = np.full(4, np.nan)


def score(track: np.ndarray, truth: np.ndarray = TRUTH, count_first: bool = True) -> Score:
    result = Score.of(track, truth, count_first)
    assert result is not None
    return result


def test_a_perfect_tracker_has_twenty_of_twenty_one_thresholds() -> None:
    found = summary([score(TRUTH)])
    assert found["auc"] == pytest.approx(100 * 20 / 21)
    assert all(found[name] == 100 for name in ("precision", "norm_precision", "norm_precision_mean", "ao", "sr75"))


def test_a_lost_sequence_counts_as_much_as_a_long_one() -> None:
    long = np.concatenate([TRUTH] * 20)
    lost = score(np.concatenate((TRUTH[:1], AWAY[1:])))  # the first frame is given
    found = summary([score(long, long), lost])
    assert found["auc"] == pytest.approx(100 * (20 / 21 + 20 / 21 / 5) / 2)
    assert found["precision"] == pytest.approx(100 * (1 + 1 / 5) / 2)
    assert found["ao"] == pytest.approx(100 * 99 / 103)  # GOT-10k counts frames, without the first ones


def test_the_first_frame_is_left_out_if_asked() -> None:
    assert score(np.concatenate((TRUTH[:1], AWAY[1:])), count_first=False).auc == 0
    assert Score.of(TRUTH[:1], TRUTH[:1], count_first=False) is None


@pytest.mark.parametrize("invalid", [ABSENT, [10, 10, 10, 50], [30, 10, 10, 50], [0, 0, 0, 0]])
def test_frames_without_a_valid_true_box_are_left_out(invalid: list[float]) -> None:
    truth = TRUTH.copy()
    truth[3] = invalid
    track = np.concatenate((TRUTH[:2], AWAY[2:]))  # two of the four that count are right; toolkits would say 3/5
    assert score(track, truth).precision[20] == 0.5
    assert score(track, truth).auc == pytest.approx(100 * 20 / 21 / 2)


def test_fewer_boxes_than_images_count_where_they_are() -> None:
    truth = np.full((8, 4), np.nan)
    truth[:5] = TRUTH
    assert score(np.concatenate((TRUTH, AWAY[:3])), truth).auc == pytest.approx(100 * 20 / 21)


def test_a_missing_or_degenerate_prediction_is_the_last_valid_one() -> None:
    track = np.array([[0.0, 0, 1, 1], [1, 1, 4, 5], ABSENT, [9, 9, 9, 12]])
    assert filled(track, TRUTH[0], 6).tolist() == [TRUTH[0].tolist(), *[[1, 1, 4, 5]] * 5]


def test_values_by_hand() -> None:
    """A box of 20 × 40 that is 5 to the right: IoU 15/25 = 0.6, distance 5, a quarter of the width."""
    found = score(TRUTH + np.array([5, 0, 5, 0]))
    assert found.overlaps == pytest.approx([0.6] * 5)
    assert found.success.tolist() == [1.0] * 12 + [0.0] * 9  # IoU 0.6 is not above 0.6
    assert [found.precision[4], found.precision[5]] == [0, 1]
    assert [found.normalised[24], found.normalised[25]] == [0, 1]
    assert summary([found])["norm_precision"] == 0
    assert summary([found])["norm_precision_mean"] == pytest.approx(100 * 26 / 51)


def random_track(seed: int, frames: int = 200) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 200, (frames, 2))
    truth = np.concatenate((low, low + random.uniform(10, 80, (frames, 2))), 1)
    low = low + random.normal(0, 15, (frames, 2))
    return np.concatenate((low, low + random.uniform(10, 80, (frames, 2))), 1), truth


def as_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)


def got10k_otb(track: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """got10k/utils/metrics.py and experiments/otb.py (got-10k/toolkit 0.1.3), copied: IoU, success and precision."""
    a, b = as_xywh(track), as_xywh(truth)
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    inter = np.maximum(high - low, 0).prod(-1)
    ious = np.clip(inter / (a[:, 2:].prod(-1) + b[:, 2:].prod(-1) - inter + np.finfo(float).eps), 0, 1)
    centres = [x[:, :2] + (x[:, 2:] - 1) / 2 for x in (a, b)]
    errors = np.sqrt(((centres[0] - centres[1]) ** 2).sum(-1))
    success = np.greater(ious[:, None], np.linspace(0, 1, 21)[None]).mean(0)
    return ious, success, np.less_equal(errors[:, None], np.arange(51)[None]).mean(0)


def test_success_and_precision_are_those_of_got10k() -> None:
    tracks = [random_track(seed) for seed in range(4)]
    scores = [score(*pair) for pair in tracks]
    theirs = [got10k_otb(*pair) for pair in tracks]
    for ours, (ious, success, precision) in zip(scores, theirs, strict=True):
        assert np.abs(ours.overlaps - ious).max() < 1e-9
        assert np.abs(ours.success - success).max() < 1e-9
        assert np.abs(ours.precision - precision).max() < 1e-9
    found = summary(scores)
    assert found["auc"] == pytest.approx(100 * np.mean([s for _, s, _ in theirs]), abs=1e-9)
    later = np.concatenate([ious[1:] for ious, _, _ in theirs])  # experiments/got10k.py, boxes inside the picture
    assert found["ao"] == pytest.approx(100 * later.mean(), abs=1e-9)
    assert found["sr50"] == pytest.approx(100 * (later > 0.5).mean(), abs=1e-9)


def test_overlap_is_that_of_the_got10k_package() -> None:
    metrics = pytest.importorskip("got10k.utils.metrics")
    track, truth = random_track(9)
    assert np.abs(overlap(track, truth) - metrics.rect_iou(as_xywh(track), as_xywh(truth))).max() < 1e-9
