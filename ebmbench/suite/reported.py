"""What is checked of a submission without its code: files, jobs, seeds, the number of trials and what they chose."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ebmbench.core.errors import shown
from ebmbench.core.plugins import COPY
from ebmbench.core.sources import digest, read_copy
from ebmbench.engine.runs import FINISHED
from ebmbench.report import frame, settings
from ebmbench.report.frame import Results, task_of
from ebmbench.report.planned import Job, Plan, is_name, read_plan
from ebmbench.report.search import REPEAT, TRIAL
from ebmbench.suite import suite as suites
from ebmbench.suite.submission import RECORD, Refused, Submission
from ebmbench.suite.suite import Entry, Suite

_SOURCE = re.compile(r"((?:[^/]+/){2}plugins/([0-9a-f]{32}))/")


def checked(suite: Suite, entry: Entry, folder: Path, submission: Submission, is_trials: bool) -> Results:
    """Returns the results of one of the two plans after all that can be checked without the entry's code.

    Raises:
        Refused: a job or a run is not the suite's.
    """
    if not is_name(entry.name):
        raise Refused(f"{RECORD} has an entry without a name")
    plan = read_plan(folder, entry.plan_name(suite, is_trials), with_plugins=False)
    _need_jobs(suite, plan, is_trials)
    known = {job.run_id for kind in (True, False) for job in _plan_jobs(folder, entry.plan_name(suite, kind))}
    strange = {name.split("/")[1] for name in submission.files if name.startswith("runs/")} - known
    if strange:
        raise Refused(f"the run {min(strange)} is in no plan")
    results = frame.of_plan(plan, folder)
    for run in results.runs:
        if run.state == "damaged":
            raise Refused(f"{run.job.run_id}: {run.detail.replace(f'{folder}/', '')}")
        if run.state in FINISHED and run.status is not None and list(run.seeds) != run.status.seeds:
            raise Refused(f"{run.job.run_id} has other seeds than its job")
        kept = frame.read_run(run.folder).config if run.state in FINISHED else {}
        if kept and settings.flat(kept) != settings.flat(run.config):
            raise Refused(f"{run.job.run_id} has other settings than its job")
    if results.done.empty:
        raise Refused(f"no run of {plan.name} is finished")
    return results


def need_sources(suite: Suite, folder: Path, submission: Submission) -> None:
    """Refuses plug-ins that are no copies, or whose sources are not those of their hash. None of them is executed."""
    entries: dict[str, str] = {}
    for name in submission.plugins:
        match = COPY.fullmatch(name)
        place = f"sweeps/{Entry(submission.entry, ()).plan_name(suite, is_trials=False)}/{name}"
        if match is None or not name.startswith("plugins/") or place not in submission.files:
            raise Refused(f"{shown(name)} is no copy of a plug-in in the folder of its runs")
        entries[match["hash"]] = match["entry"]
    roots = {match[1]: match[2] for name in submission.files if (match := _SOURCE.match(name))}
    for root, sha256 in roots.items():
        found = read_copy(folder / root, entries.get(sha256, ""))
        entry = next((key for key, source in found.items() if source.place == entries.get(sha256)), None)
        if entry is None or digest(entry, {key: source.data for key, source in found.items()}) != sha256:
            raise Refused(f"the files of {root} are not those of the plug-in {sha256}")


def _plan_jobs(folder: Path, name: str) -> tuple[Job, ...]:
    return read_plan(folder, name, with_plugins=False).jobs


def _need_jobs(suite: Suite, plan: Plan, is_trials: bool) -> None:
    """Refuses a plan that has not the cells of the suite, each once; of trials, each with the suite's number."""
    wanted = Counter(suites.cells(suite, is_trials))
    draws = task_of(str(plan.jobs[0].config["task"]["name"])).draw_settings
    own = Counter(suites.cell_of(job.config, draws) for job in plan.jobs)
    if own.keys() != wanted.keys():
        raise Refused(f"the jobs of {plan.name} are on other data or seeds than {suite.name}")
    about = suite.about.tune
    assert about is not None
    searches = plan.axes[-1:] != (TRIAL,)
    each = about.trials * about.repeats if is_trials and searches else 1
    for cell, count in own.items():
        if count != wanted[cell] * each:
            raise Refused(f"{plan.name} has {count} jobs on {cell[0]}, {cell[1]}, and {suite.name} has {each}")
    if is_trials and searches:
        places = Counter((job.axes.get(REPEAT), job.axes.get(TRIAL)) for job in plan.jobs)
        if places.keys() != {(r, t) for r in range(about.repeats) for t in range(about.trials)}:
            raise Refused(f"the trials of {plan.name} are not numbered as those of {suite.name}")


def need_chosen(found: Results, chosen: dict[str, dict[str, Any]]) -> None:
    """Refuses runs whose settings are not those that the trials chose by validation data."""
    for run in found.runs:
        values = chosen.get(f"{run.task}/{run.config['data_option']}", {})
        for key, value in values.items():
            own = run.settings.get(key)
            if own != settings.comparable(value) and not _is_close(own, value):
                raise Refused(f"{run.job.run_id} has {key}={own}, and the trials chose {value}")


def _is_close(one: Any, other: Any) -> bool:
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return numbers and math.isclose(one, other, rel_tol=1e-9)
