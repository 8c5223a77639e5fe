"""Real processes for the tests, forked from one that has imported everything: each starts in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["ebmbench.cli.main", "ebmbench.engine.execute", "ebmbench.engine.summary", "matplotlib.pyplot"]
)


PAPER = ("nce+", "nce", "ml-is", "kld-is", "ml-mcmc", "dsm", "sm")
"""The seven methods of the paper."""


class Command:
    """`python -m ebmbench ARGUMENTS` under way, its output in a file.

    Args:
        largest_file: bytes that it may write to one file: a stand-in for a full disk where none can be mounted.
        folder: its working directory; this process's if not given.
        environment: variables that it has beside this process's.
    """

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        largest_file: int | None = None,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        about = (arguments, str(log), largest_file, str(folder or Path.cwd()), dict(environment or {}))
        self.process = CONTEXT.Process(target=_run, args=about)
        self.process.start()

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def send(self, signum: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signum)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = 240) -> int:
        """The exit code; minus the signal where one killed it."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise TimeoutError(f"still running after {seconds} s:\n{self.output}")
        return code

    def wait_for(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        """Until something is so, while the process runs."""
        give_up = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), f"it ended with {self.process.exitcode}:\n{self.output}"
            if time.monotonic() > give_up:
                self.process.kill()
                raise TimeoutError(f"not so after {seconds} s:\n{self.output}")
            time.sleep(0.005)


def _run(arguments: list[str], log: str, largest_file: int | None, folder: str, environment: dict[str, str]) -> None:
    silence(log)
    os.chdir(folder)
    os.environ.update(environment)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    from ebmbench.cli.main import main

    sys.exit(main(arguments))


def silence(log: str) -> None:
    """In a process just started: its output goes to a file, and it has one thread, as what forked it had."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    import torch

    torch.set_num_threads(1)


SAMPLING = ("ml-is", "ml-mcmc", "kld-is", "nce", "nce+", "dsm")


def small(method: str, *more: str) -> list[str]:
    """Overrides for a 1D run of a second: two seeds, tiny data, few samples."""
    lines = ["task=1d", f"method={method}", "seeds=2", "device=cpu", "threads=1", "backend=plain"]
    lines += [
        "data.num_train=48",
        "data.num_val=16",
        "data.num_test=32",
        "data.grid_points=33",
        "trainer.batch_size=20",
    ]
    if method in SAMPLING:
        lines.append("method.num_samples=8")
    return [*lines, *more]


TINY = [
    "task=detection",
    "data.num_train=6",
    "data.num_val=2",
    "data.num_test=3",
    "task.base.weights=none",
    "task.base.feature_cache_mb=10",
    "task.inference.steps=1",
    "task.inference.bootstrap=5",
    "task.inference.nll_boxes=2",
    "task.inference.nll_samples=8",
    "trainer.iterations=2",
    "trainer.batch_size=3",
]


def tiny(method: str, *more: str) -> list[str]:
    """Overrides for a detection run of seconds: a few made images, a base that is not trained."""
    samples = ["method.num_samples=4"] if method in SAMPLING else []
    return [*TINY, f"method={method}", *samples, *more]
