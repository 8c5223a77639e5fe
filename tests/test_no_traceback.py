"""Whatever is wrong with a file, a folder or the system is one sentence."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing.process
import os
import sys
from pathlib import Path

import pytest

from ebmbench.audit import files as audit
from ebmbench.cli import main as cli
from ebmbench.config.compose import compose
from ebmbench.core.errors import UserError, printable
from ebmbench.engine import runs
from ebmbench.report.planned import is_name
from ebmbench.sweep import local
from ebmbench.sweep.plan import make_plan
from ebmbench.sweep.status import job_states, show
from ebmbench.system.locking import Lock
from tests.processes import tiny
from tests.sweep.made import made_plan, make_done, make_status

SWEEP = """\
# @package _global_
defaults:
  - override /task: 1d
hydra: {{sweeper: {{params: {{method: 'nce,ml-is'}}}}}}
sweep: {{name: {name}, {more}}}
"""


def sweep_file(folder: Path, name: str = "own", more: str = "tables: [scores]") -> None:
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / "own.yaml").write_text(SWEEP.format(name=name, more=more))


@pytest.mark.parametrize("also", ["3", "text", "{method: sm}", "[3]"])
def test_further_grids_that_are_none_are_one_sentence(
    also: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep_file(tmp_path, more=f"also: {also}")
    assert cli.main(["sweep", "submit", "own", "--dry-run"]) == 2
    assert "sweep.also" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["damaged", "tune", "wandb", "multirun", "runs", "-x", "'..'", "'a/b'"])
def test_names_that_are_something_else_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep_file(tmp_path, name=name)
    with pytest.raises(UserError, match=r"sweep\.name="):
        make_plan("own", [], None)
    assert not is_name("-x") and is_name("x-1.2+a")


def test_a_working_directory_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["describe"]) == 2
    assert "the working directory was deleted" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written_takes_nothing_away_from_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny("nce"), f"results_dir={tmp_path}", "figures=false"]
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    monkeypatch.setattr(os, "dup2", lambda *files: None)
    assert cli.main(words) == 1  # the output is lost, the result is not
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        full.close()
    assert runs.read_state(compose(words).run_dir) == "done"
    assert "cannot be printed" in capsys.readouterr().err


def test_repair_without_permission_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = made_plan(tmp_path, seeds=2)
    folder = make_done(plan.jobs[0], tmp_path, [0.1, 0.2])
    (folder / "metrics.csv").write_text("seed\n")

    def refuse(lock: Lock) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(lock.path))

    monkeypatch.setattr(Lock, "acquire", refuse)  # whoever runs the tests may be root, who may write everywhere
    assert audit.main(tmp_path, repair=True) == 1
    assert "is left as it is: it cannot be written (Permission denied)" in capsys.readouterr().out


def test_the_limit_of_processes_leaves_fewer_jobs_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [compose([*tiny(m), f"results_dir={tmp_path}", "figures=false"]) for m in ("nce", "ml-is")]
    starts, start = [], multiprocessing.process.BaseProcess.start

    def limited(process: multiprocessing.process.BaseProcess) -> None:
        starts.append(process)
        if len(starts) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        start(process)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", limited)
    codes = local.run_pool(configs, [local.Slot({}, 1)] * 2, tmp_path / "pool")
    assert list(codes.values()) == [0, 0] and len(starts) == 3


def test_terminal_escapes_are_shown_and_not_sent(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, seeds=2)
    make_status(plan.jobs[0], tmp_path, "failed", error="\x1b[2J\x1b]0;owned\x07 bad\r")
    shown = show(plan, job_states(plan, tmp_path))
    assert "\\x1b[2J" in shown and not {"\x1b", "\x07", "\r"} & set(shown)
    assert printable("naïve – 10 %\n\tβ") == "naïve – 10 %\n\tβ"
