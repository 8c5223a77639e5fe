"""Numbers that go wrong are seen where it happens, recorded with step and seed, and in no mean."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.langevin import RUNAWAY, ran_away
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Draws, Streams
from ebmbench.core.step import Step
from ebmbench.engine import runs
from ebmbench.engine.execute import execute, result_rows
from ebmbench.engine.summary import summary
from ebmbench.engine.train import Callbacks, Training, train
from ebmbench.methods.base import Method
from ebmbench.methods.likelihood import MLMCMC
from ebmbench.proposals.mixture import GaussianMixture, gaussian_log_prob
from ebmbench.tasks.regression.fitting import FitLearner
from ebmbench.tasks.regression.task import OneD
from tests.processes import PAPER, small


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else here, and other tests look at them."""
    monkeypatch.setattr(OneD, "figures", lambda self, setup, run_dir: [])


CPU = torch.device("cpu")


def learner(config: RunConfig, seeds: tuple[int, ...] = (0, 1)) -> Any:
    return config.task.learner(config.setup, seeds, CPU)


def loss_of(config: RunConfig, f: Energy, y: Tensor, draws: Draws) -> Tensor:
    return config.method.loss(f, y, Step(draws, config.proposal))


def history_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_seed_is_stopped_and_recorded_and_the_other_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = small("nce", "trainer.epochs=3")
    healthy = compose([*lines, f"results_dir={tmp_path / 'healthy'}"])
    execute(healthy, quiet=True)
    losses = FitLearner.losses
    monkeypatch.setattr(
        FitLearner,
        "losses",
        lambda self, batch, step: losses(self, batch, step) + (torch.tensor([0.0, math.inf]) if step == 4 else 0.0),
    )
    config = compose([*lines, f"results_dir={tmp_path / 'ill'}"])
    execute(config, quiet=True)
    status = runs.read_status(config.run_dir)
    assert status is not None and status.diverged == {"1": 4} and runs.read_state(config.run_dir) == "diverged"
    costs = ("train_seconds", "peak_memory_mb")
    rows, sound = (
        # The mixture of the seeds has one seed less.
        [
            {k: v for k, v in row.items() if k not in costs and not k.startswith("ensemble_")}
            for row in runs.read_metrics(folder)
        ]
        for folder in (config.run_dir, healthy.run_dir)
    )
    assert rows[0] == sound[0]
    assert (rows[1]["diverged"], rows[1]["diverged_step"], rows[1]["trusted"], rows[1]["d_kl"]) == (
        "1",
        "4",
        "0",
        "nan",
    )
    history = {(row["epoch"], row["seed"]): row["loss"] for row in history_of(config.run_dir / "history.csv")}
    assert history["1", "1"] != "nan" and history["2", "1"] == history["3", "1"] == "nan" != history["3", "0"]


def test_a_gradient_whose_square_overflows_stops_the_seed() -> None:
    config = compose(small("nce"))
    problem = learner(config)
    losses, initial = problem.losses, problem.parameters["flat"][1].clone()
    problem.losses = lambda batch, step: losses(batch, step) * torch.tensor([1.0, 1e25])
    problem.num_steps = 2
    progress = train(problem)
    assert progress.diverged_step.tolist() == [-1, 0]
    assert torch.equal(problem.parameters["flat"][1], initial)


@pytest.mark.parametrize("method", ["ml-is", "kld-is", "nce", "nce+"])
def test_a_partition_function_that_vanishes_makes_the_loss_non_finite(method: str) -> None:
    config = compose(["task=1d", f"method={method}", "method.num_samples=8"])
    nowhere = AutogradEnergy(lambda y: y.sum(-1) * 0 - math.inf)
    assert not loss_of(config, nowhere, torch.zeros(1, 4, 1), Streams([0]).at(0)).isfinite().any()


@pytest.mark.parametrize("scale", [1e-300, 1e300, 1e-30])
def test_energies_far_from_zero_are_no_trouble_in_log_space(scale: float) -> None:
    """exp(f) under- or overflows, its logarithm does not: the losses are those of f without the constant."""
    shift = math.log(scale)
    for name in ("ml-is", "nce", "nce+"):
        config = compose(["task=1d", f"method={name}", "method.num_samples=64"])
        y = torch.linspace(-1, 1, 5, dtype=torch.float64).reshape(1, 5, 1)
        plain, shifted = (
            loss_of(config, AutogradEnergy(lambda y, c=c: c - y.square().sum(-1)), y, Streams([0]).at(3))
            for c in (0.0, shift)
        )
        torch.testing.assert_close(plain, shifted, atol=1e-9, rtol=1e-9)


def test_a_chain_that_runs_away_stops_its_seed() -> None:
    start = torch.zeros(3, 2, 1)
    end = start.clone()
    end[0, 1], end[1, 0], end[2, 1] = 2 * RUNAWAY, math.nan, -math.inf
    assert ran_away(start, end).tolist() == [[False, True], [True, False], [False, True]]
    # A bounded energy is finite wherever a chain ends: without the check nothing would be seen.
    method = MLMCMC(num_samples=4, langevin_steps=3, langevin_step=1e5)
    loss = method.loss(AutogradEnergy(lambda y: y.tanh().sum(-1)), torch.zeros(1, 2, 1), Step(Streams([0]).at(0)))
    assert loss.isnan().all()
    config = compose(small("ml-mcmc", "method.langevin_step=100000", "trainer.epochs=2"))
    rows: list[dict[str, Any]] = []
    problem = learner(config)
    progress = train(problem, callbacks=Callbacks(on_epoch=lambda progress, new: rows.extend(new)))
    assert progress.diverged_step.tolist() == [0, 0] and all(math.isnan(row["loss"]) for row in rows)
    assert len(rows) == 2  # one epoch, and no more


def test_weights_that_underflow_leave_the_loss_finite() -> None:
    """p/q of samples far outside p is zero to float32's precision, which is what it is; log Z is in log space."""
    lines = ["task=1d", "method=kld-is", "method.num_samples=16", "method.sigma=0.000001"]
    f = AutogradEnergy(lambda y: -y.square().sum(-1))
    values = loss_of(compose(lines), f, torch.zeros(1, 4, 1), Streams([0]).at(0))
    assert values.isfinite().all()


FAR = ["method.num_samples=2", "method.sigma=0.02", "proposal.stds=[0.3]", "proposal.shared=false"]
"""Samples so few and so far that the importance weights of some examples of a step underflow, and of others not."""


def test_examples_whose_weights_all_underflow_are_those_without_a_pull() -> None:
    """Counted from the loss itself: with f = c it is c − log q's part, minus c times the mean weight."""
    config = compose(["task=1d", "method=kld-is", *FAR])
    y, draws = torch.linspace(-1, 1, 60).reshape(2, 30, 1), Streams([0, 1]).at(3)
    at_zero, at_one = (loss_of(config, AutogradEnergy(lambda y, c=c: y[..., 0] * 0 + c), y, draws) for c in (0.0, 1.0))
    mean_weight = 1 - (at_one - at_zero)
    assert isinstance(config.proposal, GaussianMixture)
    found = underflows(config.method, config.proposal, y, draws)
    assert found.shape == (2, 30) and found.any() and not found.all()
    torch.testing.assert_close(mean_weight[found], torch.zeros_like(mean_weight[found]), atol=1e-6, rtol=0)
    noise = config.proposal.sample_offsets(y, 2, Step(draws))[0].double()
    weights = (gaussian_log_prob(noise, 0.02) - config.proposal.offset_log_prob(noise)).exp().float()
    assert torch.equal(found, (weights == 0).all(-1))  # the definition, in double precision
    shared = config.proposal.model_copy(update={"shared": True})
    assert underflows(config.method, shared, y, draws).shape == (2, 30)


def underflows(method: Method, proposal: Proposal, y: Tensor, draws: Draws) -> Tensor:
    step = Step(draws, proposal)
    method.loss(AutogradEnergy(lambda y: -y[..., 0].square()), y, step)
    return step.counts["underflows"]


def test_underflows_are_recorded_with_seed_and_step(tmp_path: Path) -> None:
    lines = small("kld-is", "trainer.epochs=3", "method.num_samples=2", *FAR[1:])
    config = compose([*lines, f"results_dir={tmp_path}"])
    outcome = execute(config, quiet=True)
    problem = learner(config)
    counts = []
    training = Training(problem)
    for step in range(problem.num_steps):
        training.losses(step)
        counts.append(problem.counts["underflows"].tolist())
    said = summary(outcome, config)
    for seed, row in enumerate(runs.read_metrics(config.run_dir)):
        total, first = sum(c[seed] for c in counts), next(step for step, c in enumerate(counts) if c[seed])
        assert total > 0 and (row["underflows"], row["underflow_step"]) == (str(total), str(first))
        assert f"seed {seed}, first at step {first}: the importance weights of {total} examples underflowed;" in said
        assert row["diverged"] == "0" and math.isfinite(float(row["d_kl"]))
    history = [(row["seed"], int(row["underflows"])) for row in history_of(config.run_dir / "history.csv")]
    assert history == [(str(seed), sum(c[seed] for c in counts[:end])) for end in (3, 6, 9) for seed in (0, 1)]


def test_without_underflow_nothing_is_said_of_it(tmp_path: Path) -> None:
    for name, row in (("kld-is", {"underflows": "0", "underflow_step": ""}), ("nce", {})):
        config = compose([*small(name, "trainer.epochs=1", "method.num_samples=64"), f"results_dir={tmp_path}"])
        assert "importance weights" not in summary(execute(config, quiet=True), config)
        found = [{k: v for k, v in r.items() if "underflow" in k} for r in runs.read_metrics(config.run_dir)]
        assert found == [row, row]


def evaluated(method_lines: list[str], energy: Any, tmp_path: Path) -> dict[str, Any]:
    """The metrics of a given energy in place of a trained one."""
    config = compose([*method_lines, "seeds=1"])
    problem = learner(config, (0,))
    problem.stack.make_energy = lambda layers, x: AutogradEnergy(lambda y: energy(x, y))
    return result_rows(config.task, problem, Training(problem).progress, tmp_path)[0]


def law(sharpness: float, centre: float) -> Any:
    def energy(x: Tensor, y: Tensor) -> Tensor:
        return -0.5 * ((y[..., 0] - centre) / sharpness).square()

    return energy


@pytest.mark.parametrize(
    ("sharpness", "centre", "points", "trusted"),
    [(0.5, 0.0, 257, 1), (0.5, 3.0, 257, 0), (1.0, -2.5, 257, 0), (0.02, 0.0, 17, 0), (0.02, 0.0, 1025, 1)],
)
def test_a_grid_too_narrow_or_too_coarse_is_marked(
    sharpness: float, centre: float, points: int, trusted: int, tmp_path: Path
) -> None:
    lines = small("nce", f"data.grid_points={points}")
    row = evaluated(lines, law(sharpness, centre), tmp_path)
    task = compose(lines).task
    scores = {metric.name: row[metric.name] for metric in task.metrics if metric.name in row}
    assert task.is_trusted(scores) == bool(trusted), row
    assert row["trusted"] == trusted and row["diverged"] == 0


def test_the_uniform_density_reaches_the_edge_of_the_grid(tmp_path: Path) -> None:
    flat, good = (evaluated(small("nce"), f, tmp_path) for f in (lambda x, y: 0 * y[..., 0], law(0.8, 0.0)))
    assert flat["nll"] == pytest.approx(math.log(6)) and good["nll"] < math.log(6) - 0.1
    assert (flat["trusted"], good["trusted"]) == (0, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_energies_that_are_not_finite_are_a_divergence(value: float, tmp_path: Path) -> None:
    """With −inf everywhere the partition function vanishes."""
    row = evaluated(small("nce"), lambda x, y: torch.full_like(y[..., 0], value), tmp_path)
    assert row["diverged"] == 1 and row["trusted"] == 0 and math.isnan(row["d_kl"])
    assert row["diverged_step"] == learner(compose(small("nce")), (0,)).num_steps


def test_every_method_trains_without_reading_from_the_device_in_a_step() -> None:
    """All that is watched is accumulated in tensors: a step calls no `.item()`, which would wait for a GPU."""
    for method in PAPER:
        problem = learner(compose(small(method, "trainer.epochs=1")))
        problem.steps_per_row = 10  # rows are read at the end of an epoch only
        problem.num_steps = 2

        def refuse(tensor: Tensor) -> float:
            raise AssertionError("a step waits for the device")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(problem.optimizer, "step", lambda: None)  # its own affair: on the CPU it reads its counter
            patch.setattr(Tensor, "item", refuse)
            patch.setattr(Tensor, "__bool__", refuse)
            Training(problem).step()
