"""Baseline: NGBoost, natural gradient boosting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from typing_extensions import override

from ebmbench.core.extras import need
from ebmbench.core.registry import register
from ebmbench.models.outside import Density, Fitted, Outside, Rows, as_columns
from ebmbench.models.trees import grown, leaves, packed

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeRegressor

LOWEST_LOG_STD = -10.0
"""Keeps a density finite where targets are known exactly, as the neural Gaussian's is."""


@register
class NGBoost(Outside):
    """A Gaussian whose mean and log standard deviation are sums of trees, by the library ngboost.

    Boosting by the natural gradient of the likelihood; the number of trees is that with the lowest validation NLL.
    Several targets are independent given x, each with trees of its own. A run keeps the trees as arrays, so that its
    models can be used where the library is not installed. With all rows and columns (`rows=1`, `columns=1`) seeds
    differ only where two splits of a tree are equally good.
    """

    name = "ngboost"
    color, marker, order = "#999933", "P", 300
    packages = ("ngboost", "scikit-learn")
    reference = "Duan et al., NGBoost: natural gradient boosting for probabilistic prediction, ICML 2020"
    tuning = {  # noqa: RUF012
        "model.learning_rate": (0.005, 0.1),
        "model.depth": [2, 3, 4, 5],
        "model.min_leaf": [1, 5, 20],
        "model.rows": [0.5, 1.0],
    }

    trees: int = Field(2000, ge=1, le=100_000, description="pairs of trees, at most")
    learning_rate: float = Field(0.02, gt=0, le=1, description="share of a tree that is added")
    depth: int = Field(3, ge=1, le=16, description="splits from a tree's root to a leaf")
    min_leaf: int = Field(1, ge=1, le=1_000_000, description="training rows in a leaf, at least")
    rows: float = Field(1.0, gt=0, le=1, description="share of the rows that a tree sees")
    columns: float = Field(1.0, gt=0, le=1, description="share of the columns that a tree sees")
    patience: int | None = Field(
        50, ge=1, le=100_000, description="trees without a lower validation NLL that end training; null: never"
    )

    @override
    def fit(self, train: Rows, val: Rows, seed: int, report: Callable[[int, int], None]) -> Fitted:
        ngboost = need("ngboost", "outside")
        base = need("sklearn.tree", "outside").DecisionTreeRegressor(
            max_depth=self.depth, min_samples_leaf=self.min_leaf
        )
        total, done, trees, start = self.trees * train.y.shape[1], 0, [], []

        def watch(distribution: Any, y: np.ndarray) -> float:
            nonlocal done
            done += 1
            report(done, total)
            return float(distribution.total_score(y))

        for target in range(train.y.shape[1]):
            model = ngboost.NGBRegressor(
                Base=base,
                n_estimators=self.trees,
                learning_rate=self.learning_rate,
                minibatch_frac=self.rows,
                col_sample=self.columns,
                random_state=seed,
                verbose=False,
            )
            model.fit(
                as_columns(train.x, np.float32),
                train.y[:, target],
                as_columns(val.x, np.float32),
                val.y[:, target],
                val_loss_monitor=watch,
                early_stopping_rounds=self.patience,
            )
            start.append(model.init_params)
            best = model.best_val_loss_itr
            for pair, scale, columns in list(zip(model.base_models, model.scalings, model.col_idxs, strict=True))[
                : None if best is None else best + 1
            ]:
                step = -self.learning_rate * scale
                trees += [(2 * target + k, _nodes(tree, columns, step)) for k, tree in enumerate(pair)]
        return {
            "start": np.concatenate(start),
            "parameter": np.array([parameter for parameter, _ in trees]),
            **packed([nodes for _, nodes in trees]),
        }

    @override
    def density(self, fitted: Fitted, x: np.ndarray) -> Density:
        outputs = fitted["start"] + _sums(fitted, as_columns(x, np.float32))
        mean, log_std = outputs[:, None, 0::2], np.maximum(outputs[:, None, 1::2], LOWEST_LOG_STD)

        def log_prob(y: np.ndarray) -> np.ndarray:
            z = (y - mean) * np.exp(-log_std)
            return -(0.5 * z**2 + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

        return log_prob


def _nodes(tree: DecisionTreeRegressor, columns: np.ndarray, step: float) -> dict[str, np.ndarray]:
    """Returns the nodes of a tree that saw some columns; a leaf's value is multiplied by `step`."""
    nodes = grown(tree.tree_)
    return {**nodes, "feature": columns[nodes["feature"]], "value": step * tree.tree_.value[:, 0, 0]}


def _sums(fitted: Fitted, x: np.ndarray) -> np.ndarray:
    """Returns for each row what its leaves add to each parameter of the density: `[B, p] -> [B, 2 D]`."""
    belongs = fitted["parameter"][:, None] == np.arange(len(fitted["start"]))
    sums: np.ndarray = fitted["value"][leaves(fitted, x)] @ belongs.astype(np.float64)
    return sums
