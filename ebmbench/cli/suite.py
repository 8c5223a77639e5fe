"""`ebmbench suite`: run, receive, build."""

from __future__ import annotations

import sys
from pathlib import Path

from ebmbench.cli import launcher
from ebmbench.cli.parser import Arguments
from ebmbench.cli.sweep import DEFAULT_LAUNCHER
from ebmbench.core import plugins
from ebmbench.core.errors import UserError, counted
from ebmbench.engine.runs import FINISHED
from ebmbench.report.frame import Results
from ebmbench.report.planned import Plan, read_plan, sweep_dir
from ebmbench.suite import suite as suites
from ebmbench.suite.pack import pack
from ebmbench.suite.suite import Entry, Suite
from ebmbench.sweep import collect
from ebmbench.sweep.submit import submit

LAUNCH = ("results_dir", "device", "threads", "checkpoint_seconds")
"""Settings that change where and how runs are carried out, and none of their results."""


def run(arguments: Arguments) -> int:
    """Tunes and runs an entry, and packs it; returns the exit code: 0 it is packed, 1 a run or check failed."""
    options = arguments.options
    suite = suites.read(_one(arguments, "NAME, such as ebm-1d-v1"))
    suites.need_algorithms(suite)
    words, where = launcher.split(arguments.settings)
    launch = [word for word in words if word.partition("=")[0] in LAUNCH]
    own = [word for word in words if word not in launch]
    results_dir = arguments.results_dir([word for word in launch if word.startswith("results_dir=")]).absolute()
    entry = suites.entry_of(own, options["plugins"] or [], options["name"])
    preset, jobs, dry_run = where.preset(DEFAULT_LAUNCHER), arguments.number("jobs"), options["dry_run"]
    trials = suites.trials_plan(suite, entry, launch)
    _refuse_another(entry, suite, trials, results_dir)
    if not dry_run and not (sweep_dir(results_dir, trials.name) / "plan.json").exists() and _check(entry):
        return 1
    code = submit(trials, results_dir, preset, jobs, dry_run, is_new=True)
    if dry_run or code not in (0, 1):
        return code
    trials = read_plan(results_dir, trials.name)
    found = collect.collect(trials, results_dir)
    if _says_what_is_left(found, "trial is", "trials are"):
        return 1
    plan = suites.runs_plan(suite, entry, suites.chosen_by(found), launch)
    code = submit(plan, results_dir, preset, jobs, dry_run=False, is_new=True)
    if code not in (0, 1):
        return code
    plan = read_plan(results_dir, plan.name)
    if _says_what_is_left(collect.collect(plan, results_dir), "run is", "runs are"):
        return 1
    out = Path(options["out"] or "submission.zip")
    about = {"author": options["author"] or "unnamed", "licence": options["licence"] or "MIT"}
    pack(suite, entry, [trials, plan], results_dir, about, out)
    print(f"{out}: {entry.name} in {suite.name}, with {counted(len(trials.jobs), 'trial')} and its runs")
    return code


def _says_what_is_left(found: Results, one: str, many: str) -> bool:
    """Says how many runs of a plan are not done; returns whether there are any."""
    left = sum(run.state not in (*FINISHED, "failed") for run in found.runs)
    if left:
        print(f"{counted(left, one, many)} not done; the same command goes on", file=sys.stderr)
    return left > 0


def receive(arguments: Arguments) -> int:
    """Checks a submission and keeps it; returns the exit code: 0 it is kept, 2 it is refused."""
    from ebmbench.suite.receive import receive as receive_file

    path = Path(_one(arguments, "submission.zip"))
    again = arguments.number("again", least=0)
    record = receive_file(path, arguments.results_dir(), 3 if again is None else again)
    print(f"{record.entry} in {record.suite}, by {record.author}: {record.level}")
    print("\n".join(record.notes))
    return 0


def build(arguments: Arguments) -> int:
    """Writes the board; returns 0."""
    from ebmbench.suite.board import write

    if arguments.names:
        raise UserError(f"suite build takes results_dir=DIR, and got {arguments.names[0]}")
    results_dir = arguments.results_dir()
    out = Path(arguments.options["out"] or results_dir / "board")
    print("\n".join(map(str, write(results_dir, out))))
    return 0


def _one(arguments: Arguments, what: str) -> str:
    if len(arguments.names) != 1:
        raise UserError(f"{arguments.command.name} takes one {what}")
    return arguments.names[0]


def _check(entry: Entry) -> bool:
    """Puts the plug-ins of an entry through the contract; returns whether something of them fails."""
    from ebmbench.check.components import main

    return any([main(name) for name in entry.plugins if plugins.load_one(name).components])


def _refuse_another(entry: Entry, suite: Suite, trials: Plan, results_dir: Path) -> None:
    """Keeps an entry apart from another one of the same name, whose plan it would take the place of."""
    if (sweep_dir(results_dir, trials.name) / "plan.json").exists():
        old = read_plan(results_dir, trials.name, with_plugins=False)
        names = [{word for word in plan.overrides if word.startswith(suites.OWN)} for plan in (old, trials)]
        if names[0] != names[1]:
            raise UserError(f"--name: {entry.name} in {suite.name} is {' '.join(sorted(names[0]))}; give another name")
