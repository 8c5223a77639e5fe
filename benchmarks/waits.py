"""How long a person waits for a command: each in a process of its own, from the start to the end of the process.

    python -m benchmarks waits [--repeats 7]             short commands
    python -m benchmarks waits --runs [--repeats 1]      whole runs at the published settings: some three minutes

The commands are those that a user types. They take turns, so that what else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import made_runs
from benchmarks.machine import conditions
from ebmbench.engine.runs import commit

TIMER = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, code, used = os.wait4(process.pid, 0)
seconds = time.perf_counter() - started
code = os.waitstatus_to_exitcode(code)
print(json.dumps([code, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
"""A small process that starts the command: a child's peak memory is never less than that of the one that starts it."""


@dataclass(frozen=True)
class Took:
    """What a command took: seconds by the clock and of the processor, and its peak memory in MB."""

    seconds: float
    cpu_seconds: float
    peak_memory_mb: float


def run(words: Sequence[str], folder: Path, damaged: bool = False) -> Took:
    """Runs Python with these words in a folder; returns what it took.

    Args:
        damaged: some of the results there are, which the command may say by exit code 1.

    Raises:
        RuntimeError: it failed.
    """
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", TIMER, sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    code, *figures = json.loads(done.stdout)
    if code not in ((0, 1) if damaged else (0,)) or "Traceback" in done.stderr:
        raise RuntimeError(f"python {' '.join(words)} ended with {code}: {done.stderr.strip()[-500:]}")
    return Took(*figures)


@dataclass(frozen=True)
class Wait:
    """A command, and the seconds of a processor that it may take, if there is a goal."""

    name: str
    words: str
    most: float = math.inf

    def line(self) -> list[str]:
        """The words for Python."""
        return ["-c", self.words] if self.words.startswith("import") else ["-m", "ebmbench", *self.words.split()]


SMOKE = "task=1d method=nce+ +experiment=smoke"
WAITS = (
    Wait("import", "import ebmbench", 0.1),
    Wait("help", "--help", 0.3),
    Wait("settings of a run", "--cfg job task=detection method=nce+", 1.0),
    Wait("what a method has", "describe method nce+", 1.0),
    Wait("state of a sweep of 100 runs", f"sweep status {made_runs.NAME} results_dir=made", 1.0),
    Wait("a result that exists", SMOKE, 1.5),
    Wait("smoke run", f"{SMOKE} force=true", 5.0),
)
RUNS = (
    Wait("a model of nce+, as `make run` trains it", "task=1d method=nce+ force=true"),
    Wait("20 models of nce", "task=1d method=nce seeds=20 force=true"),
    Wait("20 models of sm", "task=1d method=sm seeds=20 force=true"),
)


def main(argv: Sequence[str]) -> int:
    """Measures the waits and writes them; returns 1 if one takes more of the processor than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks waits", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", action="store_true", help="whole runs at the published settings, some three minutes")
    parser.add_argument("--repeats", type=int, help="of each command; 7, and 1 of whole runs")
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="folder for waits.{csv,md}, runs.*")
    arguments = parser.parse_args(argv)
    commands, repeats = (RUNS if arguments.runs else WAITS), arguments.repeats or (1 if arguments.runs else 7)
    measured_at = commit()  # before results are written, which makes the checkout differ
    times: dict[Wait, list[Took]] = {wait: [] for wait in commands}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made_runs.make(folder / "made", 100, 1)
        run(WAITS[-1].line(), folder)  # makes the result that exists, and compiles what is compiled once
        for _ in range(repeats):
            for wait, took in times.items():
                took.append(run(wait.line(), folder))
    print(write(times, arguments.out, measured_at).read_text())
    return int(any(_median(took, "cpu_seconds") > wait.most for wait, took in times.items()))


def _median(took: Sequence[Took], what: str) -> float:
    return statistics.median(getattr(one, what) for one in took)


def write(times: Mapping[Wait, Sequence[Took]], out: Path, measured_at: str | None) -> Path:
    """Writes waits.csv, a row for each measurement, and waits.md (for whole runs runs.*); returns the latter."""
    out.mkdir(parents=True, exist_ok=True)
    whole = all(wait in RUNS for wait in times)
    name, title = ("runs", "Whole runs") if whole else ("waits", "What a person waits for")
    with open(out / f"{name}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["command", "repeat", *Took.__dataclass_fields__])
        for wait, took in times.items():
            for number, one in enumerate(took):
                row = (f"{value:.4g}" for value in (one.seconds, one.cpu_seconds, one.peak_memory_mb))
                writer.writerow([wait.words, number, *row])
    repeats = len(next(iter(times.values())))
    lines = [
        f"# {title}",
        "",
        f"    python -m benchmarks waits {'--runs ' * whole}--repeats {repeats}",
        "",
        conditions(measured_at),
        "",
        "Each command is a process of its own, from its start to its end. Seconds are by the clock, the median of "
        f"{repeats} and the range; above as many processes as cores (the load average) they say what else the machine",
        "did. A goal is for the processor's seconds, which are what the clock shows on an idle machine. Of a run, all",
        "is counted: imports, training, evaluation, figures.",
        "",
        "| | command | s | range | of the processor, s | peak MB | goal, s |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for wait, took in times.items():
        seconds = [t.seconds for t in took]
        words = f'python -c "{wait.words}"' if wait.words.startswith("import") else f"python -m ebmbench {wait.words}"
        cells = [wait.name, f"`{words}`"]
        cells += [f"{_median(took, 'seconds'):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}"]
        cells += [f"{_median(took, 'cpu_seconds'):.2f}", f"{_median(took, 'peak_memory_mb'):.0f}"]
        cells.append("" if math.isinf(wait.most) else f"{wait.most:g}")
        lines.append(f"| {' | '.join(cells)} |")
    path = out / f"{name}.md"
    path.write_text("\n".join([*lines, ""]))
    return path
