"""Baseline: TabPFN, a network that was trained on made tables and reads this one as its context."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from ebmbench.core.extras import need
from ebmbench.core.registry import register
from ebmbench.models.outside import Density, Fitted, as_columns
from ebmbench.models.pretrained import Pretrained
from ebmbench.models.quantiles import piecewise


@register
class TabPFN(Pretrained):
    """TabPFN, by the library tabpfn, with `model.weights`: trained on made tables, and not on this one.

    The training rows are its context. Its density is its own: some thousand bins, whose masses it predicts. The two
    outermost bins are tails, in the library half of a normal density, here exponential with the same median. Several
    targets are independent given x.
    """

    name = "tabpfn"
    color, marker, order = "#D55E00", "<", 400
    packages = ("tabpfn",)
    reference = "Hollmann et al., Accurate predictions on small data with a tabular foundation model, Nature 637, 2025"
    tuning = {"model.estimators": [4, 8, 16]}  # noqa: RUF012

    @override
    def estimator(self, weights: Path, seed: int) -> Any:
        return need("tabpfn", "tabpfn").TabPFNRegressor(
            n_estimators=self.estimators,
            model_path=weights,
            ignore_pretraining_limits=True,
            inference_precision=torch.float32,  # in 16 bits a row's density depends on the rows beside it
            random_state=seed,
        )

    @override
    def density(self, fitted: Fitted, x: np.ndarray) -> Density:
        x, bins = as_columns(x, np.float32), []
        for model in self.in_context(fitted):
            predicted = model.predict(x, output_type="full")
            masses = predicted["logits"].double().softmax(-1).cpu().numpy()
            bins.append((predicted["criterion"].borders.double().cpu().numpy(), masses))
        borders = np.stack([ends for ends, _ in bins])
        widths = np.diff(borders)[:, [0, -1]] / math.log(2)
        points, lengths = (np.broadcast_to(part, (len(x), *part.shape)) for part in (borders[:, 1:-1], widths))
        return piecewise(points, np.stack([masses for _, masses in bins], axis=1), lengths)
