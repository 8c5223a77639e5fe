"""Acceptance by heads, and base detectors, that have not seen the images they are judged on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from ebmbench.config.compose import compose
from ebmbench.core.errors import UserError
from ebmbench.engine.execute import execute
from ebmbench.tasks.detection.crossfit import Fold, folds
from ebmbench.tasks.detection.data import open_split
from tests.processes import tiny


@pytest.mark.parametrize(("count", "number"), [(4, 2), (10, 3), (144, 3), (205, 5)])
def test_folds_are_a_partition_in_blocks(count: int, number: int) -> None:
    parts = folds(count, number)
    assert sorted(place for part in parts for place in part) == list(range(count))
    assert min(len(part) for part in parts) >= 0.7 * count / number


def test_cross_fitting_decides_once_for_all_seeds_with_bases_of_its_own(tmp_path: Path) -> None:
    """Every fold has a base detector that did not see it; what is decided is the same for the seeds."""
    words = [
        "task.inference.accept=true",
        "task.inference.folds=2",
        "task.base.weights=train",
        "task.base.iterations=1",
    ]
    config = compose(tiny("nce", f"results_dir={tmp_path}", *words, "seeds=2", "task.inference.bootstrap=20"))
    outcome = execute(config, quiet=True)
    with open(outcome.run_dir / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert len({(row["accepted"], row["val_gain"]) for row in rows}) == 1 and len(rows) == 2
    names = sorted(path.name for path in (tmp_path / "base").iterdir() if path.is_dir())
    assert len(names) == 3 and [name.partition("-")[2] for name in names] == ["", "without-1-of-2", "without-2-of-2"]
    (decided,) = (path for path in (tmp_path / "crossfit").iterdir() if path.is_dir())
    made = decided.stat().st_mtime_ns
    execute(config.replace(force=True), quiet=True)
    assert decided.stat().st_mtime_ns == made


def test_a_fold_is_a_split_of_its_own_and_too_few_images_are_refused(tmp_path: Path) -> None:
    config = compose(tiny("nce", f"results_dir={tmp_path}", "task.inference.accept=true", "task.inference.folds=20"))
    dataset = open_split(config.task.data, "train")  # type: ignore[attr-defined]
    fold = Fold(dataset, [2, 0], with_negatives=True)
    example, same = fold.load(0), dataset.load(2)
    assert example is not None and same is not None and torch.equal(example.image, same.image)
    assert fold.image_ids == [dataset.image_ids[2], dataset.image_ids[0]] and fold.content != dataset.content
    with pytest.raises(UserError, match=r"folds=20 needs at least 40 training images with boxes"):
        execute(config, quiet=True)
