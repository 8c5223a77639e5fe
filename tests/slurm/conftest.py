"""A real SLURM for the tests of this folder; they are skipped by name where its programs are missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing_programs, running_cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """One node on the loopback address, found by SLURM_CONF in this process's environment."""
    lacking = missing_programs()
    if lacking:
        pytest.skip(f"SLURM cannot be started here: {', '.join(lacking)} missing")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has at most 107 characters
    old = dict(os.environ)
    try:
        with running_cluster(folder / "slurm") as cluster:
            os.environ.update(cluster.environment)
            yield cluster
    finally:
        os.environ.clear()
        os.environ.update(old)
        shutil.rmtree(folder, ignore_errors=True)
