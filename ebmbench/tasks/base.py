"""What a task is: its settings, its data and models, its metrics, its figures and its predictions.

A task is a class that registers itself, as methods do. It owns what is particular to it. Batches, groups of seeds,
divergence, counting, checkpoints and the rows of metrics.csv are the engine's, for every task alike.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from ebmbench.core.errors import UserError
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Streams
from ebmbench.core.settings import Component, Section
from ebmbench.core.step import Step
from ebmbench.methods.base import Method, default_method

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor

    from ebmbench.display.rendering import Figure
    from ebmbench.display.table import Table


@dataclass(frozen=True)
class Metric:
    """A column of metrics.csv.

    Attributes:
        name: the column.
        label: its name in a table; `tex` in LaTeX, the same if not given.
        better: `lower`, `higher`, the number that is best, or None where there is no better.
        title: its name with its unit, for an axis; the label if not given.
        table: whether the table of scores shows it.
        figures: the figures that show it, of `ranking`, `strip`, `settings` and `pareto`.
        of_model: whether it says something of the model; else a seed that diverged has it too.
        of_training: whether training alone knows it, so that it stays where a run is scored again.
        only_with: a setting (dotted) without which it says nothing new, such as `data.target_noise`.
        bounds: the values that it can have; an interval of its mean ends there.
        doubted: False if it stays valid for a seed whose scores are unreliable (the AP of boxes needs no log Z).
        at_least: whether an unreliable value is a lower bound, as an NLL is whose log Z may miss mass; else nothing is
            known of it but `bounds`.
    """

    name: str
    label: str
    better: Literal["lower", "higher"] | float | None = None
    title: str = ""
    tex: str = ""
    table: bool = False
    figures: tuple[str, ...] = ()
    of_model: bool = True
    of_training: bool = False
    only_with: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    doubted: bool = True
    at_least: bool = False

    @property
    def heading(self) -> str:
        """Its name with its unit."""
        return self.title or self.label

    @property
    def arrow(self) -> str:
        """An arrow to where it is better; empty if there is no better, or if one number is the best."""
        return {"lower": "↓", "higher": "↑"}.get(str(self.better), "")


COST = (
    Metric("train_seconds", "training s/seed", title="training time per model, s"),
    Metric("energy_evaluations", "energy evaluations", title="energy evaluations per model"),
    Metric("peak_memory_mb", "peak memory MB"),
)
"""What a run costs: the engine's columns of metrics.csv, the same for every task."""


TRUSTED_K = 0.7
"""Pareto's k above which an estimate by importance sampling is not to be trusted (Vehtari et al., 2024)."""
LEAST_GAIN = 0.01
"""Nats that a model must gain on a density that knows nothing of x."""


@dataclass(frozen=True)
class Setup:
    """What a run chose beside its task.

    Attributes:
        label: task and dataset, such as `1d-1`.
        backend: `auto` (the fastest that fits) or `plain` (PyTorch operations only).
        results_dir: where what runs share may be kept.
    """

    method: Method
    proposal: Proposal | None
    trainer: Any
    seeds: tuple[int, ...] = (0,)
    label: str = ""
    backend: str = "auto"
    results_dir: Path = Path("results")


class Learner(ABC):
    """S models that train side by side, or a single one: what a task gives to the engine.

    Attributes:
        seeds: of the models.
        streams: their random numbers.
        device: where they are.
        parameters: leaf tensors by name. Where the seeds are stacked their first axis is the seeds'.
        state: further tensors that training changes and a checkpoint must hold, such as an average of the weights.
        optimizer, scheduler: what changes the parameters.
        step_share: how much of the optimiser's step each seed takes, `[S]`; None: all of it.
        num_items: training items, of which mini-batches are made (points; images).
        batch_size: items of a mini-batch. Every epoch is a permutation of all items; its last batch may be short.
        num_steps: training steps in all.
        steps_per_row: steps that a row of the training history stands for.
        num_examples: examples that one model sees in all its steps, for the count of energy evaluations.
        target_dim: D, the dimension of a target.
        partition_nodes: evaluations of f for one exact `log Z`; 0 where the task has none, or it costs none.
        code_path: which implementation computes, for the record; results agree within rounding.
        capturable: whether `losses` takes a step's number on the device and never reads from it.
        method: the training method.
        on_stage: what it calls as its evaluation goes on: a stage, how many items of it are done, and of how many.
    """

    seeds: tuple[int, ...]
    streams: Streams
    device: torch.device
    parameters: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
    step_share: Tensor | None = None
    num_items: int
    batch_size: int
    num_steps: int
    steps_per_row: int
    num_examples: int
    target_dim: int
    partition_nodes: int = 0
    code_path: str = "plain"
    capturable: bool = False
    method: Method

    def __init__(self) -> None:
        self.on_stage: Callable[[str, int, int], None] = lambda name, done, total: None
        self.state: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    @abstractmethod
    def losses(self, batch: Tensor, step: int | Tensor) -> Tensor:
        """Returns the mean loss of each seed, `[S]`: a function of the parameters, the batch and the step alone.

        Args:
            batch: places of the training items, `[S, B]` (`[1, B]` for a single model); on the host where steps are not
                captured.
            step: the step's number; an int64 tensor on the device where steps are captured.

        It sets `counts`: for each counter of the method how many examples of the batch it is true for, `[S]`.
        """

    @abstractmethod
    def evaluate(self, run_dir: Path, diverged: Sequence[bool]) -> list[dict[str, float]]:
        """Returns the metrics of each seed, and writes what figures and predictions need into `run_dir`.

        A seed that diverged has no metrics that count; the engine replaces them.
        """

    def load(self, parameters: Sequence[Mapping[str, Tensor]]) -> None:
        """Takes the trained parameters of each seed by name, as a run's checkpoint holds them, to evaluate them."""
        for name, parameter in self.parameters.items():
            for index, one in enumerate(parameters):
                (parameter.data[index] if self.streams.stacked else parameter.data).copy_(one[name])

    def after_update(self, alive: Tensor) -> None:  # noqa: B027
        """Called after each optimiser step, without a gradient. `alive` `[S]`: the seeds that still train."""

    def end_epoch(self, alive: Tensor) -> dict[str, Tensor]:
        """Called at the end of each row of the history; returns further columns of it, `[S]` each."""
        return {}

    def is_finished(self) -> bool:
        """Returns whether no seed gains from further training. Asked at the end of each row of the history."""
        return False

    def end_training(self) -> None:  # noqa: B027
        """Called once, after the last step: puts the parameters in place that are to be evaluated."""

    def fit(self) -> Tensor | None:
        """Trains the models without the engine's steps; returns the mean loss of each seed, `[S]`, nan if it diverged.

        None: the engine trains them.
        """
        return None

    def partial(self, batch: Tensor, step: int) -> Tensor:
        """Returns this process's part of a step, where several processes (torchrun) share one: any vector."""
        raise NotImplementedError(f"{type(self).__name__} trains in one process")

    def assist(self) -> None:  # noqa: B027
        """Does this process's part of an evaluation that rank 0 began, where several processes (torchrun) share one."""


def count_examples(step: Step, into: dict[str, Tensor], counters: Iterable[str]) -> None:
    """Adds up what a loss counted, per seed, from `[S, B]` to `[S]`."""
    for name in counters:
        if name in step.counts:
            into[name] = step.counts[name].long().sum(-1)


class SweepResults(Protocol):
    """What a figure of a sweep is drawn from; `report.frame.Results` is one."""

    @property
    def comparison(self) -> pd.DataFrame:
        """One variant per dataset and method, a row per run and seed: `run_id`, `label`, `method`, `seed`, metrics."""
        ...

    @property
    def done(self) -> pd.DataFrame:
        """All variants, a row per run and seed; a column for each setting that varies."""
        ...

    @property
    def folders(self) -> Mapping[str, Path]:
        """The run directory of each `run_id` that is there; none where a table was read from a file."""
        ...

    def collected(self, figure: str) -> pd.DataFrame | None:
        """Returns the numbers of a figure that was collected with the tables; None if it was not."""
        ...


@dataclass(frozen=True)
class SweepFigure:
    """A figure of a sweep that only one task can draw.

    Attributes:
        name: what `sweep.figures` calls it.
        draw: from the results of a sweep to figures.
        from_runs: whether it is drawn from files of the runs, or from the figure's own numbers where it was collected.
    """

    name: str
    draw: Callable[[SweepResults], Iterable[Figure]]
    from_runs: bool = False


class Task(Component):
    """What is to be learned, from what, and how it is scored. Its fields are its settings (`task.<field>`).

    Attributes of the class:
        name: what users type.
        Trainer: the settings of training, `trainer.<field>`.
        metrics: the columns of metrics.csv; the first one is the headline, by which methods are ranked.
        sweep_figures: figures of its sweeps that no other task has.
        one_unit: whether the targets of its datasets have one unit, so that figures show a metric on one scale.
        title: what tables call it and its dataset, such as "Detection, {dataset}"; from its name if not given.
        draw_settings: the settings (dotted) that draw the training data anew, or what else the models stand on;
            `draw_of` is its name for people.
        data_settings: what the settings (dotted) begin with that decide on which data models are trained and scored.
        selection: the metric by which a seed may be chosen without knowledge of the test data, if there is one.
        images: pictures of a run that the page of a sweep shows, without their ending.
        processes: whether several processes (torchrun) can train one run.
        can_skip_intervals: whether `predict_files` with a level of 0 leaves out the intervals, which take time.
        takes_box: whether `predict_files` takes `box`, the target's x, y, w, h in the first frame of a video, or None.
    """

    group: ClassVar[str] = "task"
    name: ClassVar[str]
    Trainer: ClassVar[type[Section]]
    metrics: ClassVar[tuple[Metric, ...]]
    sweep_figures: ClassVar[tuple[SweepFigure, ...]] = ()
    one_unit: ClassVar[bool] = True
    title: ClassVar[str] = ""
    draw_settings: ClassVar[tuple[str, ...]] = ()
    draw_of: ClassVar[str] = "training data"
    data_settings: ClassVar[tuple[str, ...]] = ("data.",)
    selection: ClassVar[str] = ""
    images: ClassVar[tuple[str, ...]] = ()
    processes: ClassVar[bool] = False
    takes_box: ClassVar[bool] = False
    can_skip_intervals: ClassVar[bool] = False

    @classmethod
    def drawn_by(cls, varied: Iterable[str]) -> str:
        """Returns the first of these settings that draws the data anew; empty if none does."""
        return next((key for key in varied if key in cls.draw_settings), "")

    @property
    @abstractmethod
    def dataset_name(self) -> str:
        """The dataset's name, a part of the run's."""

    @property
    def model_name(self) -> str:
        """The name of its model in runs and tables, where no method trains it; else empty."""
        return ""

    @classmethod
    def default_method(cls) -> str:
        """Returns the method that trains its models where none is named."""
        return default_method(None)

    def method_for(self, default: str) -> str:
        """Returns the method that is used in the place of the default one, where nobody names a method."""
        return default

    @property
    def trains_in_steps(self) -> bool:
        """Whether the engine trains its models, with the settings of `trainer`."""
        return True

    @abstractmethod
    def learner(self, setup: Setup, seeds: Sequence[int], device: torch.device) -> Learner:
        """Returns the models of these seeds, ready to train."""

    def seed_bytes(self, setup: Setup, device: torch.device) -> int | None:
        """Returns the memory that a step takes for each seed, about; None where seeds train one after the other."""
        return None

    def assist(self, device: torch.device) -> None:
        """Does this process's part of what rank 0 began before the first step, where several (torchrun) share it."""

    def is_broken(self, scores: Mapping[str, float]) -> bool:
        """Returns whether the scores show that a model has finite weights and energies that are not finite."""
        return not math.isfinite(scores[self.metrics[0].name])

    def is_trusted(self, scores: Mapping[str, float]) -> bool:
        """Returns whether the scores of a model that did not diverge can be trusted."""
        return math.isfinite(scores[self.metrics[0].name])

    def is_uninformed(self, scores: Mapping[str, float]) -> bool:
        """Returns whether a model is no better than a density that knows nothing of x; its scores may be reliable."""
        return False

    def floor(self, blur: Sequence[float] | None) -> float | None:
        """Returns `KL(p ‖ p∗ν)` in nats, ν normal noise of these standard deviations, each equally likely.

        It is what a method loses whose optimum is the smoothed density (`Method.blur`); None where the task does not
        know the true density.
        """
        return None

    def remarks(self, scores: Mapping[str, float]) -> list[str]:
        """Returns what people should know of a model with these scores, a sentence each."""
        return []

    uninformed: ClassVar[str] = "no better than a density that knows nothing of x"
    """What is the matter with such a model, for people."""

    doubt: ClassVar[str] = "its scores are not finite"
    """What is the matter with scores that are not to be trusted, for people."""

    def cost(self, setup: Setup, device: str, threads: int, measured: Sequence[Path]) -> tuple[float, float] | None:
        """Returns about how many seconds a run takes and how many megabytes; None if nobody measured it.

        Args:
            device: cpu or gpu.
            threads: of the run.
            measured: folders with the benchmark's figures, the first that has them counts.
        """
        return None

    def finish(self, setup: Setup, run_dir: Path, groups: Sequence[Sequence[int]]) -> Mapping[str, float] | None:
        """Puts together what the groups of seeds wrote; may return further columns of metrics.csv, for all seeds."""

    def figures(self, setup: Setup, run_dir: Path) -> list[Path]:
        """Draws the figures of a run; returns the files."""
        return []

    @classmethod
    def sweep_tables(cls, title: str, frame: pd.DataFrame) -> list[Table]:
        """Returns tables of a sweep that no other task has, for one dataset; `frame` has a row per run and seed."""
        return []

    def predictor(self, setup: Setup, parameters: Mapping[str, Tensor], seed: int, run_dir: Path) -> Any:
        """Returns a trained model for use, as `ebmbench.load` gives it."""
        raise NotImplementedError(f"task={self.name} offers no prediction")

    def predict_files(
        self, models: Mapping[int, Any], files: Sequence[Path], out: Path, level: float, **given: Any
    ) -> None:
        """Writes the predictions of a trained run for files of inputs (a table, images): `ebmbench predict`.

        Args:
            models: the trained models by seed, as `ebmbench.load` gives them, without those that diverged.
            files: inputs in the task's own form.
            out: the file to write.
            level: the probability of intervals.

        Raises:
            UserError: the task makes no predictions for files, or a file is not in its form.
        """
        raise UserError(f"task={self.name} makes no predictions for files; ebmbench.load gives its models in Python")

    @classmethod
    def metric(cls, name: str) -> Metric | None:
        """Returns the metric of this name, None if the task has none."""
        return next((metric for metric in cls.metrics if metric.name == name), None)

    @classmethod
    def titled(cls, dataset: str) -> str:
        """Returns what tables call the task and one of its datasets."""
        return (cls.title or f"{cls.name.capitalize()}, {{dataset}}").replace("{dataset}", dataset)
