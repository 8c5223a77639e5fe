"""Models of `task=regression` in training, and what comes of them."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import ebmbench
from ebmbench.config.compose import compose
from ebmbench.engine.train import Callbacks, CheckpointPlan, train
from ebmbench.system.interrupt import Interrupted, StopFlag
from ebmbench.tasks.examples import read_examples
from ebmbench.tasks.regression import fitting, scoring
from ebmbench.tasks.regression.fitting import FitLearner

CPU = torch.device("cpu")
LINE = """
import numpy as np

def load(scale=1.0, shift=0.0):
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (600, 2))
    y = 2 * x[:, 0] - x[:, 1] + 0.3 * random.standard_normal(600)
    return x, scale * y + shift

def large():
    return load(1000.0, -50.0)
"""
SMALL = ("trainer.epochs=6", "network.width=16", "task.base.nodes=64", "device=cpu", "threads=1")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Data with a known law, `y = 2 x_1 − x_2 + 0.3 ε`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.py").write_text(LINE)
    return "data.function=line.py:load"


def learner(*words: str, seeds: tuple[int, ...] = (0, 1)) -> FitLearner:
    nce = [] if any(word.startswith("model=") for word in words) else ["method=nce", "method.num_samples=16"]
    config = compose(["task=regression", *nce, *SMALL, *words])
    made = config.task.learner(config.setup, seeds, CPU)
    assert isinstance(made, FitLearner)
    return made


def fit(made: FitLearner, folder: Path, stops: tuple[int, ...] = (), again: Any = None) -> FitLearner:
    """Trains; at each of these steps it stops, and a new learner goes on from the checkpoint."""
    folder.mkdir(exist_ok=True)
    plan = CheckpointPlan(folder / "x.ckpt", 0.0, {"run_hash": "hash"})
    for stop_at in [*stops, None]:
        stop = StopFlag()

        def on_step(progress: Any, stop: StopFlag = stop, stop_at: int | None = stop_at) -> None:
            if progress.step == stop_at:
                stop.signum = signal.SIGTERM

        try:
            train(made, plan, Callbacks(lambda *_: None, on_step), stop)
        except Interrupted:
            made = again()
    return made


def test_patience_is_epochs_and_its_default_no_more_of_them_than_4000_steps(line: str) -> None:
    words = ("data=function", line)
    assert learner(*words).patience == 50  # six steps each
    assert learner(*words, "trainer.batch_size=1").patience == 11  # 384 steps each
    assert learner(*words, "trainer.batch_size=1", "trainer.patience=500").patience == 500
    assert learner(*words, "trainer.batch_size=1", "trainer.patience=30").patience == 30
    assert learner(*words, "trainer.batch_size=1", "trainer.patience=null").patience is None


def test_an_interrupted_training_ends_as_an_uninterrupted_one(line: str, tmp_path: Path) -> None:
    def new() -> FitLearner:
        return learner("data=function", line, "trainer.patience=1", "trainer.learning_rate=0.05", "trainer.epochs=12")

    whole = fit(new(), tmp_path / "a")
    parts = fit(new(), tmp_path / "b", stops=(5, 23, 60), again=new)
    assert whole.state["drops"].any()
    assert torch.equal(whole.stack.flat, parts.stack.flat)
    for name, tensor in whole.state.items():
        assert torch.equal(tensor, parts.state[name]), name


def test_a_model_ends_the_same_alone_and_among_others(line: str, tmp_path: Path) -> None:
    """Early stopping included: with a learning rate this high the validation NLL rises soon, not at once for all."""
    words = ("data=function", line, "trainer.learning_rate=0.05", "trainer.patience=1", "trainer.epochs=12")
    many = fit(learner(*words, seeds=(0, 1, 2)), tmp_path / "many")
    assert len(set(many.state["best.epoch"].tolist())) > 1
    together = scoring.score_rows(many.fitted, many.split.test).log_prob
    for place, seed in enumerate((0, 1, 2)):
        alone = fit(learner(*words, seeds=(seed,)), tmp_path / f"one{seed}")
        assert int(alone.state["best.epoch"][0]) == int(many.state["best.epoch"][place])
        # Not the weights: nce does not see a constant in f, so that rounding moves the last bias.
        torch.testing.assert_close(
            scoring.score_rows(alone.fitted, alone.split.test).log_prob[0], together[place], rtol=0, atol=1e-3
        )


def test_the_kept_weights_are_those_with_the_lowest_validation_nll(line: str, tmp_path: Path) -> None:
    made = fit(learner("data=function", line, "trainer.learning_rate=0.05", "trainer.patience=3"), tmp_path)
    torch.testing.assert_close(made.validation_nll(), made.state["best.score"])


@pytest.mark.parametrize("method", ["nce", "dsm", "pcd"])
def test_a_method_can_stop_by_its_own_loss(
    line: str, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No log Z is computed in training."""
    words = (f"method={method}", "trainer.select=own", "trainer.patience=2", "trainer.epochs=4")
    made = learner("data=function", line, *words)
    with monkeypatch.context() as patch:
        patch.setattr(FitLearner, "validation_nll", lambda _: pytest.fail("the NLL was computed"))
        fit(made, tmp_path)
    torch.testing.assert_close(made.validation_loss(), made.state["best.score"])
    assert torch.equal(made.validation_loss(), made.validation_loss())


def test_a_model_whose_patience_is_over_goes_back_and_on_with_a_fifth_of_the_step(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = learner("data=function", line, "trainer.patience=4")
    made.state["best.flat"].fill_(0.5)
    nll = torch.tensor([1.0, 1.0], dtype=torch.float64)
    monkeypatch.setattr(FitLearner, "validation_nll", lambda _: nll)
    alive = torch.ones(2, dtype=torch.bool)
    seen = []
    for epoch in range(12):
        nll[1] = 1.0 - epoch  # always better
        made.end_epoch(alive)
        seen.append((made.state["drops"].tolist(), made.state["ended"].tolist()))
    # The first epoch is the best one of the first model: patience 4, then 2 and 2.
    drops = [0] * 4 + [1] * 2 + [2] * 6
    ended = [False] * 8 + [True] * 4
    assert seen == [([one, 0], [end, False]) for one, end in zip(drops, ended, strict=True)]
    assert made.step_share is not None
    torch.testing.assert_close(made.step_share, torch.tensor([0.04, 1.0]))
    assert torch.equal(made.stack.flat[0], made.state["best.flat"][0])

    full, short = (learner("data=function", line, "trainer.epochs=1", "trainer.batch_size=600") for _ in range(2))
    before = full.stack.flat.detach().clone()
    short.state["step_share"][1] = 0.2
    moved = [fit(one, tmp_path / name).stack.flat.detach() - before for one, name in ((full, "a"), (short, "b"))]
    share = torch.tensor([[1.0], [0.2]])
    torch.testing.assert_close(moved[1], share * moved[0], rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_a_law_with_little_noise_is_not_learned_too_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.py").write_text(LINE.replace("0.3 *", "0.003 *"))
    words = ["task=regression", "data=function", "data.function=line.py:load", "model=gaussian"]
    words += ["model.width=16", "trainer.patience=20", "trainer.learning_rate=0.01", "device=cpu", "threads=1"]
    found = {}
    for drops in (0, 2):
        config = compose([*words, f"trainer.drops={drops}"])
        made = config.task.learner(config.setup, (0, 1), CPU)
        assert isinstance(made, FitLearner)
        found[drops] = scoring.score_rows(fit(made, tmp_path / str(drops)).fitted, made.split.test).log_prob.mean(1)
    best = -math.log(0.003 * math.sqrt(2 * math.pi * math.e))  # of the law itself
    assert (found[0] < best - 1).all()
    assert (found[2] > best - 0.5).all()


def test_the_validation_nll_of_several_targets_is_right_and_the_same_with_draws_that_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("data=laws", "data.dim=2", "data.num_val=150", "data.num_test=6")
    made, fresh = learner(*words), learner(*words)
    first = made.validation_nll()
    monkeypatch.setattr(fitting, "KEPT_DRAWS", 0)
    assert torch.equal(made.validation_nll(), first) and torch.equal(fresh.validation_nll(), first)
    x, y = made.val
    axis = torch.linspace(-13, 13, 261, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    exact = []
    for some in torch.arange(len(x)).split(25):
        f = made.conditionals.bind(x[some])
        log_z = torch.logsumexp(f(grid.expand(2, len(some), -1, -1)), -1) + 2 * math.log(axis[1] - axis[0])
        exact.append(log_z - f(y[some].double().expand(2, -1, -1).unsqueeze(2)).squeeze(-1))
    truth = torch.cat(exact, 1).mean(1)
    torch.testing.assert_close(first, truth, atol=0.05, rtol=0)
    scored = scoring.val_nll(made.fitted) - made.log_slope
    torch.testing.assert_close(scored, truth, atol=0.01, rtol=0)


def test_the_partition_function_of_training_is_unbiased(line: str) -> None:
    made = learner("data=function", line)
    rows = torch.arange(8).expand(2, -1)
    f, _ = made.bind(made.x[rows])
    y = made.y[rows]
    parts = [made.log_partition(made.streams.at(number), y)(f) for number in range(200)]  # type: ignore[misc]
    mean = torch.stack(parts).double().exp().mean(0).log()
    fine = made.conditionals.grids(made.x[:8]).log_z.view(2, 8)
    torch.testing.assert_close(mean, fine, atol=5e-3, rtol=0)


@pytest.mark.parametrize("data", ["laws", "function"])
def test_scores_follow_from_the_density(line: str, data: str) -> None:
    """log p(y|x) of an untrained model by a fine sum; D_KL by a sum over the truth."""
    words = ("data=laws", "data.dim=1", "data.num_test=20") if data == "laws" else ("data=function", line)
    made = learner(*words)
    scores = scoring.score_rows(made.fitted, made.split.test)
    x, y = made.standardised(made.split.test.x, made.split.test.y, CPU)
    grid = torch.linspace(-18, 18, 20_001, dtype=torch.float64)
    f = made.conditionals.bind(x)
    values = f(grid.view(1, 1, -1, 1).expand(2, len(x), -1, -1))
    log_z = torch.logsumexp(values, -1) + math.log(grid[1] - grid[0])
    at_y = f(y.double().view(1, -1, 1, 1).expand(2, -1, -1, -1)).squeeze(-1)
    torch.testing.assert_close(scores.log_prob, at_y - log_z - made.log_slope, atol=2e-3, rtol=0)
    inside = (grid <= y.double()).double()
    pit = ((values - log_z.unsqueeze(-1)).exp() * inside).sum(-1) * (grid[1] - grid[0])
    torch.testing.assert_close(scores.pit, pit, atol=3e-3, rtol=0)
    if data == "laws":
        truth = scoring.Truth(made.split.truth, made.split.test.given, made.scaling)  # type: ignore[arg-type]
        log_true = truth.log_prob(grid.view(1, -1, 1).expand(len(x), -1, -1))
        p = log_true.exp()
        d_kl = (p * (log_true - (values - log_z.unsqueeze(-1)))).nan_to_num().sum(-1) * (grid[1] - grid[0])
        torch.testing.assert_close(scores.d_kl, d_kl, atol=3e-3, rtol=3e-3)


def test_d_kl_of_several_targets_is_right_within_its_error(tmp_path: Path) -> None:
    """Of an untrained model, whose density in two dimensions a fine grid sums."""
    made = learner("data=laws", "data.dim=2", "data.num_test=6", "task.base.samples=4096", seeds=(0,))
    scores = scoring.score_rows(made.fitted, made.split.test)
    x, _ = made.standardised(made.split.test.x, made.split.test.y, CPU)
    axis = torch.linspace(-13, 13, 521, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    values = made.conditionals.bind(x)(grid.expand(1, len(x), -1, -1))
    cell = 2 * math.log(axis[1] - axis[0])
    log_model = values - (torch.logsumexp(values, -1, keepdim=True) + cell)
    truth = scoring.Truth(made.split.truth, made.split.test.given, made.scaling)  # type: ignore[arg-type]
    log_true = truth.log_prob(grid.expand(len(x), -1, -1)).unsqueeze(0)
    d_kl = (log_true.exp() * (log_true - log_model)).nan_to_num().sum(-1) * math.exp(cell)
    assert torch.all((scores.d_kl - d_kl).abs() < 4 * scores.d_kl_error + 0.01)
    assert 0 < float(scores.d_kl_error.max()) < 0.3


def test_the_unit_of_the_target_changes_nothing_but_the_scale(line: str, tmp_path: Path) -> None:
    """`1000 y − 50` has an NLL that is higher by log 1000, and errors that are 1000 times as large."""
    words = ["task=regression", "method=nce", "data=function", "method.num_samples=16", *SMALL]
    small = ebmbench.run(*words, line, "data.name=small")
    large = ebmbench.run(*words, "data.function=line.py:large", "data.name=large")
    one, other = (pd.read_csv(folder / "metrics.csv").iloc[0] for folder in (small, large))
    assert other["nll"] - one["nll"] == pytest.approx(math.log(1000), abs=1e-3)
    assert other["rmse"] / one["rmse"] == pytest.approx(1000, rel=1e-3)
    assert other["crps"] / one["crps"] == pytest.approx(1000, rel=1e-3)
    assert other["coverage_90"] == one["coverage_90"]


@pytest.mark.parametrize("dim", [1, 3])
def test_a_run_keeps_scores_of_rows_from_which_its_metrics_follow(tmp_path: Path, dim: int) -> None:
    words = ["task=regression", "method=nce", "data=laws", f"data.dim={dim}", "+experiment=smoke", *SMALL, "seeds=3"]
    folder = ebmbench.run(
        *words, "data.num_train=100", "data.num_val=20", "data.num_test=40", f"results_dir={tmp_path}"
    )
    metrics = pd.read_csv(folder / "metrics.csv").set_index("seed")
    rows = read_examples(folder)
    assert len(rows) == 3 * 40
    names = json.loads((folder / "model.json").read_text())["targets"]
    assert names == [f"y{k + 1}" for k in range(dim)]
    endings = [""] if dim == 1 else [f"_{name}" for name in names]
    for seed, part in rows.groupby("seed"):
        assert metrics.loc[seed, "nll"] == pytest.approx(-part["log_prob"].mean(), rel=1e-4)
        squares = np.mean([(part[f"mean{end}"] - part[f"y{end}"]) ** 2 for end in endings])
        assert metrics.loc[seed, "rmse"] == pytest.approx(math.sqrt(squares), rel=1e-4)
    by_row = rows.pivot(index="row", columns="seed", values="log_prob").to_numpy()
    mixed = np.log(np.exp(by_row).mean(1))
    assert metrics["ensemble_nll"].tolist() == pytest.approx([-mixed.mean()] * 3, rel=1e-4)
    assert mixed.mean() >= by_row.mean()  # Jensen: the mixture is never worse than its models in the mean
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert figures == {"predictions", "calibration", "training"}


def test_a_loaded_model_says_what_the_run_measured(line: str) -> None:
    words = ["task=regression", "method=nce", "data=function", line, "method.num_samples=16", *SMALL]
    folder = ebmbench.run(*words)
    model = ebmbench.load(folder)[0]
    split = compose(words).task.data.load()  # type: ignore[attr-defined]
    x, y = split.test.x.numpy(), split.test.y[:, 0].numpy()
    metrics = pd.read_csv(folder / "metrics.csv").iloc[0]
    assert -float(model.log_prob(x, y).mean()) == pytest.approx(metrics["nll"], abs=2e-3)
    assert float((model.mean(x) - torch.from_numpy(y)).square().mean().sqrt()) == pytest.approx(
        metrics["rmse"], rel=1e-3
    )
    low, high = model.interval(x, 0.9)
    inside = ((torch.from_numpy(y) >= low) & (torch.from_numpy(y) <= high)).double().mean()
    assert float(inside) == pytest.approx(metrics["coverage_90"], abs=0.02)
    samples = model.sample(x[:5], 20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples.mean(1), model.mean(x[:5]), atol=0.1, rtol=0)
    torch.testing.assert_close(
        model.cdf(x[:5], model.quantile(x[:5], 0.3)), torch.full((5,), 0.3).double(), atol=1e-3, rtol=0
    )
    grid = model.grid
    mass = torch.trapezoid(model.density(x[:5], grid), grid)
    torch.testing.assert_close(mass, torch.ones(5).double(), atol=0.01, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["method=nce", "method=ml-exact", "model=gaussian", "model=mdn"])
def test_trained_models_find_a_linear_law(line: str, model: str) -> None:
    """The least NLL that there is, is that of the noise: `log(0.3 √(2πe))` = 0.215 nats."""
    folder = ebmbench.run(
        "task=regression", model, "data=function", line, "device=cpu", "seeds=2",
        "trainer.epochs=150", "trainer.batch_size=32",
    )  # fmt: skip
    metrics = pd.read_csv(folder / "metrics.csv")
    noise = 0.5 * math.log(2 * math.pi * math.e * 0.3**2)
    assert (metrics["nll"] < noise + 0.25).all(), metrics["nll"]  # 120 test rows, 384 training rows
    assert (metrics["rmse"] < 0.38).all() and (metrics["coverage_90"] - 0.9).abs().max() < 0.1


@pytest.mark.parametrize("model", ["gaussian", "flow"])
def test_draws_of_a_normalised_model_of_two_targets_sum_to_one(model: str) -> None:
    """Its log Z is 0 by construction, and scores take it so; that of its draws must agree."""
    words = [word.replace("network.", "model.") for word in SMALL]
    config = compose(["task=regression", "data=laws", "data.dim=2", "data.num_test=6", f"model={model}", *words])
    made = config.task.learner(config.setup, [0, 1], CPU)
    x, _ = made.standardised(made.split.test.x, made.split.test.y, CPU)
    found = made.conditionals.tempered(x, None, 0)
    assert torch.all(found.log_z.abs() < 5 * found.error + 0.1)
    scores = scoring.score_rows(made.fitted, made.split.test)
    assert torch.all(scores.error == 0) and torch.all(scores.bias == 0)
