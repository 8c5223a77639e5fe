"""Baseline: gradient boosted trees for each of many quantiles, by scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import Field
from typing_extensions import override

from ebmbench.core.extras import need
from ebmbench.core.registry import register
from ebmbench.models.outside import Fitted, Rows, as_columns
from ebmbench.models.quantiles import Quantiles
from ebmbench.models.trees import as_many_threads_as_torch, boosted, leaves, packed


@register
class BoostedQuantiles(Quantiles):
    """Gradient boosted trees for each quantile, by scikit-learn's histogram boosting of the pinball loss.

    The number of trees is, for each quantile, that with the lowest pinball loss of the validation rows. Quantiles that
    cross are sorted. The density is constant between them, with exponential tails from the validation rows. Several
    targets have trees of their own and are independent given x. A run keeps the trees as arrays. All seeds give the
    same model up to 200 000 training rows; of more, the places of splits are chosen from so many.
    """

    name = "boosted-quantiles"
    color, marker, order = "#CC6677", "p", 330
    packages = ("scikit-learn",)
    reference = "Koenker, Bassett, Regression quantiles, Econometrica 46, 1978; Friedman, Annals of Statistics 29, 2001"
    tuning = {  # noqa: RUF012
        "model.learning_rate": (0.02, 0.3),
        "model.leaves": [4, 8, 16, 31],
        "model.min_leaf": [5, 20, 60],
    }

    trees: int = Field(100, ge=1, le=100_000, description="trees of each quantile, at most")
    learning_rate: float = Field(0.1, gt=0, le=1, description="share of a tree that is added")
    leaves: int = Field(16, ge=2, le=10_000, description="leaves of a tree, at most")
    min_leaf: int = Field(10, ge=1, le=1_000_000, description="training rows in a leaf, at least")

    @override
    def fit(self, train: Rows, val: Rows, seed: int, report: Callable[[int, int], None]) -> Fitted:
        return self.with_tails(self.grow(train, val, seed, report), val)

    def grow(self, train: Rows, stop: Rows, seed: int, report: Callable[[int, int], None]) -> Fitted:
        """Returns the trees of all quantiles of all targets; `stop`: rows that choose how many there are."""
        booster = need("sklearn.ensemble", "sklearn").HistGradientBoostingRegressor
        x, stop_x = as_columns(train.x, np.float64), as_columns(stop.x, np.float64)
        trees, start, outputs, total = [], [], [], train.y.shape[1] * self.levels
        for output in range(total):
            target, place = divmod(output, self.levels)
            level = self.probabilities[place]
            model = booster(
                loss="quantile",
                quantile=level,
                max_iter=self.trees,
                learning_rate=self.learning_rate,
                max_leaf_nodes=self.leaves,
                min_samples_leaf=self.min_leaf,
                early_stopping=False,
                random_state=seed,
            )
            with as_many_threads_as_torch():
                model.fit(x, train.y[:, target])
            first = float(model._baseline_prediction.squeeze())
            grown = [boosted(predictor.nodes) for (predictor,) in model._predictors]
            nodes = packed(grown)
            sums = first + nodes["value"][leaves(nodes, stop_x)].cumsum(1)
            error = stop.y[:, target, None] - sums
            count = int(np.maximum(level * error, (level - 1) * error).mean(0).argmin()) + 1
            trees += grown[:count]
            start.append(first)
            outputs += [output] * count
            report(output + 1, total)
        return {**packed(trees), "start": np.array(start), "output": np.array(outputs, np.int32)}

    @override
    def quantiles(self, fitted: Fitted, x: np.ndarray) -> np.ndarray:
        values = fitted["value"][leaves(fitted, as_columns(x, np.float64))]
        first = np.searchsorted(fitted["output"], np.arange(len(fitted["start"])))
        sums = fitted["start"] + np.add.reduceat(values, first, axis=1)
        return sums.reshape(len(x), -1, self.levels)
