"""What a 1D problem trains on, and how its models are scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from ebmbench.config.compose import compose
from ebmbench.core.batches import Batches
from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.step import Step
from ebmbench.engine import runs
from ebmbench.engine.execute import execute, result_rows
from ebmbench.engine.summary import summary, table
from ebmbench.engine.train import Training
from ebmbench.models.networks.paper import Parameters
from ebmbench.tasks.base import LEAST_GAIN
from ebmbench.tasks.examples import read_examples
from ebmbench.tasks.regression.data.paper import PaperLaw
from ebmbench.tasks.regression.fitting import FitLearner
from tests.comparison import EXAMPLES
from tests.processes import small

from .one_d_problem import NAMES, losses, problem, setup, task
from .test_network import textbook_of

EnergyFunction = Callable[[Parameters, Tensor], Energy]


FILES = {"calibration.csv", "densities.npz", "ensemble.csv", "model.json", "pictures.npz", EXAMPLES}


def rows_of(made: FitLearner, folder: Path, stopped: Sequence[int] = ()) -> list[dict[str, Any]]:
    """The rows of metrics.csv of an untrained learner; `stopped` are steps at which its seeds diverged."""
    progress = Training(made).progress
    progress.diverged_step = torch.tensor(stopped or [-1] * len(made.seeds))
    return result_rows(made.task, made, progress, folder)


def batches(made: FitLearner) -> Batches:
    return Training(made).batches


def with_energy(energy: EnergyFunction, **settings: Any) -> FitLearner:
    """A learner with another energy in the network's place."""
    made = problem(**settings)
    made.stack.make_energy = energy  # type: ignore[attr-defined]
    return made


def exact_energy(dataset: int, noise: float = 0.0) -> EnergyFunction:
    """The truth in the network's place, at an arbitrary level."""

    def energy(parameters: Parameters, x: Tensor) -> Energy:
        def f(y: Tensor) -> Tensor:
            return PaperLaw(dataset, noise).log_prob(x.unsqueeze(-1), y).clamp(min=-300) + 40

        return AutogradEnergy(f)

    return energy


# ------------------------------------------------------------------------------------------ what it trains on


def test_an_epoch_visits_every_point_once_and_keeps_the_last_short_batch() -> None:
    made = problem(seeds=(0, 1), num_train=50, batch_size=16)
    assert made.steps_per_row == 4 and made.num_steps == 8
    found = [batches(made).at(step) for step in range(8)]
    assert [b.shape for b in found[:4]] == [(2, 16), (2, 16), (2, 16), (2, 2)]
    first, second = torch.cat(found[:4], 1), torch.cat(found[4:], 1)
    for epoch in (first, second):
        assert torch.equal(epoch.sort(1).values, torch.arange(50).expand(2, -1))
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_a_batch_is_a_function_of_the_step_alone() -> None:
    made = problem(num_train=50)
    late, early = batches(made).at(7).clone(), batches(made).at(0).clone()
    fresh = problem(num_train=50)
    assert torch.equal(batches(fresh).at(0), early) and torch.equal(batches(fresh).at(7), late)


def test_all_methods_see_the_same_data_weights_and_mini_batches() -> None:
    seeds = (3, 5)
    reference = problem("nce+", seeds)
    assert not torch.equal(reference.parameters["flat"][0], reference.parameters["flat"][1])
    for name in NAMES:
        made = problem(name, seeds)
        assert torch.equal(made.parameters["flat"], reference.parameters["flat"])
        assert torch.equal(made.y, reference.y) and torch.equal(made.x, reference.x)
        assert all(torch.equal(batches(made).at(step), batches(reference).at(step)) for step in range(made.num_steps))


def test_methods_with_the_same_proposal_draw_the_same_samples() -> None:
    """So that nce and nce+ differ in the annotation noise alone."""
    seen: dict[str, Tensor] = {}
    for name in ("nce", "nce+"):
        made = problem(name)
        assert made.proposal is not None
        noise = made.proposal.sample_offsets(made.y[:4].view(1, 4, 1), 16, Step(made.streams.at(0)))[0]
        seen[name] = noise
    assert torch.equal(seen["nce"], seen["nce+"])


def test_losses_are_the_method_s_on_the_textbook_network() -> None:
    made = problem("nce", seeds=(0, 4), dtype=torch.float64)
    together = losses(made, 3)
    batch = batches(made).at(3)
    for index, seed in enumerate((0, 4)):
        model = textbook_of(made.stack.views(), index)
        x, y = made.x[batch[index], 0], made.y[batch[index]].view(1, -1, 1)
        f = AutogradEnergy(lambda v, model=model, x=x: model(x, v[0, ..., 0]).unsqueeze(0))
        alone = made.method.loss(f, y, Step(problem(seeds=(seed,)).streams.at(3), made.proposal)).mean()
        torch.testing.assert_close(together[index], alone, rtol=1e-12, atol=0)


def test_layers_are_views_of_the_one_tensor_which_gets_all_their_gradients() -> None:
    made = problem(seeds=(0, 1))
    flat = made.parameters["flat"]
    losses(made, 0).sum().backward()
    parts = flat.grad.split([p[0].numel() for p in made.stack.views().values()], dim=1)
    bias = list(made.stack.views()).index("out.bias")  # adds the same to every logit
    assert all((part != 0).any() for k, part in enumerate(parts) if k != bias)
    assert torch.equal(torch.cat([p.flatten(1) for p in made.stack.views().values()], 1), flat)
    with torch.no_grad():
        flat.fill_(2.0)
    assert all((p == 2).all() for p in made.stack.views().values())


# ------------------------------------------------------------------------------------------ how it is scored


def test_scores_of_a_network_are_what_scipy_makes_of_the_textbook_module(tmp_path: Path) -> None:
    made = problem(seeds=(2, 9), dtype=torch.float64, num_test=12, num_val=5, grid_points=513)
    with torch.no_grad():
        made.parameters["flat"].mul_(2)  # not so flat a density
    row = rows_of(made, tmp_path)[1]
    assert row["seed"] == 9 and row["diverged"] == 0 and row["diverged_step"] == ""
    model = textbook_of(made.stack.views(), 1)

    @torch.no_grad()
    def f(x: float, y: np.ndarray) -> np.ndarray:
        return model(torch.tensor([x]).double(), torch.from_numpy(np.atleast_1d(y)).double()[None])[0].numpy()

    def log_partition(x: float) -> float:
        return math.log(integrate.quad(lambda y: math.exp(f(x, y).item()), -3, 3, epsabs=1e-12)[0])

    for name, points in (("nll", made.split.test), ("val_nll", made.split.val)):
        pairs = list(zip(points.x[:, 0].tolist(), points.y[:, 0].tolist(), strict=True))
        expected = np.mean([log_partition(x) - f(x, y).item() for x, y in pairs])
        assert row[name] == pytest.approx(expected, abs=2e-5)
    assert 0 < row["nll_error"] < 1e-4
    test = made.split.test
    pit, crps = [], []
    for x, y in zip(test.x[:, 0].tolist(), test.y[:, 0].tolist(), strict=True):
        grid = np.linspace(-3, 3, 20_001)
        density = np.exp(f(x, grid) - log_partition(x))
        distribution = integrate.cumulative_trapezoid(density, grid, initial=0)
        pit.append(np.interp(y, grid, distribution))
        crps.append(np.trapezoid((distribution - (grid >= y)) ** 2, grid))
    assert row["crps"] == pytest.approx(np.mean(crps), abs=2e-4)
    assert row["coverage_50"] == np.mean([0.25 <= p <= 0.75 for p in pit])
    assert row["coverage_90"] == np.mean([0.05 <= p <= 0.95 for p in pit])

    grid = np.linspace(-3, 3, 513)  # D_KL as published
    values = []
    for x in grid:
        p = PaperLaw(1).log_prob(torch.tensor([[x]]), torch.from_numpy(grid).view(1, -1, 1))[0].exp().numpy() + 1e-30
        q = np.exp(f(x, grid))
        p, q = p / (p.sum() * 6 / 512), q / (q.sum() * 6 / 512)
        values.append((p * np.log(p / q)).sum() * 6 / 512)
    assert row["d_kl"] == pytest.approx(np.mean(values), rel=1e-6)
    assert row["d_kl_noisy"] == row["d_kl"] and row["nll_noisy"] == row["nll"]


@pytest.mark.parametrize("dataset", [1, 2])
def test_the_truth_scores_as_the_truth(tmp_path: Path, dataset: int) -> None:
    made = with_energy(
        exact_energy(dataset),
        dtype=torch.float64,
        dataset=dataset,
        num_test=4000,
        num_val=1000,
        grid_points=1025,
    )
    row = rows_of(made, tmp_path)[0]
    assert abs(row["d_kl"]) < 1e-5
    test = made.split.test
    assert row["nll"] == pytest.approx(row["nll_true"], abs=1e-4)
    assert row["nll_error"] < 1e-3 and row["edge_mass"] < 1e-6
    assert row["coverage_50"] == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(4000))
    assert row["coverage_90"] == pytest.approx(0.9, abs=4 * 0.3 / math.sqrt(4000))
    assert row["trusted"] == 1
    if dataset == 2:  # E CRPS of a Gaussian under itself is s/√π
        s = 0.15 / (1 + np.exp(-test.x.numpy()))
        assert row["crps"] == pytest.approx((s / math.sqrt(math.pi)).mean(), rel=0.04)
    task().finish(setup(), tmp_path, [(0,)])
    curve = pd.read_csv(tmp_path / "calibration.csv")
    assert (curve["coverage"] - curve["level"]).abs().max() < 0.035


def test_noisy_scores_are_against_the_noisy_law(tmp_path: Path) -> None:
    """With noise that carries some targets out of the interval, where no model has a density."""
    noise = 0.8
    made = with_energy(
        exact_energy(1, noise),
        dtype=torch.float64,
        target_noise=noise,
        num_test=1500,
        num_val=50,
        grid_points=129,
    )
    row = rows_of(made, tmp_path)[0]
    assert abs(row["d_kl_noisy"]) < 1e-3 < 0.1 < row["d_kl"]
    assert math.isfinite(row["nll_noisy"]) and row["nll_noisy"] > row["nll"]


def test_a_model_that_leans_on_the_edge_is_not_trusted(tmp_path: Path) -> None:
    def leaning(parameters: Parameters, x: Tensor) -> Energy:
        return AutogradEnergy(lambda y: 10 * y.squeeze(-1))

    def sharp(parameters: Parameters, x: Tensor) -> Energy:
        return AutogradEnergy(lambda y: -0.5 * (y.squeeze(-1) / 0.004).square().clamp(max=1e4))

    lean = rows_of(with_energy(leaning, dtype=torch.float64), tmp_path)[0]
    assert lean["edge_mass"] == pytest.approx(1 - math.exp(-0.6), rel=1e-2) and lean["trusted"] == 0
    peak = rows_of(with_energy(sharp, dtype=torch.float64), tmp_path)[0]
    assert peak["edge_mass"] < 0.01 and peak["nll_error"] < 1e-3  # the nodes are where the peak is


def test_a_seed_that_diverged_is_a_row_of_its_own(tmp_path: Path) -> None:
    rows = rows_of(problem(seeds=(0, 1, 2)), tmp_path, [-1, 5, -1])
    assert [row["diverged"] for row in rows] == [0, 1, 0]
    assert rows[1]["diverged_step"] == 5 and rows[1]["trusted"] == 0
    assert math.isnan(rows[1]["d_kl"]) and math.isfinite(rows[2]["d_kl"])
    arrays = np.load(tmp_path / "densities.0.npz")
    assert np.isnan(arrays["model"][1]).all() and np.isfinite(arrays["model"][[0, 2]]).all()


def test_the_picture_s_densities_are_densities(tmp_path: Path) -> None:
    rows_of(problem(seeds=(0, 1)), tmp_path)
    arrays = np.load(tmp_path / "densities.0.npz")
    assert arrays["model"].shape == (2, len(arrays["x"]), len(arrays["y"]))
    for values in (arrays["true"][None], arrays["model"]):
        mass = np.trapezoid(values.astype(float), arrays["y"], axis=-1)
        np.testing.assert_allclose(mass, 1, atol=2e-3)


def test_a_run_in_two_parts_ends_in_the_same_files_as_in_one(tmp_path: Path) -> None:
    for name, groups in (("one", [(0, 1, 2)]), ("two", [(0, 1), (2,)])):
        (tmp_path / name).mkdir()
        for seeds in groups:
            rows_of(problem(seeds=seeds, dtype=torch.float64), tmp_path / name)
        task().finish(setup(), tmp_path / name, groups)
        task().finish(setup(), tmp_path / name, groups)  # again, as after an interruption
        assert {p.name for p in (tmp_path / name).iterdir()} == FILES
    one, two = (np.load(tmp_path / name / "densities.npz") for name in ("one", "two"))
    assert one["seeds"].tolist() == two["seeds"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(one["model"], two["model"], rtol=2e-3)
    tables = [pd.read_csv(tmp_path / name / "calibration.csv") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*tables)
    pd.testing.assert_frame_equal(*(read_examples(tmp_path / name) for name in ("one", "two")), rtol=1e-5)


def test_the_scores_of_single_points_are_those_of_the_metrics(tmp_path: Path) -> None:
    rows = rows_of(problem(seeds=(3, 5)), tmp_path)
    task().finish(setup(), tmp_path, [(3, 5)])
    examples = read_examples(tmp_path)
    assert len(examples) == 2 * examples["row"].nunique()
    for seed, row in zip((3, 5), rows, strict=True):
        of_seed = examples[examples["seed"] == seed]
        assert -of_seed["log_prob"].mean() == pytest.approx(row["nll"], rel=1e-5)
        assert ((of_seed["pit"] - 0.5).abs() <= 0.45).mean() == pytest.approx(row["coverage_90"], abs=1e-6)


def test_test_points_follow_the_law_that_is_scored() -> None:
    made = problem(num_test=5000)
    test = made.split.test
    right = test.y[test.x >= 0].numpy()
    assert stats.kstest(right, stats.lognorm(s=0.25, loc=-1).cdf).pvalue > 0.005


def test_a_model_no_better_than_the_uniform_density_is_named(tmp_path: Path) -> None:
    """A learning rate of 10 leaves a flat energy, whose loss and scores are finite."""
    config = compose([*small("nce", "trainer.learning_rate=10", "trainer.epochs=3"), f"results_dir={tmp_path}"])
    execute(config, quiet=True)
    rows = runs.read_metrics(config.run_dir)
    assert [row["diverged"] for row in rows] == ["0", "0"]
    assert all(float(row["nll"]) > math.log(6) - LEAST_GAIN for row in rows)
    base = {"nll_base": math.log(6)}
    assert config.task.is_uninformed({"nll": math.log(6), **base})
    assert not config.task.is_uninformed({"nll": 1.5, **base})
    assert "no better than the uniform density" in summary(execute(config, quiet=True), config)
    regression = compose(["task=regression", "method=nce"])
    assert regression.task.is_uninformed({"nll": 1.0, "nll_base": 1.0})
    assert not regression.task.is_uninformed({"nll": 0.9, "nll_base": 1.0})
    row = {"seed": "0", "diverged": "0", "trusted": "1", "nll": "1.0", "nll_base": "1.0", "crps": "0.5"}
    other = {"seed": "1", "trusted": "0", "nll": "0.5", "nll_error": "9.0"}
    said = table([row | {"nll_error": "0.0"}, row | other], regression)
    assert "no better than the base density: seed 0\n" in said
    assert "unreliable scores: seed 1 (the error of log Z is too large)" in said


def test_the_noise_of_nce_plus_on_targets_is_below_the_narrowest_proposal() -> None:
    """A table's law may be that narrow: its density would be widened to the noise."""
    for data in ("table", "uci", "diabetes"):
        config = compose(["task=regression", f"data={data}", "method=nce+"])
        method, proposal = config.method.plain(), config.proposal.plain() if config.proposal else {}
        assert method["beta"] * max(proposal["stds"]) < min(proposal["stds"])
