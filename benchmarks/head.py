"""The fused energy head against PyTorch operations: `python -m benchmarks head`.

A training step of `task=regression` with the default network, both ways in turn, so that other work on the machine
falls on both. On one thread it is the processor's time, the best of a few runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

from benchmarks.pooling import alternate
from ebmbench.config.compose import compose
from ebmbench.display.table import csv_text
from ebmbench.engine.train import Training
from ebmbench.system.files import write_atomically

METHODS = ("nce", "dsm", "sm", "ml-mcmc")
DIMS = (1, 4, 16)


def training(method: str, dim: int, seeds: int, backend: str) -> Training:
    """Returns a training on the made law of `dim` targets."""
    words = ["task=regression", "data=laws", f"data.dim={dim}", f"method={method}", f"seeds={seeds}", "device=cpu"]
    config = compose([*words, f"backend={backend}"])
    return Training(config.task.learner(config.setup, config.seeds, torch.device("cpu")))


def measure(method: str, dim: int, seeds: int, steps: int, repeats: int) -> dict[str, float | str | int]:
    """Returns one row: milliseconds a step of all seeds, and how many times as fast the kernel is."""

    def times(made: Training) -> None:
        for _ in range(steps):
            made.step()

    fused, plain = (training(method, dim, seeds, backend) for backend in ("auto", "plain"))
    ours, theirs = alternate(lambda: times(fused), lambda: times(plain), repeats, torch.device("cpu"))
    return {
        "method": method,
        "targets": dim,
        "seeds": seeds,
        "code_path": fused.learner.code_path,
        "step_ms": 1e3 * ours / steps,
        "plain_step_ms": 1e3 * theirs / steps,
        "ratio": theirs / ours,
    }


def main(argv: list[str]) -> int:
    """Prints the table and writes it as CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks head", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--steps", type=int, default=20, help="training steps of a run")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the best counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=Path("results/bench/head.csv"))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = [
        measure(method, dim, seeds, args.steps, args.repeats)
        for seeds in args.seeds
        for dim in DIMS
        for method in METHODS
    ]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.csv, csv_text(table, 4).encode())
    print(f"written to {args.csv}")
    return 0
