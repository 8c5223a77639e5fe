"""What a job's state is said to be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ebmbench.report.planned import Plan, error_path, sweep_dir
from ebmbench.sweep import status
from ebmbench.sweep.plan import make_plan
from ebmbench.sweep.status import job_states, record_submission
from ebmbench.system.locking import Lock
from tests.sweep.made import made_plan, make_done, make_status, sweep


def states(plan: Plan, folder: Path) -> list[tuple[str, str]]:
    return [(state.state, state.detail) for state in job_states(plan, folder)]


def test_every_state_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = made_plan(tmp_path, methods=("nce+", "nce", "ml-is", "kld-is", "ml-mcmc", "dsm", "sm"))
    values = [0.1] * 8
    make_done(plan.jobs[0], tmp_path, values)
    make_done(plan.jobs[1], tmp_path, values, diverged={2: 40})
    running = make_status(plan.jobs[2], tmp_path, "running", step=30, num_steps=120, host="node7", slurm_job="12_3")
    make_status(plan.jobs[3], tmp_path, "running", step=9, num_steps=120, host="node7")  # nobody holds its lock
    make_status(plan.jobs[4], tmp_path, "failed", error="ValueError: no")
    note = error_path(sweep_dir(tmp_path, "made"), plan.jobs[5].run_id)
    note.parent.mkdir()
    note.write_text("device=cuda cannot be had\n")  # refused before it had a run directory
    lock = Lock(running / "lock")
    lock.acquire()
    try:
        found = states(plan, tmp_path)
        assert [state for state, _ in found] == [
            "done",
            "diverged",
            "running",
            "interrupted",
            "failed",
            "failed",
            "missing",
        ]
        assert found[1][1] == "seed 2 at step 40"
        assert found[2][1] == "step 30 of 120 (25 %) on node7, SLURM job 12_3"
        assert found[4][1] == "ValueError: no" and found[5][1] == "device=cuda cannot be had"
        assert sweep(["status", "made", f"results_dir={tmp_path}"]) == 0
    finally:
        lock.release()
    said = capsys.readouterr().out
    assert "7 jobs, 56 seeds" in said
    assert "1 done, 1 diverged, 1 running, 1 interrupted, 2 failed, 1 missing" in said
    assert f"failed      {plan.jobs[4].run_id}  ValueError: no" in said


def test_a_sweep_is_found_by_its_folder_wherever_that_was_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = made_plan(tmp_path / "a")
    make_done(plan.jobs[0], tmp_path / "a", [0.1] * 8)
    (tmp_path / "a").rename(tmp_path / "b")
    assert sweep(["status", str(tmp_path / "b" / "sweeps" / "made")]) == 0
    assert "1 done, 2 missing" in capsys.readouterr().out


def test_a_sweep_that_hydra_ran_is_known_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    text = "# @package _global_\nseeds: 8\nhydra: {sweeper: {params: {method: 'nce,sm'}}}\nsweep: {name: own}\n"
    (tmp_path / "sweeps" / "own.yaml").write_text(text)
    job = make_plan("own", [], None).jobs[0]
    make_done(job, tmp_path / "results", [0.1] * 8)
    assert sweep(["status", "own"]) == 0
    assert "1 done, 1 missing" in capsys.readouterr().out and not (tmp_path / "results" / "sweeps").exists()
    assert sweep(["collect", "own"]) == 0
    assert (tmp_path / "results" / "own" / "tables.md").exists()


def test_jobs_of_a_pool_at_work_are_queued(tmp_path: Path) -> None:
    plan = made_plan(tmp_path)
    lock = Lock(sweep_dir(tmp_path, "made") / "lock")
    lock.acquire()
    try:
        assert {state for state, _ in states(plan, tmp_path)} == {"queued"}
        assert {state.state for state in job_states(plan, tmp_path, submitting=True)} == {"missing"}
    finally:
        lock.release()
    assert {state for state, _ in states(plan, tmp_path)} == {"missing"}


def test_a_job_that_slurm_no_longer_has_is_missing_and_its_last_words_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made_plan(tmp_path)
    folder = sweep_dir(tmp_path, "made")
    numbers = {job.run_id: f"5_{index}" for index, job in enumerate(plan.jobs)}
    record_submission(folder, {run: "1_0" for run in numbers}, "slurm")
    record_submission(folder, numbers, "slurm")  # the later one counts
    (folder / "slurm").mkdir()
    (folder / "slurm" / "5_0_0_log.err").write_text("first\nslurmstepd: error: *** STEP 5.0 CANCELLED ***\n")
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho '5_1 PENDING'\necho '5_2 RUNNING'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=":")
    assert states(plan, tmp_path) == [
        ("missing", "SLURM job 5_0 has ended: slurmstepd: error: *** STEP 5.0 CANCELLED ***"),
        ("queued", "SLURM job 5_1"),
        ("running", "SLURM job 5_2"),
    ]
    (folder / "slurm" / "5_0_0_log.err").unlink()  # cancelled in the queue
    assert states(plan, tmp_path)[0] == ("missing", "SLURM job 5_0 has ended before it began")


def test_a_silent_slurm_stops_a_submission_and_not_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ebmbench.core.errors import UserError

    plan = made_plan(tmp_path)
    record_submission(sweep_dir(tmp_path, "made"), {plan.jobs[0].run_id: "5"}, "slurm")
    monkeypatch.setenv("PATH", "/nowhere")
    assert set(states(plan, tmp_path)) == {("missing", "")}
    assert "what is queued is not known" in capsys.readouterr().err
    with pytest.raises(UserError, match="squeue is not on this machine"):
        job_states(plan, tmp_path, submitting=True)


def test_a_long_list_is_cut_and_all_shows_it(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, methods=("sm",))
    job = plan.jobs[0]
    many = dataclasses.replace(plan, jobs=tuple(dataclasses.replace(job, run_id=f"run-{i}") for i in range(50)))
    found = job_states(many, tmp_path)
    assert "and 10 more" in status.show(many, found)
    assert len(status.show(many, found, None).splitlines()) == 51
