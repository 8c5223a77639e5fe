"""A front for tables: what boosted trees predict of a row, as one more input beside its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.extras import need
from ebmbench.models.trees import boosted, leaves, packed
from ebmbench.tasks.regression.data.base import Arrays, Frame, Split, Transform
from ebmbench.tasks.regression.data.transforms import register_transform, restore

if TYPE_CHECKING:
    from torch import Tensor

    from ebmbench.supports.targets import Targets

Front: TypeAlias = Literal["none", "boosted", "auto"]
FOLDS, SEED = 10, 0
"""Folds of the rows that are not for test, and the seed: the same for every model on a split."""
ROUNDS, LEAF_ROWS, LEAVES, ROWS_FOR_LEAF = 200, 5, (15, 63), 100
"""Trees for each output, the least rows in a leaf, and leaves of a tree: one for each 100 rows, in bounds."""
LEAST_ROWS = 50
"""With fewer training rows trees say little."""
SMOOTH_ROWS, LENGTHS, RIDGES = 1000, (0.5, 1.0, 2.0, 4.0), (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Rows at most, length scales and ridges of the smooth function that trees are compared with."""


@dataclass(frozen=True)
class Trees:
    """Sums of trees, as plain arrays of their nodes.

    Attributes:
        feature, threshold, left, right: of each node; a row goes left if its input is at most the threshold. A leaf
            leads to itself.
        value: what a leaf adds.
        roots: the first node of each tree of each output, `[K, T]`.
        start: of each output, `[K]`.
        depth: steps from a root to the farthest leaf.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    roots: np.ndarray
    start: np.ndarray
    depth: int

    @staticmethod
    def of(models: Sequence[Any]) -> Trees:
        """Returns the trees of scikit-learn's HistGradientBoostingRegressor, one model for each output."""
        nodes = packed([boosted(tree.nodes) for model in models for (tree,) in model._predictors])
        left, right, threshold = nodes["left"], nodes["right"], _single(nodes["threshold"])
        value = np.where(left == np.arange(len(left)), nodes["value"], 0.0)
        start = np.array([float(model._baseline_prediction.item()) for model in models])
        roots = nodes["root"].reshape(len(models), -1)
        return Trees(nodes["feature"], threshold, left, right, value, roots, start, int(nodes["depth"]))

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the sums: float32 inputs `[N, p]` -> float32 `[N, K]`."""
        parts = [self._sums(rows.numpy()) for rows in x.split(4096)]
        return torch.from_numpy(np.concatenate(parts).astype(np.float32)) if parts else x.new_zeros(0, len(self.start))

    def _sums(self, x: np.ndarray) -> np.ndarray:
        place = leaves({**vars(self), "root": self.roots.reshape(-1)}, x)
        return self.start + self.value[place].reshape(len(x), *self.roots.shape).sum(-1)

    def plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON."""
        whole = {name: getattr(self, name).tolist() for name in ("feature", "left", "right", "roots", "start")}
        numbers = {name: [float(f"{v:.9g}") for v in getattr(self, name)] for name in ("threshold", "value")}
        return {**whole, **numbers, "depth": self.depth}

    @staticmethod
    def restore(plain: Mapping[str, Any], inputs: int) -> Trees:
        """Reads back what `plain` returned, for rows of some inputs.

        Raises:
            ValueError: a node leads nowhere.
        """
        whole = {name: np.array(plain[name], np.int64) for name in ("feature", "left", "right", "roots")}
        numbers = {name: np.array(plain[name], np.float64) for name in ("value", "start")}
        trees = Trees(**whole, **numbers, threshold=np.array(plain["threshold"], np.float32), depth=int(plain["depth"]))
        count = len(trees.feature)
        sizes = {len(getattr(trees, name)) for name in ("left", "right", "threshold", "value")}
        places = np.concatenate([trees.left, trees.right, trees.roots.reshape(-1)])
        wrong = (places < 0) | (places >= count)
        if sizes != {count} or wrong.any() or not ((trees.feature >= 0) & (trees.feature < inputs)).all():
            raise ValueError("a tree has a node that leads nowhere")
        return trees


def _single(threshold: np.ndarray) -> np.ndarray:
    """Returns the largest single-precision numbers that are no larger: float32 inputs fall on the same side of them."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)


@dataclass(frozen=True)
class Boosted(Transform):
    """The inputs of another transform, and what trees predict from them.

    Attributes:
        columns: the other transform.
        inputs: how many inputs it gives.
    """

    columns: Transform
    inputs: int
    trees: Trees

    @property
    @override
    def used(self) -> Sequence[str]:
        return self.columns.used

    @property
    def missing(self) -> Sequence[float | str]:
        """The codes that stand for a missing value."""
        return getattr(self.columns, "missing", ())

    @override
    def read(self, frame: Frame) -> tuple[Tensor, list[str]]:
        x, notes = self.columns.read(frame)
        return torch.cat((x, self.trees(x)), 1), notes

    @override
    def plain(self) -> dict[str, Any]:
        return {
            "kind": "boosted",
            "columns": self.columns.plain(),
            "inputs": self.inputs,
            "trees": self.trees.plain(),
        }

    @staticmethod
    def restore(plain: Mapping[str, Any]) -> Boosted:
        """Reads back what `plain` returned."""
        inputs = int(plain["inputs"])
        return Boosted(restore(plain["columns"]), inputs, Trees.restore(plain["trees"], inputs))


register_transform("boosted", Boosted.restore)


def with_front(split: Split, front: Front, targets: Targets) -> Split:
    """Returns a split whose rows have what boosted trees predict of their targets as further inputs.

    Trees see no test row. A row of training or validation has the prediction of trees of the other folds; rows that a
    group holds together are in one fold. Test and new rows have that of trees of all training and validation rows.
    What is predicted is what a network sees of a target, such as the cosine and sine of an angle.

    Args:
        front: `auto` leaves the split as it is where `_pay` says so, and where inputs are not columns.
        targets: measured on the training rows.

    Raises:
        UserError: `boosted`, and the inputs are not columns, or the rows are too few.
    """
    if front == "none":
        return split
    train = split.train
    reason = _hindrance(split)
    if reason is not None:
        if front == "boosted":
            raise UserError(f"front=boosted is not allowed here, because {reason}; choose none or auto")
        return split
    known = (train, split.val)
    x = torch.cat([rows.x for rows in known]).numpy()
    z = targets.embed(targets.z(torch.cat([rows.y for rows in known]))).numpy()
    weight = _joined_weights(known)
    ok = np.isfinite(z).all(1)  # a validation target may be no value of the support
    fold = folds(known)
    seen = np.empty_like(z)
    for number in np.unique(fold):
        out = fold == number
        models = _boosted(x[~out & ok], z[~out & ok], weight[~out & ok])
        seen[out] = np.stack([model.predict(x[out]) for model in models], 1)
    if front == "auto" and not _pay(x[ok], z[ok], seen[ok], weight[ok]):
        note = "boosted trees predict rows worse than a smooth function: no input is made of them"
        return replace(split, notes=[*split.notes, note])
    trees = Trees.of(_boosted(x[ok], z[ok], weight[ok]))
    further = [*torch.from_numpy(seen.astype(np.float32)).split([len(rows) for rows in known]), trees(split.test.x)]
    train, val, test = (
        replace(rows, x=torch.cat((rows.x, more), 1), latent=rows.latent if split.truth is None else rows.given)
        for rows, more in zip((*known, split.test), further, strict=True)
    )
    names = [f"boosted {name}" for name in split.target_names]
    names = names if len(names) == z.shape[1] else [f"boosted {k + 1}" for k in range(z.shape[1])]
    return replace(
        split,
        train=train,
        val=val,
        test=test,
        feature_names=[*split.feature_names, *names],
        transform=Boosted(split.transform, x.shape[1], trees),
        notes=[
            *split.notes,
            "what boosted trees predict is one more input, out of fold for all but test rows",
        ],
    )


def _hindrance(split: Split) -> str | None:
    """Returns why no trees can be made of a split, None if they can."""
    if split.train.x.dim() != 2:
        return "an input is not a row of columns"
    if split.kl_grid is not None:
        return "the data are compared with a published study"
    if len(split.train) < LEAST_ROWS:
        return f"the training rows are {len(split.train)}, and it needs {LEAST_ROWS}"
    if split.train.group is not None and len(np.unique(split.train.group)) < 2:
        return "the training rows are one group"
    return None


def folds(parts: Sequence[Arrays]) -> np.ndarray:
    """Returns the fold of each row of some parts, int64 `[N]`: at random, with the rows of a group in one fold."""
    groups = [part.group for part in parts if part.group is not None]
    group = np.unique(np.concatenate(groups), return_inverse=True)[1] if groups else np.arange(sum(map(len, parts)))
    fold: np.ndarray = (np.random.default_rng(SEED).permutation(group.max() + 1) % FOLDS)[group]
    return fold


def _joined_weights(parts: Sequence[Arrays]) -> np.ndarray:
    """Returns the weights of the rows of some parts, `[N]`."""
    return np.concatenate([np.ones(len(part)) if part.weight is None else part.weight.numpy() for part in parts])


def _boosted(x: np.ndarray, z: np.ndarray, weight: np.ndarray) -> list[Any]:
    """Returns boosted trees fitted to some rows: a model for each column of z."""
    make = need("sklearn.ensemble", "sklearn").HistGradientBoostingRegressor
    options = {
        "max_iter": ROUNDS,
        "min_samples_leaf": LEAF_ROWS,
        "max_leaf_nodes": min(max(LEAVES[0], len(x) // ROWS_FOR_LEAF), LEAVES[1]),
        "early_stopping": False,
        "random_state": SEED,
    }
    return [make(**options).fit(x, one, weight) for one in z.T]


def _pay(x: np.ndarray, z: np.ndarray, seen: np.ndarray, weight: np.ndarray) -> bool:
    """Whether trees predict rows out of fold better than a smooth function does.

    The smooth function is a kernel ridge regression, whose errors with a row left out have a closed form. It stands for
    the network, which is smooth too. Validation rows alone would be too few to decide by.
    """
    some = np.random.default_rng(SEED).permutation(len(x))[:SMOOTH_ROWS]
    x, z, seen, weight = (part[some].astype(np.float64) for part in (x, z, seen, weight))
    mean = z.mean(0)
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1.0)
    size = (x**2).sum(1)
    distance = np.maximum(size[:, None] + size - 2 * x @ x.T, 0) / x.shape[1]
    least = np.inf
    for length in LENGTHS:
        values, vectors = np.linalg.eigh(np.exp(-distance / (2 * length**2)))
        projected = vectors.T @ (z - mean)
        for ridge in RIDGES:
            share = 1 / (np.maximum(values, 0) + ridge)
            error = vectors @ (share[:, None] * projected) / ((vectors**2) @ share)[:, None]
            least = min(least, float(np.average((error**2).sum(1), weights=weight)))
    boosted = float(np.average(((seen - z) ** 2).sum(1), weights=weight))
    return boosted < least
