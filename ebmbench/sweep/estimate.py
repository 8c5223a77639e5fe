"""About how long jobs take and how much memory, from the benchmark's figures under results/bench/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ebmbench.config.run import RunConfig
from ebmbench.core.errors import counted
from ebmbench.engine.execute import seed_groups
from ebmbench.system.files import share_dir


def estimate(configs: Sequence[RunConfig], device: str, places: int, threads: int, results_dir: Path) -> str:
    """One sentence for people: jobs, time, memory (a GPU's, if the jobs run on one).

    Args:
        device: cpu or gpu.
        places: how many run at a time.
        threads: of each.
    """
    seeds = sum(len(config.seeds) for config in configs)
    about = f"{counted(len(configs), 'job')} ({counted(seeds, 'seed')}), {min(places, len(configs))} at a time"
    measured = (results_dir / "bench", share_dir() / "results" / "bench")
    costs = [config.task.cost(config.setup, device, threads, measured) for config in configs]
    known = [cost for cost in costs if cost is not None]
    if not known:
        return f"{about}; how long is not known: there are no figures of a {device.upper()} in results/bench"
    seconds = max(sum(cost[0] for cost in known) / max(1, places), max(cost[0] for cost in known))
    memory = max(*(cost[1] for cost in known), *(step_memory(config, device) / 1e6 for config in configs))
    text = (
        f"{about}; about {_duration(seconds)} by the benchmark's figures of another day, "
        f"up to {memory / 1e3:.1f} GB of {'GPU ' if device == 'gpu' else ''}memory a job"
    )
    unknown = len(costs) - len(known)
    return text + (f" ({counted(unknown, 'job')} of unknown cost apart)" if unknown else "")


def step_memory(config: RunConfig, device: str) -> int:
    """Returns the bytes that a step takes, about, by the settings; 0 where the task does not know."""
    place = torch.device("cuda" if device == "gpu" else "cpu")
    each = config.task.seed_bytes(config.setup, place)
    return (each or 0) * max(map(len, seed_groups(config, place)))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
