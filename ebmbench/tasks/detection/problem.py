"""Object detection as a problem to train: the head of one seed on frozen features, and how it is scored."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd import Function

from ebmbench.config import RunConfig
from ebmbench.files import write_atomically
from ebmbench.interrupt import StopFlag
from ebmbench.methods import KLDIS, Method
from ebmbench.rng import Draws, Streams
from ebmbench.tasks.detection import distributed, scoring
from ebmbench.tasks.detection.base import base_key, load_base
from ebmbench.tasks.detection.config import DetectionTask, DetectionTrainer
from ebmbench.tasks.detection.data import open_split
from ebmbench.tasks.detection.features import FeatureStore, ImageFeatures, pyramid
from ebmbench.tasks.detection.figures import figures
from ebmbench.tasks.detection.head import BoxEnergy, EnergyHead

__all__ = ["TARGET_DIM", "DetectionProblem", "build", "figures", "finish", "follow", "split"]

TARGET_DIM = 4
HISTORY_STEPS = 50
"""Steps that a row of the training history stands for: an epoch of COCO would be too long."""
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

    def uniform(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self._own(super().uniform(name, self._whole(shape), dtype))

    def normal(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self._own(super().normal(name, self._whole(shape), dtype))

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


class DetectionProblem:
    """Implements `train.Problem` for one seed.

    Image order, flips and noise are functions of the step: they come from the seed's streams, so that all methods see
    the same images in the same order.
    """

    def __init__(
        self, config: RunConfig, frozen: Frozen, method: Method, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        assert isinstance(config.task, DetectionTask) and isinstance(config.trainer, DetectionTrainer)
        self.task, self.trainer, self.method, self.frozen = config.task, config.trainer, method, frozen
        self.seeds: tuple[int, ...] = (seed,)
        self.device = torch.device(device)
        self.streams = Streams(self.seeds, device, stacked=False)
        self.rank, self.world = distributed.world()
        self.num_steps = config.trainer.iterations
        self.steps_per_epoch = min(HISTORY_STEPS, self.num_steps)
        self.shared_noise = bool(getattr(getattr(method, "proposal", None), "shared", False))
        self.underflows = torch.zeros(1, dtype=torch.int64, device=device) if isinstance(method, KLDIS) else None
        self._order: tuple[int, list[int]] = (-1, [])
        dataset = frozen.train.dataset
        self.num_images = len(dataset.image_ids)
        self.batch_size = min(config.trainer.batch_size, self.num_images)
        self.num_boxes = frozen.train.num_boxes()
        self.num_examples = sum(self.num_boxes[i] for step in range(self.num_steps) for i in self.batch(step))

        base = frozen.train.base
        self.head = EnergyHead.start(
            base.hidden_layers,
            len(base.category_ids),
            config.task.head.activation,
            config.task.head.from_base,
            self.streams.at(0),
        )
        self.parameters: dict[str, Tensor] = dict(self.head.named_parameters())
        self.optimizer = _optimizer(self.head, config.trainer)
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, _schedule(config.trainer)
        )

    def batch(self, step: int) -> list[int]:
        """Places of the images of a step: every epoch is a permutation, and its last batch may be short."""
        epoch_steps = math.ceil(self.num_images / self.batch_size)
        epoch, place = divmod(step, epoch_steps)
        if self._order[0] != epoch:
            self._order = (epoch, self.streams.at(epoch).permutation("order", self.num_images).tolist())
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def losses(self, step: int) -> Tensor:
        parameters = list(self.parameters.values())
        if self.world > 1:
            distributed.send_step(self.seeds[0], step, self.device)
            distributed.share_parameters(parameters)
        sums = self.summed(step)
        if self.world > 1:
            sums = distributed.sum_on_leader(sums)
        count = sums[1].clamp(min=1)
        if self.underflows is not None:
            self.underflows = sums[2:3].long()
        gradient = sums[3:] / count
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

    def summed(self, step: int) -> Tensor:
        """This process's part of a step, in one vector: summed loss, boxes, underflows, gradient of the sum."""
        parameters = list(self.parameters.values())
        images, rows, total = self._examples(step)
        loss_sum, underflows = torch.zeros(2, device=self.device)
        flat = torch.zeros(sum(p.numel() for p in parameters), device=self.device)
        count = sum(len(image.boxes) for image in images)
        if count:
            maps = pyramid(images, self.frozen.train.base.strides)
            boxes = torch.cat([image.boxes for image in images])
            labels = torch.cat([image.labels for image in images])
            owner = torch.repeat_interleave(
                torch.arange(len(images)), torch.tensor([len(image.boxes) for image in images])
            ).to(self.device)
            each = max(1, MAX_EVALUATIONS // (1 + getattr(self.method, "num_samples", 1)))
            for part in torch.arange(count, device=self.device).split(each):
                energy = BoxEnergy(self.head, maps, boxes[part], owner[part], labels[part], self.task.head.keep_level)
                target = torch.zeros(len(part), TARGET_DIM, device=self.device)  # in its own coordinates
                own = BoxDraws(self.streams, step, rows[part], total, self.shared_noise)
                with torch.autocast(
                    self.device.type,
                    dtype=torch.bfloat16,
                    enabled=self.trainer.mixed_precision and self.device.type == "cuda",
                ):
                    if isinstance(self.method, KLDIS):
                        losses, empty = self.method.loss_and_underflows(energy, target, own)
                        underflows += empty.sum()
                    else:
                        losses = self.method.loss(energy, target, own)
                    loss = losses.float().sum()
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                loss_sum += loss.detach()
                flat += torch.cat(
                    [
                        (torch.zeros_like(p) if g is None else g).flatten()
                        for g, p in zip(gradients, parameters, strict=True)
                    ]
                )
        return torch.cat((loss_sum[None], torch.tensor([float(count)], device=self.device), underflows[None], flat))

    def _examples(self, step: int) -> tuple[list[ImageFeatures], Tensor, int]:
        """This process's images, and the places of their boxes among all of the step's."""
        batch = self.batch(step)
        flips = (self.streams.at(step).uniform("flip", (len(batch),)) < 0.5).tolist()
        images: list[ImageFeatures] = []
        rows: list[int] = []
        start = 0
        for place, (index, flipped) in enumerate(zip(batch, flips, strict=True)):
            if place % self.world == self.rank:
                image = self.frozen.train.load(index, flipped)
                if image is not None:
                    images.append(image)
                    rows += range(start, start + len(image.boxes))
            start += self.num_boxes[index]
        return images, torch.tensor(rows, dtype=torch.int64, device=self.device), start

    def evaluate(self, run_dir: Path, diverged_step: Tensor) -> list[dict[str, Any]]:
        """The row of metrics of this seed; writes detections, scores by step and energies along the coordinates."""
        stopped = int(diverged_step[0])
        row = scoring.score(self.task, self.frozen.scored, self.head.eval(), self.seeds[0], run_dir)
        has_nll = self.task.inference.nll_boxes and math.isfinite(row["ap"])  # else there may be no true box to score
        if stopped < 0 and has_nll and not math.isfinite(row["box_nll"]):  # finite weights whose energies are not
            stopped = self.num_steps
        if stopped >= 0:  # what a stopped seed scores is no result
            row = {name: value if name.startswith("base_") else math.nan for name, value in row.items()}
        good = stopped < 0 and math.isfinite(row["ap"])
        return [
            {
                "seed": self.seeds[0],
                **row,
                "diverged": int(stopped >= 0),
                "diverged_step": stopped if stopped >= 0 else "",
                "trusted": int(good),
            }
        ]


def _optimizer(head: nn.Module, trainer: DetectionTrainer) -> torch.optim.Optimizer:
    """As published, biases learn at twice the rate and do not decay."""
    named = list(head.named_parameters())
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


def split(config: RunConfig) -> list[tuple[int, ...]]:
    """Seeds train one after the other, on the same frozen features."""
    return [(seed,) for seed in config.seeds]


@lru_cache(maxsize=1)
def _frozen(task_json: str, results_dir: str, device: torch.device) -> Frozen:
    task = DetectionTask.model_validate(json.loads(task_json), strict=False)
    base = load_base(task, Path(results_dir), device)
    folder = Path(results_dir) / "cache" / base_key(task)
    stores = []
    for name in ("train", task.data.eval_split):
        dataset = open_split(task.data, name)
        unknown = [category for category in dataset.categories if category not in base.category_ids]
        if unknown:
            base.labels(torch.tensor(unknown))  # says which one
        stores.append(FeatureStore(base, dataset, folder, task.base.feature_cache_mb))
    return Frozen(*stores)


def build(config: RunConfig, seeds: Sequence[int], device: torch.device) -> DetectionProblem:
    """The problem of one seed; the base detector is loaded, or trained, before the first one."""
    assert isinstance(config.task, DetectionTask)
    device = distributed.device_of_rank(device)
    frozen = _frozen(config.task.model_dump_json(), config.launch.results_dir, device)
    return DetectionProblem(config, frozen, config.build_method(), seeds[0], device)


def follow(config: RunConfig, device: torch.device) -> None:
    """What every process but the first does under torchrun: its share of each step, until rank 0 is done.

    A signal to stop reaches all; rank 0 finishes its step, for which it needs the others, and lets them go.

    Raises:
        Interrupted: a signal came, and rank 0 is done.
    """
    device = distributed.device_of_rank(device)
    distributed.join(device)
    problem: DetectionProblem | None = None
    with StopFlag() as stop, stop.deferred():
        while (order := distributed.receive_step(device)) is not None:
            seed, step = order
            if problem is None or problem.seeds != (seed,):
                problem = build(config, (seed,), device)
            distributed.share_parameters(list(problem.parameters.values()))
            distributed.sum_on_leader(problem.summed(step))
        stop.check()


def finish(config: RunConfig, run_dir: Path) -> None:
    """Puts together what the seeds wrote."""
    for name in ("refinement", "stages"):
        parts = [run_dir / f"{name}.{seed}.csv" for seed in config.seeds]
        if all(path.exists() for path in parts):
            table = pd.concat([pd.read_csv(path) for path in parts])
            write_atomically(run_dir / f"{name}.csv", table.to_csv(index=False).encode())
            for path in parts:
                path.unlink()
