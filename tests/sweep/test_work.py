"""Workers: every job is done once, whoever is killed; and results of several machines are joined."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.report.planned import read_plan, sweep_dir
from ebmbench.sweep import work as worker
from ebmbench.sweep.plan import make_plan, write_plan
from ebmbench.sweep.status import counts, job_states
from ebmbench.system.locking import Lock, sign_of_life
from ebmbench.system.seal import encode as sealed_json
from tests.sweep.made import made_plan, make_done, sweep
from tests.sweep.stress import stress
from tests.sweep.test_submit import place, write_sweep  # noqa: F401


def submitted(folder: Path, methods: str, epochs: int = 1) -> Path:
    write_sweep(folder, methods, epochs)
    write_plan(make_plan("own", ["threads=1", "device=cpu"], None), folder / "results")
    return folder / "results"


def said(results: Path) -> str:
    return counts(job_states(read_plan(results, "own"), results))


def test_one_worker_does_all_and_another_finds_nothing_left(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_sweep(place, "sm,nce")
    assert sweep(["submit", "own", "--no-start", "threads=1"]) == 0
    assert not (place / "results" / "runs").exists()
    assert sweep(["work", "own"]) == 0
    assert "own: 2 done" in capsys.readouterr().out
    assert sweep(["work", "own", "--jobs", "1"]) == 0
    assert "[1/1]" not in capsys.readouterr().out


def test_a_failed_job_is_left_alone(place: Path) -> None:  # noqa: F811
    results = submitted(place, "sm,nce")
    job = read_plan(results, "own").jobs[0]
    note = sweep_dir(results, "own") / "errors" / f"{job.run_id}.txt"
    note.parent.mkdir()
    note.write_text("no\n")
    assert worker.work(read_plan(results, "own"), results) == 0
    assert said(results) == "1 done, 1 failed"


def test_no_more_jobs_than_allowed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """While others have all the places, a worker waits."""
    results = submitted(place, "sm")
    worker.make_folder(folder := sweep_dir(results, "own") / "places", results)
    locks = [Lock(folder / number) for number in "01"]
    for lock in locks:
        lock.acquire()
    waits = []

    def free_one(seconds: float) -> None:
        waits.append(seconds)
        assert said(results) == "1 missing"
        if len(waits) == 3:
            locks[1].release()

    monkeypatch.setattr(worker, "time", type("Time", (), {"sleep": free_one}))
    assert worker.work(read_plan(results, "own"), results, at_a_time=2) == 0
    assert len(waits) == 3 and said(results) == "1 done"
    locks[0].release()


def test_a_job_that_somebody_else_has_taken_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    results = submitted(place, "sm")
    (folder := results / "runs" / read_plan(results, "own").jobs[0].run_id).mkdir(parents=True)
    lock = Lock(folder / "lock")
    lock.acquire()  # as `sweep submit` has it before it says that it runs
    monkeypatch.setattr(worker, "time", type("Time", (), {"sleep": lambda seconds: lock.release()}))
    assert worker.work(read_plan(results, "own"), results) == 0
    assert said(results) == "1 done"


HOLD = """
import os, signal, sys
from pathlib import Path
from ebmbench.system.locking import Lock
Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_stopped_process_does_not_block_a_worker_for_ever(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = submitted(place, "sm,nce")
    plan = read_plan(results, "own")
    config = plan.jobs[0].run_config(results)
    config.run_dir.mkdir(parents=True)
    runs.write_status(config.run_dir, runs.Status.of(config, "running", step=3, num_steps=10))
    words = [sys.executable, "-c", HOLD, str(config.run_dir / "lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            while not (sign := sign_of_life(config.run_dir / "lock")) or not sign.is_stopped:
                time.sleep(0.05)
            shown = next(run for run in job_states(plan, results) if run.job.run_id == config.run_id)
            assert shown.state == "running" and "its process is stopped" in shown.detail
            monkeypatch.setattr(worker, "POLL_SECONDS", 0.1)
            assert worker.work(plan, results) == 1
            assert "is held by a stopped process" in capsys.readouterr().err
            assert said(results) == "1 done, 1 running"
        finally:
            holder.kill()
    assert worker.work(plan, results) == 0  # it is free again at once


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("hosts", [1, 2])
def test_eight_workers_that_are_killed_at_random_do_every_job_once(hosts: int, tmp_path: Path) -> None:
    report = stress(tmp_path, jobs=4, kills=4, hosts=hosts)
    print(report)
    assert report.kills > 0 and report.resumed > 0


def test_results_of_several_machines_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, here = tmp_path / "one", tmp_path / "two", tmp_path / "here"
    plan = made_plan(one, seeds=2)
    made_plan(two, seeds=2)
    make_done(plan.jobs[0], one, [0.1, 0.2])
    make_done(plan.jobs[1], two, [0.3, 0.4])
    damaged = make_done(plan.jobs[2], two, [0.5, 0.6])
    (damaged / "metrics.csv").write_text("seed,d_kl\n")
    assert sweep(["merge", str(one), str(two), f"results_dir={here}"]) == 1
    shown = capsys.readouterr()
    assert "2 copied, 1 left out" in shown.out and "metrics.csv is damaged" in shown.err
    assert counts(job_states(read_plan(here, "made"), here)) == "2 done, 1 missing"
    for folder, job in ((one, plan.jobs[0]), (two, plan.jobs[1])):
        assert not runs.verify(here / "runs" / job.run_id)
        assert runs.read_metrics(here / "runs" / job.run_id) == runs.read_metrics(folder / "runs" / job.run_id)
    shutil.rmtree(damaged)
    assert sweep(["merge", str(one), str(two), f"results_dir={here}"]) == 0
    assert "2 there already" in capsys.readouterr().out
    with pytest.raises(UserError, match="no folder 'runs'"):
        sweep(["merge", str(tmp_path / "none"), f"results_dir={here}"])


def test_results_are_joined_in_a_folder_that_is_named_from_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made_plan(tmp_path / "one", seeds=2)
    make_done(plan.jobs[0], tmp_path / "one", [0.1, 0.2])
    monkeypatch.chdir(tmp_path)
    assert sweep(["merge", "one"]) == 0
    assert not runs.verify(tmp_path / "results" / "runs" / plan.jobs[0].run_id)


def test_a_run_whose_status_names_a_file_elsewhere_is_left_out(tmp_path: Path) -> None:
    plan = made_plan(tmp_path / "one", seeds=2)
    folder = make_done(plan.jobs[0], tmp_path / "one", [0.1, 0.2])
    (folder.parent / "stolen").write_text("x")
    status = json.loads((folder / "status.json").read_text())
    status["outputs"]["../../../stolen"] = status["outputs"]["metrics.csv"]
    (folder / "status.json").write_bytes(sealed_json(status))
    assert sweep(["merge", str(tmp_path / "one"), f"results_dir={tmp_path / 'here'}"]) == 1
    assert not (tmp_path / "stolen").exists()
