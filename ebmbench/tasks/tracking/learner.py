"""Tracking in training: the network of one seed on pairs of frames, a template and a search crop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from ebmbench.boxes.training import BoxLoss, Sums
from ebmbench.core.own_networks import OwnNetworks, seeded_module
from ebmbench.core.rng import Draws, Streams
from ebmbench.core.step import no_counts
from ebmbench.methods.base import own_networks
from ebmbench.tasks.base import Learner, Setup
from ebmbench.tasks.tracking.config import TrackingTrainer
from ebmbench.tasks.tracking.crops import Crop
from ebmbench.tasks.tracking.evaluation import evaluate
from ebmbench.tasks.tracking.model import TrackingNet
from ebmbench.tasks.tracking.scores import moved
from ebmbench.tasks.tracking.videos import Video

if TYPE_CHECKING:
    from ebmbench.tasks.tracking.task import TrackingTask

HISTORY_STEPS = 50
"""Steps that a row of the training history stands for."""
GREY, GAIN, OFFSET = 0.2, 0.15, 0.05
"""Of the training crops: the share that is grey, and the spread of each colour's gain and of the brightness."""


@dataclass(frozen=True)
class _Pairs:
    """Crops of a mini-batch, `[B, 3, side, side]`, and the true boxes in them, `[B, 4]`."""

    templates: Tensor
    template_boxes: Tensor
    searches: Tensor
    search_boxes: Tensor


class TrackingLearner(Learner):
    """The network of one seed. Pairs, crops and noise are functions of the step, the same for all methods."""

    target_dim = 4

    def __init__(self, task: TrackingTask, setup: Setup, seed: int, device: torch.device) -> None:
        super().__init__()
        self.task, self.setup = task, setup
        self.method = setup.method
        self.trainer: TrackingTrainer = setup.trainer
        self.seeds, self.device = (seed,), device
        self.streams = Streams(self.seeds, device, stacked=False)
        self.on_host = Streams(self.seeds, stacked=False)
        self.train_videos = task.data.train()
        self.val_videos = [video for videos in task.data.val().values() for video in videos]
        self.num_steps = self.trainer.iterations
        self.steps_per_row = min(HISTORY_STEPS, self.num_steps)
        self.num_items = len(self.train_videos)
        self.batch_size = min(self.trainer.batch_size, self.num_items)
        whole, rest = divmod(self.num_steps, math.ceil(self.num_items / self.batch_size))
        self.num_examples = whole * self.num_items + rest * self.batch_size
        self.counts = no_counts(self.method.counters, 1, device)
        net = seeded_module(lambda: TrackingNet(task.model), seed).to(device)
        assert isinstance(net, TrackingNet)
        self.net = net
        build = partial(own_networks, self.method, setup.proposal, task.model.hidden, self.target_dim)
        self.own = OwnNetworks(build, self.seeds, device, torch.float32)
        self.box_loss = BoxLoss(self.method, setup.proposal, self.own, self.streams)
        self.parameters = {**self.net.trained(), **self.own.parameters}
        weights = list(self.parameters.values())
        rate, decay = self.trainer.learning_rate, self.trainer.weight_decay
        self.optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, partial(_rate, self.trainer))

    @override
    def losses(self, batch: Tensor, step: int | Tensor) -> Tensor:
        assert isinstance(step, int)
        parameters = list(self.parameters.values())
        videos = [self.train_videos[index] for index in batch[0].tolist()]
        loss, counts = self._loss(videos, step)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        self.counts = {name: counts[name].view(1) for name in self.counts}
        count = torch.tensor(float(len(videos)), device=self.device)
        sums = Sums(loss.detach(), count, counts, torch.cat([gradient.flatten() for gradient in gradients]))
        return sums.mean_loss(parameters, self.trainer.gradient_clip)

    def _loss(self, videos: Sequence[Video], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the summed loss of a pair of each video, and what the method counted."""
        pairs = self._pairs(videos, self.on_host.at(step))
        rows = torch.arange(len(videos), device=self.device)
        vectors = self.net.look(pairs.templates, pairs.template_boxes)
        energy = self.net.energy(self.net.pyramid(pairs.searches), pairs.search_boxes, rows, vectors)
        loss = torch.zeros((), device=self.device)
        counts = {name: torch.zeros((), dtype=torch.int64, device=self.device) for name in self.method.counters}
        for part, counted in self.box_loss.passes(energy, rows, len(rows), step):
            loss = loss + part
            counts = {name: number + counted.get(name, 0) for name, number in counts.items()}
        return loss, counts

    def _pairs(self, videos: Sequence[Video], draws: Draws) -> _Pairs:
        """Returns two different frames of each video, as crops."""
        count = len(videos)
        frames = draws.uniform("frames", (count, 2)).double().numpy()
        flips = draws.uniform("flip", (count,)).numpy() < 0.5
        noise = draws.normal("crops", (count, 2, 4)).double().numpy()
        light = draws.normal("light", (count, 2, 4))
        grey = draws.uniform("grey", (count, 2)).numpy() < GREY
        scale = np.array([self.trainer.noise_centre] * 2 + [self.trainer.noise_size] * 2)
        images: tuple[list[Tensor], list[Tensor]] = ([], [])
        boxes: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for row, video in enumerate(videos):
            first = int(frames[row, 0] * len(video))
            second = (first + 1 + int(frames[row, 1] * (len(video) - 1))) % len(video)
            for part, place in enumerate((first, second)):
                frame, box = video.made[place], video.boxes[place]
                if flips[row]:
                    width = frame.shape[1]
                    frame, box = frame[:, ::-1], np.array([width - box[2], box[1], width - box[0], box[3]])
                # The template's crop is off by little: its box is known.
                around = moved(box, noise[row, part] * scale * (0.3, 1.0)[part])
                crop = Crop.around(frame, around, self.task.model.crop, self.task.model.context)
                image = crop.image.mean(0, keepdim=True).expand(3, -1, -1) if grey[row, part] else crop.image
                gain, offset = (GAIN * light[row, part, :3]).exp(), OFFSET * light[row, part, 3]
                images[part].append(image * gain.view(3, 1, 1) + offset)
                boxes[part].append(crop.into(box))
        crops = [torch.stack(part).to(self.device) for part in images]
        targets = [torch.tensor(np.stack(part), device=self.device) for part in boxes]
        return _Pairs(crops[0], targets[0], crops[1], targets[1])

    @override
    def end_epoch(self, alive: Tensor) -> dict[str, Tensor]:
        """Returns the mean loss of a pair of each validation video, with the same draws every time."""
        loss, _ = self._loss(self.val_videos, self.num_steps)  # a step that no training has
        return {"val_loss": torch.where(alive, loss.detach() / len(self.val_videos), torch.nan)}

    @override
    def evaluate(self, run_dir: Path, diverged: Sequence[bool]) -> list[dict[str, float]]:
        return [evaluate(self.task, self.setup, self.net.eval(), self.seeds[0], run_dir, self.on_stage)]


def _rate(trainer: TrackingTrainer, step: int) -> float:
    """The factor of the learning rate: linear warm-up, cosine to zero."""
    warm = min(1.0, (step + 1) / trainer.warmup) if trainer.warmup else 1.0
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / trainer.iterations)))
