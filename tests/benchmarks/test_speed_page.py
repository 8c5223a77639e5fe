"""What docs/speed.md and other pages say of measurements by hand follows from the committed figures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def page(name: str) -> str:
    """A document with each run of white space as one space."""
    return " ".join((ROOT / name).read_text().split())


def test_steps_of_one_d() -> None:
    text, table = page("docs/speed.md"), pd.read_csv(RESULTS / "bench" / "one_d.csv")
    rows = table.set_index(["method", "seeds", "threads"])
    sm, many, one = (rows.loc[key] for key in (("sm", 20, 2), ("nce+", 20, 2), ("nce+", 20, 1)))
    assert f"takes {sm['baseline_ms']:.1f} ms on two cores and {rows.loc[('sm', 20, 1), 'baseline_ms']:.1f} on" in text
    assert f"reach {100 * many['of_compute']:.0f} % with 20 seeds of nce+" in text
    assert f"{100 * one['of_compute']:.0f} % of what it can ({one['ms']:.2f} ms a step)" in text
    alone = float(rows.loc[("nce+", 1, 2), "ms"])
    assert f"One seed of `nce+` takes {alone:.1f} ms a step on two threads, four times" in text
    assert 3.5 < alone / many["ms"] < 4.5
    assert "Limits measured before: 493 Gflop/s" in page("results/bench/one_d.md") and "compute 493 Gflop/s" in text


def test_peers() -> None:
    text, table = page("docs/speed.md"), pd.read_csv(RESULTS / "bench" / "peers" / "one_d.csv")
    rows = table.set_index(["kind", "method", "seeds"])

    def times(method: str, seeds: int, decimals: int) -> str:
        own = rows.loc[("table", method, seeds), "ms"]
        return " and ".join(
            f"{rows.loc[(kind, method, seeds), 'ms'] / own:.{decimals}f}" for kind in ("jax", "compile")
        )

    assert f"20 models of nce+ {times('nce+', 20, 0)}, of dsm {times('dsm', 20, 0)}" in text
    assert f"one model of nce+ {times('nce+', 1, 1)}, of dsm {times('dsm', 1, 0)}" in text
    own = rows.loc[("table", "nce+", 1)]
    assert f"took from {own['low']:.1f} to {own['high']:.0f} ms (quartiles)" in text


def test_a_gpu() -> None:
    text, table = page("docs/speed.md"), pd.read_csv(RESULTS / "bench" / "one_d_cuda.csv")
    rows = table.set_index(["method", "seeds"])
    for seeds in (20, 80):
        ratios = ", ".join(
            f"`{method}` {rows.loc[(method, seeds), 'ratio']:.1f}" for method in table["method"].unique()
        )
        assert f"- {seeds} seeds: {ratios}." in text
    one, many = rows.loc[("nce+", 1)], rows.loc[("nce+", 20)]
    assert f"nce+ take {20 * many['ms']:.1f} ms a step, {100 * many['of_compute']:.0f} % of its peak" in text
    assert f"one model alone {one['ms']:.1f} ms" in text
    models = pd.read_csv(RESULTS / "bench" / "paper_1d_cuda.csv")
    difference = (models["d_kl_cuda"] - models["d_kl_cpu"]).abs()
    assert f"{len(models)} models of nine" in text and models.groupby(["dataset", "method"]).ngroups == 9
    assert f"by {difference.mean():.4f} on average and by {difference.max():.3f} at most" in text


def test_waits_and_many_runs() -> None:
    text = page("docs/speed.md")
    waits = pd.read_csv(RESULTS / "bench" / "waits.csv").groupby("command")["cpu_seconds"].median()
    quick = waits.drop("import ebmbench")[lambda seconds: seconds < 2]
    assert f"{quick.min():.1f} to {quick.max():.1f} s of a core" in text
    sweep = pd.read_csv(RESULTS / "bench" / "sweep.csv").set_index(["command", "runs"])
    status, collect = sweep.loc[("status", 100_000)], sweep.loc[("collect", 100_000)]
    assert f"{status['cpu_seconds']:.0f} s and {status['peak_memory_mb'] / 1000:.1f} GB for 10⁵ runs" in text
    assert 3.5 < collect["cpu_seconds"] / status["cpu_seconds"] < 4.5
    assert 1.8 < collect["peak_memory_mb"] / status["peak_memory_mb"] < 2.2


def test_notes_of_other_pages() -> None:
    trials = pd.read_csv(RESULTS / "extended_1d" / "trials.csv")
    for _, own in trials[trials["method"] == "snl"].groupby("dataset"):
        rates = own["settings"].str.extract(r"learning_rate=([0-9.e-]+)")[0].astype(float)
        best = own["val_nll"].nsmallest(4).index
        assert len(own) == 8 and rates[best].min() > 3.4e-3 > rates.drop(best).max()
    bases = pd.read_csv(RESULTS / "shapes_bases" / "runs.csv").groupby("task.base.seed")
    assert 7.5 < abs(bases["base_ap"].mean().diff().iloc[-1]) < 8.5
    assert 0.4 < abs(bases["ap_gain"].mean().diff().iloc[-1]) < 0.7
    tried = pd.read_csv(RESULTS / "cells_settings" / "runs.csv")
    files = (RESULTS / "cells_settings" / "best").rglob("*.yaml")
    chosen = "".join(path.read_text() for path in files)
    assert chosen.count("learning_rate:") == chosen.count(f"learning_rate: {tried['trainer.learning_rate'].min():g}")
