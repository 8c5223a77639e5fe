"""Made runs, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report import made_runs


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the paper's sweep (4 seeds), an M sweep and a detection sweep."""
    folder = tmp_path_factory.mktemp("results")
    made_runs.paper_sweep(folder, seeds=4)
    made_runs.m_sweep(folder, seeds=2)
    made_runs.detection_runs(folder, seeds=2)
    return folder
