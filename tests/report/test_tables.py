"""What tables of other kinds say: grids, draws of the data, detection; and how numbers are printed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ebmbench.core.errors import UserError
from ebmbench.display.table import Cell, Table, csv_text, latex, markdown, number
from ebmbench.report import scores, stats, tables
from ebmbench.report.frame import Results, task_of
from ebmbench.report.published import published_tables

ONE_D, DETECTION = task_of("1d"), task_of("detection")
D_KL, AP, COVERAGE, VAL_NLL = (
    ONE_D.metrics[0],
    DETECTION.metrics[0],
    ONE_D.metric("coverage_50"),
    ONE_D.metric("val_nll"),
)
DRAW = "data.data_seed"


def build(frame: pd.DataFrame, name: str, description: str, entries: tuple[Any, ...], axes: tuple[str, ...]) -> Any:
    """What a sweep of this table of runs ends in."""
    return tables.build(Results(name, frame, axes, (), name, description, entries))


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
    built = build(frame_of(values, axes), "g", "", ({"grid": {"by": axes[0]}},), axes)
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
    text = build(frame, "g", "", ({"grid": {"by": axes[0]}},), axes)["tables.md"]
    means = {
        line.split(" |")[0]: line.split(" |")[1] for line in text.splitlines() if line.startswith(("| 16 |", "| 64 |"))
    }
    assert len(means) == 2 and means["| 16"] == means["| 64"] and "0.2" in means["| 64"]
    assert "n = 2 to 3" in text


def test_a_grid_of_one_method_compares_the_values() -> None:
    axes = ("noise.sigma", "method.langevin_steps")
    values = {("dsm", s, k): noisy(abs(s - 0.1) + k, key=1) for s in (0.05, 0.1, 0.4) for k in (1, 2)}
    built = build(frame_of(values, axes), "g", "", ({"grid": {"by": "noise.sigma"}},), axes)
    text = built["tables.md"]
    assert "| noise.sigma | langevin_steps = 1 | langevin_steps = 2 |" in text
    (best,) = [line for line in text.splitlines() if line.startswith("| 0.1 |")]
    assert best.count("**") == 4 and text.count("**") == 4


def test_a_grid_over_what_is_not_swept_is_refused() -> None:
    frame = frame_of({("nce",): noisy(1.0)})
    with pytest.raises(UserError, match="which the sweep does not vary"):
        build(frame, "g", "", ({"grid": {"by": "noise.beta"}},), ())


def test_a_setting_that_is_null_has_a_column() -> None:
    axes = ("data.num_train", "data.base_seed")
    values = {("nce", images, seed): [images / 100] * 2 for images in (25, 100) for seed in (None, 1)}
    text = build(frame_of(values, axes), "n", "", ({"grid": {"by": axes[0]}},), axes)["tables.md"]
    assert "| base_seed = 1 | base_seed = null |" in text and "| 25 | **0.250**" in text


def test_variants_have_a_row_each_and_the_metrics_asked_for() -> None:
    axes = ("data.num_train",)
    frame = frame_of({("nce", images): [images / 100, images / 100 + 1] for images in (25, 100)}, axes)
    for options, cell in (({}, "0.75 [0.00, 7.10]"), ({"intervals": False}, "0.75")):
        made = build(frame, "v", "", ({"variants": {"metrics": ["d_kl"], **options}},), axes)
        assert f"| nce | num train = 25 | 2 | {cell} |" in made["tables.md"] and "variants.csv" in made


def test_draws_of_the_data_are_the_units_of_their_table() -> None:
    axes = ("data.data_seed",)
    rng = np.random.default_rng(3)
    shift = rng.normal(0, 1, 6)  # what a draw does to all methods alike
    values = {
        (method, draw): (mean + shift[draw] + rng.normal(0, 0.01, 4)).tolist()
        for method, mean in (("nce", 1.0), ("sm", 1.5))
        for draw in range(6)
    }
    frame = frame_of(values, axes)
    rows = scores.draws(frame, ["task", "dataset"], D_KL, DRAW).set_index("method")
    means = np.array([np.mean(values["nce", draw]) for draw in range(6)])
    assert rows.loc["nce", "mean"] == pytest.approx(means.mean())
    split = stats.variance_components(np.array([values["nce", draw] for draw in range(6)]), crossed=True)
    assert split.low < 0 and (rows.loc["nce", "low"], rows.loc["nce", "high"]) == (0, split.high)  # D_KL is above 0
    assert rows.loc["nce", "std_draws"] == pytest.approx(means.std(ddof=1), rel=0.01)
    assert rows.loc["nce", "std_residual"] == pytest.approx(0.01, rel=0.5)
    assert rows.loc["nce", "ranks"] == "1 1 1 1 1 1" and rows.loc["sm", "tau"] == 1
    # Paired by draw, or it would not be seen; six draws can just decide one comparison, with p = 2 / 2⁶.
    assert rows.loc["sm", "p_holm"] == 1 / 32 and rows.loc["sm", "verdict"] == "worse"
    assert rows.loc["nce", "mark"] == "best" and rows.loc["nce", "comparisons"] == 1
    text = build(frame, "d", "", ("draws",), axes)["tables.md"]
    assert "does the draw of the data decide?" in text and "All draws share their seeds" in text
    frame["seed"] += 4 * frame[DRAW]  # seeds of their own: draws are the units, and nothing else
    rows = scores.draws(frame, ["task", "dataset"], D_KL, DRAW).set_index("method")
    assert (rows.loc["nce", "high"], rows.loc["nce", "std_seeds"]) == pytest.approx(
        (stats.mean_interval(means)[1], np.mean([np.var(values["nce", d], ddof=1) for d in range(6)]) ** 0.5)
    )
    assert rows["std_residual"].isna().all() and rows.loc["sm", "p_holm"] == 1 / 32
    assert "share their seeds" not in build(frame, "d", "", ("draws",), axes)["tables.md"]


def test_draws_show_what_is_not_trusted() -> None:
    axes = ("data.data_seed",)
    values = {
        (method, draw): [mean, mean + 0.1 * draw, 9.0]
        for method, mean in (("nce", 1.0), ("sm", 2.0))
        for draw in range(6)
    }
    frame = frame_of(values, axes)
    sm = frame["method"] == "sm"
    frame.loc[sm & (frame["seed"] == 2), "trusted"] = 0
    rows = scores.draws(frame, ["task", "dataset"], D_KL, DRAW).set_index("method")
    assert rows["n_untrusted"].to_dict() == {"nce": 0, "sm": 6}
    assert rows.loc["sm", "bound"] == "least" and math.isinf(rows.loc["sm", "high"]) and rows.loc["sm", "mean"] > 4
    text = build(frame, "d", "", ("draws",), axes)["tables.md"]
    assert "| sm | ≥ 4." in text and "≥: a lower bound, with unreliable values" in text
    assert rows.loc["sm", "verdict"] == "not significant" and "by their bounds" in rows.loc["sm", "note"]


def test_draws_show_other_settings_and_metrics_beside_the_methods() -> None:
    axes = (DRAW, "network")
    values = {
        (method, draw, network): [mean, mean + 0.01]
        for method, network, mean in (("nce", "mlp", 1.0), ("sm", "mlp", 1.5), ("mdn", None, 2.0))
        for draw in range(3)
    }
    options = {"draws": {"metrics": ["d_kl", "nll"]}}
    frame = frame_of(values, axes).assign(nll=1.0)
    text = build(frame, "d", "", (options,), axes)["tables.md"]
    assert "D_KL; does the draw of the data decide?" in text and "NLL; does the draw of the data decide?" in text
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith(("| nce", "| sm", "| mdn"))]
    assert [row for row in rows if "[" not in row] == ["| nce", "| sm", "| mdn"] * 2


def test_models_are_compared_in_one_table_of_scores() -> None:
    values = {("nce", "mlp"): [1.0, 1.1] * 5, ("ml-exact", "mlp"): [1.5, 1.6] * 5, ("mdn", None): [2.0, 2.2] * 5}
    axes = ("network",)
    text = build(frame_of(values, axes), "d", "", ("scores",), axes)["tables.md"]
    rows = [
        line.split(" | ")[0] for line in text.splitlines() if line.startswith(("| nce |", "| ml-exact |", "| mdn |"))
    ]
    assert rows == ["| nce", "| ml-exact", "| mdn"] * 2  # the second table has the other summaries


def test_a_setting_that_each_model_has_one_value_of_makes_no_groups() -> None:
    """Samples that one method needs and another does not are its own; samples that both vary make two tables."""
    axes = ("method.num_samples",)
    own = build(frame_of({("nce", 16): [1.0] * 10, ("sm", None): [2.0] * 10}, axes), "d", "", ("scores",), axes)
    assert own["tables.md"].count("mean over seeds") == 1
    both = {(name, number): [1.0] * 10 for name in ("nce", "sm") for number in (16, 64)}
    assert build(frame_of(both, axes), "d", "", ("scores",), axes)["tables.md"].count("mean over seeds") == 2


def test_the_audit_sees_a_ranking_that_the_rule_decides() -> None:
    lucky = [0.1] * 5 + [3.0] * 15  # the best 5 of 20 are better than anything, the rest is bad
    frame = frame_of({("nce",): [0.5] * 20, ("sm",): lucky})
    found = scores.audit(frame, ["task", "dataset"], "method", D_KL, VAL_NLL).set_index(["rule", "method"])
    assert found.loc[("all", "sm"), "rank"] == 2 and found.loc[("best", "sm"), "rank"] == 1
    assert found.loc[("best", "sm"), "value"] == pytest.approx(0.1)
    assert found.loc[("median", "sm"), "value"] == 3.0 and found.loc[("best", "sm"), "tau"] == -1
    text = build(frame, "a", "", ("audit",), ())["tables.md"]
    assert "The ranking depends on the rule." in text


def test_a_method_that_diverges_is_not_best_and_its_failures_are_seen() -> None:
    good = [0.1, math.nan, 0.1, 0.1, math.nan, 0.1, math.nan, math.nan]
    frame = frame_of({("nce",): good, ("sm",): [0.5] * 8})
    row = scores.summarise(frame, ["task", "dataset"], "method", [D_KL]).set_index("method")
    assert row.loc["nce", "mean"] == pytest.approx(0.1) and row.loc["nce", "n"] == 4
    assert row.loc["nce", "diverged"] == 4 and math.isinf(row.loc["nce", "median"])
    assert row.loc["nce", "mark"] == "" and row.loc["sm", "mark"] == "best"
    pair = scores.compare(frame, ["task", "dataset"], "method", D_KL).iloc[0]
    assert (pair["first"], pair["beats"], pair["pairs"]) == ("nce", 0.5, 4)
    assert "∞" in build(frame, "s", "", ("scores",), ())["tables.md"]


def summary(frame: pd.DataFrame, **more: dict[str, float]) -> pd.DataFrame:
    return scores.summarise(frame, ["task", "dataset"], "method", [D_KL], **more).set_index("method")


def test_seeds_that_others_lack_do_not_make_a_method_the_best() -> None:
    """The first five seeds are lucky for all methods alike; the one that has only these is not better for it."""
    shift = np.array([0.0] * 5 + [1.0] * 15)
    rng = np.random.default_rng(0)
    nce, sm, lucky = (m + shift + rng.normal(0, 0.01, 20) for m in (0.1, 0.5, 0.2))
    values: dict[tuple[object, ...], list[float]] = {("nce+",): lucky[:5].tolist()}
    frame = frame_of(values | {("nce",): nce.tolist(), ("sm",): sm.tolist()})
    rows = summary(frame)
    assert rows["mean"].idxmin() == "nce+" and rows.loc["nce", "mark"] == "best"
    assert (rows["ranked_over"] == 5).all() and (rows["comparisons"] == 3).all()
    assert rows.loc["nce", "mean_ranked"] == pytest.approx(nce[:5].mean())
    assert rows["p_holm"].isna().all() and rows.loc["sm", "verdict"] == "not significant"
    assert "over the 5 seeds that all have (0 to 4)" in rows.loc["sm", "note"]
    assert "Too few seeds (5) for 3 comparisons (7 needed)." in rows.loc["sm", "note"]
    pairs = scores.compare(frame, ["task", "dataset"], "method", D_KL)
    assert (
        (pairs["pairs"] == 5).all() and (pairs["verdict"] == "not significant").all() and pairs["p_holm"].isna().all()
    )
    found = scores.audit(frame, ["task", "dataset"], "method", D_KL, VAL_NLL).set_index(["rule", "method"])
    assert found.loc[("all", "nce"), "rank"] == 1 and (found["seeds"] == 5).all()


def test_methods_without_two_common_seeds_are_not_ranked() -> None:
    frame = frame_of({("nce",): noisy(0.1), ("sm",): noisy(0.5)})
    frame.loc[frame["method"] == "sm", "seed"] += 9
    rows = summary(frame)
    assert (rows["mark"] == "").all() and (rows["verdict"] == "").all() and (rows["ranked_over"] == 0).all()
    assert (rows["note"] == "No ranking: fewer than two seeds are common to all that are compared.").all()
    entries = ("scores", "comparisons", "audit")
    text = build(frame, "s", "", entries, ())["tables.md"]
    assert "No ranking: fewer than two seeds" in text and "**" not in text and "*" not in text.replace("*:", "")


def test_a_large_p_value_is_not_equality_and_a_margin_can_be() -> None:
    frame = frame_of({("nce",): noisy(0.1, 20), ("sm",): noisy(0.1, 20, key=1), ("dsm",): noisy(0.2, 20, key=2)})
    rows = summary(frame)
    assert rows.loc["dsm", "verdict"] == "worse" and rows.loc["dsm", "p_holm"] < 0.002
    (other,) = [m for m in ("nce", "sm") if rows.loc[m, "mark"] != "best"]
    assert rows.loc[other, "p_holm"] > 0.05 and rows.loc[other, "verdict"] == "not significant"
    assert summary(frame, margins={"d_kl": 0.05}).loc[other, "verdict"] == "equivalent"
    assert summary(frame, margins={"d_kl": 0.0001}).loc[other, "verdict"] == "not significant"
    # A difference that is decided is no equivalence, however wide the margin is.
    assert summary(frame, margins={"d_kl": 5.0}).loc["dsm", "verdict"] == "worse"
    pairs = scores.compare(frame, ["task", "dataset"], "method", D_KL, margin=0.05).set_index(["first", "second"])
    assert pairs.loc[("dsm", "sm"), "verdict"] == "second better"
    assert pairs.loc[("nce", "sm"), "verdict"] == "equivalent" and (pairs["comparisons"] == 3).all()
    assert pairs.loc[("nce", "dsm"), "p_holm"] == rows.loc["dsm", "p_holm"] or other == "nce"
    assert pairs.loc[("nce", "dsm"), "low"] < -0.1 < pairs.loc[("nce", "dsm"), "high"] < -0.09


def test_a_sweep_gives_the_margin_of_equivalence() -> None:
    frame = frame_of({("nce",): noisy(0.1, 20), ("sm",): noisy(0.1, 20, key=1), ("dsm",): noisy(0.2, 20, key=2)})
    text = build(frame, "s", "", ({"scores": {"margins": {"d_kl": 0.05}}},), ())["tables.md"]
    assert (
        "Equivalent to the best mean (two one-sided tests): d_kl, margin 0.05: " in text and "| equivalent p = " in text
    )
    for margins in ({"d_kl": 0}, {"d_kl": "much"}, [0.1]):
        with pytest.raises(UserError, match="give each metric a positive number"):
            tables.parse_entry({"scores": {"margins": margins}})


def test_an_unreliable_value_counts_as_its_bounds() -> None:
    values = noisy(0.1, 10)
    values[3] = 0.0  # too good to be true
    frame = frame_of({("nce",): noisy(0.098, 10), ("sm",): values, ("dsm",): noisy(0.3, 10, 2)})
    for name in ("sm", "dsm"):
        frame.loc[(frame["method"] == name) & (frame["seed"] == 3), "trusted"] = 0
    rows = summary(frame)
    assert rows["n_untrusted"].to_dict() == {"nce": 0, "sm": 1, "dsm": 1}
    assert rows.loc["sm", "mean"] == pytest.approx(np.mean(values))  # nothing is left out
    assert rows["bound"].to_dict() == {"nce": "", "sm": "least", "dsm": "least"} and math.isinf(rows.loc["sm", "high"])
    # What may be worse than it seems is not the best; what is worse even as a lower bound, is worse.
    assert rows["verdict"].to_dict() == {"nce": "best", "sm": "not significant", "dsm": "worse"}
    text = build(frame, "s", "", ("scores",), ())["tables.md"]
    assert "| sm | ≥ 0.09" in text and "≥: a lower bound, with unreliable values" in text


def test_nothing_is_known_of_an_unreliable_value_that_is_no_bound() -> None:
    frame = frame_of({("nce",): noisy(0.1, 20), ("sm",): noisy(0.9, 20, 1)})
    frame["crps"] = frame["d_kl"]
    frame.loc[(frame["method"] == "sm") & (frame["seed"] == 3), "trusted"] = 0
    metric = ONE_D.metric("crps")
    row = scores.summarise(frame, ["task", "dataset"], "method", [metric]).set_index("method").loc["sm"]
    assert (row["bound"], row["low"], row["high"]) == ("unknown", 0, math.inf) and row["p_holm"] < 1
    frame.loc[frame["method"] == "sm", "trusted"] = 0  # it may be anything from 0 on
    row = scores.summarise(frame, ["task", "dataset"], "method", [metric]).set_index("method").loc["sm"]
    assert row["verdict"] == "not significant" and row["p_holm"] == 1


def test_a_score_of_many_targets_is_shown_as_a_lower_bound_and_ranked_as_it_is() -> None:
    frame = frame_of({("nce",): noisy(0.1, 10), ("sm",): noisy(0.9, 10, 1)}).assign(lower_bound=1.0)
    rows = summary(frame)
    assert (rows["bound"] == "least").all() and rows["verdict"].to_dict() == {"nce": "best", "sm": "worse"}
    assert "miss modes that nothing points to" in build(frame, "s", "", ("scores",), ())["tables.md"]


def test_the_median_and_its_interval_count_a_diverged_seed_as_the_worst() -> None:
    values = [0.8, math.nan, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    frame = frame_of({("nce",): values})
    row = summary(frame).loc["nce"]
    assert (row["median"], row["median_low"], row["median_high"]) == (0.5, 0.2, 0.8)  # the 2nd and the 8th of 9
    frame["ap"] = -frame["d_kl"]
    higher = scores.summarise(frame, ["task", "dataset"], "method", [AP]).iloc[0]
    assert (higher["median"], higher["median_low"], higher["median_high"]) == (-0.5, -0.8, -0.2)
    assert summary(frame[frame["seed"] < 5]).loc["nce", ["median_low", "median_high"]].isna().all()


def test_the_means_of_a_method_that_diverged_are_not_compared() -> None:
    """Of the seeds that are left it may look better, which proves nothing."""
    frame = frame_of({("nce",): [0.1] * 10 + [math.nan] * 10, ("sm",): noisy(0.5, 20), ("dsm",): noisy(0.9, 20)})
    pairs = scores.compare(frame, ["task", "dataset"], "method", D_KL).set_index(["first", "second"])
    assert math.isnan(pairs.loc[("nce", "sm"), "p_holm"]) and pairs.loc[("nce", "sm"), "pairs"] == 10
    assert set(pairs["note"]) == {"nce is not ranked: it has no value at 10 of the 20 seeds."}
    assert pairs.loc[("dsm", "sm"), "p_holm"] < 0.01 and (pairs["comparisons"] == 1).all()
    rows = summary(frame)
    assert rows.loc["nce", "verdict"] == "" and "nce is not ranked: it has no value at 10" in rows.loc["nce", "note"]
    text = build(frame, "s", "", ("comparisons",), ())["tables.md"]
    assert "| nce | – | 0.50 | 0.50 |" in text and r"| sm | 0.50 | 1.00\* | – |" in text


def test_draws_of_half_a_sweep_use_what_all_have() -> None:
    axes = ("data.data_seed",)
    values: dict[tuple[object, ...], list[float]] = {
        (m, d): noisy(x + d, 4, key=d) for m, x in (("nce", 1.0), ("sm", 1.5)) for d in range(8)
    }
    frame = frame_of(values, axes)
    frame = frame[~((frame["method"] == "sm") & (frame["data.data_seed"] > 5))]
    frame = frame[~((frame["method"] == "sm") & (frame["data.data_seed"] == 2) & (frame["seed"] == 3))]
    rows = scores.draws(frame, ["task", "dataset"], D_KL, DRAW).set_index("method")
    assert rows["n"].to_dict() == {"nce": 8, "sm": 6} and (rows["seeds"] == 3).all()
    assert (rows["ranked_over"] == 6).all() and "over the 6 draws that all have (0 to 5)" in rows.loc["sm", "note"]
    assert rows.loc["nce", "mean_ranked"] == pytest.approx(np.mean([values["nce", d][:3] for d in range(6)]))
    one = scores.draws(frame[frame["data.data_seed"] == 0], ["task", "dataset"], D_KL, DRAW)
    assert (one["verdict"] == "").all() and one["note"].str.startswith("No ranking: fewer than two draws").all()


def test_a_metric_with_a_nominal_value_is_best_where_it_is_nearest() -> None:
    frame = frame_of({("nce",): noisy(0.1), ("sm",): noisy(0.2)})
    frame["coverage_50"] = np.where(frame["method"] == "nce", 0.7, 0.45) + np.linspace(0, 0.01, 10).tolist() * 2
    rows = scores.summarise(frame, ["task", "dataset"], "method", [COVERAGE]).set_index("method")
    assert rows.loc["sm", "mark"] == "best" and rows.loc["nce", "mark"] == ""


def test_the_median_of_a_metric_with_a_nominal_value_is_one_of_its_values() -> None:
    frame = frame_of({("nce",): noisy(0.1, 7), ("sm",): noisy(0.2, 7)})
    frame["coverage_50"] = [0.4, 0.6, 0.41, 0.59, 0.42, 0.58, 0.43] * 2
    row = scores.summarise(frame, ["task", "dataset"], "method", [COVERAGE]).iloc[0]
    assert (row["median"], row["median_low"], row["median_high"]) == (0.43, 0.4, 0.6)
    (table, *_) = tables.score_tables(frame, (), {})
    assert any(note.startswith("coverage of 50 %: best is the smallest mean distance") for note in table.notes)


def test_one_number_for_all_seeds_is_no_sample() -> None:
    """The NLL of the mixture of all seeds stands in each seed's row; twenty copies of it decide nothing."""
    frame = frame_of({("nce",): [0.1] * 20, ("sm",): [0.2] * 20}).rename(columns={"d_kl": "ensemble_nll"})
    frame["task"] = "regression"
    metric = task_of("regression").metric("ensemble_nll")
    rows = scores.summarise(frame, ["task", "dataset"], "method", [metric]).set_index("method")
    assert rows.loc["nce", "mark"] == "best" and rows.loc["sm", "verdict"] == "not significant"
    assert (
        rows[["low", "high", "p_holm"]].isna().all(axis=None) and "no interval and no test" in rows.loc["nce", "note"]
    )


def test_one_number_for_the_seeds_of_a_draw_has_no_spread_between_seeds() -> None:
    axes = ("data.split",)
    values = {(m, k): [k + (m == "sm")] * 3 for m in ("nce", "sm") for k in range(6)}
    frame = frame_of(values, axes).rename(columns={"d_kl": "ensemble_nll"}).assign(task="regression", dataset="uci")
    text = build(frame, "d", "", ({"draws": {"metrics": ["ensemble_nll"]}},), axes)["tables.md"]
    low, high = stats.mean_interval(np.arange(6.0))
    assert f"| nce | **2.5** [{low:.1f}, {high:.1f}] |" in text
    assert "std between draws" in text and "std between seeds" not in text
    assert "all seeds of a draw make one number" in text and "mixed model" not in text


def test_higher_ap_is_better_and_the_stages_are_told_apart() -> None:
    frame = frame_of({("nce",): noisy(0.1, 3), ("sm",): noisy(0.2, 3)}).drop(columns="d_kl")
    frame[["task", "dataset"]] = "detection", "shapes"
    frame["ap"] = np.where(frame["method"] == "nce", 52.0, 50.0) + [0.0, 0.1, 0.2] * 2
    frame["ap_large"] = math.nan  # no object is large: no column, and no word about seeds that lack it
    frame["base_ap"], frame["nms_ap"] = 48.5, 49.5
    frame["ap_gain"], frame["ap_gain_low"], frame["ap_gain_high"] = frame["ap"] - 48.5, 3.0, 4.0
    text = build(frame, "s", "", ("scores",), ())["tables.md"]
    assert "## Detection, shapes: mean over seeds" in text
    assert "| nce | **52.10" in text and "AP ↑" in text
    assert "| nce | 48.50 | 49.50 | 52.10 | – | – | – | 3.60 [3.00, 4.00] | – [–, –] |" in text
    assert "n = 3: where values are skewed" in text and "†" not in text
    assert "| not significant |" in text and "Too few seeds (3) for 1 comparison (6 needed)." in text


def test_the_first_table_has_six_columns_and_what_is_more_is_folded_away() -> None:
    frame = frame_of({("nce",): noisy(0.2, 10), ("sm",): noisy(0.1, 10)})
    names = [metric.name for metric in ONE_D.metrics if metric.table]
    frame = frame.assign(**{name: frame["d_kl"] for name in names})
    made = list(tables.score_tables(frame, (), {}))
    assert [table.folded for table in made] == [False, True, True] and len(made[0].header) == 6
    heads = [cell.text for table in made[:2] for cell in table.header]
    assert "D_KL ↓" in heads and "edge mass ↓" in heads and heads[5] == "test of D_KL"
    one = tables.headline(made, [ONE_D])
    assert one is not None and len(one.header) == 6 and not any(cell.beside for row in one.rows for cell in row)
    both = [*made, *tables.score_tables(frame.assign(dataset="2"), (), {})]
    two = tables.headline(both, [ONE_D])
    assert two is not None and [cell.text for cell in two.header][1:] == [
        "1D, dataset 1: D_KL ↓",
        "1D, dataset 2: D_KL ↓",
    ]
    assert [row[0].text for row in two.rows] == ["nce", "sm"] and two.rows[1][1].mark == "best"


HOSTILE = "nice\n\\input{/etc/passwd}\r| <script>alert(1)</script> [x](http://evil) **b** `c`"


def test_no_text_adds_commands_markup_or_formulas() -> None:
    frame = frame_of({("=cmd|' /C calc'!A0",): noisy(0.1), ("nce",): noisy(0.2)})
    frame["error"] = "@SUM(1)"
    built = build(frame, "s\n\\input{x}", HOSTILE, ("scores", "comparisons"), ())
    tex = built["tables.tex"]
    body = [line for line in tex.splitlines() if not line.startswith("%")]
    assert body and not any("\\input" in line for line in body)
    text = built["tables.md"]
    assert "<script" not in text and "](http" not in text and r"\*\*b\*\*" in text
    assert "\n=cmd" not in built["scores.csv"] and "'=cmd" in built["scores.csv"]
    assert ",@SUM" not in csv_text(frame) and "'@SUM(1)" in csv_text(frame)


@pytest.mark.parametrize("text", ["a\u2028\\input{x}", "a\x0b<img src=x onerror=alert(1)>", "tail | cell", "-1+1"])
def test_a_cell_is_one_cell_in_every_format(text: str) -> None:
    table = Table("t", [Cell("a"), Cell("b")], [[Cell(text), Cell("1")]], [text])
    lines = markdown(table).splitlines()
    assert len(lines) == 7 and "<img" not in lines[4]
    assert lines[4].replace(r"\|", "").count("|") == 3
    tex = latex(table, "label", {})
    assert "\\input{" not in tex and "\u2028" not in tex
    assert csv_text(table.numbers).splitlines()[1].startswith(("'-", "a", "tail", '"a'))


def test_numbers_stay_numbers_in_csv() -> None:
    frame = pd.DataFrame({"x": [-1.5, 2.0], "n": [-1, 2], "text": ["+1", "b"]})
    assert csv_text(frame) == "x,n,text\n-1.5,-1,'+1\n2,2,b\n"


def test_a_text_with_special_characters_survives_latex() -> None:
    frame = frame_of({("nce+",): noisy(0.1)})
    built = build(frame, "a_b", "50 % & more_of β #1", ("scores",), ())
    assert r"50 \% \& more\_of $\beta$ \#1" in built["tables.tex"]


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.123456, 3, "0.123"),
        (-1.5, 1, "−1.5"),
        (-0.004, 2, "0.00"),
        (math.nan, 2, "–"),
        (math.inf, None, "∞"),
        (12345.678, None, "12346"),
        (1.7e-5, 7, "1.7e-05"),
    ],
)
def test_numbers_are_printed(value: float, decimals: int | None, text: str) -> None:
    assert number(value, decimals) == text


def test_methods_of_which_every_seed_diverged_are_counted_in_every_table() -> None:
    axes = ("data.data_seed",)
    frame = frame_of({(m, draw): [math.nan, math.nan] for m in ("nce", "sm") for draw in (0, 1)}, axes)
    entries = ("scores", "comparisons", "audit", "draws", {"grid": {"by": "data.data_seed"}})
    text = build(frame, "s", "", entries, axes)["tables.md"]
    assert text.count("| nce | – † | – |") >= 2 and text.count("| nce | ∞ | – (1 of 2) | – | 2 2 diverged |") == 2


def test_where_all_values_are_unreliable_there_is_no_best_one() -> None:
    frame = frame_of({("nce",): noisy(0.2, 10), ("dsm",): noisy(0.3, 10, 1)}).assign(trusted=0)
    rows = summary(frame)
    assert set(rows["verdict"]) == {""} and set(rows["mark"]) == {""}
    (note,) = set(rows["note"])
    assert note.startswith("No best one: each has unreliable values, which are only bounded.")


def test_a_metric_that_needs_no_log_z_is_ranked_whether_the_seed_is_trusted_or_not() -> None:
    ap, box_nll = (task_of("detection").metric(name) for name in ("ap", "box_nll"))
    assert ap is not None and box_nll is not None and box_nll.doubted and not ap.doubted
    frame = frame_of({("nce",): noisy(0.2, 10), ("sm",): noisy(0.1, 10, 2)})
    frame.loc[frame["method"] == "sm", "trusted"] = 0
    frame = frame.assign(ap=frame["d_kl"], box_nll=frame["d_kl"])
    rows = scores.summarise(frame, ["task", "dataset"], "method", [ap, box_nll]).set_index(["metric", "method"])
    assert rows["verdict"].to_dict() == {
        ("ap", "nce"): "best", ("ap", "sm"): "worse", ("box_nll", "nce"): "best", ("box_nll", "sm"): "not significant"
    }  # fmt: skip
    assert rows["n_untrusted"].xs("sm", level="method").to_dict() == {"ap": 0, "box_nll": 10}


def test_published_rows_stand_beside_the_means_of_the_same_sets() -> None:
    rows = [
        {"task": "regression", "dataset": dataset, "method": method, "nll": nll + step, "ensemble_nll": nll - 0.5}
        for dataset in ("yacht", "wine-quality-red", "mine")
        for method, nll in (("nce", 0.5), ("gaussian", 1.5))
        for step in (-0.1, 0.1)
    ]
    [table] = published_tables(pd.DataFrame(rows))
    assert [cell.text for cell in table.header] == ["model", "from", "wine-quality-red", "yacht"]
    text = [[cell.text for cell in row] for row in table.rows]
    assert ["nce", "here, one model", "0.50", "0.50"] in text
    assert ["nce", "here, mixture of the seeds", "0.00", "0.00"] in text
    assert ["deep ensembles", "Lakshminarayanan 2017", "0.94", "1.18"] in text
    assert "2405.09536v2" in " ".join(table.notes) and "published random splits" in table.notes[0]
    assert not published_tables(pd.DataFrame(rows)[lambda frame: frame["dataset"] == "mine"])
    own = pd.DataFrame(rows).assign(data="table")  # a table of one's own that is called yacht
    assert not published_tables(own)
