"""Object detection in training: the head of one seed on frozen features."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function
from typing_extensions import override

from ebmbench.core.batches import Batches
from ebmbench.core.own_networks import OwnNetworks
from ebmbench.core.rng import Draws, Streams
from ebmbench.core.step import Step, no_counts
from ebmbench.methods.base import own_networks
from ebmbench.system import distributed
from ebmbench.system.files import write_atomically
from ebmbench.tasks.base import Learner, Setup, count_examples
from ebmbench.tasks.detection import scoring
from ebmbench.tasks.detection.base import record_of
from ebmbench.tasks.detection.config import DetectionTrainer
from ebmbench.tasks.detection.features import FeatureStore, ImageFeatures, pyramid
from ebmbench.tasks.detection.head import BoxEnergy, EnergyHead
from ebmbench.tasks.detection.model import RECORD

if TYPE_CHECKING:
    from ebmbench.tasks.detection.task import DetectionTask

HISTORY_STEPS = 50
"""Steps that a row of the training history stands for: an epoch of COCO would be too long."""
VALIDATION_BOXES = 128
"""True boxes of the validation split whose loss the history has: the first."""
MAX_EVALUATIONS = 2**15
"""Boxes pooled at a time, so that an image with very many of them fits into memory."""


@dataclass(frozen=True)
class BoxDraws(Draws):
    """The draws of some of a mini-batch's boxes.

    Every box keeps the numbers that it has in the whole mini-batch, however that is split over passes or processes.
    """

    rows: Tensor  # [n] which boxes, of `total`
    total: int
    shared: bool  # one draw serves all boxes, as the proposal was told

    def _whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape) if self.shared else (self.total, *shape[1:])

    def _own(self, numbers: Tensor) -> Tensor:
        return numbers if self.shared else numbers[self.rows]

    @override
    def uniform(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return self._own(super().uniform(name, self._whole(shape), dtype))

    @override
    def normal(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return self._own(super().normal(name, self._whole(shape), dtype))

    @override
    def integers(self, name: str, shape: Sequence[int], high: int) -> Tensor:
        return self._own(super().integers(name, self._whole(shape), high))


class _WithGradient(Function):
    """A loss whose gradient is known already: passes of bounded memory computed it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (None, None, *(grads[0].sum() * gradient for gradient in ctx.gradients))


@dataclass
class Frozen:
    """What all seeds and methods of a process share."""

    train: FeatureStore
    scored: FeatureStore
    val: FeatureStore | None = None  # for the history, and on which a head is accepted or not


class DetectionLearner(Learner):
    """The head of one seed.

    Image order, flips and noise are functions of the step: they come from the seed's streams, so that all methods see
    the same images in the same order.
    """

    target_dim = 4

    def __init__(
        self, task: DetectionTask, setup: Setup, frozen: Frozen, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.task, self.frozen = task, frozen
        self.method, self.proposal = setup.method, setup.proposal
        self.trainer: DetectionTrainer = setup.trainer
        self.seeds = (seed,)
        self.device = torch.device(device)
        self.streams = Streams(self.seeds, device, stacked=False)
        self.on_host = Streams(self.seeds, stacked=False)  # the same numbers, for what the host has to know
        self.rank, self.world = distributed.world()
        self.num_steps = self.trainer.iterations
        self.steps_per_row = min(HISTORY_STEPS, self.num_steps)
        self.shared_noise = bool(getattr(self.proposal, "shared", False))
        self.counts = no_counts(self.method.counters, 1, self.device)
        self.num_items = len(frozen.train.dataset.image_ids)
        self.batch_size = min(self.trainer.batch_size, self.num_items)
        self.batches = Batches(self.on_host, self.num_items, self.batch_size)
        self.num_boxes = [frozen.train.dataset.num_boxes(index) for index in range(self.num_items)]
        self.num_examples = self._count_boxes()

        base = frozen.train.base
        self.head = EnergyHead.start(
            base.hidden_layers,
            len(base.category_ids),
            task.head.activation,
            task.head.from_base and base.has_box_head,
            self.streams.at(0),
        )
        # On the last hidden layer at the target box.
        build = partial(own_networks, self.method, self.proposal, self.head.fc7.out_features, self.target_dim)
        self.own = OwnNetworks(build, self.seeds, self.device, torch.float32)
        trained = self.head.requires_grad_(False).trained(task.head.frozen)
        for parameter in trained.values():
            parameter.requires_grad_()
        self.parameters: dict[str, Tensor] = {**trained, **self.own.parameters}
        self.optimizer = _optimizer(self.parameters, self.trainer)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, _schedule(self.trainer))

    def _heads(self, energy: BoxEnergy) -> dict[str, Callable[[], Tensor]]:
        """The outputs of the own networks for the boxes of an energy, as functions by name: `[N, outputs]` each."""
        stacked = self.own.heads(lambda: energy.features().unsqueeze(0))
        return {name: partial(_of_one_seed, output) for name, output in stacked.items()}

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
        sums = self.partial(batch, step)
        if self.world > 1:
            sums = distributed.sum_on_leader(sums)
        num_counters = len(self.counts)
        count = sums[1].clamp(min=1)
        for name, number in zip(self.counts, sums[2 : 2 + num_counters], strict=True):
            self.counts[name] = number.long().view(1)
        gradient = sums[2 + num_counters :] / count
        clip = self.trainer.gradient_clip
        if clip is not None:
            gradient = gradient * (clip / gradient.norm()).clamp(max=1)
        gradients = tuple(
            part.view_as(p).to(p.dtype)
            for part, p in zip(gradient.split([p.numel() for p in parameters]), parameters, strict=True)
        )
        value = (sums[0] / count).float().unsqueeze(0)
        result: Tensor = _WithGradient.apply(value, gradients, *parameters)
        return result

    def partial(self, batch: Tensor, step: int) -> Tensor:
        """Returns this process's part of a step in one vector: summed loss, boxes, counters, gradient of the sum."""
        parameters = list(self.parameters.values())
        images, rows, total = self._examples(batch[0].tolist(), step)
        loss_sum = torch.zeros((), device=self.device)
        counts = dict.fromkeys(self.counts, torch.zeros((), device=self.device))
        flat = torch.zeros(sum(p.numel() for p in parameters), device=self.device)
        for loss, found in self._passes(images, rows, total, step):
            counts = {name: count + found.get(name, 0) for name, count in counts.items()}
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            loss_sum += loss.detach()
            flat += torch.cat([gradient.flatten() for gradient in gradients])
        count = sum(len(image.boxes) for image in images)
        head = torch.stack((loss_sum, torch.tensor(float(count), device=self.device), *counts.values()))
        return torch.cat((head, flat))

    def _passes(
        self, images: Sequence[ImageFeatures], rows: Tensor, total: int, step: int
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yields the summed loss of the images' boxes, so many at a time as fit, and what the method counted.

        Args:
            rows: the places of the boxes among the `total` of the step.
        """
        count = sum(len(image.boxes) for image in images)
        if not count:
            return
        maps = pyramid(images, self.frozen.train.base.strides)
        boxes = torch.cat([image.boxes for image in images])
        labels = torch.cat([image.labels for image in images])
        owner = torch.tensor([place for place, image in enumerate(images) for _ in image.boxes], device=self.device)
        each = max(1, MAX_EVALUATIONS // (1 + max(1, self.method.samples)))
        for part in torch.arange(count, device=self.device).split(each):
            energy = BoxEnergy(self.head, maps, boxes[part], owner[part], labels[part], self.task.head.keep_level)
            target = torch.zeros(len(part), self.target_dim, device=self.device)  # in its own coordinates
            draws = BoxDraws(self.streams, step, rows[part], total, self.shared_noise)
            now = Step(draws, self.proposal, self._heads(energy))
            with torch.autocast(
                self.device.type,
                dtype=torch.bfloat16,
                enabled=self.trainer.mixed_precision and self.device.type == "cuda",
            ):
                loss = self.method.loss(energy, target, now).float().sum()
                learned = self.proposal.loss(energy, target, now) if self.proposal is not None else None
                if learned is not None:
                    loss = loss + learned.float().sum()
            found: dict[str, Tensor] = {}
            count_examples(now, found, self.counts)
            yield loss, found

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
            for part, _ in self._passes(images, rows, total, self.num_steps):  # a step that no training has
                loss += part.detach()
            done += count
        return {"val_loss": torch.where(alive, loss / max(done, 1), torch.nan)}

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
        base, dataset = self.frozen.scored.base, self.frozen.scored.dataset
        record = record_of(self.task, base, dataset.categories)
        write_atomically(run_dir / RECORD, (json.dumps(record, indent=1) + "\n").encode())
        frozen, seed = self.frozen, self.seeds[0]
        if self.world > 1:
            distributed.send_step(seed, distributed.EVALUATE, self.device)
            distributed.share_parameters(list(self.parameters.values()))
        head = self.head.eval()
        args = self.task, frozen.scored, frozen.val, head, seed, run_dir, diverged[0], self.on_stage
        return [scoring.score(*args)]

    @override
    def assist(self) -> None:
        scoring.assist(self.task, self.frozen.scored, self.frozen.val, self.head.eval())


def _of_one_seed(output: Callable[[], Tensor]) -> Tensor:
    """Returns an output without the seed axis: `[1, N, outputs] -> [N, outputs]`."""
    return output().squeeze(0)


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
