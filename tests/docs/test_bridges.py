"""The classes of docs/bridges.md: skpro runs them as they stand; ScoringBench is stood in for."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.docs_runner import BLOCK, ROOT, run_document

DOCUMENT = ROOT / "docs" / "bridges.md"


def test_skpro_scores_the_density(tmp_path: Path) -> None:
    pytest.importorskip("skpro")
    pytest.importorskip("sklearn")
    (output,) = run_document(DOCUMENT, tmp_path)
    found = re.search(r"CRPS ([\d.]+)", output)
    assert found is not None and 20 < float(found[1]) < 60  # of a target from 25 to 346


def test_scoringbench_is_given_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """ScoringBench is on no package index: its base class and its constructor are stood in for here."""
    pytest.importorskip("sklearn")

    class ProbabilisticWrapper:
        def _set_train_range(self, y: Any) -> None:
            self._y_train_range = float(np.min(y)), float(np.max(y))

    class DistributionPrediction:
        @classmethod
        def from_multi_quantile(cls, q: Any, alphas: Any, mean: Any = None, *, train_range: Any) -> tuple[Any, ...]:
            return q, alphas, mean, train_range

    base = ModuleType("scoringbench.univariate.wrappers.base")
    base.__dict__.update(ProbabilisticWrapper=ProbabilisticWrapper, DistributionPrediction=DistributionPrediction)
    for name in ("scoringbench", "scoringbench.univariate", "scoringbench.univariate.wrappers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, base.__name__, base)
    (code,) = [text for name, _, text in BLOCK.findall(DOCUMENT.read_text()) if name == "energy_scoringbench.py"]
    names: dict[str, Any] = {}
    exec(code.replace("EnergyRegressor(warn=False)", "EnergyRegressor(warn=False, epochs=5, device='cpu')"), names)
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 2))
    y = x[:, 0] + random.normal(size=80)
    q, levels, mean, train_range = names["EnergyWrapper"]().fit(x, y).predict_distribution(x[:5])
    assert q.shape == (5, len(levels)) and (np.diff(q, axis=1) >= 0).all() and train_range == (y.min(), y.max())
    assert ((q[:, 0] < mean) & (mean < q[:, -1])).all()
