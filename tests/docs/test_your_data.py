"""docs/your-data.md works as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.docs_runner import ROOT, run_document


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_block_of_the_document(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    _, predicted, gaussian, compared, python, search = run_document(ROOT / "docs" / "your-data.md", tmp_path)
    assert "missing numbers get the training median, and an input that marks them: year" in predicted
    table = pd.read_csv(tmp_path / "predicted.csv")
    answers = ["mean", "median", "mode", "std", "low", "high", "modes", "region", "outside", "log_prob"]
    assert list(table) == ["row", *answers] and len(table) == 100
    price = pd.read_csv(tmp_path / "new.csv")["price"]
    assert 0.75 < ((price >= table["low"]) & (price <= table["high"])).mean() <= 1
    assert (table["mean"] - price).abs().mean() < 0.4 * (price - price.mean()).abs().mean()
    assert "gaussian on regression-houses, 3 seeds" in gaussian
    assert re.search(r"^Take \S+", compared, re.M)
    score, inside = map(float, re.search(r"R² ([\d.]+) inside ([\d.]+)", python).groups())
    assert score > 0.8 and inside > 0.75 and "draws (100, 5)" in python
    assert re.search(r"\{'method': '(nce\+?|ml-is)'\}", search)
