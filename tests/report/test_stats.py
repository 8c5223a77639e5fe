"""Statistics over seeds against scipy, closed forms, enumeration, and small simulations of their level."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as oracle

from ebmbench.report import stats

Values = NDArray[np.float64]


def log_normal(random: np.random.RandomState, *shape: int) -> Values:
    """Log-normal of σ = 1, with mean 0 and standard deviation 1."""
    return (random.lognormal(size=shape) - math.exp(0.5)) / math.sqrt(math.e * (math.e - 1))


def covers(intervals: Values, value: float) -> float:
    return float(((intervals[:, 0] <= value) & (value <= intervals[:, 1])).mean())


def p_value(first: Values, second: Values) -> float:
    return float(stats.paired_p_values((first - second)[None])[0])


# ---------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_interval_of_few_seeds_is_student_s(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    theirs = oracle.ttest_1samp(values, 0).confidence_interval(0.95)
    assert stats.mean_interval(values) == pytest.approx((theirs.low, theirs.high))


def test_bootstrap_t_by_hand() -> None:
    """Against a loop over the samples that says what it does."""
    values = np.random.default_rng(0).lognormal(size=7)
    random, t = np.random.RandomState(7), []
    drawn = random.randint(0, 7, size=(999, 7))
    for sample in values[drawn]:
        error = sample.std(ddof=1) / math.sqrt(7)
        t.append((sample.mean() - values.mean()) / error if error > 0 else math.copysign(math.inf, sample.mean()))
    t.sort()
    error = values.std(ddof=1) / math.sqrt(7)
    expected = values.mean() - t[-25] * error, values.mean() - t[24] * error
    assert stats.mean_interval(values, count=999) == pytest.approx(expected)
    assert expected[1] - values.mean() > 1.2 * (values.mean() - expected[0])  # it reaches to the side of the long tail


def test_the_interval_of_many_seeds_has_the_closed_form_width() -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, 400)
    low, high = stats.mean_interval(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.03)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.02)


@pytest.mark.parametrize(("n", "normal", "skewed"), [(3, 0.95, 0.84), (5, 0.95, 0.90), (20, 0.95, 0.92)])
def test_intervals_cover_as_often_as_documented(n: int, normal: float, skewed: float) -> None:
    """Of normal and of log-normal seeds; the percentile bootstrap has .92 and .85 even for n = 20."""
    random = np.random.RandomState(3)
    assert covers(stats.mean_intervals(random.normal(size=(3000, n)), count=499), 0) == pytest.approx(normal, abs=0.015)
    assert covers(stats.mean_intervals(log_normal(random, 3000, n), count=499), 0) == pytest.approx(skewed, abs=0.02)


def test_intervals_of_special_values() -> None:
    assert all(math.isnan(end) for end in stats.mean_interval(np.array([1.0])))
    assert all(math.isnan(end) for end in stats.mean_interval(np.array([])))
    assert stats.mean_interval(np.full(20, 0.3)) == pytest.approx((0.3, 0.3))
    # Many equal values: bootstrap-t has no end, and the interval is Student's.
    values = np.array([1.0, 1.0, 1.0, 1.0, 2.0])
    assert math.isinf(stats.bootstrap_t_intervals(values[None]).max())
    assert stats.mean_interval(values) == tuple(stats.student_t_intervals(values[None])[0])


def test_results_are_the_same_in_every_call_and_in_a_batch() -> None:
    values = np.random.default_rng(4).normal(size=(100, 20))
    alone = [stats.mean_interval(row) for row in values]
    assert alone[0] == stats.mean_interval(values[0].copy())
    np.testing.assert_allclose(stats.mean_intervals(values), alone, rtol=1e-12)
    p = stats.paired_p_values(values[:70])  # more than one chunk
    np.testing.assert_allclose(p, [p_value(row, np.zeros(20)) for row in values[:70]])


@pytest.mark.parametrize("n", [6, 9, 20])
def test_the_median_interval_is_that_of_scipy_and_covers(n: int) -> None:
    random = np.random.RandomState(n)
    values = random.exponential(size=n)
    theirs = oracle.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert stats.median_interval(values) == pytest.approx((theirs.low, theirs.high))
    many = np.array([stats.median_interval(row) for row in random.exponential(size=(3000, n))])
    k = int(np.searchsorted(np.sort(values), theirs.low))  # the k lowest are outside
    exact = 1 - 2 * oracle.binom.cdf(k, n, 0.5)
    assert exact >= 0.95 and covers(many, math.log(2)) == pytest.approx(exact, abs=0.015)


def test_the_median_interval_takes_six_seeds_and_counts_a_diverged_one_as_the_highest() -> None:
    assert all(math.isnan(end) for end in stats.median_interval(np.arange(5.0)))
    assert stats.median_interval(np.arange(6.0)) == (0, 5)
    assert stats.median_interval(np.array([math.nan, 1, 2, 3, 4, 5])) == (1, math.inf)


# -------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("n", [3, 6, 9])
def test_the_sign_flip_test_is_exact(n: int) -> None:
    """Against the definition, and against scipy's permutation test."""
    d = np.random.default_rng(n).normal(0.5, 1, n).round(1)  # with ties
    sums = [sum(s * v for s, v in zip(signs, d, strict=True)) for signs in itertools.product((1, -1), repeat=n)]
    expected = sum(total >= d.sum() - 1e-9 for total in sums) / 2**n
    assert stats.sign_flip_tails(d[None])[0] == expected
    theirs = oracle.permutation_test(
        (d, np.zeros(n)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        alternative="greater",
        n_resamples=np.inf,
    )
    assert expected == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("n", [6, 8, 12])
def test_under_every_pattern_of_signs_the_sign_flip_test_rejects_as_often_as_it_may(n: int) -> None:
    """The whole null law of exchangeable methods: its level is met exactly, whatever the sizes of the differences."""
    sizes = np.random.default_rng(n).lognormal(0, 2, n)
    patterns = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    p = stats.sign_flip_tails(sizes * patterns)
    for level in (2**-n, 0.025, 0.05, 0.5):
        assert (p <= level).mean() == math.floor(level * 2**n) / 2**n


def test_drawn_flips_agree_with_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    d = np.random.default_rng(1).normal(0.3, 1, (20, 12))
    exact = stats.sign_flip_tails(d)
    monkeypatch.setattr(stats, "ENUMERATED", 2)
    stats._signs.cache_clear()
    drawn = stats.sign_flip_tails(d)
    stats._signs.cache_clear()
    assert 0 < np.abs(drawn - exact).max() < 0.025  # five standard errors
    assert drawn.min() >= 1 / (stats.RESAMPLES + 1)


def test_the_bootstrap_t_test_and_interval_agree() -> None:
    """p < .05 exactly where the interval leaves out zero."""
    d = log_normal(np.random.RandomState(2), 400, 10) + 0.5
    inside = stats.bootstrap_t_intervals(d, count=999)
    p = 2 * np.minimum(stats.bootstrap_t_tails(d, 999), stats.bootstrap_t_tails(-d, 999))
    rejected = (inside[:, 0] > 0) | (inside[:, 1] < 0)
    assert 20 < rejected.sum() < 380 and ((p <= 0.05) == rejected).all()


@pytest.mark.parametrize("n", [3, 5])
def test_few_seeds_have_no_p_value(n: int) -> None:
    """Not even the plainest difference: its signs are all the same by chance in 2 of 2ⁿ cases."""
    assert math.isnan(p_value(np.zeros(n), np.arange(n) + 100.0))


def test_p_values_of_special_differences() -> None:
    values = np.random.default_rng(8).normal(size=10)
    assert p_value(values, values) == 1.0
    assert p_value(values, values + 1.0) == 2 / 2**10  # the same difference at every seed
    assert p_value(np.zeros(20), np.ones(20)) == pytest.approx(2 / (stats.RESAMPLES + 1))
    assert p_value(np.array([1.0, -1.0] * 5), np.zeros(10)) == 1.0


def test_first_and_second_can_change_places() -> None:
    rng = np.random.default_rng(10)
    for n in (7, 20):
        first, second = rng.normal(size=n), rng.lognormal(size=n)
        assert p_value(first, second) == p_value(second, first)


def test_paired_test_agrees_with_the_t_test_on_many_normal_differences() -> None:
    rng = np.random.default_rng(7)
    for shift in (0.0, 0.2, 0.4):
        first, second = rng.normal(size=60), rng.normal(shift, 1, 60)
        assert p_value(first, second) == pytest.approx(oracle.ttest_rel(first, second).pvalue, abs=0.04)


def test_paired_test_sees_what_an_unpaired_one_cannot() -> None:
    rng = np.random.default_rng(6)
    common = rng.normal(0, 10, 20)
    first, second = common + rng.normal(0, 0.1, 20), common + 0.2 + rng.normal(0, 0.1, 20)
    assert p_value(first, second) < 0.01
    assert oracle.ttest_ind(first, second).pvalue > 0.5


def test_paired_test_is_not_blinded_by_a_few_large_differences() -> None:
    # One method is worse at every seed, at some by far, as `sm` is on 1D dataset 1.
    worse = np.random.default_rng(1).lognormal(0, 1, size=20)
    assert p_value(worse, np.zeros(20)) < 0.002


def test_paired_test_holds_its_level_between_equal_laws() -> None:
    random = np.random.RandomState(5)
    for draw in (random.normal, random.lognormal):
        for n in (6, 10, 20):
            first, second = draw(size=(2, 2000, n)) + random.normal(size=(2000, n))
            assert 0.01 < (stats.paired_p_values(first - second, 499) < 0.05).mean() < 0.06


def test_paired_test_holds_its_level_between_unequal_laws_better_than_others() -> None:
    """Equal means, one law skewed: the difference is skewed too, and a test of symmetry or of t rejects too often."""
    random = np.random.RandomState(11)
    d = log_normal(random, 4000, 20) - 0.3 * random.normal(size=(4000, 20))
    ours = float((stats.paired_p_values(d, 999) < 0.05).mean())
    t = float((oracle.ttest_1samp(d, 0, axis=1).pvalue < 0.05).mean())
    flips = float((2 * np.minimum(stats.sign_flip_tails(d, 999), stats.sign_flip_tails(-d, 999)) < 0.05).mean())
    assert 0.05 < ours < 0.085
    assert ours < 0.8 * t and ours < 0.8 * flips


def test_paired_test_sees_what_is_there() -> None:
    """The power that the committed simulation has, for a shift of one standard deviation."""
    random = np.random.RandomState(12)
    for n, power in ((10, 0.71), (20, 0.98)):
        found = (stats.paired_p_values(1 + random.normal(size=(1500, n)), 999) < 0.05).mean()
        assert found == pytest.approx(power, abs=0.035)


@pytest.mark.parametrize(("comparisons", "seeds"), [(1, 6), (3, 7), (6, 8), (21, 10)])
def test_how_many_seeds_a_number_of_comparisons_takes(comparisons: int, seeds: int) -> None:
    """With one seed less, the plainest difference is not below .05 after Holm."""
    assert stats.fewest_seeds(comparisons) == seeds
    for n, seen in ((seeds, True), (seeds - 1, False)):
        assert stats.testable(n, comparisons) == seen
        p = 2 * float(stats.sign_flip_tails(np.ones((1, n)))[0])
        assert (stats.holm([p, *[1.0] * (comparisons - 1)])[0] < 0.05) == seen


def test_too_many_comparisons_cannot_be_tested() -> None:
    assert stats.fewest_seeds(10_000) is None


def test_holm_over_all_pairs_holds_where_the_data_choose_the_best() -> None:
    """Seven equal methods: over the six others alone, one is called worse far too often."""
    random, pairs, wrong = np.random.RandomState(13), list(itertools.combinations(range(7), 2)), np.zeros(2)
    for _ in range(150):
        values = random.normal(size=(7, 20))
        best = int(values.mean(1).argmin())
        p = stats.paired_p_values(np.array([values[i] - values[j] for i, j in pairs]), 2499)
        own = np.array([best in pair for pair in pairs])
        wrong += min(stats.holm(p[own].tolist())) < 0.05, np.array(stats.holm(p.tolist()))[own].min() < 0.05
    assert wrong[1] / 150 <= 0.06 < wrong[0] / 150


# -------------------------------------------------------------------------------------------------- equivalence


def test_equivalence_is_two_one_sided_tests() -> None:
    d = np.random.default_rng(14).normal(0, 0.1, 20)
    assert stats.equivalent(d, d, 0.2) and stats.equivalent(-d, -d, 0.2)
    assert not stats.equivalent(d, d, 0.01)
    assert not stats.equivalent(d + 0.2, d + 0.2, 0.2)
    assert not stats.equivalent(d, d + 0.3, 0.2) and not stats.equivalent(d, d + np.inf, 0.2)
    p = max(float(stats.one_sided_p_values(x[None])[0]) for x in (d + 0.06, 0.06 - d))
    assert stats.equivalent(d, d, 0.06, significance=1.01 * p)
    assert not stats.equivalent(d, d, 0.06, significance=0.99 * p)


def test_few_seeds_are_never_equivalent() -> None:
    assert not stats.equivalent(np.zeros(5), np.zeros(5), 1.0)
    assert stats.equivalent(np.zeros(6), np.zeros(6), 1.0)
    assert not stats.equivalent(np.zeros(6), np.zeros(6), 1.0, significance=0.01)  # 1 / 2⁶ is the smallest p


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan])
def test_a_margin_is_positive(margin: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        stats.equivalent(np.zeros(9), np.zeros(9), margin)


def test_equivalence_is_rarely_said_of_means_that_differ_by_the_margin() -> None:
    random = np.random.RandomState(15)
    for d, mean, most in ((random.normal(size=(1500, 20)), 0.05, 0.065), (log_normal(random, 1500, 20), 0.07, 0.13)):
        said = []
        for shift in (-1.0, 1.0):  # skewed differences: too often on the one side, too seldom on the other
            p = np.maximum(*(stats.one_sided_p_values(x, 999) for x in (d + shift + 1, 1 - d - shift)))
            said.append((p < 0.05).mean())
        assert max(said) < most and 0.0 < np.mean(said) < mean


# ---------------------------------------------------------------------------------------------- draws and seeds


def crossed(random: np.random.RandomState, count: int, draws: float, seeds: float, residual: float) -> Values:
    """`[count, 10 draws, 5 seeds]` with mean 0."""
    parts = ((draws, (count, 10, 1)), (seeds, (count, 1, 5)), (residual, (count, 10, 5)))
    return sum((scale * random.normal(size=shape) for scale, shape in parts), np.zeros(1))


def test_variance_components_are_found() -> None:
    true = (1.0, 0.5, 0.7)
    found = [stats.variance_components(v, True) for v in crossed(np.random.RandomState(16), 2000, *true)]
    squares = np.array([[c.std_draws**2, c.std_seeds**2, c.std_residual**2] for c in found]).mean(0)
    np.testing.assert_allclose(squares, np.square(true), rtol=0.06)


def test_variance_components_by_hand() -> None:
    """A table that is a sum of a draw's part and a seed's part: nothing is left."""
    draws, seeds = np.array([0.0, 1.0, 5.0]), np.array([0.0, 2.0])
    found = stats.variance_components(draws[:, None] + seeds, True)
    assert found.mean == 3.0 and found.std_residual == pytest.approx(0, abs=1e-12)
    assert found.std_draws == pytest.approx(draws.std(ddof=1)) and found.std_seeds == pytest.approx(seeds.std(ddof=1))
    variance = draws.var(ddof=1) / 3 + seeds.var(ddof=1) / 2
    degrees = variance**2 / ((draws.var(ddof=1) / 3) ** 2 / 2 + (seeds.var(ddof=1) / 2) ** 2 / 1)
    half = oracle.t.ppf(0.975, degrees) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert found.p_value == pytest.approx(2 * oracle.t.sf(3 / math.sqrt(variance), degrees))


def test_the_mean_over_draws_is_as_sure_as_it_is_said_to_be() -> None:
    """Also where the seeds, which all draws share, matter; the spread of the draws' means does not show them."""
    random = np.random.RandomState(17)
    for parts in ((1.0, 0.0, 1.0), (0.3, 0.5, 1.0)):
        values = crossed(random, 2000, *parts)
        found = [stats.variance_components(v, True) for v in values]
        assert covers(np.array([[c.low, c.high] for c in found]), 0) == pytest.approx(0.95, abs=0.02)
        assert np.mean([c.p_value < 0.05 for c in found]) == pytest.approx(0.05, abs=0.02)
    assert covers(stats.student_t_intervals(values.mean(2)), 0) < 0.85


def test_where_each_draw_has_seeds_of_its_own_draws_are_the_units() -> None:
    values = np.random.default_rng(19).normal(size=(10, 1)) + np.random.default_rng(20).normal(0, 0.3, size=(10, 4))
    found = stats.variance_components(values, crossed=False)
    means = values.mean(1)
    assert (found.low, found.high) == stats.mean_interval(means) and math.isnan(found.std_residual)
    assert found.p_value == stats.paired_p_values(means[None])[0]
    within = values.var(1, ddof=1).mean()
    assert found.std_seeds == pytest.approx(within**0.5)
    assert found.std_draws == pytest.approx((means.var(ddof=1) - within / 4) ** 0.5)


def test_bounds_of_differences_are_significant_only_if_all_of_them_are() -> None:
    d = np.random.default_rng(21).normal(1, 0.3, (3, 10))
    np.testing.assert_array_equal(stats.bounded_p_values(d, d), stats.paired_p_values(d))
    np.testing.assert_array_equal(stats.bounded_p_values(-d, -d), stats.paired_p_values(d))
    assert (stats.bounded_p_values(d, d + np.inf) == stats.paired_p_values(d)).all()  # more is worse still
    assert (stats.bounded_p_values(np.full_like(d, -np.inf), d) == 1).all()
    assert (stats.bounded_p_values(d - 2, d) == 1).all()
    assert np.isnan(stats.bounded_p_values(d[:, :5], d[:, :5])).all()


def test_one_seed_or_one_draw_has_no_components() -> None:
    values = np.random.default_rng(18).normal(size=(10, 1))
    one = stats.variance_components(values, False)
    assert (one.low, one.high) == stats.mean_interval(values[:, 0]) and math.isnan(one.std_seeds)
    assert one.std_draws == pytest.approx(values.std(ddof=1))
    one = stats.variance_components(values.T, True)
    assert math.isnan(one.low) and math.isnan(one.std_draws) and math.isnan(one.p_value)
    assert one.std_seeds == pytest.approx(values.std(ddof=1)) and one.mean == pytest.approx(values.mean())
    assert math.isnan(stats.variance_components(np.empty((0, 3)), True).mean)


def test_equal_values_have_no_variance() -> None:
    found = stats.variance_components(np.full((4, 3), 2.0), True)
    assert (found.low, found.high, found.std_draws, found.std_residual, found.p_value) == (2, 2, 0, 0, 0)
    assert stats.variance_components(np.zeros((4, 3)), True).p_value == 1


# ----------------------------------------------------------------------------------------------------- rankings


def test_holm_leaves_out_what_was_not_tested() -> None:
    found = stats.holm([math.nan, 0.04, 0.01])
    assert math.isnan(found[0]) and found[1:] == pytest.approx([0.04, 0.02]) and stats.holm([]) == []
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and stats.holm([0.9, 0.8]) == [1, 1]


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
