"""What must be equal between a run that was killed and one that was not."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

COSTS = ("train_seconds", "peak_memory_mb", "seconds")
"""Columns that say what a run cost, not what came out."""

WHOLE = {
    "calibration.csv", "checkpoint.pt", "config.yaml", "densities.npz", "environment.json", "figures", "history.csv",
    "lock", "metrics.csv", "status.json",
}  # fmt: skip
"""What a finished 1D run directory holds, and nothing else."""


def differences(run_dir: Path, other: Path) -> list[str]:
    """Names of the results of two runs that are not the same bit for bit, times apart."""
    different = [name for name in ("metrics.csv", "history.csv") if _rows(run_dir / name) != _rows(other / name)]
    if (run_dir / "calibration.csv").exists():
        if (run_dir / "calibration.csv").read_bytes() != (other / "calibration.csv").read_bytes():
            different.append("calibration.csv")
        if not _same_arrays(run_dir / "densities.npz", other / "densities.npz"):
            different.append("densities.npz")
    if not _same_weights(run_dir / "checkpoint.pt", other / "checkpoint.pt"):
        different.append("checkpoint.pt")
    return different


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{key: value for key, value in row.items() if key not in COSTS} for row in csv.DictReader(file)]


def _same_arrays(path: Path, other: Path) -> bool:
    first, second = np.load(path, allow_pickle=False), np.load(other, allow_pickle=False)
    return first.files == second.files and all(first[k].tobytes() == second[k].tobytes() for k in first.files)


def _same_weights(path: Path, other: Path) -> bool:
    first, second = (torch.load(p, weights_only=True)["parameters"] for p in (path, other))
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[seed][name]) for seed, tensors in first.items() for name, tensor in tensors.items()
    )
