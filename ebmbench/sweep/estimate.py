"""About how long jobs take and how much memory, from the benchmark's figures under results/bench/."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ebmbench.config import RunConfig, share_dir
from ebmbench.tasks.one_d.config import OneDTask, OneDTrainer

COLUMNS = {"device", "method", "seeds", "samples", "batch", "models_steps_per_second", "peak_memory_mb"}


def estimate(configs: Sequence[RunConfig], device: str, places: int, results_dir: Path) -> str:
    """One sentence for people: jobs, time, memory.

    Args:
        device: cpu or gpu.
        places: how many run at a time.
    """
    seeds = sum(len(config.seeds) for config in configs)
    about = f"{len(configs)} jobs ({seeds} seeds), {min(places, len(configs))} at a time"
    figures = _figures(results_dir, device)
    costs = [_cost(config, figures) for config in configs] if figures is not None else []
    known = [cost for cost in costs if cost is not None]
    if not known:
        return f"{about}; how long is not known: there are no figures of a {device.upper()} in results/bench"
    seconds = max(sum(cost[0] for cost in known) / max(1, places), max(cost[0] for cost in known))
    memory = max(cost[1] for cost in known)
    text = f"{about}; about {_duration(seconds)} by the benchmark's figures of another day, up to {memory:.0f} MB a job"
    return text + (f" ({len(costs) - len(known)} jobs of unknown cost apart)" if len(known) < len(costs) else "")


def _figures(results_dir: Path, device: str) -> pd.DataFrame | None:
    for folder in (results_dir / "bench", share_dir() / "results" / "bench"):
        tables = []
        for path in sorted(folder.glob("*.csv")):
            table = pd.read_csv(path, comment="#")
            if set(table.columns) >= COLUMNS:
                tables.append(table[sorted(COLUMNS)])
        found = pd.concat(tables) if tables else pd.DataFrame(columns=sorted(COLUMNS))
        is_gpu = ~found["device"].astype(str).str.lower().str.startswith("cpu")
        found = found[is_gpu if device == "gpu" else ~is_gpu]
        if len(found):
            return found
    return None


def _cost(config: RunConfig, figures: pd.DataFrame) -> tuple[float, float] | None:
    """Seconds and megabytes of a 1D run; None for what was not measured."""
    if not isinstance(config.task, OneDTask) or not isinstance(config.trainer, OneDTrainer):
        return None
    rows = figures[figures["method"] == config.method.name]
    if rows.empty:
        return None
    samples = (config.method.num_samples or 1) * (config.method.langevin_steps or 1)
    published = {"ml-mcmc": 1024 * 16, "sm": 1}.get(config.method.name, 1024)
    nearest = rows.iloc[(rows["seeds"].astype(float) - len(config.seeds)).abs().argsort().iloc[0]]
    batch = min(config.trainer.batch_size, config.task.num_train)
    steps = config.trainer.epochs * math.ceil(config.task.num_train / batch)
    # A step costs in proportion to its samples, down to a tenth for all that does not depend on them.
    work = max(0.1, samples / published) * max(0.1, batch / float(nearest["batch"]))
    seconds = steps * len(config.seeds) * work / float(nearest["models_steps_per_second"])
    return seconds, float(nearest["peak_memory_mb"])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
