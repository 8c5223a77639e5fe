"""Baseline: a quantile regression forest, by scikit-learn's trees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import Field
from scipy import sparse
from typing_extensions import override

from ebmbench.core.extras import need
from ebmbench.core.registry import register
from ebmbench.models.outside import Fitted, Rows, as_columns
from ebmbench.models.quantiles import Quantiles
from ebmbench.models.trees import as_many_threads_as_torch, grown, leaves, packed

WEIGHTS = 2**22
"""Weights of training rows that are computed at a time."""


@register
class QuantileForest(Quantiles):
    """A quantile regression forest: quantiles of the training targets, weighted by how often they share x's leaf.

    A training row's weight at x is the mean over the trees of one over the size of x's leaf where the row is in it,
    else 0. Between two training targets the distribution function is linear. The density is constant between the
    quantiles, with exponential tails from the validation rows. Several targets share the trees and are independent
    given x. A run keeps the trees and the training targets as arrays.
    """

    name = "quantile-forest"
    color, marker, order = "#DDCC77", "d", 320
    packages = ("scikit-learn",)
    reference = "Meinshausen, Quantile regression forests, JMLR 7, 2006"
    tuning = {"model.min_leaf": [1, 3, 5, 10, 20], "model.columns": [0.3, 0.6, 1.0]}  # noqa: RUF012

    trees: int = Field(200, ge=1, le=100_000, description="trees")
    min_leaf: int = Field(3, ge=1, le=1_000_000, description="training rows in a leaf, at least")
    columns: float = Field(1.0, gt=0, le=1, description="share of the columns that a split chooses from")

    @override
    def fit(self, train: Rows, val: Rows, seed: int, report: Callable[[int, int], None]) -> Fitted:
        forest = need("sklearn.ensemble", "sklearn").RandomForestRegressor(
            self.trees, min_samples_leaf=self.min_leaf, max_features=self.columns, random_state=seed
        )
        x = as_columns(train.x, np.float32)
        with as_many_threads_as_torch():
            forest.fit(x, train.y if train.y.shape[1] > 1 else train.y[:, 0])
        nodes = packed([grown(tree.tree_) for tree in forest.estimators_])
        return self.with_tails({**nodes, "leaves": leaves(nodes, x), "targets": train.y}, val)

    @override
    def quantiles(self, fitted: Fitted, x: np.ndarray) -> np.ndarray:
        targets, count = fitted["targets"], len(fitted["left"])
        order = targets.argsort(0, kind="stable")
        members = _members(fitted["leaves"], count)
        sizes = np.maximum(members.sum(0), 1)
        rows = leaves(fitted, as_columns(x, np.float32))
        found = np.empty((len(x), targets.shape[1], self.levels))
        each = max(1, WEIGHTS // len(targets))
        for start in range(0, len(x), each):
            some = rows[start : start + each]
            shares = _members(some, count).multiply(1 / sizes / some.shape[1])
            weights = (shares.tocsr() @ members.T).toarray()
            for k in range(targets.shape[1]):
                sorted_y = targets[order[:, k], k]
                for row, one in enumerate(weights[:, order[:, k]], start):
                    has = one > 0
                    middle = one[has].cumsum() - one[has] / 2
                    found[row, k] = np.interp(self.probabilities, middle, sorted_y[has])
        return found


def _members(leaf: np.ndarray, count: int) -> sparse.csr_matrix:
    """Returns in which of all leaves each row is: `[N, T]` numbers -> `[N, count]`."""
    rows, trees = leaf.shape
    return sparse.csr_matrix((np.ones(leaf.size), leaf.ravel(), np.arange(rows + 1) * trees), (rows, count))
