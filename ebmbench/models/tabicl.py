"""Baseline: TabICL, a network that was trained on made tables and reads this one as its context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from typing_extensions import override

from ebmbench.core.extras import need
from ebmbench.core.registry import register
from ebmbench.models.outside import Fitted, Rows, as_columns
from ebmbench.models.pretrained import Pretrained
from ebmbench.models.quantiles import Quantiles


@register
class TabICL(Pretrained, Quantiles):
    """TabICL, by the library tabicl, with `model.weights`: trained on made tables, and not on this one.

    The training rows are its context. It gives quantiles; the density is constant between them, with exponential tails
    from the validation rows. Several targets are independent given x.
    """

    name = "tabicl"
    color, marker, order = "#0072B2", ">", 410
    packages = ("tabicl",)
    reference = "Qu, Holzmüller, Varoquaux, Le Morvan, TabICL, ICML 2025"
    tuning = {"model.estimators": [4, 8, 16]}  # noqa: RUF012

    levels: int = Field(99, ge=3, le=999, description="quantiles, at even steps: 99 are 1 %, 2 %, …, 99 %")

    @override
    def estimator(self, weights: Path, seed: int) -> Any:
        return need("tabicl", "tabicl").TabICLRegressor(
            n_estimators=self.estimators,
            model_path=weights,
            allow_auto_download=False,
            use_amp=False,  # in 16 bits a row's density depends on the rows beside it
            random_state=seed,
        )

    @override
    def fit(self, train: Rows, val: Rows, seed: int, report: Callable[[int, int], None]) -> Fitted:
        return self.with_tails(super().fit(train, val, seed, report), val)

    @override
    def quantiles(self, fitted: Fitted, x: np.ndarray) -> np.ndarray:
        x, levels = as_columns(x, np.float32), self.probabilities.tolist()
        targets = [model.predict(x, "quantiles", levels) for model in self.in_context(fitted)]
        return np.stack(targets, axis=1).astype(np.float64)
