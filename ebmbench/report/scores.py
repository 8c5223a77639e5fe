"""From a tidy table of runs (one row per run and seed, as `report.frame` gives it) to what a table says.

No result depends on which seeds came out well:

- A seed that diverged is counted. It is left out of the mean, it is the worst of all for the median, the best quarter
  and the probability of beating, and a method that has one is not ranked.
- An unreliable score stays in the mean, and counts as the bounds that it gives: an NLL whose log Z may miss mass is a
  lower bound. Two methods differ only if they do so whatever the values within the bounds are.

Methods are ranked and tested over the units (seeds, searches, draws of the data) that all of them have. A large p-value
is never called equality: it is "not significant".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
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


def is_doubtful(rows: pd.DataFrame, metric: Metric) -> Mask:
    """Returns which rows have an unreliable value of the metric."""
    return metric.doubted & (rows["trusted"] == 0).to_numpy()


def is_blind(rows: pd.DataFrame, metric: Metric) -> bool:
    """Returns whether some values are lower bounds though no error shows it: modes may be missed."""
    return metric.at_least and "lower_bound" in rows and bool((rows["lower_bound"] == 1).any())


def _usable(rows: pd.DataFrame, metric: Metric) -> Values:
    """The metric of each row, nan where the seed diverged or the value is not finite."""
    values = pd.to_numeric(rows[metric.name], errors="coerce").to_numpy(dtype=np.float64)
    return np.where((rows["diverged"].to_numpy() == 0) & np.isfinite(values), values, np.nan)


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


def over_draws(
    frame: pd.DataFrame, axes: Sequence[str], draw_settings: Sequence[str]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Returns the rows with draws of the data as units, and the axes without the draw.

    Where each draw has seeds of its own, it is one unit: the mean of its seeds, numbered by the lowest of them. Else
    nothing changes.
    """
    draw = next((axis for axis in axes if axis in draw_settings), "")
    rest = tuple(axis for axis in axes if axis != draw)
    if not draw or frame.empty or frame.groupby("seed")[draw].nunique().max() > 1:
        return frame, tuple(axes)
    by = ["label", "task", "dataset", "method", *rest, draw]
    by = [key for key in by if key in frame]
    if not frame.duplicated(by).any():
        return frame, rest
    numbers = [key for key in frame.select_dtypes("number").columns if key not in (*by, "seed", "diverged", "trusted")]
    rules = dict.fromkeys(frame.columns.difference(by), "first") | dict.fromkeys(numbers, "mean")
    rules |= {"seed": "min", "diverged": "max", "trusted": "min"}
    return frame.groupby(by, sort=False, dropna=False).agg(rules).reset_index()[list(frame.columns)], rest


def combinations(part: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yields the values of some settings that occur together, and the rows that have them.

    A method that has no such setting at all is beside every value of it.
    """
    if not keys:
        yield {}, part
        return
    lacking = {key: set(part["method"]) - set(part.loc[part[key].notna(), "method"]) for key in keys}
    full = part[~part["method"].isin(set().union(*lacking.values()))]
    full = part if full.empty else full
    for values, _ in full.groupby(list(keys), sort=True, dropna=False):
        about = dict(zip(keys, values, strict=True))
        rows = [
            (part[key].isna() if value != value or value is None else part[key] == value)
            | (part["method"].isin(lacking[key]) if len(full) < len(part) else False)
            for key, value in about.items()
        ]
        yield about, part[np.logical_and.reduce(rows)]


# --------------------------------------------------------------------------------------------------------- units


@dataclass(frozen=True)
class _Paired:
    """A metric of all that is compared, side by side: a row for each, a column for each unit that pairs them.

    Attributes:
        metric: what the values are of.
        unit: what pairs, in a word: seed, or draw.
        units: seeds, or draws of the data.
        values: `[names, units, inner]`; nan where the seed diverged, the value is not finite, or the unit is not there.
            The inner axis is that of the seeds of a draw; seeds themselves have one.
        present: which units are there, with a value or not `[names, units]`.
        doubtful: which values are unreliable `[names, units, inner]`.
        crossed: whether the units share what is inside them: the same seeds at each draw.
    """

    metric: Metric
    unit: str
    names: list[Any]
    units: list[Any]
    values: Values
    present: Mask
    doubtful: Mask
    crossed: bool = False

    @property
    def bounds(self) -> tuple[Values, Values]:
        """What a value is at best and at worst, turned so that lower is better `[names, units, inner]`."""
        bad = badness(self.metric, self.values)
        ends = badness(self.metric, np.array(self.metric.bounds))
        least = 0.0 if isinstance(self.metric.better, float) else float(ends.min())
        known = np.isnan(bad) | ~self.doubtful
        return np.where(known | self.metric.at_least, bad, least), np.where(known, bad, float(ends.max()))


def _by_seed(frame: pd.DataFrame, over: str, metric: Metric) -> _Paired:
    names, seeds = in_order(frame[over].tolist()), sorted(set(frame["seed"]))
    rows, columns = ({key: place for place, key in enumerate(keys)} for keys in (names, seeds))
    at = [rows[name] for name in frame[over]], [columns[seed] for seed in frame["seed"]]
    values = np.full((len(names), len(seeds)), np.nan)
    present, doubtful = np.zeros(values.shape, dtype=bool), np.zeros(values.shape, dtype=bool)
    values[at], present[at], doubtful[at] = _usable(frame, metric), True, is_doubtful(frame, metric)
    return _Paired(metric, "seed", names, seeds, values[..., None], present, doubtful[..., None])


def _by_draw(part: pd.DataFrame, draw: str, metric: Metric) -> _Paired:
    """A metric by draw of the data, over the seeds that all methods have at a draw.

    A metric that is one number for all seeds counts once at a draw, and is unreliable if one of the seeds is.
    """
    names, numbers = in_order(part["method"].tolist()), sorted(set(part[draw]))
    cells = {cell: own for cell, own in part.groupby(["method", draw], sort=False)}
    seeds = [
        sorted(set.intersection(*(set(own["seed"]) for (_, at), own in cells.items() if at == number)))
        for number in numbers
    ]
    crossed = len(seeds) > 1 and bool(set.intersection(*map(set, seeds)))
    if crossed:
        seeds = [sorted(set.intersection(*map(set, seeds)))] * len(numbers)
    inner = min(map(len, seeds)) if metric.of_model else 1
    values = np.full((len(names), len(numbers), inner), np.nan)
    present, doubtful = np.zeros(values.shape[:2], dtype=bool), np.zeros(values.shape, dtype=bool)
    for (name, number), own in cells.items():
        i, j = names.index(name), numbers.index(number)
        present[i, j] = True
        own = own.set_index("seed", drop=False).loc[seeds[j][: inner if metric.of_model else None]]
        found, unsure = _usable(own, metric), is_doubtful(own, metric)
        values[i, j], doubtful[i, j] = (found, unsure) if metric.of_model else (np.sort(found)[:1], unsure.any())
    return _Paired(metric, "draw", names, numbers, values, present, doubtful, crossed and inner > 1)


# ------------------------------------------------------------------------------------------------------- ranking


@dataclass(frozen=True)
class _Ranking:
    """Ranks and tests of all pairs, over the units that all that are compared have.

    Attributes:
        common: which units these are.
        low, high: what each value is at best and at worst there, lower is better `[names, common, inner]`.
        ranked: those that have a value at each of them.
        best: the one whose mean at worst is the best; -1: there is none.
        p_holm: of each pair of those ranked; nan where the units cannot support a test.
    """

    paired: _Paired
    common: Mask
    low: Values = field(default_factory=lambda: np.empty((0, 0, 0)))
    high: Values = field(default_factory=lambda: np.empty((0, 0, 0)))
    ranked: tuple[int, ...] = ()
    best: int = -1
    p_holm: Mapping[tuple[int, int], float] = field(default_factory=dict)
    note: str = ""

    def differences(self, i: int, j: int) -> tuple[Values, Values]:
        """Returns the least and the largest that the first can be above the second `[common, inner]`."""
        return self.low[i] - self.high[j], self.high[i] - self.low[j]

    def verdict(self, i: int, j: int, margin: float | None) -> str:
        """Returns what is known of two that are compared: different, equivalent, or not significant."""
        pair = (min(i, j), max(i, j))
        if self.p_holm.get(pair, np.nan) < SIGNIFICANCE:
            return "different"
        if margin is not None and pair in self.p_holm:
            lowest, highest = (ends.mean(1) for ends in self.differences(*pair))
            if stats.equivalent(lowest, highest, margin, SIGNIFICANCE / max(1, len(self.p_holm))):
                return "equivalent"
        return "not significant"

    def beats(self, i: int, j: int) -> float:
        """Returns the share of the units at which the first is better; an unreliable value counts as its worst."""
        return stats.probability_of_beating(self.high[i].mean(1), self.high[j].mean(1))

    def row(self, i: int, margin: float | None = None) -> dict[str, Any]:
        """Returns what `summarise` documents from ranked_over on."""
        row = {"ranked_over": 0, "mean_ranked": np.nan, "verdict": "", "mark": "", "p_holm": np.nan, "comparisons": 0}
        row |= {"beats_best": np.nan, "note": self.note}
        if self.best >= 0 and i != self.best:
            row["beats_best"] = self.beats(i, self.best)
        if i not in self.ranked:
            return row
        means = self.high.mean((1, 2))
        is_best = self.best >= 0 and bool(np.isclose(means[i], means[self.best], rtol=1e-12, atol=0))
        if i == self.best:
            verdict = "best"
        else:
            verdict = self.verdict(i, self.best, margin).replace("different", "worse") if self.best >= 0 else ""
        return row | {
            "ranked_over": int(self.common.sum()),
            "mean_ranked": float(self.paired.values[i, self.common].mean()),
            "verdict": verdict,
            "mark": "best" if is_best else "",
            "p_holm": self.p_holm.get((min(i, self.best), max(i, self.best)), np.nan),
            "comparisons": len(self.p_holm),
        }


def _rank(paired: _Paired) -> _Ranking:
    """Ranks and tests, paired by unit."""
    metric, unit = paired.metric, paired.unit
    common: Mask = np.logical_and.reduce(paired.present)
    count, notes = int(common.sum()), []
    low, high = (ends[:, common] for ends in paired.bounds)
    if metric.better is None or len(paired.names) < 2:
        return _Ranking(paired, common, low, high)
    if count < 2:
        note = f"No ranking: fewer than two {unit}s are common to all that are compared."
        return _Ranking(paired, common, low, high, note=note)
    if not common.all():
        units = _listed(list(itertools.compress(paired.units, common)))
        notes.append(f"Ranked and tested over the {count} {unit}s that all have ({units}).")
    lost = np.isnan(low).any(2).sum(1)
    ranked = [i for i in range(len(paired.names)) if not lost[i]]
    worst = {i: float(high[i].mean()) for i in ranked}
    best = min(worst, key=lambda i: worst[i], default=-1)
    if ranked and not np.isfinite(worst[best]):
        best = -1
        notes.append("No best one: each has unreliable values, which are only bounded.")
    pairs = list(itertools.combinations(ranked, 2))
    p_values = _p_values(_Ranking(paired, common, low, high), pairs, notes)
    if ranked and paired.doubtful[ranked][:, common].any():
        notes.append("Unreliable values are compared by their bounds.")
    notes += [
        f"{paired.names[i]} is not ranked: it has no value at {lost[i]} of the {count} {unit}s."
        for i in np.flatnonzero(lost)
    ]
    p_holm = dict(zip(pairs, stats.holm(p_values), strict=True))
    return _Ranking(paired, common, low, high, tuple(ranked), best, p_holm, " ".join(notes))


def _p_values(ranking: _Ranking, pairs: Sequence[tuple[int, int]], notes: list[str]) -> list[float]:
    """Returns the p-value of "the means may be equal" of each pair; nan, and a note, where there is no test."""
    paired, count = ranking.paired, ranking.low.shape[1]
    if not pairs:
        return []
    if not stats.testable(count, len(pairs)):
        needed = stats.fewest_seeds(len(pairs))
        takes = f" ({needed} needed)" if needed else ""
        notes.append(f"Too few {paired.unit}s ({count}) for {counted(len(pairs), 'comparison')}{takes}.")
        return [np.nan] * len(pairs)
    if paired.unit == "seed" and not paired.metric.of_model:
        notes.append(f"{paired.metric.label} is one number for all seeds of a run: it has no interval and no test.")
        return [np.nan] * len(pairs)
    bounds = [ranking.differences(i, j) for i, j in pairs]
    lowest, highest = (np.array([ends[side].mean(1) for ends in bounds]) for side in (0, 1))
    p = stats.bounded_p_values(lowest, highest)
    if paired.crossed:
        for place, (least, most) in enumerate(bounds):
            ends = least if least.mean() > 0 else most
            p[place] = max(p[place], stats.variance_components(ends, True).p_value if p[place] < 1 else 1.0)
    return [float(value) for value in p]


def _listed(units: Sequence[Any]) -> str:
    """The units in words: `0 to 4` where they follow one another, else one by one."""
    numbers = [int(unit) for unit in units if isinstance(unit, int | float | np.number) and float(unit) == int(unit)]
    if len(numbers) == len(units) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, units))


# ------------------------------------------------------------------------------------------------------- summary


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
          with an unreliable value.
        - mean, low, high: over the n seeds, with its 95 % interval (`stats.mean_interval`). Where values are unreliable
          an end is what the metric can be, for nothing else is known; bound says what the mean then is: "least" (a
          lower bound; also where the column lower_bound of the runs is 1), "unknown", or "".
        - median, median_low, median_high: over all seeds, those without a value being the worst, with an interval of at
          least 95 % (`stats.median_interval`; nan for fewer than six seeds).
        - best, best_of: mean of the best quarter of the seeds, and how many these are.
        - ranked_over: how many seeds all that are compared have; ranks and tests are over these; 0 without a ranking.
          mean_ranked: mean over these, nan for one that is not ranked.
        - verdict: "best" (the best mean, unreliable values at their worst), "worse" (than the best one: p_holm <
          SIGNIFICANCE), "equivalent" (to the best one, within the margin), "not significant", or "" (not ranked; the
          note says why).
        - mark: "best", also for a mean that is equal to the best one, or "". It is no test: see the others' verdicts.
        - p_holm: p-value of "the mean may be the best one's" (`stats.bounded_p_values`), by Holm over all pairs of
          those ranked, since the same data choose the best; nan for the best one, where the seeds cannot support a
          test, and for a metric that is one number for all seeds (not `of_model`).
          comparisons: how many pairs these are; 0 without a ranking.
        - beats_best: share of the common seeds at which it is better than the best one.
        - note: sentences that say why something in the group is not ranked or tested; empty if nothing is special.
    """
    rows: list[dict[str, Any]] = []
    for group, part in _groups(frame, groups):
        hashes = part.groupby(over, dropna=False)["config_hash"].agg(lambda own: " ".join(sorted(set(own))))
        diverged = part[part["diverged"] == 1][over].value_counts()
        for metric in (metric for metric in metrics if metric.name in part):
            paired = _by_seed(part, over, metric)
            ranking = _rank(paired)
            for i, name in enumerate(paired.names):
                values, stopped = paired.values[i, paired.present[i], 0], int(diverged.get(name, 0))
                there = values[np.isfinite(values)]
                doubtful = int((paired.doubtful[i, :, 0] & np.isfinite(paired.values[i, :, 0])).sum())
                rows.append(
                    {
                        **group,
                        over: name,
                        "metric": metric.name,
                        "seeds": len(values),
                        "n": len(there),
                        "diverged": stopped,
                        "no_value": len(values) - len(there) - stopped,
                        "n_untrusted": doubtful,
                        **_interval(
                            metric,
                            float(there.mean()) if len(there) else np.nan,
                            stats.mean_interval(there) if metric.of_model else (np.nan, np.nan),
                            doubtful > 0,
                            is_blind(part[part[over] == name], metric),
                        ),
                        **_median(metric, values),
                        "best": stats.best_mean(values, chosen_by=badness(metric, values)),
                        "best_of": stats.best_count(len(values)),
                        "config_hash": hashes[name],
                        **ranking.row(i, (margins or {}).get(metric.name)),
                    }
                )
    return pd.DataFrame(rows)


def _interval(
    metric: Metric, mean: float, ends: tuple[float, float], is_unreliable: bool, is_blind: bool
) -> dict[str, Any]:
    """Returns a mean, its interval within what the metric can be, and what unreliable values make of it."""
    low, high = ends
    least, most = metric.bounds
    # An estimate beyond the bounds stays inside of its interval.
    low, high = float(np.maximum(low, np.minimum(least, mean))), float(np.minimum(high, np.maximum(most, mean)))
    bound = ""
    if is_unreliable or is_blind:
        bound = "least" if metric.at_least else "unknown"
        low, high = low if metric.at_least else metric.bounds[0], metric.bounds[1]
    return {"mean": mean, "low": low, "high": high, "bound": bound}


def _median(metric: Metric, values: Values) -> dict[str, float]:
    """The median, with its interval; a seed without a value is the worst, and either may be infinite for it."""
    sign = -1.0 if metric.better == "higher" else 1.0
    turned = np.sort(np.where(np.isnan(values), np.inf, sign * values))
    middle = turned[[(len(turned) - 1) // 2, len(turned) // 2]]
    low, high = stats.median_interval(turned)
    ends = sorted((sign * low, sign * high))
    return {"median": sign * float(middle.mean()) + 0.0, "median_low": ends[0], "median_high": ends[1]}


def compare(
    frame: pd.DataFrame, groups: Sequence[str], over: str, metric: Metric, margin: float | None = None
) -> pd.DataFrame:
    """Returns every pair within a group, paired by the seeds that all of the group have.

    Args:
        margin: the largest difference of means that does not matter; "equivalent" is only said with one.

    Returns:
        Columns: the groups, metric, first, second; pairs (common seeds at which both have a value); difference, low,
        high (of the means, first less second, over these, with its 95 % interval, which is not adjusted for the number
        of comparisons, and is nan where a value is unreliable); p_holm, comparisons and note as in `summarise`; beats
        (probability that the first is better, a seed without a value or with an unreliable one being the worst);
        verdict ("first better", "second better", "equivalent" or "not significant").
    """
    rows: list[dict[str, Any]] = []
    for group, part in _groups(frame, groups):
        paired = _by_seed(part, over, metric)
        ranking = _rank(paired)
        for i, j in itertools.combinations(range(len(paired.names)), 2):
            differences = (paired.values[i] - paired.values[j])[ranking.common, 0]
            differences = differences[np.isfinite(differences)]
            verdict = ranking.verdict(i, j, margin)
            if verdict == "different":
                verdict = "second better" if ranking.differences(i, j)[0].mean() > 0 else "first better"
            unsure = bool(paired.doubtful[[i, j]][:, ranking.common].any())
            low, high = (np.nan, np.nan) if unsure else stats.mean_interval(differences)
            rows.append(
                {
                    **group,
                    "metric": metric.name,
                    "first": paired.names[i],
                    "second": paired.names[j],
                    "pairs": len(differences),
                    "difference": float(differences.mean()) if len(differences) else np.nan,
                    "low": low,
                    "high": high,
                    "p_holm": ranking.p_holm.get((i, j), np.nan),
                    "comparisons": len(ranking.p_holm),
                    "beats": ranking.beats(i, j),
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
        table = paired.values[:, common, 0]
        by_rule = {
            "all": table.mean(1),
            "median": np.array([_median(metric, values)["median"] for values in table]),
            "best": np.array(list(map(stats.best_mean, table, badness(metric, table)))),
        }
        if selection is not None and selection.name in part:
            chosen = badness(selection, _by_seed(part, over, selection).values[:, common, 0])
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

    Only seeds that every method has at a draw are used; where draws share seeds, only those that all draws have.

    Returns:
        Columns: the groups, metric, method; draws (how many there are), n (those at which every seed has a value),
        seeds (of each draw), diverged, n_untrusted (seeds, over all draws); mean, low, high (over all draws and seeds,
        by `stats.variance_components`) and bound, as in `summarise`; std_draws, std_seeds, std_residual; from
        ranked_over to note as in `summarise`, with draws as what is paired: the test is that over the draws' means, and
        where draws share their seeds that of the mixed model too; ranks (one per draw), tau (mean over pairs of draws).
    """
    rows: list[dict[str, Any]] = []
    for group, part in _groups(frame, groups):
        paired = _by_draw(part, draw, metric)
        means = paired.values.mean(2) if paired.values.shape[2] else np.full(paired.values.shape[:2], np.nan)
        columns = [stats.ranks(badness(metric, means[:, j]).tolist()) for j in range(len(paired.units))]
        taus = [stats.kendall_tau(a, b) for i, a in enumerate(columns) for b in columns[:i]]
        ranking = _rank(paired)
        for i, name in enumerate(paired.names):
            good = paired.values[i][np.isfinite(means[i])]
            spread = asdict(stats.variance_components(good, paired.crossed))
            ends = spread["low"], spread["high"]
            doubtful = int((paired.doubtful[i] & np.isfinite(paired.values[i])).sum())
            rows.append(
                {
                    **group,
                    "metric": metric.name,
                    "method": name,
                    "draws": len(paired.units),
                    "n": len(good),
                    "seeds": paired.values.shape[2],
                    "diverged": int((part[part["method"] == name]["diverged"] == 1).sum()),
                    "n_untrusted": doubtful,
                    **_interval(metric, spread["mean"], ends, doubtful > 0, is_blind(part, metric)),
                    **{key: spread[key] for key in ("std_draws", "std_seeds", "std_residual")},
                    **ranking.row(i),
                    "ranks": " ".join(str(column[i]) for column in columns),
                    "tau": float(np.nanmean(taus)) if not np.isnan(taus).all() else np.nan,
                }
            )
    return pd.DataFrame(rows)
