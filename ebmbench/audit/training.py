"""Trains random seeds of finished runs again and compares metrics, weights and scores: `ebmbench audit training`.

A run's own directory tells what it ran on. Where that is this machine, the seeds that trained together train together
again, and all must be equal bit for bit. Elsewhere sums are rounded otherwise, and training amplifies it: the last
digits of two honest runs differ, and after many epochs the first ones may. Metrics must then agree within 5 %, or lie
in the range of the run's other seeds. A run with too few seeds for this neither stands nor falls: it is not decided.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError, counted, first_line
from ebmbench.display.table import Cell, Table, code_cell, markdown, plain
from ebmbench.engine import runs
from ebmbench.engine.api import read_config, read_parameters
from ebmbench.engine.execute import execute, resolve_device, seed_groups
from ebmbench.methods.base import own_networks
from ebmbench.report import frame
from ebmbench.report.planned import Job, Plan
from ebmbench.sweep.plan import make_plan
from ebmbench.tasks.examples import example_file, read_examples

TOLERANCE = 0.05
"""Relative difference that is allowed where rounding may differ."""
ENOUGH = 4
"""Other seeds whose range a seed may be in, where rounding may differ."""
SAME = ("device", "threads", "code_path", "vectors")
"""What environment.json must agree in for results to be the same bit for bit; and the version of torch."""


@dataclass(frozen=True)
class Row:
    """What came of one seed of a run.

    Attributes:
        seed: -1 where nothing was trained, because the run's files are damaged.
        how: how it was compared.
        differs: the metric that is furthest off, or what else is another, as text; empty where all agree.
        is_decided: false where a difference may be rounding alone.
    """

    run_id: str
    seed: int
    how: str
    compared: int
    differs: str
    is_decided: bool = True

    @property
    def is_good(self) -> bool:
        """Whether nothing speaks against the run."""
        return not self.differs or not self.is_decided


def audit(target: str, results_dir: Path, count: int, seed: int, overrides: Sequence[str] = ()) -> list[Row]:
    """Returns a row for each damaged run of a sweep, and for each of `count` random ones that was trained again.

    Args:
        target: a run directory, or a sweep.
        seed: of the random choice of runs, and of one seed of each.
        overrides: of a collected sweep without its runs, settings that its file lacks, such as `data.root=DIR`.

    Raises:
        UserError: nothing is there, or nothing is finished.
    """
    found = frame.find([target], results_dir)
    choice = random.Random(seed)
    folders = {run.folder.resolve(): None for run in found.runs if run.status and run.status.state == "done"}
    if not folders and not found.done.empty and not found.runs:
        return _of_rows(found, count, choice, overrides)
    if overrides:
        raise UserError(f"audit training takes {overrides[0]} only of a collected sweep without its runs")
    if not folders:
        raise UserError(f"{target!r} has no finished run in {str(results_dir / 'runs')!r}; there is nothing to train")
    damage = {folder: runs.inspect(folder).damage for folder in sorted(folders)}
    rows = [Row(folder.name, -1, "checksums", 0, faults[0]) for folder, faults in damage.items() if faults]
    whole = [folder for folder, faults in damage.items() if not faults]
    for folder in sorted(choice.sample(whole, min(count, len(whole)))):
        rows.append(_of_folder(folder, choice))
    return rows


def _of_folder(folder: Path, choice: random.Random) -> Row:
    """Trains a random seed of a run again."""
    result = runs.read_result(folder)
    seed = choice.choice(result.status.seeds)
    try:
        config = read_config(folder)
        if config.run_hash != result.status.run_hash:
            return Row(folder.name, seed, "settings", 0, f"they make another run today ({config.run_id})")
        before = json.loads(runs.read_output(folder, "environment.json"))
        group = _trained_with(seed, config, before)
        with _trained(config, group, before["threads"]) as again:
            metrics = next(row for row in runs.read_metrics(again) if row["seed"] == str(seed))
            now = json.loads(runs.read_output(again, "environment.json"))
            exact = is_same(before, now)
            others = _scores_differ(folder, again, seed, 0.0 if exact else TOLERANCE)
            others = others or (_weights_differ(folder, again, seed) if exact else "")
    except UserError as error:
        return Row(folder.name, seed, "training", 0, first_line(error))
    old = next(row for row in result.metrics if row["seed"] == str(seed))
    names = compared(config, whole=len(group) == len(result.status.seeds))
    if exact:
        return Row(folder.name, seed, "bit for bit", len(names), difference(old, metrics, names, 0.0) or others)
    peers = [row for row in result.metrics if row["seed"] != str(seed)]
    return _within(folder.name, seed, old, metrics, names, peers, others)


def _trained_with(seed: int, config: RunConfig, environment: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the seeds to train: those that trained together, unless the kernels compute each seed by itself."""
    groups = seed_groups(config, resolve_device(config.launch.device))
    group = next(seeds for seeds in groups if seed in seeds)
    return (seed,) if len(group) > 1 and is_same_alone(config, str(environment.get("code_path"))) else group


@contextmanager
def _trained(config: RunConfig, seeds: Sequence[int], threads: int | None) -> Iterator[Path]:
    """Trains seeds of a run in a folder that is then deleted; gives the run's directory in it."""
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="ebmbench-audit-") as folder:
        again = config.replace(results_dir=folder, threads=threads, force=False, figures=False)
        logger = again.logger.model_copy(update={"name": "none"})
        try:
            yield execute(dataclasses.replace(again, seeds=tuple(seeds), logger=logger), quiet=True).run_dir
        finally:
            torch.set_num_threads(before)


def _within(
    run_id: str,
    seed: int,
    old: Mapping[str, str],
    new: Mapping[str, str],
    names: Sequence[str],
    peers: Sequence[Mapping[str, str]],
    others: str = "",
) -> Row:
    """Judges a seed that trained where rounding may differ.

    Args:
        peers: the metrics of the run's other seeds.
        others: what else differs.
    """
    off = [name for name in names if difference(old, new, [name], TOLERANCE)]
    inside = [name for name in off if len(peers) >= ENOUGH and _is_inside(new.get(name, ""), name, peers)]
    differs = difference(old, new, [name for name in off if name not in inside], TOLERANCE)
    how = f"within {100 * TOLERANCE:g} %, or among the other seeds"
    if not off and others and not differs:
        differs = others if len(peers) < ENOUGH else ""
    return Row(run_id, seed, how, len(names), differs, is_decided=len(peers) >= ENOUGH or not differs)


def _is_inside(value: str, name: str, peers: Sequence[Mapping[str, str]]) -> bool:
    """Whether a value is within the range of other seeds, a bit widened: a further seed is in it almost always."""
    try:
        numbers = [float(row[name]) for row in peers if row.get(name)]
        low, high = min(numbers), max(numbers)
        return low - (high - low) / 2 <= float(value) <= high + (high - low) / 2
    except ValueError:
        return False


# ------------------------------------------------------------------------------------ rows of a collected sweep


def _of_rows(found: frame.Results, count: int, choice: random.Random, overrides: Sequence[str]) -> list[Row]:
    """Trains random rows of runs.csv again, by the sweep's file as it is now."""
    plan = make_plan(found.name, [*found.overrides, *overrides], None)
    done = found.frame[found.frame["state"].isin(runs.FINISHED)]
    places = sorted(choice.sample(range(len(done)), min(count, len(done))))
    return [_of_row(done.iloc[place], done, plan, found.axes) for place in places]


def _of_row(row: pd.Series, done: pd.DataFrame, plan: Plan, axes: Sequence[str]) -> Row:
    run_id, seed = str(row["run_id"]), int(row["seed"])
    jobs = [job for job in plan.jobs if _is_of_row(job, row, axes)]
    if len({job.config_hash for job in jobs}) != 1:
        return Row(run_id, seed, "settings", 0, f"sweeps/{plan.name}.yaml has no such job today")
    config = RunConfig.from_dict(jobs[0].config)
    try:
        with _trained(config, (seed,), config.launch.threads) as again:
            (metrics,) = runs.read_metrics(again)
    except UserError as error:
        return Row(run_id, seed, "training", 0, first_line(error))
    same = done["config_hash"] == row["config_hash"]
    peers = [_texts(other) for _, other in done[same & (done["seed"] != seed)].iterrows()]
    names = [name for name in compared(config, whole=False) if name in row.index]
    return _within(run_id, seed, _texts(row), metrics, names, peers)


def _is_of_row(job: Job, row: pd.Series, axes: Sequence[str]) -> bool:
    """Whether a job is the setting of a row: by its hash, or else by its method, dataset and what the sweep varies."""
    if job.config_hash == row["config_hash"]:
        return True
    run = frame.Run(job, Path(), "")
    same = all(plain(job.axes.get(axis)) == plain(None if pd.isna(row[axis]) else row[axis]) for axis in axes)
    return same and (run.task, run.dataset, run.method) == (row["task"], str(row["dataset"]), row["method"])


def _texts(row: pd.Series) -> dict[str, str]:
    """Returns a row of runs.csv as metrics.csv has it, as text."""
    return {str(name): "" if pd.isna(value) else str(value) for name, value in row.items()}


def _weights_differ(folder: Path, again: Path, seed: int) -> str:
    """Says so where the stored weights of a seed are not, bit for bit, those that training gave again."""
    old, new = (read_parameters(path).get(seed, {}) for path in (folder, again))
    equal = old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in new)
    return "" if equal else "the weights are others"


def _scores_differ(folder: Path, again: Path, seed: int, tolerance: float) -> str:
    """Says so where the scores of single examples are others; within a tolerance, where their mean log p is."""
    old, new = _examples(folder, seed), _examples(again, seed)
    if not tolerance:
        return "" if old.equals(new) else "the scores of single examples are others"
    name = "mean log p of the examples"
    before, after = ({name: str(own["log_prob"].mean()) if "log_prob" in own else ""} for own in (old, new))
    return difference(before, after, [name], tolerance)


def _examples(folder: Path, seed: int) -> pd.DataFrame:
    """Returns the scores of single examples of a seed; none where the task keeps none."""
    scores = read_examples(folder) if example_file(folder) else pd.DataFrame({"seed": []})
    return scores[scores["seed"] == seed].reset_index(drop=True)


def is_same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Returns whether two environments compute the same bits: a CPU, and the same code path, threads and torch."""
    equal = all(key in before and before[key] == now[key] for key in SAME)
    torches = before["packages"]["torch"] == now["packages"]["torch"]
    return bool(equal and torches and now["device"].startswith("cpu"))


def is_same_alone(config: RunConfig, code_path: str) -> bool:
    """Returns whether a seed alone is the same, bit for bit, as among others: all of it is in the compiled kernels.

    They serve no second derivative in y, and no own network of a method or a proposal.
    """
    own = own_networks(config.method, config.proposal, 1, 1)
    return code_path == "fused" and config.method.y_derivatives < 2 and not own


def compared(config: RunConfig, whole: bool) -> list[str]:
    """Returns the columns of metrics.csv that a seed determines; if the run is trained as a `whole`, all metrics."""
    return [
        "diverged",
        "diverged_step",
        "trusted",
        *(metric.name for metric in config.task.metrics if metric.of_model or whole),
    ]


def difference(old: Mapping[str, str], new: Mapping[str, str], names: Sequence[str], tolerance: float) -> str:
    """Returns the metric that is further off than allowed, the worst one, with both values; empty if all agree."""
    worst, text = tolerance, ""
    for name in names:
        before, after = old.get(name, ""), new.get(name, "")
        if before == after:
            continue
        gap = _gap(before, after)
        if gap > worst:
            worst, text = gap, f"{name} was {before or 'missing'}, and is {after or 'missing'}"
    return text


def _gap(before: str, after: str) -> float:
    """Returns the relative difference of two numbers; infinity where one is none."""
    try:
        one, other = float(before), float(after)
    except ValueError:
        return math.inf
    gap = abs(one - other) / max(abs(one), abs(other), 1e-300)
    return math.inf if math.isnan(gap) else gap


def main(target: str, results_dir: Path, count: int, seed: int, overrides: Sequence[str] = ()) -> int:
    """Prints the table; returns the exit code: 0 if no run falls, 1 if one does."""
    rows = audit(target, results_dir, count, seed, overrides)
    header = [Cell(text) for text in ("run", "seed", "columns", "compared", "result")]
    cells = [
        [
            code_cell(row.run_id),
            Cell(str(row.seed) if row.seed >= 0 else "–"),
            Cell(str(row.compared)),
            Cell(row.how),
            Cell(row.differs + ("" if row.is_decided else " (not decided)") if row.differs else "the same"),
        ]
        for row in rows
    ]
    bad, open_ = sum(not row.is_good for row in rows), sum(not row.is_decided for row in rows)
    print(markdown(Table(f"Trained again: {Path(target).name}", header, cells)).strip())
    text = f"\n{len(rows) - bad - open_} of {len(rows)} stand" + (f"; {bad} do not" if bad else "")
    if open_:
        text += f"; {counted(open_, 'is', 'are')} not decided: rounding differs here, and there are too few other seeds"
    print(text)
    return 1 if bad else 0
