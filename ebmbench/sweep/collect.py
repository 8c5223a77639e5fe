"""Writes the files that a sweep ends in, and checks that they follow from its runs.

`<results_dir>/<sweep>/runs.csv` has a row per run and seed, done or not. With `sweep.json` beside it every table can be
made again without the run directories.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ebmbench.config.run import ALGORITHMS
from ebmbench.core.errors import UserError
from ebmbench.display.table import csv_text
from ebmbench.report import frame, tables
from ebmbench.report.frame import Results
from ebmbench.report.planned import SCHEMA, Plan, read_plan, sweep_dir
from ebmbench.sweep.status import job_states
from ebmbench.system.files import write_atomically


def collect(plan: Plan, results_dir: Path) -> Results:
    """Returns the results of all runs that are done; SLURM is asked what is queued."""
    return frame.of_plan(plan, results_dir, job_states)


def write(plan: Plan, results: Results, results_dir: Path) -> list[Path]:
    """Writes runs.csv, sweep.json and the tables; returns their paths.

    Raises:
        UserError: a table that is not known, or a folder that cannot be written.
    """
    texts = {
        "runs.csv": csv_text(results.frame, digits=None),
        "sweep.json": json.dumps(_about(plan), indent=1, ensure_ascii=False) + "\n",
    }
    folder = results_dir / plan.name
    _write(folder, texts)
    made = write_tables(folder)
    return [*(folder / name for name in texts), *made]


def write_tables(folder: Path) -> list[Path]:
    """Makes the tables of a collected sweep from its runs.csv and sweep.json; returns their paths.

    Raises:
        UserError: the folder holds no collected sweep, or cannot be written.
    """
    texts = tables.build(frame.load(folder))
    _write(folder, texts)
    return [folder / name for name in texts]


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(folder / name, text.encode())
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another results_dir") from None


def write_figures(plan: Plan, results: Results, results_dir: Path) -> list[Path]:
    """Draws the figures that the sweep asks for, of what is done; returns their paths."""
    if not plan.figures or results.done.empty:
        return []
    from ebmbench.display import rendering  # matplotlib only when asked for
    from ebmbench.report import plots

    paths: list[Path] = []
    for name in plan.figures:
        for figure in plots.named(results, name):
            paths += rendering.save_figure(figure, results_dir / plan.name / "figures")
    return paths


def _about(plan: Plan) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "algorithms": ALGORITHMS,
        "name": plan.name,
        "description": plan.description,
        # Tables are published: where data and results lay is this machine's own.
        "overrides": [re.sub(r"^([\w.]*(?:root|path|_dir)=).*", r"\1…", text) for text in plan.overrides],
        "axes": list(plan.axes),
        "tables": list(plan.tables),
        "figures": list(plan.figures),
    }


# --------------------------------------------------------------------------------------------------------- check


def check(name: str, results_dir: Path) -> list[str]:
    """Returns what of a collected sweep does not follow from its runs; an empty list if all is well.

    Tables must follow from runs.csv, and runs.csv from the run directories that are there, of which none is damaged.
    """
    folder = results_dir / name
    loaded = frame.load(folder)
    faults = []
    for file, text in tables.build(loaded).items():
        try:
            written = (folder / file).read_text()
        except OSError:
            faults.append(f"{folder / file} is missing")
            continue
        if written != text:
            faults.append(f"{folder / file} does not follow from runs.csv: {_first_difference(written, text)}")
    if (sweep_dir(results_dir, name) / "plan.json").exists():
        faults += _check_runs(folder, loaded, read_plan(results_dir, name), results_dir)
    return faults


def _check_runs(folder: Path, loaded: Results, plan: Plan, results_dir: Path) -> list[str]:
    results = collect(plan, results_dir)
    damaged = [f"{run.folder} is damaged: {run.detail}" for run in results.runs if run.state == "damaged"]
    fresh = frame.read_runs_csv(csv_text(results.frame, digits=None))
    there = {run for run in set(fresh["run_id"]) if (results_dir / "runs" / run).is_dir()}
    rows = loaded.frame.astype(object).where(loaded.frame.notna(), None).to_dict("records")
    old = {(row["run_id"], row["seed"]): row for row in rows}
    faults = damaged + _check_added(folder, rows, fresh.to_dict("records"), results_dir)
    for row in fresh.astype(object).where(fresh.notna(), None).to_dict("records"):
        if row["run_id"] not in there:
            continue
        written = old.get((row["run_id"], row["seed"]), {})
        wrong = [key for key, value in row.items() if written.get(key) != value]
        if wrong:
            key = wrong[0]
            faults.append(
                f"{folder / 'runs.csv'} does not follow from {results_dir / 'runs' / row['run_id']}: "
                f"seed {row['seed']} has {key}={row[key]!r} there, and {written.get(key)!r} in it"
            )
    return faults[:10]


def _check_added(
    folder: Path, rows: Sequence[Mapping[Any, Any]], fresh: Sequence[Mapping[Any, Any]], results_dir: Path
) -> list[str]:
    """Names the rows of runs.csv that no plan and no run gives, and those that are there twice."""
    counts = Counter((row["run_id"], row["seed"]) for row in rows)
    given = {(row["run_id"], row["seed"]) for row in fresh}
    # A run of other seeds may have stood in for a job. Where its directory is gone there is nothing to check it by:
    # the row of the job itself, which is not in runs.csv, then is what tells that it was one of the sweep's.
    lacking = {(row["config_hash"], row["seed"]) for row in fresh if (row["run_id"], row["seed"]) not in counts}
    faults = []
    for row in rows:
        run, seed = row["run_id"], row["seed"]
        gone = not (results_dir / "runs" / str(run)).is_dir() and (row["config_hash"], seed) in lacking
        if counts[run, seed] > 1 or ((run, seed) not in given and not gone):
            why = "more than once" if counts[run, seed] > 1 else "which is neither in the sweep's plan nor in its runs"
            faults.append(f"{folder / 'runs.csv'} has seed {seed} of {run}, {why}")
    return list(dict.fromkeys(faults))


def _first_difference(written: str, text: str) -> str:
    pairs = zip([*written.splitlines(), ""], [*text.splitlines(), ""], strict=False)
    for place, (old, new) in enumerate(pairs, start=1):
        if old != new:
            return f"line {place} is {old[:100]!r}, and should be {new[:100]!r}"
    return "its end differs"
