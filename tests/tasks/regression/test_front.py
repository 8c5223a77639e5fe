"""Boosted means beside the columns of a table: out of fold, the same for all models, and kept without code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import ebmbench
from ebmbench.config.compose import compose
from ebmbench.core.errors import UserError
from ebmbench.engine.train import train
from ebmbench.supports.base import Support
from ebmbench.supports.circle import Circle
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.positive import Positive
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Targets
from ebmbench.tasks.examples import read_examples
from ebmbench.tasks.regression.data.base import Split
from ebmbench.tasks.regression.data.front import Boosted, Trees, folds, with_front
from ebmbench.tasks.regression.data.function import arrays_split
from ebmbench.tasks.regression.data.transforms import restore
from ebmbench.tasks.regression.fitting import FitLearner

ensemble = pytest.importorskip("sklearn.ensemble")
SMALL = ("trainer.epochs=3", "task.base.nodes=64", "device=cpu", "threads=1")

pytestmark = pytest.mark.usefixtures("one_thread")


def steps(count: int = 300) -> Split:
    """Rows of a law with steps, which trees learn and a smooth function does not."""
    random = np.random.default_rng(1)
    x = random.uniform(-1, 1, (count, 3))
    return arrays_split(x, np.floor(4 * x[:, 0]) * (x[:, 1] > 0) + 0.1 * random.standard_normal(count))


def smooth(count: int = 300) -> Split:
    random = np.random.default_rng(1)
    x = random.uniform(-1, 1, (count, 3))
    return arrays_split(x, x[:, 0] * x[:, 1] + 0.01 * random.standard_normal(count))


def targets(split: Split, support: Support | None = None) -> Targets:
    return Targets.of(split.target_names, [support or Real()], split.train.y, BaseDensity())


def test_trees_give_what_scikit_learn_does_after_json_too() -> None:
    random = np.random.default_rng(0)
    x, z = random.integers(0, 9, (500, 4)).astype(np.float32), random.standard_normal((500, 2))
    models = [ensemble.HistGradientBoostingRegressor(max_iter=20).fit(x, one) for one in z.T]
    trees = Trees.of(models)
    restored = Trees.restore(json.loads(json.dumps(trees.plain())), 4)
    new = random.uniform(-1, 10, (200, 4)).astype(np.float32)
    for rows in (x, new):
        found = restored(torch.from_numpy(rows))
        np.testing.assert_allclose(found, np.stack([model.predict(rows) for model in models], 1), atol=1e-6)
        assert torch.allclose(found, trees(torch.from_numpy(rows)), atol=1e-7)


def test_a_tree_with_a_node_that_leads_nowhere_is_refused() -> None:
    plain = Trees.of([ensemble.HistGradientBoostingRegressor(max_iter=2).fit(np.eye(60), np.arange(60.0))]).plain()
    for name, value in (("left", 10**6), ("right", -1), ("feature", 60)):
        broken = {**plain, name: [value, *plain[name][1:]]}
        with pytest.raises(ValueError, match="a node that leads nowhere"):
            Trees.restore(broken, 60)


@pytest.mark.parametrize(("part", "row"), [("train", 7), ("val", 7)])
def test_no_row_s_prediction_depends_on_its_own_target(part: str, row: int) -> None:
    split = steps()
    fixed, given = targets(split), getattr(split, part)
    other = given.y.clone()
    other[row] += 50
    changed = replace(split, **{part: replace(given, y=other)})
    before, after = (
        torch.cat([rows.x[:, -1] for rows in (made.train, made.val)])
        for made in (with_front(one, "boosted", fixed) for one in (split, changed))
    )
    fold = folds((split.train, split.val))
    same_fold = torch.from_numpy(fold == fold[row if part == "train" else len(split.train) + row])
    assert torch.equal(before[same_fold], after[same_fold])
    assert not torch.equal(before[~same_fold], after[~same_fold])


def test_test_rows_are_predicted_by_trees_of_all_other_rows() -> None:
    split = steps()
    fixed = targets(split)
    made = with_front(split, "boosted", fixed)
    x, y = (torch.cat([getattr(rows, name) for rows in (split.train, split.val)]) for name in ("x", "y"))
    model = ensemble.HistGradientBoostingRegressor(max_iter=200, min_samples_leaf=5, max_leaf_nodes=15, random_state=0)
    model.fit(x.numpy(), fixed.z(y)[:, 0].numpy())
    np.testing.assert_allclose(made.test.x[:, -1], model.predict(split.test.x.numpy()), atol=1e-6)
    assert torch.equal(made.test.x[:, :-1], split.test.x)


@pytest.mark.parametrize("front", ["boosted", "auto"])
def test_nonsense_test_rows_change_nothing_in_training(front: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The same weights, bit for bit, whatever the test rows are."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.uniform(-1, 1, (200, 3)), columns=list("abc"))
    frame["y"] = np.floor(3 * frame.a) + 0.1 * random.standard_normal(200)
    Path("splits.json").write_text(json.dumps({"test": [list(range(40))]}))
    frame.to_csv("sense.csv", index=False)
    frame.loc[:39] = random.uniform(-1e4, 1e4, (40, 4))
    frame.to_csv("nonsense.csv", index=False)
    weights = []
    for name in ("sense", "nonsense"):
        made = learner("data=table", f"data.path={name}.csv", "data.split_file=splits.json", f"task.front={front}")
        train(made)
        weights.append(made.stack.flat.detach().clone())
        assert made.x.shape[1] == 4
    assert torch.equal(*weights)


def learner(*words: str) -> FitLearner:
    nce = [] if any(word.startswith("model=") for word in words) else ["method=nce", "method.num_samples=16"]
    config = compose(["task=regression", *nce, *SMALL, *words])
    made = config.task.learner(config.setup, (0, 1), torch.device("cpu"))
    assert isinstance(made, FitLearner)
    return made


def test_rows_of_a_group_are_in_one_fold(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"who": random.integers(0, 40, 300), "a": random.normal(size=300)})
    frame["y"] = frame.a + random.normal(size=300)
    frame.to_csv(tmp_path / "t.csv", index=False)
    words = [f"data.path={tmp_path}/t.csv", "data.split_rule=group", "data.split_by=who"]
    train = compose(["task=regression", "data=table", "method=nce", *words]).task.data.load().train
    assert (pd.Series(folds([train])).groupby(train.group).nunique() == 1).all()
    assert len(set(folds([train]))) == 10


def test_auto_takes_steps_and_leaves_a_smooth_function() -> None:
    assert with_front(steps(), "auto", targets(steps())).train.x.shape[1] == 4
    left = with_front(smooth(), "auto", targets(smooth()))
    assert left.train.x.shape[1] == 3 and "worse than a smooth function" in left.notes[-1]


def test_inputs_that_are_no_columns_are_refused_or_left() -> None:
    random = np.random.default_rng(0)
    images = arrays_split(random.normal(size=(100, 1, 8, 8)), random.normal(size=100))
    assert with_front(images, "auto", targets(images)) is images
    with pytest.raises(UserError, match="front=boosted is not allowed here, because an input is not a row of columns"):
        with_front(images, "boosted", targets(images))
    few = steps(40)
    with pytest.raises(UserError, match="the training rows are 26, and it needs 50"):
        with_front(few, "boosted", targets(few))


def test_an_angle_is_predicted_by_its_cosine_and_sine() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (400, 2))
    split = arrays_split(x, np.degrees(3 * x[:, 0]) % 360)
    made = with_front(split, "boosted", targets(split, Circle(period=360)))
    angle = torch.deg2rad(made.test.y[:, 0]) - torch.pi  # z of an angle is its distance from the middle of the circle
    gap = made.test.x[:, 2:] - torch.stack((angle.cos(), angle.sin()), 1)
    assert gap.shape == (len(angle), 2) and gap.abs().mean() < 0.05


def test_a_validation_target_outside_the_support_teaches_trees_nothing() -> None:
    split = steps()
    raised = {part: replace(getattr(split, part), y=getattr(split, part).y.exp()) for part in ("train", "val")}
    positive = replace(split, **raised)
    positive.val.y[3] = 0.0
    made = with_front(positive, "boosted", targets(positive, Positive()))
    assert all(getattr(made, part).x.isfinite().all() for part in ("train", "val", "test"))


def test_all_models_see_the_same_inputs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("step.py").write_text(
        "import numpy as np\ndef load():\n    x = np.random.default_rng(0).uniform(-1, 1, (200, 2))\n"
        "    return x, np.floor(3 * x[:, 0])\n"
    )
    words = ("data=function", "data.function=step.py:load", "task.front=boosted")
    energy, gaussian = learner(*words), learner(*words[:-1], "task.front=auto", "model=gaussian")
    assert energy.x.shape[1] == 3 and torch.equal(energy.x, gaussian.x)


def test_a_run_keeps_its_trees_and_predicts_new_rows_with_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.uniform(0, 9, 250), "city": random.choice(["Ulm", "Bonn"], 250)})
    frame["price"] = np.floor(frame["size"]) + 5 * (frame.city == "Ulm") + 0.1 * random.standard_normal(250)
    frame.loc[::9, "size"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    run_dir = ebmbench.run(
        "task=regression", "data=table", f"data.path={tmp_path}/t.csv", "method=nce", "task.front=boosted",
        "+experiment=smoke", "figures=false", f"results_dir={tmp_path}",
    )  # fmt: skip
    plain = json.loads((run_dir / "model.json").read_text())
    assert plain["features"][-1] == "boosted price" and isinstance(restore(plain["transform"]), Boosted)
    examples = read_examples(run_dir)
    found = ebmbench.load(run_dir)[0].log_prob(frame.iloc[examples["row"]], examples["y"])
    np.testing.assert_allclose(found, examples["log_prob"], atol=2e-3)


def test_the_setting_none_leaves_no_trace_in_a_run_s_identity() -> None:
    words = ["task=regression", "data=diabetes", "method=nce"]
    plain, auto = (compose([*words, *more]).task.identity() for more in ([], ["task.front=auto"]))
    assert "front" not in plain and auto["front"] == "auto" and "front_version" in auto


def test_the_regressor_predicts_with_the_front() -> None:
    split = steps(400)
    x, y = split.train.x.numpy(), split.train.y[:, 0].numpy()
    made = ebmbench.EnergyRegressor(model="gaussian", front="auto", epochs=30, device="cpu").fit(x, y)
    assert made.model_.transform.plain()["kind"] == "boosted"
    plain = ebmbench.EnergyRegressor(model="gaussian", epochs=30, device="cpu").fit(x, y)
    new, answer = split.test.x.numpy(), split.test.y[:, 0].numpy()
    assert made.score(new, answer) > plain.score(new, answer)
    with pytest.raises(ValueError, match="front"):
        ebmbench.EnergyRegressor(front="trees").fit(x, y)
