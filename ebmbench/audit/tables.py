"""Checks that the tables of a collected sweep follow from its runs: `ebmbench audit tables`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ebmbench.core.errors import UserError
from ebmbench.display.table import csv_text
from ebmbench.report import collected, frame, tables
from ebmbench.report.frame import Results
from ebmbench.report.planned import Plan, read_plan, sweep_dir
from ebmbench.sweep.collect import collect


def main(name: str, results_dir: Path) -> int:
    """Prints what does not follow; returns the exit code: 0 if all is well, else 1."""
    faults = check(name, results_dir)
    for fault in faults:
        print(f"ebmbench: {fault}", file=sys.stderr)
    if not faults:
        print(f"{name}: every table follows from its runs")
    return 1 if faults else 0


def check(name: str, results_dir: Path) -> list[str]:
    """Returns what of a collected sweep does not follow from its runs; an empty list if all is well.

    Tables must follow from runs.csv, and runs.csv from the run directories that are there, of which none is damaged.
    """
    folder = results_dir / name
    try:
        loaded, faults = frame.load(folder), collected.faults(folder)
    except UserError as error:
        if not (folder / collected.NAME).is_file():
            raise
        return [str(error)]
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
            key = next((key for key in wrong if key != "record"), "record")
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
