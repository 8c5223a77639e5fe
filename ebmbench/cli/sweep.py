"""Sweeps: `python -m ebmbench sweep submit|resume|status|collect|tables|check NAME`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ebmbench.report.planned import Plan

HELP = """\
python -m ebmbench sweep COMMAND NAME [options] [key=value ...]

  submit NAME    run the jobs of sweeps/NAME.yaml that have no result yet; key=value overrides settings, or the grid
                 (method=nce,nce+), or the launcher's (hydra.launcher.partition=gpu). The settings are frozen now.
  resume NAME    submit again what failed or is missing, with the settings that were frozen then
  status NAME    done, running, queued, failed, diverged, interrupted and missing jobs, and why
  collect NAME   tables and figures from what is done, into <results_dir>/NAME/
  tables NAME    the tables again, from the runs.csv that collect left there
  check NAME     fails if a table there does not follow from its runs

options
  --launcher local|local_parallel|slurm|slurm_gpu   where (conf/hydra/launcher/); local_parallel if not said
  --jobs N             local: at most so many jobs at a time
  --seeds-per-job N    split the seeds of a setting into jobs of so many
  --dry-run            say what would be submitted, about how long and how much memory, and do nothing
  --all                status: every job that is not done, however many
  results_dir=DIR      where results are (default: results)

sweeps  {sweeps}
"""
COMMANDS = ("submit", "resume", "status", "collect", "tables", "check")
OPTIONS = {
    "submit": ("--launcher", "--jobs", "--seeds-per-job", "--dry-run"),
    "resume": ("--launcher", "--jobs", "--dry-run"),
    "status": ("--all",),
    "collect": (),
    "tables": (),
    "check": (),
}
_FLAGS = ("--dry-run", "--all")


def main(argv: list[str]) -> int:
    """Runs a command; returns the exit code: 0 all is well, 1 a job failed or a check did, 130 stopped.

    Raises:
        UserError: with one sentence, for bad input.
    """
    from ebmbench.config.compose import known_sweeps
    from ebmbench.core.errors import UserError
    from ebmbench.sweep.plan import is_launcher

    if not argv or argv[0] in ("-h", "--help") or {"-h", "--help"} & set(argv):
        print(HELP.format(sweeps=" ".join(known_sweeps()) or "none"), end="")
        return 0 if argv else 2
    command = argv[0]
    if command not in COMMANDS:
        raise UserError(f"sweep {command} is not a command; choose from {', '.join(COMMANDS)}")
    options, words = _parse(command, argv[1:])
    names = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(names) != 1:
        raise UserError(
            f"sweep {command} takes one NAME, and got {' '.join(names) or 'none'}; "
            f"there are {', '.join(known_sweeps()) or 'no sweeps'}"
        )
    if command == "submit":
        return _submit(names[0], overrides, options)
    results_dir, name, rest = _place(names[0], overrides)
    others = [text for text in rest if command != "resume" or not is_launcher(text)]
    if others:
        raise UserError(f"sweep {command} takes results_dir=DIR and no other setting, and got {others[0]}")
    if command == "resume":
        return _resume(name, results_dir, rest, options)
    if command == "status":
        return _status(name, results_dir, "--all" in options)
    return {"collect": _collect, "check": _check, "tables": _tables}[command](name, results_dir)


def _parse(command: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options and the rest."""
    from ebmbench.core.errors import UserError

    options: dict[str, str] = {}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--"):
            rest.append(word)
            continue
        key, equals, value = word.partition("=")
        if key not in OPTIONS[command]:
            allowed = ", ".join(OPTIONS[command]) or "none"
            raise UserError(f"{key} is not an option of sweep {command}; there are: {allowed}")
        if key not in _FLAGS and not equals:
            if not queue:
                raise UserError(f"{key} needs a value")
            value = queue.pop(0)
        options[key] = value
    return options, rest


def _number(options: dict[str, str], key: str) -> int | None:
    from ebmbench.core.errors import UserError

    if key not in options:
        return None
    text = options[key]
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{key}={text} is not allowed: give a number from 1")
    return int(text)


def _place(name: str, overrides: list[str]) -> tuple[Path, str, list[str]]:
    """The results folder, the sweep's name, and the other overrides; NAME may be a sweep's own folder."""
    given = [text for text in overrides if text.startswith("results_dir=")]
    results_dir = Path(given[-1].partition("=")[2].strip("'\"") if given else "results")
    folder = Path(name)
    if not given and (folder / "plan.json").is_file():
        results_dir = folder.parent.parent
    elif not given and (folder / "sweep.json").is_file():
        results_dir = folder.parent
    return results_dir, folder.name, [text for text in overrides if text not in given]


def _submit(name: str, overrides: list[str], options: dict[str, str]) -> int:
    from ebmbench.engine.runs import commit
    from ebmbench.report.planned import read_plan, sweep_dir
    from ebmbench.sweep.plan import is_launcher, make_plan
    from ebmbench.sweep.submit import submit

    plan = make_plan(name, overrides, commit(), _number(options, "--seeds-per-job"))
    results_dir = Path(str(plan.jobs[0].config["results_dir"])).expanduser().absolute()
    launcher_keys = [text for text in overrides if is_launcher(text)]
    launcher = options.get("--launcher") or _launcher(launcher_keys) or "local_parallel"
    launcher_keys = [text for text in launcher_keys if not text.startswith("hydra/launcher=")]
    dry_run = "--dry-run" in options
    if (sweep_dir(results_dir, plan.name) / "plan.json").exists():
        old = read_plan(results_dir, plan.name)
        kept = {job.run_id for job in old.jobs}
        new = [job for job in plan.jobs if job.run_id not in kept]
        gone = len(kept - {job.run_id for job in plan.jobs})
        if new or gone:
            print(f"{plan.name} has changed since {old.created}: {len(new)} jobs are new, {gone} no longer part of it")
    bound = _number(options, "--jobs")
    return submit(plan, results_dir, launcher, launcher_keys, bound, dry_run, is_new=True)


def _launcher(overrides: list[str]) -> str | None:
    given = [text.partition("=")[2] for text in overrides if text.startswith("hydra/launcher=")]
    return given[-1] if given else None


def _resume(name: str, results_dir: Path, overrides: list[str], options: dict[str, str]) -> int:
    from ebmbench.report.planned import read_plan
    from ebmbench.sweep.submit import submit

    plan = read_plan(results_dir, name)
    launcher = options.get("--launcher") or _launcher(overrides) or "local_parallel"
    keys = [text for text in overrides if not text.startswith("hydra/launcher=")]
    return submit(plan, results_dir, launcher, keys, _number(options, "--jobs"), "--dry-run" in options)


def _plan_of(name: str, results_dir: Path) -> Plan:
    """The plan as submitted; of a sweep that was run by Hydra's multirun, its file as it is now."""
    from ebmbench.config.compose import known_sweeps
    from ebmbench.engine.runs import commit
    from ebmbench.report.planned import read_plan, sweep_dir
    from ebmbench.sweep.plan import make_plan

    if not (sweep_dir(results_dir, name) / "plan.json").exists() and name in known_sweeps():
        plan = make_plan(name, [], commit())
        if any((results_dir / "runs" / job.run_id).is_dir() for job in plan.jobs):
            print(f"{name} was not submitted: its jobs are those of sweeps/{name}.yaml as it is now", file=sys.stderr)
            return plan
    return read_plan(results_dir, name)


def _status(name: str, results_dir: Path, everything: bool) -> int:
    from ebmbench.sweep.status import job_states, show

    plan = _plan_of(name, results_dir)
    print(show(plan, job_states(plan, results_dir), None if everything else 40))
    return 0


def _collect(name: str, results_dir: Path) -> int:
    from ebmbench.engine.runs import FINISHED
    from ebmbench.report.planned import sweep_dir
    from ebmbench.sweep import collect
    from ebmbench.sweep.plan import write_plan
    from ebmbench.sweep.status import counts

    plan = _plan_of(name, results_dir)
    if not (sweep_dir(results_dir, name) / "plan.json").exists():
        plan = write_plan(plan, results_dir)
    results = collect.collect(plan, results_dir)
    paths = collect.write(plan, results, results_dir) + collect.write_figures(plan, results, results_dir)
    lacking = [run for run in results.runs if run.state not in FINISHED]
    for run in lacking[:40]:
        print(f"not in the tables: {run.state:12}{run.job.run_id}  {run.detail}".rstrip(), file=sys.stderr)
    if len(lacking) > 40:
        print(f"not in the tables: {len(lacking) - 40} more", file=sys.stderr)
    print(f"{plan.name}: {counts(results.runs)}")
    print("\n".join(str(path) for path in paths))
    return 0


def _tables(name: str, results_dir: Path) -> int:
    from ebmbench.sweep.collect import write_tables

    print("\n".join(str(path) for path in write_tables(results_dir / name)))
    return 0


def _check(name: str, results_dir: Path) -> int:
    from ebmbench.sweep.collect import check

    faults = check(name, results_dir)
    for fault in faults:
        print(f"ebmbench: {fault}", file=sys.stderr)
    if not faults:
        print(f"{name}: every table follows from its runs")
    return 1 if faults else 0
