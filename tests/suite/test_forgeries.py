"""A submission that is not what it says it is: refused, or shown at the level that it reached."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ebmbench.core.errors import UserError
from ebmbench.suite import submission as submissions
from ebmbench.suite.receive import receive
from ebmbench.suite.received import read_received
from ebmbench.suite.submission import RECORD, Refused
from ebmbench.system import checkpoint, seal
from tests.suite.conftest import Files, csv_of, forged, plan_file, rows, run_file


def better_metric(files: Files) -> None:
    name = run_file(files, "metrics.csv")
    files[name] = csv_of([{**row, "d_kl": "0.01"} for row in rows(files[name])])


def repeated_row(files: Files) -> None:
    name = run_file(files, "metrics.csv")
    files[name] = csv_of([rows(files[name])[0]] * 2)


def other_weights(files: Files) -> None:
    name = run_file(files, "checkpoint.pt")
    state = checkpoint.decode(Path(name), files[name])
    for parameters in state["parameters"].values():
        for values in parameters.values():
            values.mul_(1.5)
    files[name] = checkpoint.encode(state)


def better_trial(files: Files) -> None:
    """Also where the settings stay those of the best trial, its score is not what its weights give."""
    names = [name for name in files if name.endswith("/metrics.csv")]
    trials = {name: rows(files[name]) for name in names if len(rows(files[name])) == 1}
    best = min(trials, key=lambda name: float(trials[name][0]["val_nll"]))
    score = float(trials[best][0]["val_nll"]) - 1
    files[best] = csv_of([{**trials[best][0], "val_nll": str(score)}])


def change_plan(files: Files, is_trials: bool, change: Callable[[list[dict]], list[dict]]) -> None:
    name = plan_file(files, is_trials)
    raw = json.loads(files[name])
    files[name] = seal.encode(raw | {"jobs": change(raw["jobs"])}, indent=None)


def fewer_trials(files: Files) -> None:
    change_plan(files, True, lambda jobs: jobs[:1])


def more_trials(files: Files) -> None:
    change_plan(files, True, lambda jobs: [*jobs, {**jobs[0], "run_id": f"{jobs[0]['run_id']}x"}])


def renumbered_trials(files: Files) -> None:
    change_plan(files, True, lambda jobs: [{**job, "axes": {**job["axes"], "trial": 0}} for job in jobs])


def other_seeds(files: Files) -> None:
    change_plan(files, False, lambda jobs: [{**job, "config": {**job["config"], "seeds": [7, 8]}} for job in jobs])


def other_settings(files: Files) -> None:
    def longer(job: dict) -> dict:
        return {**job, "config": {**job["config"], "trainer": {**job["config"]["trainer"], "epochs": 50}}}

    change_plan(files, False, lambda jobs: [longer(job) for job in jobs])


def other_source(files: Files) -> None:
    name = next(name for name in files if "/plugins/" in name and name.startswith("sweeps/"))
    files[name] += b"\nraise SystemExit('executed')\n"


def foreign_run(files: Files) -> None:
    name = run_file(files, "metrics.csv")
    for path in [path for path in files if path.startswith(name.removesuffix("metrics.csv"))]:
        files[f"runs/more/{path.split('/', 2)[2]}"] = files[path]


def change_record(**fields: object) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        files[RECORD] = seal.encode(json.loads(files[RECORD]) | fields)

    return change


def code_elsewhere(files: Files) -> None:
    """A file that is no copy of a plug-in would be taken for one of the user's own, and executed unasked."""
    name = run_file(files, "metrics.csv").replace("metrics.csv", "evil.py")
    files[name] = b"raise SystemExit('executed')"
    change_record(plugins=[f"../../{name}"])(files)


FORGERIES = {
    "a plug-in that is no copy": (code_elsewhere, "is no copy of a plug-in"),
    "a metric": (better_metric, "scored again: d_kl of seed"),
    "the validation score of a trial": (better_trial, "scored again: val_nll of seed"),
    "the weights": (other_weights, "scored again"),
    "a row twice": (repeated_row, "does not have one row for each seed|has 2 seeds|damaged"),
    "fewer trials": (fewer_trials, "has 1 jobs on law1, 0, and tiny-v1 has 2"),
    "more trials": (more_trials, "has 3 jobs on law1, 0, and tiny-v1 has 2"),
    "trials of one number": (renumbered_trials, "are not numbered"),
    "other seeds": (other_seeds, "has 2 seeds|other seeds"),
    "other settings": (other_settings, "other settings than its job"),
    "the source of the plug-in": (other_source, "are not those of the plug-in"),
    "a run of no plan": (foreign_run, "is in no plan"),
    "another suite": (change_record(suite_sha256="0" * 32), "has the hash 0000"),
    "words of the shell": (
        change_record(words=["method=ml-own", "method.num_samples=${oc.env:HOME}"]),
        "not allowed in a suite",
    ),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forger_who_seals_it_again(what: str, submission: Path, tmp_path: Path) -> None:
    change, said = FORGERIES[what]
    path = forged(submission, tmp_path / "forged.zip", change)
    with pytest.raises(UserError, match=said):
        receive(path, tmp_path / "r", 0)
    assert read_received(tmp_path / "r") == []


@pytest.mark.parametrize("change", [better_metric, other_weights, other_source, fewer_trials])
def test_a_forger_who_does_not(change: Callable[[Files], None], submission: Path, tmp_path: Path) -> None:
    path = forged(submission, tmp_path / "forged.zip", change, is_sealed=False)
    with pytest.raises(Refused, match=r"is not what submission\.json says"):
        receive(path, tmp_path / "r", 0)


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "runs/../../evil", "runs\\..\\evil", "runs/.hidden", "evil", "runs/a\nb", "runs//x"],
)
def test_names_that_leave_the_folder(name: str, submission: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "bad.zip", "w") as archive:
        archive.writestr(RECORD, "{}")
        archive.writestr(name, "evil")
    with pytest.raises(Refused, match="is not allowed in a submission"):
        receive(path, tmp_path / "r", 0)
    assert list((tmp_path / "r" / "received").iterdir()) == []


def test_a_link_in_the_archive(submission: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "bad.zip", "w") as archive:
        link = zipfile.ZipInfo("runs/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(Refused, match="no plain file"):
        receive(path, tmp_path / "r", 0)


def test_a_name_that_is_there_twice(submission: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "bad.zip", "w") as archive:
        archive.writestr("runs/a", "1")
        archive.writestr("runs/A", "2")
    with pytest.raises(Refused, match="twice"):
        receive(path, tmp_path / "r", 0)


def test_an_archive_that_is_too_large(submission: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MOST_BYTES", 10**6)
    with zipfile.ZipFile(path := tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(RECORD, "{}")
        archive.writestr("runs/zeros", bytes(2 * 10**6))
    assert path.stat().st_size < 5000
    with pytest.raises(Refused, match="at most"):
        receive(path, tmp_path / "r", 0)


def test_a_file_that_is_too_long(submission: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MOST_OF_FILE", 10**5)
    path = forged(submission, tmp_path / "bomb.zip", lambda files: files.update({"runs/zeros": bytes(10**6)}))
    with pytest.raises(Refused, match="is longer than"):
        receive(path, tmp_path / "r", 0)


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04" + bytes(100), b"no archive"])
def test_no_archive(data: bytes, submission: Path, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(Refused, match="is no submission"):
        receive(tmp_path / "x.zip", tmp_path / "r", 0)


def test_code_that_nobody_accepted_is_not_executed(
    submission: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    record = receive(submission, tmp_path / "r", 1)
    assert record.level == "reported" and "--trust" in record.notes[0]
