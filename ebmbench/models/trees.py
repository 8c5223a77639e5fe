"""Trees of scikit-learn as plain arrays, so that a run keeps them and reads no code of a library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ebmbench.core.extras import need

PLACES = 2**22
"""Pairs of rows and trees that are followed at a time."""
FIELDS = {"feature": np.int32, "threshold": np.float64, "left": np.int32, "right": np.int32, "value": np.float64}
"""Of a node: a row goes left where `x[feature] <= threshold`. A leaf leads to itself."""


def packed(trees: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the nodes of trees one after another, the node with which each tree starts, and the largest depth.

    Args:
        trees: the fields of each tree's nodes; `left` of a leaf is negative. `value` may be left out.
    """
    sizes = np.array([len(tree["left"]) for tree in trees])
    root = np.cumsum(sizes) - sizes
    nodes = {name: np.concatenate([tree[name] for tree in trees]) for name in FIELDS if name in trees[0]}
    leaf, start = nodes["left"] < 0, np.repeat(root, sizes)
    for name in ("left", "right"):
        nodes[name] = np.where(leaf, np.arange(len(leaf)), start + nodes[name])
    depth, reached = 0, root[~leaf[root]]
    while len(reached):
        reached, depth = np.concatenate((nodes["left"][reached], nodes["right"][reached])), depth + 1
        reached = reached[~leaf[reached]]
    return {
        **{name: value.astype(FIELDS[name]) for name, value in nodes.items()},
        "root": root.astype(np.int32),
        "depth": np.array(depth),
    }


def grown(tree: Any) -> dict[str, np.ndarray]:
    """Returns the fields of one of scikit-learn's decision trees, its attribute `tree_`; the values apart."""
    return {
        "feature": np.maximum(tree.feature, 0),
        "threshold": tree.threshold,
        "left": tree.children_left,
        "right": tree.children_right,
    }


def boosted(nodes: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the fields of a tree of scikit-learn's histogram boosting; inputs are numbers, and none is missing."""
    leaf = nodes["is_leaf"].astype(bool)
    left, right = (np.where(leaf, -1, nodes[name].astype(np.int64)) for name in ("left", "right"))
    return {
        "feature": nodes["feature_idx"].astype(np.int64),
        "threshold": nodes["num_threshold"],
        "left": left,
        "right": right,
        "value": nodes["value"],
    }


def leaves(nodes: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Returns the leaf of each row in each tree: `[B, p] -> [B, T]`, numbers of nodes."""
    root, found = nodes["root"], np.empty((len(x), len(nodes["root"])), np.int32)
    each = max(1, PLACES // len(root))
    for start in range(0, len(x), each):
        some = x[start : start + each]
        place = np.broadcast_to(root, (len(some), len(root)))
        for _ in range(int(nodes["depth"])):
            is_left = np.take_along_axis(some, nodes["feature"][place], 1) <= nodes["threshold"][place]
            place = np.where(is_left, nodes["left"][place], nodes["right"][place])
        found[start : start + each] = place
    return found


@contextmanager
def as_many_threads_as_torch() -> Iterator[None]:
    """Lets scikit-learn use as many threads as `threads=N` gave to PyTorch."""
    import torch

    with need("threadpoolctl", "sklearn").threadpool_limits(torch.get_num_threads()):
        yield
