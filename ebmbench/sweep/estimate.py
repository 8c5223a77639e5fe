"""About how long jobs take and how much memory, from the benchmark's figures under results/bench/."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ebmbench.config import RunConfig
from ebmbench.files import share_dir
from ebmbench.tasks.one_d.config import OneDTask, OneDTrainer

COLUMNS = {"method", "seeds", "samples", "batch", "threads", "ms", "memory_mb"}
"""What is used of one_d.csv; ms are per model and step."""
PUBLISHED_STEPS = 16
"""Langevin steps L that the figures of ml-mcmc are for."""
EVALUATION_SECONDS = 2.5
"""What the scores of a seed take on one core. Measured: 2.4 s."""
PROCESS_MB = 1200
"""What a process holds besides what a step needs. Measured: 1.2 GB, of it PyTorch with what it loads 0.7 GB."""


def estimate(configs: Sequence[RunConfig], device: str, places: int, threads: int, results_dir: Path) -> str:
    """One sentence for people: jobs, time, memory (a GPU's, if the jobs run on one).

    Args:
        device: cpu or gpu.
        places: how many run at a time.
        threads: of each.
    """
    seeds = sum(len(config.seeds) for config in configs)
    about = f"{len(configs)} jobs ({seeds} seeds), {min(places, len(configs))} at a time"
    figures = _figures(results_dir, device)
    costs = [_cost(config, figures, device, threads) for config in configs] if figures is not None else []
    known = [cost for cost in costs if cost is not None]
    if not known:
        return f"{about}; how long is not known: there are no figures of a {device.upper()} in results/bench"
    seconds = max(sum(cost[0] for cost in known) / max(1, places), max(cost[0] for cost in known))
    memory = max(cost[1] for cost in known)
    text = (
        f"{about}; about {_duration(seconds)} by the benchmark's figures of another day, "
        f"up to {memory / 1e3:.1f} GB of {'GPU ' if device == 'gpu' else ''}memory a job"
    )
    return text + (f" ({len(costs) - len(known)} jobs of unknown cost apart)" if len(known) < len(costs) else "")


def _figures(results_dir: Path, device: str) -> pd.DataFrame | None:
    """What `python -m ebmbench.bench` wrote on such a device: into these results, or those that come with the code."""
    name = "one_d_cuda.csv" if device == "gpu" else "one_d.csv"
    for folder in (results_dir / "bench", share_dir() / "results" / "bench"):
        if (folder / name).is_file():
            found = pd.read_csv(folder / name)
            return found if set(found.columns) >= COLUMNS else None
    return None


def _cost(config: RunConfig, figures: pd.DataFrame, device: str, threads: int) -> tuple[float, float] | None:
    """Seconds and megabytes of a 1D run; None for what was not measured."""
    if not isinstance(config.task, OneDTask) or not isinstance(config.trainer, OneDTrainer):
        return None
    rows = figures[figures["method"] == config.method.name]
    if rows.empty:
        return None
    batch = min(config.trainer.batch_size, config.task.num_train)
    samples = config.method.num_samples or 1
    wanted = {"seeds": len(config.seeds), "samples": samples, "batch": batch}
    distance = sum(np.log(rows[key].astype(float).clip(lower=1) / value).abs() for key, value in wanted.items())
    nearest = rows.loc[distance.idxmin()]
    # A step costs in proportion to its samples, down to a tenth for all that does not depend on them.
    work = max(0.1, samples / max(1, float(nearest["samples"]))) * max(0.1, batch / float(nearest["batch"]))
    work *= (config.method.langevin_steps or PUBLISHED_STEPS) / PUBLISHED_STEPS
    steps = config.trainer.epochs * math.ceil(config.task.num_train / batch)
    seconds = steps * len(config.seeds) * work * float(nearest["ms"]) / 1e3
    if device == "gpu":
        return seconds, float(nearest["memory_mb"])
    seconds *= max(1.0, float(nearest["threads"]) / threads)  # fewer threads than it was measured with
    return seconds + EVALUATION_SECONDS * len(config.seeds), PROCESS_MB + float(nearest["memory_mb"])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
