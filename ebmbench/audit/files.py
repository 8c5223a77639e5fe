"""Checks the runs of a results folder, and makes damaged ones ready to be computed again: `ebmbench audit files`."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from ebmbench.core.errors import UserError, counted, printable
from ebmbench.engine import runs
from ebmbench.report import collected, frame
from ebmbench.report.planned import read_plan
from ebmbench.system.locking import Lock, is_held

STRAY_SECONDS = 3600.0
"""A temporary file outside of the run directories is deleted when it is this old: nobody writes it any more."""
ASIDE = "damaged"
"""The folder in `results_dir` for run directories that nothing can be said of."""


@dataclass(frozen=True)
class Finding:
    """What was found in a run directory.

    Args:
        state: as `runs.read_state` gives it; unknown where the run is of another version.
        damage: why its result cannot be used; empty where it can, or where the run is not finished.
        notes: what is worth knowing and does no harm.
    """

    run_dir: Path
    state: str
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What `check_results` found: every run directory, and the temporary files that killed processes left."""

    results_dir: Path
    findings: list[Finding]
    stray: list[Path]
    sweeps: dict[str, list[str]] = field(default_factory=dict)
    """Of each collected sweep and each plan, what is wrong with it."""

    @property
    def damaged(self) -> list[Finding]:
        """Returns the runs whose result cannot be used."""
        return [finding for finding in self.findings if finding.damage]


def check_results(results_dir: Path) -> Report:
    """Reads every file of every finished run, plan and collected sweep in `results_dir`; changes nothing.

    Raises:
        UserError: there are no runs and no collected sweeps, or a file cannot be read.
    """
    root = results_dir / "runs"
    collections = sorted(path.parent for path in results_dir.glob(f"*/{collected.NAME}"))
    if not root.is_dir() and not collections:
        raise UserError(f"{str(results_dir)!r} is no results folder: it has no folder 'runs', and no collected sweep")
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    findings = [_check_run(folder) for folder in tqdm(folders, unit="run", leave=False, disable=None)]
    sweeps = {folder.name: _check_sweep(folder) for folder in collections}
    for path in sorted(results_dir.glob("sweeps/*/plan.json")):
        try:
            read_plan(results_dir, path.parent.name, with_plugins=False)
        except UserError as error:
            sweeps.setdefault(path.parent.name, []).append(str(error))
    return Report(results_dir, findings, _stray_files(results_dir), sweeps)


def _check_sweep(folder: Path) -> list[str]:
    """Returns what is wrong with the files of a collected sweep."""
    try:
        found = collected.faults(folder)
        if not found:
            frame.load(folder)
        return found
    except (UserError, FileNotFoundError) as error:
        return [str(error)]


def repair_results(report: Report) -> list[str]:
    """Makes damaged runs ready to be computed again and deletes stray temporary files; returns a text for each.

    Nothing that a run wrote is deleted. Where `status.json` can be read, it now says that the run failed, and the next
    start computes the run again in the same folder. Otherwise the folder is moved to `<results_dir>/damaged/`.
    """
    done = [_repair_run(finding.run_dir, report.results_dir / ASIDE) for finding in report.damaged]
    for path in report.stray:
        try:
            path.unlink(missing_ok=True)
            done.append(f"{path} is deleted")
        except OSError as error:
            done.append(f"{path} is left as it is ({error.strerror})")
    return done


def main(results_dir: Path, repair: bool = False) -> int:
    """Checks a results folder, and repairs it if asked to.

    Returns:
        The exit code: 0 if no run is damaged or all were repaired, 1 if one is damaged.

    Raises:
        UserError: it is no results folder, or a file cannot be read.
    """
    report = check_results(results_dir)
    for finding in report.findings:
        for text in finding.damage:
            print(printable(f"damaged: {finding.run_dir}: {text}"), file=sys.stderr)
        for text in finding.notes:
            print(printable(f"note: {finding.run_dir}: {text}"), file=sys.stderr)
    for path in report.stray:
        print(f"note: {path} was left by a process that was killed", file=sys.stderr)
    for texts in report.sweeps.values():
        for text in texts:
            print(printable(f"damaged: {text}"), file=sys.stderr)
    whole = sum(finding.state in runs.FINISHED for finding in report.findings)
    rest = len(report.findings) - whole - len(report.damaged)
    print(f"{len(report.findings)} runs: {whole} finished and whole, {len(report.damaged)} damaged, {rest} unfinished")
    bad_sweeps = sum(bool(texts) for texts in report.sweeps.values())
    if report.sweeps:
        print(f"{counted(len(report.sweeps), 'sweep')}: {bad_sweeps} damaged")
    if not repair:
        if report.damaged:
            print("run it with --repair, then start the damaged runs again")
        return 1 if report.damaged or bad_sweeps else 0
    print("\n".join(repair_results(report) or ["there is nothing to repair"]))
    return 1 if bad_sweeps or any(_check_run(finding.run_dir).damage for finding in report.damaged) else 0


def _check_run(run_dir: Path) -> Finding:
    try:
        status = runs.read_status(run_dir)
    except runs.Damaged:
        return Finding(run_dir, "damaged", ["status.json is damaged"])
    except UserError as error:
        return Finding(run_dir, "unknown", notes=[str(error)])
    if status is None:
        files = runs.output_files(run_dir)
        return Finding(run_dir, "missing", notes=[f"it has {files[0].name} and no status.json"] if files else [])
    if status.run_id != run_dir.name:
        return Finding(run_dir, "damaged", [f"status.json is of another run, {status.run_id}"])
    check = runs.inspect(run_dir)
    return Finding(run_dir, "damaged" if check.damage else runs.read_state(run_dir), check.damage, check.notes)


def _stray_files(results_dir: Path) -> list[Path]:
    found = []
    for path in results_dir.rglob("*.tmp"):
        run_dir = next((parent for parent in path.parents if parent.parent == results_dir / "runs"), None)
        try:
            old = time.time() - path.stat().st_mtime > STRAY_SECONDS
        except FileNotFoundError:
            continue
        if old if run_dir is None else not is_held(run_dir / "lock"):
            found.append(path)
    return sorted(found)


def _repair_run(run_dir: Path, aside: Path) -> str:
    lock = Lock(run_dir / "lock")
    try:
        lock.acquire()
    except UserError as error:
        return f"{run_dir} is left as it is: {error}"
    except OSError as error:
        return f"{run_dir} is left as it is: it cannot be written ({error.strerror})"
    try:
        runs.finish_promotion(run_dir)
        finding = _check_run(run_dir)
        if not finding.damage:
            return f"{run_dir} is whole by now"
        try:
            status = runs.read_status(run_dir)
        except runs.Damaged:
            status = None
        if status is not None and status.run_id == run_dir.name:
            failed = replace(status, state="failed", error=f"damaged: {finding.damage[0]}", outputs={}, finished=None)
            runs.write_status(run_dir, failed)
            return f"{run_dir} will be computed again"
        aside.mkdir(exist_ok=True)
        target = next(p for n in range(1, 10**6) if not (p := aside / f"{run_dir.name}.{n}").exists())
        os.rename(run_dir, target)
        for name in ("lock", "lock.alive"):
            (target / name).unlink(missing_ok=True)
        return f"{run_dir} is moved to {target}, and will be computed again"
    except OSError as error:
        return f"{run_dir} is left as it is: it cannot be written ({error.strerror})"
    finally:
        lock.release()
