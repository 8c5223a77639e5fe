"""How long status, collect and check take on a sweep of 10 000 runs, and how much memory: on made run directories.

    python -m ebmbench.bench sweep [--runs 10000] [--seeds 1] [--folder DIR]

The runs are made up, their directories are of the real layout; the commands are the ones that a user types, each in a
process of its own, so that what is measured is what is waited for.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebmbench.bench import made_runs
from ebmbench.bench.waits import run
from ebmbench.engine.runs import commit

SECONDS, MEGABYTES = 10.0, 1024.0
"""What the commands may take."""


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the runs, measures the commands and prints a table; 1 if one took more than it may."""
    parser = argparse.ArgumentParser(prog="python -m ebmbench.bench sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1, help="of each run")
    parser.add_argument("--folder", type=Path, help="where to make them, and leave them")
    parser.add_argument("--csv", type=Path, help="the figures, as CSV")
    arguments = parser.parse_args(argv)
    measured_at = commit()  # before results are written, which makes the checkout differ
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        started = time.perf_counter()
        plan = made_runs.make(folder, arguments.runs, arguments.seeds)
        print(f"{len(plan.jobs)} runs of {arguments.seeds} seeds made in {time.perf_counter() - started:.0f} s")
        rows = [measure(command, folder) for command in ("status", "collect", "check")]
    print(f"{'command':10}{'seconds':>10}{'of them CPU':>14}{'MB':>10}")
    for row in rows:
        print(f"{row['command']:10}{row['seconds']:10.1f}{row['cpu_seconds']:14.1f}{row['peak_memory_mb']:10.0f}")
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(arguments.csv, "w", newline="") as file:
            about = {"runs": len(plan.jobs), "seeds": arguments.seeds, "cores": os.cpu_count(), "commit": measured_at}
            writer = csv.DictWriter(file, [*rows[0], *about])
            writer.writeheader()
            writer.writerows({**row, **about} for row in rows)
    slow = [
        r for r in rows if r["command"] != "check" and (r["cpu_seconds"] > SECONDS or r["peak_memory_mb"] > MEGABYTES)
    ]
    return 1 if slow else 0


def measure(command: str, folder: Path) -> dict[str, Any]:
    """Wall time, CPU time and peak memory of a command."""
    took = run(["-m", "ebmbench", "sweep", command, made_runs.NAME, f"results_dir={folder}"], folder)
    return {"command": command, **dataclasses.asdict(took)}


if __name__ == "__main__":
    sys.exit(main())
