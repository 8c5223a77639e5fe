"""A sweep through a real SLURM: arrays, failed, cancelled and preempted jobs, and tables equal to the local run's."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ebmbench.core.errors import UserError
from ebmbench.engine.execute import execute
from ebmbench.report.planned import Job, Plan, read_plan
from ebmbench.sweep import collect
from ebmbench.sweep.plan import write_plan
from ebmbench.sweep.status import job_states
from tests.slurm.cluster import Cluster
from tests.sweep.made import command, sweep

pytestmark = [pytest.mark.slurm, pytest.mark.slow]  # each job starts Python and PyTorch anew

SWEEP = """\
# @package _global_
defaults:
  - override /task: 1d
seeds: 2
data: {{num_train: 64, num_val: 32, num_test: 64, grid_points: 129}}
trainer: {{epochs: {epochs}}}
hydra:
  sweeper:
    params:
      {grid}
sweep: {{name: tiny, description: A test., tables: [scores, comparisons]}}
"""
LAUNCHER = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=30"]
NOT_COMPARED = ["train_seconds", "peak_memory_mb", "commit", "finished", "record"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: Cluster) -> Path:
    """A working directory with a `sweeps/` of its own."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_sweep(place: Path, methods: str, epochs: int = 1, grid: str = "") -> None:
    grid = f"method: {methods}\n      {grid}" if grid else f"method: {methods}"
    (place / "sweeps" / "tiny.yaml").write_text(SWEEP.format(grid=grid, epochs=epochs))


def states(place: Path) -> list[str]:
    """Of the jobs, in the plan's order."""
    results = place / "results"
    return [state.state for state in job_states(read_plan(results, "tiny"), results)]


def wait(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)


def status_of(place: Path, job: Job) -> dict[str, Any]:
    """What the run says of itself."""
    path = place / "results" / "runs" / job.run_id / "status.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def log(place: Path, number: str) -> str:
    """What a SLURM job has written."""
    path = place / "results" / "sweeps" / "tiny" / "slurm" / f"{number}_0_log.out"
    return path.read_text() if path.exists() else ""


def local_run(plan: Plan, folder: Path) -> pd.DataFrame:
    """The same settings, carried out in this process."""
    for job in plan.jobs:
        execute(job.run_config(folder, threads=1), quiet=True)
    write_plan(plan, folder)
    return collect.collect(plan, folder).frame.drop(columns=NOT_COMPARED)


def test_resume_goes_where_the_sweep_was_submitted_to(
    place: Path, slurm: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without srun and by a named Python, as a container needs it."""
    write_sweep(place, "nce")
    own = ["hydra.launcher.use_srun=false", f"hydra.launcher.slurm_python={sys.executable}"]
    words = ["submit", "tiny", *LAUNCHER, *own, "+hydra.launcher.additional_parameters.hold=true"]
    assert sweep(words) == 0
    slurm.call("scancel", *slurm.queue())
    wait(lambda: not slurm.queue(), "the cancelled job")
    assert sweep(["resume", "tiny"]) == 0
    assert "hydra/launcher=slurm" in capsys.readouterr().err and len(slurm.queue()) == 1
    scripts = sorted((place / "results" / "sweeps" / "tiny" / "slurm").glob("*submission*.sh"))
    assert scripts and all("srun" not in line for line in scripts[-1].read_text().splitlines() if line[:1] != "#")
    slurm.call("scancel", *slurm.queue())


def test_a_time_limit_that_is_all_warning_is_refused(place: Path, slurm: Cluster) -> None:
    write_sweep(place, "nce")
    with pytest.raises(UserError, match=r"timeout_min=2 is not allowed.*signal_delay_s=120.*give 4 minutes"):
        sweep(["submit", "tiny", *LAUNCHER, "hydra.launcher.timeout_min=2"])
    assert not slurm.queue()


def test_an_array_waits_runs_what_was_frozen_and_gives_the_tables_of_the_local_run(
    place: Path, slurm: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(place, "nce+,sm")
    assert sweep(["submit", "tiny", *LAUNCHER, "+hydra.launcher.additional_parameters.hold=true"]) == 0
    plan = read_plan(place / "results", "tiny")
    assert states(place) == ["queued", "queued"]
    jobs = slurm.queue()
    assert len(jobs) == 2 and len({job.split("_")[0] for job in jobs}) == 1  # one array

    # Submitted again: what waits is not submitted twice.
    assert sweep(["submit", "tiny", *LAUNCHER]) == 0
    assert len(slurm.queue()) == 2
    assert "0 to run" in capsys.readouterr().out

    # What is changed now changes nothing of what waits.
    write_sweep(place, "nce+,sm", epochs=7)
    slurm.call("scontrol", "release", *jobs)
    wait(lambda: not slurm.queue(), "the array")
    assert states(place) == ["done", "done"]
    assert {job.config["trainer"]["epochs"] for job in plan.jobs} == {1}

    assert sweep(["collect", "tiny"]) == 0
    assert command("audit", "tables", "tiny") == 0
    collected = collect.collect(plan, place / "results").frame.drop(columns=NOT_COMPARED)
    local = local_run(plan, place / "local")
    pd.testing.assert_frame_equal(collected, local, check_exact=True)
    assert status_of(place, plan.jobs[1])["slurm_job"] in jobs


def test_a_failed_job_stops_no_other_and_alone_is_run_again(place: Path, slurm: Cluster) -> None:
    write_sweep(place, "nce,sm")
    assert sweep(["submit", "tiny", "--dry-run"]) == 0
    assert not (place / "results").exists()
    assert sweep(["submit", "tiny", *LAUNCHER, "+hydra.launcher.additional_parameters.hold=true"]) == 0
    plan = read_plan(place / "results", "tiny")
    blocked = place / "results" / "runs" / plan.jobs[0].run_id / "metrics.csv"
    blocked.mkdir(parents=True)  # its results cannot be written
    slurm.call("scontrol", "release", *slurm.queue())
    wait(lambda: not slurm.queue(), "the array")
    assert states(place) == ["failed", "done"]
    found = {s.job.run_id: s for s in job_states(plan, place / "results")}
    assert "metrics.csv" in found[plan.jobs[0].run_id].detail
    finished = status_of(place, plan.jobs[1])["finished"]

    blocked.rmdir()
    assert sweep(["resume", "tiny", *LAUNCHER]) == 0
    assert len(slurm.queue()) == 1
    wait(lambda: not slurm.queue(), "the job")
    assert states(place) == ["done", "done"]
    assert status_of(place, plan.jobs[1])["finished"] == finished  # not run again


def test_preempted_and_warned_jobs_go_on_from_their_checkpoints_and_a_cancelled_one_stays_cancelled(
    place: Path, slurm: Cluster
) -> None:
    write_sweep(place, "sm", epochs=3000, grid="data.data_seed: 0,1")  # at work long enough to be stopped
    assert sweep(["submit", "tiny", *LAUNCHER, "hydra.launcher.partition=low"]) == 0
    plan = read_plan(place / "results", "tiny")
    warned, preempted = plan.jobs
    number = dict(zip([warned.run_id, preempted.run_id], slurm.queue(), strict=True))

    def step(job: Job) -> int:
        return int(status_of(place, job).get("step", 0))

    wait(lambda: all(step(job) > 0 for job in plan.jobs), "both to train")
    assert states(place) == ["running", "running"]

    # What SLURM sends before the time limit: the job saves and goes back into the queue by itself.
    slurm.call("scancel", "--signal=USR1", number[warned.run_id])
    wait(lambda: "back into the queue" in log(place, number[warned.run_id]), "the first to save")
    # A job of higher priority needs the whole node: SLURM tells the other to go, and it saves and queues again.
    urgent = slurm.call("sbatch", "--parsable", "-p", "high", "-n2", "-o/dev/null", "--wrap=sleep 2").strip()
    wait(lambda: "back into the queue" in log(place, number[preempted.run_id]), "the second to make room")
    stopped_at = {job.run_id: step(job) for job in plan.jobs}
    assert all(0 < at < 6000 for at in stopped_at.values())
    wait(lambda: urgent not in slurm.queue(), "the urgent job")
    wait(lambda: [slurm.queue().get(n) for n in number.values()] == ["PENDING"] * 2, "both to queue")
    assert states(place) == ["queued", "queued"]
    for one in number.values():  # SLURM lets a requeued job wait for two minutes
        slurm.call("scontrol", "update", f"JobId={one}", "StartTime=now")

    wait(lambda: step(warned) > stopped_at[warned.run_id], "the first to go on")
    slurm.call("scancel", number[warned.run_id])
    wait(lambda: states(place)[0] == "interrupted", "the first to be cancelled")
    wait(lambda: not slurm.queue(), "the second to end")
    assert states(place) == ["interrupted", "done"]

    assert sweep(["resume", "tiny", *LAUNCHER]) == 0
    wait(lambda: not slurm.queue(), "the first to end")
    assert states(place) == ["done", "done"]
    for job in plan.jobs:
        history = pd.read_csv(place / "results" / "runs" / job.run_id / "history.csv")
        assert history[history["seed"] == job.config["seeds"][0]]["step"].tolist() == list(range(2, 6001, 2))
    one_job = dataclasses.replace(plan, jobs=(warned,))  # stopped twice, and yet
    frame = collect.collect(one_job, place / "results").frame.drop(columns=NOT_COMPARED)
    pd.testing.assert_frame_equal(frame, local_run(one_job, place / "local"), check_exact=True)


def test_where_slurm_refuses_one_sentence_says_why(place: Path, slurm: Cluster) -> None:
    write_sweep(place, "sm")
    with pytest.raises(UserError, match=r"SLURM refuses the jobs: .*[Ii]nvalid partition"):
        sweep(["submit", "tiny", *LAUNCHER, "hydra.launcher.partition=nowhere"])
    assert states(place) == ["missing"]
    with pytest.raises(UserError, match="partitoin"):
        sweep(["submit", "tiny", *LAUNCHER, "hydra.launcher.partitoin=low"])


def test_hydras_own_multirun_runs_through_slurm(place: Path, slurm: Cluster) -> None:
    write_sweep(place, "sm")
    words = [sys.executable, "-m", "ebmbench", "--multirun", "+sweeps=tiny", "hydra/launcher=slurm", "threads=1"]
    words += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=30"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (place / "results" / "runs").glob("1d-1-sm-*/status.json")
    status = json.loads(path.read_text())
    assert status["state"] == "done" and status["slurm_job"]
