"""Whether intervals and tests over few seeds hold their level: a simulation, from which `ebmbench.stats` was chosen.

    python -m benchmarks coverage              writes results/bench/coverage.csv and coverage.md

It draws n = 3, 5, 10 and 20 seeds from laws whose mean is known: normal, log-normal (σ = 1), and the D_KL of the seeds
in results/paper_1d/runs.csv, resampled around their mean. Then it counts how often a nominal 95 % interval covers, how
often a test at nominal 5 % rejects equal means, and how often it sees a difference.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import textwrap
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy import special
from scipy import stats as scipy_stats

from ebmbench.core.errors import UserError
from ebmbench.report import stats
from ebmbench.report.stats import Values

SEEDS = (3, 5, 10, 20)
REPLICATES = 8_000
"""Simulated experiments of a law; for the real residuals, of all their laws together, and at least 1000 of each."""
COUNT = 999
"""Bootstrap samples and sign flips; tables use 9999, which is the same but for the Monte Carlo error of p."""
COMMAND = "python -m benchmarks coverage"
RUNS = Path("results/paper_1d/runs.csv")
FOLDER = Path("results/bench")
NORMAL, SKEWED, REAL = "normal", "log-normal", "real seeds"
EQUAL, UNEQUAL = "two equal log-normal laws", "log-normal less normal"


@dataclass(frozen=True)
class Law:
    """A law with mean 0 and standard deviation 1."""

    draw: Callable[[RandomState, int, int], Values]
    """From a stream, replicates R and seeds n to values `[R, n]`."""
    median: float


@dataclass(frozen=True)
class Row:
    """One figure of the table."""

    question: str
    procedure: str
    law: str
    n: int
    rate: float
    """Share of the simulated experiments; mean over the laws where there are several."""
    lowest: float
    """Of the laws, and for a false "equivalent" of both signs of the difference."""
    highest: float
    width: float
    """Median width of the interval over that of Student's t; nan for tests."""
    laws: int
    replicates: int
    """Of each law."""


def main(argv: Sequence[str]) -> int:
    """Runs the simulation and writes its table."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="simulated experiments of a law")
    parser.add_argument("--runs", type=Path, default=RUNS, help="the runs.csv with the real seeds")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where coverage.csv and coverage.md go")
    arguments = parser.parse_args(argv)
    if arguments.replicates < 1:
        raise UserError(f"--replicates={arguments.replicates}: must be at least 1")
    rows = simulate(read_seeds(arguments.runs), arguments.replicates)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with open(arguments.folder / "coverage.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(asdict(row))
    (arguments.folder / "coverage.md").write_text(markdown(rows))
    print(f"{len(rows)} figures written to {arguments.folder / 'coverage.csv'} and coverage.md")
    return 0


def read_seeds(path: Path) -> dict[str, dict[str, Values]]:
    """Returns dataset → method → D_KL of the seeds that all its methods have, from a sweep's runs.csv.

    Raises:
        UserError: there is no such file, or it has no D_KL.
    """
    if not path.exists():
        raise UserError(f"--runs={path}: there is no such file; start in the repository or give a sweep's runs.csv")
    frame = pd.read_csv(path)
    if "d_kl" not in frame:
        raise UserError(f"--runs={path}: must be a 1D sweep's runs.csv, with a column d_kl")
    frame = frame[(frame["diverged"] == 0) & frame["d_kl"].notna()]
    found: dict[str, dict[str, Values]] = {}
    for dataset, part in frame.groupby("dataset", sort=True):
        wide = part.pivot_table(index="seed", columns="method", values="d_kl").dropna()
        found[str(dataset)] = {str(method): wide[method].to_numpy(dtype=np.float64) for method in wide}
    return found


def simulate(seeds: Mapping[str, Mapping[str, Values]], replicates: int = REPLICATES) -> list[Row]:
    """Returns the whole table; `seeds` as `read_seeds` gives them."""
    rows: list[Row] = []
    singles, pairs = laws_of_one(seeds), laws_of_differences(seeds)
    for n in SEEDS:
        for name, laws in singles.items():
            rows += coverage(name, laws, n, replicates)
        for name, laws in pairs.items():
            rows += size_and_power(name, laws, n, replicates)
            rows += equivalence(name, laws, n, replicates)
        for name, sample in laws_of_seven(seeds).items():
            if n >= 10:
                rows += false_rankings(name, sample, n, max(1, replicates // 8))
    for name, law in {NORMAL: _normal, SKEWED: _log_normal}.items():
        rows += draws_of_data(name, law, max(1, replicates // 8))
    return sorted(rows, key=lambda row: QUESTIONS.index(row.question))


# --------------------------------------------------------------------------------------------------------- laws


def _normal(random: RandomState, *shape: int) -> Values:
    return random.normal(size=shape)


def _log_normal(random: RandomState, *shape: int) -> Values:
    """Log-normal of σ = 1, standardised."""
    return (np.exp(random.normal(size=shape)) - math.exp(0.5)) / math.sqrt(math.e * (math.e - 1))


def _resampled(values: Values) -> Law:
    """The law that draws given values with equal probability, standardised."""
    residuals = (values - values.mean()) / values.std()
    return Law(lambda random, r, n: residuals[random.randint(0, len(residuals), (r, n))], float(np.median(residuals)))


def laws_of_one(seeds: Mapping[str, Mapping[str, Values]]) -> dict[str, list[Law]]:
    """Returns the laws of a method's seeds."""
    median = (1 - math.exp(0.5)) / math.sqrt(math.e * (math.e - 1))
    real = [_resampled(values) for methods in seeds.values() for values in methods.values()]
    return {NORMAL: [Law(_normal, 0.0)], SKEWED: [Law(_log_normal, median)], REAL: real}


def laws_of_differences(seeds: Mapping[str, Mapping[str, Values]]) -> dict[str, list[Law]]:
    """Returns the laws of the difference of two methods at one seed, whose means are equal.

    Real ones are those of each pair of methods within a dataset, so what a seed does to both methods stays in them.
    """

    def unequal(random: RandomState, r: int, n: int) -> Values:
        return (_log_normal(random, r, n) + 0.3 * _normal(random, r, n)) / math.sqrt(1.09)

    def equal(random: RandomState, r: int, n: int) -> Values:
        return (_log_normal(random, r, n) - _log_normal(random, r, n)) / math.sqrt(2)

    real = [
        _resampled(first - second)
        for methods in seeds.values()
        for first, second in itertools.combinations(methods.values(), 2)
    ]
    made: dict[str, Callable[[RandomState, int, int], Values]] = {NORMAL: _normal, EQUAL: equal, UNEQUAL: unequal}
    return {**{name: [Law(draw, math.nan)] for name, draw in made.items()}, REAL: real}


def laws_of_seven(seeds: Mapping[str, Mapping[str, Values]]) -> dict[str, Callable[[RandomState, int, int], Values]]:
    """Returns the laws of seven methods side by side, whose means are equal: to `[replicates, methods, n]`."""
    sigma = np.array([0.3, 0.5, 0.5, 0.7, 0.7, 1.0, 1.0])[:, None]

    def unequal(random: RandomState, r: int, n: int) -> Values:
        return np.exp(sigma * random.normal(size=(r, 7, n)) - sigma**2 / 2)

    def resampled(values: Values) -> Callable[[RandomState, int, int], Values]:
        residuals = values - values.mean(1, keepdims=True)
        return lambda random, r, n: residuals[:, random.randint(0, values.shape[1], (r, n))].transpose(1, 0, 2)

    real = {f"{REAL}, dataset {name}": resampled(np.stack(list(methods.values()))) for name, methods in seeds.items()}
    return {
        NORMAL: lambda random, r, n: random.normal(size=(r, 7, n)),
        "log-normal, σ = 0.3 to 1": unequal,
        **real,
    }


# --------------------------------------------------------------------------------------------------- procedures


def percentile_intervals(values: Values) -> Values:
    """Returns the percentile bootstrap interval of each row (Efron 1979), which tables had before: `[R, 2]`."""
    means = np.concatenate([part @ stats.resamples(values.shape[1], COUNT).T for part in _parts(values)])
    return np.quantile(means, [0.025, 0.975], axis=1).T


def bca_intervals(values: Values) -> Values:
    """Returns the BCa bootstrap interval of each row (Efron 1987): `[R, 2]`."""
    n, found = values.shape[1], []
    for part in _parts(values):
        centred = part - part.mean(1, keepdims=True)
        means = np.sort(centred @ stats.resamples(n, COUNT).T, axis=1)
        below = ((means < 0).mean(1) + (means <= 0).mean(1)) / 2
        bias = special.ndtri(np.clip(below, 1 / (COUNT + 1), COUNT / (COUNT + 1)))
        cubes, squares = (centred**3).sum(1), (centred**2).sum(1)
        skew = np.where(squares > 0, cubes / np.where(squares > 0, squares, 1) ** 1.5, 0) / 6
        ends = []
        for z in (special.ndtri(0.025), special.ndtri(0.975)):
            level = special.ndtr(bias + (bias + z) / (1 - skew * (bias + z)))
            place = np.clip((level * COUNT).astype(int), 0, COUNT - 1)
            ends.append(part.mean(1) + means[np.arange(len(part)), place])
        found.append(np.stack(ends, 1))
    return np.concatenate(found)


def student_p_values(differences: Values) -> Values:
    """Returns the p-value of the paired t-test of each row."""
    n = differences.shape[1]
    error = differences.std(1, ddof=1) / math.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(differences.mean(1)) / error
    return np.nan_to_num(2 * special.stdtr(n - 1, -t), nan=1.0)


def two_sided(tails: Callable[[Values, int], Values], differences: Values) -> Values:
    """Returns the two-sided p-value of each row, by a test that gives the p-value of an upward difference."""
    upward = differences * np.where(differences.mean(1, keepdims=True) < 0, -1.0, 1.0)
    return np.minimum(1.0, 2 * tails(upward, COUNT))


def wilcoxon_p_values(differences: Values) -> Values:
    """Returns the p-value of Wilcoxon's signed-rank test of each row, exact where there are no ties."""
    return np.asarray(scipy_stats.wilcoxon(differences, axis=1, method="exact").pvalue)


def smoothed_p_values(differences: Values) -> Values:
    """Returns the p-value of the smoothed studentised bootstrap of each row, which tables had before.

    Each resampled difference is moved by normal noise of standard deviation s / √n (Silverman & Young 1987).
    """
    n = differences.shape[1]
    random = RandomState(n)
    half = (COUNT + 1) // 2
    chosen, noise = random.randint(0, n, size=(half, n)), random.normal(size=(half, n))
    chosen, noise = np.concatenate((chosen, chosen))[:COUNT], np.concatenate((noise, -noise))[:COUNT]
    counts, moved = np.zeros((COUNT, n)), np.zeros((COUNT, n))
    np.add.at(counts, (np.arange(COUNT)[:, None], chosen), 1 / n)
    np.add.at(moved, (np.arange(COUNT)[:, None], chosen), noise / n)
    found = []
    for part in _parts(differences):
        centred = part - part.mean(1, keepdims=True)
        width = part.std(1, ddof=1, keepdims=True) / math.sqrt(n)
        mean = centred @ counts.T + width * noise.mean(1)
        square = centred**2 @ counts.T + 2 * width * (centred @ moved.T) + width**2 * (noise**2).mean(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = mean / np.sqrt(np.maximum(square - mean**2, 0))
            observed = (part.mean(1) / part.std(1))[:, None]
        tail = np.minimum((t >= observed).sum(1), (t <= observed).sum(1))
        found.append(np.minimum(1.0, 2 * (1 + tail) / (COUNT + 1)))
    return np.concatenate(found)


def _parts(values: Values) -> list[Values]:
    return [values[i : i + 64] for i in range(0, len(values), 64)]


BEFORE, STUDENT = "percentile bootstrap (before)", "Student t"
CHOSEN = "**chosen**: bootstrap-t from n = 5, else t"
INTERVALS: dict[str, Callable[[Values], Values]] = {
    BEFORE: percentile_intervals,
    "BCa bootstrap": bca_intervals,
    STUDENT: stats.student_t_intervals,
    "bootstrap-t": lambda values: stats.bootstrap_t_intervals(values, count=COUNT),
    CHOSEN: lambda values: stats.mean_intervals(values, count=COUNT),
}
MEDIAN = "**chosen**: order statistics, from n = 6"
SMOOTHED = "smoothed bootstrap (before)"
BOTH = "**chosen**: sign-flip and bootstrap-t, from n = 6"
TESTS: dict[str, Callable[[Values], Values]] = {
    SMOOTHED: smoothed_p_values,
    "paired t": student_p_values,
    "Wilcoxon": wilcoxon_p_values,
    "sign-flip": partial(two_sided, stats.sign_flip_tails),
    "bootstrap-t": partial(two_sided, stats.bootstrap_t_tails),
    BOTH: lambda values: stats.paired_p_values(values, COUNT),
}
OTHERS = "Holm over the 6 compared with the best"
ALL = "**chosen**: Holm over all 21 pairs"
TOST = "**chosen**: two one-sided tests, from n = 6"
SPREAD, MIXED = "bootstrap-t over the draws' means", "**chosen**: mixed model of draws and seeds"


# ---------------------------------------------------------------------------------------------------- questions

COVERAGE = "coverage of the mean"
COVERAGE_MEDIAN = "coverage of the median"
SIZE = "size"
POWER = {1: "power, 1 standard deviation", 2: "power, 2 standard deviations"}
FALSE_WORSE = "any false worse among seven methods"
FALSE_EQUIVALENT = "false equivalent"
EQUIVALENT = {1: "equivalent, margin 1 standard deviation", 2: "equivalent, margin 2 standard deviations"}
COVERAGE_DRAWS = "coverage of the mean over 10 draws of 5 seeds"
QUESTIONS = (
    *(COVERAGE, COVERAGE_MEDIAN, SIZE, *POWER.values(), FALSE_WORSE, FALSE_EQUIVALENT, *EQUIVALENT.values()),
    COVERAGE_DRAWS,
)


def _random(*words: object) -> RandomState:
    """Returns a stream of its own for a part of the table, so that each part can be computed alone."""
    return RandomState(zlib.crc32(" ".join(map(str, words)).encode()))


def _each(laws: Sequence[Law], replicates: int, fewest: int) -> int:
    return replicates if len(laws) == 1 else max(min(fewest, replicates), replicates // len(laws))


def _row(
    question: str,
    procedure: str,
    law: str,
    n: int,
    rates: Sequence[float],
    replicates: int,
    widths: Sequence[float] = (math.nan,),
) -> Row:
    figures = (float(np.mean(rates)), min(rates), max(rates), float(np.mean(widths)))
    rate, lowest, highest, width = (round(x, 4) for x in figures)
    return Row(question, procedure, law, n, rate, lowest, highest, width, len(rates), replicates)


def coverage(name: str, laws: Sequence[Law], n: int, replicates: int) -> Iterator[Row]:
    """Yields how often each interval covers the mean or the median."""
    random, each = _random(COVERAGE, name, n), _each(laws, replicates, 1000)
    samples = [law.draw(random, each, n) for law in laws]
    usual = [_width(stats.student_t_intervals(x)) for x in samples]
    for procedure, intervals in INTERVALS.items():
        found = [intervals(x) for x in samples]
        widths = [_width(ends) / base for ends, base in zip(found, usual, strict=True)]
        yield _row(COVERAGE, procedure, name, n, [_covers(ends, 0.0) for ends in found], each, widths)
    if not math.isnan(stats.median_interval(np.arange(float(n)))[0]):
        found = [np.array([stats.median_interval(row) for row in x]) for x in samples]
        widths = [_width(ends) / base for ends, base in zip(found, usual, strict=True)]
        rates = [_covers(ends, law.median) for ends, law in zip(found, laws, strict=True)]
        yield _row(COVERAGE_MEDIAN, MEDIAN, name, n, rates, each, widths)


def _covers(ends: Values, value: float) -> float:
    rounding = 1e-9  # the real seeds' values repeat, so an end can be the value itself
    return float(((ends[:, 0] <= value + rounding) & (value - rounding <= ends[:, 1])).mean())


def _width(ends: Values) -> float:
    width = ends[:, 1] - ends[:, 0]
    return float(np.median(np.where(np.isnan(width), np.inf, width)))


def size_and_power(name: str, laws: Sequence[Law], n: int, replicates: int) -> Iterator[Row]:
    """Yields how often each test has p < .05, for equal means and for means that differ either way."""
    for question, shifts in {SIZE: (0,), POWER[1]: (-1, 1), POWER[2]: (-2, 2)}.items():
        random = _random(question, name, n)
        each = _each(laws, replicates, 1000) if question == SIZE else _each(laws, replicates, 200) // 2
        samples = [[law.draw(random, max(1, each), n) + shift for shift in shifts] for law in laws]
        for procedure, test in TESTS.items():
            rates = [float(np.mean([test(x) < stats.SIGNIFICANCE for x in both])) for both in samples]
            yield _row(question, procedure, name, n, rates, max(1, each) * len(shifts))


def equivalence(name: str, laws: Sequence[Law], n: int, replicates: int) -> Iterator[Row]:
    """Yields how often "equivalent" is said where means differ by the margin, and where they are equal."""

    def said(d: Values, margin: float) -> NDArray[np.bool_]:
        if not stats.testable(n, 1):
            return np.zeros(len(d), dtype=bool)
        p = [stats.one_sided_p_values(x, COUNT) for x in (d + margin, margin - d)]
        return np.maximum(*p) < stats.SIGNIFICANCE

    random, each = _random("equivalence", name, n), max(1, _each(laws, replicates, 400) // 2)
    samples = [law.draw(random, each, n) for law in laws]
    rates = [float(np.mean(said(x + shift, 1.0))) for x in samples for shift in (-1, 1)]
    yield _row(FALSE_EQUIVALENT, TOST, name, n, rates, each)
    for margin, question in EQUIVALENT.items():
        rates = [float(np.mean(said(x, margin))) for x in samples]
        yield _row(question, TOST, name, n, rates, each)


def false_rankings(
    name: str, sample: Callable[[RandomState, int, int], Values], n: int, replicates: int
) -> Iterator[Row]:
    """Yields how often any of seven methods with equal means is called worse than the one with the best mean."""
    values = sample(_random(FALSE_WORSE, name, n), replicates, n)
    best = values.mean(2).argmin(1)
    pairs = list(itertools.combinations(range(values.shape[1]), 2))
    with_best = np.array([[b in pair for pair in pairs] for b in best])
    fine = 2_499  # so that 21 times the smallest p is well below .05
    tests = {"paired t": student_p_values, "sign-flip and bootstrap-t": lambda d: stats.paired_p_values(d, fine)}
    for label, test in tests.items():
        p = np.stack([test(values[:, i] - values[:, j]) for i, j in pairs], 1)
        found = {
            OTHERS: [min(stats.holm(row[own].tolist())) for row, own in zip(p, with_best, strict=True)],
            ALL: [np.array(stats.holm(row.tolist()))[own].min() for row, own in zip(p, with_best, strict=True)],
        }
        for procedure, smallest in found.items():
            said = procedure if label != "paired t" else procedure.replace("**chosen**: ", "")
            rate = float(np.mean(np.array(smallest) < stats.SIGNIFICANCE))
            yield _row(FALSE_WORSE, f"{said}, {label}", name, n, [rate], replicates)


SPLITS = {"draws 1, seeds 0, residual 1": (1.0, 0.0, 1.0), "draws 0.3, seeds 0.5, residual 1": (0.3, 0.5, 1.0)}
"""Standard deviations between draws, between seeds, and of what is left."""


def draws_of_data(name: str, law: Callable[..., Values], replicates: int) -> Iterator[Row]:
    """Yields how often the interval of the mean over 10 draws of the data and 5 seeds covers it."""
    for split, (of_draws, of_seeds, residual) in SPLITS.items():
        random = _random(COVERAGE_DRAWS, name, split)
        values = of_draws * law(random, replicates, 10, 1) + of_seeds * law(random, replicates, 1, 5)
        values = values + residual * law(random, replicates, 10, 5)
        mixed = np.array(
            [[found.low, found.high] for found in (stats.variance_components(part, crossed=True) for part in values)]
        )
        found = {SPREAD: stats.mean_intervals(values.mean(2), count=COUNT), MIXED: mixed}
        usual = _width(stats.student_t_intervals(values.mean(2)))
        for procedure, ends in found.items():
            rates, widths = [_covers(ends, 0.0)], [_width(ends) / usual]
            yield _row(COVERAGE_DRAWS, procedure, f"{name}; {split}", 10, rates, replicates, widths)


# ----------------------------------------------------------------------------------------------------- markdown


def markdown(rows: Sequence[Row]) -> str:
    """Returns the table as Markdown, with what it says; every figure in the text is taken from the rows."""
    lines = ["# Do intervals and tests over few seeds hold their level?", "", f"    {COMMAND}", "", *_reading(rows), ""]
    for question in QUESTIONS:
        part = [row for row in rows if row.question == question]
        counts = sorted({row.n for row in part})
        unit = "draws" if question == COVERAGE_DRAWS else "n"
        lines += [f"## {question[0].upper()}{question[1:]}", "", _ABOUT[question], ""]
        lines.append("| law | procedure | " + " | ".join(f"{unit} = {n}" for n in counts) + " |")
        lines.append("|---|---|" + "---:|" * len(counts))
        by = {(row.law, row.procedure, row.n): row for row in part}
        for law, procedure in dict.fromkeys((row.law, row.procedure) for row in part):
            cells = [_cell(by.get((law, procedure, n))) for n in counts]
            lines.append(f"| {law} | {procedure} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


_ABOUT = {
    COVERAGE: "Should be .95. In parentheses: the width over that of Student's t.",
    COVERAGE_MEDIAN: "Should be .95 or more. In parentheses: the width over that of Student's t for the mean.",
    SIZE: "Share of p < .05 where the means are equal: should be at most .05.",
    POWER[1]: "Share of p < .05 where the means differ by one standard deviation of the paired differences, either "
    "way.",
    POWER[2]: "As above, for two standard deviations.",
    FALSE_WORSE: "Share of the experiments of seven methods with equal means in which any is called worse than the one "
    "with the best mean: should be at most .05.",
    FALSE_EQUIVALENT: "Share of *equivalent* where the means differ by the margin, one standard deviation, either way "
    "(lowest and highest: of both ways): should be at most .05.",
    EQUIVALENT[1]: "Share of *equivalent* where the means are equal: the higher the better.",
    EQUIVALENT[2]: "As above, with a margin of two standard deviations.",
    COVERAGE_DRAWS: "Should be .95. Beside the law: the standard deviations between draws, between seeds and of the "
    "rest. In parentheses: the width over that of Student's t over the draws' means.",
}


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    text = _rate(row.rate)
    if row.laws > 1:
        text += f" [{_rate(row.lowest)} to {_rate(row.highest)}]"
    if not math.isnan(row.width):
        text += f" ({'∞' if math.isinf(row.width) else f'{row.width:.2f}'})"
    return text


def _rate(rate: float) -> str:
    return "1.00" if rate > 0.9995 else f"{rate:.3f}".removeprefix("0")


def _reading(rows: Sequence[Row]) -> list[str]:
    """What the table says, in sentences."""
    by = {(row.question, row.procedure, row.law, row.n): row for row in rows}

    def say(question: str, procedure: str, law: str, *ns: int) -> str:
        """The rates at these n, all of them if none is given."""
        return "/".join(_rate(by[question, procedure, law, n].rate) for n in ns or SEEDS)

    def size(procedure: str, law: str = UNEQUAL) -> str:
        return say(SIZE, procedure, law)

    def three(procedure: str) -> str:
        normal, skewed, real = (say(COVERAGE, procedure, law) for law in (NORMAL, SKEWED, REAL))
        return f"{normal} (normal), {skewed} (log-normal) and {real} (real)"

    of_draws: dict[str, list[float]] = {}
    for row in rows:
        if row.question == COVERAGE_DRAWS:
            of_draws.setdefault(row.procedure, []).append(row.rate)
    spread, mixed = (f"{_rate(min(of_draws[name]))} to {_rate(max(of_draws[name]))}" for name in (SPREAD, MIXED))
    real_seven = sorted({row.law for row in rows if row.question == FALSE_WORSE and row.law.startswith(REAL)})
    others, every = (f"{holm}, sign-flip and bootstrap-t" for holm in (OTHERS, ALL))
    seven = ", ".join(f"{say(FALSE_WORSE, every, law, 20)} ({law.partition(', ')[2]})" for law in real_seven)
    laws = {question: max(row.laws for row in rows if row.question == question) for question in (COVERAGE, SIZE)}
    made, real = by[SIZE, BOTH, NORMAL, 20].replicates, by[SIZE, BOTH, REAL, 20].replicates
    worst = [_rate(by[COVERAGE, CHOSEN, REAL, n].lowest) for n in (10, 20)]
    worst += [_rate(by[SIZE, BOTH, REAL, n].highest) for n in (10, 20)]
    intro = f"""
        Laws: normal; log-normal of σ = 1; and the real seeds of paper_1d (D_KL), resampled around their mean: each of
        the {laws[COVERAGE]} pairs of method and dataset for intervals, and each of the {laws[SIZE]} pairs of methods
        within a dataset for tests, where what a seed does to both methods is kept. For real seeds a cell has the mean
        over these laws and, in brackets, the lowest and the highest. Coverage and size are of {made} experiments for
        each made law and {real} for each real one, with standard errors of at most {0.5 / math.sqrt(made):.3f} and
        {0.5 / math.sqrt(real):.3f}; the other tables of fewer (the column `replicates` of coverage.csv)."""
    bullets = [
        f"""**Intervals of the mean.** At n = 3/5/10/20 the percentile bootstrap covers {three(BEFORE)}. Student's t
        covers {three(STUDENT)}. Bootstrap-t has no finite interval at n = 3, for too many bootstrap samples are
        constant. Tables use it from n = 5 on, and Student's t below: {three(CHOSEN)}. So an interval of three skewed
        seeds is still too short.""",
        f"""**What no procedure can do.** Where one seed of 20 is far off, ten seeds miss it in .95¹⁰ = 36 % of the
        experiments, and nothing in the data tells of it. Some of the real laws are like that. At n = 10/20 the lowest
        coverage of the mean is {worst[0]}/{worst[1]}, and the largest size of the test {worst[2]}/{worst[3]}.""",
        f"""**The median.** Its interval by order statistics holds whatever the law, from n = 6 on. At n = 10/20 it
        covers {say(COVERAGE_MEDIAN, MEDIAN, NORMAL, 10, 20)} (normal), {say(COVERAGE_MEDIAN, MEDIAN, SKEWED, 10, 20)}
        (log-normal) and {say(COVERAGE_MEDIAN, MEDIAN, REAL, 10, 20)} (real).""",
        f"""**Tests of equal means.** Nominal .05, at n = 3/5/10/20. Between two equal laws a difference is symmetric,
        and there the smoothed bootstrap rejects {size(SMOOTHED, EQUAL)}. Real comparisons are skewed. For log-normal
        less normal the smoothed bootstrap rejects {size(SMOOTHED)} of equal means, the t-test {size("paired t")}, the
        sign-flip test {size("sign-flip")}, bootstrap-t {size("bootstrap-t")}, and Wilcoxon's test, which is not one of
        means, {size("Wilcoxon")}. Tables ask that sign-flip and bootstrap-t both reject: {size(BOTH, NORMAL)} for
        normal differences, {size(BOTH)} for log-normal less normal, and {size(BOTH, REAL)} for real ones, where the
        smoothed bootstrap has {size(SMOOTHED, REAL)}. With fewer than six seeds there is no p-value, for a two-sided
        sign-flip test cannot reject.""",
        f"""**What that costs.** At n = 10/20 a real difference of one standard deviation is seen in
        {say(POWER[1], BOTH, REAL, 10, 20)} of the experiments, and by the t-test in
        {say(POWER[1], "paired t", REAL, 10, 20)}; one of two, in {say(POWER[2], BOTH, REAL, 10, 20)} and
        {say(POWER[2], "paired t", REAL, 10, 20)}.""",
        f"""**Seven methods.** The same data choose the best one, so Holm over the six others is not enough. With all
        means equal, any method is called worse in {say(FALSE_WORSE, others, NORMAL, 20)} of the experiments of 20
        normal seeds. Holm over all 21 pairs has {say(FALSE_WORSE, every, NORMAL, 20)} there, and {seven} for real
        seeds. It takes ten seeds at least.""",
        f"""**Equivalence.** Where the means differ by the margin, *equivalent* is said at n = 10/20 in
        {say(FALSE_EQUIVALENT, TOST, NORMAL, 10, 20)} (normal), {say(FALSE_EQUIVALENT, TOST, UNEQUAL, 10, 20)}
        (log-normal less normal) and {say(FALSE_EQUIVALENT, TOST, REAL, 10, 20)} (real) of the experiments; with skewed
        differences more often where the difference has one sign, up to
        {_rate(by[FALSE_EQUIVALENT, TOST, UNEQUAL, 20].highest)} at n = 20 (log-normal less normal).""",
        f"""**Draws of the data.** All draws use the same seeds, so the spread of the draws' means does not show what
        the seeds do. An interval from it covers {spread}; that of the mixed model {mixed}.""",
    ]
    return [_folded(intro), "", *(_folded(bullet, "- ") for bullet in bullets)]


def _folded(text: str, mark: str = "") -> str:
    return textwrap.fill(" ".join(text.split()), 120, initial_indent=mark, subsequent_indent=" " * len(mark))
