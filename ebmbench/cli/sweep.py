"""`ebmbench sweep`: submit, resume, work, merge, status, collect, best, tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from ebmbench.cli import launcher
from ebmbench.cli.parser import Arguments
from ebmbench.cli.report import say_lacking
from ebmbench.config.folders import known_sweeps
from ebmbench.core.errors import UserError, counted
from ebmbench.engine.runs import FINISHED, commit
from ebmbench.report import collected, frame
from ebmbench.report.planned import Plan, read_plan, sweep_dir
from ebmbench.sweep import best as best_settings
from ebmbench.sweep import collect as tables
from ebmbench.sweep import status as states
from ebmbench.sweep.merge import merge as merge_folders
from ebmbench.sweep.plan import make_plan, write_plan
from ebmbench.sweep.submit import submit as submit_plan
from ebmbench.sweep.work import work as work_on

DEFAULT_LAUNCHER = "local_parallel"


def submit(arguments: Arguments) -> int:
    """Runs what has no result yet; returns the exit code: 0 all is well, 1 a job failed, 130 stopped."""
    own, where = launcher.split(arguments.settings)
    plan = make_plan(_name(arguments), own, commit(), arguments.number("seeds-per-job"))
    results_dir = Path(str(plan.jobs[0].config["results_dir"])).expanduser().absolute()
    if (sweep_dir(results_dir, plan.name) / "plan.json").exists():
        old = read_plan(results_dir, plan.name)
        kept = {job.run_id for job in old.jobs}
        new = [job for job in plan.jobs if job.run_id not in kept]
        gone = len(kept - {job.run_id for job in plan.jobs})
        if new or gone:
            more = counted(len(new), "job is new", "jobs are new")
            print(f"{plan.name} has changed since {old.created}: {more}, {gone} no longer part of it")
    plan = replace(plan, launcher=tuple(where.words))
    if arguments.options["no_start"]:
        plan = write_plan(plan, results_dir)
        print(f"{plan.name}: {counted(len(plan.jobs), 'job')}; run python -m ebmbench sweep work {plan.name}")
        return 0
    return _submit(plan, results_dir, where, arguments, is_new=True)


def resume(arguments: Arguments) -> int:
    """Submits again what failed or is missing, where it ran before; returns the exit code, as `submit` does."""
    own, where = launcher.split(arguments.settings)
    results_dir, name = place(arguments, own)
    plan = read_plan(results_dir, name)
    if where.name is None and plan.launcher:
        _, where = launcher.split([*plan.launcher, *where.settings])
        print(f"{name}: {' '.join(where.words)}, as it was submitted", file=sys.stderr)
    return _submit(plan, results_dir, where, arguments, is_new=False)


def _submit(plan: Plan, results_dir: Path, where: launcher.Launcher, arguments: Arguments, is_new: bool) -> int:
    preset, jobs = where.preset(DEFAULT_LAUNCHER), arguments.number("jobs")
    return submit_plan(plan, results_dir, preset, jobs, arguments.options["dry_run"], is_new=is_new)


def work(arguments: Arguments) -> int:
    """Does jobs of a submitted sweep until none is left; returns the exit code, as `submit` does."""
    results_dir, name = place(arguments, arguments.settings)
    plan = read_plan(results_dir, name)
    code = work_on(plan, results_dir, arguments.number("jobs"))
    print(f"{plan.name}: {states.counts(states.job_states(plan, results_dir))}")
    return code


def merge(arguments: Arguments) -> int:
    """Copies the finished runs of other results folders; returns 1 if one could not be copied."""
    if not arguments.names:
        raise UserError("sweep merge takes DIR...: results folders of other machines")
    return merge_folders(list(map(Path, arguments.names)), arguments.results_dir())


def status(arguments: Arguments) -> int:
    """Prints what has become of the jobs."""
    results_dir, name = place(arguments, arguments.settings)
    plan = _plan_of(name, results_dir)
    print(states.show(plan, states.job_states(plan, results_dir), None if arguments.options["all"] else 40))
    return 0


def collect(arguments: Arguments) -> int:
    """Writes tables and figures of what is done, and names what is not in them; returns 1 if a run is damaged."""
    results_dir, name = place(arguments, arguments.settings)
    plan = _plan_of(name, results_dir)
    if not (sweep_dir(results_dir, name) / "plan.json").exists():
        plan = write_plan(plan, results_dir)
    results = tables.collect(plan, results_dir)
    paths = tables.write(plan, results, results_dir) + tables.write_figures(plan, results, results_dir)
    code = say_lacking(results, [state for state in states.STATES if state not in FINISHED])
    print(f"{plan.name}: {states.counts(results.runs)}")
    print("\n".join(str(path) for path in paths))
    return code


def best(arguments: Arguments) -> int:
    """Writes the settings that have the best validation score, and names what is not counted; returns as `collect`."""
    results_dir, name = place(arguments, arguments.settings)
    results = frame.find([name], results_dir, states.job_states)
    told = f"The best of the sweep {results.name}, by validation data: python -m ebmbench sweep best {results.name}"
    for path in best_settings.write(best_settings.best(results), results_dir / name, told):
        print(f"{path}\n{path.read_text()}")
    print(f"use them with --config-dir {results_dir / name}")
    return say_lacking(results, [state for state in states.STATES if state not in FINISHED])


def again(arguments: Arguments) -> int:
    """Writes the tables again from the runs.csv that `collect` left, without the runs."""
    results_dir, name = place(arguments, arguments.settings)
    if arguments.options["accept"]:
        collected.reseal(results_dir / name)
        print(f"{results_dir / name} is sealed as it is")
        return 0
    print("\n".join(str(path) for path in tables.write_tables(results_dir / name)))
    return 0


def _name(arguments: Arguments) -> str:
    """Returns the one NAME that a command takes."""
    if len(arguments.names) != 1:
        got, known = " ".join(arguments.names) or "none", ", ".join(known_sweeps()) or "no sweeps"
        raise UserError(f"{arguments.command.name} takes one NAME, and got {got}; there are {known}")
    return arguments.names[0]


def place(arguments: Arguments, settings: list[str]) -> tuple[Path, str]:
    """Returns the results folder and the sweep's name; NAME may be a sweep's own folder."""
    folder = Path(_name(arguments))
    results_dir = arguments.results_dir(settings)
    if not settings and (folder / "plan.json").is_file():
        return folder.parent.parent, folder.name
    if not settings and (folder / "sweep.json").is_file():
        return folder.parent, folder.name
    return results_dir, folder.name


def _plan_of(name: str, results_dir: Path) -> Plan:
    """Returns the plan as submitted; of a sweep that was run by a multirun, its file as it is now."""
    if not (sweep_dir(results_dir, name) / "plan.json").exists() and name in known_sweeps():
        plan = make_plan(name, [], commit())
        if any((results_dir / "runs" / job.run_id).is_dir() for job in plan.jobs):
            print(f"{name} was not submitted: its jobs are those of sweeps/{name}.yaml as it is now", file=sys.stderr)
            return plan
    return read_plan(results_dir, name)
