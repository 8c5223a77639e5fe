"""A base detector against torchvision's plain training of the same network, for the same time and on the same images.

    python -m benchmarks base data=bccd data.root=/data/bccd

Ours is what a run of these settings trains. The other is torchvision's reference recipe: SGD 0.02 for 16 images,
momentum 0.9, weight decay 1e-4, warm-up over 100 steps, horizontal flips, the rate divided by 10 after two thirds and
again after eleven twelfths of the time. Both have the same processor time of one thread. pycocotools scores them on the
scored split.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ebmbench.config.compose import compose
from ebmbench.tasks.detection.architectures import architecture
from ebmbench.tasks.detection.base import starting_weights
from ebmbench.tasks.detection.base_training import seeded, start_from, train_base, validation_ap
from ebmbench.tasks.detection.config import DetectionSettings
from ebmbench.tasks.detection.data import Dataset, open_split

SEEDS = 3


def main(argv: Sequence[str]) -> int:
    """Prints AP of both, for each seed; returns the exit code."""
    torch.set_num_threads(1)
    task: Any = compose(["task=detection", "method=nce+", *argv]).task
    splits = [open_split(task.data, name) for name in ("train", "val", task.data.eval_split)]
    train, val, scored = splits
    print(f"{'seed':>4} {'seconds':>8} {'ours':>6} {'plain':>6}")
    for seed in range(SEEDS):
        config = task.model_copy(update={"base": task.base.model_copy(update={"seed": seed})})
        kind = architecture(config.base.architecture)
        state = None if config.base.start is None else starting_weights(config.base, kind)
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            checked = val if config.base.patience else None
            ours, _ = train_base(config, train, "cpu", Path(folder) / "ckpt", checked, state)
        seconds = time.process_time() - began
        plain = _plain(config, train, seconds, state)
        scores = [validation_ap(config, model, scored, train, None) for model in (ours, plain)]
        print(f"{seed:4d} {seconds:8.0f} {scores[0]:6.1f} {scores[1]:6.1f}", flush=True)
    return 0


def _plain(config: DetectionSettings, train: Dataset, seconds: float, state: Any) -> torch.nn.Module:
    """Returns the network after torchvision's plain training for some processor time."""
    base = config.base
    with seeded(base.seed):
        model: Any = architecture(base.architecture).build(len(train.categories) + 1, *config.data.sides)
        if state is not None:
            start_from(model, state, base)
        model.train()
        rate = 0.02 * base.batch_size / 16
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
        label_of = {category: label for label, category in enumerate(train.categories, start=1)}
        began, step = time.process_time(), 0
        while (share := (time.process_time() - began) / seconds) < 1:
            drops = (share >= 2 / 3) + (share >= 11 / 12)
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 100) * 0.1**drops
            images, targets = [], []
            for index in torch.randint(len(train.image_ids), (base.batch_size,)).tolist():
                example = train.load(index)
                if example is None:
                    continue
                image, boxes = example.image.float() / 255, example.boxes
                if torch.rand(()) < 0.5:
                    image, width = image.flip(-1), image.shape[-1]
                    boxes = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), 1)
                images.append(image)
                labels = torch.tensor([label_of[c] for c in example.categories.tolist()])
                targets.append({"boxes": boxes, "labels": labels})
            loss = torch.stack(list(model(images, targets).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            step += 1
    print(f"     plain: {step} steps of {base.batch_size} images", file=sys.stderr)
    trained: torch.nn.Module = model
    return trained
