"""Receives a submission, and says how far it is checked: reported, rescored or verified.

*Reported*: all files are whole, the jobs are the suite's, with its number of trials, and the runs use what the trials
chose. Nothing of the submission is executed for it. *Rescored* and *verified*: see `judge`.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ebmbench.config import folders
from ebmbench.core import trust
from ebmbench.core.errors import UserError
from ebmbench.core.plugins import COPY
from ebmbench.core.sources import digest, read_copy
from ebmbench.engine import runs
from ebmbench.engine.runs import FINISHED
from ebmbench.report import frame, settings
from ebmbench.report.frame import Results, task_of
from ebmbench.report.planned import Plan, is_name, read_plan
from ebmbench.report.search import REPEAT, TRIAL
from ebmbench.suite import suite as suites
from ebmbench.suite.submission import RECORD, SCHEMA, Refused, Submission, unpack
from ebmbench.suite.suite import Entry, Suite
from ebmbench.system import seal
from ebmbench.system.files import fingerprint_of_file, write_atomically

LEVELS = ("reported", "rescored", "verified")
_SOURCE = re.compile(r"((?:[^/]+/){2}plugins/([0-9a-f]{32}))/")
MOST_SECONDS = 4 * 3600
"""That scoring and training again may take."""


@dataclass(frozen=True)
class Received:
    """A submission on the board, as its JSON file has it.

    Attributes:
        level: one of LEVELS.
        notes: sentences: what was compared, and why the level is not a higher one.
        nonce: drawn after receipt; it chose what was trained again.
        rows: of the runs, as `runs.csv` has them.
    """

    suite: str
    suite_sha256: str
    entry: str
    words: list[str]
    author: str
    licence: str
    sha256: str
    received: str
    level: str
    packages: dict[str, str | None]
    chosen: dict[str, dict[str, Any]]
    axes: list[str]
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    nonce: str = ""
    isolated: bool = False
    schema: int = SCHEMA


def receive(path: Path, results_dir: Path, again: int) -> Received:
    """Checks a submission, keeps it in `<results_dir>/received/`, and returns its record.

    Args:
        again: how many (setting, seed) pairs are trained again; 0: none.

    Raises:
        Refused: it is not what it says it is; nothing of it is kept.
        UserError: it cannot be read, or its suite is not known here.
    """
    with _unpacked(path, results_dir / "received") as (folder, submission):
        suite = suites.read(submission.suite)
        suites.need_algorithms(suite)
        if submission.suite_sha256 != suite.sha256:
            raise Refused(f"its {suite.name} has the hash {submission.suite_sha256}, and ours {suite.sha256}")
        entry = Entry(submission.entry, tuple(submission.words))
        _need_sources(folder, submission)
        trials, found = (_checked(suite, entry, folder, submission, is_trials) for is_trials in (True, False))
        chosen = suites.chosen_by(trials)
        _need_chosen(found, chosen)
        copies = {match["hash"]: None for name in submission.plugins if (match := COPY.fullmatch(name))}
        lacking = [sha256 for sha256 in copies if not trust.is_accepted(sha256)]
        level, notes, nonce, isolated = "reported", [], "", False
        if lacking:
            notes = [f"its plug-in is not accepted: read it, then receive it again with --trust {lacking[0]}"]
        else:
            nonce = secrets.token_hex(8)
            level, notes, isolated = _judged(folder, suite, submission, again, nonce, list(copies))
        rows = json.loads(found.frame.to_json(orient="records"))
        known = {key: getattr(submission, key) for key in ("suite_sha256", "words", "author", "licence", "packages")}
        sha256 = fingerprint_of_file(path)[:64]
        record = Received(
            suite=suite.name, entry=entry.name, sha256=sha256, received=runs.now(), level=level, chosen=chosen,
            axes=list(found.axes), rows=rows, notes=notes, nonce=nonce, isolated=isolated, **known,
        )  # fmt: skip
        target = results_dir / "received" / suite.name
        _keep(folder, target / sha256[:12])
        write_atomically(target / f"{sha256[:12]}.json", seal.encode(asdict(record)))
    return record


@contextmanager
def _unpacked(path: Path, root: Path) -> Iterator[tuple[Path, Submission]]:
    """Gives a folder with the files of a submission, and its record; the folder goes at the end if it is still there."""
    if not path.is_file():
        raise UserError(f"{str(path)!r} is not a file; give a submission.zip")
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    try:
        submission = unpack(path, folder)
        yield folder, submission
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep(folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    os.replace(folder, target)
    target.chmod(0o755)


# ----------------------------------------------------------------------------------------------- what is reported


def _checked(suite: Suite, entry: Entry, folder: Path, submission: Submission, is_trials: bool) -> Results:
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


def _need_sources(folder: Path, submission: Submission) -> None:
    """Refuses plug-ins whose sources are not those of their hash. Nothing of them is executed."""
    entries = {match["hash"]: match["entry"] for name in submission.plugins if (match := COPY.fullmatch(name))}
    roots = {match[1]: match[2] for name in submission.files if (match := _SOURCE.match(name))}
    for root, sha256 in roots.items():
        found = read_copy(folder / root, entries.get(sha256, ""))
        entry = next((key for key, source in found.items() if source.place == entries.get(sha256)), None)
        if entry is None or digest(entry, {key: source.data for key, source in found.items()}) != sha256:
            raise Refused(f"the files of {root} are not those of the plug-in {sha256}")


def _plan_jobs(folder: Path, name: str) -> Sequence[Any]:
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


def _need_chosen(found: Results, chosen: dict[str, dict[str, Any]]) -> None:
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


# ------------------------------------------------------------------------------------------------- what is executed


def _judged(
    folder: Path, suite: Suite, submission: Submission, again: int, nonce: str, accepted: list[str]
) -> tuple[str, list[str], bool]:
    """Scores and trains again in a process of its own; returns the level, notes, and whether it had no network.

    Raises:
        Refused: what our code computes is not what was submitted.
    """
    alone = ["unshare", "--map-root-user", "--net"]
    can_be_alone = shutil.which("unshare") is not None and _succeeds([*alone, "true"])
    extra = [str(path) for path in folders.config_dirs()[1:]]
    order = {"folder": str(folder), "suite": suite.name, "entry": submission.entry, "words": submission.words}
    order |= {"plugins": submission.plugins, "again": again, "nonce": nonce, "accepted": accepted, "config_dirs": extra}
    command = [*(alone if can_be_alone else []), sys.executable, "-m", "ebmbench.suite.judge"]
    kept = ("PATH", "HOME", "LANG", "PYTHONPATH", "XDG_CACHE_HOME", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    environment = {key: os.environ[key] for key in kept if key in os.environ}
    try:
        done = subprocess.run(
            command, input=json.dumps(order), env=environment, capture_output=True, text=True, timeout=MOST_SECONDS,
            check=False,
        )  # fmt: skip
        said = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return "reported", [f"scoring it took more than {MOST_SECONDS} s"], can_be_alone
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return "reported", [f"it could not be scored ({last[:200]})"], can_be_alone
    if said["faults"]:
        raise Refused("; ".join(said["faults"][:3]))
    return said["level"], said["notes"], can_be_alone


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


# ------------------------------------------------------------------------------------------------------ its record


def read_received(results_dir: Path) -> list[Received]:
    """Returns the records of all submissions that were received, in the order of receipt.

    Raises:
        UserError: one is damaged, or of another version.
    """
    found = []
    for path in sorted((results_dir / "received").glob("*/*.json")):
        try:
            raw = seal.decode(path.read_bytes(), SCHEMA)
            raw.pop(seal.KEY)
            found.append(Received(**raw))
        except (seal.Broken, seal.OtherVersion, TypeError, OSError) as error:
            raise UserError(f"{path} is damaged or of another version ({error}): receive the submission again") from None
    return sorted(found, key=lambda record: record.received)


def table(record: Received) -> pd.DataFrame:
    """Returns the rows of a record as a table of runs."""
    return pd.DataFrame(record.rows)
