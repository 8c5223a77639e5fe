"""How long the commands on a sweep take, and how much memory, as its runs grow: on made run directories.

    python -m benchmarks sweep [--runs 1000 10000 100000] [--folder DIR]

The runs are made up, their directories are of the real layout; the commands are the ones that a user types, each in a
process of its own, so that what is measured is what is waited for.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import made_runs
from benchmarks.machine import conditions
from benchmarks.waits import run
from ebmbench.display.table import csv_text
from ebmbench.engine.runs import commit
from ebmbench.system.files import write_atomically

COMMANDS = {"status": "sweep status", "collect": "sweep collect", "check": "audit tables", "page": "report page"}
MANY = 1_000_000
"""Runs for which the costs are extrapolated."""


def main(argv: Sequence[str]) -> int:
    """Makes the runs, measures the commands, and writes sweep.csv and sweep.md; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 10_000], help="numbers of runs")
    parser.add_argument("--seeds", type=int, default=1, help="of each run")
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    parser.add_argument("--folder", type=Path, help="where to make them, and leave them; made ones are used again")
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="folder for sweep.{csv,md}")
    arguments = parser.parse_args(argv)
    measured_at = commit()  # before results are written, which makes the checkout differ
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for count in arguments.runs:
            folder = (arguments.folder or Path(temporary)).absolute() / str(count)
            if not folder.exists():
                made_runs.make(folder, count, arguments.seeds)
            for command in arguments.commands:
                words = [*COMMANDS[command].split(), made_runs.NAME, f"results_dir={folder}"]
                took = run(["-m", "ebmbench", *words], folder, damaged=True)
                rows.append({"command": command, "runs": count, **dataclasses.asdict(took)})
                print(f"{count:8} {command:8} {took.seconds:8.1f} s", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows).assign(seeds=arguments.seeds, cores=os.cpu_count(), commit=measured_at)
    write_atomically(arguments.out / "sweep.csv", csv_text(table, digits=None).encode())
    text = report(rows, measured_at, shlex.join(["python", "-m", "benchmarks", "sweep", *argv]))
    (arguments.out / "sweep.md").write_text(text)
    print(text)
    return 0


def report(rows: Sequence[Mapping[str, Any]], measured_at: str | None, command: str) -> str:
    """Returns what was measured, with the cost of one more run and what that makes of a million, as Markdown."""
    lines = [
        "# Many runs",
        "",
        f"    {command}",
        "",
        conditions(measured_at),
        "",
        "Made-up runs of one seed on a local disk, whose files are in memory. *One more run* is the slope between the",
        f"least and the most runs; *a million* is that slope times {MANY:,}.",
        "",
        "| command | runs | s | of the processor, s | MB |",
        "|---|--:|--:|--:|--:|",
        *(
            f"| {row['command']} | {row['runs']:,} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} "
            f"| {row['peak_memory_mb']:.0f} |"
            for row in sorted(rows, key=lambda row: (list(COMMANDS).index(row["command"]), row["runs"]))
        ),
        "",
        "| command | one more run, ms of the processor | kB | a million, minutes | GB |",
        "|---|--:|--:|--:|--:|",
    ]
    for name in dict.fromkeys(row["command"] for row in rows):
        ends = [row for row in rows if row["command"] == name]
        first, last = min(ends, key=lambda row: row["runs"]), max(ends, key=lambda row: row["runs"])
        if first["runs"] < last["runs"]:
            more = last["runs"] - first["runs"]
            seconds = (last["cpu_seconds"] - first["cpu_seconds"]) / more
            megabytes = (last["peak_memory_mb"] - first["peak_memory_mb"]) / more
            cells = [name, f"{1e3 * seconds:.2f}", f"{1e3 * megabytes:.1f}"]
            cells += [f"{seconds * MANY / 60:.0f}", f"{megabytes * MANY / 1e3:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
