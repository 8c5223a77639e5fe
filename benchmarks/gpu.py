"""Everything that needs a GPU, in about half an hour: tests, speed, the whole 1D table, detection, a table.

    python -m benchmarks gpu                         (`make gpu`)
    python -m benchmarks gpu --parts tests steps     some of it, where a machine is lent for minutes

The parts run one after the other: side by side they would wait for their turns on the GPU, each many times as long.
Writes gpu.md, and one_d_cuda.* of the benchmark, that of the peers in peers/. Without a GPU it says so, lists what it
would do, and returns 1.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.machine import machine, now
from ebmbench.config.compose import compose
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.engine.execute import execute, last_line
from ebmbench.engine.runs import commit

SHOWN = 60
"""Lines of each part's output."""


@dataclass(frozen=True)
class Part:
    """A command, what it shows, and the seconds that it may take."""

    name: str
    shows: str
    words: str
    most: int

    def command(self, results: Path, out: Path) -> list[str]:
        """Returns the command with the folders in their places."""
        return [sys.executable, *shlex.split(self.words.format(results=results, out=out))]


PARTS = (
    Part(
        "tests",
        "capture, replay, no waits, agreement with the CPU",
        "-m pytest -q -m gpu tests/test_cuda.py tests/test_second_device.py tests/boxes/test_pooling.py",
        400,
    ),
    Part(
        "steps",
        "steps against the textbook way",
        "-m benchmarks --device cuda --seeds 1 20 80 --seconds 0.5 --no-curves --out {out}",
        240,
    ),
    Part(
        "compile",
        "steps against torch.compile",
        "-m benchmarks --device cuda --methods nce+ dsm --seeds 20 --seconds 0.5 --no-curves --peers compile "
        "--out {out}/peers",
        200,
    ),
    Part("smoke", "every task and method trains", "-m benchmarks gpu --smoke --out {out}", 500),
    Part(
        "table",
        "a table of people's own",
        "-m ebmbench task=regression data=diabetes method=nce+ seeds=5 device=cuda results_dir={results}",
        120,
    ),
    Part(
        "paper_1d",
        "all 280 models of the 1D table",
        "-m ebmbench sweep submit paper_1d device=cuda results_dir={results} --jobs 2",
        900,
    ),
    Part(
        "boxes",
        "boxes, from nothing to AP",
        "-m ebmbench task=detection method=nce+ device=cuda results_dir={results}",
        600,
    ),
    Part(
        "resnet",
        "five hundred steps on ResNet-50 with random weights",
        "-m ebmbench task=detection method=nce+ device=cuda results_dir={results} task.base.architecture=resnet50 "
        "task.base.weights=none task.base.iterations=200 trainer.iterations=500 task.inference.bootstrap=0",
        400,
    ),
)


@dataclass(frozen=True)
class Ran:
    """How a part went: its exit code (None: it was stopped), and the last lines that it printed."""

    part: Part
    code: int | None
    seconds: float
    text: str


def main(argv: Sequence[str]) -> int:
    """Runs all parts and writes gpu.md; returns 1 if one failed, or there is no GPU."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="folder for gpu.md and one_d_cuda.*")
    parser.add_argument("--parts", nargs="+", default=names, choices=names, help="only these")
    parser.add_argument("--results", type=Path, help="folder for the runs (default: one that is deleted)")
    parser.add_argument("--smoke", action="store_true", help="only: train every task and method for seconds")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("there is no CUDA device, so nothing was measured; with one, this would run")
        for part in PARTS:
            print(f"  python {part.words.format(results='RESULTS', out=arguments.out)}\n      {part.shows}")
        return 1
    if arguments.smoke:
        return smoke("cuda")
    measured_at = commit()  # before results are written, which makes the checkout differ
    with tempfile.TemporaryDirectory() as made:
        results = arguments.results or Path(made)
        ran = [run_part(part, results, arguments.out) for part in PARTS if part.name in arguments.parts]
    text = report(ran, machine("cuda"), measured_at)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu.md").write_text(text)
    print(text)
    return int(any(one.code != 0 for one in ran))


def run_part(part: Part, results: Path, out: Path) -> Ran:
    """Runs a part, and says how it went; what takes too long is stopped."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        command = part.command(results, out)
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(part.most)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children, too
            process.wait()
            code = None
        log.seek(0)
        lines = log.read().strip().splitlines()
    ran = Ran(part, code, time.monotonic() - started, "\n".join(lines[-SHOWN:]))
    print(f"{ran.seconds:6.0f} s  {part.shows}: {_outcome(ran)}", flush=True)
    return ran


def _outcome(ran: Ran) -> str:
    return "stopped" if ran.code is None else "done" if ran.code == 0 else f"failed ({ran.code})"


def report(ran: Sequence[Ran], where: str, measured_at: str | None) -> str:
    """Returns what was measured, as Markdown."""
    names = [one.part.name for one in ran]
    lines = [
        "# On a GPU",
        "",
        "    python -m benchmarks gpu" + ("" if len(ran) == len(PARTS) else f" --parts {' '.join(names)}"),
        "",
        f"{where}; torch {torch.__version__}; commit {measured_at}; {now()}.",
        "",
        "| | seconds | |",
        "|---|--:|---|",
        *(f"| {one.part.shows} | {one.seconds:.0f} | {_outcome(one)} |" for one in ran),
    ]
    for one in ran:
        words = one.part.words.format(results="RESULTS", out="results/bench")
        lines += ["", f"## {one.part.shows}", "", f"    python {words}", "", "```", one.text, "```"]
    return "\n".join([*lines, ""])


def smoke(device: str, tasks: Sequence[str] = (), methods: Sequence[str] = ()) -> int:
    """Trains every task with every method for seconds, and says how each went; returns 1 if one failed.

    Args:
        tasks, methods: all, if none is named.
    """
    failed = 0
    with tempfile.TemporaryDirectory() as results:
        for task in tasks or registry.known("task"):
            for method in methods or registry.known("method"):
                started = time.monotonic()
                words = [f"task={task}", f"method={method}", "+experiment=smoke", "seeds=2", "logger=none"]
                try:
                    outcome = execute(compose([*words, f"device={device}", f"results_dir={results}"]), quiet=True).state
                except UserError as error:  # a method that the task cannot serve says so
                    outcome = f"refused: {error}"
                except Exception as error:
                    outcome, failed = f"failed: {last_line(error)}", failed + 1
                print(f"{task:12}{method:12}{time.monotonic() - started:6.1f} s  {outcome}", flush=True)
    return int(failed > 0)
