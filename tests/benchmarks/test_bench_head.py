"""The benchmark of the energy head runs, and compares the kernel with the plain path."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import head
from ebmbench.native.build import unavailable


@pytest.mark.skipif(unavailable() is not None, reason="no kernels")
def test_it_measures_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "METHODS", ("nce",))
    monkeypatch.setattr(head, "DIMS", (2,))
    file = tmp_path / "head.csv"
    assert head.main(["--seeds", "1", "--steps", "2", "--repeats", "1", "--csv", str(file)]) == 0
    (row,) = pd.read_csv(file).to_dict("records")
    assert row["code_path"] == "fused head" and row["targets"] == 2
    assert row["ratio"] == pytest.approx(row["plain_step_ms"] / row["step_ms"], rel=0.01)


def test_backend_plain_is_another_training() -> None:
    assert head.training("nce", 2, 1, "plain").learner.code_path == "plain"
