"""Joins results that several machines made in folders of their own."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.engine.runs import FINISHED
from ebmbench.report.planned import is_name, read_plan, sweep_dir
from ebmbench.sweep.plan import make_folder
from ebmbench.system.files import write_atomically
from ebmbench.system.locking import Lock


def merge(folders: list[Path], results_dir: Path) -> int:
    """Copies the finished runs of other results folders into `results_dir`, and the plans that it lacks.

    A run that is finished there stays as it is. Every file is checked against its checksum on the way, and a run
    appears whole or not at all. The command can be repeated at any time.

    Returns:
        0; 1 where a run could not be copied.

    Raises:
        UserError: a folder is no results folder, or `results_dir` cannot be written.
    """
    for folder in folders:
        if not (folder / "runs").is_dir():
            raise UserError(f"{str(folder)!r} is no results folder: it has no folder 'runs'")
    make_folder(results_dir / "runs", results_dir)
    said: Counter[str] = Counter()
    for folder in folders:
        for run_dir in sorted(path for path in (folder / "runs").iterdir() if path.is_dir()):
            try:
                said[_copy_run(run_dir, results_dir / "runs" / run_dir.name)] += 1
            except UserError as error:
                said["left out"] += 1
                print(f"ebmbench: {run_dir} is left out: {error}", file=sys.stderr)
        for plan in sorted(folder.glob("sweeps/*/plan.json")):
            target = sweep_dir(results_dir, plan.parent.name)
            if not (target / "plan.json").exists():
                read_plan(folder, plan.parent.name)  # refuses one that is no plan
                make_folder(target, results_dir)
                if (plan.parent / "plugins").is_dir():
                    shutil.copytree(plan.parent / "plugins", target / "plugins", dirs_exist_ok=True)
                write_atomically(target / "plan.json", plan.read_bytes())
    print(", ".join(f"{count} {what}" for what, count in sorted(said.items())) or "there are no runs")
    return 1 if said["left out"] else 0


def _copy_run(source: Path, target: Path) -> str:
    """Copies a run in the way in which `force=true` publishes one; returns what was done."""
    status = runs.read_status(source)
    if status is None or status.state != "done":
        return "unfinished"
    if status.run_id != source.name or not is_name(source.name):
        raise UserError(f"status.json is of another run, {status.run_id}")
    if runs.read_state(target) in FINISHED:
        return "there already"
    target.mkdir(exist_ok=True)
    lock = Lock(target / "lock")
    lock.acquire()
    try:
        for name in (*sorted(status.outputs), "status.json"):  # the status last: it says that all is there
            copy = target / "attempt" / name
            if target.resolve() not in copy.resolve().parents:
                raise UserError(f"status.json names {name}, which is not in the run's folder")
            data = (source / name).read_bytes() if name == "status.json" else runs.read_output(source, name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(copy, data)
        runs.finish_promotion(target)
    finally:
        lock.release()
    return "copied"
