"""About how long runs of 1D regression take and how much memory, from the benchmark's figures under results/bench/."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ebmbench.tasks.base import Setup

if TYPE_CHECKING:
    from ebmbench.tasks.regression.task import OneD

COLUMNS = {"method", "seeds", "samples", "batch", "threads", "ms", "memory_mb"}
"""What is used of one_d.csv; ms are per model and step."""
PUBLISHED_STEPS = 16
"""Langevin steps L that the figures are for."""
EVALUATION_SECONDS = 2.5
"""What the scores of a seed take on one core. Measured: 2.4 s."""
PROCESS_MB = 1200
"""What a process holds besides what a step needs. Measured: 1.2 GB, of it PyTorch with what it loads 0.7 GB."""


def cost(task: OneD, setup: Setup, device: str, threads: int, folders: Sequence[Path]) -> tuple[float, float] | None:
    """Returns seconds and megabytes of a run; None for what was not measured."""
    num_train = getattr(task.data, "num_train", 2000)
    name = "one_d_cuda.csv" if device == "gpu" else "one_d.csv"
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    figures = pd.read_csv(path) if path is not None else pd.DataFrame()
    if not set(figures.columns) >= COLUMNS:
        return None
    rows = figures[figures["method"] == setup.method.name]
    if rows.empty:
        return None
    batch, samples = min(setup.trainer.batch_size, num_train), max(1, setup.method.samples)
    wanted = {"seeds": len(setup.seeds), "samples": samples, "batch": batch}
    distance = sum(np.log(rows[key].astype(float).clip(lower=1) / value).abs() for key, value in wanted.items())
    nearest = rows.loc[distance.idxmin()]
    # A step costs in proportion to its samples, down to a tenth for all that does not depend on them.
    work = max(0.1, samples / max(1, float(nearest["samples"]))) * max(0.1, batch / float(nearest["batch"]))
    work *= getattr(setup.method, "langevin_steps", PUBLISHED_STEPS) / PUBLISHED_STEPS
    steps = setup.trainer.epochs * math.ceil(num_train / batch)
    seconds = steps * len(setup.seeds) * work * float(nearest["ms"]) / 1e3
    if device == "gpu":
        return seconds, float(nearest["memory_mb"])
    seconds *= max(1.0, float(nearest["threads"]) / threads)  # fewer threads than it was measured with
    return seconds + EVALUATION_SECONDS * len(setup.seeds), PROCESS_MB + float(nearest["memory_mb"])
