"""What a task and a data set must keep to: checks that `ebmbench check` and the tests run."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebmbench.config import compose
from ebmbench.config.run import RunConfig
from ebmbench.core.settings import Component
from ebmbench.engine.train import CheckpointPlan, Training, resume, save
from ebmbench.tasks.base import Learner, Task
from ebmbench.tasks.regression.data.base import Split, check_targets

PASSES = ("epochs", "iterations")
"""Settings of a trainer that say how long it trains; a short run makes two of the first one that is there."""


def data_arrays(cls: type[Component]) -> Iterator[str]:
    """Its arrays have shapes that fit, no gaps, and are the same each time."""
    data: Any = cls.model_validate({})
    split, again = data.load(), data.load()
    if not isinstance(split, Split):
        yield f"load returned a {type(split).__name__}, and no Split, such as arrays_split(x, y) makes"
        return
    check_targets(split)
    for name in ("train", "val", "test"):
        part, other = getattr(split, name), getattr(again, name)
        if len(part.x) != len(part.y) or part.y.dim() != 2 or not len(part.x):
            yield f"{name}: x {tuple(part.x.shape)} and y {tuple(part.y.shape)}; wanted are [N, ...] and [N, D], N > 0"
        elif not (part.x.isfinite().all() and part.y.isfinite().all()):
            yield f"{name}: there are numbers that are not finite"
        elif not (torch.equal(part.x, other.x) and torch.equal(part.y, other.y)):
            yield f"{name}: two calls of load give different arrays"


def task_metrics(cls: type[Task]) -> Iterator[str]:
    """It has metrics, the headline first, which is better lower or higher."""
    if not cls.metrics:
        yield "metrics is empty"
    elif cls.metrics[0].better is None:
        yield f"the headline {cls.metrics[0].name} is better neither lower nor higher"
    for metric in cls.metrics:
        if isinstance(metric.better, str) and metric.better not in ("lower", "higher"):
            yield f"the metric {metric.name} has better={metric.better!r}: give 'lower', 'higher', a number or None"


def _config(cls: type[Task]) -> RunConfig:
    return compose.compose([f"task={cls.name}", "device=cpu", "seeds=2"])


def _learner(config: RunConfig, seeds: Sequence[int] = (0,)) -> Learner:
    return config.task.learner(config.setup, seeds, torch.device("cpu"))


def _group(config: RunConfig) -> tuple[int, ...]:
    """Returns the seeds that train side by side: both, or the first where each trains alone."""
    return config.seeds if config.task.seed_bytes(config.setup, torch.device("cpu")) else config.seeds[:1]


def _parameters(learner: Learner) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in learner.parameters.values()]


def _differ(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return any(not torch.equal(one, other) for one, other in zip(ones, others, strict=True))


def task_step(cls: type[Task]) -> Iterator[str]:
    """Its models make a training step, and their scores are the metrics that it names."""
    config = _config(cls)
    learner = _learner(config, _group(config))
    training = Training(learner)
    before = _parameters(learner)
    training.step()
    if not _differ(before, _parameters(learner)):
        yield "a training step changes no parameter"
    scores = _scores(learner)
    if len(scores) != len(learner.seeds):
        yield f"evaluate returned {len(scores)} rows for {len(learner.seeds)} seeds"
    unknown = set(scores[0]) - {metric.name for metric in cls.metrics}
    if unknown:
        yield f"evaluate gives {', '.join(sorted(unknown))}, which metrics does not name"
    if cls.metrics[0].name not in scores[0]:
        yield f"evaluate does not give the headline {cls.metrics[0].name}"
    missing = [name for name, value in scores[0].items() if not isinstance(value, int | float) or math.isnan(value)]
    if missing:
        yield f"evaluate gives no number for {', '.join(sorted(missing))}"


def _scores(learner: Learner) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        return learner.evaluate(Path(folder), [False] * len(learner.seeds))


def task_is_repeatable(cls: type[Task]) -> Iterator[str]:
    """Its loss is a function of the step alone, and its scores of the parameters alone."""
    config = _config(cls)
    first, again = _learner(config), _learner(config)
    if _differ(_parameters(first), _parameters(again)):
        yield "the same seed starts with two different sets of parameters"
    if not torch.equal(Training(first).losses(0), Training(again).losses(0)):
        yield "the same step gives two different losses; random numbers must come from streams.at(step)"
    if repr(_scores(first)) != repr(_scores(first)):
        yield "two evaluations of the same parameters give different scores"


def task_seeds(cls: type[Task]) -> Iterator[str]:
    """A seed alone is the seed among others, up to rounding."""
    config = _config(cls)
    if len(_group(config)) == 1:
        return
    together = Training(_learner(config, config.seeds)).losses(0)
    for index, seed in enumerate(config.seeds):
        alone = Training(_learner(config, (seed,))).losses(0)
        if not torch.allclose(alone[0], together[index], rtol=1e-4):
            values = f"{alone.item():.6g} alone and {together[index].item():.6g} among others"
            yield f"the first loss of seed {seed} is {values}"


def task_resumes(cls: type[Task]) -> Iterator[str]:
    """Training that stops and goes on from its checkpoint ends with the same parameters, bit for bit."""
    config = _config(cls)
    whole, first, second = (Training(_learner(config)) for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        plan = CheckpointPlan(Path(folder) / "checkpoint.pt", math.inf)
        for training in (whole, first):
            training.step()
            training.step()
        save(first, plan)
        resume(second, plan)
    for training in (whole, second):
        training.step()
    if _differ(_parameters(whole.learner), _parameters(second.learner)):
        yield "a third step after a checkpoint gives other parameters: put all that training changes into state"


def task_loads(cls: type[Task]) -> Iterator[str]:
    """Trained parameters that are loaded into new models give the scores that they had."""
    config = _config(cls)
    trained, loaded = _learner(config), _learner(config)
    Training(trained).step()
    stacked = trained.streams.stacked
    loaded.load([{name: value[0] if stacked else value for name, value in trained.parameters.items()}])
    if repr(_scores(trained)) != repr(_scores(loaded)):
        yield "a model that was loaded has other scores than the one that was saved"


def task_run(cls: type[Task], plugin: str) -> Iterator[str]:
    """A short run by the command line ends."""
    passes = [f"trainer.{name}=2" for name in PASSES if name in cls.Trainer.model_fields][:1]
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"task={cls.name}",
            *passes,
            f"plugins=[{plugin}]",
            "device=cpu",
            "logger=none",
            f"results_dir={folder}",
        ]
        command = [sys.executable, "-m", "ebmbench", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            yield f"it ends with {done.returncode} and says: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"


CHECKS = (task_metrics, task_step, task_is_repeatable, task_seeds, task_resumes, task_loads)
