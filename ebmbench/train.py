"""The training loop, one for all tasks."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ebmbench import checkpoint
from ebmbench.cuda import Capturable, CapturedSteps
from ebmbench.errors import UserError
from ebmbench.interrupt import StopFlag


class Problem(Protocol):
    """What a task gives to be trained: S models side by side, or a single one."""

    seeds: tuple[int, ...]
    num_steps: int
    steps_per_epoch: int
    """History is written once per epoch; a task without epochs gives its logging interval."""
    parameters: dict[str, Tensor]
    """Leaf tensors. Where S > 1 their first axis is the seeds'."""
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    underflows: Tensor | None
    """Examples of the last step whose importance weights all underflowed, `[S]`; None for a method without weights."""

    def losses(self, step: int) -> Tensor:
        """Mean loss per seed `[S]`: a function of the parameters and the step alone."""
        ...


@dataclass
class Progress:
    """How far training is; with the parameters, all that a checkpoint holds."""

    step: int
    diverged_step: Tensor
    """Step at which a seed's loss or gradient turned non-finite, `[S]`; -1 while it has not."""
    loss_sum: Tensor
    grad_norm_sum: Tensor
    """Sums over the steps of the epoch under way, `[S]` float64."""
    underflows: Tensor
    """Examples so far whose importance weights all underflowed, `[S]`."""
    underflow_step: Tensor
    """Step at which that first happened, `[S]`; -1 while it has not."""
    seconds: float = 0.0

    @property
    def alive(self) -> Tensor:
        return self.diverged_step < 0


@dataclass
class Callbacks:
    """What the loop tells the world. Rows are one per seed: step, epoch, seed, loss, grad_norm, seconds, underflows."""

    on_epoch: Callable[[Progress, list[dict[str, Any]]], None] = lambda progress, rows: None
    on_step: Callable[[Progress], None] = lambda progress: None


@dataclass
class CheckpointPlan:
    """Where and how often the state is saved, and what it is stamped with."""

    path: Path
    every_seconds: float
    stamp: dict[str, Any] = field(default_factory=dict)


def train(
    problem: Problem,
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
    progress = _start(problem, plan)
    started = time.monotonic() - progress.seconds
    saved = time.monotonic()
    advance = stepper(problem, progress)
    with stop.deferred():
        while progress.step < problem.num_steps and not _all_diverged(problem, progress):
            advance()
            progress.seconds = time.monotonic() - started
            if _ends_epoch(problem, progress):
                callbacks.on_epoch(progress, _history_rows(problem, progress))
            callbacks.on_step(progress)
            if plan and (stop.signum is not None or time.monotonic() - saved >= plan.every_seconds):
                save(problem, progress, plan)
                saved = time.monotonic()
            stop.check()
        if plan:
            save(problem, progress, plan)
    return progress


def _ends_epoch(problem: Problem, progress: Progress) -> bool:
    return progress.step % problem.steps_per_epoch == 0 or progress.step == problem.num_steps


def _all_diverged(problem: Problem, progress: Progress) -> bool:
    """Whether no seed is left to train; asked at the end of an epoch, whose rows were read from the device anyway."""
    return progress.step > 0 and _ends_epoch(problem, progress) and not bool(progress.alive.any())


def stepper(problem: Problem, progress: Progress) -> Callable[[], None]:
    """What does one step when called: captured in a CUDA graph where the problem offers that and is on a GPU."""
    if isinstance(problem, Capturable) and problem.device.type == "cuda":
        captured = CapturedSteps(problem, lambda losses, step: _update(problem, progress, losses, step))

        def advance() -> None:
            captured(progress.step)
            progress.step += 1

        return advance
    return lambda: _step(problem, progress)


def _step(problem: Problem, progress: Progress) -> None:
    """One optimiser step."""
    _update(problem, progress, problem.losses(progress.step), progress.step)
    if problem.scheduler is not None:
        problem.scheduler.step()
    progress.step += 1


def _update(problem: Problem, progress: Progress, losses: Tensor, step: int | Tensor) -> None:
    """What a step's losses `[S]` change, without a host synchronisation."""
    parameters = list(problem.parameters.values())
    problem.optimizer.zero_grad(set_to_none=False)
    losses.sum().backward()
    with torch.no_grad():
        num_seeds = len(problem.seeds)
        grads = [p.grad for p in parameters if p.grad is not None]
        grad_norm = torch.stack([g.reshape(num_seeds, -1).double().square().sum(1) for g in grads]).sum(0).sqrt()
        # A gradient whose square overflows is as good as infinite: Adam's second moment would stop the parameter.
        largest = math.sqrt(torch.finfo(parameters[0].dtype).max)
        finite = losses.isfinite() & (grad_norm < largest)
        progress.diverged_step.masked_fill_(progress.alive & ~finite, step)
        alive = progress.alive
        for grad in grads:
            grad.copy_(torch.where(_like(alive, grad), grad, 0))
        before = [p.clone() for p in parameters]
    problem.optimizer.step()
    with torch.no_grad():
        # Momentum would go on moving a stopped seed.
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(torch.where(_like(alive, parameter), parameter, old))
        # What a stopped seed computes is no part of any mean: its history is nan from the epoch in which it stopped.
        progress.loss_sum += torch.where(alive, losses.detach().double(), torch.nan)
        progress.grad_norm_sum += torch.where(alive, grad_norm, torch.nan)
        if problem.underflows is not None:
            counted = torch.where(alive, problem.underflows, 0)
            progress.underflow_step.masked_fill_((progress.underflows == 0) & (counted > 0), step)
            progress.underflows += counted


def _like(mask: Tensor, parameter: Tensor) -> Tensor:
    """The seeds' mask `[S]`, to broadcast over a parameter whose first axis is the seeds' (any axis if S = 1)."""
    return mask.view(-1, *[1] * (parameter.dim() - 1))


def _history_rows(problem: Problem, progress: Progress) -> list[dict[str, Any]]:
    """Means over the epoch that ends here, and resets its sums."""
    steps = (progress.step - 1) % problem.steps_per_epoch + 1
    losses = (progress.loss_sum / steps).tolist()
    norms = (progress.grad_norm_sum / steps).tolist()
    progress.loss_sum.zero_()
    progress.grad_norm_sum.zero_()
    epoch = (progress.step - 1) // problem.steps_per_epoch + 1
    return [
        {
            "step": progress.step,
            "epoch": epoch,
            "seed": seed,
            "loss": loss,
            "grad_norm": norm,
            "seconds": round(progress.seconds, 3),
            "underflows": count,
        }
        for seed, loss, norm, count in zip(problem.seeds, losses, norms, progress.underflows.tolist(), strict=True)
    ]


# ---------------------------------------------------------------------------------------------------- checkpoints


_COUNTED = ("diverged_step", "loss_sum", "grad_norm_sum", "underflows", "underflow_step")
"""What of `Progress` is counted on the device."""


def save(problem: Problem, progress: Progress, plan: CheckpointPlan) -> None:
    """Saves all that training needs to go on."""
    state = {
        "run_hash": None,
        **plan.stamp,
        "seeds": list(problem.seeds),
        "parameters": {name: p.detach().cpu().clone() for name, p in problem.parameters.items()},
        "optimizer": problem.optimizer.state_dict(),
        "scheduler": problem.scheduler.state_dict() if problem.scheduler else None,
        "step": progress.step,
        **{name: getattr(progress, name).cpu() for name in _COUNTED},
        "seconds": progress.seconds,
    }
    checkpoint.save(plan.path, state)


def read_checkpoint(path: Path, run_hash: str | None, seeds: Sequence[int]) -> dict[str, Any] | None:
    """The checkpoint at `path`, None where there is none that can be used; whatever is wrong with it is said.

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


def _start(problem: Problem, plan: CheckpointPlan | None) -> Progress:
    device = next(iter(problem.parameters.values())).device
    num_seeds = len(problem.seeds)
    zeros = torch.zeros(num_seeds, dtype=torch.float64, device=device)
    never = torch.full((num_seeds,), -1, dtype=torch.int64, device=device)
    progress = Progress(0, never, zeros, zeros.clone(), zeros.long(), never.clone())
    state = read_checkpoint(plan.path, plan.stamp.get("run_hash"), problem.seeds) if plan else None
    if plan is None or state is None:
        return progress
    changed = checkpoint.changes(state, plan.stamp)
    if changed:
        text = f"goes on with {changed}: the result agrees with an uninterrupted run's within rounding only"
        warnings.warn(text, stacklevel=2)
    with torch.no_grad():
        for name, parameter in problem.parameters.items():
            parameter.copy_(state["parameters"][name])
    problem.optimizer.load_state_dict(state["optimizer"])
    if problem.scheduler:
        problem.scheduler.load_state_dict(state["scheduler"])
    for name in _COUNTED:
        if name in state:  # an older checkpoint may lack one
            setattr(progress, name, state[name].to(device))
    progress.step, progress.seconds = state["step"], state["seconds"]
    return progress
