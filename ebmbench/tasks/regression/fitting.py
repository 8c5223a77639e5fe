"""The models of `task=regression` in training: standardised data, an average of the weights, early stopping."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.errors import UserError
from ebmbench.core.importance import Cloud, Proposed
from ebmbench.core.optimizers import eager
from ebmbench.core.rng import Draws, Streams
from ebmbench.methods.base import Method
from ebmbench.models.stack import Place
from ebmbench.supports.nodes import NodeDensity
from ebmbench.supports.placed import Placed
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Targets
from ebmbench.tasks.base import Setup
from ebmbench.tasks.regression import scoring
from ebmbench.tasks.regression.calibration import hold_back
from ebmbench.tasks.regression.conditional import NEAR_NODES, Conditionals
from ebmbench.tasks.regression.data.base import Split, check_targets
from ebmbench.tasks.regression.data.front import with_front
from ebmbench.tasks.regression.data.notes import outside_notes, sampling_notes, support_notes, target_notes
from ebmbench.tasks.regression.fitted import Fitted
from ebmbench.tasks.regression.learner import RegressionLearner
from ebmbench.tasks.regression.scaling import Scaling

if TYPE_CHECKING:
    from ebmbench.tasks.regression.task import Regression

CHUNK = 2**19
"""Evaluations of f at a time in validation, so that many rows fit into memory."""
VALIDATION_ROWS, VALIDATION_SAMPLES = 128, 256
"""Rows at a time, and importance samples for each, where there are several targets."""
PATIENT_STEPS = 4000
"""Where `trainer.patience` is its default, no model waits longer than this for a lower validation NLL."""
DROP = 0.2
"""What is left of the learning rate after each of `trainer.drops`."""
VALIDATION_SEEDS = 2**32
"""Added to a seed for the random numbers of its own loss on validation rows: none of them is used in training."""
KEPT_DRAWS = 64
"""Chunks of validation rows whose importance samples are kept from epoch to epoch."""


class FitLearner(RegressionLearner):
    """S models of one network on the training rows of a dataset: of the task's, if no split is given.

    What is evaluated, and kept, is the average of a model's weights, at the epoch with the lowest validation NLL. A
    model whose patience is over goes back to those weights and trains on with a smaller learning rate, `trainer.drops`
    times. At the full rate the weights move around their average, so that the model learns a wider density than its
    average needs: a law with little noise stays too wide. A model that has ended keeps its weights of then, whatever
    the models beside it do: alone it ends the same.

    Attributes of the state, which checkpoints hold:
        average.flat: the average of the weights, `[S, P]`; average.steps: how many steps are in it.
        best.flat, best.score, best.epoch: the weights with the lowest validation score, that score and its epoch.
        epoch: how many are over. waited: epochs since the last lower validation NLL or drop, `[S]`.
        drops: how often the learning rate fell, `[S]`. step_share: what is left of it, `[S]`.
        ended: who has ended, `[S]`.
    """

    def __init__(
        self,
        task: Regression,
        setup: Setup,
        seeds: Sequence[int],
        device: torch.device,
        split: Split | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        trainer = setup.trainer
        if split is None:
            split = load(task)
            supports = task.data.supports(len(split.target_names))
            for note in sampling_notes(split, setup.method, supports) if split.truth is None else ():
                _say_once(task.dataset_name, note)
        split, held = hold_back(split) if task.calibrate else (split, None)
        self.task, self.split = task, split
        train = self.split.train
        targets = targets_of(task, split)
        check_method(setup.method, targets)
        self.scaling = Scaling.of(train.x, targets, task.standardize)
        x, y = self.standardised(train.x, train.y, device, dtype)
        stack = task.stackable.stack(tuple(x.shape[1:]), targets.features, Place(seeds, device, dtype, setup.backend))
        proposal = setup.proposal
        if proposal is not None and len(targets.axes) == 1:
            proposal = Placed.on(proposal, targets.axes[0])
        weight = self.split.train.weight
        weight = None if weight is None else weight.to(device)
        super().__init__(stack, x, y, setup.method, proposal, seeds, trainer.epochs, trainer.batch_size, weight)
        self.trainer = trainer
        self.patience = trainer.patience
        if self.patience is not None and self.patience == type(trainer).model_fields["patience"].default:
            self.patience = min(self.patience, math.ceil(PATIENT_STEPS / self.steps_per_row))
        self.val = self.standardised(self.split.val.x, self.split.val.y, device, dtype)
        given = self.split.val.weight
        weights = (torch.ones(len(self.val[0])) if given is None else given).double()
        self.val_weight = weights.to(device)
        slopes = self.scaling.log_slope(self.scaling.y(self.split.val.y).to(dtype).double())
        self.log_slope = float((slopes * weights).sum() / weights.sum())
        one = y.shape[1] == 1
        axis = targets.axes[0]
        host = self.scaling.y(train.y)[:, 0].to(dtype)  # a mask of a device's rows would wait for it
        dense = host[~axis.is_point(host)]
        nodes = NodeDensity.of(dense, axis.measure).to(device) if one and not targets.discrete else None
        cloud = None if one else Cloud.of_targets(y).to(device)
        self.conditionals = Conditionals(stack, targets, nodes, cloud, len(self.seeds))
        self.fitted = Fitted(self.split, self.scaling, self.conditionals, self.seeds, device, dtype, held)
        if one and not self.conditionals.normalised:
            self.partition_nodes = len(targets.axes[0].points) + (0 if nodes is None else task.base.nodes + NEAR_NODES)
        self.optimizer = eager(torch.optim.AdamW)(
            list(self.parameters.values()),
            lr=trainer.learning_rate,
            weight_decay=trainer.weight_decay,
            capturable=device.type == "cuda",
        )
        if trainer.gradient_clip is not None:
            stack.flat.register_hook(_clip(trainer.gradient_clip))
        count = len(self.seeds)
        self.val_rows = max(1, CHUNK // (count * task.base.nodes)) if one else VALIDATION_ROWS
        self._kept_draws: dict[int, Proposed | None] = {}
        flat = stack.flat.detach()
        self.state |= {
            "average.flat": flat.clone(),
            "average.steps": torch.zeros((), dtype=torch.float64, device=device),
            "best.flat": flat.clone(),
            "best.score": torch.full((count,), math.inf, dtype=torch.float64, device=device),
            "best.epoch": torch.zeros(count, dtype=torch.int64, device=device),
            "waited": torch.zeros(count, dtype=torch.int64, device=device),
            "drops": torch.zeros(count, dtype=torch.int64, device=device),
            "step_share": torch.ones(count, dtype=flat.dtype, device=device),
            "ended": torch.zeros(count, dtype=torch.bool, device=device),
            "epoch": torch.zeros((), dtype=torch.int64, device=device),
        }
        self.step_share = self.state["step_share"]
        self.validation_streams = Streams([seed + VALIDATION_SEEDS for seed in seeds], device)

    def standardised(
        self, x: Tensor, y: Tensor, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Returns inputs and z of targets as the network sees them."""
        return self.scaling.x(x).to(device, dtype), self.scaling.y(y).to(device, dtype)

    @override
    def bind(self, x: Tensor) -> tuple[Energy, Callable[[], Tensor]]:
        f, features = self.stack.bind(x)
        return self.scaling.targets.energy(f, self.conditionals.normalised), features

    def log_partition(self, draws: Draws, y: Tensor) -> Callable[[Energy], Tensor] | None:
        """Returns what gives `log Z`: 0 for a normalised model, a quadrature for one target, None for several."""
        if self.conditionals.normalised:
            return lambda f: y.new_zeros(y.shape[:-1])
        if not self.fitted.one:
            return None

        def partition(f: Energy) -> Tensor:  # most methods never ask for it
            places, near = (self.random_places(draws, n) for n in (self.task.base.nodes, NEAR_NODES))
            return self.conditionals.trained_log_z(f, places, y, near)

        return partition

    @override
    def after_update(self, alive: Tensor) -> None:
        decay = self.trainer.ema
        if not decay:
            return
        average, steps = self.state["average.flat"], self.state["average.steps"]
        steps += 1
        # The first steps weigh more, else the average would hold the initial weights for long.
        keep = torch.clamp((1 + steps) / (10 + steps), max=decay)
        average.lerp_(self.stack.flat.detach(), (1 - keep).to(average.dtype))

    @override
    def end_epoch(self, alive: Tensor) -> dict[str, Tensor]:
        state, patience = self.state, self.patience
        state["epoch"] += 1
        if self.patience is None:  # nothing is chosen by it
            self._anneal()
            return {}
        exact = self.trainer.select == "exact"
        with self.weights(self._average):
            score = self.validation_nll() if exact else self.validation_loss()
        better = alive & ~state["ended"] & (score < state["best.score"])
        state["best.score"].copy_(torch.where(better, score, state["best.score"]))
        state["best.epoch"].copy_(torch.where(better, state["epoch"], state["best.epoch"]))
        state["best.flat"].copy_(torch.where(better.unsqueeze(1), self._average, state["best.flat"]))
        state["waited"].copy_(torch.where(better, 0, state["waited"] + 1))
        over = state["waited"] >= torch.where(state["drops"] > 0, math.ceil(patience / 2), patience)
        drop = over & alive & (state["drops"] < self.trainer.drops)
        state["ended"] |= ~alive | (over & ~drop)
        self._drop(drop)
        self._anneal()
        name, shift = ("val_nll", self.log_slope) if exact else ("val_loss", 0.0)
        return {name: torch.where(alive, score + shift, torch.nan)}

    def _anneal(self) -> None:
        """Lowers the learning rate where it follows a cosine."""
        if self.trainer.schedule == "cosine":
            state = self.state
            state["step_share"].copy_(DROP ** state["drops"] * self.annealed(state["epoch"]))

    @property
    def _average(self) -> Tensor:
        """The average of the weights, `[S, P]`; the weights themselves if `trainer.ema` is 0."""
        return self.state["average.flat"] if self.trainer.ema else self.stack.flat.detach()

    def _drop(self, chosen: Tensor) -> None:
        """Puts some models, bool `[S]`, back to their best weights, with a smaller learning rate."""
        state = self.state
        state["drops"] += chosen
        state["waited"].masked_fill_(chosen, 0)
        state["step_share"].copy_(DROP ** state["drops"])
        for weights in (self.stack.flat.detach(), state["average.flat"]):
            weights.copy_(torch.where(chosen.unsqueeze(1), state["best.flat"], weights))

    @override
    def is_finished(self) -> bool:
        return bool(self.state["ended"].all())

    def end_training(self) -> None:
        """Puts the weights in place that are kept: the best ones, or the last if there is no early stopping."""
        state = self.state
        chosen = state["best.score"].isfinite() & (self.trainer.patience is not None)
        with torch.no_grad():
            self.stack.flat.copy_(torch.where(chosen.unsqueeze(1), state["best.flat"], self._average))
        self.num_examples = int(state["epoch"]) * self.num_items

    @contextmanager
    def weights(self, flat: Tensor) -> Iterator[None]:
        """Inside, the models have these weights, `[S, P]`."""
        with torch.no_grad():
            kept = self.stack.flat.detach().clone()
            self.stack.flat.copy_(flat)
            try:
                yield
            finally:
                self.stack.flat.copy_(kept)

    def validation_nll(self) -> Tensor:
        """Returns the mean NLL of the standardised validation targets, `[S]` float64.

        For one target log Z is a quadrature on fixed nodes, and on finer ones for rows where these are too coarse. For
        several it is an estimate by importance sampling around the targets, with the same random numbers every time:
        good for choosing an epoch, too low where modes are missed.
        """
        x, y = self.val
        total = torch.zeros(len(self.seeds), dtype=torch.float64, device=self.device)
        for number, some in enumerate(torch.arange(len(x), device=self.device).split(self.val_rows)):
            log_prob = self.conditionals.log_prob(x[some], y[some].double(), self._drawn(number, y[some]))
            total -= (log_prob * self.val_weight[some]).sum(-1)
        return total / self.val_weight.sum()

    def validation_loss(self) -> Tensor:
        """Returns the method's own mean loss of the validation rows, `[S]` float64, with the same draws every time.

        A method that keeps something for each example starts anew on them. A learned proposal is that of the moment.
        """
        x, y = (part.expand(len(self.seeds), *part.shape) for part in self.val)
        total = torch.zeros(len(self.seeds), dtype=torch.float64, device=self.device)
        with self.stack.evaluating():
            for number, some in enumerate(torch.arange(x.shape[1], device=self.device).split(self.batch_size)):
                memory = {
                    name: y.new_full((len(self.seeds), len(some), *shape), torch.nan)
                    for name, shape in self._memory.items()
                }
                draws = self.validation_streams.at(number)
                losses, _, _ = self.method_losses(x[:, some], y[:, some], draws, memory)
                total += (losses.detach() * self.val_weight[some]).double().sum(-1)
        return total / self.val_weight.sum()

    def _drawn(self, number: int, y: Tensor) -> Proposed | None:
        """Returns the draws for log Z at some validation targets; those of the first chunks are kept."""
        if number in self._kept_draws:
            return self._kept_draws[number]
        drawn = self.conditionals.around(y.double(), VALIDATION_SAMPLES, number)
        if number < KEPT_DRAWS:
            self._kept_draws[number] = drawn
        return drawn

    @override
    def evaluate(self, run_dir: Path, diverged: Sequence[bool]) -> list[dict[str, float]]:
        known = self.conditionals.normalised
        chosen = self.validation_nll() + self.log_slope if known else scoring.val_nll(self.fitted)
        more = [
            {"val_nll": float(nll), **({"best_epoch": float(epoch)} if self.patience is not None else {})}
            for nll, epoch in zip(chosen, self.state["best.epoch"], strict=True)
        ]
        return scoring.evaluate(self.fitted, more, self.task, run_dir, diverged)


def check_method(method: Method, targets: Targets) -> None:
    """Raises UserError for a method that needs a density in y, where values have probabilities."""
    axis = next((axis for axis in targets.axes if axis.support.discrete or axis.support.atoms), None)
    if axis is not None and (method.y_derivatives or method.moves_target):
        kind = axis.support.name + (" with atoms" if axis.support.atoms else "")
        raise UserError(
            f"method={method.name} moves targets or differentiates in y, which support={kind} does not allow; "
            "use one that draws from a proposal, such as nce or ml-is, or the exact likelihood"
        )


def _clip(limit: float) -> Callable[[Tensor], Tensor]:
    """Returns a hook that shortens each model's gradient, `[S, P]`, to a largest norm."""
    return lambda gradient: gradient * (limit / gradient.norm(dim=1, keepdim=True)).clamp(max=1)


def targets_of(task: Regression, split: Split) -> Targets:
    """Returns the targets of a split, measured on its training rows."""
    supports = task.data.supports(len(split.target_names))
    return Targets.of(split.target_names, supports, split.train.y, task.base, task.standardize)


def fronted(task: Regression, split: Split) -> Split:
    """Returns a split with the further inputs that `task.front` asks for."""
    return split if task.front == "none" else with_front(split, task.front, targets_of(task, split))


def load(task: Regression) -> Split:
    """Returns the rows of the task's dataset, checked, with its front; says once what was done to them."""
    split = _load(task)
    for note in split.notes:
        _say_once(task.dataset_name, note)
    return split


_kept: dict[Any, Split] = {}


def _load(task: Regression) -> Split:
    """Returns a dataset's rows; the last one that was read is kept, for a run needs it several times."""
    data = task.data
    own = [task.front, task.base.plain(), task.standardize] if task.front != "none" else []
    key = json.dumps([data.plain(), data.identity(), own], sort_keys=True, default=str)
    if key not in _kept:
        _kept.clear()
        split = data.load()
        if not isinstance(split, Split):
            raise UserError(
                f"load of data={data.registered()} returned a {type(split).__name__}: return arrays_split(x, y)"
            )
        check_targets(split)
        if split.truth is None:
            supports = data.supports(len(split.target_names))
            split.notes.extend(target_notes(split, supports) + outside_notes(split))
            if data.support is None and set(supports) == {Real()}:
                split.notes.extend(support_notes(split, data.known_support))
        _kept[key] = fronted(task, split)
    return _kept[key]


@cache
def _say_once(dataset: str, note: str) -> None:
    print(f"ebmbench: {dataset}: {note}", file=sys.stderr, flush=True)
