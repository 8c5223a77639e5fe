"""The gradient laboratory: how far each method's gradient is from the likelihood's, in 1D, and why.

    python -m benchmarks gradients             writes results/bench/gradients-1d-{1,2}.{csv,md,png}
    python -m benchmarks gradients --run DIR   the same for the energies of a trained run

The energy is held fixed. Each method draws mini-batches and samples as in training, and its gradient with respect to
the parameters stands beside the exact one of the same mini-batch, with log Z by quadrature on [-3, 3]. The exact
gradient of the method's own objective in the limit of many samples stands beside it too, where the method gives one.
Every mini-batch is used twice, with independent samples, which parts the noise of the samples from all else.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor

from benchmarks import gradients_report
from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core import registry
from ebmbench.core.energy import Energy
from ebmbench.core.errors import UserError
from ebmbench.core.step import Step
from ebmbench.engine import api, runs
from ebmbench.engine.train import train
from ebmbench.methods.base import exact_nll
from ebmbench.tasks.regression.data.paper import HIGH, LOW
from ebmbench.tasks.regression.fitting import FitLearner
from ebmbench.tasks.regression.learner import RegressionLearner

COMMAND = "python -m benchmarks gradients"
SAMPLES = (1, 4, 16, 64, 256, 1024)
GRADIENTS = 600
EPOCHS = 10
NODES = 2049
"""Of the trapezoidal rule for log Z: 0.003 apart, where the laws' narrowest σ is 0.007."""
TOGETHER = 20
"""Gradients that are computed side by side, as the seeds of a run are."""
HEAD_STEPS, HEAD_RATE = 4000, 3e-2
"""Steps in which a method's own networks learn, with the energy held fixed, and Adam's rate, which falls to zero."""
VISITS = 20
"""Visits of a mini-batch before its gradient counts, where a method remembers: the mean life of a chain of pcd."""

Loss = Callable[[Energy, Tensor, Step], Tensor | None]


@dataclass(frozen=True)
class Row:
    """How a method's gradient does at M samples. Norms are relative to that of the exact gradient of all points.

    Attributes:
        energy: what was measured on: untrained, or how it was trained.
        samples: M; 0 for a method that draws none.
        gradients: that were drawn.
        exact_norm: the norm of the exact gradient of the likelihood over all training points.
        bias: the norm of the mean difference to the exact gradient, less what noise alone would give.
        bias_error: its standard error: the norm that noise alone would give.
        own_bias, own_bias_error: the same against the method's own objective with many samples.
        own_cosine: cosine between the exact gradients of its own objective and of the likelihood, over all points.
        variance: trace of the covariance that the samples bring, the mini-batch held; over the squared norm.
        snr: norm of the mean gradient over its standard deviation, mini-batch and samples together.
        cosine, cosine_error: mean cosine between a gradient and the exact one of its mini-batch, standard error.
        mean_cosine: cosine between the mean gradient and the exact one.
        milliseconds: processor time of a gradient, median.
    """

    dataset: str
    energy: str
    method: str
    samples: int
    gradients: int
    exact_norm: float
    bias: float
    bias_error: float
    own_bias: float
    own_bias_error: float
    own_cosine: float
    variance: float
    snr: float
    cosine: float
    cosine_error: float
    mean_cosine: float
    milliseconds: float


@dataclass(frozen=True)
class Model:
    """An energy that is measured: what it is called, and its parameters `[P]`."""

    title: str
    flat: Tensor


def main(argv: Sequence[str]) -> int:
    """Measures, and writes the tables and figures."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    known = list(registry.known("method"))
    parser.add_argument("--run", type=Path, metavar="DIR", help="a finished run of task=1d, whose first seed is taken")
    parser.add_argument("--datasets", nargs="+", type=int, default=[1, 2], choices=[1, 2])
    parser.add_argument("--methods", nargs="+", default=known, choices=known, metavar="METHOD")
    parser.add_argument("--samples", nargs="+", type=int, default=list(SAMPLES), metavar="M", help="samples per target")
    parser.add_argument("--gradients", type=int, default=GRADIENTS, help="gradients of each method, for each M")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the training by the exact likelihood")
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="where the files go")
    arguments = parser.parse_args(argv)
    if arguments.gradients < 2 * TOGETHER:
        raise UserError(f"--gradients={arguments.gradients} is not allowed: give {2 * TOGETHER} or more")
    if min(arguments.samples) < 1:
        raise UserError(f"--samples={min(arguments.samples)} is not allowed: give 1 or more")
    torch.set_num_threads(1)  # results and processor times are those of one core
    for name, task, models in _subjects(arguments):
        rows = []
        for row in measure(task, models, arguments.methods, sorted(set(arguments.samples)), arguments.gradients):
            rows.append(row)
            print(
                f"{row.dataset:6} {row.energy:24} {row.method:10} M={row.samples:<5} bias {row.bias:9.3g} ± "
                f"{row.bias_error:.2g}, snr {row.snr:.3g}, cosine {row.cosine:.3f}, {row.milliseconds:.3g} ms",
                flush=True,
            )
        frame = pd.DataFrame([asdict(row) for row in rows])
        for path in gradients_report.write(frame, f"gradients-{name}", arguments.out, " ".join([COMMAND, *argv])):
            print(path)
    return 0


def _subjects(arguments: argparse.Namespace) -> Iterator[tuple[str, RunConfig, list[Model]]]:
    """Yields the datasets: a name, settings of the task, and the energies to measure."""
    if arguments.run is not None:
        config = trained_run(arguments.run)
        parameters = api.read_parameters(arguments.run)
        seed = min(parameters)
        yield config.run_id, config, [Model(f"{config.method.name}, seed {seed}", parameters[seed]["flat"])]
        return
    for dataset in arguments.datasets:
        config = compose(["task=1d", f"data=law{dataset}", "method=ml-exact", f"trainer.epochs={arguments.epochs}"])
        yield config.label, config, trained_here(config)


def trained_run(folder: Path) -> RunConfig:
    """Returns the settings of a finished run of 1D regression.

    Raises:
        UserError: there is none in this folder.
    """
    if runs.read_state(folder) not in runs.FINISHED:
        raise UserError(f"--run={folder}: must be the directory of a finished run")
    config = api.read_config(folder)
    if config.task.name != "1d":
        raise UserError(f"--run={folder}: is a run of task={config.task.name}, and only 1d has an exact log Z here")
    return config


def trained_here(config: RunConfig) -> list[Model]:
    """Returns an energy before and after its training."""
    learner = config.task.learner(config.setup, [0], torch.device("cpu"))
    assert isinstance(learner, FitLearner)
    before = learner.stack.flat.detach()[0].clone()
    train(learner)
    after = learner.stack.flat.detach()[0].clone()
    epochs = getattr(config.trainer, "epochs", 0)
    return [Model("untrained", before), Model(f"after {epochs} epochs of {config.method.name}", after)]


# ------------------------------------------------------------------------------------------------------- measure


def measure(
    config: RunConfig, models: Sequence[Model], methods: Sequence[str], samples: Sequence[int], gradients: int
) -> Iterator[Row]:
    """Yields a row for each energy, method and M.

    Args:
        config: whose task, dataset and size of mini-batches count.
        gradients: how many are drawn for a row.
    """
    for model in models:
        exact = example_gradients(held(config, "ml-exact", model, dtype=torch.float64), exact_nll)
        assert exact is not None
        for name in methods:
            heads = taught_heads(config, name, model)
            double = held(config, name, model, heads, dtype=torch.float64)
            own = example_gradients(double, double.method.population)
            counts = samples if "num_samples" in type(double.method).model_fields else [0]
            for count in counts:
                pairs = gradient_pairs(held(config, name, model, heads, count), math.ceil(gradients / 2))
                yield Row(config.label, model.title, name, count, gradients, **scores(pairs, exact, own))


def held(
    config: RunConfig,
    method: str,
    model: Model,
    heads: Mapping[str, Tensor] = MappingProxyType({}),
    num_samples: int = 0,
    copies: int = TOGETHER,
    dtype: torch.dtype = torch.float32,
) -> FitLearner:
    """Returns copies of one energy side by side, each with random numbers of its own, as a method would train them.

    Args:
        heads: parameters of the method's own networks, by name.
        num_samples: M; 0 leaves it as the settings have it.
    """
    words = ["task=1d", f"data={config.data_option}", f"method={method}"]
    words += [f"method.num_samples={num_samples}"] if num_samples else []
    setup = dataclasses.replace(compose(words).setup, trainer=config.trainer)
    learner = FitLearner(cast(Any, config.task), setup, range(copies), torch.device("cpu"), dtype=dtype)
    with torch.no_grad():
        for name, values in {"flat": model.flat.unsqueeze(0), **heads}.items():
            learner.parameters[name].copy_(values.expand_as(learner.parameters[name]))
    return learner


def taught_heads(config: RunConfig, method: str, model: Model) -> dict[str, Tensor]:
    """Returns the method's own networks, such as b(x), trained with the energy held fixed: `[1, ...]` by name."""
    learner = held(config, method, model, copies=1)
    own = learner.own.parameters
    if own:
        optimizer = torch.optim.Adam(list(own.values()), lr=HEAD_RATE)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, HEAD_STEPS)
        for step in range(HEAD_STEPS):
            optimizer.zero_grad()
            losses: Tensor = learner.losses(_places(learner, step), step).sum()
            losses.backward()
            optimizer.step()
            scheduler.step()
    return {name: parameter.detach() for name, parameter in own.items()}


def _places(learner: RegressionLearner, number: int) -> Tensor:
    """Returns a random mini-batch for each copy: places of training points, `[S, B]`."""
    return learner.streams.at(number).permutation("laboratory", learner.num_items)[:, : learner.batch_size]


def log_partition(f: Energy, like: Tensor) -> Tensor:
    """Returns `log Z` over [-3, 3] by the trapezoidal rule: for targets `[S, B, 1]`, `[S, B]`."""
    nodes = torch.linspace(LOW, HIGH, NODES, dtype=like.dtype)
    values = f(nodes.unsqueeze(-1).expand(*like.shape[:2], -1, -1))
    return torch.trapezoid((values - values.amax(-1, keepdim=True)).exp(), nodes).log() + values.amax(-1)


def example_gradients(learner: RegressionLearner, loss: Loss) -> Tensor | None:
    """Returns the gradient of a loss at each training point alone, `[N, P]` float64; None where the loss is None."""
    parts = []
    for places in torch.arange(learner.num_items).split(len(learner.seeds)):
        padded = torch.nn.functional.pad(places, (0, len(learner.seeds) - len(places))).unsqueeze(1)
        y = learner.y[padded]
        f, features = learner.stack.bind(learner.x[padded])
        heads = learner.own.heads(features)
        step = Step(learner.streams.at(0), learner.proposal, heads, log_partition=partial(log_partition, like=y))
        values = loss(f, y, step)
        if values is None:
            return None
        (gradient,) = torch.autograd.grad(values.sum(), learner.stack.flat)
        parts.append(gradient[: len(places)].double())
    return torch.cat(parts)


@dataclass(frozen=True)
class Pairs:
    """Gradients of R random mini-batches, each computed twice with independent samples.

    Attributes:
        places: training points of the mini-batches, `[R, B]`.
        gradients: `[2, R, P]` float64.
        milliseconds: processor time of one gradient, median.
    """

    places: Tensor
    gradients: Tensor
    milliseconds: float


def gradient_pairs(learner: RegressionLearner, count: int) -> Pairs:
    """Draws `count` mini-batches, and two gradients of each."""
    visits = VISITS if learner.method.memory(1) else 0
    all_places, gradients, seconds = [], [], []
    for number in range(math.ceil(count / len(learner.seeds))):
        places = _places(learner, number)
        pair = []
        for half in range(2):
            first = (2 * number + half) * (visits + 1)
            with torch.no_grad():
                for name, state in learner.state.items():
                    if name.startswith("memory."):
                        state.fill_(torch.nan)
                for visit in range(visits):
                    learner.losses(places, first + visit)
            started = time.process_time()
            loss = learner.losses(places, first + visits).sum()
            (gradient,) = torch.autograd.grad(loss, learner.stack.flat)
            seconds.append(time.process_time() - started)
            pair.append(gradient.double())
        all_places.append(places)
        gradients.append(torch.stack(pair))
    milliseconds = 1e3 * statistics.median(seconds) / len(learner.seeds)
    return Pairs(torch.cat(all_places)[:count], torch.cat(gradients, dim=1)[:, :count], milliseconds)


def scores(pairs: Pairs, exact: Tensor, own: Tensor | None) -> dict[str, float]:
    """Returns what a row says of gradients.

    Args:
        exact, own: gradients of the likelihood and of the method's own objective at each training point, `[N, P]`.
    """
    whole = exact.mean(0)
    norm = whole.norm()
    at_batches = exact[pairs.places].mean(1)
    both = pairs.gradients.mean(0)
    error = both - at_batches
    bias, bias_error = _norm_of_mean(error)
    own_bias, own_bias_error = (math.nan, math.nan) if own is None else _norm_of_mean(both - own[pairs.places].mean(1))
    sampling = 0.5 * (pairs.gradients[0] - pairs.gradients[1]).square().sum(-1).mean()
    spread = both.var(0).sum() + 0.5 * sampling  # of one gradient: between mini-batches, and within them
    mean = whole + error.mean(0)  # of the exact gradients all points are known, not those of R mini-batches alone
    cosines = torch.nn.functional.cosine_similarity(pairs.gradients, at_batches, dim=-1).mean(0)
    return {
        "exact_norm": norm.item(),
        "bias": bias / norm.item(),
        "bias_error": bias_error / norm.item(),
        "own_bias": own_bias / norm.item(),
        "own_bias_error": own_bias_error / norm.item(),
        "own_cosine": math.nan if own is None else _cosine(own.mean(0), whole),
        "variance": (sampling / norm.square()).item(),
        "snr": (mean.norm() / spread.sqrt()).item(),
        "cosine": cosines.mean().item(),
        "cosine_error": (cosines.std() / math.sqrt(len(cosines))).item(),
        "mean_cosine": _cosine(mean, whole),
        "milliseconds": pairs.milliseconds,
    }


def _norm_of_mean(values: Tensor) -> tuple[float, float]:
    """Returns the norm of the mean of `[R, P]`, less what noise adds to it, and the norm of the noise alone."""
    noise = values.var(0).sum() / len(values)
    return (values.mean(0).square().sum() - noise).clamp(min=0).sqrt().item(), noise.sqrt().item()


def _cosine(one: Tensor, other: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(one, other, dim=0).item()
