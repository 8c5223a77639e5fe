"""Workers on one folder that are killed at random: every job is trained by one process at a time, and once to its end.

    python -m tests.sweep.stress --jobs 100 --kills 200 --hosts 2

A plug-in writes a line for each training step, with the process that took it. On several "hosts" flock is local to
each, as on NFS with `local_lock`, and the times of the locks are shortened. The results must be those of an undisturbed
sweep, bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ebmbench.engine import runs
from tests.comparison import WHOLE, differences
from tests.processes import Command

WORKERS = 8

PLUGIN = """\
import fcntl, os, struct, time
from pathlib import Path

from ebmbench.engine import execute
from ebmbench.engine.train import Callbacks
from ebmbench.system import locking
from ebmbench.tasks.regression.task import OneD

FOLDER = Path("steps")  # in the working directory
train = execute.train


def counted(learner, plan, callbacks, stop):
    log = os.open(FOLDER / plan.path.parent.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def on_step(progress):
        os.write(log, f"{os.getpid()} {progress.step}\\n".encode())
        callbacks.on_step(progress)
        time.sleep(0.01)  # so that a job is killed in its middle on a fast machine too

    return train(learner, plan, Callbacks(callbacks.on_epoch, on_step), stop)


def local_flock(file, mode):
    "Each host locks a byte of its own: no host sees another's locks."
    kind = fcntl.F_WRLCK if mode & fcntl.LOCK_EX else fcntl.F_RDLCK
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, int(HOST), 1, 0))


if execute.train.__name__ == "train":
    execute.train = counted
    OneD.figures = lambda self, setup, run_dir: []  # they would take longer than all else
    HOST = os.environ.get("STRESS_HOST")
    if HOST:
        fcntl.flock = local_flock
        locking._machine = lambda: f"host {HOST}"
        locking.RENEW_SECONDS, locking.STALE_SECONDS, locking.WATCH_SECONDS = 0.5, 8.0, 3.0
"""

SWEEP = """\
# @package _global_
defaults: [{{override /task: 1d}}]
plugins: [counted.py]
seeds: 1
threads: 1
device: cpu
backend: plain
checkpoint_seconds: 0.3
data: {{num_train: 64, num_val: 32, num_test: 64, grid_points: 65}}
trainer: {{epochs: {epochs}}}
method: {{num_samples: 8}}
hydra: {{sweeper: {{params: {{method: nce, trainer.learning_rate: '{rates}'}}}}}}
sweep: {{name: own, tables: [scores]}}
"""


@dataclass
class Report:
    """What a stress test did."""

    jobs: int
    kills: int = 0
    workers: int = 0
    resumed: int = 0
    """Jobs that more than one process worked on."""
    seconds: float = 0.0


def stress(folder: Path, jobs: int, kills: int, hosts: int = 1, epochs: int = 150, seed: int = 0) -> Report:
    """Carries it out in an empty folder; raises AssertionError where a job was lost, doubled or spoilt."""
    started, chance, report = time.monotonic(), random.Random(seed), Report(jobs)
    quiet, disturbed = folder / "quiet", folder / "disturbed"
    for place in (quiet, disturbed):
        _submit(place, jobs, epochs)
    assert _worker(quiet, 0, 1).wait(600) == 0
    workers: list[Command] = []
    give_up = time.monotonic() + 300 + 30 * kills
    while len(_done(disturbed)) < jobs:
        assert time.monotonic() < give_up, [w.output for w in workers]
        workers = [worker for worker in workers if worker.process.is_alive()]
        while len(workers) < WORKERS:
            workers.append(_worker(disturbed, report.workers, hosts))
            report.workers += 1
        time.sleep(chance.uniform(0.1, 1))
        training = _training(disturbed)
        busy = [worker for worker in workers if training & set(_children(worker))]
        if report.kills < kills and busy:
            how = ("machine", "worker", "asked")[report.kills % 3]
            report.kills += _kill(chance.choice(busy), how)
    for worker in workers:
        assert worker.wait(120) in (0, 130, -signal.SIGKILL), worker.output
    _check(quiet, disturbed, report)
    report.seconds = round(time.monotonic() - started, 1)
    return report


def _submit(place: Path, jobs: int, epochs: int) -> None:
    (place / "sweeps").mkdir(parents=True)
    (place / "steps").mkdir()
    rates = ",".join(str(round(1e-3 + 1e-5 * number, 6)) for number in range(jobs))
    (place / "sweeps" / "own.yaml").write_text(SWEEP.format(epochs=epochs, rates=rates))
    (place / "counted.py").write_text(PLUGIN)
    command = Command(["sweep", "submit", "own", "--no-start"], place / "submitted", folder=place)
    assert command.wait() == 0, command.output


def _worker(place: Path, number: int, hosts: int) -> Command:
    environment = {"STRESS_HOST": str(number % hosts)} if hosts > 1 else {}
    return Command(["sweep", "work", "own"], place / f"log{number}", folder=place, environment=environment)


def _done(place: Path) -> list[Path]:
    """Returns the directories of the finished runs."""
    found = []
    for path in (place / "results" / "runs").glob("*/status.json"):
        status = runs.read_status(path.parent)
        assert status is not None and status.state != "failed", status
        found += [path.parent] if status.state == "done" else []
    return sorted(found)


def _kill(worker: Command, how: str) -> bool:
    """Ends a worker: alone, with its processes as a machine's death does, or by asking; False if it had ended."""
    assert worker.process.pid is not None
    if not worker.process.is_alive():
        return False
    signum = signal.SIGTERM if how == "asked" else signal.SIGKILL
    for pid in [worker.process.pid, *(_children(worker) if how == "machine" else ())]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
    return True


def _training(place: Path) -> set[int]:
    """Returns the processes that took the last steps of jobs that are not done."""
    done = {path.name for path in _done(place)}
    texts = [path.read_text().split() for path in (place / "steps").iterdir() if path.name not in done]
    return {int(words[-2]) for words in texts if words}


def _children(worker: Command) -> list[int]:
    """Returns the processes that a worker started, and theirs."""
    found, new = [], [worker.process.pid]
    while new:
        pid = new.pop()
        with contextlib.suppress(OSError):
            text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
            found += (more := [int(child) for child in text.split()])
            new += more
    return found


def _check(quiet: Path, disturbed: Path, report: Report) -> None:
    logs = "".join(path.read_text() for path in disturbed.glob("log*"))
    assert "Traceback" not in logs and "FAILED" not in logs, logs
    expected = _done(quiet)
    assert [path.name for path in _done(disturbed)] == [path.name for path in expected]
    assert len(list((disturbed / "results" / "runs").iterdir())) == report.jobs == len(expected)
    for run_dir, other in zip(_done(disturbed), expected, strict=True):
        assert not differences(run_dir, other) and not runs.verify(run_dir), run_dir
        assert {path.name for path in run_dir.iterdir()} == WHOLE - {"figures"}, sorted(run_dir.iterdir())
        assert json.loads((run_dir / "status.json").read_text())["attempt"] == 1
        assert logs.count(f"done    {run_dir.name} ") <= 1, logs
        lines = [line.split() for line in (disturbed / "steps" / run_dir.name).read_text().splitlines()]
        parts = [[int(step) for _, step in part] for _, part in itertools.groupby(lines, key=lambda line: line[0])]
        assert len({pid for pid, _ in lines}) == len(parts), f"two processes at once: {lines}"
        assert all(part == list(range(part[0], part[0] + len(part))) for part in parts), "steps left out, or doubled"
        assert parts[0][0] == 1 and all(b[0] <= a[-1] + 1 for a, b in itertools.pairwise(parts)), "steps were lost"
        end = max(part[-1] for part in parts)
        first = next(number for number, part in enumerate(parts) if part[-1] == end)
        assert all(part[0] > 1 for part in parts[first + 1 :]), "trained again after its end"
        report.resumed += len(parts) > 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ebmbench-stress-"))
    print(stress(folder, options.jobs, options.kills, options.hosts, seed=options.seed))


if __name__ == "__main__":
    main()
