"""How long status, collect and check take on a sweep of 10 000 runs, and how much memory: on made run directories.

    python -m ebmbench.bench sweep [--runs 10000] [--seeds 1] [--folder DIR]

The runs are made up, their directories are of the real layout; the commands are the ones that a user types, each in a
process of its own, so that what is measured is what is waited for.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.engine.runs import Status, commit, now, output_files
from ebmbench.report.planned import Job, Plan
from ebmbench.sweep.plan import write_plan
from ebmbench.system.files import fingerprint_of_file

PER_SETTING = 20
"""Runs of one seed for each setting, as a sweep has them whose seeds are spread over the nodes of a cluster."""
SECONDS, MEGABYTES = 10.0, 1024.0
"""What the commands may take."""
METRICS = ("d_kl", "nll", "nll_error", "val_nll", "crps", "coverage_50", "coverage_90", "edge_mass", "d_kl_noisy")


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
        plan = make_runs(folder, arguments.runs, arguments.seeds)
        print(f"{len(plan.jobs)} runs of {arguments.seeds} seeds made in {time.perf_counter() - started:.0f} s")
        rows = [measure(command, plan.name, folder) for command in ("status", "collect", "check")]
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


def measure(command: str, name: str, folder: Path) -> dict[str, Any]:
    """Wall time, CPU time and peak memory of a command."""
    words = [sys.executable, "-m", "ebmbench", "sweep", command, name, f"results_dir={folder}"]
    started = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if code != 0:
        raise RuntimeError(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(code)}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"command": command, "seconds": seconds, "cpu_seconds": cpu, "peak_memory_mb": usage.ru_maxrss / 1024}


def make_runs(results_dir: Path, runs: int, seeds: int) -> Plan:
    """A plan of so many runs with the directories of most of them: one in a hundred is missing, failed or damaged."""
    settings = max(1, runs // PER_SETTING)
    methods = ("nce+", "nce", "ml-is", "kld-is")
    bases = {method: compose(["task=1d", f"method={method}", "sweep={name: made}"]) for method in methods}
    rng = np.random.default_rng(0)
    jobs = []
    for index in range(runs):
        setting, part = index % settings, index // settings
        rate = 1e-3 * (1 + setting // len(methods))
        base = bases[methods[setting % len(methods)]]
        trainer = base.trainer.model_copy(update={"learning_rate": rate})
        config = dataclasses.replace(base, trainer=trainer, seeds=tuple(range(part * seeds, (part + 1) * seeds)))
        axes = {"trainer.learning_rate": rate}
        jobs.append(Job(config.run_id, config.run_hash, config.config_hash, axes, config.to_dict()))
        _make_run(results_dir / "runs" / config.run_id, config, index, rng)
    plan = Plan(
        name="made",
        description="Made up, to see how long reading takes.",
        tables=({"grid": {"by": "trainer.learning_rate", "metrics": ["d_kl"]}},),
        figures=(),
        axes=("trainer.learning_rate",),
        overrides=(),
        created=now(),
        commit=None,
        jobs=tuple(jobs),
    )
    write_plan(plan, results_dir)
    return plan


def _make_run(folder: Path, config: RunConfig, index: int, rng: np.random.Generator) -> None:
    if index % 100 == 0:
        return
    folder.mkdir(parents=True)
    failed = index % 100 == 1
    status = Status.of(
        config,
        "failed" if failed else "done",
        step=4725,
        num_steps=4725,
        error="RuntimeError: made up" if failed else None,
        started=now(),
        finished=None if failed else now(),
        commit="0123456789ab",
    )
    (folder / "status.json").write_text(json.dumps(dataclasses.asdict(status), indent=1) + "\n")
    (folder / "config.yaml").write_text(f"seeds: {list(config.seeds)}\nforce: false\n")
    if failed:
        return
    (folder / "environment.json").write_text("{}\n")
    (folder / "checkpoint.pt").write_bytes(b"made up")
    buffer = io.StringIO()
    names = ["seed", *METRICS, "diverged", "diverged_step", "trusted"]
    names += ["train_seconds", "peak_memory_mb", "energy_evaluations"]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for seed in config.seeds:
        values = dict(zip(METRICS, rng.lognormal(size=len(METRICS)).tolist(), strict=True))
        rest = {"diverged": 0, "diverged_step": "", "trusted": 1, "train_seconds": 1.0, "peak_memory_mb": 300.0}
        writer.writerow({"seed": seed, **values, **rest, "energy_evaluations": 1000})
    text = buffer.getvalue()
    (folder / "metrics.csv").write_text(text)
    status.outputs = {path.name: fingerprint_of_file(path) for path in output_files(folder)}
    (folder / "status.json").write_text(json.dumps(dataclasses.asdict(status), indent=1) + "\n")
    if index % 100 == 2:
        (folder / "metrics.csv").write_text(text[:-20])


if __name__ == "__main__":
    sys.exit(main())
