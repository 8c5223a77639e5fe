"""Searches: the same trials for every method, seeds of their own, and what a search chose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from ebmbench.cli import main as cli
from ebmbench.cli import tune as command
from ebmbench.config.compose import compose, compose_all
from ebmbench.config.run import TuneConfig
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.engine.execute import execute
from ebmbench.methods.score import DSM
from ebmbench.report.planned import Plan
from ebmbench.sweep import trials

SMOKE = (
    "task=1d",
    "+experiment=smoke",
    "device=cpu",
    "logger=none",
    "data.num_test=64",
    "data.grid_points=65",
    "trainer.epochs=1",
    "figures=false",
)
LINES = [[*SMOKE, f"method={method}"] for method in ("nce", "ml-is", "dsm")]


def words_of(tune: TuneConfig, lines: Sequence[Sequence[str]] = LINES) -> pd.DataFrame:
    """The values of each trial, a row each."""
    words, places = trials.listed(lines, compose_all(lines), tune)
    given = [dict(word.partition("=")[::2] for word in line) for line in words]
    return pd.DataFrame([{**values, **place} for values, place in zip(given, places, strict=True)])


def test_all_methods_try_the_same_values_and_each_repeat_others() -> None:
    table = words_of(TuneConfig(trials=3, repeats=2))
    assert len(table) == 3 * 3 * 2
    by_method = {name: own.reset_index(drop=True) for name, own in table.groupby("method")}
    for key in ("trainer.learning_rate", "proposal.stds"):  # what they have in common
        pd.testing.assert_series_equal(by_method["nce"][key], by_method["ml-is"][key])
    pd.testing.assert_series_equal(by_method["nce"]["trainer.learning_rate"], by_method["dsm"]["trainer.learning_rate"])
    assert by_method["dsm"]["proposal.stds"].isna().all() and by_method["nce"]["method.sigma"].isna().all()
    assert by_method["nce"]["trainer.learning_rate"].nunique() == 6


def test_more_trials_begin_with_the_same_and_another_seed_or_draw_has_others() -> None:
    rates = "trainer.learning_rate"
    few, more = words_of(TuneConfig(trials=2, repeats=1)), words_of(TuneConfig(trials=4, repeats=1))
    assert list(more[rates])[:6] == list(few[rates])
    assert set(words_of(TuneConfig(trials=2, repeats=1, seed=1))[rates]).isdisjoint(few[rates])
    drawn = words_of(TuneConfig(trials=2, repeats=1), [[*LINES[0], "data.data_seed=1"]])
    assert set(drawn[rates]).isdisjoint(few[rates])


def test_a_file_adds_to_the_space_and_takes_from_it() -> None:
    space = {"trainer.learning_rate": [0.001, 0.002], "proposal.stds": None, "trainer.epochs": {"low": 1, "high": 2}}
    table = words_of(TuneConfig(trials=6, repeats=1, space=space))
    assert set(table["trainer.learning_rate"]) == {"0.001", "0.002"} and "proposal.stds" not in table
    assert table["trainer.epochs"].notna().all()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"trainer.lerning_rate": [1]}, "no job has; did you mean trainer.learning_rate"),
        ({"trainer.learning_rate": {"low": 1, "high": 0.1}}, "0 < low < high"),
        ({"trainer.learning_rate": 3}, "give a list of choices"),
    ],
)
def test_a_space_that_cannot_be_is_refused(space: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        words_of(TuneConfig(space=space))


def test_what_is_set_is_not_searched() -> None:
    table = words_of(TuneConfig(trials=2, repeats=1), [[*LINES[0], "trainer.learning_rate=0.002"]])
    assert set(table["trainer.learning_rate"]) == {"0.002"}


def test_a_range_ends_where_the_method_s_own_floor_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose([*SMOKE, "method=dsm"])
    monkeypatch.setattr(type(config.task), "floor", lambda self, blur: None if blur is None else 0.1 * sum(blur))
    monkeypatch.setattr(DSM, "tuning", {"method.sigma": (0.001, 5.0)})
    low, high = trials.space(config)["method.sigma"]
    assert low == 0.001 and high == pytest.approx(0.5, rel=0.03)  # where the floor is 0.05 nats
    monkeypatch.setattr(DSM, "tuning", {"method.sigma": (1.0, 5.0)})  # bad throughout: it stays, and is seen
    assert trials.space(config)["method.sigma"] == (1.0, 5.0)
    published = config.method.sigma  # a method that needs a floor keeps it, and half as much again
    monkeypatch.setattr(type(config.task), "floor", lambda self, blur: None if blur is None else sum(blur))
    monkeypatch.setattr(DSM, "tuning", {"method.sigma": (0.001, 5.0)})
    assert trials.space(config)["method.sigma"][1] == pytest.approx(1.5 * published, rel=0.03)


def test_each_draw_of_the_data_and_each_repeat_has_seeds_of_its_own() -> None:
    words = [*SMOKE, "method=nce", "seeds=2"]
    configs = compose_all([[*words, f"data.data_seed={draw}"] for draw in (7, 3, 7)])
    assert trials.with_own_seeds(configs) == [(0, 1), (2, 3), (0, 1)]
    places = [{trials.REPEAT: repeat, trials.TRIAL: 0} for repeat in (0, 0, 1)]
    assert trials.with_own_seeds(configs, places) == [(0, 1), (2, 3), (4, 5)]
    listed = compose_all([[*SMOKE, "method=nce", "seeds=[3,7]", f"data.data_seed={draw}"] for draw in (0, 1)])
    assert trials.with_own_seeds(listed) == [(3, 7), (3, 7)]  # as the user wants them


class Here:
    """Runs the jobs of a plan in this process, and stops before the job that would be one too many."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit, self.ran = limit, 0

    def __call__(self, plan: Plan, results_dir: Path, *_: Any, **__: Any) -> int:
        from ebmbench.sweep.plan import write_plan

        write_plan(plan, results_dir)
        for job in plan.jobs:
            config = job.run_config(results_dir)
            if not config.run_dir.exists():
                if self.ran == self.limit:
                    raise KeyboardInterrupt
                execute(config, quiet=True)
                self.ran += 1
        return 0


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs the command with its jobs in this process."""
    monkeypatch.setattr(registry.known("task")["1d"], "figures", lambda *_: [])  # most of a short run's time

    def run(*words: str, jobs: Here | None = None) -> int:
        monkeypatch.setattr(command, "submit", jobs or Here())
        return cli.dispatch(["tune", *SMOKE, f"results_dir={tmp_path}", "--name", "mine", *words])

    return run


def test_the_command_writes_trials_tables_and_the_best_settings(tune: Callable[..., int], tmp_path: Path) -> None:
    words = ("method=nce,dsm", "--trials", "2", "--repeats", "2")
    with pytest.raises(KeyboardInterrupt):
        tune(*words, jobs=Here(3))
    jobs = Here()
    assert tune(*words, jobs=jobs) == 0 and jobs.ran == 5  # what was done is not done again
    folder = tmp_path / "tune-mine"
    rows = pd.read_csv(folder / "runs.csv")
    assert len(rows) == 8 and set(rows["repeat"]) == set(rows["trial"]) == {0, 1}
    own = rows[rows["method"] == "dsm"]
    best = own.loc[own["val_nll"].idxmin()]
    table = yaml.safe_load((folder / "best" / "1d" / "law1" / "dsm.yaml").read_text())
    assert table["trainer"]["learning_rate"] == pytest.approx(best["trainer.learning_rate"])
    text = (folder / "tables.md").read_text()
    assert "best of 2" in text and "over 2 searches of 2 trials" in text
    with pytest.raises(UserError, match="give another name"):
        tune("method=nce,dsm", "--seed", "1")


def test_tune_wants_methods() -> None:
    for words, said in ((["task=1d"], "needs method"), (["task=1d", "method=nce", "--seed", "x"], "--seed=x")):
        with pytest.raises(UserError, match=said):
            cli.dispatch(["tune", *words])


def test_a_task_says_what_its_targets_need() -> None:
    """The proposals of `task=regression` reach as far as its base density; who draws from none has none to search."""
    with_proposal, without = (
        trials.space(compose(["task=regression", f"method={name}"])) for name in ("nce", "ml-exact")
    )
    assert all(max(stds) == 3.0 for stds in with_proposal["proposal.stds"])
    assert "network.activation" in with_proposal and "trainer.learning_rate" in with_proposal
    assert not any(key.startswith("proposal.") for key in without)
    assert trials.space(compose(["task=1d", "method=nce"]))["proposal.stds"] != with_proposal["proposal.stds"]
