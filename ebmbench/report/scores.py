"""From a tidy table of runs (one row per run and seed, as `report.frame` gives it) to what a table says.

A seed that diverged is never averaged in silently: it is counted, it is left out of the mean, it is the worst of all
for the median, the best quarter and the probability of beating, and a method that has one is not ranked.

Methods are ranked and tested over the seeds that all of them have. A large p-value is never called equality: what a
test does not decide is "not decided".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ebmbench.core.errors import counted
from ebmbench.display.palette import in_order
from ebmbench.report import stats
from ebmbench.report.stats import Values
from ebmbench.tasks.base import Metric

SIGNIFICANCE = stats.SIGNIFICANCE
Mask = NDArray[np.bool_]


def badness(metric: Metric, values: Values) -> Values:
    """The values, turned so that lower is better."""
    better = metric.better
    if better == "higher":
        return -values
    return values if better in ("lower", None) else np.abs(values - float(better))


@dataclass(frozen=True)
class _Paired:
    """A metric of all that is compared, side by side: a row for each, a column for each unit that pairs them."""

    names: list[Any]
    units: list[Any]
    """Seeds, or draws of the data."""
    values: Values
    """`[names, units]`; nan where the seed diverged, the value is not finite, or the unit is not there."""
    present: Mask
    """Which units are there, with a value or not `[names, units]`."""
    doubtful: Mask
    """Which values are not trusted `[names, units]`."""


def _by_seed(frame: pd.DataFrame, over: str, metric: Metric) -> _Paired:
    names, seeds = in_order(frame[over].tolist()), sorted(set(frame["seed"]))
    rows, columns = ({key: place for place, key in enumerate(keys)} for keys in (names, seeds))
    at = [rows[name] for name in frame[over]], [columns[seed] for seed in frame["seed"]]
    values = np.full((len(names), len(seeds)), np.nan)
    present, doubtful = np.zeros(values.shape, dtype=bool), np.zeros(values.shape, dtype=bool)
    values[at], present[at], doubtful[at] = _usable(frame, metric), True, is_doubtful(frame, metric)
    return _Paired(names, seeds, values, present, doubtful)


def _usable(rows: pd.DataFrame, metric: Metric) -> Values:
    """The metric of each row, nan where the seed diverged or the value is not finite."""
    values = pd.to_numeric(rows[metric.name], errors="coerce").to_numpy(dtype=np.float64)
    return np.where((rows["diverged"].to_numpy() == 0) & np.isfinite(values), values, np.nan)


def is_doubtful(rows: pd.DataFrame, metric: Metric) -> Mask:
    """Returns which rows have a value of the metric that is not trusted."""
    return metric.doubted & (rows["trusted"] == 0).to_numpy()


def _groups(frame: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    for values, part in frame.groupby(list(keys), sort=True, dropna=False):
        yield dict(zip(keys, values, strict=True)), part


def at_equal_seeds(frame: pd.DataFrame, by: str, within: Sequence[str]) -> pd.DataFrame:
    """Only the seeds that ran at every value of `by`, within each group of the others; all where fewer than two did.

    So a curve against a setting compares its values and not their seeds, when some of them were run with more.
    """
    kept = []
    for _, part in frame.groupby(list(within), sort=False, dropna=False):
        common = set.intersection(*(set(seeds) for _, seeds in part.groupby(by)["seed"]))
        kept.append(part[part["seed"].isin(common)] if len(common) > 1 else part)
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
          least 95 % (`stats.median_interval`; nan for fewer than six seeds).
        - best, best_of: mean of the best quarter of the seeds, and how many these are.
        - ranked_over: how many seeds all that are compared have; ranks and tests are over these; 0 without a ranking.
          mean_ranked: mean over these, nan for one that is not ranked.
        - verdict: "best" (the best mean_ranked), "worse" (than the best one: p_holm < SIGNIFICANCE), "equivalent" (to
          the best one, within the margin), "not decided", or "" (not ranked; the note says why).
        - mark: "best", also for a mean that is equal to the best one, or "". It is no test: see the others' verdicts.
        - p_holm: p-value of "the mean equals the best one's" (`stats.paired_p_values`), by Holm over all pairs of those
          ranked, since the same data choose the best; nan for the best one, where the seeds cannot support a test, and
          for a metric that is one number for all seeds (not `of_model`).
          comparisons: how many pairs these are; 0 without a ranking.
        - beats_best: share of the common seeds at which it is better than the best one.
        - note: sentences that say why something in the group is not ranked, tested or decided; empty if nothing is
          special.
    """
    rows: list[dict[str, Any]] = []
    for group, part in _groups(frame, groups):
        hashes = part.groupby(over, dropna=False)["config_hash"].agg(lambda own: " ".join(sorted(set(own))))
        diverged = part[part["diverged"] == 1][over].value_counts()
        for metric in (metric for metric in metrics if metric.name in part):
            paired = _by_seed(part, over, metric)
            ranking = _rank(paired, metric)
            bounds = metric.bounds if metric.of_model else (np.nan, np.nan)  # one number has no interval
            for i, name in enumerate(paired.names):
                values, stopped = paired.values[i][paired.present[i]], int(diverged.get(name, 0))
                there = values[np.isfinite(values)]
                n_untrusted, mean_trusted = _trust(paired.values[i], paired.doubtful[i])
                rows.append(
                    {
                        **group,
                        over: name,
                        "metric": metric.name,
                        "seeds": len(values),
                        "n": len(there),
                        "diverged": stopped,
                        "no_value": len(values) - len(there) - stopped,
                        "n_untrusted": n_untrusted,
                        **_mean(there, bounds),
                        "mean_trusted": mean_trusted,
                        **_median(metric, values),
                        "best": stats.best_mean(values, chosen_by=badness(metric, values)),
                        "best_of": stats.best_count(len(values)),
                        "config_hash": hashes[name],
                        **ranking.row(i, (margins or {}).get(metric.name)),
                    }
                )
    return pd.DataFrame(rows)


def _mean(values: Values, bounds: tuple[float, float] = (-np.inf, np.inf)) -> dict[str, float]:
    mean = float(values.mean()) if len(values) else np.nan
    low, high = _within(bounds, mean, *stats.mean_interval(values))
    return {"mean": mean, "low": low, "high": high}


def _within(bounds: tuple[float, float], mean: float, low: float, high: float) -> tuple[float, float]:
    """The ends of an interval, within what the metric can be; an estimate beyond that stays inside of its interval."""
    return float(np.maximum(low, np.minimum(bounds[0], mean))), float(np.minimum(high, np.maximum(bounds[1], mean)))


def _trust(values: Values, doubtful: Mask) -> tuple[int, float]:
    """How many values are not trusted, and the mean of the others."""
    there = np.isfinite(values)
    trusted = values[there & ~doubtful]
    return int(there.sum()) - len(trusted), float(trusted.mean()) if len(trusted) else np.nan


def _median(metric: Metric, values: Values) -> dict[str, float]:
    """The median, with its interval; a seed without a value is the worst, and either may be infinite for it."""
    sign = -1.0 if metric.better == "higher" else 1.0
    turned = np.sort(np.where(np.isnan(values), np.inf, sign * values))
    middle = turned[[(len(turned) - 1) // 2, len(turned) // 2]]
    low, high = stats.median_interval(turned)
    ends = sorted((sign * low, sign * high))
    return {"median": sign * float(middle.mean()) + 0.0, "median_low": ends[0], "median_high": ends[1]}


# ------------------------------------------------------------------------------------------------------- ranking


@dataclass(frozen=True)
class _Ranking:
    """Ranks and tests of all pairs, over the units that all that are compared have."""

    paired: _Paired
    common: Mask
    """Which units these are."""
    shared: Values = field(default_factory=lambda: np.empty((0, 0)))
    """The metric over them, turned so that lower is better `[names, common]`."""
    ranked: tuple[int, ...] = ()
    """Those that have a value at each of them, and a trusted one at least at one."""
    best: int = -1
    p_holm: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """Of each pair of those ranked; nan where the units cannot support a test."""
    note: str = ""

    def verdict(self, i: int, j: int, margin: float | None) -> str:
        """Returns what is known of two that are compared: different, equivalent, or not decided."""
        pair = (min(i, j), max(i, j))
        if self.p_holm.get(pair, np.nan) < SIGNIFICANCE:
            return "different"
        tested = margin is not None and pair in self.p_holm
        level = SIGNIFICANCE / max(1, len(self.p_holm))
        same = tested and stats.equivalent(self.shared[i], self.shared[j], margin, level)  # type: ignore[arg-type]
        return "equivalent" if same else "not decided"

    def row(self, i: int, margin: float | None = None) -> dict[str, Any]:
        """Returns what `summarise` documents from ranked_over on."""
        row = {"ranked_over": 0, "mean_ranked": np.nan, "verdict": "", "mark": "", "p_holm": np.nan, "comparisons": 0}
        row |= {"beats_best": np.nan, "note": self.note}
        if self.ranked and i != self.best:
            row["beats_best"] = stats.probability_of_beating(self.shared[i], self.shared[self.best])
        if i not in self.ranked:
            return row
        means = self.shared.mean(1)
        verdict = "best" if i == self.best else self.verdict(i, self.best, margin).replace("different", "worse")
        return row | {
            "ranked_over": int(self.common.sum()),
            "mean_ranked": float(self.paired.values[i, self.common].mean()),
            "verdict": verdict,
            "mark": "best" if np.isclose(means[i], means[self.best], rtol=1e-12, atol=0) else "",
            "p_holm": self.p_holm.get((min(i, self.best), max(i, self.best)), np.nan),
            "comparisons": len(self.p_holm),
        }


def _rank(
    paired: _Paired,
    metric: Metric,
    unit: str = "seed",
    p_value: Callable[[int, int, Mask], float] | None = None,
) -> _Ranking:
    """Ranks and tests, paired by unit.

    Args:
        unit: what pairs, in a word: seed, or draw.
        p_value: of two that are compared, by index, and the common units; `stats.paired_p_values` if not given.
    """
    hopeless: Mask = np.logical_and.reduce(paired.doubtful | ~paired.present, axis=1)
    compared: Mask = ~hopeless if not hopeless.all() else hopeless
    common: Mask = np.logical_and.reduce(paired.present[compared])
    count, notes = int(common.sum()), []
    if metric.better is None or len(paired.names) < 2:
        return _Ranking(paired, common)
    shared = badness(metric, paired.values[:, common])
    lost = (~np.isfinite(shared)).sum(1)
    unsure: Mask = hopeless | np.logical_and.reduce(paired.doubtful[:, common], axis=1) & (count > 0)
    if unsure.any():
        names = map(str, itertools.compress(paired.names, unsure))
        notes.append(f"Not ranked, for no {unit} is trusted: {', '.join(names)}.")
    if count < 2:
        notes.append(f"No ranking: fewer than two {unit}s are common to all that are compared.")
        return _Ranking(paired, common, shared, note=" ".join(notes))
    if not common.all():
        units = _listed(list(itertools.compress(paired.units, common)))
        notes.append(f"Ranked and tested over the {count} {unit}s that all have ({units}).")
    ranked = [i for i in range(len(paired.names)) if not lost[i] and not unsure[i]]
    best = min(ranked, key=lambda i: float(shared[i].mean()), default=-1)
    pairs = list(itertools.combinations(ranked, 2))
    p_values = [np.nan] * len(pairs)
    if pairs and not stats.testable(count, len(pairs)):
        needed = stats.fewest_seeds(len(pairs))
        takes = f" (it takes {needed})" if needed else ""
        tests = counted(len(pairs), "comparison")
        notes.append(f"{count} {unit}s cannot support a test of {tests}{takes}.")
    elif pairs and p_value is None and not metric.of_model:
        notes.append(f"{metric.label} is one number for all seeds of a run: it has no interval and no test.")
    elif pairs and p_value is None:
        p_values = stats.paired_p_values(np.array([shared[i] - shared[j] for i, j in pairs])).tolist()
    elif p_value is not None:
        p_values = [p_value(i, j, common) for i, j in pairs]
    sure: Mask = ~np.logical_or.reduce(paired.doubtful[ranked][:, common])
    if ranked and 0 < sure.sum() < count:
        other = min(ranked, key=lambda i: float(shared[i, sure].mean()))
        if sure.sum() == 1:
            notes.append(f"Only one {unit} is trusted for all.")
        elif other != best:
            name = paired.names[other]
            notes.append(f"Over the {sure.sum()} {unit}s that are trusted for all, {name} has the best mean.")
    notes += [
        f"{paired.names[i]} is not ranked: it has no value at {lost[i]} of the {count} {unit}s."
        for i in np.flatnonzero((lost > 0) & ~hopeless)
    ]
    p_holm = dict(zip(pairs, stats.holm(p_values), strict=True))
    return _Ranking(paired, common, shared, tuple(ranked), best, p_holm, " ".join(notes))


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
    for group, part in _groups(frame, groups):
        paired = _by_seed(part, over, metric)
        ranking = _rank(paired, metric)
        shared = badness(metric, paired.values[:, ranking.common])
        for i, j in itertools.combinations(range(len(paired.names)), 2):
            differences = (paired.values[i] - paired.values[j])[ranking.common]
            differences = differences[np.isfinite(differences)]
            verdict = ranking.verdict(i, j, margin)
            if verdict == "different":
                verdict = "first better" if shared[i].mean() < shared[j].mean() else "second better"
            difference, low, high = _mean(differences).values()
            rows.append(
                {
                    **group,
                    "metric": metric.name,
                    "first": paired.names[i],
                    "second": paired.names[j],
                    "pairs": len(differences),
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "p_holm": ranking.p_holm.get((i, j), np.nan),
                    "comparisons": len(ranking.p_holm),
                    "beats": stats.probability_of_beating(shared[i], shared[j]),
                    "verdict": verdict,
                    "note": ranking.note,
                }
            )
    return pd.DataFrame(rows)


def audit(
    frame: pd.DataFrame, groups: Sequence[str], over: str, metric: Metric, selection: Metric | None = None
) -> pd.DataFrame:
    """Returns what each rule of selection makes of the ranking, over the seeds that all have.

    The rules: the mean of `all`, the `median`, the `best` quarter by the metric itself (as published), and the best
    quarter by a validation metric, `best_by_val`, which uses no knowledge of the truth. A method that has a diverged
    seed is last by the mean of all: there is no such mean.

    Args:
        selection: the validation metric.

    Returns:
        Columns: the groups, metric, rule, `over`, value, rank, tau (Kendall's, with the ranking by the mean of all
        seeds), seeds (how many all have). A group whose members have fewer than two seeds in common has no rows.
    """
    rows: list[dict[str, Any]] = []
    for group, part in _groups(frame, groups):
        paired = _by_seed(part, over, metric)
        common: Mask = np.logical_and.reduce(paired.present)
        if common.sum() < 2:
            continue
        table = paired.values[:, common]
        by_rule = {
            "all": table.mean(1),
            "median": np.array([_median(metric, values)["median"] for values in table]),
            "best": np.array(list(map(stats.best_mean, table, badness(metric, table)))),
        }
        if selection is not None and selection.name in part:
            chosen = badness(selection, _by_seed(part, over, selection).values[:, common])
            by_rule["best_by_val"] = np.array(list(map(stats.best_mean, table, chosen)))
        ranking = {
            rule: stats.ranks(np.where(np.isinf(found), np.nan, badness(metric, found)).tolist())
            for rule, found in by_rule.items()
        }
        for rule, found in by_rule.items():
            about = {**group, "metric": metric.name, "rule": rule}
            last = {"tau": stats.kendall_tau(ranking[rule], ranking["all"]), "seeds": int(common.sum())}
            for name, value, rank in zip(paired.names, found.tolist(), ranking[rule], strict=True):
                rows.append({**about, over: name, "value": value, "rank": rank, **last})
    return pd.DataFrame(rows)


def draws(frame: pd.DataFrame, groups: Sequence[str], metric: Metric, draw: str) -> pd.DataFrame:
    """Returns, over several draws of the training data: is the ranking one of the methods, or of one draw?

    Only seeds that every method has at every one of its draws are used.

    Returns:
        Columns: the groups, metric, method; draws (how many there are), n (those at which every seed has a value),
        seeds (of each draw), diverged; n_untrusted (seeds, over all draws) and mean_trusted, as in `summarise`; mean,
        low, high (over all draws and seeds, by `stats.variance_components`); std_draws, std_seeds, std_residual
        (between draws, between seeds, the rest); from ranked_over to note as in `summarise`, with draws as what is
        paired; a p-value is the larger one of that of `stats.paired_p_values` over the draws' means and that of the
        mixed model; ranks (one per draw), tau (mean over pairs of draws).
    """
    rows: list[dict[str, Any]] = []
    for group, part in _groups(frame, groups):
        names, numbers = in_order(part["method"].tolist()), sorted(set(part[draw]))
        cube, present, untrusted = _by_draw(part, names, numbers, draw, metric)
        means = cube.mean(2) if cube.shape[2] else np.full(cube.shape[:2], np.nan)
        columns = [stats.ranks(badness(metric, means[:, j]).tolist()) for j in range(len(numbers))]
        taus = [stats.kendall_tau(a, b) for i, a in enumerate(columns) for b in columns[:i]]

        def p_value(i: int, j: int, common: Mask, cube: Values = cube) -> float:
            difference = (cube[i] - cube[j])[common]
            alone = float(stats.paired_p_values(difference.mean(1)[None])[0])
            return max(alone, stats.variance_components(difference).p_value) if difference.shape[1] > 1 else alone

        ranking = _rank(
            _Paired(names, numbers, means, present, np.logical_and.reduce(untrusted, axis=2)), metric, "draw", p_value
        )
        for i, name in enumerate(names):
            good = cube[i][np.isfinite(means[i])]
            spread = asdict(stats.variance_components(good))
            del spread["p_value"]  # of "the mean is zero"
            spread["low"], spread["high"] = _within(metric.bounds, spread["mean"], spread["low"], spread["high"])
            n_untrusted, mean_trusted = _trust(cube[i], untrusted[i])
            rows.append(
                {
                    **group,
                    "metric": metric.name,
                    "method": name,
                    "draws": len(numbers),
                    "n": len(good),
                    "seeds": cube.shape[2],
                    "diverged": int((part[part["method"] == name]["diverged"] == 1).sum()),
                    "n_untrusted": n_untrusted,
                    "mean_trusted": mean_trusted,
                    **spread,
                    **ranking.row(i),
                    "ranks": " ".join(str(column[i]) for column in columns),
                    "tau": float(np.mean(taus)) if taus else np.nan,
                }
            )
    return pd.DataFrame(rows)


def _by_draw(
    part: pd.DataFrame, names: Sequence[object], numbers: Sequence[object], draw: str, metric: Metric
) -> tuple[Values, Mask, Mask]:
    """The metric `[methods, draws, common seeds]`; which draws of a method are there; which values are not trusted.

    A metric that is one number for all seeds counts once at a draw, and is not trusted if one of the seeds is not.
    """
    cells = {cell: own for cell, own in part.groupby(["method", draw], sort=False)}
    common = sorted(set.intersection(*(set(own["seed"]) for own in cells.values())))
    cube = np.full((len(names), len(numbers), len(common) if metric.of_model else 1), np.nan)
    present, untrusted = np.zeros(cube.shape[:2], dtype=bool), np.zeros(cube.shape, dtype=bool)
    for (name, number), own in cells.items():
        i, j = names.index(name), numbers.index(number)
        present[i, j] = True
        own = own.set_index("seed", drop=False).loc[common]
        values, doubtful = _usable(own, metric), is_doubtful(own, metric)
        cube[i, j], untrusted[i, j] = (values, doubtful) if metric.of_model else (np.sort(values)[:1], doubtful.any())
    return cube, present, untrusted
