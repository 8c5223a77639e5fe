"""`ebmbench.load`: a trained model in use, against numerical integrals of its own density."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import ebmbench
from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine.execute import execute
from ebmbench.system.seal import encode as sealed_json
from ebmbench.tasks.regression.model import RegressionModel as Model

ROOT = Path(__file__).parent.parent
X = torch.tensor([-2.2, -0.7, 0.3, 1.9])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Two seeds, long enough that the densities have a shape."""
    overrides = ["task=1d", "method=nce", "seeds=[1,4]", "trainer.epochs=20", "trainer.learning_rate=1e-2"]
    sizes = ["data.num_train=512", "data.num_val=32", "data.num_test=300", "data.grid_points=513"]
    folder = tmp_path_factory.mktemp("results")
    config = compose([*overrides, *sizes, "method.num_samples=64", f"results_dir={folder}", "device=cpu"])
    execute(config, quiet=True)
    return config


@pytest.fixture(scope="module")
def model(run: RunConfig) -> Model:
    return ebmbench.load(run.run_dir)[4]


def expectation(model: Model, x: float, g: object) -> float:
    """`∫ g(y) p(y|x) dy` over the interval."""
    y = np.linspace(-3, 3, 30_001)
    density = model.log_prob(torch.tensor(x), torch.from_numpy(y)).exp().numpy()
    return integrate.simpson(g(y) * density, x=y)  # type: ignore[operator]


def test_there_is_a_model_per_seed_and_they_differ(run: RunConfig) -> None:
    models = ebmbench.load(str(run.run_dir))
    assert list(models) == [1, 4] and [m.seed for m in models.values()] == [1, 4]
    assert not torch.allclose(models[1].mean(X), models[4].mean(X))


def test_the_loaded_model_scores_as_metrics_csv_says(run: RunConfig) -> None:
    from ebmbench.engine.runs import read_metrics

    test = run.task.data.load().test  # type: ignore[attr-defined]
    for row in read_metrics(run.run_dir):
        nll = -ebmbench.load(run.run_dir)[int(row["seed"])].log_prob(test.x, test.y).mean().item()
        assert nll == pytest.approx(float(row["nll"]), abs=1e-5)


@pytest.mark.parametrize("x", X.tolist())
def test_the_density_integrates_to_one_and_vanishes_outside(model: Model, x: float) -> None:
    assert expectation(model, x, np.ones_like) == pytest.approx(1, abs=1e-3)
    assert model.log_prob(torch.tensor(x), torch.tensor([-3.01, 3.01])).tolist() == [-math.inf, -math.inf]


def test_density_and_log_prob_agree(model: Model) -> None:
    density = model.density(X)
    assert density.shape == (4, len(model.grid))
    torch.testing.assert_close(
        density[2].log(), model.log_prob(X[2].expand(len(model.grid)), model.grid), atol=1e-4, rtol=1e-4
    )


def test_mean_mode_and_interval_are_those_of_the_density(model: Model) -> None:
    low, high = model.interval(X, 0.8)
    for index, x in enumerate(X.tolist()):
        assert model.mean(X)[index].item() == pytest.approx(expectation(model, x, lambda y: y), abs=1e-3)
        y = torch.linspace(-3, 3, 30_001, dtype=torch.float64)
        best = y[model.log_prob(torch.tensor(x), y).argmax()].item()
        assert model.mode(X)[index].item() == pytest.approx(best, abs=6 / 512)
        assert expectation(model, x, lambda y, i=index: y < low[i].item()) == pytest.approx(0.1, abs=2e-3)
        assert expectation(model, x, lambda y, i=index: y > high[i].item()) == pytest.approx(0.1, abs=2e-3)


def test_a_run_of_any_task_of_densities_has_the_methods_that_the_page_names() -> None:
    text = (ROOT / "docs" / "your-data.md").read_text()
    sentence = re.search(r"`ebmbench\.load\(run_directory\)\[seed\]` has (.*?)\.\n", text, re.DOTALL)
    assert sentence is not None
    names = re.findall(r"`(\w+)`", sentence.group(1))
    assert len(names) == 9
    assert not [name for name in names if not hasattr(Model, name)]


def test_samples_follow_the_density(model: Model) -> None:
    samples = model.sample(X, 5000, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (4, 5000)
    for index, x in enumerate(X.tolist()):
        y = np.linspace(-3, 3, 30_001)
        density = model.log_prob(torch.tensor(x), torch.from_numpy(y)).exp().numpy()
        distribution = integrate.cumulative_trapezoid(density, y, initial=0)
        assert stats.kstest(samples[index].numpy(), lambda s: np.interp(s, y, distribution)).pvalue > 0.005  # noqa: B023


def test_plain_numbers_and_lists_will_do(model: Model) -> None:
    assert torch.equal(model.mean([0.3, 1.9]), model.mean(torch.tensor([0.3, 1.9], dtype=torch.float64)))
    assert model.log_prob(0.3, [0.0, 0.1, 0.2]).shape == (3,)
    with pytest.raises(ValueError, match=r"level=1\.5 is not allowed"):
        model.interval(X, 1.5)


def test_the_example_of_the_first_steps_works(run: RunConfig) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "start.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "ebmbench.load(" in block]
    assert len([line for line in block.splitlines() if line.strip()]) == 5
    path = re.search(r'load\("([^"]+)"\)\[(\d+)\]', block)
    assert path is not None
    block = block.replace(path.group(1), str(run.run_dir)).replace(f")[{path.group(2)}]", ")[1]", 1)
    names: dict[str, torch.Tensor] = {}
    exec(block, names)
    assert names["samples"].shape == (100, 1000)
    assert (names["low"] < names["high"]).all()


def test_what_is_no_finished_1d_run_is_refused_in_a_sentence(run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished run"):
        ebmbench.load(tmp_path)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_bytes((run.run_dir / "config.yaml").read_bytes())
    with pytest.raises(UserError, match="holds no finished run"):
        ebmbench.load(unfinished)
    (unfinished / "config.yaml").write_text("task: [")
    with pytest.raises(UserError):
        ebmbench.load(unfinished)


def test_a_seed_that_diverged_says_so(run: RunConfig, tmp_path: Path) -> None:
    """Its weights are those before it diverged, and no result."""
    assert all(m.diverged_step is None for m in ebmbench.load(run.run_dir).values())
    copy = tmp_path / "copy"
    shutil.copytree(run.run_dir, copy)
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_bytes(sealed_json({**status, "diverged": {"4": 17}}))
    assert {seed: m.diverged_step for seed, m in ebmbench.load(copy).items()} == {1: None, 4: 17}
