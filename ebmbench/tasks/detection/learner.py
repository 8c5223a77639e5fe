"""Object detection in training: the head of one seed on frozen features."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ebmbench.boxes.energy import BoxEnergy
from ebmbench.boxes.training import BoxLoss, Sums
from ebmbench.core.batches import Batches
from ebmbench.core.own_networks import OwnNetworks
from ebmbench.core.rng import Streams
from ebmbench.core.step import no_counts
from ebmbench.methods.base import own_networks
from ebmbench.system import distributed
from ebmbench.system.files import write_atomically
from ebmbench.tasks.base import Learner, Setup
from ebmbench.tasks.detection import crossfit, scoring
from ebmbench.tasks.detection.base import record_of
from ebmbench.tasks.detection.config import DetectionSettings, DetectionTrainer
from ebmbench.tasks.detection.features import Frozen, ImageFeatures
from ebmbench.tasks.detection.head import ClassHead
from ebmbench.tasks.detection.inference import true_boxes
from ebmbench.tasks.detection.model import RECORD

HISTORY_STEPS = 50
"""Steps that a row of the training history stands for: an epoch of COCO would be too long."""
VALIDATION_BOXES = 128
"""True boxes of the validation split whose loss the history has: the first."""


class DetectionLearner(Learner):
    """The head of one seed.

    Image order, flips and noise are functions of the step: they come from the seed's streams, so that all methods see
    the same images in the same order.
    """

    target_dim = 4

    def __init__(
        self, task: DetectionSettings, setup: Setup, frozen: Frozen, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.task, self.frozen, self.setup = task, frozen, setup
        self.method, self.proposal = setup.method, setup.proposal
        self.trainer: DetectionTrainer = setup.trainer
        self.seeds = (seed,)
        self.device = torch.device(device)
        self.streams = Streams(self.seeds, device, stacked=False)
        self.on_host = Streams(self.seeds, stacked=False)  # the same numbers, for what the host has to know
        self.rank, self.world = distributed.world()
        self.num_steps = self.trainer.iterations
        self.steps_per_row = min(HISTORY_STEPS, self.num_steps)
        self.counts = no_counts(self.method.counters, 1, self.device)
        self.num_items = len(frozen.train.dataset.image_ids)
        self.batch_size = min(self.trainer.batch_size, self.num_items)
        self.batches = Batches(self.on_host, self.num_items, self.batch_size)
        self.num_boxes = [frozen.train.dataset.num_boxes(index) for index in range(self.num_items)]
        self.num_examples = self._count_boxes()

        base = frozen.train.base
        self.head = ClassHead.start(
            base.hidden_layers,
            len(base.category_ids),
            task.head.activation,
            task.head.from_base and base.has_box_head,
            self.streams.at(0),
        )
        # On the last hidden layer at the target box.
        build = partial(own_networks, self.method, self.proposal, self.head.fc7.out_features, self.target_dim)
        self.own = OwnNetworks(build, self.seeds, self.device, torch.float32)
        half = self.trainer.mixed_precision and self.device.type == "cuda"
        self.box_loss = BoxLoss(self.method, self.proposal, self.own, self.streams, half)
        trained = self.head.requires_grad_(False).trained(task.head.frozen)
        for parameter in trained.values():
            parameter.requires_grad_()
        self.parameters: dict[str, Tensor] = {**trained, **self.own.parameters}
        if self.trainer.patience is not None and frozen.val is not None:
            self.state |= {f"best.{name}": p.detach().clone() for name, p in self.parameters.items()}
            self.state |= {"best": torch.tensor([math.inf, 0.0, 0.0], dtype=torch.float64, device=self.device)}
        self.optimizer = _optimizer(self.parameters, self.trainer)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, _schedule(self.trainer))

    def _count_boxes(self) -> int:
        """The boxes of all training steps: whole epochs, and the images of the last, unfinished one."""
        epochs, steps = divmod(self.num_steps, self.batches.steps_per_epoch)
        order = self.batches.order(epochs)[0].tolist()
        return epochs * sum(self.num_boxes) + sum(self.num_boxes[i] for i in order[: steps * self.batch_size])

    @override
    def losses(self, batch: Tensor, step: int | Tensor) -> Tensor:
        assert isinstance(step, int)
        parameters = list(self.parameters.values())
        if self.world > 1:
            distributed.send_step(self.seeds[0], step, self.device)
            distributed.share_parameters(parameters)
        vector = self.partial(batch, step)
        if self.world > 1:
            vector = distributed.sum_on_leader(vector)
        sums = Sums.from_vector(vector, list(self.counts))
        self.counts = {name: number.long().view(1) for name, number in sums.counts.items()}
        return sums.mean_loss(parameters, self.trainer.gradient_clip)

    @override
    def partial(self, batch: Tensor, step: int) -> Tensor:
        images, rows, total = self._examples(batch[0].tolist(), step)
        energy = self._energy(images) if len(rows) else None
        return self.box_loss.sums(energy, rows, total, step, list(self.parameters.values())).as_vector()

    def _energy(self, images: Sequence[ImageFeatures]) -> BoxEnergy:
        """Returns the energy of the true boxes of some images, that have some."""
        return true_boxes(self.task, self.frozen.train.base, images, self.head)

    @override
    def end_epoch(self, alive: Tensor) -> dict[str, Tensor]:
        """Returns the mean loss of the first boxes of the validation split, with the same draws every time."""
        store = self.frozen.val
        if store is None:
            return {}
        chosen = self._validation_images
        total = sum(store.dataset.num_boxes(index) for index in chosen)
        loss, done = torch.zeros(1, dtype=torch.float64, device=self.device), 0
        for start in range(0, len(chosen), self.batch_size):
            loaded = store.load([(index, False) for index in chosen[start : start + self.batch_size]])
            images = [image for image in loaded if image is not None]
            count = sum(len(image.boxes) for image in images)
            rows = torch.arange(done, done + count, device=self.device)
            step = self.num_steps  # one that no training has
            for part, _ in self.box_loss.passes(self._energy(images), rows, total, step) if count else ():
                loss += part.detach()
            done += count
        loss = torch.where(alive, loss / max(done, 1), torch.nan)
        self._keep_best(float(loss))
        return {"val_loss": loss}

    def _keep_best(self, loss: float) -> None:
        """Notes a validation loss, and keeps the weights where it is the lowest so far."""
        if "best" not in self.state:
            return
        lowest, _, rows = self.state["best"].tolist()
        if loss < lowest:
            self.state["best"].copy_(torch.tensor([loss, rows + 1, rows + 1]))
            for name, parameter in self.parameters.items():
                self.state[f"best.{name}"].copy_(parameter.detach())
        else:
            self.state["best"][2] += 1

    @override
    def is_finished(self) -> bool:
        if "best" not in self.state:
            return False
        _, best, rows = self.state["best"].tolist()
        return bool(rows - best >= (self.trainer.patience or math.inf))

    @override
    def end_training(self) -> None:
        """Puts the weights with the lowest validation loss in place, where that is asked for."""
        if "best" not in self.state or self.state["best"][1] == 0:
            return
        lowest, best, rows = self.state["best"].tolist()
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self.state[f"best.{name}"])
        if best < rows:
            steps = (min(round(row) * self.steps_per_row, self.num_steps) for row in (best, rows))
            text = "the validation loss was lowest ({:.2f}) at step {} of {}; its weights are kept"
            print(f"ebmbench: seed {self.seeds[0]}: {text.format(lowest, *steps)}", file=sys.stderr, flush=True)

    @cached_property
    def _validation_images(self) -> list[int]:
        """The places of the first images of the validation split that have `VALIDATION_BOXES` boxes together."""
        assert self.frozen.val is not None
        chosen, left = [], VALIDATION_BOXES
        for index in range(len(self.frozen.val.dataset.image_ids)):
            count = self.frozen.val.dataset.num_boxes(index)
            if count:
                chosen.append(index)
                left -= count
            if left <= 0:
                break
        return chosen

    def _examples(self, batch: list[int], step: int) -> tuple[list[ImageFeatures], Tensor, int]:
        """This process's images, and the places of their boxes among all of the step's."""
        store, places = self.frozen.train, self._places(batch, step)
        following = self.batches.at(step + 1)[0].tolist()
        store.expect((*places, *self._places(following, step + 1)))
        loaded = iter(store.load(places))
        images: list[ImageFeatures] = []
        rows: list[int] = []
        start = 0
        for number, index in enumerate(batch):
            if number % self.world == self.rank:
                image = next(loaded)
                if image is not None:
                    images.append(image)
                    rows += range(start, start + len(image.boxes))
            start += self.num_boxes[index]
        return images, torch.tensor(rows, dtype=torch.int64, device=self.device), start

    def _places(self, batch: Sequence[int], step: int) -> list[tuple[int, bool]]:
        """This process's images of a step, and whether each is flipped."""
        flips = (self.on_host.at(step).uniform("flip", (len(batch),)) < 0.5).tolist()
        return list(zip(batch, flips, strict=True))[self.rank :: self.world]

    @override
    def evaluate(self, run_dir: Path, diverged: Sequence[bool]) -> list[dict[str, float]]:
        record = record_of(self.task, self.frozen.train.base, self.frozen.train.dataset)
        write_atomically(run_dir / RECORD, (json.dumps(record, indent=1) + "\n").encode())
        frozen, seed = self.frozen, self.seeds[0]
        if self.world > 1:
            distributed.send_step(seed, distributed.EVALUATE, self.device)
            distributed.share_parameters(list(self.parameters.values()))
        head = self.head.eval()
        verdict = None
        if self.task.inference.accept and self.task.inference.folds:
            verdict = crossfit.verdict(self.task, self.setup, frozen, self.device, DetectionLearner)
        args = self.task, frozen.scored, frozen.val, head, seed, run_dir, diverged[0], self.on_stage, verdict
        return [scoring.score(*args)]

    @override
    def assist(self) -> None:
        scoring.assist(self.task, self.frozen.scored, self.frozen.val, self.head.eval())


def _optimizer(parameters: Mapping[str, Tensor], trainer: DetectionTrainer) -> torch.optim.Optimizer:
    """As published, biases learn at twice the rate and do not decay."""
    named = parameters.items()
    groups = [
        {
            "params": [p for name, p in named if not name.endswith("bias")],
            "lr": trainer.learning_rate,
            "weight_decay": trainer.weight_decay,
        },
        {
            "params": [p for name, p in named if name.endswith("bias")],
            "lr": 2 * trainer.learning_rate,
            "weight_decay": 0.0,
        },
    ]
    if trainer.optimizer == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=0.9)


def _schedule(trainer: DetectionTrainer) -> Any:
    """Factor of the learning rate at a step: linear warm-up from a third, a tenth after each of `decay_at`."""

    def factor(step: int) -> float:
        warm = min(1.0, 1 / 3 + 2 / 3 * step / trainer.warmup) if trainer.warmup else 1.0
        return warm * 0.1 ** sum(step >= part * trainer.iterations for part in trainer.decay_at)

    return factor
