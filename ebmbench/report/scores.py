"""From a tidy table of runs (one row per run and seed, as `ebmbench.sweep.collect` gives it) to what a table says.

A seed that diverged is never averaged in silently: it is counted, it is left out of the mean, it is the worst of all
for the median, the best quarter and the probability of beating, and a method that has one is not marked as best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ebmbench.display.palette import in_order
from ebmbench.engine.runs import FINISHED
from ebmbench.report import stats
from ebmbench.report.stats import Values

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Metric:
    """A column of metrics.csv: its name in print, and what is better (a number: the nearer to it)."""

    label: str
    tex: str
    better: Literal["lower", "higher"] | float | None


METRICS: dict[str, Metric] = {
    "d_kl": Metric("D_KL", r"$D_{\mathrm{KL}}$", "lower"),
    "nll": Metric("NLL", "NLL", "lower"),
    "crps": Metric("CRPS", "CRPS", "lower"),
    "coverage_50": Metric("coverage of 50 %", r"coverage of 50\,\%", 0.5),
    "coverage_90": Metric("coverage of 90 %", r"coverage of 90\,\%", 0.9),
    "edge_mass": Metric("edge mass", "edge mass", "lower"),
    "val_nll": Metric("validation NLL", "validation NLL", "lower"),
    "nll_error": Metric("quadrature error", "quadrature error", None),
    "d_kl_noisy": Metric("D_KL to noisy truth", r"$D_{\mathrm{KL}}$ to noisy truth", "lower"),
    "nll_noisy": Metric("NLL of noisy targets", "NLL of noisy targets", "lower"),
    "ap": Metric("AP", "AP", "higher"),
    "ap50": Metric("AP50", r"AP$_{50}$", "higher"),
    "ap75": Metric("AP75", r"AP$_{75}$", "higher"),
    "ap_small": Metric("AP small", r"AP$_{\mathrm{S}}$", "higher"),
    "ap_medium": Metric("AP medium", r"AP$_{\mathrm{M}}$", "higher"),
    "ap_large": Metric("AP large", r"AP$_{\mathrm{L}}$", "higher"),
    "ar": Metric("AR", "AR", "higher"),
    "base_ap": Metric("base AP", "base AP", None),
    "base_ap50": Metric("base AP50", r"base AP$_{50}$", None),
    "base_ap75": Metric("base AP75", r"base AP$_{75}$", None),
    "nms_ap": Metric("AP, NMS by f alone", r"AP, NMS by $f$ alone", "higher"),
    "nms_ap75": Metric("AP75, NMS by f alone", r"AP$_{75}$, NMS by $f$ alone", "higher"),
    "ap_gain": Metric("gain in AP", "gain in AP", "higher"),
    "ap_gain_low": Metric("gain, low", "gain, low", None),
    "ap_gain_high": Metric("gain, high", "gain, high", None),
    "ap75_gain": Metric("gain in AP75", r"gain in AP$_{75}$", "higher"),
    "ap75_gain_low": Metric("gain in AP75, low", r"gain in AP$_{75}$, low", None),
    "ap75_gain_high": Metric("gain in AP75, high", r"gain in AP$_{75}$, high", None),
    "box_nll": Metric("box NLL", "box NLL", "lower"),
    "box_nll_ess": Metric("its effective samples", "its effective samples", None),
    "train_seconds": Metric("training s/seed", "training s/seed", None),
    "energy_evaluations": Metric("energy evaluations", "energy evaluations", None),
    "peak_memory_mb": Metric("peak memory MB", "peak memory MB", None),
}
COST = ("train_seconds", "energy_evaluations", "peak_memory_mb")


def headline(frame: pd.DataFrame) -> str:
    """The metric by which methods are ranked: D_KL in 1D, AP in detection.

    By the task, not by the columns: beside runs of the other task there are both, one of them empty.
    """
    tasks = frame["label" if "label" in frame else "task"].astype(str)
    return "ap" if tasks.str.startswith("detection").all() else "d_kl"


def finished(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are results: of runs that are done, whether the seed diverged or not."""
    return frame[frame["state"].isin(FINISHED)]


def badness(metric: str, values: Values) -> Values:
    """The values, turned so that lower is better."""
    better = METRICS[metric].better
    if better == "higher":
        return -values
    return values if better in ("lower", None) else np.abs(values - float(better))


def usable(rows: pd.DataFrame, metric: str) -> Values:
    """The metric per seed `[n]`, nan where the seed diverged or the value is not finite."""
    values = pd.to_numeric(rows[metric], errors="coerce").to_numpy(dtype=np.float64)
    return np.where((rows["diverged"].to_numpy() == 0) & np.isfinite(values), values, np.nan)


def _by_seed(frame: pd.DataFrame, over: str, metric: str) -> tuple[list[object], list[object], Values]:
    """What is compared, the seeds, and the metric `[compared, seeds]`; nan where a seed has no usable value."""
    names, seeds = in_order(frame[over].tolist()), sorted(set(frame["seed"]))
    place = {name: i for i, name in enumerate(names)}
    column = {seed: i for i, seed in enumerate(seeds)}
    table = np.full((len(names), len(seeds)), np.nan)
    rows = [place[name] for name in frame[over]], [column[seed] for seed in frame["seed"]]
    table[rows] = usable(frame, metric)
    return names, seeds, table


def _present(frame: pd.DataFrame, over: str) -> NDArrayBool:
    """Which seeds of what is compared are there at all, diverged or not: `[compared, seeds]`."""
    names, seeds = in_order(frame[over].tolist()), sorted(set(frame["seed"]))
    there = set(zip(frame[over], frame["seed"], strict=True))
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


def summarise(frame: pd.DataFrame, groups: Sequence[str], over: str, metrics: Sequence[str]) -> pd.DataFrame:
    """One row per group, item compared and metric.

    Args:
        frame: rows of runs that are done.
        groups: columns within which there is comparison, such as task and dataset.
        over: the column whose values are compared, such as method.

    Returns:
        Columns: the groups, `over`, metric, seeds (there are), n (used), diverged, no_value, untrusted, mean, low,
        high, median, best, best_of (the k of the best k), p (Holm over those compared with the best; nan for the best),
        beats_best (probability), mark (best, close or nothing), config_hash.
    """
    rows = []
    for key, part in frame.groupby(list(groups), sort=True, dropna=False):
        group = dict(zip(groups, key, strict=True))
        for metric in metrics:
            if metric in part:
                rows += [{**group, **row} for row in _summarise_group(part, over, metric)]
    return pd.DataFrame(rows)


def _summarise_group(part: pd.DataFrame, over: str, metric: str) -> list[dict[str, object]]:
    names, _, table = _by_seed(part, over, metric)
    present = _present(part, over)
    rows: list[dict[str, object]] = []
    of = part[over].to_numpy()
    stopped, doubtful = part["diverged"].to_numpy() == 1, (part["trusted"] == 0).to_numpy()
    hashes = part["config_hash"].to_numpy()
    for i, name in enumerate(names):
        mine = of == name
        values = table[i][present[i]]
        good = values[np.isfinite(values)]
        low, high = stats.bootstrap_interval(good)
        diverged = int((mine & stopped).sum())
        turned = badness(metric, values)
        chosen = _best_mean(metric, values)
        rows.append(
            {
                over: name,
                "metric": metric,
                "seeds": len(values),
                "n": len(good),
                "diverged": diverged,
                "no_value": len(values) - len(good) - diverged,
                "untrusted": int((mine & doubtful & ~stopped).sum()),
                "mean": float(good.mean()) if len(good) else np.nan,
                "low": low,
                "high": high,
                "median": _median(values, turned),
                "best": chosen,
                "best_of": stats.best_count(len(values)),
                "p": np.nan,
                "beats_best": np.nan,
                "mark": "",
                "config_hash": " ".join(sorted(set(hashes[mine]))),
            }
        )
    _mark(rows, metric, table, present)
    return rows


def _best_mean(metric: str, values: Values) -> float:
    """Mean of the best quarter of the seeds, by the metric itself."""
    key = badness(metric, values)
    return stats.best_mean(values, chosen_by=key)


def _median(values: Values, turned: Values) -> float:
    """Median where a seed without a value is the worst of all; infinite if that is what the middle one is."""
    if len(values) == 0:
        return np.nan
    order = np.argsort(np.where(np.isnan(turned), np.inf, turned), kind="stable")
    middle = values[order][[(len(values) - 1) // 2, len(values) // 2]]
    return float(middle.mean()) if np.isfinite(middle).all() else np.inf


def _mark(rows: list[dict[str, object]], metric: str, table: Values, present: NDArrayBool) -> None:
    """Marks the best mean, and those that are not significantly worse: paired by seed, Holm over the others."""
    if METRICS[metric].better is None or len(rows) < 2:
        return
    turned = badness(metric, table)
    eligible = [i for i, row in enumerate(rows) if row["n"] and row["n"] == row["seeds"]]
    if not eligible:
        return
    means = {i: turned[i][np.isfinite(turned[i])].mean() for i in eligible}
    best = min(eligible, key=lambda i: means[i])
    rows[best]["mark"] = "best"
    others = [i for i in range(len(rows)) if i != best]
    p_values = []
    for i in others:
        both = np.isfinite(turned[i]) & np.isfinite(turned[best])
        p_values.append(stats.paired_p_value(turned[i][both], turned[best][both]))
        common = present[i] & present[best]
        rows[i]["beats_best"] = stats.probability_of_beating(turned[i][common], turned[best][common])
    for i, p in zip(others, stats.holm(p_values), strict=True):
        rows[i]["p"] = p
        if p >= SIGNIFICANCE and i in eligible:
            rows[i]["mark"] = "close"


def compare(frame: pd.DataFrame, groups: Sequence[str], over: str, metric: str) -> pd.DataFrame:
    """Every pair within a group, paired by seed.

    Returns:
        Columns: the groups, first, second, pairs (seeds that both have), difference (of the means, first less second),
        p (Holm over all pairs of the group), beats (probability that the first is better, diverged seeds being worst).
    """
    rows: list[dict[str, object]] = []
    for key, part in frame.groupby(list(groups), sort=True, dropna=False):
        names, _, table = _by_seed(part, over, metric)
        present, turned = _present(part, over), badness(metric, table)
        found: list[dict[str, object]] = []
        for i in range(len(names)):
            for j in range(i + 1, len(names)):
                both = np.isfinite(table[i]) & np.isfinite(table[j])
                common = present[i] & present[j]
                found.append(
                    {
                        **dict(zip(groups, key, strict=True)),
                        "metric": metric,
                        "first": names[i],
                        "second": names[j],
                        "pairs": int(both.sum()),
                        "difference": float((table[i] - table[j])[both].mean()) if both.any() else np.nan,
                        "p": stats.paired_p_value(turned[i][both], turned[j][both]),
                        "beats": stats.probability_of_beating(turned[i][common], turned[j][common]),
                    }
                )
        for row, p in zip(found, stats.holm([float(row["p"]) for row in found]), strict=True):  # type: ignore[arg-type]
            row["p"] = p
        rows += found
    return pd.DataFrame(rows)


RULES = ("all", "median", "best", "best_by_val")
"""How seeds are chosen: the mean of all, the median, the best quarter by the metric itself (as published), the best
quarter by validation NLL (which uses no knowledge of the truth)."""


def audit(frame: pd.DataFrame, groups: Sequence[str], over: str, metric: str) -> pd.DataFrame:
    """What each rule of selection makes of the ranking: columns the groups, rule, `over`, value, rank, tau (Kendall's,
    with the ranking by the mean of all seeds).

    A method that has a diverged seed is last by the mean of all: there is no such mean.
    """
    rows: list[dict[str, object]] = []
    for key, part in frame.groupby(list(groups), sort=True, dropna=False):
        names, _, table = _by_seed(part, over, metric)
        present = _present(part, over)
        chosen = _by_seed(part, over, "val_nll")[2] if "val_nll" in part else None
        values: dict[str, list[float]] = {}
        for rule in RULES:
            if rule == "best_by_val" and chosen is None:
                continue
            values[rule] = [
                _select(rule, metric, table[i][there], None if chosen is None else chosen[i][there])
                for i, there in enumerate(present)
            ]
        ranking = {
            rule: stats.ranks(np.where(np.isinf(found), np.nan, badness(metric, np.array(found))).tolist())
            for rule, found in values.items()
        }
        for rule, found in values.items():
            tau = stats.kendall_tau(ranking[rule], ranking["all"])
            rows += [
                {
                    **dict(zip(groups, key, strict=True)),
                    "metric": metric,
                    "rule": rule,
                    over: name,
                    "value": value,
                    "rank": rank,
                    "tau": tau,
                }
                for name, value, rank in zip(names, found, ranking[rule], strict=True)
            ]
    return pd.DataFrame(rows)


def _select(rule: str, metric: str, values: Values, val_nll: Values | None) -> float:
    if rule == "all":
        return float(values.mean()) if len(values) else np.nan
    if rule == "median":
        return _median(values, badness(metric, values))
    if rule == "best":
        return _best_mean(metric, values)
    return stats.best_mean(values, chosen_by=val_nll)


def draws(frame: pd.DataFrame, groups: Sequence[str], metric: str, draw: str = "task.data_seed") -> pd.DataFrame:
    """Over several draws of the training data: is the ranking one of the methods, or of one draw?

    Returns:
        Columns: the groups, method, draws, mean (over draws, of the means over seeds), low, high (bootstrap over draws,
        for seeds of one draw are not independent), std_draws (between the draws' means), std_seeds (within a draw),
        diverged, p and mark as in `summarise` (paired by draw), ranks (one per draw), tau (mean over pairs of draws).
    """
    rows: list[dict[str, object]] = []
    for key, part in frame.groupby(list(groups), sort=True, dropna=False):
        names, numbers = in_order(part["method"].tolist()), sorted(set(part[draw]))
        means = np.full((len(names), len(numbers)), np.nan)
        within = np.full_like(means, np.nan)
        for i, name in enumerate(names):
            for j, number in enumerate(numbers):
                values = usable(part[(part["method"] == name) & (part[draw] == number)], metric)
                if len(values) and np.isfinite(values).all():
                    means[i, j] = values.mean()
                    within[i, j] = values.std(ddof=1) if len(values) > 1 else np.nan
        columns = [stats.ranks(badness(metric, means[:, j]).tolist()) for j in range(len(numbers))]
        taus = [stats.kendall_tau(a, b) for i, a in enumerate(columns) for b in columns[:i]]
        found: list[dict[str, object]] = []
        for i, name in enumerate(names):
            good = means[i][np.isfinite(means[i])]
            low, high = stats.bootstrap_interval(good)
            found.append(
                {
                    **dict(zip(groups, key, strict=True)),
                    "metric": metric,
                    "method": name,
                    "draws": len(numbers),
                    "seeds": len(numbers),
                    "n": len(good),
                    "mean": float(good.mean()) if len(good) else np.nan,
                    "low": low,
                    "high": high,
                    "std_draws": float(good.std(ddof=1)) if len(good) > 1 else np.nan,
                    "std_seeds": float(np.sqrt(np.nanmean(within[i] ** 2))) if np.isfinite(within[i]).any() else np.nan,
                    "diverged": int((part[part["method"] == name]["diverged"] == 1).sum()),
                    "p": np.nan,
                    "beats_best": np.nan,
                    "mark": "",
                    "ranks": " ".join(str(column[i]) for column in columns),
                    "tau": float(np.mean(taus)) if taus else np.nan,
                }
            )
        _mark(found, metric, means, np.ones_like(means, dtype=bool))
        rows += found
    return pd.DataFrame(rows)
