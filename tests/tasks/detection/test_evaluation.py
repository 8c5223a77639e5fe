"""Scores against COCOeval itself, and the bootstrap against resampled datasets."""

from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from ebmbench.boxes.comparison import joint_bootstrap, paired_bootstrap
from ebmbench.tasks.detection.data import as_coco
from ebmbench.tasks.detection.evaluation import GAINS, as_tables, evaluate, from_tables


def made_problem(num_images: int = 30, jitter: float = 4.0, seed: int = 0) -> tuple[COCO, list[dict[str, Any]]]:
    """Boxes of three classes, and detections that are jittered copies with false and missed ones among them."""
    rng = np.random.default_rng(seed)
    images = [{"id": 7 * i + 3, "width": 200, "height": 200} for i in range(num_images)]
    truth, found = [], []
    for image in images:
        for _ in range(int(rng.integers(0, 5))):
            box = np.concatenate((rng.uniform(0, 120, 2), rng.uniform(10, 70, 2)))
            category = int(rng.choice([1, 5, 9]))
            crowd = int(rng.uniform() < 0.05)
            truth.append(
                {"image_id": image["id"], "category_id": category, "bbox": box.tolist(), "area": box[2] * box[3],
                 "iscrowd": crowd}
            )  # fmt: skip
            if rng.uniform() < 0.9:
                moved = box + np.random.default_rng(int(1e6 * box[0])).normal(0, 1, 4) * jitter
                moved[2:] = np.maximum(moved[2:], 2)
                wrong = rng.uniform() < 0.1
                found.append(
                    {"image_id": image["id"], "category_id": 1 if wrong else category, "bbox": moved.tolist(),
                     "score": float(rng.uniform())}
                )  # fmt: skip
        found.append(
            {
                "image_id": image["id"],
                "category_id": 5,
                "bbox": [5.0, 5.0, 30.0, 30.0],
                "score": float(rng.uniform()),
            }
        )
    return as_coco(images, truth, {1: "a", 5: "b", 9: "c"}), found


def test_weights_of_one_are_cocoevals_own_ap() -> None:
    truth, found = made_problem()
    result = evaluate(truth, found, list(truth.imgs))
    per_threshold = result.average_precision(np.ones(30))
    assert 10 < result.metrics["ap"] < 90
    assert per_threshold.mean() == pytest.approx(result.metrics["ap"], abs=1e-9)
    assert per_threshold[0] == pytest.approx(result.metrics["ap50"], abs=1e-9)
    assert per_threshold[5] == pytest.approx(result.metrics["ap75"], abs=1e-9)


def test_weights_are_copies_of_images() -> None:
    """AP of a resampled set of images equals COCOeval's on a dataset that holds them so many times."""
    truth, found = made_problem(12)
    ids = list(truth.imgs)
    weights = np.random.default_rng(1).integers(0, 4, len(ids))
    images, annotations, detections = [], [], []
    for place, image_id in enumerate(ids):
        for copy in range(weights[place]):
            new_id = 1000 * image_id + copy
            images.append({**truth.imgs[image_id], "id": new_id})
            annotations += [
                {**a, "image_id": new_id} for a in truth.dataset["annotations"] if a["image_id"] == image_id
            ]
            detections += [{**d, "image_id": new_id} for d in found if d["image_id"] == image_id]
    copies = as_coco(images, annotations, {1: "a", 5: "b", 9: "c"})
    expected = evaluate(copies, detections, list(copies.imgs)).metrics
    got = evaluate(truth, found, ids).average_precision(weights.astype(float))
    assert got.mean() == pytest.approx(expected["ap"], abs=1e-6)
    assert got[5] == pytest.approx(expected["ap75"], abs=1e-6)


def test_interval_of_a_true_gain_excludes_zero_and_of_none_does_not() -> None:
    truth, rough = made_problem(60, jitter=6)
    _, fine = made_problem(60, jitter=2)
    ids = list(truth.imgs)
    base, refined = evaluate(truth, rough, ids), evaluate(truth, fine, ids)
    gain = paired_bootstrap(base, refined, GAINS, 200)
    assert gain["ap"].value == pytest.approx(refined.metrics["ap"] - base.metrics["ap"], abs=1e-9)
    assert 0 < gain["ap"].low < gain["ap"].value < gain["ap"].high
    assert gain["ap75"].low > 0
    none = paired_bootstrap(base, base, GAINS, 50)
    assert none["ap"].low == none["ap"].value == none["ap"].high == 0


def test_tables_hold_all_that_the_bootstrap_needs() -> None:
    truth, rough = made_problem(25, jitter=6)
    _, fine = made_problem(25, jitter=2)
    ids = list(truth.imgs)
    stages = {
        "base": evaluate(truth, rough, ids),
        "refined": evaluate(truth, fine, ids),
        "nms": evaluate(truth, [], ids),
    }
    kept = from_tables(*as_tables(stages, seed=3))
    assert set(kept) >= {(3, "base"), (3, "refined")}
    for name in ("base", "refined"):
        assert kept[3, name].metrics["ap"] == pytest.approx(stages[name].metrics["ap"], abs=1e-9)
    again = paired_bootstrap(kept[3, "base"], kept[3, "refined"], GAINS, 50)
    assert again == paired_bootstrap(stages["base"], stages["refined"], GAINS, 50)


def test_the_joint_interval_holds_the_spread_of_seeds_and_of_bases() -> None:
    """With images alone two seeds that differ look as sure as two that are equal."""
    truth, rough = made_problem(40, jitter=6)
    ids = list(truth.imgs)
    base = evaluate(truth, rough, ids)
    good, fair = (evaluate(truth, made_problem(40, jitter=jitter)[1], ids) for jitter in (1, 4))
    equal, unequal = (joint_bootstrap([([base], heads)], GAINS, 200)["ap"] for heads in ([good, good], [good, fair]))
    assert unequal.high - unequal.low > 1.5 * (equal.high - equal.low)
    assert unequal.value == pytest.approx((good.metrics["ap"] + fair.metrics["ap"]) / 2 - base.metrics["ap"], abs=1e-9)
    bases = joint_bootstrap([([base], [good, good]), ([base], [fair, fair])], GAINS, 200)["ap"]
    assert bases.value == pytest.approx(unequal.value, abs=1e-9)
    assert bases.high - bases.low > 1.5 * (equal.high - equal.low)


def test_two_methods_are_compared_at_the_same_images_and_seeds() -> None:
    """What images and seeds do to both of them cancels; what a seed does to one does not."""
    truth, _ = made_problem(40, jitter=6)
    ids = list(truth.imgs)
    good, fair = (evaluate(truth, made_problem(40, jitter=jitter)[1], ids) for jitter in (1, 4))
    alike = joint_bootstrap([([good, fair], [good, fair])], GAINS, 50)["ap"]
    assert alike.low == alike.value == alike.high == 0
    crossed = joint_bootstrap([([good, fair], [fair, good])], GAINS, 200)["ap"]
    assert crossed.value == pytest.approx(0, abs=1e-9) and crossed.low < -1 and crossed.high > 1
    worse = joint_bootstrap([([good, good], [fair, fair])], GAINS, 200)["ap"]
    assert worse.value == pytest.approx(fair.metrics["ap"] - good.metrics["ap"], abs=1e-9) and worse.high < 0


def test_no_detections_score_zero() -> None:
    truth, _ = made_problem()
    result = evaluate(truth, [], list(truth.imgs))
    assert result.metrics["ap"] == 0 and result.metrics["ar"] == 0
    assert result.average_precision(np.ones(30)).mean() == 0


def test_perfect_detections_score_hundred() -> None:
    truth, _ = made_problem()
    perfect = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in truth.anns.values()
        if not a["iscrowd"]
    ]
    assert evaluate(truth, perfect, list(truth.imgs)).metrics["ap"] == pytest.approx(100)
