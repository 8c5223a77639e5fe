"""The training loop, one for all tasks."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ebmbench.core.batches import Batches
from ebmbench.core.errors import UserError
from ebmbench.core.rng import Streams
from ebmbench.core.step import no_counts
from ebmbench.engine.cuda import CapturedSteps
from ebmbench.system import checkpoint
from ebmbench.system.interrupt import StopFlag
from ebmbench.tasks.base import Learner

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Progress:
    """How far training is; with the parameters, all that a checkpoint holds.

    Attributes:
        diverged_step: step at which a seed's loss or gradient turned non-finite, `[S]`; -1 while it has not.
        loss_sum, grad_norm_sum: sums over the steps of the history's row under way, `[S]` float64.
        counts: by counter of the method, the examples so far, `[S]`.
        count_steps: by counter, the step at which it first counted one, `[S]`; -1 while it has not.
    """

    step: int
    diverged_step: Tensor
    loss_sum: Tensor
    grad_norm_sum: Tensor
    counts: dict[str, Tensor] = field(default_factory=dict)
    count_steps: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def alive(self) -> Tensor:
        """The seeds that still train, `[S]`."""
        return self.diverged_step < 0


@dataclass
class Callbacks:
    """What the loop tells the world. Rows are one per seed: step, epoch, seed, loss, grad_norm, seconds and more."""

    on_epoch: Callable[[Progress, list[dict[str, Any]]], None] = lambda progress, rows: None
    on_step: Callable[[Progress], None] = lambda progress: None


@dataclass
class CheckpointPlan:
    """Where and how often the state is saved, and what it is stamped with."""

    path: Path
    every_seconds: float
    stamp: dict[str, Any] = field(default_factory=dict)


class Training:
    """A learner, its mini-batches, and how far it is."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        # What is not captured looks its items up on the host, which must not wait for a device to say which they are.
        streams = learner.streams if learner.capturable else Streams(learner.seeds, stacked=learner.streams.stacked)
        self.batches = Batches(streams, learner.num_items, learner.batch_size)
        device, num_seeds = learner.device, len(learner.seeds)
        zeros = torch.zeros(num_seeds, dtype=torch.float64, device=device)
        never = torch.full((num_seeds,), -1, dtype=torch.int64, device=device)
        counters = learner.method.counters
        self.progress = Progress(
            step=0,
            diverged_step=never,
            loss_sum=zeros,
            grad_norm_sum=zeros.clone(),
            counts=no_counts(counters, num_seeds, device),
            count_steps={name: never.clone() for name in counters},
        )

    def losses(self, step: int) -> Tensor:
        """Returns the mean loss of each seed in a step, `[S]`."""
        return self.learner.losses(self.batches.at(step), step)

    def step(self) -> None:
        """Makes one optimiser step."""
        self.update(self.losses(self.progress.step), self.progress.step)
        if self.learner.scheduler is not None:
            self.learner.scheduler.step()
        self.progress.step += 1

    def stepper(self) -> Callable[[], None]:
        """Returns what makes one step when called: a captured CUDA graph where the learner is on a GPU."""
        if not self.learner.capturable or self.learner.device.type != "cuda":
            return self.step
        captured = CapturedSteps(self.learner, self.batches, self.update)

        def advance() -> None:
            captured(self.progress.step)
            self.progress.step += 1

        return advance

    def update(self, losses: Tensor, step: int | Tensor) -> None:
        """Changes what a step's losses `[S]` change, without a host synchronisation."""
        learner, progress = self.learner, self.progress
        parameters = list(learner.parameters.values())
        learner.optimizer.zero_grad(set_to_none=False)
        losses.sum().backward()
        with torch.no_grad():
            num_seeds = len(learner.seeds)
            grads = [p.grad for p in parameters if p.grad is not None]
            grad_norm = torch.stack([g.reshape(num_seeds, -1).double().square().sum(1) for g in grads]).sum(0).sqrt()
            # A gradient whose square overflows is as good as infinite: Adam's second moment would stop the parameter.
            largest = math.sqrt(torch.finfo(parameters[0].dtype).max)
            finite = losses.isfinite() & (grad_norm < largest)
            _note(progress.diverged_step, progress.alive & ~finite, step)
            alive = progress.alive
            for grad in grads:
                grad.copy_(torch.where(_like(alive, grad), grad, 0))
            before = [p.clone() for p in parameters]
        learner.optimizer.step()
        with torch.no_grad():
            # Momentum would go on moving a stopped seed.
            for parameter, old in zip(parameters, before, strict=True):
                new = parameter
                if learner.step_share is not None:
                    new = old.lerp(parameter, _like(learner.step_share, parameter))
                parameter.copy_(torch.where(_like(alive, parameter), new, old))
            learner.after_update(alive)
            # What a stopped seed computes is no part of any mean: its history is nan from where it stopped.
            progress.loss_sum += torch.where(alive, losses.detach().double(), torch.nan)
            progress.grad_norm_sum += torch.where(alive, grad_norm, torch.nan)
            for name, count in learner.counts.items():
                counted = torch.where(alive, count, 0)
                _note(progress.count_steps[name], (progress.counts[name] == 0) & (counted > 0), step)
                progress.counts[name] += counted

    @property
    def ends_row(self) -> bool:
        """Whether a row of the history ends here."""
        step = self.progress.step
        return step % self.learner.steps_per_row == 0 or step == self.learner.num_steps

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train; what lies on the device is asked at the end of a row alone."""
        if self.progress.step >= self.learner.num_steps:
            return True
        if self.progress.step == 0 or not self.ends_row:
            return False
        return not bool(self.progress.alive.any()) or self.learner.is_finished()

    def row(self) -> list[dict[str, Any]]:
        """Returns the history's row that ends here, for each seed, and starts the next one."""
        progress, learner = self.progress, self.learner
        steps = (progress.step - 1) % learner.steps_per_row + 1
        columns: dict[str, list[Any]] = {
            "loss": (progress.loss_sum / steps).tolist(),
            "grad_norm": (progress.grad_norm_sum / steps).tolist(),
        }
        progress.loss_sum.zero_()
        progress.grad_norm_sum.zero_()
        columns["seconds"] = [round(progress.seconds, 3)] * len(learner.seeds)
        columns |= {name: values.tolist() for name, values in learner.end_epoch(progress.alive).items()}
        columns |= {name: count.tolist() for name, count in progress.counts.items()}
        return [
            {
                "step": progress.step,
                "epoch": (progress.step - 1) // self.batches.steps_per_epoch + 1,
                "seed": seed,
                **{name: values[index] for name, values in columns.items()},
            }
            for index, seed in enumerate(learner.seeds)
        ]


def train(
    learner: Learner,
    plan: CheckpointPlan | None = None,
    callbacks: Callbacks | None = None,
    stop: StopFlag | None = None,
) -> Progress:
    """Trains to the last step, from the checkpoint where there is one.

    A seed whose loss or gradient turns non-finite keeps the parameters it had and trains no further; the others are not
    touched by it.

    Raises:
        Interrupted: a signal came; a checkpoint was saved.
    """
    callbacks = callbacks or Callbacks()
    stop = stop or StopFlag()
    training = Training(learner)
    progress = training.progress
    started = time.monotonic()
    losses = learner.fit()
    if losses is not None:
        return _fitted(training, callbacks, losses, time.monotonic() - started)
    resume(training, plan)
    started = time.monotonic() - progress.seconds
    saved = time.monotonic()
    advance = training.stepper()
    with stop.deferred():
        while not training.is_over:
            advance()
            progress.seconds = time.monotonic() - started
            if training.ends_row:
                callbacks.on_epoch(progress, training.row())
            callbacks.on_step(progress)
            if plan and (stop.signum is not None or time.monotonic() - saved >= plan.every_seconds):
                save(training, plan)
                saved = time.monotonic()
            stop.check()
        if plan:
            save(training, plan)
        learner.end_training()
    return progress


def _fitted(training: Training, callbacks: Callbacks, losses: Tensor, seconds: float) -> Progress:
    """Records the training of a learner that trained itself. It is one step: what interrupts it starts it again."""
    learner, progress = training.learner, training.progress
    progress.diverged_step.masked_fill_(~losses.isfinite(), 0)
    progress.loss_sum += losses
    progress.step, progress.seconds = learner.num_steps, seconds
    callbacks.on_epoch(progress, training.row())
    callbacks.on_step(progress)
    learner.end_training()
    return progress


def _note(steps: Tensor, where: Tensor, step: int | Tensor) -> None:
    """Writes the step's number into some places of `steps`; `masked_fill_` would read it, and wait for the device."""
    steps.copy_(torch.where(where, step, steps))


def _like(mask: Tensor, parameter: Tensor) -> Tensor:
    """The seeds' mask `[S]`, to broadcast over a parameter whose first axis is the seeds' (any axis if S = 1)."""
    return mask.view(-1, *[1] * (parameter.dim() - 1))


# ---------------------------------------------------------------------------------------------------- checkpoints


_SUMS = ("diverged_step", "loss_sum", "grad_norm_sum")
_COUNTS = ("counts", "count_steps")


def save(training: Training, plan: CheckpointPlan) -> None:
    """Saves all that training needs to go on."""
    learner, progress = training.learner, training.progress
    state = {
        "run_hash": None,
        **plan.stamp,
        "seeds": list(learner.seeds),
        "parameters": {name: p.detach().cpu().clone() for name, p in learner.parameters.items()},
        "state": {name: tensor.cpu().clone() for name, tensor in learner.state.items()},
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict() if learner.scheduler else None,
        "step": progress.step,
        **{name: getattr(progress, name).cpu() for name in _SUMS},
        **{name: {key: value.cpu() for key, value in getattr(progress, name).items()} for name in _COUNTS},
        "seconds": progress.seconds,
    }
    checkpoint.save(plan.path, state)


def read_checkpoint(path: Path, run_hash: str | None, seeds: Sequence[int]) -> dict[str, Any] | None:
    """Returns the checkpoint at `path`, None where there is none that can be used; says whatever is wrong with it.

    Raises:
        UserError: it is another run's.
    """
    state = checkpoint.load(path)
    if state is None:
        return None
    if state["run_hash"] != run_hash:
        raise UserError(f"{path} belongs to another run ({state['run_hash']}, and this is {run_hash}); move it away")
    if state["seeds"] != list(seeds):
        warnings.warn(f"{path} holds other seeds than are trained together now; it is not used", stacklevel=2)
        return None
    return state


def resume(training: Training, plan: CheckpointPlan | None) -> None:
    """Takes a training from its checkpoint, where there is one that can be used."""
    learner, progress = training.learner, training.progress
    state = read_checkpoint(plan.path, plan.stamp.get("run_hash"), learner.seeds) if plan else None
    if plan is None or state is None:
        return
    changed = checkpoint.changes(state, plan.stamp)
    if changed:
        text = f"goes on with {changed}: the result agrees with an uninterrupted run's within rounding only"
        warnings.warn(text, stacklevel=2)
    with torch.no_grad():
        for name, parameter in learner.parameters.items():
            parameter.copy_(state["parameters"][name])
    for name, tensor in learner.state.items():
        tensor.copy_(state["state"][name])
    learner.optimizer.load_state_dict(state["optimizer"])
    if learner.scheduler:
        learner.scheduler.load_state_dict(state["scheduler"])
    for name in _SUMS:
        setattr(progress, name, state[name].to(learner.device))
    for name in _COUNTS:
        setattr(progress, name, {key: value.to(learner.device) for key, value in state[name].items()})
    progress.step, progress.seconds = state["step"], state["seconds"]
