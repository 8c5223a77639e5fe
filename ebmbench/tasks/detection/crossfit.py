"""Acceptance by cross-fitting: all training images decide, each by a head, and a base, that has not seen it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ebmbench.boxes.acceptance import Verdict
from ebmbench.boxes.artefact import computed_once
from ebmbench.boxes.comparison import Interval, paired_bootstrap
from ebmbench.core.errors import UserError
from ebmbench.system import distributed
from ebmbench.tasks.base import Setup
from ebmbench.tasks.detection.base import base_key, trained_base
from ebmbench.tasks.detection.config import DetectionSettings
from ebmbench.tasks.detection.data import Dataset, Example, hash_of
from ebmbench.tasks.detection.evaluation import GAINS, Detection, evaluate
from ebmbench.tasks.detection.features import FeatureStore, Frozen
from ebmbench.tasks.detection.scoring import detect_all

if TYPE_CHECKING:
    from pycocotools.coco import COCO

    from ebmbench.tasks.detection.learner import DetectionLearner

VERSION = 1
"""Raised when cross-fitting comes to mean something else: it is a part of the key."""
BLOCKS = 8
"""Blocks of images in a row that each fold has, so that consecutive frames of a video are seldom in two folds."""


class Fold:
    """Some of the images of a training split, as a split of its own.

    Args:
        places: of the images in the split.
        with_negatives: whether it has the split's images without boxes, which the base detector trains on.
    """

    def __init__(self, dataset: Dataset, places: Sequence[int], with_negatives: bool) -> None:
        self.dataset, self.split, self.categories = dataset, dataset.split, dataset.categories
        self.negatives = list(dataset.negatives) if with_negatives else []
        self.places = [*places, *(len(dataset.image_ids) + n for n in range(len(self.negatives)))]
        self.image_ids = [dataset.image_ids[place] for place in places]
        self.notes: list[str] = []
        self.turned, self.workers = dataset.turned, dataset.workers
        self.content = hash_of([dataset.content, self.image_ids])

    def load(self, index: int) -> Example | None:
        """Returns an image with its boxes."""
        return self.dataset.load(self.places[index])

    def num_boxes(self, index: int) -> int:
        """Returns how many boxes there are to learn from in an image."""
        return self.dataset.num_boxes(self.places[index])

    def ground_truth(self) -> COCO:
        """Returns all annotations of the split."""
        return self.dataset.ground_truth()


def folds(count: int, number: int) -> list[list[int]]:
    """Returns the places of `count` images in each of `number` folds: blocks in a row, dealt out in turn."""
    size = max(1, count // (number * BLOCKS))
    return [[place for place in range(count) if place // size % number == fold] for fold in range(number)]


def verdict(
    task: DetectionSettings, setup: Setup, frozen: Frozen, device: torch.device, head: type[DetectionLearner]
) -> Verdict:
    """Returns what `task.inference.folds` heads decide, each on the training images that it was not trained on.

    It is computed once for all seeds: the first seed of the run trains the heads. Where the base detector was trained
    on these images, each fold has one of its own.

    Args:
        head: the class of the learner.

    Raises:
        UserError: several processes share the run, or there are too few images.
    """
    number, dataset = task.inference.folds, frozen.train.dataset
    if distributed.world()[1] > 1:
        raise UserError("task.inference.folds takes one process; start the run without torchrun, or set it to 0")
    count = len(dataset.image_ids)
    if count < 2 * number:
        raise UserError(
            f"task.inference.folds={number} needs at least {2 * number} training images with boxes; there are {count}"
        )
    identity = [
        VERSION, base_key(task), task.identity(), setup.method.identity(), setup.trainer.identity(), setup.seeds[0],
        None if setup.proposal is None else setup.proposal.identity(),
    ]  # fmt: skip
    key = hashlib.blake2s(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

    def compute(scratch: Path) -> dict[str, Any]:
        base: list[Detection] = []
        refined: list[Detection] = []
        looked: list[int] = []
        for fold, held in enumerate(folds(len(dataset.image_ids), number)):
            print(f"ebmbench: cross-fitting, fold {fold + 1} of {number}", file=sys.stderr, flush=True)
            learner = _trained(task, setup, frozen, device, head, fold, held)
            found = detect_all(task, learner.frozen.scored, learner.head.eval(), [task.inference.steps])
            base += found.base
            refined += found.after[task.inference.steps]
            looked += found.image_ids
        truth, most = dataset.ground_truth(), task.inference.max_detections
        before, after = (evaluate(truth, boxes, looked, False, most) for boxes in (base, refined))
        gain = paired_bootstrap(before, after, GAINS, task.inference.bootstrap)["ap"]
        return {"gain": gain.value, "low": gain.low, "high": gain.high, "images": len(looked)}

    facts = computed_once(setup.results_dir / "crossfit" / key, "the cross-fitted heads", compute)
    return Verdict(Interval(facts["gain"], facts["low"], facts["high"]), facts["images"], "training image")


def _trained(
    task: DetectionSettings,
    setup: Setup,
    frozen: Frozen,
    device: torch.device,
    head: type[DetectionLearner],
    fold: int,
    held: Sequence[int],
) -> DetectionLearner:
    """Returns a learner that was trained without one fold, and that scores this one."""
    dataset, number = frozen.train.dataset, task.inference.folds
    rest = Fold(dataset, sorted(set(range(len(dataset.image_ids))) - set(held)), with_negatives=True)
    base = frozen.train.base
    if task.base.weights == "train" and task.data.of_base() == task.data:
        base = trained_base(task, setup.results_dir, device, rest, f"{base_key(task)}-without-{fold + 1}-of-{number}")
    folder = frozen.train.folder.parent
    val = None if frozen.val is None else FeatureStore(base, frozen.val.dataset, folder, 0)
    left_out = FeatureStore(base, Fold(dataset, held, with_negatives=False), folder, 0)
    learner = head(task, setup, Frozen(FeatureStore(base, rest, folder, 0), left_out, val), setup.seeds[0], device)
    alive = torch.ones(1, dtype=torch.bool, device=device)
    for step in range(learner.num_steps):
        learner.optimizer.zero_grad()
        learner.losses(learner.batches.at(step), step).sum().backward()
        learner.optimizer.step()
        assert learner.scheduler is not None
        learner.scheduler.step()
        if (step + 1) % learner.steps_per_row == 0:
            learner.end_epoch(alive)
            if learner.is_finished():
                break
    learner.end_training()
    return learner
