"""From a tidy table of runs (one row per run and seed, as `report.frame` gives it) to what a table says.

A seed that diverged is never averaged in silently: it is counted, it is left out of the mean, it is the worst of all
for the median, the best quarter and the probability of beating, and a method that has one is not ranked.

Methods are ranked and tested over the seeds that all of them have. A large p-value is never called equality: what a
test does not decide is "not decided".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ebmbench.display.palette import in_order
from ebmbench.engine.runs import FINISHED
from ebmbench.report import stats
from ebmbench.report.stats import Values
from ebmbench.tasks.base import Metric

SIGNIFICANCE = stats.SIGNIFICANCE


def finished(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are results: of runs that are done, whether the seed diverged or not."""
    return frame[frame["state"].isin(FINISHED)]


def badness(metric: Metric, values: Values) -> Values:
    """The values, turned so that lower is better."""
    better = metric.better
    if better == "higher":
        return -values
    return values if better in ("lower", None) else np.abs(values - float(better))


def usable(rows: pd.DataFrame, metric: Metric) -> Values:
    """The metric per seed `[n]`, nan where the seed diverged or the value is not finite."""
    values = pd.to_numeric(rows[metric.name], errors="coerce").to_numpy(dtype=np.float64)
    return np.where((rows["diverged"].to_numpy() == 0) & np.isfinite(values), values, np.nan)


def _by_seed(frame: pd.DataFrame, over: str, metric: Metric) -> tuple[list[object], list[object], Values]:
    """What is compared, the seeds, and the metric `[compared, seeds]`; nan where a seed has no usable value."""
    names, seeds = in_order(frame[over].tolist()), sorted(set(frame["seed"]))
    place = {name: i for i, name in enumerate(names)}
    column = {seed: i for i, seed in enumerate(seeds)}
    table = np.full((len(names), len(seeds)), np.nan)
    rows = [place[name] for name in frame[over]], [column[seed] for seed in frame["seed"]]
    table[rows] = usable(frame, metric)
    return names, seeds, table


def _present(frame: pd.DataFrame, over: str, where: pd.Series | None = None) -> NDArrayBool:
    """Which seeds of what is compared are there, diverged or not, of all rows or of some: `[compared, seeds]`."""
    names, seeds = in_order(frame[over].tolist()), sorted(set(frame["seed"]))
    part = frame if where is None else frame[where]
    there = set(zip(part[over], part["seed"], strict=True))
    return np.array([[(name, seed) in there for seed in seeds] for name in names])


NDArrayBool = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def at_equal_seeds(frame: pd.DataFrame, by: str, within: Sequence[str]) -> pd.DataFrame:
    """Only the seeds that ran at every value of `by`, within each group of the others; all of them where none did.

    So a curve against a setting compares its values and not their seeds, when some of them were run with more.
    """
    kept = []
    for _, part in frame.groupby(list(within), sort=False, dropna=False):
        common = set.intersection(*(set(seeds) for _, seeds in part.groupby(by)["seed"]))
        kept.append(part[part["seed"].isin(common)] if common else part)
    return pd.concat(kept) if kept else frame


def summarise(
    frame: pd.DataFrame,
    groups: Sequence[str],
    over: str,
    metrics: Sequence[Metric],
    margins: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Returns one row per group, item compared and metric.

    Args:
        frame: rows of runs that are done.
        groups: columns within which there is comparison, such as task and dataset.
        over: the column whose values are compared, such as method.
        margins: metric to the largest difference of means that does not matter; only there can "equivalent" be said.

    Returns:
        Columns, beside the groups:

        - `over`, metric, config_hash.
        - seeds: how many there are. n: those with a value. diverged, no_value: those without one. n_untrusted: those
          with a value that is not trusted.
        - mean, low, high: over the n seeds, with its 95 % interval (`stats.mean_interval`). mean_trusted: the mean
          without the untrusted seeds.
        - median, median_low, median_high: over all seeds, those without a value being the worst, with an interval of at
          least 95 % (`stats.median_interval`; nan for fewer than six seeds and where the best value is a number).
        - best, best_of: mean of the best quarter of the seeds, and how many these are.
        - ranked_over: how many seeds all that are compared have; ranks and tests are over these; 0 without a ranking.
          mean_ranked: mean over these, nan for one that is not ranked.
        - verdict: "best" (the best mean_ranked), "worse" (than the best one: p_holm < SIGNIFICANCE), "equivalent" (to
          the best one, within the margin), "not decided", or "" (not ranked; the note says why).
        - mark: "best" or "". It says which mean is the best, not that a test decided it: see the others' verdicts.
        - p_holm: p-value of "the mean equals the best one's" (`stats.paired_p_value`), by Holm over all pairs of those
          ranked, since the same data choose the best; nan for the best one and where the seeds cannot support a test.
          comparisons: how many pairs these are; 0 without a ranking.
        - beats_best: share of the common seeds at which it is better than the best one.
        - note: sentences that say why something is not ranked, tested or decided; empty if nothing is special.
    """
    rows = []
    for key, part in frame.groupby(list(groups), sort=True, dropna=False):
        group = dict(zip(groups, key, strict=True))
        for metric in metrics:
            if metric.name in part:
                margin = (margins or {}).get(metric.name)
                rows += [{**group, **row} for row in _summarise_group(part, over, metric, margin)]
    return pd.DataFrame(rows)


def _summarise_group(part: pd.DataFrame, over: str, metric: Metric, margin: float | None) -> list[dict[str, Any]]:
    names, seeds, table = _by_seed(part, over, metric)
    present, doubtful = _present(part, over), _present(part, over, part["trusted"] == 0)
    rows: list[dict[str, Any]] = []
    of, stopped = part[over].to_numpy(), part["diverged"].to_numpy() == 1
    hashes = part["config_hash"].to_numpy()
    for i, name in enumerate(names):
        mine, values, usable_ = of == name, table[i][present[i]], np.isfinite(table[i])
        trusted = table[i][usable_ & ~doubtful[i]]
        n, diverged = int(usable_.sum()), int((mine & stopped).sum())
        rows.append(
            {
                over: name,
                "metric": metric.name,
                "seeds": len(values),
                "n": n,
                "diverged": diverged,
                "no_value": len(values) - n - diverged,
                "n_untrusted": n - len(trusted),
                **_mean(table[i][usable_], metric.bounds),
                "mean_trusted": float(trusted.mean()) if len(trusted) else np.nan,
                **_median_and_interval(metric, values),
                "best": _best_mean(metric, values),
                "best_of": stats.best_count(len(values)),
                "config_hash": " ".join(sorted(set(hashes[mine]))),
            }
        )
    ranking = _rank(metric, names, seeds, table, present, doubtful=doubtful, margin=margin)
    return [row | ranked for row, ranked in zip(rows, ranking, strict=True)]


def _mean(values: Values, bounds: tuple[float, float] = (-np.inf, np.inf)) -> dict[str, float]:
    low, high = np.clip(stats.mean_interval(values), *bounds)
    return {"mean": float(values.mean()) if len(values) else np.nan, "low": float(low), "high": float(high)}


def _best_mean(metric: Metric, values: Values) -> float:
    """Mean of the best quarter of the seeds, by the metric itself."""
    key = badness(metric, values)
    return stats.best_mean(values, chosen_by=key)


def _median(metric: Metric, values: Values) -> float:
    """Median where a seed without a value is the worst of all; infinite if that is what the middle one is."""
    if len(values) == 0:
        return np.nan
    order = np.argsort(np.nan_to_num(badness(metric, values), nan=np.inf), kind="stable")
    middle = values[order][[(len(values) - 1) // 2, len(values) // 2]]
    if np.isfinite(middle).all():
        return float(middle.mean())
    return -np.inf if metric.better == "higher" else np.inf


def _median_and_interval(metric: Metric, values: Values) -> dict[str, float]:
    better = metric.better
    low, high = np.nan, np.nan
    if better is None or isinstance(better, str):
        low, high = stats.median_interval(badness(metric, values))
    if better == "higher":
        low, high = -high, -low
    return {"median": _median(metric, values), "median_low": low, "median_high": high}


# ------------------------------------------------------------------------------------------------------- ranking


@dataclass(frozen=True)
class _Tests:
    """All pairs of those ranked, tested over what they have in common."""

    common: NDArrayBool
    """Which units (seeds, or draws of the data) all that are compared have: `[units]`."""
    ranked: list[int]
    """Those that have a value at each of them, and a trusted one at least at one."""
    pairs: list[tuple[int, int]]
    p_holm: dict[tuple[int, int], float]
    """nan where the units cannot support a test."""
    notes: list[str]
    """What to say of all of them."""


def _test(
    turned: Values,
    present: NDArrayBool,
    units: Sequence[object],
    unit: str,
    doubtful: NDArrayBool | None = None,
    p_value: Callable[[int, int, NDArrayBool], float] | None = None,
) -> _Tests:
    """Tests all pairs, paired by unit; arguments as in `_rank`, but `turned` so that lower is better."""
    common: NDArrayBool = np.logical_and.reduce(present)
    count, notes = int(common.sum()), []
    if count < 2:
        few = f"fewer than two {unit}s are common to all that are compared"
        return _Tests(common, [], [], {}, [f"No ranking: {few}."])
    if present[:, ~common].any():
        found = _listed([name for name, both in zip(units, common, strict=True) if both])
        notes.append(f"Ranked and tested over the {count} {unit}s that all have ({found}).")
    ranked = [i for i in range(len(turned)) if np.isfinite(turned[i, common]).all()]
    if doubtful is not None:
        ranked = [i for i in ranked if not doubtful[i, common].all()]
    pairs = list(itertools.combinations(ranked, 2))
    if not pairs:
        return _Tests(common, ranked, pairs, {}, notes)
    if not stats.testable(count, len(pairs)):
        needed = stats.fewest_seeds(len(pairs))
        takes = f" (it takes {needed})" if needed else ""
        plural = "s" if len(pairs) > 1 else ""
        notes.append(f"{count} {unit}s cannot support a test of {len(pairs)} comparison{plural}{takes}.")
        p_values = [np.nan] * len(pairs)
    elif p_value is None:
        shared = turned[:, common]
        p_values = stats.paired_p_values(np.array([shared[i] - shared[j] for i, j in pairs])).tolist()
    else:
        p_values = [p_value(i, j, common) for i, j in pairs]
    return _Tests(common, ranked, pairs, dict(zip(pairs, stats.holm(p_values), strict=True)), notes)


def _rank(
    metric: Metric,
    names: Sequence[object],
    units: Sequence[object],
    table: Values,
    present: NDArrayBool,
    *,
    doubtful: NDArrayBool | None = None,
    margin: float | None = None,
    unit: str = "seed",
    p_value: Callable[[int, int, NDArrayBool], float] | None = None,
) -> list[dict[str, Any]]:
    """Returns for each that is compared what `summarise` documents from ranked_over on.

    Args:
        names, units: what is compared, and what pairs it: seeds, or draws of the data; `unit` is one of these in words.
        table: the metric `[compared, units]`, nan where there is no value.
        present: which units are there, with a value or not `[compared, units]`.
        doubtful: which values are not trusted `[compared, units]`.
        p_value: of two that are compared, by index, and the common units; `stats.paired_p_value` if not given.
    """
    nothing = {"ranked_over": 0, "mean_ranked": np.nan, "verdict": "", "mark": "", "p_holm": np.nan, "comparisons": 0}
    rows: list[dict[str, Any]] = [{**nothing, "beats_best": np.nan, "note": ""} for _ in names]
    if metric.better is None or len(names) < 2:
        return rows
    turned = badness(metric, table)
    tests = _test(turned, present, units, unit, doubtful, p_value)
    shared, count = turned[:, tests.common], int(tests.common.sum())
    best = min(tests.ranked, key=lambda i: float(shared[i].mean()), default=-1)
    notes = list(tests.notes)
    if doubtful is not None and count:
        unsure = [str(name) for name, mine in zip(names, doubtful[:, tests.common], strict=True) if mine.all()]
        notes = [f"Not ranked, for no {unit} is trusted: {', '.join(unsure)}.", *notes] if unsure else notes
    if tests.ranked and doubtful is not None:
        notes += _note_of_doubt(names, tests, turned, doubtful, best, unit)
    for i, row in enumerate(rows):
        if tests.ranked and i != best:
            row["beats_best"] = stats.probability_of_beating(shared[i], shared[best])
        if i not in tests.ranked:
            lost = int((~np.isfinite(shared[i])).sum())
            alone = [f"{names[i]} is not ranked: it has no value at {lost} of the {count} {unit}s."] if lost else []
            row["note"] = " ".join([*notes, *alone])
            continue
        p = tests.p_holm.get((min(i, best), max(i, best)), np.nan)
        row |= {"ranked_over": count, "mean_ranked": float(table[i, tests.common].mean()), "p_holm": p}
        row |= {"comparisons": len(tests.pairs), "note": " ".join(notes), "mark": "best" if i == best else ""}
        row["verdict"] = "best" if i == best else _verdict(p, shared[i], shared[best], margin, len(tests.pairs))
    return rows


def _verdict(p: float, values: Values, best: Values, margin: float | None, comparisons: int) -> str:
    if p < SIGNIFICANCE:
        return "worse"
    same = margin is not None and stats.equivalent(values, best, margin, SIGNIFICANCE / comparisons)
    return "equivalent" if same else "not decided"


def _note_of_doubt(
    names: Sequence[object], tests: _Tests, turned: Values, doubtful: NDArrayBool, best: int, unit: str
) -> list[str]:
    """Says so where another mean is the best over the units that are trusted for all that are ranked."""
    sure = tests.common & ~doubtful[tests.ranked].any(0)
    if not sure.any() or sure.sum() == tests.common.sum():
        return []
    other = min(tests.ranked, key=lambda i: float(turned[i, sure].mean()))
    if other == best:
        return []
    return [f"Over the {int(sure.sum())} {unit}s that are trusted for all, {names[other]} has the best mean."]


def _listed(units: Sequence[Any]) -> str:
    """The units in words: `0 to 4` where they follow one another, else one by one."""
    numbers = [int(unit) for unit in units if float(unit) == int(unit)]
    if len(numbers) == len(units) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, units))


def compare(
    frame: pd.DataFrame, groups: Sequence[str], over: str, metric: Metric, margin: float | None = None
) -> pd.DataFrame:
    """Returns every pair within a group, paired by the seeds that all of the group have.

    Args:
        margin: the largest difference of means that does not matter; "equivalent" is only said with one.

    Returns:
        Columns: the groups, metric, first, second; pairs (common seeds at which both have a value); difference, low,
        high (of the means, first less second, over these, with its 95 % interval, which is not adjusted for the number
        of comparisons); p_holm, comparisons and note as in `summarise`; beats (probability that the first is better,
        a seed without a value being the worst); verdict ("first better", "second better", "equivalent" or "not
        decided").
    """
    rows: list[dict[str, Any]] = []
    for key, part in frame.groupby(list(groups), sort=True, dropna=False):
        names, seeds, table = _by_seed(part, over, metric)
        turned = badness(metric, table)
        tests = _test(turned, _present(part, over), seeds, "seed", _present(part, over, part["trusted"] == 0))
        shared = turned[:, tests.common]
        for i, j in itertools.combinations(range(len(names)), 2):
            both = tests.common & np.isfinite(table[i]) & np.isfinite(table[j])
            p = tests.p_holm.get((i, j), np.nan)
            verdict = "not decided"
            if p < SIGNIFICANCE:
                verdict = "first better" if shared[i].mean() < shared[j].mean() else "second better"
            elif (i, j) in tests.pairs:
                verdict = _verdict(p, shared[i], shared[j], margin, len(tests.pairs))
            lost = int(tests.common.sum() - both.sum())
            notes = [f"One of the two has no value at {lost} of the {int(tests.common.sum())} seeds."] if lost else []
            difference = _mean((table[i] - table[j])[both])
            rows.append(
                {
                    **dict(zip(groups, key, strict=True)),
                    "metric": metric.name,
                    "first": names[i],
                    "second": names[j],
                    "pairs": int(both.sum()),
                    "difference": difference["mean"],
                    "low": difference["low"],
                    "high": difference["high"],
                    "p_holm": p,
                    "comparisons": len(tests.pairs),
                    "beats": stats.probability_of_beating(shared[i], shared[j]),
                    "verdict": verdict,
                    "note": " ".join([*tests.notes, *notes]),
                }
            )
    return pd.DataFrame(rows)


RULES = ("all", "median", "best", "best_by_val")
"""How seeds are chosen: the mean of all, the median, the best quarter by the metric itself (as published), the best
quarter by a validation metric (which uses no knowledge of the truth)."""


def audit(
    frame: pd.DataFrame, groups: Sequence[str], over: str, metric: Metric, selection: Metric | None = None
) -> pd.DataFrame:
    """Returns what each rule of selection makes of the ranking, over the seeds that all have.

    A method that has a diverged seed is last by the mean of all: there is no such mean.

    Args:
        selection: the metric of the rule `best_by_val`.

    Returns:
        Columns: the groups, metric, rule, `over`, value, rank, tau (Kendall's, with the ranking by the mean of all
        seeds), seeds (how many all have). A group whose members have fewer than two seeds in common has no rows.
    """
    rows: list[dict[str, object]] = []
    for key, part in frame.groupby(list(groups), sort=True, dropna=False):
        names, _, table = _by_seed(part, over, metric)
        common = _present(part, over).all(0)
        if common.sum() < 2:
            continue
        table = table[:, common]
        has_selection = selection is not None and selection.name in part
        chosen = badness(selection, _by_seed(part, over, selection)[2]) if selection and has_selection else None
        by_rule: dict[str, list[float]] = {}
        for rule in RULES:
            if rule == "best_by_val" and chosen is None:
                continue
            by_rule[rule] = [
                _select(rule, metric, values, None if chosen is None else chosen[i][common])
                for i, values in enumerate(table)
            ]
        ranking = {
            rule: stats.ranks(np.where(np.isinf(found), np.nan, badness(metric, np.array(found))).tolist())
            for rule, found in by_rule.items()
        }
        for rule, found in by_rule.items():
            tau = stats.kendall_tau(ranking[rule], ranking["all"])
            rows += [
                {
                    **dict(zip(groups, key, strict=True)),
                    "metric": metric.name,
                    "rule": rule,
                    over: name,
                    "value": value,
                    "rank": rank,
                    "tau": tau,
                    "seeds": int(common.sum()),
                }
                for name, value, rank in zip(names, found, ranking[rule], strict=True)
            ]
    return pd.DataFrame(rows)


def _select(rule: str, metric: Metric, values: Values, val_nll: Values | None) -> float:
    if rule == "all":
        return float(values.mean()) if len(values) else np.nan
    if rule == "median":
        return _median(metric, values)
    if rule == "best":
        return _best_mean(metric, values)
    return stats.best_mean(values, chosen_by=val_nll)


def draws(frame: pd.DataFrame, groups: Sequence[str], metric: Metric, draw: str) -> pd.DataFrame:
    """Returns, over several draws of the training data: is the ranking one of the methods, or of one draw?

    Only seeds that every method has at every one of its draws are used.

    Returns:
        Columns: the groups, metric, method; draws (how many there are), n (those at which every seed has a value),
        seeds (of each draw), diverged; n_untrusted (seeds, over all draws) and mean_trusted, as in `summarise`; mean,
        low, high (over all draws and seeds, by `stats.variance_components`); std_draws, std_seeds, std_residual
        (between draws, between seeds, the rest); from ranked_over to note as in `summarise`, with draws as what is
        paired; a p-value is the larger one of that of `stats.paired_p_value` over the draws' means and that of the
        mixed model; ranks (one per draw), tau (mean over pairs of draws).
    """
    rows: list[dict[str, Any]] = []
    for key, part in frame.groupby(list(groups), sort=True, dropna=False):
        names, numbers = in_order(part["method"].tolist()), sorted(set(part[draw]))
        cube, present, untrusted = _by_draw(part, names, numbers, draw, metric)
        means = cube.mean(2) if cube.shape[2] else np.full(cube.shape[:2], np.nan)
        columns = [stats.ranks(badness(metric, means[:, j]).tolist()) for j in range(len(numbers))]
        taus = [stats.kendall_tau(a, b) for i, a in enumerate(columns) for b in columns[:i]]

        def p_value(i: int, j: int, common: NDArrayBool, cube: Values = cube) -> float:
            difference = (cube[i] - cube[j])[common]
            alone = float(stats.paired_p_values(difference.mean(1)[None])[0])
            return max(alone, stats.variance_components(difference).p_value) if difference.shape[1] > 1 else alone

        doubtful = np.logical_and.reduce(untrusted, axis=2)
        ranking = _rank(metric, names, numbers, means, present, doubtful=doubtful, unit="draw", p_value=p_value)
        for i, name in enumerate(names):
            good = cube[i][np.isfinite(means[i])]
            split = stats.variance_components(good)
            trusted = cube[i][np.isfinite(cube[i]) & ~untrusted[i]]
            rows.append(
                {
                    **dict(zip(groups, key, strict=True)),
                    "metric": metric.name,
                    "method": name,
                    "draws": len(numbers),
                    "n": len(good),
                    "seeds": cube.shape[2],
                    "diverged": int((part[part["method"] == name]["diverged"] == 1).sum()),
                    "n_untrusted": int((np.isfinite(cube[i]) & untrusted[i]).sum()),
                    "mean_trusted": float(trusted.mean()) if len(trusted) else np.nan,
                    "mean": split.mean,
                    "low": split.low,
                    "high": split.high,
                    "std_draws": split.std_draws,
                    "std_seeds": split.std_seeds,
                    "std_residual": split.std_residual,
                    **ranking[i],
                    "ranks": " ".join(str(column[i]) for column in columns),
                    "tau": float(np.mean(taus)) if taus else np.nan,
                }
            )
    return pd.DataFrame(rows)


def _by_draw(
    part: pd.DataFrame, names: Sequence[object], numbers: Sequence[object], draw: str, metric: Metric
) -> tuple[Values, NDArrayBool, NDArrayBool]:
    """The metric `[methods, draws, common seeds]`; which draws of a method are there; which values are not trusted."""
    cells = {cell: own for cell, own in part.groupby(["method", draw], sort=False)}
    common = sorted(set.intersection(*(set(own["seed"]) for own in cells.values())))
    cube = np.full((len(names), len(numbers), len(common)), np.nan)
    present, untrusted = np.zeros(cube.shape[:2], dtype=bool), np.zeros(cube.shape, dtype=bool)
    for (name, number), own in cells.items():
        i, j = names.index(name), numbers.index(number)
        present[i, j] = True
        own = own.set_index("seed", drop=False).loc[common]
        cube[i, j], untrusted[i, j] = usable(own, metric), own["trusted"] == 0
    return cube, present, untrusted
