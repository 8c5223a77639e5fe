"""Training S models side by side: a seed is the same alone or among twenty, and its failure is its own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ebmbench.engine.train import Callbacks, train
from ebmbench.tasks.regression.fitting import FitLearner
from ebmbench.tasks.regression.plane import log_densities
from ebmbench.tasks.regression.scores import grid_kl

from .one_d_problem import NAMES, losses, problem

TWENTY = tuple(range(20))


@pytest.mark.parametrize("name", NAMES)
def test_one_float32_step_of_a_seed_alone_is_its_step_among_twenty(name: str) -> None:
    """Losses and gradients to 1e-4 of their size: a batched product may sum in another order than a single one."""
    together = problem(name, TWENTY)
    all_losses = losses(together, 0)
    all_losses.sum().backward()
    for seed in (0, 7, 19):
        alone = problem(name, (seed,))
        loss = losses(alone, 0)
        loss.sum().backward()
        torch.testing.assert_close(loss[0], all_losses[seed], rtol=1e-4, atol=1e-5)
        one, among = alone.parameters["flat"].grad[0], together.parameters["flat"].grad[seed]
        assert (one - among).norm() <= 1e-4 * among.norm()
        assert among.norm() > 0


@pytest.mark.parametrize("name", NAMES)
def test_200_float64_steps_of_a_seed_alone_are_its_steps_among_twenty(name: str) -> None:
    settings = {"dtype": torch.float64, "num_samples": 4, "batch_size": 8, "epochs": 13}
    together = problem(name, TWENTY, **settings)
    together.num_steps = 200
    start = together.parameters["flat"].clone()
    train(together)
    assert (together.parameters["flat"] - start).abs().max() > 0.05
    for seed in (7,):
        alone = problem(name, (seed,), **settings)
        alone.num_steps = 200
        train(alone)
        difference = (alone.parameters["flat"][0] - together.parameters["flat"][seed]).abs().max()
        assert difference < 1e-8


def test_final_metrics_of_a_seed_alone_are_far_inside_the_spread_between_seeds(tmp_path: Path) -> None:
    together, alone = problem(seeds=range(5), epochs=10), problem(seeds=(3,), epochs=10)
    train(together)
    train(alone)
    rows = together.evaluate(tmp_path, [False] * 5)
    (row,) = alone.evaluate(tmp_path, [False])
    for name in ("d_kl", "nll", "crps", "edge_mass"):
        values = torch.tensor([r[name] for r in rows])
        assert abs(row[name] - rows[3][name]) < 0.01 * values.std().item(), name


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_and_reports_each_epoch(name: str) -> None:
    made = problem(name, (0, 1), epochs=20, learning_rate=3e-3, num_samples=16)
    history: list[dict] = []
    progress = train(made, callbacks=Callbacks(on_epoch=lambda progress, rows: history.extend(rows)))
    assert progress.step == made.num_steps == 160 and progress.alive.all()
    assert [row["epoch"] for row in history] == [epoch for epoch in range(1, 21) for _ in range(2)]
    assert [row["seed"] for row in history[:4]] == [0, 1, 0, 1]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in history)
    if name != "ml-mcmc":  # its loss is a difference of two energies, and no measure of progress
        for seed in (0, 1):
            losses = [row["loss"] for row in history if row["seed"] == seed]
            assert sum(losses[-5:]) < sum(losses[:5])


def test_the_history_s_loss_is_the_mean_over_the_epoch() -> None:
    made, again = (problem(num_train=40, epochs=1) for _ in range(2))
    history: list[dict] = []
    train(made, callbacks=Callbacks(on_epoch=lambda progress, rows: history.extend(rows)))
    seen = []
    for step in range(again.num_steps):
        again.optimizer.zero_grad(set_to_none=False)
        loss = losses(again, step)
        seen.append(loss.item())
        loss.sum().backward()
        again.optimizer.step()
    assert history[0]["loss"] == pytest.approx(sum(seen) / 3, rel=1e-5)
    torch.testing.assert_close(again.parameters["flat"], made.parameters["flat"])


class Injected(FitLearner):
    """The loss of one seed turns non-finite at one step."""

    value, index, at = math.nan, 1, 9

    def losses(self, batch: Tensor, step: int | Tensor) -> Tensor:
        losses = super().losses(batch, step)
        factors = torch.ones(len(self.seeds))
        if step == self.at:
            factors[self.index] = self.value
        return losses * factors


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_turns_non_finite_stops_its_seed_and_no_other(value: float) -> None:
    seeds = (4, 2, 6)
    clean, injected = (problem("nce+", seeds, epochs=4) for _ in range(2))
    injected.__class__ = Injected
    injected.value = value
    stopped_at = problem("nce+", seeds, epochs=4)
    stopped_at.num_steps = 9
    train(clean)
    train(stopped_at)
    progress = train(injected)
    assert progress.diverged_step.tolist() == [-1, 9, -1]
    assert progress.step == injected.num_steps == 32
    flat = injected.parameters["flat"]
    for index in (0, 2):
        assert torch.equal(flat[index], clean.parameters["flat"][index])
    # The stopped seed keeps the parameters that it had before the step that failed.
    assert torch.equal(flat[1], stopped_at.parameters["flat"][1])
    assert not torch.equal(flat[1], clean.parameters["flat"][1])


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_whose_weights_overflow_stops_alone(name: str) -> None:
    """A real overflow, in the weights themselves, not an injected number."""
    clean, broken = (problem(name, (0, 1), epochs=2) for _ in range(2))
    with torch.no_grad():
        broken.parameters["flat"][1] = 1e38
    train(clean)
    progress = train(broken)
    assert progress.diverged_step.tolist() == [-1, 0]
    assert torch.equal(broken.parameters["flat"][0], clean.parameters["flat"][0])
    assert (broken.parameters["flat"][1] == 1e38).all()


def test_training_ends_when_no_seed_is_left() -> None:
    made = problem(seeds=(0, 1), epochs=50)
    with torch.no_grad():
        made.parameters["flat"].fill_(math.nan)
    progress = train(made)
    assert progress.step == made.steps_per_row
    assert progress.diverged_step.tolist() == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ml-is", "nce", "nce+", "kld-is"])
def test_the_real_network_learns_a_gaussian_law_when_data_are_plenty(name: str) -> None:
    """N(sin x, 0.3²) of 20 000 points. What nce+ and kld-is add is below 1 % of 0.3²."""
    settings = {"num_samples": 64, "num_train": 20_000, "batch_size": 64, "epochs": 10, "learning_rate": 5e-3}
    made = problem(name, **settings)
    noise = made.streams.at(0).normal("the law", (1, 20_000))[0]
    made.y = made.x.sin() + 0.3 * noise.unsqueeze(-1)
    made.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(made.optimizer, made.num_steps)
    assert train(made).alive.all()
    x, y = torch.linspace(-2.9, 2.9, 59).double(), torch.linspace(-3, 3, 513).double()
    log_true = -0.5 * ((y - x.sin().unsqueeze(1)) / 0.3).square() - math.log(0.3 * math.sqrt(2 * math.pi))
    d_kl = grid_kl(log_true, log_densities(made.fitted, x.unsqueeze(1), y)[0], 6 / 512).mean().item()
    assert d_kl < 0.02
