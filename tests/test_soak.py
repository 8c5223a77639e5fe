"""A short soak; the long one is `python -m tests.soak --kills 100`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak import soak


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_lose_and_change_nothing(tmp_path: Path) -> None:
    report = soak(10, ["nce+", "ml-mcmc", "sm"], tmp_path, epochs=60)
    print(report)
    assert report.kills == 10 and report.resumes > 0
    assert report.results_compared >= 3 and report.differences == 0 and report.leftovers == 0
