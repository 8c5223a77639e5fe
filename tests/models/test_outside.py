"""Models that another library trains: fitted, scored, kept and loaded as all others are."""

from __future__ import annotations

import math
import pickle
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ebmbench
from ebmbench.cli.main import main
from ebmbench.config.compose import compose
from ebmbench.core.errors import UserError
from ebmbench.models.outside import Rows
from ebmbench.models.treeffuser import Treeffuser, _boxes, _kernel_density, _predict, _tabulate
from ebmbench.sweep import trials
from ebmbench.tasks.examples import read_examples

pytestmark = pytest.mark.usefixtures("one_thread")

PLUGIN = '''
import numpy as np
from pydantic import Field
from ebmbench import Outside, register

@register
class Line(Outside):
    """Least squares, and a Gaussian of the residuals."""

    name = "line"
    tuning = {"model.ridge": (1e-3, 10.0)}
    ridge: float = Field(1e-3, gt=0, description="added to the squares")

    def fit(self, train, val, seed, report):
        report(1, 1)
        x = np.concatenate((train.x, np.ones((len(train.x), 1))), 1).astype(float)
        weights = np.linalg.solve(x.T @ x + self.ridge * np.eye(x.shape[1]), x.T @ train.y)
        return {"weights": weights, "std": (train.y - x @ weights).std(0), "seed": np.array(seed)}

    def density(self, fitted, x):
        mean = (x @ fitted["weights"][:-1] + fitted["weights"][-1])[:, None]
        std = fitted["std"] * (1 + 0.01 * fitted["seed"])
        return lambda y: -(0.5 * ((y - mean) / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi)).sum(-1)
'''
DATA = """
import numpy as np

def load():
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (1500, 2))
    std = 0.2 + 0.3 * (x[:, 1] > 0)
    return x, 10 + 5 * (np.sin(2 * x[:, 0]) + std * random.standard_normal(1500))
"""
WORDS = ("task=regression", "device=cpu", "threads=1", "+experiment=smoke")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.py").write_text(PLUGIN)
    (tmp_path / "waves.py").write_text(DATA)
    return tmp_path


def table(path: Path, count: int = 400, targets: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(1)
    frame = pd.DataFrame({"a": random.normal(size=count), "b": random.normal(size=count)})
    for k in range(targets):
        frame[f"y{k}"] = 100 + 20 * frame["a"] - 5 * k * frame["b"] + 7 * random.normal(size=count)
    frame.to_csv(path, index=False)
    return frame


def test_a_plug_in_is_scored_kept_and_loaded_as_a_network_is(folder: Path) -> None:
    frame = table(folder / "t.csv")
    run_dir = ebmbench.run(
        *WORDS, "model=line", "plugins=[line.py]", "data=table", "data.path=t.csv", "seeds=[0,9]", "results_dir=r"
    )
    scores = pd.read_csv(run_dir / "metrics.csv")
    truth = math.log(7) + 0.5 * math.log(2 * math.pi * math.e)
    assert abs(scores["nll"] - truth).max() < 0.15 and scores["trusted"].all()
    assert (scores["energy_evaluations"] == 0).all() and scores["ensemble_nll"].nunique() == 1
    assert len(pd.read_csv(run_dir / "history.csv")) == 2  # a row for each seed
    models = ebmbench.load(run_dir)
    rows = read_examples(run_dir)
    part = rows[rows["seed"] == 9]
    known = frame.iloc[part["row"]]
    np.testing.assert_allclose(models[9].log_prob(known, known["y0"]), part["log_prob"], rtol=1e-6)
    assert main(["predict", str(run_dir), "t.csv", "-o", "out.csv", "--level", "0.9"]) == 0
    out = pd.read_csv("out.csv")
    inside = (frame["y0"] >= out["low"]) & (frame["y0"] <= out["high"])
    assert 0.85 < inside.mean() < 0.95 and (out["mean"] - frame["y0"]).std() < 8
    assert ebmbench.run(
        *WORDS, "model=line", "plugins=[line.py]", "data=table", "data.path=t.csv", "seeds=[0,9]", "results_dir=r"
    ) == run_dir  # fmt: skip


def test_several_targets(folder: Path) -> None:
    table(folder / "t.csv", targets=2)
    run_dir = ebmbench.run(
        *WORDS, "model=line", "plugins=[line.py]", "data=table", "data.path=t.csv", "data.targets=[y0,y1]",
        "results_dir=r", "task.base.samples=256",
    )  # fmt: skip
    scores = pd.read_csv(run_dir / "metrics.csv").iloc[0]
    assert abs(scores["nll"] - 2 * (math.log(7) + 0.5 * math.log(2 * math.pi * math.e))) < 0.3
    assert scores["energy_score"] > 0 and main(["predict", str(run_dir), "t.csv", "-o", "out.csv"]) == 0
    assert {"low_y0", "high_y1", "log_prob"} <= set(pd.read_csv("out.csv"))


def test_the_divergence_from_a_known_law(folder: Path) -> None:
    run_dir = ebmbench.run(
        *WORDS, "model=line", "plugins=[line.py]", "data=laws", "data.dim=1", "data.num_train=500", "results_dir=r"
    )
    scores = pd.read_csv(run_dir / "metrics.csv").iloc[0]
    assert 0 < scores["d_kl"] < 5 and abs(scores["d_kl"] - (scores["nll"] - scores["nll_true"])) < 0.3


def test_a_sweep_has_it_beside_an_energy_in_one_table(folder: Path) -> None:
    table(folder / "t.csv", 120)
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "both.yaml").write_text(
        """# @package _global_
defaults:
  - override /size: smoke
  - override /task: regression
  - override /data: table
plugins: [line.py]
hydra:
  sweeper:
    params:
      method: nce
      network: mlp
      data.path: t.csv
sweep:
  name: both
  description: A library's model beside an energy.
  also: [{model: line, ~method: , ~network: }]
  tables: [scores]
  figures: []
"""
    )
    assert main(["sweep", "submit", "both", "results_dir=r"]) == 0
    assert main(["sweep", "collect", "both", "results_dir=r"]) == 0
    scores = (folder / "r" / "both" / "tables.md").read_text()
    assert "| line" in scores and "| nce" in scores
    results = ebmbench.results("r/both")
    assert set(results["method"]) == {"line", "nce"}
    assert results["nll"].notna().all() and results["crps"].notna().all()


def test_tune_searches_its_own_settings_and_not_the_trainer_s(folder: Path) -> None:
    space = trials.space(compose([*WORDS, "model=line", "plugins=[line.py]"]))
    assert set(space) == {"model.ridge"}
    assert "trainer.learning_rate" in trials.space(compose([*WORDS, "model=gaussian"]))


def test_another_method_is_one_sentence(folder: Path) -> None:
    with pytest.raises(UserError, match="method=nce contradicts model=line, which is no energy; leave method out"):
        ebmbench.run("task=regression", "method=nce", "model=line", "plugins=[line.py]", "results_dir=r")


@pytest.mark.parametrize(
    ("name", "body", "sentence"),
    [
        ("unlucky", "raise ValueError('no luck')", r"model=unlucky could not be fitted \(ValueError: no luck\)"),
        ("odd", "return {'model': object()}", "model=odd: fit must return arrays of numbers, and 'model' is object"),
    ],
)
def test_a_library_that_fails_is_one_sentence(folder: Path, name: str, body: str, sentence: str) -> None:
    (folder / f"{name}.py").write_text(PLUGIN.replace("report(1, 1)", body).replace('"line"', f'"{name}"'))
    with pytest.raises(UserError, match=sentence):
        ebmbench.run(*WORDS, f"model={name}", f"plugins=[{name}.py]", "results_dir=r")


@pytest.mark.parametrize("name", ["ngboost", "treeffuser"])
def test_a_library_that_is_not_installed_is_one_sentence(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"the package {name} is not installed; .*pip install 'ebmbench\[outside\]'"):
        ebmbench.run(*WORDS, f"model={name}", "results_dir=r")


def truth() -> tuple[np.ndarray, np.ndarray, float]:
    """Test rows of the law of `waves.py`, and the NLL of the truth there."""
    random = np.random.default_rng(5)
    x = random.uniform(-1, 1, (400, 2))
    mean, std = 10 + 5 * np.sin(2 * x[:, 0]), 5 * (0.2 + 0.3 * (x[:, 1] > 0))
    y = mean + std * random.normal(size=400)
    return x, y, float(np.mean(0.5 * ((y - mean) / std) ** 2 + np.log(std) + 0.5 * math.log(2 * math.pi)))


def test_ngboost_recovers_a_gaussian_law_and_needs_no_library_to_be_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ngboost")
    words = (*WORDS, "model=ngboost", "model.learning_rate=0.05", "data=function", "data.function=waves.py:load")
    first = ebmbench.load(ebmbench.run(*words, "results_dir=a"))[0]
    again = ebmbench.load(ebmbench.run(*words, "results_dir=b"))[0]
    monkeypatch.setitem(sys.modules, "ngboost", None)
    x, y, known = truth()
    nll = -float(first.log_prob(x, y).mean())
    assert known - 0.02 < nll < known + 0.12, (nll, known)
    assert torch.equal(first.log_prob(x, y), again.log_prob(x, y))
    assert torch.equal(pickle.loads(pickle.dumps(first)).mean(x), first.mean(x))


def test_ngboost_s_arrays_give_what_the_library_gives(folder: Path) -> None:
    ngboost = pytest.importorskip("ngboost")
    from sklearn.tree import DecisionTreeRegressor

    from ebmbench.models.ngboost import NGBoost

    random = np.random.default_rng(0)
    x = random.normal(size=(300, 3)).astype(np.float32)
    y = x[:, :1].astype(np.float64) ** 2 + 0.3 * random.normal(size=(300, 1))
    made = NGBoost(trees=40, depth=2, columns=0.7, patience=None)
    fitted = made.fit(Rows(x[:200], y[:200]), Rows(x[200:], y[200:]), 4, lambda done, total: None)
    theirs = ngboost.NGBRegressor(
        Base=DecisionTreeRegressor(max_depth=2, min_samples_leaf=1), n_estimators=40, learning_rate=0.02,
        col_sample=0.7, random_state=4, verbose=False,
    )  # fmt: skip
    theirs.fit(x[:200], y[:200, 0], x[200:], y[200:, 0])
    best = theirs.best_val_loss_itr + 1
    expected = theirs.pred_dist(x, max_iter=best).logpdf(y[:, 0])
    np.testing.assert_allclose(made.density(fitted, x)(y[:, None])[:, 0], expected, rtol=1e-9)


def test_treeffuser_recovers_a_gaussian_law_roughly(folder: Path) -> None:
    pytest.importorskip("treeffuser")
    words = (*WORDS, "model=treeffuser", "model.trees=150", "data=function", "data.function=waves.py:load")
    state = np.random.get_state()[1].tolist()
    model = ebmbench.load(ebmbench.run(*words, "results_dir=a"))[0]
    assert np.random.get_state()[1].tolist() == state
    x, y, known = truth()
    nll = -float(model.log_prob(x, y).mean())
    assert known - 0.02 < nll < known + 0.25, (nll, known)
    alone, among = model.log_prob(x[:1], y[:1]), model.log_prob(x[:3], y[:3])[:1]
    torch.testing.assert_close(alone, among)


def test_treeffuser_s_draws_follow_the_library_s() -> None:
    """Quartiles of draws, against the library's own sampler on the same trees.

    With a seed the library uses the same numbers for the start and for the first step, so it has none here.
    """
    treeffuser = pytest.importorskip("treeffuser")
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (400, 1))
    y = np.sign(x) + 0.3 * random.normal(size=(400, 1))
    theirs = treeffuser.Treeffuser(n_estimators=40, early_stopping_rounds=None, eval_percent=None, seed=0, n_jobs=1)
    theirs.fit(x, y)
    text = theirs.score_model.models[0].booster_.model_to_string()
    fitted = {"sigma": np.array([0.01, 20.0]), "trees.0": np.frombuffer(zlib.compress(text.encode()), np.uint8)}
    new = np.array([[-0.5], [0.5]])
    draws = Treeffuser(samples=1000)._draws(fitted, (new - x.mean(0)) / x.std(0), 1)[..., 0] * y.std() + y.mean()
    samples = theirs.sample(new, 1000, n_parallel=1000)[..., 0].T
    for part in (0.25, 0.5, 0.75):
        np.testing.assert_allclose(np.quantile(draws, part, 1), np.quantile(samples, part, 1), atol=0.1)


def test_treeffuser_s_table_is_the_library_s_sum_of_trees() -> None:
    """At random y, at the steps themselves, and far outside; the third feature has no step."""
    lightgbm = pytest.importorskip("lightgbm")
    random = np.random.default_rng(0)
    rows = np.column_stack((random.normal(size=(2000, 2)), np.zeros(2000), random.uniform(0, 1, (2000, 2))))
    target = np.sin(3 * rows[:, 0]) * rows[:, 4] + rows[:, 1] + rows[:, 3] ** 2
    text = lightgbm.train({"verbose": -1, "num_leaves": 13}, lightgbm.Dataset(rows, target), 30).model_to_string()
    x, times = rows[:7, 1:4], 1 - np.arange(20) / 20
    boxes = _boxes(text, 5)
    y = np.concatenate((random.normal(size=(7, 30)), random.choice(boxes.edges[:-1], (7, 30)), [[-99, 99]] * 7), 1)
    ours, theirs = _tabulate(boxes, x, times), _predict([text], x, times)
    for step in range(20):
        np.testing.assert_allclose(ours(step, y[..., None]), theirs(step, y[..., None]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dim", [1, 3])
def test_a_kernel_density_is_the_mean_of_its_kernels_and_of_a_standard_normal(dim: int) -> None:
    from scipy.stats import multivariate_normal

    random = np.random.default_rng(0)
    draws, y = random.normal(size=(2, 50, dim)), random.normal(size=(2, 4, dim))
    values = _kernel_density(draws, 1.3)(y)
    for row in range(2):
        quarter = np.quantile(draws[row], 0.75, axis=0) - np.quantile(draws[row], 0.25, axis=0)
        scale = 1.3 * np.minimum(draws[row].std(0), quarter / 1.34) * 50 ** (-1 / (dim + 4))
        each = [multivariate_normal(d, np.diag(scale**2)).pdf(y[row]) for d in draws[row]]
        each.append(multivariate_normal(np.zeros(dim)).pdf(y[row]))
        np.testing.assert_allclose(values[row], np.log(np.mean(each, axis=0)), rtol=1e-9)
