"""`ebmbench compare`: one sentence from the same splits, and the run of the model that it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ebmbench.cli.main import main
from ebmbench.report.choice import choose, difference
from ebmbench.report.frame import Results, task_of

AXIS = "data.split"
CRPS = [task_of("regression").metric("crps")]


def results(**scores: list[float]) -> Results:
    """Results of models on splits: seconds rise from model to model."""
    rows = [
        {
            "run_id": f"{model}-{split}", "config_hash": model, "task": "regression", "dataset": "t", "method": model,
            "seed": 0, "state": "done", "error": None, "commit": "a", "finished": "2026-01-02", "diverged": 0,
            "trusted": 1, AXIS: split, "crps": score, "train_seconds": 1.0 + place,
        }
        for place, (model, values) in enumerate(scores.items())
        for split, score in enumerate(values)
    ]  # fmt: skip
    return Results("compare", pd.DataFrame(rows), (AXIS,))


@pytest.mark.parametrize(
    ("energy", "other", "model", "said"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], "energy", "the energy pays"),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], "other", "the energy does not pay"),
        ([1.0, 2.0, 3.0], [1.1, 1.8, 3.1], "energy", "are not significantly different"),
    ],
)
def test_the_sentence_names_the_model_to_take(energy: list[float], other: list[float], model: str, said: str) -> None:
    choice = choose(results(energy=energy, other=other, bad=[9.0, 9.0, 9.0]), CRPS, "energy")
    assert choice.model == model and choice.sentence.startswith(f"Take {model}") and said in choice.sentence
    assert choice.run_id == f"{model}-0" and len(choice.table.rows) == 3


def test_a_model_that_lacks_a_split_is_not_taken() -> None:
    choice = choose(results(energy=[1.0, 1.1, 0.9], other=[0.1, 0.1, np.nan]), CRPS, "energy")
    assert choice.model == "energy"


def test_the_interval_of_splits_that_share_rows_is_wider_than_that_of_a_mean() -> None:
    low, high = difference(np.array([1.0, 2.0, 3.0, 2.0]))
    assert high - 2 == pytest.approx(3.182446 * np.std([1, 2, 3, 2], ddof=1) * np.sqrt(1 / 4 + 1 / 4), rel=1e-5)
    assert (low + high) / 2 == pytest.approx(2) and difference(np.array([1.0])) == (-np.inf, np.inf)


@pytest.mark.slow  # it trains each model of sweeps/compare.yaml on two splits
def test_a_comparison_of_a_file_ends_in_a_sentence_a_page_and_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    x = random.normal(size=80)
    pd.DataFrame({"x": x, "my target": x + random.normal(size=80)}).to_csv("my data.csv", index=False)
    words = ["compare", "my data.csv", "--target", "my target", "--splits", "2", "--jobs", "1", "trainer.epochs=2"]
    assert main([*words, "device=cpu", "task.base.nodes=32"]) == 0
    out = capsys.readouterr().out
    assert out.count("\nTake ") == 1 and "| model | CRPS |" in out
    assert (tmp_path / "results" / "compare-my-data" / "report.html").is_file()
    run = next(line.split(": ")[1] for line in out.splitlines() if line.startswith("its run on the first split"))
    (tmp_path / "new.csv").write_text("x\n0.5\n")
    assert main(["predict", run, "new.csv", "--out", "p.csv"]) == 0 and len(pd.read_csv("p.csv")) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "compare takes one table"),
        (["gone.csv"], "'gone.csv' is not a file"),
        (["windsor", "--target", "price"], "--target goes with a file"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words]) == 2
    assert sentence in capsys.readouterr().err
