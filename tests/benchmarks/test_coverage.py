"""The simulation behind `ebmbench.stats`: its procedures against others, and the committed table against the code."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as oracle

from benchmarks import coverage
from benchmarks.__main__ import main
from ebmbench.core.errors import UserError
from ebmbench.report import stats

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def committed() -> list[coverage.Row]:
    table = pd.read_csv(RESULTS / "bench" / "coverage.csv")
    return [coverage.Row(**row) for row in table.to_dict("records")]


def test_what_was_used_before_is_what_is_measured() -> None:
    values = np.random.default_rng(0).lognormal(size=(70, 20))
    found = coverage.percentile_intervals(values)
    for row, ends in list(zip(values, found, strict=True))[:3]:
        theirs = oracle.bootstrap((row,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
        assert ends == pytest.approx((theirs.low, theirs.high), abs=0.06 * (theirs.high - theirs.low))
    # The smoothed bootstrap, sample by sample.
    n, d = 5, np.array([0.897, 0.849, 0.1, 0.796, -0.847])
    random = np.random.RandomState(n)
    half = (coverage.COUNT + 1) // 2
    chosen, noise = random.randint(0, n, size=(half, n)), random.normal(size=(half, n))
    chosen, noise = np.concatenate((chosen, chosen))[:-1], np.concatenate((noise, -noise))[:-1]
    samples = (d - d.mean())[chosen] + noise * d.std(ddof=1) / math.sqrt(n)
    t = samples.mean(1) / samples.std(1)
    tail = min((t >= d.mean() / d.std()).sum(), (t <= d.mean() / d.std()).sum())
    assert coverage.smoothed_p_values(d[None])[0] == pytest.approx(2 * (1 + tail) / (coverage.COUNT + 1))


def test_the_other_procedures_agree_with_scipy() -> None:
    values = np.random.default_rng(1).lognormal(size=(3, 20)) - 1
    for row, ends, p in zip(values, coverage.bca_intervals(values), coverage.student_p_values(values), strict=True):
        theirs = oracle.bootstrap((row,), np.mean, method="BCa", n_resamples=20_000, rng=1).confidence_interval
        assert ends == pytest.approx((theirs.low, theirs.high), abs=0.08 * (theirs.high - theirs.low))
        assert p == pytest.approx(oracle.ttest_1samp(row, 0).pvalue)


def test_every_law_has_the_mean_and_spread_that_it_says() -> None:
    seeds = coverage.read_seeds(RESULTS / "paper_1d" / "runs.csv")
    assert {name: len(methods) for name, methods in seeds.items()} == {"1": 7, "2": 7}
    singles, pairs = coverage.laws_of_one(seeds), coverage.laws_of_differences(seeds)
    assert len(singles[coverage.REAL]) == 14 and len(pairs[coverage.REAL]) == 42
    random = np.random.RandomState(2)
    for law in [law for laws in (*singles.values(), *pairs.values()) for law in laws]:
        values = law.draw(random, 4000, 20)
        assert values.shape == (4000, 20) and values.mean() == pytest.approx(0, abs=0.025)
        assert values.std() == pytest.approx(1, abs=0.12)
        if not math.isnan(law.median):
            assert (values <= law.median + 1e-9).mean() == pytest.approx(0.5, abs=0.02)
    for sample in coverage.laws_of_seven(seeds).values():
        values = sample(random, 2000, 10)
        assert values.shape == (2000, 7, 10)
        errors = values.std((0, 2)) / math.sqrt(20_000)
        assert (np.abs(values.mean((0, 2)) - values.mean()) < 5 * errors + 5 * errors.max()).all()


def test_the_committed_table_follows_from_the_code(committed: list[coverage.Row]) -> None:
    """Some of its parts, computed again with the same streams."""
    seeds = coverage.read_seeds(RESULTS / "paper_1d" / "runs.csv")
    by = {(row.question, row.procedure, row.law, row.n): row for row in committed}
    found = [
        *coverage.coverage(coverage.SKEWED, coverage.laws_of_one(seeds)[coverage.SKEWED], 5, coverage.REPLICATES),
        *coverage.equivalence(
            coverage.UNEQUAL, coverage.laws_of_differences(seeds)[coverage.UNEQUAL], 10, coverage.REPLICATES
        ),
    ]
    assert len(found) == len(coverage.INTERVALS) + 3
    for row in found:
        there = by[row.question, row.procedure, row.law, row.n]
        assert there.rate == pytest.approx(row.rate, abs=2e-4) and there.replicates == row.replicates


def test_the_committed_text_follows_from_the_committed_table(committed: list[coverage.Row]) -> None:
    assert (RESULTS / "bench" / "coverage.md").read_text() == coverage.markdown(committed)


def test_what_was_chosen_holds_its_level_best(committed: list[coverage.Row]) -> None:
    """The reasons for the choice, in the committed figures."""
    rate = {(row.question, row.procedure, row.law, row.n): row.rate for row in committed}
    for n in coverage.SEEDS:
        for law in (coverage.SKEWED, coverage.REAL):
            chosen = rate[coverage.COVERAGE, coverage.CHOSEN, law, n]
            for other in (coverage.BEFORE, coverage.STUDENT, "BCa bootstrap"):
                assert chosen >= rate[coverage.COVERAGE, other, law, n]
        assert rate[coverage.COVERAGE, coverage.CHOSEN, coverage.NORMAL, n] == pytest.approx(0.95, abs=0.01)
        for law in (coverage.NORMAL, coverage.EQUAL, coverage.UNEQUAL, coverage.REAL):
            sizes = {name: rate[coverage.SIZE, name, law, n] for name in coverage.TESTS}
            assert sizes[coverage.BOTH] <= min(sizes[name] for name in ("sign-flip", "bootstrap-t"))
            assert sizes[coverage.BOTH] <= sizes[coverage.SMOOTHED] and sizes[coverage.BOTH] < sizes["paired t"] + 0.03
    assert all(row.rate >= 0.945 for row in committed if row.question == coverage.COVERAGE_MEDIAN)
    wrong = {
        row.procedure: row.rate for row in committed if row.question == coverage.FALSE_WORSE and row.law == "normal"
    }
    assert wrong[f"{coverage.ALL}, sign-flip and bootstrap-t"] < 0.05 < wrong[f"{coverage.OTHERS}, paired t"]


@pytest.mark.slow
def test_the_command_writes_the_table(tmp_path: Path) -> None:
    runs = str(RESULTS / "paper_1d" / "runs.csv")
    assert main(["coverage", "--replicates", "20", "--runs", runs, "--folder", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "coverage.csv")
    assert set(table["question"]) == set(coverage.QUESTIONS) and table["rate"].between(0, 1).all()
    text = (tmp_path / "coverage.md").read_text()
    assert coverage.COMMAND in text and text.count("\n## ") == len(coverage.QUESTIONS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--replicates", "0"], "--replicates=0"),
        (["--runs", "nowhere.csv"], "--runs=nowhere.csv: there is no such file"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        coverage.main(words)


def test_tables_of_the_package_use_what_was_measured() -> None:
    values = coverage.laws_of_one({})[coverage.SKEWED][0].draw(np.random.RandomState(3), 4, 20)
    chosen = coverage.INTERVALS[coverage.CHOSEN](values)
    assert stats.mean_interval(values[2], count=coverage.COUNT) == pytest.approx(tuple(chosen[2]))
    p = coverage.TESTS[coverage.BOTH](values)
    assert stats.paired_p_values(values[1:2], coverage.COUNT)[0] == pytest.approx(p[1])
