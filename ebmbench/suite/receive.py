"""Receives a submission, and says how far it is checked: reported, rescored or verified.

*Reported*: all files are whole, the jobs are the suite's, with its number of trials, and the runs use what the trials
chose. Nothing of the submission is executed for it. *Rescored* and *verified*: see `judge`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ebmbench.config import folders
from ebmbench.core import trust
from ebmbench.core.errors import UserError
from ebmbench.core.plugins import COPY
from ebmbench.engine import runs
from ebmbench.suite import suite as suites
from ebmbench.suite.received import Received
from ebmbench.suite.reported import checked, need_chosen, need_sources
from ebmbench.suite.submission import Refused, Submission, unpack
from ebmbench.suite.suite import Entry, Suite
from ebmbench.system import seal
from ebmbench.system.files import fingerprint_of_file, write_atomically

MOST_SECONDS = 4 * 3600
"""That scoring and training again may take."""


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
        suites.need_words(submission.words)
        entry = Entry(submission.entry, tuple(submission.words))
        need_sources(suite, folder, submission)
        trials, found = (checked(suite, entry, folder, submission, is_trials) for is_trials in (True, False))
        chosen = suites.chosen_by(trials)
        need_chosen(found, chosen)
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
    """Gives a folder with the files of a submission, and its record; what is not kept of it goes at the end."""
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


# ------------------------------------------------------------------------------------------------- what is executed


def _judged(
    folder: Path, suite: Suite, submission: Submission, again: int, nonce: str, accepted: list[str]
) -> tuple[str, list[str], bool]:
    """Scores and trains again in a process of its own; returns the level, notes, and whether it had no network.

    Raises:
        Refused: what our code computes is not what was submitted.
    """
    extra = [str(path) for path in folders.config_dirs()[1:]]
    order: dict[str, Any] = {
        "folder": str(folder),
        "suite": suite.name,
        "entry": submission.entry,
        "words": submission.words,
    }
    order |= {"plugins": submission.plugins, "again": again, "nonce": nonce, "accepted": accepted}
    order["config_dirs"] = extra
    said, isolated = _executed(order)
    if said["faults"]:
        raise Refused("; ".join(said["faults"][:3]))
    return said["level"], said["notes"], isolated


def _executed(order: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Returns what `judge` says in a process of its own, and whether that had no network."""
    alone = ["unshare", "--map-root-user", "--net"]
    can_be_alone = shutil.which("unshare") is not None and _succeeds([*alone, "true"])
    command = [*(alone if can_be_alone else []), sys.executable, "-m", "ebmbench.suite.judge"]
    kept = ("PATH", "HOME", "LANG", "PYTHONPATH", "XDG_CACHE_HOME", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    environment = {key: os.environ[key] for key in kept if key in os.environ}
    try:
        done = subprocess.run(
            command, input=json.dumps(order), env=environment, capture_output=True, text=True, timeout=MOST_SECONDS,
            check=False,
        )  # fmt: skip
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        said = {"notes": [f"Scoring it took more than {MOST_SECONDS} s."]}
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        said = {"notes": [f"It could not be scored ({last[:200]})."]}
    return {"level": "reported", "faults": []} | said, can_be_alone


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
