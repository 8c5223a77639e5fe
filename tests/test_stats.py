"""Statistics over seeds against scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from ebmbench.report import stats


def test_bootstrap_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).lognormal(size=20)
    low, high = stats.bootstrap_interval(values)
    theirs = oracle.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=50_000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.02 * width)
    assert high == pytest.approx(theirs.high, abs=0.02 * width)


def test_bootstrap_interval_of_a_normal_mean_has_the_closed_form_width() -> None:
    # Large n: the interval is mean ± 1.96 std / sqrt(n).
    values = np.random.default_rng(2).normal(3.0, 2.0, 400)
    low, high = stats.bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.03)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.02)


@pytest.mark.parametrize(("n", "covered"), [(20, 0.93), (7, 0.87)])
def test_bootstrap_interval_covers_as_often_as_documented(n: int, covered: float) -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(1500):
        low, high = stats.bootstrap_interval(rng.normal(size=n), count=1000)
        hits += low <= 0 <= high
    assert hits / 1500 == pytest.approx(covered, abs=0.02)


def test_bootstrap_interval_of_one_value_is_unknown() -> None:
    assert all(math.isnan(end) for end in stats.bootstrap_interval(np.array([1.0])))


def test_results_are_the_same_in_every_call() -> None:
    values = np.random.default_rng(4).normal(size=20)
    assert stats.bootstrap_interval(values) == stats.bootstrap_interval(values.copy())


@pytest.mark.parametrize(("draw", "n"), [("normal", 3), ("normal", 5), ("normal", 20), ("exponential", 20)])
def test_paired_test_rejects_a_true_hypothesis_as_often_as_it_may(draw: str, n: int) -> None:
    rng = np.random.default_rng(5)
    rejected = 0
    for _ in range(1000):
        common = rng.normal(size=n)  # what paired seeds share
        noise = getattr(rng, draw)(size=(2, n))
        rejected += stats.paired_p_value(common + noise[0], common + noise[1], count=999) < 0.05
    assert 0.02 < rejected / 1000 < 0.07


def test_paired_test_of_five_seeds_sees_a_plain_difference() -> None:
    """As often as the docstring says: a shift of three standard deviations has p < 0.01 in 77 % of cases."""
    rng = np.random.default_rng(9)
    found = [stats.paired_p_value(rng.normal(3, 1, 5), np.zeros(5)) < 0.01 for _ in range(600)]
    assert np.mean(found) == pytest.approx(0.77, abs=0.05)


def test_two_differences_that_are_nearly_equal_hide_nothing() -> None:
    """Unsmoothed, samples of those two alone had any t: p was 0.02 here (β = 0.4 of nce+ against 0.003, NLL)."""
    assert stats.paired_p_value(np.array([0.897, 0.849, 0.764, 0.796, 0.847]), np.zeros(5)) < 0.002


def test_first_and_second_can_change_places() -> None:
    rng = np.random.default_rng(10)
    first, second = rng.normal(size=7), rng.lognormal(size=7)
    assert stats.paired_p_value(first, second) == stats.paired_p_value(second, first)


def test_paired_test_sees_what_an_unpaired_one_cannot() -> None:
    rng = np.random.default_rng(6)
    common = rng.normal(0, 10, 20)
    first, second = common + rng.normal(0, 0.1, 20), common + 0.2 + rng.normal(0, 0.1, 20)
    assert stats.paired_p_value(first, second) < 0.01
    assert oracle.ttest_ind(first, second).pvalue > 0.5


def test_paired_test_agrees_with_the_t_test_on_normal_differences() -> None:
    rng = np.random.default_rng(7)
    for shift in (0.0, 0.3, 0.6):
        first, second = rng.normal(size=40), rng.normal(shift, 1, 40)
        assert stats.paired_p_value(first, second) == pytest.approx(oracle.ttest_rel(first, second).pvalue, abs=0.02)


def test_few_seeds_prove_little() -> None:
    worse = np.array([1.0, 2.0, 3.0])
    assert stats.paired_p_value(np.zeros(3), worse) > 0.05
    assert stats.paired_p_value(np.zeros(3), worse + 20) < 0.01
    assert stats.paired_p_value(np.zeros(1), np.ones(1)) == 1.0


def test_paired_test_of_equal_and_of_shifted_values() -> None:
    values = np.random.default_rng(8).normal(size=10)
    assert stats.paired_p_value(values, values) == 1.0
    # The same difference at every seed: as sure as this test can be.
    assert stats.paired_p_value(values, values + 1.0) == pytest.approx(2 / (stats.RESAMPLES + 1))


def test_paired_test_is_not_blinded_by_a_few_large_differences() -> None:
    # One method is worse at every seed, at some by far, as `sm` is on 1D dataset 1.
    worse = np.random.default_rng(1).lognormal(0, 1, size=20)
    assert stats.paired_p_value(worse, np.zeros(20)) < 0.002
    assert stats.paired_p_value(np.zeros(20), worse) < 0.002


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_values_and_bonferroni(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    assert all(raw <= holm for raw, holm in zip(p_values, adjusted, strict=True))
    assert all(holm <= min(1.0, raw * len(p_values)) for raw, holm in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_probability_of_beating_counts_ties_half_and_a_diverged_seed_as_worst() -> None:
    a = np.array([1.0, 2.0, np.nan, np.nan])
    b = np.array([2.0, 2.0, 5.0, np.nan])
    assert stats.probability_of_beating(a, b) == (1 + 0.5 + 0 + 0.5) / 4
    assert stats.probability_of_beating(b, a) == 1 - stats.probability_of_beating(a, b)
    assert math.isnan(stats.probability_of_beating(np.array([]), np.array([])))


def test_best_mean_is_the_published_five_of_twenty() -> None:
    values = np.arange(20.0)[::-1].copy()
    assert stats.best_count(20) == 5
    assert stats.best_mean(values) == np.arange(5.0).mean()
    # Chosen by something else, the best of that need not be the best.
    assert stats.best_mean(values, chosen_by=-values) == np.arange(15.0, 20.0).mean()


def test_best_mean_cannot_hide_that_too_few_seeds_are_left() -> None:
    values = np.full(20, np.nan)
    values[:4] = 1.0
    assert math.isnan(stats.best_mean(values))
    values[4] = 1.0
    assert stats.best_mean(values) == 1.0


def test_ranks() -> None:
    assert stats.ranks([0.3, 0.1, math.nan, 0.1]) == [3, 1, 4, 1]


@given(st.permutations(list(range(7))))
def test_kendall_tau_agrees_with_scipy(order: list[int]) -> None:
    assert stats.kendall_tau(list(range(7)), order) == pytest.approx(oracle.kendalltau(range(7), order).statistic)
