"""Trains random seeds of finished runs again and compares metrics, weights and scores: `ebmbench verify`."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError, first_line
from ebmbench.display.table import Cell, Table, code_cell, markdown
from ebmbench.engine import runs
from ebmbench.engine.api import read_config, read_parameters
from ebmbench.engine.execute import execute
from ebmbench.methods.base import own_networks
from ebmbench.report import frame
from ebmbench.tasks.examples import example_file, read_examples

TOLERANCE = 0.05
"""Relative difference that is allowed where rounding may differ: training carries it on."""
SAME = ("device", "threads", "code_path", "vectors")
"""What environment.json must agree in for results to be the same bit for bit; and the version of torch."""


@dataclass(frozen=True)
class Row:
    """What came of one seed of a run.

    Attributes:
        seed: -1 where nothing was trained, because the run's files are damaged.
        how: how it was compared.
        differs: the metric that is furthest off, or what else is another, as text; empty where all agree.
    """

    run_id: str
    seed: int
    how: str
    compared: int
    differs: str

    @property
    def is_good(self) -> bool:
        """Whether the run stands."""
        return not self.differs


def verify(target: str, results_dir: Path, count: int, seed: int) -> list[Row]:
    """Returns a row for each damaged run of a sweep, and for each of `count` random ones that was trained again.

    Args:
        target: a run directory, or a sweep.
        seed: of the random choice of runs, and of one seed of each.

    Raises:
        UserError: nothing is there, or nothing is finished.
    """
    found = frame.find([target], results_dir)
    folders = {run.folder.resolve(): None for run in found.runs if run.status and run.status.state == "done"}
    if not folders:
        raise UserError(f"{target!r} has no finished run in {str(results_dir / 'runs')!r}; there is nothing to verify")
    damage = {folder: runs.inspect(folder).damage for folder in sorted(folders)}
    rows = [Row(folder.name, -1, "checksums", 0, faults[0]) for folder, faults in damage.items() if faults]
    whole = [folder for folder, faults in damage.items() if not faults]
    choice = random.Random(seed)
    for folder in sorted(choice.sample(whole, min(count, len(whole)))):
        rows.append(_again(folder, choice))
    return rows


def _again(folder: Path, choice: random.Random) -> Row:
    """Trains a random seed of a run again, in a folder that is then deleted."""
    result = runs.read_result(folder)
    seed = choice.choice(result.status.seeds)
    config = read_config(folder)
    if config.run_hash != result.status.run_hash:
        return Row(folder.name, seed, "settings", 0, f"they make another run today ({config.run_id})")
    before = json.loads(runs.read_output(folder, "environment.json"))
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="ebmbench-verify-") as temporary:
        again = config.replace(results_dir=temporary, threads=before["threads"], force=False)
        again = dataclasses.replace(again, seeds=(seed,), logger=again.logger.model_copy(update={"name": "none"}))
        try:
            run_dir = execute(again, quiet=True).run_dir
            metrics = runs.read_metrics(run_dir)[0]
            now = json.loads(runs.read_output(run_dir, "environment.json"))
            exact = is_same(before, now) and (len(result.status.seeds) == 1 or is_same_alone(config, now["code_path"]))
            tolerance = 0.0 if exact else TOLERANCE
            others = _scores_differ(folder, run_dir, seed, tolerance)
            others = others or (_weights_differ(folder, run_dir, seed) if exact else "")
        except UserError as error:
            return Row(folder.name, seed, "training", 0, first_line(error))
        finally:
            torch.set_num_threads(threads)
    old = next(row for row in result.metrics if row["seed"] == str(seed))
    names = compared(config, len(result.status.seeds))
    how = "bit for bit" if exact else f"within {100 * tolerance:g} %"
    differs = difference(old, metrics, names, tolerance)
    return Row(folder.name, seed, how, len(names), differs or others)


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


def compared(config: RunConfig, seeds: int) -> list[str]:
    """Returns the columns of metrics.csv that one seed alone determines."""
    return [
        "diverged",
        "diverged_step",
        "trusted",
        *(metric.name for metric in config.task.metrics if metric.of_model or seeds == 1),
    ]


def difference(old: dict[str, str], new: dict[str, str], names: Sequence[str], tolerance: float) -> str:
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


def main(target: str, results_dir: Path, count: int, seed: int) -> int:
    """Prints the table; returns the exit code: 0 if all stand, 1 if one does not."""
    rows = verify(target, results_dir, count, seed)
    header = [Cell(text) for text in ("run", "seed", "columns", "compared", "result")]
    cells = [
        [
            code_cell(row.run_id),
            Cell(str(row.seed) if row.seed >= 0 else "–"),
            Cell(str(row.compared)),
            Cell(row.how),
            Cell(row.differs or "the same"),
        ]
        for row in rows
    ]
    bad = sum(not row.is_good for row in rows)
    print(markdown(Table(f"Trained again: {Path(target).name}", header, cells)).strip())
    print(f"\n{len(rows) - bad} of {len(rows)} stand" + (f"; {bad} do not" if bad else ""))
    return 1 if bad else 0
