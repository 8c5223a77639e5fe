"""Baseline: Treeffuser, a diffusion model whose score is a sum of trees."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from pydantic import Field
from typing_extensions import override

from ebmbench.core.extras import need
from ebmbench.core.registry import register
from ebmbench.models.outside import Density, Fitted, Outside, Rows, as_columns

WIDTHS = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
"""Of the kernels, relative to Scott's rule; validation rows choose."""
NARROWEST = 1e-3
"""The narrowest kernel, in standard deviations of the target."""
CANDIDATES = 2**22
"""Kernels that are evaluated at a time."""
CUTS = 25
"""Numbers of trees that validation rows choose from."""
Trees: TypeAlias = "Callable[[int, np.ndarray], np.ndarray]"
"""The sums of trees of some rows at the time of a step: its number and y `[B, n, D]` -> `[B, n, D]`."""


@register
class Treeffuser(Outside):
    """A diffusion model whose score is a sum of LightGBM's trees, by the library treeffuser.

    It gives samples and no density. Its density here is a kernel density of `samples` draws, Gaussian kernels, whose
    width the validation rows choose: the likelihood of that mixture is exact, and says less than the diffusion knows.
    The Gaussian of all training targets is one more kernel: without it, one row far from all draws decides a mean NLL.
    The same random numbers serve each row, so that a row has one density. The library trains without early stopping;
    the number of trees is then that with the lowest denoising loss of the validation rows.
    """

    name = "treeffuser"
    color, marker, order = "#332288", "X", 310
    packages = ("treeffuser", "lightgbm")
    reference = "Beltran-Velez et al., Treeffuser: probabilistic predictions via conditional diffusions, NeurIPS 2024"
    tuning = {  # noqa: RUF012
        "model.learning_rate": (0.02, 0.3),
        "model.leaves": [8, 16, 31, 64],
        "model.min_leaf": [5, 20, 60],
    }

    trees: int = Field(1000, ge=1, le=100_000, description="trees of each target, at most")
    learning_rate: float = Field(0.1, gt=0, le=1, description="share of a tree that is added")
    leaves: int = Field(31, ge=2, le=10_000, description="leaves of a tree, at most")
    min_leaf: int = Field(20, ge=1, le=1_000_000, description="noisy training rows in a leaf, at least")
    repeats: int = Field(30, ge=1, le=10_000, description="noisy copies of each training row")
    samples: int = Field(200, ge=2, le=100_000, description="draws of which a density is made")
    steps: int = Field(50, ge=2, le=10_000, description="of the diffusion backwards, for a draw")

    @override
    def fit(self, train: Rows, val: Rows, seed: int, report: Callable[[int, int], None]) -> Fitted:
        treeffuser = need("treeffuser", "outside")
        x, val_x = as_columns(train.x, np.float64), as_columns(val.x, np.float64)
        model = treeffuser.Treeffuser(
            n_repeats=self.repeats,
            n_estimators=self.trees,
            early_stopping_rounds=None,
            eval_percent=None,
            num_leaves=self.leaves,
            learning_rate=self.learning_rate,
            min_child_samples=self.min_leaf,
            n_jobs=_threads(),
            seed=seed,
            verbose=-1,
        )
        sde, scores = model.get_new_sde(), model.get_new_score_model()
        kept = np.random.get_state()
        try:
            scores.fit(x, train.y, sde)
        finally:
            np.random.set_state(kept)
        report(1, 2)
        boosters = [one.booster_ for one in scores.models]
        ends = sde.get_hyperparams()
        fitted: dict[str, np.ndarray] = {"sigma": np.array([ends["hyperparam_min"], ends["hyperparam_max"]])}
        for k, count in enumerate(self._cuts(boosters, fitted["sigma"], val_x, val.y, seed)):
            text = boosters[k].model_to_string(num_iteration=count)
            fitted[f"trees.{k}"] = np.frombuffer(zlib.compress(text.encode()), np.uint8).copy()
        draws = self._draws(fitted, val_x, train.y.shape[1])
        nll = [-_kernel_density(draws, width)(val.y[:, None]).mean() for width in WIDTHS]
        return {**fitted, "width": np.array(WIDTHS[int(np.argmin(nll))])}

    def _cuts(self, boosters: list[Any], sigma: np.ndarray, x: np.ndarray, y: np.ndarray, seed: int) -> list[int]:
        """Returns for each target the number of trees with the lowest denoising loss of validation rows."""
        random = np.random.default_rng([seed, 1])
        x, y = np.tile(x, (self.repeats, 1)), np.tile(y, (self.repeats, 1))
        t, z = random.uniform(1e-5, 1, (len(x), 1)), random.normal(size=y.shape)
        rows = np.concatenate((y + _noise(sigma, t) * z, x, t), axis=1)
        counts = np.unique(np.ceil(np.geomspace(1, self.trees, CUTS)).astype(int)).tolist()
        chosen = []
        for k, booster in enumerate(boosters):
            error, losses = z[:, k], []
            for start, stop in pairwise([0, *counts]):
                error = error + booster.predict(
                    rows, start_iteration=start, num_iteration=stop - start, num_threads=_threads()
                )
                losses.append(np.square(error).mean())
            chosen.append(counts[int(np.argmin(losses))])
        return chosen

    def _draws(self, fitted: Fitted, x: np.ndarray, dim: int) -> np.ndarray:
        """Returns draws of y for each row, `[B, samples, D]`, by Euler and Maruyama's rule from t = 1 to 0.

        `dy = g² s dt + g dW` backwards, `g² = d σ²/dt`, σ(t) from σ_0 to σ_1 in equal factors; the score is
        `s = trees(y, x, t) / std(t)`. (Song et al., Score-based generative modeling through SDEs, ICLR 2021.)
        """
        texts = [zlib.decompress(fitted[f"trees.{k}"].tobytes()).decode() for k in range(dim)]
        times = 1 - np.arange(self.steps) / self.steps
        if dim > 1:
            return self._backwards(fitted["sigma"], times, len(x), dim, _predict(texts, x, times))
        boxes = _boxes(texts[0], x.shape[1] + 2)
        each = max(1, CANDIDATES // max(len(boxes.value), len(boxes.edges) * self.steps))
        parts = [x[start : start + each] for start in range(0, len(x), each)]
        return np.concatenate(
            [self._backwards(fitted["sigma"], times, len(part), 1, _tabulate(boxes, part, times)) for part in parts]
        )

    def _backwards(self, sigma: np.ndarray, times: np.ndarray, rows: int, dim: int, trees: Trees) -> np.ndarray:
        random = np.random.default_rng(0)
        shape = (1, self.samples, dim)
        y = np.broadcast_to(sigma[1] * random.normal(size=shape), (rows, *shape[1:]))
        growth = 2 * math.log(sigma[1] / sigma[0])
        for number, t in enumerate(times):
            squared = growth * (sigma[0] * (sigma[1] / sigma[0]) ** t) ** 2 / self.steps
            y = y + squared * trees(number, y) / _noise(sigma, t) + math.sqrt(squared) * random.normal(size=shape)
        return y

    @override
    def density(self, fitted: Fitted, x: np.ndarray) -> Density:
        dim = sum(name.startswith("trees.") for name in fitted)
        return _kernel_density(self._draws(fitted, as_columns(x, np.float64), dim), float(fitted["width"]))


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _predict(texts: list[str], x: np.ndarray, times: np.ndarray) -> Trees:
    """Returns the sums of trees at rows x, `[B, p]`, by the library."""
    lightgbm = need("lightgbm", "outside")
    boosters = [lightgbm.Booster(model_str=text) for text in texts]

    def at(number: int, y: np.ndarray) -> np.ndarray:
        inputs = np.repeat(x, y.shape[1], axis=0)
        columns = np.concatenate((y.reshape(len(inputs), -1), inputs, np.full((len(inputs), 1), times[number])), axis=1)
        sums = [booster.predict(columns, num_threads=_threads()) for booster in boosters]
        return np.stack(sums, axis=1).reshape(y.shape)

    return at


class _Boxes(NamedTuple):
    """The leaves of one target's trees: a leaf adds its value where `low < (y, x, t) <= high`."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    edges: np.ndarray
    """Of the steps in y, ascending; the last is infinite."""


@lru_cache(maxsize=1)
def _boxes(text: str, features: int) -> _Boxes:
    booster = need("lightgbm", "outside").Booster(model_str=text)
    values, lows, highs = [], [], []
    for tree in booster.dump_model()["tree_info"]:
        open_nodes = [(tree["tree_structure"], np.full(features, -np.inf), np.full(features, np.inf))]
        while open_nodes:
            node, low, high = open_nodes.pop()
            if "leaf_value" in node:
                values.append(node["leaf_value"])
                lows.append(low)
                highs.append(high)
                continue
            feature, threshold = node["split_feature"], node["threshold"]
            above, below = low.copy(), high.copy()
            above[feature], below[feature] = max(low[feature], threshold), min(high[feature], threshold)
            open_nodes += [(node["left_child"], low, below), (node["right_child"], above, high)]
    high = np.stack(highs)
    return _Boxes(np.array(values), np.stack(lows), high, np.unique(np.append(high[:, 0], np.inf)))


def _tabulate(boxes: _Boxes, x: np.ndarray, times: np.ndarray) -> Trees:
    """Returns the sum of one target's trees at rows x, `[B, p]`, as a table of each row's times and steps in y.

    All draws of a row share the table, which takes as long as the library's sums for a few of them.
    """
    value, low, high, edges = boxes
    inside = np.ones((len(x), len(value)), bool)
    for feature in range(1, low.shape[1] - 1):
        column = x[:, feature - 1, None]
        inside &= (low[:, feature] < column) & (column <= high[:, feature])
    rows, leaves = np.nonzero(inside)
    start, stop = (np.searchsorted(-times, -bound[:, -1])[leaves] for bound in (high, low))
    first, last = (np.searchsorted(edges, bound[:, 0], "right")[leaves] for bound in (low, high))
    shape = (len(x), len(times) + 1, len(edges) + 1)
    corners = ((start, first, 1), (start, last, -1), (stop, first, -1), (stop, last, 1))
    table = np.zeros(math.prod(shape))
    for i, j, sign in corners:
        table += sign * np.bincount(np.ravel_multi_index((rows, i, j), shape), value[leaves], table.size)
    table = table.reshape(shape).cumsum(1).cumsum(2)
    row = np.arange(len(x))[:, None, None]
    return lambda number, y: table[row, number, np.searchsorted(edges, y)]


def _noise(sigma: np.ndarray, t: float | np.ndarray) -> Any:
    """Returns the standard deviation of the noise at times t."""
    return np.sqrt((sigma[0] * (sigma[1] / sigma[0]) ** t) ** 2 - sigma[0] ** 2)


def _kernel_density(draws: np.ndarray, width: float) -> Density:
    """Returns the log of the mean of Gaussian kernels on the draws of each row, `[B, n, D]`, and of N(0, 1).

    Args:
        width: relative to Scott's rule, `spread · n^(-1/(D + 4))` in each coordinate.
    """
    rows, count, dim = draws.shape
    quarter = np.quantile(draws, 0.75, axis=1) - np.quantile(draws, 0.25, axis=1)
    spread = np.minimum(draws.std(1), np.where(quarter > 0, quarter / 1.34, np.inf))
    scale = np.maximum(width * spread * count ** (-1 / (dim + 4)), NARROWEST)[:, None]
    constant = math.log(count + 1) + dim * 0.5 * math.log(2 * math.pi)

    def log_prob(y: np.ndarray) -> np.ndarray:
        out = -0.5 * np.square(y).sum(-1)
        each = max(1, CANDIDATES // (y.shape[1] * count * dim))
        for start in range(0, rows, each):
            some = slice(start, start + each)
            z = (y[some, :, None] - draws[some, None]) / scale[some, None]
            exponent = -0.5 * np.square(z).sum(-1)
            top = exponent.max(-1, keepdims=True)
            kernels = np.log(np.exp(exponent - top).sum(-1)) + top[..., 0] - np.log(scale[some]).sum(-1)
            out[some] = np.logaddexp(out[some], kernels)
        return out - constant

    return log_prob
