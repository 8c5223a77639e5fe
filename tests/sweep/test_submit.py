"""Submitting on this machine: real processes, a failed job, an interrupted sweep that goes on, GPUs shared out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from ebmbench.cli.main import main
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine.runs import Status
from ebmbench.report.planned import read_plan
from ebmbench.sweep import local
from ebmbench.sweep.estimate import estimate
from ebmbench.sweep.plan import make_plan
from ebmbench.sweep.status import job_states
from ebmbench.sweep.submit import launcher_settings
from ebmbench.sweep.watch import Watch
from ebmbench.system.locking import Lock
from ebmbench.system.seal import encode as sealed_json
from tests.sweep.made import make_status, sweep

SWEEP = """\
# @package _global_
defaults:
  - override /task: 1d
seeds: 1
data: {{num_train: 64, num_val: 32, num_test: 64, grid_points: 65}}
trainer: {{epochs: {epochs}}}
hydra: {{sweeper: {{params: {{method: '{methods}'}}}}}}
sweep: {{name: own, tables: [scores]}}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_sweep(place: Path, methods: str, epochs: int = 1) -> None:
    (place / "sweeps" / "own.yaml").write_text(SWEEP.format(methods=methods, epochs=epochs))


def states(place: Path) -> dict[str, str]:
    results = place / "results"
    return {s.job.config["method"]["name"]: s.state for s in job_states(read_plan(results, "own"), results)}


@pytest.mark.parametrize(
    ("name", "override"),
    [("annotation_noise", "data.target_noise=0.1"), ("data_seeds", "data.data_seed=0")],
)
def test_a_table_over_what_is_no_longer_varied_is_refused_before_any_run(
    name: str, override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="which the sweep does not vary") as error:
        sweep(["submit", name, override])
    assert override.partition("=")[0] in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert len(make_plan(name, [override, "sweep.tables=[scores]"], None).axes) == 0


def test_a_failed_job_stops_no_other_and_alone_is_run_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(place, "sm,nce")
    plan = make_plan("own", [], None)
    blocked = place / "results" / "runs" / plan.jobs[0].run_id / "densities.npz"
    blocked.mkdir(parents=True)
    assert sweep(["submit", "own", "--jobs", "2"]) == 1
    assert states(place) == {"sm": "failed", "nce": "done"}
    said = capsys.readouterr()
    assert "[2/2]" in said.out and "densities.npz" in said.err
    log = place / "results" / "sweeps" / "own" / "logs" / f"{plan.jobs[1].run_id}.log"
    assert "nce on 1d-1, 1 seed" in log.read_text() and "Warning" not in log.read_text()

    blocked.rmdir()
    write_sweep(place, "sm,nce", epochs=9)  # `resume` keeps the settings that were submitted
    assert sweep(["resume", "own", "hydra/launcher=local"]) == 0
    assert states(place) == {"sm": "done", "nce": "done"}
    assert "1 to run" in capsys.readouterr().out
    assert {job.config["trainer"]["epochs"] for job in read_plan(place / "results", "own").jobs} == {1}
    assert sweep(["resume", "own"]) == 0
    assert "0 to run" in capsys.readouterr().out


def test_a_sweep_with_a_job_of_which_every_seed_diverged_is_no_success(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(place, "dsm', method.sigma: '1.0e-30")  # the loss overflows
    assert sweep(["submit", "own"]) == 1
    assert states(place) == {"dsm": "diverged"}
    said = capsys.readouterr()
    assert "  diverged    1d-1-dsm-" in said.err and "[1/1] diverged 1d-1-dsm-" in said.out


@pytest.mark.slow
def test_ctrl_c_leaves_a_sweep_that_goes_on(place: Path) -> None:
    write_sweep(place, "sm,nce", epochs=2000)
    words = [sys.executable, "-m", "ebmbench", "sweep", "submit", "own", "hydra/launcher=local"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((place / "results" / "runs").glob("*/training.0.pt")) and time.monotonic() < deadline:
        status = list((place / "results" / "runs").glob("*/status.json"))
        if status and '"step": 0' not in status[0].read_text():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: all of them get it
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "the same command goes on" in err and "Traceback" not in err
    assert states(place) == {"sm": "interrupted", "nce": "missing"}


@pytest.mark.slow
def test_jobs_of_a_pool_that_was_killed_save_and_stop(place: Path) -> None:
    write_sweep(place, "sm", epochs=100_000)
    words = [sys.executable, "-m", "ebmbench", "sweep", "submit", "own", "hydra/launcher=local"]
    pool = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait(lambda: any('"step": 0' not in p.read_text() for p in (place / "results" / "runs").glob("*/status.json")))
    assert states(place) == {"sm": "running"}
    pool.kill()
    pool.wait()
    _wait(lambda: states(place) == {"sm": "interrupted"})
    assert list((place / "results" / "runs").glob("*/training.0.ckpt"))


def _wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_a_killed_job_is_told_and_the_pool_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(place, "sm,nce")
    plan = make_plan("own", [], None)
    configs = [job.run_config(place / "results", threads=1) for job in plan.jobs]
    # A job that kills itself as the kernel would when memory runs out.
    folder = place / "results" / "sweeps" / "own"
    places = [local.Slot({}, 1)]
    monkeypatch.setattr(local, "_child", _killed_if_sm)
    codes = local.run_pool(configs, places, folder)
    assert codes == {configs[0].run_id: 1, configs[1].run_id: 0}
    note = folder / "errors" / f"{configs[0].run_id}.txt"
    assert "ended by SIGKILL (out of memory?)" in note.read_text()


def test_a_job_that_the_system_killed_starts_again_as_often_as_is_said(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(place, "sm,nce")
    monkeypatch.setattr(local, "_child", _killed_if_sm)
    assert sweep(["submit", "own", "--jobs", "1", "hydra.launcher.max_num_restarts=2"]) == 1
    said = capsys.readouterr()
    assert said.out.count("it starts again") == 2 and "(restart 2 of 2)" in said.out
    assert sweep(["status", "own"]) == 0
    assert "ended by SIGKILL (out of memory?), 3 times" in capsys.readouterr().out


def test_a_terminal_shows_a_line_for_each_running_job(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(place, "sm,nce,dsm")
    configs = [job.run_config(place / "results") for job in make_plan("own", [], None).jobs]
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    with os.fdopen(there, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Watch(3) as watch:
            for number, config in enumerate(configs[:2]):
                watch.started(number, config)
            status = Status.of(configs[1], state="running", step=40, num_steps=160)
            configs[1].run_dir.mkdir(parents=True)
            (configs[1].run_dir / "status.json").write_bytes(sealed_json(asdict(status)))
            watch.refresh()
            watch.ended(0, is_last=True)
            watch.say("[1/3] done")
    text = ""
    with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
        while part := os.read(here, 65536):
            text += part.decode()
    os.close(here)
    assert f"{configs[0].run_id} starts" in text and configs[2].run_id not in text
    assert re.search(rf"{configs[1].run_id} +25%.* 40/160 steps", text) and "1/3 jobs" in text
    assert capsys.readouterr().out == "[1/3] done\n"


def test_a_multirun_refuses_jobs_that_its_launcher_would_leave_out(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SWEEP.format(methods="sm", epochs=1).replace("name: own,", "name: own, also: [{method: nce}],")
    (place / "sweeps" / "own.yaml").write_text(text)
    assert main(["-m", "+sweeps=own"]) == 2
    assert "+sweeps=own has further jobs (sweep.also)" in capsys.readouterr().err and not (place / "results").exists()
    assert main(["-m", "+sweeps=own", "hydra/launcher=local_parallel", "device=cpu"]) == 0
    said = capsys.readouterr().out
    assert "nce" in said and "sm" in said and "missing" not in said
    assert main(["-m", "+sweeps=own", "method=nce", "device=cpu"]) == 0  # what is said here leaves no further grid


def _killed_if_sm(config_yaml: str, folder: str, environment: dict[str, str], log: str) -> None:
    if "name: sm" in config_yaml:
        os.kill(os.getpid(), signal.SIGKILL)


def test_two_submissions_of_one_sweep_do_not_meet(place: Path) -> None:
    write_sweep(place, "sm")
    lock_path = place / "results" / "sweeps" / "own" / "lock"
    lock_path.parent.mkdir(parents=True)
    lock = Lock(lock_path)
    lock.acquire()
    try:
        with pytest.raises(UserError, match="is being worked on by"):
            sweep(["submit", "own"])
    finally:
        lock.release()


def test_a_job_that_another_process_has_taken_meanwhile_has_not_failed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(place, "sm,nce")
    results, run_pool, locks = place / "results", local.run_pool, []

    def taken_just_before(configs: list[RunConfig], *more: object) -> dict[str, int]:
        job = read_plan(results, "own").jobs[0]
        folder = make_status(job, results, "running", step=1, num_steps=2)
        locks.append(Lock(folder / "lock"))
        locks[0].acquire()
        return run_pool(configs, *more)

    monkeypatch.setattr(local, "run_pool", taken_just_before)
    try:
        assert sweep(["submit", "own", "device=cpu", "threads=1"]) == 0
    finally:
        locks[0].release()
    said = capsys.readouterr()
    name = read_plan(results, "own").jobs[0].run_id
    assert re.search(rf"\[\d/2\] held +{name}", said.out) and "FAILED" not in said.out + said.err
    assert "own: 1 done, 1 running" in said.out and f"another process works on {name}  step 1 of 2" in said.out
    assert not list((results / "sweeps" / "own").glob("errors/*")) and states(place)["sm"] == "interrupted"


def test_jobs_are_spread_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [slot.environment for slot in local.slots("auto", None, 9)] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in local.slots("cuda", 4, 9)] == ["5", "7", "5", "7"]
    assert local.slots("cuda:1", None, 9)[0].environment == {}  # the user chose one


def test_without_gpus_the_cores_are_shared_out() -> None:
    cores = len(os.sched_getaffinity(0))
    assert local.slots("cpu", None, cores) == [local.Slot({}, 1)] * cores
    assert local.slots("cpu", 1, 9) == local.slots("cpu", None, 1) == [local.Slot({}, cores)]


def test_launcher_presets_take_overrides_and_say_what_they_are() -> None:
    preset = launcher_settings("slurm_gpu", ["hydra.launcher.partition=a100"])
    assert preset.is_slurm and preset.values["gpus_per_node"] == 1 and preset.values["partition"] == "a100"
    assert preset.values["additional_parameters"] == {"requeue": True} and preset.values["cpus_per_task"] == 4
    with pytest.raises(UserError, match="partitoin"):
        launcher_settings("slurm", ["hydra.launcher.partitoin=a100"])


def test_the_estimate_follows_the_benchmark(tmp_path: Path) -> None:
    configs = [job.run_config(tmp_path) for job in make_plan("paper_1d", ["method=nce", "data=law1"], None).jobs]
    folder = tmp_path / "bench"
    folder.mkdir()
    header = "method,seeds,samples,batch,threads,ms,memory_mb\n"
    (folder / "one_d.csv").write_text(f"{header}nce,20,1024,32,2,10,512\nnce,1,1024,32,2,20,300\nsm,20,1024,32,2,1,1\n")
    (folder / "one_d_cuda.csv").write_text(f"{header}nce,20,1024,32,2,0.1,900\n")
    # 75 epochs of 63 steps, 20 models: 94 500 model steps at 100 a second, and 50 seconds for the scores.
    said = estimate(configs, "cpu", 1, 2, tmp_path)
    assert "1 job (20 seeds), 1 at a time; about 17 min" in said and "up to 1.7 GB of memory a job" in said
    assert "about 32 min" in estimate(configs, "cpu", 1, 1, tmp_path)  # one thread instead of the benchmark's two
    assert "about 17 min" in estimate(configs, "cpu", 1, 8, tmp_path)  # more than were measured are no promise
    assert "up to 0.9 GB of GPU memory a job" in estimate(configs, "gpu", 1, 2, tmp_path)
    assert "about 9 s" in estimate(configs, "gpu", 1, 2, tmp_path)
    more = ["method=nce", "data=law1", "seeds=2", "method.num_samples=999_999", "backend=plain"]
    [config] = [job.run_config(tmp_path) for job in make_plan("paper_1d", more, None).jobs]
    assert "up to 32.8 GB of memory a job" in estimate([config], "cpu", 1, 2, tmp_path)  # 32 points, 1 kB a sample
    (folder / "one_d.csv").write_text(f"{header}sm,20,1024,32,2,1,1\n")
    plan = make_plan("paper_1d", ["method=nce,sm", "data=law1", "seeds=1"], None)
    said = estimate([job.run_config(tmp_path) for job in plan.jobs], "cpu", 1, 2, tmp_path)
    assert said.startswith("2 jobs (2 seeds)") and said.endswith("(1 job of unknown cost apart)")


def test_what_cannot_fit_into_memory_is_refused_before_it_starts(place: Path) -> None:
    write_sweep(place, "nce")
    with pytest.raises(UserError, match=r"about 1024001 GB of memory, and this machine has .*num_samples"):
        sweep(["submit", "own", "method.num_samples=1_000_000", "trainer.batch_size=1_000_000", "backend=plain",
               "data.num_train=1_000_000"])  # fmt: skip
    assert not list((place / "results").glob("runs/*"))


def test_a_multirun_on_a_slurm_that_does_not_answer(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sbatch", "squeue"):
        program = place / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\necho 'error: no configuration source' >&2\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")
    assert main(["-m", "task=1d", "method=nce,sm", "hydra/launcher=slurm"]) == 2
    assert capsys.readouterr().err == "ebmbench: squeue does not answer: error: no configuration source\n"
