"""`ebmbench tune`: equal budgets, the same search again, and after an interruption the same end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ebmbench.cli import main as cli
from ebmbench.config import nodes
from ebmbench.config.compose import compose
from ebmbench.config.folders import config_dirs
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.engine.execute import execute
from ebmbench.report.planned import Plan
from ebmbench.sweep import tune
from ebmbench.sweep.submit import Preset
from ebmbench.tasks.regression.one_d import OneD

pytest.importorskip("optuna")

SMOKE = (
    "task=1d",
    "+experiment=smoke",
    "device=cpu",
    "logger=none",
    "task.num_test=64",
    "task.grid_points=65",
    "trainer.epochs=1",
)
SEARCH = tune.Search("mine", SMOKE, ("nce", "dsm"), 3, "random", 0)


class Here:
    """Runs the jobs of a plan in this process, and stops before the job that would be one too many."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit, self.ran = limit, 0

    def __call__(self, plan: Plan, results_dir: Path, *_: Any, **__: Any) -> int:
        for job in plan.jobs:
            config = job.run_config(results_dir)
            if not config.run_dir.exists():
                if self.ran == self.limit:
                    raise KeyboardInterrupt
                execute(config, quiet=True)
                self.ran += 1
        return 0


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Callable[..., pd.DataFrame]:
    monkeypatch.setattr(registry.known("task")["1d"], "figures", lambda *_: [])  # most of a short run's time

    def run(results: Path, what: tune.Search = SEARCH, jobs: Here | None = None) -> pd.DataFrame:
        monkeypatch.setattr(tune, "submit", jobs or Here())
        return tune.run(what, results, Preset("local", False, {}), None, False)

    return run


SAME = ["method", "trial", "state", "val_nll", "settings", "run_id"]


def test_every_method_has_the_same_number_of_trials(search: Callable[..., pd.DataFrame], tmp_path: Path) -> None:
    rows = search(tmp_path)
    assert rows.groupby("method").size().to_dict() == {"nce": 3, "dsm": 3}
    assert set(rows["state"]) == {"done"} and set(rows["budget"]) == {3}
    written = pd.read_csv(tmp_path / "tune" / "mine" / "trials.csv")
    assert list(written["run_id"]) == list(rows["run_id"]) and written["val_nll"].notna().all()
    # What the classes of each declare, and nothing else: dsm draws from no proposal.
    keys = {
        method: {word.partition("=")[0] for text in part["settings"] for word in text.split()}
        for method, part in rows.groupby("method")
    }
    assert keys == {
        "nce": {"proposal.stds", "trainer.learning_rate"},
        "dsm": {"method.sigma", "trainer.learning_rate"},
    }


def test_the_best_settings_are_read_back(search: Callable[..., pd.DataFrame], tmp_path: Path) -> None:
    rows = search(tmp_path)
    best = rows.loc[rows[rows["method"] == "dsm"]["val_nll"].idxmin()]
    folder = tmp_path / "tune" / "mine"
    found = nodes.tables((folder,))["1d-1"]["dsm"]
    assert " ".join(f"{key}={value}" for key, value in sorted(found.items())) == best["settings"]
    assert str(tmp_path) not in (folder / "settings" / "best.yaml").read_text()
    again = compose([*SMOKE, "method=dsm", *(f"{key}={value}" for key, value in found.items())])
    assert again.run_id == best["run_id"]


def test_the_best_settings_of_a_network_are_those_of_no_other(tmp_path: Path) -> None:
    (tmp_path / "settings").mkdir()
    table = "regression-diabetes: {'ml-exact, mdn': {trainer.epochs: 7}, ml-exact: {trainer.epochs: 5}}\n"
    (tmp_path / "settings" / "best.yaml").write_text(table)
    folders = (*config_dirs(), tmp_path)
    asked = {name: ("regression", "diabetes", "ml-exact", "trainer.epochs", "", name) for name in ("mdn", "gaussian")}
    assert nodes.tabled(folders, *asked["mdn"]) == 7 and nodes.tabled(folders, *asked["gaussian"]) == 5
    search = dataclasses.replace(SEARCH, settings=("task=regression", "task/network=mdn"))
    assert search.network == ", mdn" and SEARCH.network == ""


def test_a_search_is_repeatable_and_another_seed_is_another(
    search: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    first, second = search(tmp_path / "a"), search(tmp_path / "b")
    pd.testing.assert_frame_equal(first[SAME], second[SAME])
    other = search(tmp_path / "c", dataclasses.replace(SEARCH, seed=1))
    assert set(other["settings"]).isdisjoint(first["settings"])


@pytest.mark.parametrize("sampler", tune.SAMPLERS)
def test_an_interrupted_search_goes_on_to_the_same_end(
    sampler: str, search: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    what = dataclasses.replace(SEARCH, sampler=sampler, trials=5, methods=("dsm",))
    whole = search(tmp_path / "whole", what)
    for limit in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "stopped", what, Here(limit))
    jobs = Here()
    pd.testing.assert_frame_equal(search(tmp_path / "stopped", what, jobs)[SAME], whole[SAME])
    assert jobs.ran == 2  # of the five, what was done is not done again


def test_more_trials_are_the_same_search(search: Callable[..., pd.DataFrame], tmp_path: Path) -> None:
    few = search(tmp_path)
    jobs = Here()
    more = search(tmp_path, dataclasses.replace(SEARCH, trials=4), jobs)
    assert jobs.ran == 2 and set(few["run_id"]) < set(more["run_id"])


def test_what_the_user_sets_is_not_searched(search: Callable[..., pd.DataFrame], tmp_path: Path) -> None:
    what = dataclasses.replace(SEARCH, settings=(*SMOKE, "trainer.learning_rate=0.002"), methods=("dsm",), trials=1)
    assert "learning_rate" not in search(tmp_path, what)["settings"].iloc[0]


def test_what_is_set_in_short_form_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tune.Search] = []
    monkeypatch.setattr(tune, "run", lambda search, *_: seen.append(search))
    words = ["task=regression", "network=mdn", "network.dropout=0", "method=ml-exact", f"results_dir={tmp_path}"]
    assert cli.dispatch(["tune", *words, "--dry-run"]) == 0
    assert seen[0].settings[1:3] == ("task/network=mdn", "task.network.dropout=0") and seen[0].network == ", mdn"


def test_a_trial_that_diverges_is_recorded_and_never_best(
    search: Callable[..., pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ebmbench.methods.score import DSM

    monkeypatch.setattr(DSM, "tuning", {"method.sigma": [0.1, 1e-30]})  # 1/σ² overflows
    rows = search(tmp_path, dataclasses.replace(SEARCH, methods=("dsm",), trials=8))
    assert set(rows["state"]) == {"done", "diverged"} and len(rows) == 8
    assert nodes.tables((tmp_path / "tune" / "mine",))["1d-1"]["dsm"]["method.sigma"] == 0.1


def test_what_cannot_be_tuned_is_refused(
    search: Callable[..., pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(tmp_path, dataclasses.replace(SEARCH, methods=("dsm",), trials=1))
    with pytest.raises(UserError, match="seed=0; give another name"):
        search(tmp_path, dataclasses.replace(SEARCH, methods=("dsm",), trials=1, seed=5))
    monkeypatch.setattr(OneD, "selection", "")
    with pytest.raises(UserError, match="task=1d cannot be tuned"):
        search(tmp_path / "other", SEARCH)
    for words, said in ((["task=1d"], "needs method"), (["task=1d", "method=nce", "--seed", "x"], "--seed=x")):
        with pytest.raises(UserError, match=said):
            cli.dispatch(["tune", *words])


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMOKE, "method=nce,dsm", f"results_dir={tmp_path}", "--trials", "1", "--jobs", "2"]
    assert cli.dispatch(["tune", *words]) == 0
    assert "nce: 1 done of 1 trial\n" in capsys.readouterr().out


def test_a_task_says_what_its_targets_need() -> None:
    """The proposals of `task=regression` reach as far as its base density; who draws from none has none to search."""
    with_proposal, without = (
        tune.space(compose(["task=regression", f"method={name}"])) for name in ("nce", "ml-exact")
    )
    assert all(max(stds) == 3.0 for stds in with_proposal["proposal.stds"])
    assert "task.network.activation" in with_proposal and "trainer.learning_rate" in with_proposal
    assert not any(key.startswith("proposal.") for key in without)
    assert tune.space(compose(["task=1d", "method=nce"]))["proposal.stds"] != with_proposal["proposal.stds"]
