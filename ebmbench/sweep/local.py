"""Jobs side by side on this machine: a bounded number of processes, spread over the GPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError, counted
from ebmbench.engine.runs import read_state
from ebmbench.report.planned import error_path
from ebmbench.sweep.job import HELD, run_job, write_error
from ebmbench.sweep.watch import Watch
from ebmbench.system.interrupt import on_signals, stopping_signals


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time: the environment that its process gets, and its threads."""

    environment: dict[str, str]
    threads: int


def slots(device: str, bound: int | None, jobs: int) -> list[Slot]:
    """The places on this machine: as many as `bound` says, else one per GPU, or per core where there is none.

    No more than there are jobs, so that few jobs have more cores each.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS
    gpus = _visible_gpus() if device in ("auto", "cuda") else []
    number = min(bound or len(gpus) or (1 if device.startswith("cuda") else cores), jobs)
    threads = max(1, cores // number)
    if not gpus:
        return [Slot({}, threads)] * number
    return [Slot({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]}, threads) for i in range(number)]


def _visible_gpus() -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return given.split(",")[:count] if given else [str(index) for index in range(count)]


def run_pool(
    configs: Sequence[RunConfig], places: Sequence[Slot], folder: Path, max_restarts: int = 0
) -> dict[str, int]:
    """Runs all jobs, each in a process of its own, which ends alone where it crashes.

    Ctrl-C (or another signal to stop) asks the running jobs to save and stop, and starts no more; a second one kills
    them. Where this process is killed, its jobs save and stop.

    Args:
        max_restarts: how often a job that the system ended (for want of memory, for instance) starts again, from its
            checkpoint. A job that failed by itself does not: it would fail again.

    Returns:
        Run to exit code, of those that were started.
    """
    # A server that has imported torch forks the jobs: each starts at once, with memory of its own to be measured.
    # What Apple's libraries have set up does not survive a fork, so that each job starts from nothing there.
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "darwin" else "forkserver")
    context.set_forkserver_preload(["ebmbench.engine.execute"])
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    waiting, free = list(configs), list(range(len(places)))
    active: dict[Any, tuple[RunConfig, int, Any, float]] = {}
    codes: dict[str, int] = {}
    starts: Counter[str] = Counter()
    stop = _Stop()
    with on_signals(stopping_signals(), stop.add), Watch(len(configs)) as watch:
        while (waiting and not stop.count) or active:
            while waiting and free and not stop.count:
                config, place = waiting.pop(0), free.pop(0)
                slot = places[place]
                threads = config.launch.threads or slot.threads
                text = config.replace(threads=threads).to_yaml()
                log = folder / "logs" / f"{config.run_id}.log"
                process = context.Process(target=_child, args=(text, str(folder), slot.environment, str(log)))
                try:
                    process.start()
                except (OSError, EOFError) as error:  # no process, no memory: fewer at a time, if any goes
                    reason = getattr(error, "strerror", None) or "the system starts no further process"
                    if not active:
                        raise UserError(f"a job cannot be started ({reason}); what was computed is kept") from None
                    watch.say(f"{len(active)} jobs at a time from now on: no more can be started ({reason})")
                    waiting.insert(0, config)
                    break
                starts[config.run_id] += 1
                active[process.sentinel] = (config, place, process, time.monotonic())
                watch.started(place, config)
            for sentinel in connection.wait(list(active), timeout=0.5):
                config, place, process, started = active.pop(sentinel)
                process.join()
                free.append(place)
                seconds = time.monotonic() - started
                is_again = _was_killed(process) and starts[config.run_id] <= max_restarts and not stop.count
                watch.ended(place, is_last=not is_again)
                if is_again:
                    waiting.append(config)
                    which = f"restart {starts[config.run_id]} of {max_restarts}"
                    watch.say(f"killed  {config.run_id}  {seconds:.1f} s; it starts again ({which})")
                    continue
                codes[config.run_id] = code = _exit_code(process, config, folder, starts[config.run_id])
                word = _word(code, config)
                watch.say(f"[{len(codes)}/{len(configs)}] {word:9}{config.run_id}  {seconds:.1f} s")
            watch.refresh()
            stop.pass_on([process for _, _, process, _ in active.values()])
    return codes


def _word(code: int, config: RunConfig) -> str:
    """Returns how a job ended, in a word."""
    if code == 0:
        return read_state(config.run_dir)
    return "held" if code == HELD else "stopped" if code > 128 else "FAILED"


def _was_killed(process: Any) -> bool:
    """Whether a signal ended the process that does not ask it to stop."""
    code = process.exitcode
    return code is not None and code < 0 and -code not in stopping_signals()


def _exit_code(process: Any, config: RunConfig, folder: Path, starts: int) -> int:
    """The job's exit code; where a signal ended it unasked, that is left for `sweep status` to say."""
    code = process.exitcode or 0
    if not _was_killed(process):
        return code if code >= 0 else 128 - code
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    times = f", {starts} times" if starts > 1 else ""
    text = f"{config.run_id}: the process was ended by {signal.Signals(-code).name}{hint}{times}"
    write_error(error_path(folder, config.run_id), text)
    return 1


def _child(config_yaml: str, folder: str, environment: dict[str, str], log: str) -> None:
    os.environ.update(environment)  # before CUDA is first asked for anything
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the pool passes it on as SIGTERM
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    threading.Thread(target=_end_with_pool, daemon=True, name="pool").start()
    sys.exit(run_job(config_yaml, folder))


def _end_with_pool() -> None:
    """Asks this job to save and stop where the process that started it was killed."""
    pool = multiprocessing.parent_process()
    assert pool is not None
    pool.join()
    os.kill(os.getpid(), signal.SIGTERM)


class _Stop:
    """Counts the requests to stop, and passes them on."""

    def __init__(self) -> None:
        self.count = 0
        self._passed = 0

    def add(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1

    def pass_on(self, processes: list[Any]) -> None:
        if self.count > self._passed:
            if self._passed == 0:
                said = counted(len(processes), "running job saves its state", "running jobs save their state")
                print(f"stopping: {said}", file=sys.stderr, flush=True)
            for process in processes:
                process.terminate() if self.count == 1 else process.kill()
            self._passed = self.count
