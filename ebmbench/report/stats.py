"""Statistics over seeds: how sure a mean is, whether two methods differ, and what rules of selection do to a ranking.

The procedures were chosen by a simulation, `python -m benchmarks coverage`; its table is results/bench/coverage.md.

All randomness is numpy's legacy `RandomState`, whose stream never changes. So a committed table can be made again with
any version of numpy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Values = NDArray[np.float64]

RESAMPLES = 9_999
"""Bootstrap samples of an interval or a test, and sign flips where they are not enumerated."""
LEVEL = 0.95
SIGNIFICANCE = 0.05
FEWEST_FOR_BOOTSTRAP = 5
"""With fewer seeds too many bootstrap samples are constant; the interval is then Student's."""
ENUMERATED = 12
"""Up to so many seeds the sign-flip test enumerates all flips; with more it draws them."""
_CHUNK = 64
"""Rows of a batch that are computed together; it bounds the memory."""


# ---------------------------------------------------------------------------------------------------- intervals


def mean_interval(values: Values, count: int = RESAMPLES) -> tuple[float, float]:
    """Returns the two ends of the 95 % interval of the mean: bootstrap-t from five seeds on, Student's t below.

    The bootstrap-t interval (Efron & Tibshirani 1993, ch. 12) is not symmetric: it reaches further to the side of the
    long tail. Nominal 95 % hold for normal seeds at any n. For skewed seeds they hold nearly, and better than any other
    interval that we tried: .93 at n = 20 for the seeds of paper_1d, .92 for log-normal ones, .90 for those at n = 5.
    With three or four skewed seeds it covers about .85. No interval sees a tail of which no seed was drawn.

    Args:
        values: one finite number per seed `[n]`.

    Returns:
        nan for fewer than two values.
    """
    low, high = mean_intervals(np.asarray(values, dtype=np.float64)[None], count)[0]
    return float(low), float(high)


def mean_intervals(values: Values, count: int = RESAMPLES) -> Values:
    """Returns `mean_interval` of each row: `[rows, n]` to `[rows, 2]`."""
    student = student_t_intervals(values)
    if values.shape[1] < FEWEST_FOR_BOOTSTRAP:
        return student
    found = bootstrap_t_intervals(values, count)
    finite = np.isfinite(found).all(1, keepdims=True)  # an end is infinite where many seeds have the same value
    return np.where(finite, found, student)


def student_t_intervals(values: Values) -> Values:
    """Returns Student's t interval of the mean of each row: `[rows, n]` to `[rows, 2]`."""
    n = values.shape[1]
    if n < 2:
        return np.full((len(values), 2), np.nan)
    mean, error = values.mean(1), values.std(1, ddof=1) / math.sqrt(n)
    half = float(special.stdtrit(n - 1, 0.5 + LEVEL / 2)) * error
    return np.stack((mean - half, mean + half), 1)


def bootstrap_t_intervals(values: Values, count: int = RESAMPLES) -> Values:
    """Returns the bootstrap-t interval of the mean of each row: `[rows, n]` to `[rows, 2]`; an end can be infinite."""
    place = max(1, round((count + 1) * (1 - LEVEL) / 2))

    def ends(rows: Values) -> Values:
        error = rows.std(1, ddof=1) / math.sqrt(rows.shape[1])
        t = np.partition(_bootstrap_t(rows, count), (place - 1, count - place), axis=1)
        return rows.mean(1)[:, None] - np.stack((t[:, count - place] * error, t[:, place - 1] * error), 1)

    return _in_chunks(ends, values)


def median_interval(values: Values) -> tuple[float, float]:
    """Returns two order statistics that enclose the median with a probability of at least 95 %, whatever the law.

    It is the interval of the sign test (David & Nagaraja 2003, ch. 7): from the k-th lowest to the k-th highest value.

    Args:
        values: one number per seed `[n]`; nan (a seed that diverged) is higher than any number.

    Returns:
        nan for fewer than six values. An end is infinite where a diverged seed is there.
    """
    n = len(values)
    k = 0
    while special.bdtr(k, n, 0.5) <= (1 - LEVEL) / 2:  # P(at most k of n values lie below the median)
        k += 1
    if k == 0:
        return math.nan, math.nan
    ordered = np.sort(np.where(np.isnan(values), np.inf, values))
    return float(ordered[k - 1]), float(ordered[n - k])


def _bootstrap_t(values: Values, count: int) -> Values:
    """Returns t of bootstrap samples of each row, centred at the row's mean: `[rows, n]` to `[rows, count]`.

    It is infinite where all values of a sample are equal, and zero where those of the row are.
    """
    n = values.shape[1]
    weights = resamples(n, count)
    centred = values - values.mean(1, keepdims=True)
    variance = (centred**2).mean(1, keepdims=True)
    constant = variance <= 1e-18 * (values**2).mean(1, keepdims=True)
    mean = centred @ weights.T
    spread = centred**2 @ weights.T - mean**2
    spread[spread <= 1e-9 * variance] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / np.sqrt(spread / (n - 1))
    return np.where(constant | np.isnan(t), 0.0, t)


@lru_cache(maxsize=8)
def resamples(n: int, count: int) -> Values:
    """Returns how often each of n seeds is in each bootstrap sample, over n: `[count, n]`.

    It is the same in every call, so intervals side by side share their noise.
    """
    drawn = np.random.RandomState(n).randint(0, n, size=(count, n))
    weights = np.zeros((count, n))
    np.add.at(weights, (np.arange(count)[:, None], drawn), 1 / n)
    return weights


def _in_chunks(function: Callable[[Values], Values], values: Values) -> Values:
    return np.concatenate([function(values[i : i + _CHUNK]) for i in range(0, len(values), _CHUNK)])


# -------------------------------------------------------------------------------------------------------- tests


def paired_p_values(differences: Values, count: int = RESAMPLES) -> Values:
    """Returns the two-sided p-value of "the means are equal" of each row: the larger one of two tests' p-values.

    Both tests must reject: the sign-flip test (`sign_flip_tails`), which is exact where the methods are exchangeable,
    and the bootstrap-t test (`bootstrap_t_tails`), which allows for skewed differences. So it rejects no more often
    than either. Size at nominal .05, of 20 seeds: .04 for normal differences and .07 for log-normal and for real
    ones, where the sign-flip and t-test alone have .10 and .09. No test holds its level where a rare seed is far off
    and was not drawn.

    Args:
        differences: of two methods, at each seed `[rows, n]`; finite.

    Returns:
        `[rows]`; nan where n cannot support significance: fewer than six seeds. Use `testable` for several tests.
    """
    if not testable(differences.shape[1], 1, count):
        return np.full(len(differences), np.nan)
    upward = differences * np.where(differences.mean(1, keepdims=True) < 0, -1.0, 1.0)
    return np.minimum(1.0, 2 * one_sided_p_values(upward, count))


def bounded_p_values(lowest: Values, highest: Values, count: int = RESAMPLES) -> Values:
    """Returns the two-sided p-value of "the means may be equal" of each row, where differences are known within bounds.

    Where both bounds are the difference itself this is `paired_p_values`. Else a pair is different only if it is so
    whatever the values within the bounds are.

    Args:
        lowest, highest: the bounds of each difference `[rows, n]`; infinite where nothing is known.

    Returns:
        `[rows]`; nan where n cannot support significance.
    """
    if not testable(lowest.shape[1], 1, count):
        return np.full(len(lowest), np.nan)
    above = (np.isfinite(lowest).all(1)) & (lowest.mean(1) > 0)
    below = (np.isfinite(highest).all(1)) & (highest.mean(1) < 0)
    rows = np.where(above[:, None], lowest, -highest)[above | below]
    p = np.ones(len(lowest))
    p[above | below] = np.minimum(1.0, 2 * one_sided_p_values(rows, count)) if len(rows) else []
    return p


def equivalent(
    lowest: Values, highest: Values, margin: float, significance: float = SIGNIFICANCE, count: int = RESAMPLES
) -> bool:
    """Returns whether the mean difference is less than a margin, by two one-sided tests (Schuirmann 1987).

    Each one-sided test is as in `paired_p_values`, and takes six seeds too. False means "not significant", not
    "different".

    Args:
        lowest, highest: bounds of the difference at each seed `[n]`; the difference itself where it is known.
        margin: the largest difference of means that does not matter, in the metric's unit; must be positive.
        significance: the largest probability of a false "equivalent"; divide it by the number of such statements.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin}: must be positive")
    rows = np.stack((lowest + margin, margin - highest))
    if not testable(rows.shape[1], 1, count) or _smallest_tail(rows.shape[1], count) >= significance:
        return False
    return bool(np.isfinite(rows).all() and one_sided_p_values(rows, count).max() < significance)


def testable(n: int, comparisons: int, count: int = RESAMPLES) -> bool:
    """Returns whether n seeds can show a difference at 5 % by `paired_p_values` and Holm over so many comparisons.

    The smallest p-value of the sign-flip test is 2 / 2ⁿ: one comparison takes 6 seeds, and 21 (seven methods) take 10.
    """
    return comparisons * 2 * _smallest_tail(n, count) < SIGNIFICANCE


def fewest_seeds(comparisons: int) -> int | None:
    """Returns how many seeds `testable` asks for; None where no number of seeds is enough (from 250 comparisons on)."""
    return next((n for n in range(2, 65) if testable(n, comparisons)), None)


def _smallest_tail(n: int, count: int) -> float:
    return max(2.0**-n, 1 / (count + 1))


def one_sided_p_values(differences: Values, count: int = RESAMPLES) -> Values:
    """Returns the one-sided p-value of "the mean is at most zero" of each row: the larger one of the two tests'."""
    return np.maximum(sign_flip_tails(differences, count), bootstrap_t_tails(differences, count))


def sign_flip_tails(differences: Values, count: int = RESAMPLES) -> Values:
    """Returns the one-sided p-value of the sign-flip permutation test of each row: `[rows, n]` to `[rows]`.

    If two methods are exchangeable, each paired difference has either sign with equal probability. The p-value is the
    share of all 2ⁿ patterns of signs whose sum is at least the observed one (Fisher 1935). It is exact: all patterns
    are enumerated for up to 12 seeds, else `count` are drawn, and the observed one counts as one of them.
    """
    signs = _signs(differences.shape[1], count)

    def tails(rows: Values) -> Values:
        rounding = 1e-9 * np.abs(rows).sum(1)
        as_large: Values = (rows @ signs.T >= (rows.sum(1) - rounding)[:, None]).mean(1)
        return as_large

    return _in_chunks(tails, differences)


def bootstrap_t_tails(differences: Values, count: int = RESAMPLES) -> Values:
    """Returns the one-sided p-value of the bootstrap-t test of each row: `[rows, n]` to `[rows]`.

    t of the data is compared with t of the bootstrap samples, centred at the data's mean. Twice the smaller tail is
    below .05 exactly where the 95 % bootstrap-t interval leaves out zero (Efron & Tibshirani 1993, ch. 16).
    """
    n = differences.shape[1]

    def tails(rows: Values) -> Values:
        mean, error = rows.mean(1), rows.std(1, ddof=1) / math.sqrt(n)
        flat = error <= 1e-9 * np.abs(rows).max(1)  # the same difference at every seed
        with np.errstate(divide="ignore", invalid="ignore"):
            t = mean / np.where(flat, 0.0, error)
        t = np.where(np.isnan(t), 0.0, t)  # no difference at any seed
        samples = np.where(flat[:, None], 0.0, _bootstrap_t(rows, count))
        return (1 + (samples >= t[:, None]).sum(1)) / (count + 1)

    return _in_chunks(tails, differences)


@lru_cache(maxsize=8)
def _signs(n: int, count: int) -> Values:
    """Returns patterns of signs `[patterns, n]`; the first one is the observed one, all +1."""
    if n <= ENUMERATED:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    drawn = 2.0 * np.random.RandomState(n).randint(0, 2, size=(count, n)) - 1
    return np.concatenate((np.ones((1, n)), drawn))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns Holm's step-down adjustment (1979): reject where the result is below the level; nan stays nan.

    statsmodels has it too, and takes three seconds to import: most of what a page may take.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # nan comes last
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(order), 0, -1) * p[order]))
    return [float(value) for value in adjusted]


# ------------------------------------------------------------------------------------------------ draws and seeds


@dataclass(frozen=True)
class Components:
    """How a metric varies over draws of the data and over seeds; nan where something cannot be estimated."""

    mean: float
    low: float
    """Lower end of the 95 % interval of the mean over all draws and all seeds."""
    high: float
    p_value: float
    """Two-sided, of "the mean is zero"; for the differences of two methods."""
    std_draws: float
    """Standard deviation between draws: what a draw does to all seeds alike."""
    std_seeds: float
    """Standard deviation between the seeds of a draw; where draws share their seeds, what a seed does at all alike."""
    std_residual: float
    """Standard deviation of what is left where draws share their seeds: what a seed does at one draw; else nan."""


def variance_components(values: Values, crossed: bool) -> Components:
    """Splits the variance over draws and seeds, both random.

    Where each draw has seeds of its own, draws are the units: the interval is `mean_interval` of their means, the test
    `paired_p_values`. Where all draws share their seeds (`crossed`), the spread of the draws' means does not show what
    the seeds do, and an interval from it alone covers as little as 81 %. The model then is `value = mean + draw + seed
    + residual`, with the estimates of the analysis of variance (Searle, Casella & McCulloch 1992, ch. 4), negative ones
    set to zero. The variance of the mean is `(MS_draws + MS_seeds - MS_residual) / (draws · seeds)`, or `MS_draws /
    (draws · seeds)` if that is larger, with Satterthwaite's degrees of freedom (1946).

    Args:
        values: `[draws, seeds]`, finite; where they are crossed, column j is the same seed at every draw.

    Returns:
        With one seed `std_draws` includes the seeds' part. With one draw the interval is nan, for nothing is known
        about other draws.
    """
    draws, seeds = values.shape
    mean = float(values.mean()) if values.size else math.nan
    of_draws = values.mean(1, keepdims=True) if seeds else np.full((draws, 1), math.nan)
    if draws < 2 or seeds < 2 or not crossed:
        low, high = mean_interval(of_draws[:, 0]) if draws > 1 and seeds else (math.nan, math.nan)
        p = float(paired_p_values(of_draws.T)[0]) if draws > 1 and seeds else math.nan
        within = float(values.var(1, ddof=1).mean()) if seeds > 1 and draws else math.nan
        between = float(of_draws.var(ddof=1)) if draws > 1 and seeds else math.nan
        rounding = 1e-24 * float(np.square(values).max()) if values.size else 0.0
        rest = within / seeds if seeds > 1 else 0.0
        return Components(mean, low, high, p, _root(between - rest, rounding), _root(within, rounding), math.nan)
    of_seeds = values.mean(0, keepdims=True)
    ms_draws, ms_seeds = seeds * float(of_draws.var(ddof=1)), draws * float(of_seeds.var(ddof=1))
    freedom = (draws - 1) * (seeds - 1)
    ms_residual = float(((values - of_draws - of_seeds + mean) ** 2).sum()) / freedom
    variance, degrees = ms_draws, float(draws - 1)
    if ms_seeds > ms_residual:
        variance = ms_draws + ms_seeds - ms_residual
        degrees = variance**2 / (ms_draws**2 / (draws - 1) + ms_seeds**2 / (seeds - 1) + ms_residual**2 / freedom)
    error = math.sqrt(variance / values.size)
    half = float(special.stdtrit(degrees, 0.5 + LEVEL / 2)) * error
    t = abs(mean) / error if error > 0 else (math.inf if mean else 0.0)
    rounding = 1e-24 * float(np.square(values).max())  # equal values give no exact zero
    return Components(
        mean,
        mean - half,
        mean + half,
        p_value=2 * float(special.stdtr(degrees, -t)),
        std_draws=_root((ms_draws - ms_residual) / seeds, rounding),
        std_seeds=_root((ms_seeds - ms_residual) / draws, rounding),
        std_residual=_root(ms_residual, rounding),
    )


def _root(variance: float, rounding: float) -> float:
    """Returns a standard deviation; 0 where the estimate is negative, or no more than the error of rounding."""
    return math.nan if math.isnan(variance) else math.sqrt(variance) if variance > rounding else 0.0


# ----------------------------------------------------------------------------------------------------- rankings


def probability_of_beating(first: Values, second: Values) -> float:
    """Share of the seeds at which the first is lower than the second, ties counting half.

    Args:
        first, second: one number per seed `[n]`, lower is better, in the same order of seeds; nan (a seed that
            diverged) is worse than any number.

    Returns:
        In [0, 1]; nan without seeds.
    """
    if len(first) == 0:
        return math.nan
    a, b = (np.where(np.isnan(v), np.inf, v) for v in (first, second))
    return float((np.count_nonzero(a < b) + 0.5 * np.count_nonzero(a == b)) / len(a))


def best_count(n: int) -> int:
    """How many of n seeds "the best" are: a quarter, which is the published 5 of 20."""
    return max(1, n // 4)


def best_mean(values: Values, chosen_by: Values | None = None) -> float:
    """Mean of the best quarter of the seeds (`best_count`), the published headline: it hides failures.

    Args:
        values: one number per seed `[n]`, lower is better; nan where a seed diverged, which is chosen last.
        chosen_by: what the seeds are chosen by `[n]`, lower is better; the values themselves if not given.
    """
    if len(values) == 0:
        return math.nan
    key = values if chosen_by is None else chosen_by
    key = np.where(np.isnan(key), np.inf, key)
    chosen = np.argsort(key, kind="stable")[: best_count(len(values))]
    return float(values[chosen].mean())


def ranks(scores: Sequence[float]) -> list[int]:
    """1 for the lowest; equal scores share the better rank; nan comes last."""
    filled = [math.inf if math.isnan(score) else score for score in scores]
    return [1 + sum(other < score for other in filled) for score in filled]


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns how far two rankings agree, from -1 to 1 (Kendall's tau-b); nan where one of them is all ties."""
    from scipy.stats import kendalltau  # slow to import

    return float(kendalltau(first, second).statistic) if len(first) > 1 else math.nan
