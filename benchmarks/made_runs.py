"""Made-up runs in directories of the real layout, to see how long reading many of them takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.engine.execute import table
from ebmbench.engine.runs import Status, now, output_files, write_status
from ebmbench.report.planned import Plan
from ebmbench.sweep.plan import job_of, write_plan
from ebmbench.system.files import fingerprint_of_file

NAME = "made"
"""The name of their sweep."""
PER_SETTING = 20
"""Runs of one seed for each setting, as a sweep has them whose seeds are spread over the nodes of a cluster."""
METRICS = ("d_kl", "nll", "nll_error", "val_nll", "crps", "coverage_50", "coverage_90", "edge_mass", "d_kl_noisy")


def make(results_dir: Path, runs: int, seeds: int) -> Plan:
    """A plan of so many runs with the directories of most of them: one in a hundred is missing, failed or damaged."""
    settings = max(1, runs // PER_SETTING)
    methods = ("nce+", "nce", "ml-is", "kld-is")
    bases = {method: compose(["task=1d", f"method={method}", f"sweep={{name: {NAME}}}"]) for method in methods}
    rng = np.random.default_rng(0)
    jobs = []
    for index in range(runs):
        setting, part = index % settings, index // settings
        rate = 1e-3 * (1 + setting // len(methods))
        base = bases[methods[setting % len(methods)]]
        trainer = base.trainer.model_copy(update={"learning_rate": rate})
        config = dataclasses.replace(base, trainer=trainer, seeds=tuple(range(part * seeds, (part + 1) * seeds)))
        axes = {"trainer.learning_rate": rate}
        jobs.append(job_of(config, axes))
        _make_run(results_dir / "runs" / config.run_id, config, index, rng)
    plan = Plan(
        name=NAME,
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
    write_status(folder, status)
    (folder / "config.yaml").write_text(f"seeds: {list(config.seeds)}\nforce: false\n")
    if failed:
        return
    (folder / "environment.json").write_text("{}\n")
    (folder / "checkpoint.pt").write_bytes(b"made up")
    rest = {"diverged": 0, "diverged_step": "", "trusted": 1, "train_seconds": 1.0, "peak_memory_mb": 300.0}
    rows = []
    for seed in config.seeds:
        values = dict(zip(METRICS, rng.lognormal(size=len(METRICS)).tolist(), strict=True))
        rows.append({"seed": seed, **values, **rest, "energy_evaluations": 1000})
    content = table(rows)
    (folder / "metrics.csv").write_bytes(content)
    status.outputs = {path.name: fingerprint_of_file(path) for path in output_files(folder)}
    write_status(folder, status)
    if index % 100 == 2:
        (folder / "metrics.csv").write_bytes(content[:-20])
