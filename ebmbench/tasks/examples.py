"""Scores of single examples of a run, kept so that a new metric or test needs no new training; files of arrays."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ebmbench.core.extras import has
from ebmbench.system.files import write_atomically


def write_examples(run_dir: Path, frame: pd.DataFrame, name: str = "examples") -> None:
    """Writes a table, as Parquet where pyarrow can be imported, else as .csv.gz; `read_examples` reads it."""
    parquet, text = run_dir / f"{name}.parquet", run_dir / f"{name}.csv.gz"
    if has("pyarrow"):
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_atomically(parquet, buffer.getvalue())
        text.unlink(missing_ok=True)
    else:
        write_atomically(text, gzip.compress(frame.to_csv(index=False, float_format="%.7g").encode(), mtime=0))
        parquet.unlink(missing_ok=True)


def read_examples(run_dir: Path, name: str = "examples") -> pd.DataFrame:
    """Returns a table that `write_examples` wrote."""
    path = example_file(run_dir, name) or run_dir / f"{name}.csv.gz"
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


def example_file(run_dir: Path, name: str = "examples") -> Path | None:
    """Returns the file that `write_examples` wrote, None if there is none."""
    files = (run_dir / f"{name}.parquet", run_dir / f"{name}.csv.gz")
    return next((path for path in files if path.exists()), None)


def join_seeds(run_dir: Path, name: str, seeds: Sequence[int]) -> None:
    """Puts the CSV tables of the seeds of a run, `NAME.SEED.csv`, into one, where all are there."""
    parts = [run_dir / f"{name}.{seed}.csv" for seed in seeds]
    if all(path.exists() for path in parts):
        table = pd.concat([pd.read_csv(path) for path in parts])
        write_atomically(run_dir / f"{name}.csv", table.to_csv(index=False).encode())
        for path in parts:
            path.unlink()


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays as .npz, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file by name."""
    return dict(np.load(path, allow_pickle=False))
