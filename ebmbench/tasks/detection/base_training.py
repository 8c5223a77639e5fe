"""Trains a base detector from scratch; one that was stopped goes on from its checkpoint."""

from __future__ import annotations

import copy
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebmbench.core.errors import UserError, counted
from ebmbench.system import checkpoint
from ebmbench.system.interrupt import StopFlag
from ebmbench.tasks.detection.architectures import architecture
from ebmbench.tasks.detection.base_sharing import Batch, Part, Worker, follow, leading
from ebmbench.tasks.detection.config import BaseConfig, DetectionSettings
from ebmbench.tasks.detection.data import Dataset
from ebmbench.tasks.detection.detector import BaseDetector
from ebmbench.tasks.detection.evaluation import Detection, evaluate
from ebmbench.tasks.detection.nms import base_detections

CHECKPOINT_SECONDS = 60.0
"""How much of the training of a base detector a kill may lose."""
FIRST_STEPS = (5, 25)
"""Between these steps time is taken, to say about how long all of it takes: the first ones are slower."""
CHECKS = 10
"""How often AP is measured on the validation split, where that may end the training."""
CHECKED_IMAGES = 64
"""The first images of the validation split on which AP is measured then."""
SHOWN_STEPS = 50
"""Steps between two lines that say how far it is."""


def train_base(
    config: DetectionSettings,
    dataset: Dataset,
    device: torch.device | str,
    saved: Path | None = None,
    val: Dataset | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> tuple[nn.Module, float]:
    """Trains a detector: AdamW, linear warm-up, cosine to zero, horizontal flips.

    Deterministic for the same settings, number of threads and device, also when it was stopped in between. Several
    processes (torchrun) share it, rank 0 being here and the others in `assist_base`.

    Args:
        saved: the checkpoint that it goes on from, and that it writes; the caller deletes it.
        val: images on which AP is measured now and then, for early stopping (`task.base.patience`).
        start: weights to start from, by parameter; those that are not here, or of another shape, are new.

    Returns:
        The detector, and the seconds that its training took.

    Raises:
        Interrupted: a signal came; a checkpoint was saved.
        UserError: the loss is not finite.
    """
    base, part = config.base, Part.here(config.base.batch_size)
    _say(
        f"Training the base detector ({base.architecture}, {counted(base.iterations, 'iteration')} of "
        f"{counted(base.batch_size, 'image')}); "
        "it is stored and shared by all methods and seeds."
    )
    where = torch.device(device)
    with seeded(base.seed), StopFlag() as stop, stop.deferred(), leading(part, where) as tell:
        worker = worker_of(config, dataset, where, part)
        model = worker.model
        if start is not None:
            start_from(model, start, base)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=base.learning_rate, weight_decay=base.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / max(base.warmup, 1), 0.5 + 0.5 * math.cos(math.pi * step / base.iterations)),
        )
        training = _Training(model, optimizer, schedule, where)
        if saved is not None:
            training.restore(saved)
        started, last_save = time.perf_counter() - training.seconds, time.monotonic()
        for step in range(training.step, base.iterations):
            batch = training.next_batch(len(dataset.image_ids) + len(dataset.negatives), base)
            tell(worker, batch)
            loss = worker.gradient(batch)
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            training.running += float(loss)
            if not math.isfinite(training.running):
                if saved is not None:
                    checkpoint.remove(saved)  # other settings have another key: nothing goes on from it
                raise UserError(
                    f"Training the base detector diverged at step {step}: lower task.base.learning_rate "
                    f"({base.learning_rate})."
                )
            training.step, training.seconds = step + 1, time.perf_counter() - started
            training.report(base.iterations)
            if val is not None and training.step * CHECKS // base.iterations > step * CHECKS // base.iterations:
                ap = validation_ap(config, model, val, dataset)
                if training.note(ap, base):
                    break
            due = time.monotonic() - last_save >= CHECKPOINT_SECONDS or step + 1 == base.iterations
            if saved is not None and (due or stop.signum is not None):
                training.save(saved)
                last_save = time.monotonic()
            stop.check()
        if training.best is not None:
            model.load_state_dict(training.best)
    stop.check()  # a signal since the last step: it was taken from who waits for it outside
    return model, training.seconds


def worker_of(config: DetectionSettings, dataset: Dataset, device: torch.device, part: Part) -> Worker:
    """Returns what computes a process's part of the gradients of a new detector."""
    base = config.base
    model = architecture(base.architecture).build(len(dataset.categories) + 1, *config.data.sides)
    return Worker(model, dataset, device, part, base.batch_size, base.augment)


@torch.no_grad()
def validation_ap(
    config: DetectionSettings, model: nn.Module, val: Dataset, train: Dataset, most: int | None = CHECKED_IMAGES
) -> float:
    """Returns the AP of a detector in training on the first images of a split, in percent; on all of them for None."""
    kind = architecture(config.base.architecture)
    detector = BaseDetector(kind, copy.deepcopy(model), list(train.categories))
    found: list[Detection] = []
    looked: list[int] = []
    for index in range(len(val.image_ids[:most])):
        example = val.load(index)
        if example is None:
            continue
        looked.append(val.image_ids[index])
        ((features, candidates),) = detector.candidates([example.image], config.inference.score_threshold)
        boxes, scores, labels = base_detections(candidates, config.inference)
        scale = boxes.new_tensor([example.image.shape[i] / features.size[i - 1] for i in (2, 1)]).repeat(2)
        corners = boxes * scale
        sides = torch.cat((corners[:, :2], corners[:, 2:] - corners[:, :2]), 1)
        for box, score, label in zip(sides.tolist(), scores.tolist(), labels.tolist(), strict=True):
            category = detector.category_ids[label - 1]
            found.append({"image_id": looked[-1], "category_id": category, "bbox": box, "score": score})
    return evaluate(val.ground_truth(), found, looked, by_size=False).metrics["ap"] if looked else math.nan


@dataclass
class _Training:
    """The training of a base detector between two steps: all that the rest of it depends on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    device: torch.device
    step: int = 0
    seconds: float = 0.0
    running: float = 0.0  # sum of the losses since they were last shown
    order: list[int] = field(default_factory=list)  # what is left of the epoch's images, the next one last
    best: dict[str, Tensor] | None = None  # the weights with the highest AP so far
    best_ap: float = -math.inf
    waited: int = 0  # checks since then
    started: float = 0.0  # seconds when the forecast of the time began

    def next_batch(self, count: int, base: BaseConfig) -> Batch:
        """Returns the next images of an endless row of permutations of `count`."""
        indices, flips, seeds = [], [], []
        for _ in range(base.batch_size):
            if not self.order:
                self.order = torch.randperm(count).tolist()[::-1]
            indices.append(self.order.pop())
            flips.append(bool(torch.rand(()) < 0.5) and base.flips)
            seeds.append(int(torch.randint(2**31, ())) if base.augment != "none" else 0)
        return Batch(indices, flips, seeds, self.order[: -base.batch_size - 1 : -1])

    def note(self, ap: float, base: BaseConfig) -> bool:
        """Notes an AP on the validation split, and keeps the weights if it is the highest; returns whether to end."""
        self.waited += self.best_ap > 0  # before it finds anything, nothing is waited for
        if ap > self.best_ap or self.best is None:
            self.best_ap, self.waited = ap, 0
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        _say(f"  base detector {self.step}/{base.iterations}  validation AP {ap:.1f}, the highest {self.best_ap:.1f}")
        return self.waited >= (base.patience or math.inf)

    def report(self, iterations: int) -> None:
        """Says after the first steps how long all of it takes; now and then how far it is, with the mean loss since."""
        each = self.seconds / self.step
        if self.step == FIRST_STEPS[0]:
            self.started = self.seconds
        if self.step == FIRST_STEPS[1] < iterations:
            minutes = (self.seconds - self.started) / (self.step - FIRST_STEPS[0]) * iterations / 60
            _say(f"  about {minutes:.1f} minutes for the base detector")
        if self.step % SHOWN_STEPS == 0 or self.step == iterations:
            loss = self.running / ((self.step - 1) % SHOWN_STEPS + 1)
            _say(
                f"  base detector {self.step}/{iterations}  loss {loss:.3f}  "
                f"{1 / each:.1f} steps/s  {each * (iterations - self.step):.0f} s left"
            )
            self.running = 0.0

    def _made_on(self) -> dict[str, Any]:
        """What another result than an uninterrupted training's can come from."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {"device": name, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "running": self.running,
            "order": torch.tensor(self.order, dtype=torch.int64),
            "best": self.best,
            "best_ap": self.best_ap,
            "waited": self.waited,
            # The order, the flips and torchvision's sampling of anchors and proposals draw from these.
            "generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "made_on": self._made_on(),
        }
        checkpoint.save(path, state)

    def restore(self, path: Path) -> None:
        state = checkpoint.load(path)
        if state is None:
            return
        changed = checkpoint.changes(state["made_on"], self._made_on())
        if changed:
            text = f"the base detector's training goes on with {changed}"
            warnings.warn(f"{text}: the result is not bit for bit an uninterrupted one's", stacklevel=2)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.seconds, self.running = state["step"], state["seconds"], state["running"]
        self.order = state["order"].tolist()
        self.best, self.best_ap, self.waited = state["best"], state["best_ap"], state["waited"]
        torch.set_rng_state(state["generator"])
        if self.device.type == "cuda" and state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)
        _say(f"  base detector: goes on from step {self.step}")


def start_from(model: nn.Module, state: Mapping[str, Tensor], base: BaseConfig) -> None:
    """Starts a detector from weights that fit it; the predictor stays new where the classes differ.

    Raises:
        UserError: hardly any of them fits.
    """
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    fitting = {name: value for name, value in state.items() if shapes.get(name) == value.shape}
    backbone = {name for name in shapes if name.startswith("backbone.body.") or "backbone.stem" in name}
    if not backbone <= {*fitting, *(name for name in shapes if name.endswith("num_batches_tracked"))}:
        raise UserError(
            f"task.base.start={base.start} does not fit task.base.architecture={base.architecture}: of the backbone's "
            f"{len(backbone)} tensors {len(backbone & set(fitting))} have the names and shapes of its own"
        )
    model.load_state_dict(fitting, strict=False)
    new = sorted({name.rpartition(".")[0] for name in shapes} - {name.rpartition(".")[0] for name in fitting})
    _say(f"  starts from {base.start}" + (f"; new: {', '.join(new[:4])}{' …' if len(new) > 4 else ''}" if new else ""))


def assist_base(config: DetectionSettings, dataset: Dataset, device: torch.device) -> None:
    """Does the part of a process that is not the first in the training of a base detector."""
    with seeded(config.base.seed):
        follow(worker_of(config, dataset, device, Part.here(config.base.batch_size)))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators, from which torchvision's sampling draws, and restores them afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
