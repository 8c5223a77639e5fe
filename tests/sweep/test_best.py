"""Which settings `sweep best` chooses: by the mean of the validation metric, over seeds and draws of the data."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from ebmbench.config.compose import compose
from ebmbench.config.folders import use_config_dir
from ebmbench.core.errors import UserError
from ebmbench.report.frame import Results
from ebmbench.sweep import best

AXES = ("network", "data.split", "network.activation", "trainer.learning_rate")


def results(rows: list[tuple[str, int, str, float, float]], axes: tuple[str, ...] = AXES) -> Results:
    """Runs of one set: network, split, activation, learning rate and validation NLL, one seed each."""
    frame = pd.DataFrame(
        [
            {
                "config_hash": f"{number}", "task": "regression", "dataset": "made", "data": "diabetes", "seed": 0,
                "state": "done",
                "method": "nce" if row[0] == "mlp" else "ml-exact", **dict(zip(AXES, row, strict=False)),
                "val_nll": row[-1], "diverged": float(math.isnan(row[-1])),
            }
            for number, row in enumerate(rows)
        ]
    )  # fmt: skip
    return Results("tried", frame, axes)


def test_the_mean_over_draws_decides_for_each_model(tmp_path: Path) -> None:
    found = results(
        [
            ("mlp", 0, "silu", 0.002, 1.0), ("mlp", 1, "silu", 0.002, 5.0),  # best at one draw, worse on average
            ("mlp", 0, "relu", 0.005, 2.0), ("mlp", 1, "relu", 0.005, 2.0),
            ("cnn", 0, "silu", 0.002, 3.0), ("cnn", 1, "silu", 0.002, 3.0),
            ("cnn", 0, "relu", 0.005, 4.0), ("cnn", 1, "relu", 0.005, 1.0),
        ]
    )  # fmt: skip
    relu = {"network.activation": "relu", "trainer.learning_rate": 0.005}
    assert best.best(found) == {"regression/diabetes": {"nce/mlp": relu, "ml-exact/cnn": relu}}
    path, _ = best.write(best.best(found), tmp_path, "first\nsecond")
    assert path.read_text().startswith("# @package _global_\n# first\n# second\nnetwork:")
    use_config_dir(tmp_path)
    config = compose(["task=regression", "method=nce"])
    assert config.task.network.activation == "relu" and config.trainer.learning_rate == 0.005  # type: ignore[attr-defined]
    assert compose(["task=regression", "method=ml-is"]).trainer.learning_rate == 0.002  # type: ignore[attr-defined]


def test_a_model_that_no_method_trains_has_its_best_settings_too(tmp_path: Path) -> None:
    table = {"regression/diabetes": {"mdn": {"model.activation": "relu"}}}
    best.write(table, tmp_path, "told")
    use_config_dir(tmp_path)
    assert compose(["task=regression", "model=mdn"]).task.model.activation == "relu"  # type: ignore[attr-defined]
    assert compose(["task=regression", "model=gaussian"]).task.model.activation == "silu"  # type: ignore[attr-defined]


def test_a_setting_that_lacks_a_run_or_diverged_is_not_chosen() -> None:
    found = results(
        [
            ("mlp", 0, "silu", 0.002, 1.0),
            ("mlp", 0, "tanh", 0.002, 0.0), ("mlp", 1, "tanh", 0.002, math.nan),
            ("mlp", 0, "relu", 0.005, 2.0), ("mlp", 1, "relu", 0.005, 2.0),
        ]
    )  # fmt: skip
    assert best.best(found)["regression/diabetes"]["nce/mlp"]["network.activation"] == "relu"


def test_a_model_has_the_settings_that_vary_for_it_alone_and_whole_numbers_stay_whole() -> None:
    found = results(
        [("mlp", 0, "silu", 0.002, 1.0), ("mlp", 0, "relu", 0.002, 2.0)] + 2 * [("cnn", 0, None, None, 1.0)]
    )
    leaf = "network.min_leaf"
    rows = found.frame.assign(**{leaf: [math.nan, math.nan, 1, 5], "val_nll": [1.0, 2.0, 4.0, 3.0]})
    chosen = best.best(Results("tried", rows, (*AXES, leaf)))["regression/diabetes"]
    assert chosen["nce/mlp"] == {"network.activation": "silu"}
    assert repr(chosen["ml-exact/cnn"]) == "{'network.min_leaf': 5}"  # not 5.0


@pytest.mark.parametrize(
    ("rows", "axes", "words"),
    [
        ([("mlp", 0, "silu", 0.002, 1.0)], AXES, "it tries one setting of nce"),
        ([("mlp", 0, "silu", 0.002, 1.0), ("mlp", 1, "silu", 0.002, 1.0)], AXES[:2], "it tries one setting of nce"),
        ([("mlp", 0, name, 0.002, math.nan) for name in ("silu", "relu")], AXES, "no run of nce/mlp .* has val_nll"),
    ],
)
def test_a_sweep_that_tries_nothing_or_fails_has_no_best(
    rows: list[tuple[str, int, str, float, float]], axes: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        best.best(results(rows, axes))
