"""Made runs of a real plan, with numbers that a test chooses."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ebmbench.cli.parser import parse
from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.engine.runs import Status, output_files
from ebmbench.report.planned import Job, Plan
from ebmbench.sweep.plan import write_plan
from ebmbench.system.files import fingerprint_of_file
from ebmbench.system.seal import encode as sealed_json

METHODS = ("nce+", "nce", "sm")


@lru_cache
def composed(method: str, seeds: int) -> RunConfig:
    """Composed once for all tests."""
    return compose(["task=1d", f"method={method}", f"seeds={seeds}", "+experiment=smoke", "sweep={name: made}"])


def made_plan(
    results_dir: Path, methods: tuple[str, ...] = METHODS, seeds: int = 8, tables: tuple[object, ...] = ()
) -> Plan:
    """A plan of one job per method on dataset 1, written to its place."""
    jobs = []
    for method in methods:
        config = composed(method, seeds)
        jobs.append(Job(config.run_id, config.run_hash, config.config_hash, {}, config.to_dict()))
    plan = Plan(
        name="made",
        description="Made up.",
        tables=tables or ("scores", "cost", "comparisons", "audit"),
        figures=(),
        axes=(),
        overrides=(),
        created="2026-01-01T00:00:00+00:00",
        commit="0123456789ab",
        jobs=tuple(jobs),
    )
    write_plan(plan, results_dir)
    return plan


def make_done(job: Job, results_dir: Path, d_kl: list[float], diverged: dict[int, int] | None = None) -> Path:
    """A finished run whose D_KL per seed is given; the other metrics follow from it."""
    diverged = diverged or {}
    folder = make_status(job, results_dir, "done", diverged={str(k): v for k, v in diverged.items()})
    rows = []
    for seed, value in zip(job.config["seeds"], d_kl, strict=True):
        value = np.nan if seed in diverged else value
        rows.append(
            {
                "seed": seed,
                "d_kl": value,
                "nll": 0.1 + value,
                "val_nll": -value,  # the other way round, so that choosing by it is seen
                "crps": value / 2,
                "coverage_50": 0.5 + value,
                "coverage_90": 0.9 + 0 * value,  # none where the seed diverged
                "edge_mass": 0 * value,
                "diverged": int(seed in diverged),
                "diverged_step": diverged.get(seed, ""),
                "trusted": int(seed not in diverged),
                "train_seconds": 2.0,
                "peak_memory_mb": 100.0,
                "energy_evaluations": 12_000_000,
            }
        )
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    for name in ("environment.json", "checkpoint.pt"):
        (folder / name).write_text("{}\n")
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Writes the checksums of a made run's files into its status, as a run does when it is done."""
    path = folder / "status.json"
    outputs = {p.relative_to(folder).as_posix(): fingerprint_of_file(p) for p in output_files(folder)}
    path.write_bytes(sealed_json({**json.loads(path.read_text()), "outputs": outputs}))


def command(*words: str) -> int:
    """Runs a command line as `ebmbench` does; what is wrong with it is raised, and not printed."""
    arguments = parse(list(words))
    module, _, function = arguments.command.handler.partition(":")
    return int(getattr(importlib.import_module(module), function)(arguments))


def sweep(words: Sequence[str]) -> int:
    """Runs `ebmbench sweep …`."""
    return command("sweep", *words)


def make_status(job: Job, results_dir: Path, state: str, **status: object) -> Path:
    """A run directory with a configuration and a status."""
    config = RunConfig.from_dict(job.config)
    folder = results_dir / "runs" / job.run_id
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    finished = "2026-01-02T00:00:00+00:00" if state == "done" else None
    made = Status.of(config, state, **{"commit": "0123456789ab", "finished": finished, **status})
    (folder / "status.json").write_bytes(sealed_json(asdict(made)))
    return folder
