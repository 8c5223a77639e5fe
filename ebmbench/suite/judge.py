"""Scores and trains again what a submission holds: `python -m ebmbench.suite.judge`, with an order on its input.

This process executes the plug-in of the submission, which the user has read and accepted; it has bounds on its time and
files, and no network where the machine allows that. *Rescored*: the two plans, made again from the suite, have the very
same runs, and our code gives the submitted scores for the submitted weights. *Verified*: random seeds of random runs,
drawn by a nonce, give the same when they are trained again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ebmbench.audit.training import audit, compared
from ebmbench.config.folders import use_config_dir
from ebmbench.core import trust
from ebmbench.core.errors import UserError, counted, first_line
from ebmbench.engine import runs
from ebmbench.engine.api import read_config
from ebmbench.engine.rescore import rescore
from ebmbench.report import frame
from ebmbench.report.frame import Results
from ebmbench.report.planned import Plan, read_plan
from ebmbench.suite import suite as suites
from ebmbench.suite.suite import Entry
from ebmbench.system.threads import sleep_while_waiting
from ebmbench.tasks.examples import example_file, read_examples

CPU_SECONDS = 4 * 3600
FILE_BYTES = 2**30
TOLERANCE = 1e-3
"""Relative difference of scores of the same weights that another machine may round to; 1e-4 below 0.1."""


def judge(order: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `level`, `notes`, and `faults`: what speaks against the submission."""
    folder = Path(order["folder"])
    suite = suites.read(order["suite"])
    own = suites.entry_of(order["words"], [], order["entry"]) if not order["plugins"] else None
    entry = own or Entry(order["entry"], tuple(order["words"]))
    trials, found = (read_plan(folder, entry.plan_name(suite, is_trials)) for is_trials in (True, False))
    copies = entry
    if order["plugins"]:
        files = [str(folder.absolute() / "sweeps" / found.name / name) for name in order["plugins"]]
        copies = suites.entry_of(entry.words, files, entry.name)
    chosen = suites.chosen_by(frame.of_plan(trials, folder))
    faults = list(_others(trials, suites.trials_plan(suite, copies)))
    faults += _others(found, suites.runs_plan(suite, copies, chosen))
    if faults:
        return {"level": "reported", "notes": [], "faults": faults}
    results = [frame.of_plan(plan, folder) for plan in (trials, found)]
    count = sum(run.state in runs.FINISHED for result in results for run in result.runs)
    faults = [fault for result in results for fault in _scored_otherwise(result)]
    notes = [f"The weights of {counted(count, 'run')} were scored again."]
    if faults or not order["again"]:
        return {"level": "rescored", "notes": notes, "faults": faults}
    rows = audit(found.name, folder, order["again"], int(order["nonce"], 16))
    bad = [f"{row.run_id}, seed {row.seed}, trained again: {row.differs}" for row in rows if not row.is_good]
    told = [f"{row.run_id}, seed {row.seed}: {row.differs or 'the same'} ({row.how})" for row in rows]
    level = "verified" if all(row.is_decided for row in rows) else "rescored"
    return {"level": level, "notes": [*notes, *(f"Trained again: {text}." for text in told)], "faults": bad}


def _others(submitted: Plan, ours: Plan) -> Iterator[str]:
    """Yields what a plan has, or lacks, beside the one that follows from the suite."""
    theirs, wanted = ({job.run_hash for job in plan.jobs} for plan in (submitted, ours))
    if theirs != wanted:
        yield f"{len(theirs - wanted)} jobs of {submitted.name} are none of the suite, and {len(wanted - theirs)} lack"


def _scored_otherwise(results: Results) -> Iterator[str]:
    """Yields what our code scores otherwise; it works on copies of the runs."""
    for run in results.runs:
        if run.state not in runs.FINISHED:
            continue
        with tempfile.TemporaryDirectory(prefix="ebmbench-rescore-") as place:
            copy = Path(place) / "runs" / run.folder.name
            shutil.copytree(run.folder, copy)
            status = runs.read_status(copy)
            assert status is not None
            runs.write_status(copy, dataclasses.replace(status, commit=None))  # it may say that we scored it already
            try:
                rescore(copy)
                difference = _difference(run.folder, copy)
            except UserError as error:
                difference = first_line(error)
            if difference:
                yield f"{run.job.run_id}, scored again: {difference}"


def _difference(before: Path, after: Path) -> str:
    """Returns the first score that is another one, with both values; empty if all agree."""
    names = compared(read_config(before), whole=True)
    old, new = ({row["seed"]: row for row in runs.read_metrics(path)} for path in (before, after))
    for seed in new:
        for name in names:
            one, other = old[seed].get(name, ""), new[seed].get(name, "")
            if one != other and not _is_near(one, other):
                return f"{name} of seed {seed} was {one or 'missing'}, and is {other or 'missing'}"
    if example_file(after) is None:
        return ""
    examples = [read_examples(path) for path in (before, after)]
    one, other = (table.select_dtypes("number").to_numpy(float) for table in examples)
    same = one.shape == other.shape and np.allclose(one, other, rtol=10 * TOLERANCE, atol=0.01, equal_nan=True)
    return "" if same else "the scores of single examples are others"


def _is_near(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=TOLERANCE, abs_tol=TOLERANCE / 10)
    except ValueError:
        return False


def main() -> None:
    """Reads an order, and prints what came of it as the last line."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sleep_while_waiting()
    order = json.load(sys.stdin)
    for folder in order["config_dirs"]:
        use_config_dir(Path(folder))
    for sha256 in order["accepted"]:
        trust.accept_here(sha256)
    try:
        found = judge(order)
    except UserError as error:  # a package that is not here, say
        found = {"level": "reported", "notes": [f"It could not be scored: {first_line(error)}"], "faults": []}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
