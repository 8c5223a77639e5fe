"""`ebmbench rescore`: new scores of trained runs, and nothing else new."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ebmbench.cli import main as cli
from ebmbench.config.compose import compose
from ebmbench.engine import runs
from ebmbench.engine.execute import execute
from ebmbench.engine.rescore import AGAIN, rescore
from ebmbench.tasks.regression import scoring

COMMON = ["+experiment=smoke", "device=cpu", "logger=csv", "threads=1", "seeds=2"]
RUNS = {
    "1d": ["task=1d"],
    "table": ["task=regression", "data=laws", "data.dim=2", "data.num_train=60", "data.num_val=20", "data.num_test=12"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for words in RUNS.values():
        execute(compose([*words, *COMMON, "method=nce", f"results_dir={folder}"]), quiet=True)
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


def run_of(results: Path, start: str) -> Path:
    return next((results / "runs").glob(f"{start}*"))


@pytest.mark.parametrize("start", ["1d", "regression"])
def test_the_same_code_gives_the_same_scores(results: Path, start: str) -> None:
    folder = run_of(results, start)
    before = {name: runs.read_output(folder, name) for name in ("metrics.csv", "checkpoint.pt", "history.csv")}
    files = set(runs.read_status(folder).outputs)  # type: ignore[union-attr]
    assert rescore(folder)
    assert not runs.verify(folder)
    assert {name: runs.read_output(folder, name) for name in before} == before
    status = runs.read_status(folder)
    assert status is not None and status.attempt == 2 and set(status.outputs) == files
    assert AGAIN in (status.commit or "")
    assert "scored_again" in json.loads(runs.read_output(folder, "environment.json"))


def test_changed_scoring_changes_scores_alone(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_of(results, "regression")
    old = runs.read_metrics(folder)
    before = scoring.summarise
    monkeypatch.setattr(scoring, "summarise", lambda *words: {**before(*words), "nll": 7.0})
    assert rescore(folder)
    for row, was in zip(runs.read_metrics(folder), old, strict=True):
        assert float(row["nll"]) == 7
        assert {k for k in row if row[k] != was[k]} <= {"nll", "trusted"} and row.keys() == was.keys()


def test_what_this_commit_scored_is_left(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "commit", lambda: "abc123")
    folder = run_of(results, "1d")
    assert rescore(folder) and not rescore(folder)
    monkeypatch.setattr(runs, "commit", lambda: "def456")
    assert rescore(folder)
    status = runs.read_status(folder)
    assert status is not None and (status.commit or "").endswith("scored again by def456")
    assert (status.commit or "").count(AGAIN) == 1


def test_a_failure_leaves_the_old_result(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_of(results, "regression")
    before = runs.read_output(folder, "metrics.csv")

    def fail(*words: object) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "summarise", fail)
        with pytest.raises(RuntimeError):
            rescore(folder)
    assert runs.read_output(folder, "metrics.csv") == before and runs.read_state(folder) == "done"
    assert rescore(folder) and runs.read_output(folder, "metrics.csv") == before


def test_the_command_goes_on_past_a_damaged_run(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_of(results, "1d") / "history.csv").write_text("changed")
    assert cli.dispatch(["rescore", str(results), f"results_dir={results}"]) == 1
    out = capsys.readouterr().out
    assert "left as it is" in out and "scored again" in out
