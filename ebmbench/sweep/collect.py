"""From run directories to one tidy table of runs, and from that to the files that a sweep ends in.

`<results_dir>/<sweep>/runs.csv` has a row per run and seed, done or not; with `sweep.json` beside it, every table and
figure follows from it, and `check` says if one does not.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ebmbench.config import ALGORITHMS
from ebmbench.errors import UserError
from ebmbench.files import write_atomically
from ebmbench.report import tables
from ebmbench.runs import FINISHED, read_output
from ebmbench.sweep.plan import SCHEMA, Plan, read_plan, sweep_dir
from ebmbench.sweep.status import JobState, job_states, with_parts

IDENTITY = ("run_id", "config_hash", "task", "dataset", "method", "seed", "state", "error", "commit", "finished")
"""The columns that every table of runs begins with; those that the sweep varies follow, then the metrics."""


@dataclass(frozen=True)
class Collected:
    """The tidy table, and what could not be read."""

    frame: pd.DataFrame
    states: list[JobState]


def collect(plan: Plan, results_dir: Path) -> Collected:
    """Reads the metrics of all runs that are done. What is damaged is named in the states, and never counted."""
    states = with_parts(job_states(plan, results_dir), results_dir)
    checked: list[JobState] = []
    texts: dict[str, list[str]] = {}
    for index, state in enumerate(states):
        if state.state in FINISHED:
            fault, header, lines = _read_metrics(results_dir / "runs" / state.job.run_id, state.job.config["seeds"])
            if fault:
                state = JobState(state.job, "damaged", fault, state.status)
            else:
                texts.setdefault(header, []).extend(f"{index},{line}" for line in lines)
        checked.append(state)
    parts = []
    for header, body in texts.items():
        parts.append(_parse_csv("\n".join([f"job,{header}", *body])))
    metrics = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"job": [], "seed": []}, dtype=int)
    return Collected(_tidy(plan, checked, metrics), checked)


def _read_metrics(run_dir: Path, seeds: Sequence[int]) -> tuple[str, str, list[str]]:
    """Returns a fault or nothing, the header, and the lines of metrics.csv; its checksum is compared."""
    try:
        header, *lines = read_output(run_dir, "metrics.csv").decode().splitlines() or [""]
    except UserError as error:
        return str(error), "", []
    path = run_dir / "metrics.csv"
    try:
        place = header.split(",").index("seed")
        found = [int(line.split(",")[place]) for line in lines]
    except (ValueError, IndexError):
        return f"{path} has no seeds", "", []
    if sorted(found) != sorted(seeds):
        return f"{path} has {len(found)} seeds, and the run {len(seeds)}", "", []
    return "", header, lines


def _tidy(plan: Plan, states: Sequence[JobState], metrics: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for index, state in enumerate(states):
        config, status = state.job.config, state.status
        task = config["task"]
        dataset = task.get("dataset", (task.get("data") or {}).get("name"))
        row = {
            "job": index,
            "run_id": state.job.run_id,
            "config_hash": state.job.config_hash,
            "task": task["name"],
            "dataset": str(dataset),
            "method": config["method"]["name"],
            "state": state.state,
            "error": state.detail if state.state in ("failed", "damaged") else None,
            "commit": status.commit if status else None,
            "finished": status.finished if status and state.state in FINISHED else None,
            **{key: state.job.axes.get(key) for key in plan.axes},
        }
        rows += [{**row, "seed": seed} for seed in config["seeds"]]
    frame = pd.DataFrame(rows).merge(metrics, on=["job", "seed"], how="left", validate="one_to_one")
    measured = [name for name in metrics.columns if name not in ("job", "seed")]
    for name in ("diverged", "trusted"):  # there also if no run is done
        if name not in measured:
            frame[name] = pd.NA
            measured.append(name)
    # Runs of one setting are put together; a seed that two of them have counts once, for they hold the same numbers.
    frame = frame[[*IDENTITY, *plan.axes, *measured]]
    done = frame["state"].isin(FINISHED)
    ordered = pd.concat([frame[done], frame[~done]])
    ordered = ordered.drop_duplicates(["config_hash", "seed"]).sort_index()
    return ordered.reset_index(drop=True)


# -------------------------------------------------------------------------------------------------------- files


def output_dir(results_dir: Path, name: str) -> Path:
    """Where the tables and figures of a sweep lie."""
    return results_dir / name


def write(plan: Plan, collected: Collected, results_dir: Path) -> list[Path]:
    """Writes runs.csv, sweep.json and the tables; returns their paths.

    Raises:
        UserError: a table that is not known, or a folder that cannot be written.
    """
    texts = {
        "runs.csv": runs_csv(collected.frame),
        "sweep.json": json.dumps(_about(plan), indent=1, ensure_ascii=False) + "\n",
    }
    texts |= tables.build(read_runs_csv(texts["runs.csv"]), _sweep(_about(plan)))
    folder = output_dir(results_dir, plan.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(folder / name, text.encode())
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another results_dir") from None
    return [folder / name for name in texts]


def write_figures(plan: Plan, results_dir: Path) -> list[Path]:
    """Draws the figures that the sweep asks for, of what is done; returns their paths."""
    if not plan.figures:
        return []
    from ebmbench.report import data, plots, rendering  # matplotlib only when asked for

    results = data.find([plan.name], results_dir)
    paths: list[Path] = []
    for name in plan.figures if len(results.frame) else ():
        made = getattr(plots, name)(results)
        figures = [made] if isinstance(made, rendering.Figure) else list(made or ())
        for figure in figures:
            paths += rendering.save_figure(figure, output_dir(results_dir, plan.name) / "figures")
    return paths


def runs_csv(frame: pd.DataFrame) -> str:
    """The tidy table as CSV, numbers to their last digit."""
    return frame.to_csv(index=False, lineterminator="\n")


def read_runs_csv(text: str) -> pd.DataFrame:
    """What `runs_csv` wrote."""
    return _parse_csv(text, dtype={"dataset": str, "commit": str, "error": str})


def _parse_csv(text: str, **options: Any) -> pd.DataFrame:
    """Numbers to their last digit: what pandas 3 does unasked, and warns of being asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pd.read_csv(io.StringIO(text), float_precision="round_trip", **options)


def _about(plan: Plan) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "algorithms": ALGORITHMS,
        "name": plan.name,
        "description": plan.description,
        # Tables are published: where the data lay is this machine's own.
        "overrides": [re.sub(r"^(task\.data\.root=).*", r"\1…", text) for text in plan.overrides],
        "axes": list(plan.axes),
        "tables": list(plan.tables),
        "figures": list(plan.figures),
    }


def _sweep(about: dict[str, Any]) -> tables.Sweep:
    return tables.Sweep(about["name"], about["description"], tuple(about["tables"]), tuple(about["axes"]))


def load(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The tidy table and the description of a collected sweep.

    Raises:
        UserError: a file is missing, damaged or of another version.
    """
    try:
        about = json.loads((folder / "sweep.json").read_text())
        frame = read_runs_csv((folder / "runs.csv").read_text())
        version = about["schema"], about["algorithms"]
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is missing: python -m ebmbench sweep collect {folder.name} makes it"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is damaged: python -m ebmbench sweep collect {folder.name} makes it again") from None
    if version != (SCHEMA, ALGORITHMS):
        raise UserError(
            f"{folder} is of version {version[0]}.{version[1]}, and this ebmbench reads {SCHEMA}.{ALGORITHMS}"
        )
    return frame, about


def check(name: str, results_dir: Path) -> list[str]:
    """What of a collected sweep does not follow from its runs: tables from runs.csv, and that from the run directories
    that are there. Empty if all is well.
    """
    folder = output_dir(results_dir, name)
    frame, about = load(folder)
    faults = []
    for file, text in tables.build(frame, _sweep(about)).items():
        try:
            written = (folder / file).read_text()
        except OSError:
            faults.append(f"{folder / file} is missing")
            continue
        if written != text:
            faults.append(f"{folder / file} does not follow from runs.csv: {_first_difference(written, text)}")
    if (sweep_dir(results_dir, name) / "plan.json").exists():
        faults += _check_runs(folder, frame, read_plan(results_dir, name), results_dir)
    return faults


def _check_runs(folder: Path, frame: pd.DataFrame, plan: Plan, results_dir: Path) -> list[str]:
    fresh = read_runs_csv(runs_csv(collect(plan, results_dir).frame))
    there = {run for run in set(fresh["run_id"]) if (results_dir / "runs" / run).is_dir()}
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    old = {(row["run_id"], row["seed"]): row for row in rows}
    faults = _check_added(folder, rows, fresh.to_dict("records"), results_dir)
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
    """Rows of runs.csv that no plan and no run gives, and rows that are there twice."""
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
