"""The benchmark of many runs measures the commands on made directories that they take for real ones."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import made_runs, sweep
from ebmbench.report.planned import read_plan
from ebmbench.sweep.status import counts, job_states


def test_made_runs_are_read_as_runs(tmp_path: Path) -> None:
    made_runs.make(tmp_path, 102, 1)
    assert counts(job_states(read_plan(tmp_path, made_runs.NAME), tmp_path)) == "98 done, 2 failed, 2 missing"


def test_the_cost_of_a_run_is_a_slope() -> None:
    rows = [
        {
            "command": "status",
            "runs": runs,
            "seconds": 1.0,
            "cpu_seconds": 0.5 + runs / 1e4,
            "peak_memory_mb": 60 + runs / 1e3,
        }
        for runs in (1000, 11_000)
    ]
    text = sweep.report(rows, "0123456789ab", "command")
    assert "| status | 11,000 | 1.0 | 1.6 | 71 |" in text
    assert "| status | 0.10 | 1.0 | 2 | 1.0 |" in text


@pytest.mark.slow
def test_a_short_measurement(tmp_path: Path) -> None:
    words = ["--runs", "20", "40", "--commands", "status", "collect", "--out", str(tmp_path)]
    assert sweep.main(words) == 0
    with open(tmp_path / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["command"], row["runs"]) for row in rows] == [
        ("status", "20"),
        ("collect", "20"),
        ("status", "40"),
        ("collect", "40"),
    ]
    assert all(float(row["cpu_seconds"]) > 0 for row in rows)
