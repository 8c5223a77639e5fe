"""What must be equal between a run that was killed and one that was not."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ebmbench.core.extras import has

COSTS = ("train_seconds", "peak_memory_mb", "seconds")
"""Columns that say what a run cost, not what came out."""

_ANY = {
    "checkpoint.pt", "config.yaml", "environment.json", "figures", "history.csv", "lock", "metrics.csv", "status.json",
}  # fmt: skip

EXAMPLES = "examples.parquet" if has("pyarrow") else "examples.csv.gz"
"""Scores of single test points."""

WHOLE = {*_ANY, "calibration.csv", "densities.npz", "ensemble.csv", "model.json", "pictures.npz", EXAMPLES}
"""What a finished 1D run directory holds, and nothing else."""


def whole_detection(seeds: Sequence[int]) -> set[str]:
    """What a finished detection run directory holds, and nothing else."""
    return {
        *_ANY,
        "detections",
        "detector.json",
        EXAMPLES,
        "images.parquet",
        "refinement.csv",
        "stages.csv",
        *(f"energies.{seed}.npz" for seed in seeds),
        *(f"calibration.{seed}.json" for seed in seeds),
    }


def differences(run_dir: Path, other: Path) -> list[str]:
    """Names of the results of two runs that are not the same bit for bit, times apart, or that one of them lacks."""
    return [name for name in sorted(_results(run_dir) | _results(other)) if not _same(run_dir / name, other / name)]


def _results(run_dir: Path) -> set[str]:
    files = [path for path in run_dir.rglob("*") if path.suffix in (".csv", ".npz", ".pt", ".gz", ".parquet")]
    return {path.relative_to(run_dir).as_posix() for path in (*files, *run_dir.glob("detections/*.json"))}


def _same(path: Path, other: Path) -> bool:
    if not (path.exists() and other.exists()):
        return False
    if path.name in ("metrics.csv", "history.csv"):
        return _rows(path) == _rows(other)
    compare = {".npz": _same_arrays, ".pt": _same_weights}.get(path.suffix)
    return compare(path, other) if compare else path.read_bytes() == other.read_bytes()


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
