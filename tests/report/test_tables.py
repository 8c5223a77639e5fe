"""What tables of other kinds say: grids, draws of the data, detection; and how numbers are printed."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from ebmbench.report import stats
from ebmbench.core.errors import UserError
from ebmbench.report import scores, tables
from ebmbench.report.tables import Sweep


def frame_of(values: dict[tuple[object, ...], list[float]], axes: tuple[str, ...] = ()) -> pd.DataFrame:
    """A tidy table; keys: (method, *axes), values: D_KL per seed, nan where it diverged."""
    rows = []
    for (method, *at), numbers in values.items():
        name = f"{method}-{at}"
        for seed, value in enumerate(numbers):
            row = {"run_id": name, "config_hash": name, "task": "1d", "dataset": "1", "method": method, "seed": seed}
            row |= {"state": "done", "error": None, "commit": "abc", "finished": "2026-01-02"}
            row |= dict(zip(axes, at, strict=True))
            bad = math.isnan(value)
            rows.append({**row, "d_kl": value, "diverged": int(bad), "trusted": int(not bad)})
    return pd.DataFrame(rows)


def noisy(mean: float, seeds: int = 10, key: int = 0) -> list[float]:
    return (mean + np.random.default_rng(key).normal(0, 0.01, seeds)).tolist()


def test_a_grid_has_a_row_per_value_and_a_column_per_method() -> None:
    axes = ("method.num_samples",)
    values = {(m, k): noisy(1 / k + (m == "sm"), key=k) for m in ("sm", "nce") for k in (16, 1, 4)}
    built = tables.build(frame_of(values, axes), Sweep("g", "", ({"grid": {"by": axes[0]}},), axes))
    text = built["tables.md"]
    assert "| method.num_samples | nce | sm |" in text
    lines = [line for line in text.splitlines() if line.startswith(("| 1 |", "| 4 |", "| 16 |"))]
    assert [line.split(" |")[0] for line in lines] == ["| 1", "| 4", "| 16"]
    assert all("**" in line.split("|")[2] for line in lines)  # nce is the better one in every row
    assert built["grid_method.num_samples.csv"].count("\n") == 1 + 6


def test_a_grid_compares_settings_at_equal_seeds() -> None:
    """Seeds that ran at one value only would make it look worse, or better, than it is."""
    axes = ("method.num_samples",)
    values: dict[tuple[object, ...], list[float]] = {
        ("nce", 16): [0.1, 0.2, 0.3],
        ("nce", 64): [0.1, 0.2, 0.3, 9.0, 9.0],
    }
    frame = frame_of(values | {("sm", 16): [0.5, 0.6], ("sm", 64): [0.5, 0.6]}, axes)
    text = tables.build(frame, Sweep("g", "", ({"grid": {"by": axes[0]}},), axes))["tables.md"]
    means = {
        line.split(" |")[0]: line.split(" |")[1] for line in text.splitlines() if line.startswith(("| 16 |", "| 64 |"))
    }
    assert len(means) == 2 and means["| 16"] == means["| 64"] and "0.2" in means["| 64"]
    assert "n = 2 to 3" in text


def test_a_grid_of_one_method_compares_the_values() -> None:
    axes = ("noise.sigma", "method.langevin_steps")
    values = {("dsm", s, k): noisy(abs(s - 0.1) + k, key=1) for s in (0.05, 0.1, 0.4) for k in (1, 2)}
    built = tables.build(frame_of(values, axes), Sweep("g", "", ({"grid": {"by": "noise.sigma"}},), axes))
    text = built["tables.md"]
    assert "| noise.sigma | langevin_steps = 1 | langevin_steps = 2 |" in text
    (best,) = [line for line in text.splitlines() if line.startswith("| 0.1 |")]
    assert best.count("**") == 4 and text.count("**") == 4


def test_a_grid_over_what_is_not_swept_is_refused() -> None:
    frame = frame_of({("nce",): noisy(1.0)})
    with pytest.raises(UserError, match="which the sweep does not vary"):
        tables.build(frame, Sweep("g", "", ({"grid": {"by": "noise.beta"}},), ()))


def test_draws_of_the_data_are_the_units_of_their_table() -> None:
    axes = ("task.data_seed",)
    rng = np.random.default_rng(3)
    shift = rng.normal(0, 1, 6)  # what a draw does to all methods alike
    values = {
        (method, draw): (mean + shift[draw] + rng.normal(0, 0.01, 4)).tolist()
        for method, mean in (("nce", 1.0), ("sm", 1.5))
        for draw in range(6)
    }
    frame = frame_of(values, axes)
    rows = scores.draws(frame, ["task", "dataset"], "d_kl").set_index("method")
    means = np.array([np.mean(values["nce", draw]) for draw in range(6)])
    assert rows.loc["nce", "mean"] == pytest.approx(means.mean())
    assert (rows.loc["nce", "low"], rows.loc["nce", "high"]) == stats.bootstrap_interval(means)
    assert rows.loc["nce", "std_draws"] == pytest.approx(means.std(ddof=1))
    assert rows.loc["nce", "std_seeds"] == pytest.approx(0.01, rel=0.5)
    assert rows.loc["nce", "ranks"] == "1 1 1 1 1 1" and rows.loc["sm", "tau"] == 1
    assert rows.loc["sm", "p"] < 0.01 and rows.loc["nce", "mark"] == "best"  # paired by draw, or it would not be seen
    assert "does the draw of the data decide?" in tables.build(frame, Sweep("d", "", ("draws",), axes))["tables.md"]


def test_the_audit_sees_a_ranking_that_the_rule_decides() -> None:
    lucky = [0.1] * 5 + [3.0] * 15  # the best 5 of 20 are better than anything, the rest is bad
    frame = frame_of({("nce",): [0.5] * 20, ("sm",): lucky})
    found = scores.audit(frame, ["task", "dataset"], "method", "d_kl").set_index(["rule", "method"])
    assert found.loc[("all", "sm"), "rank"] == 2 and found.loc[("best", "sm"), "rank"] == 1
    assert found.loc[("best", "sm"), "value"] == pytest.approx(0.1)
    assert found.loc[("median", "sm"), "value"] == 3.0 and found.loc[("best", "sm"), "tau"] == -1
    text = tables.build(frame, Sweep("a", "", ("audit",), ()))["tables.md"]
    assert "The ranking depends on the rule." in text


def test_a_method_that_diverges_is_not_best_and_its_failures_are_seen() -> None:
    good = [0.1, math.nan, 0.1, 0.1, math.nan, 0.1, math.nan, math.nan]
    frame = frame_of({("nce",): good, ("sm",): [0.5] * 8})
    row = scores.summarise(frame, ["task", "dataset"], "method", ["d_kl"]).set_index("method")
    assert row.loc["nce", "mean"] == pytest.approx(0.1) and row.loc["nce", "n"] == 4
    assert row.loc["nce", "diverged"] == 4 and math.isinf(row.loc["nce", "median"])
    assert row.loc["nce", "mark"] == "" and row.loc["sm", "mark"] == "best"
    pair = scores.compare(frame, ["task", "dataset"], "method", "d_kl").iloc[0]
    assert (pair["first"], pair["beats"], pair["pairs"]) == ("nce", 0.5, 4)
    assert "∞" in tables.build(frame, Sweep("s", "", ("scores",), ()))["tables.md"]


def test_a_metric_with_a_nominal_value_is_best_where_it_is_nearest() -> None:
    frame = frame_of({("nce",): noisy(0.1), ("sm",): noisy(0.2)})
    frame["coverage_50"] = np.where(frame["method"] == "nce", 0.7, 0.45) + np.linspace(0, 0.01, 10).tolist() * 2
    rows = scores.summarise(frame, ["task", "dataset"], "method", ["coverage_50"]).set_index("method")
    assert rows.loc["sm", "mark"] == "best" and rows.loc["nce", "mark"] == ""


def test_higher_ap_is_better_and_the_stages_are_told_apart() -> None:
    frame = frame_of({("nce",): noisy(0.1, 3), ("sm",): noisy(0.2, 3)}).drop(columns="d_kl")
    frame[["task", "dataset"]] = "detection", "shapes"
    frame["ap"] = np.where(frame["method"] == "nce", 52.0, 50.0) + [0.0, 0.1, 0.2] * 2
    frame["ap_large"] = math.nan  # no object is large: no column, and no word about seeds that lack it
    frame["base_ap"], frame["nms_ap"] = 48.5, 49.5
    frame["ap_gain"], frame["ap_gain_low"], frame["ap_gain_high"] = frame["ap"] - 48.5, 3.0, 4.0
    text = tables.build(frame, Sweep("s", "", ("scores",), ()))["tables.md"]
    assert "## Detection, shapes: mean over seeds" in text
    assert "| nce | **52.10" in text and "AP ↑" in text
    assert "| nce | 48.50 | 49.50 | 52.10 | – | – | – | 3.60 [3.00, 4.00] | – [–, –] |" in text
    assert "With n = 3 seeds the interval is too narrow" in text and "†" not in text


def test_a_text_with_special_characters_survives_latex() -> None:
    frame = frame_of({("nce+",): noisy(0.1)})
    built = tables.build(frame, Sweep("a_b", "50 % & more_of β #1", ("scores",), ()))
    assert r"50 \% \& more\_of $\beta$ \#1" in built["tables.tex"]


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.123456, 3, "0.123"),
        (-1.5, 1, "−1.5"),
        (math.nan, 2, "–"),
        (math.inf, None, "∞"),
        (12345.678, None, "12346"),
        (1.7e-5, 7, "1.7e-05"),
    ],
)
def test_numbers_are_printed(value: float, decimals: int | None, text: str) -> None:
    assert tables.number(value, decimals) == text


def test_methods_of_which_every_seed_diverged_are_counted_in_every_table() -> None:
    axes = ("task.data_seed",)
    frame = frame_of({(m, draw): [math.nan, math.nan] for m in ("nce", "sm") for draw in (0, 1)}, axes)
    entries = ("scores", "comparisons", "audit", "draws", {"grid": {"by": "task.data_seed"}})
    text = tables.build(frame, Sweep("s", "", entries, axes))["tables.md"]
    assert text.count("| nce | – † | 0 | 2 |") == 2 and "| method | D_KL ↓ | n | diverged |" in text
