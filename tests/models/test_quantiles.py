"""Densities from quantiles: what they integrate to, and the models that give quantiles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import Field

import ebmbench
from ebmbench.check.networks import OUTSIDE_CHECKS
from ebmbench.core.errors import UserError
from ebmbench.models.boosted_quantiles import BoostedQuantiles
from ebmbench.models.conformal_quantiles import ConformalQuantiles
from ebmbench.models.outside import Rows
from ebmbench.models.quantile_forest import QuantileForest
from ebmbench.models.quantiles import NARROWEST, Quantiles, piecewise, smoothed
from ebmbench.models.tabicl import TabICL
from ebmbench.models.tabpfn import TabPFN
from ebmbench.models.trees import leaves
from ebmbench.tasks.examples import read_examples

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Quantiles] = {
    "quantile-forest": QuantileForest(trees=20),
    "boosted-quantiles": BoostedQuantiles(trees=10, levels=5),
    "conformal-quantiles": ConformalQuantiles(trees=10, levels=5),
}
WORDS = (
    "task=regression",
    "device=cpu",
    "threads=1",
    "+experiment=smoke",
    "data=table",
    "data.path=t.csv",
    "figures=false",
)


def silent(done: int, total: int) -> None:
    """A `report` of nothing."""


def law(rows: int, seed: int, targets: int = 1) -> Rows:
    """Rows with `y = sin(2 x_1) + σ(x_2) ε`, σ 0.1 or 0.4."""
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (rows, 2)).astype(np.float32)
    std = np.where(x[:, 1:] > 0, 0.4, 0.1)
    return Rows(x, np.sin(2 * x[:, :1]) + std * random.normal(size=(rows, targets)))


def masses_of(density: Any, points: np.ndarray) -> np.ndarray:
    """The mass below, between and above points by quadrature, `[B, Q + 1]`: no jump lies within a cell's nodes."""
    part = np.linspace(0, 1, 2000)
    far = 30 * part**3
    low, high = points[:, :-1, None] + 1e-9, points[:, 1:, None] - 1e-9
    below, above = points[:, :1, None] - 1e-9 - far[::-1], points[:, -1:, None] + 1e-9 + far
    nodes = np.concatenate((below, low + (high - low) * part, above), 1)
    heights = np.exp(density(nodes.reshape(len(points), -1, 1))).reshape(nodes.shape)
    return np.trapezoid(heights, nodes)


def test_a_piecewise_density_has_the_masses_it_was_given() -> None:
    random = np.random.default_rng(0)
    points = random.normal(size=(4, 1, 7)).cumsum(0)
    points.sort(-1)
    masses = random.dirichlet(np.ones(8), (4, 1))
    found = masses_of(piecewise(points, masses, np.full((4, 1, 2), 0.7)), points[:, 0])
    np.testing.assert_allclose(found, masses[:, 0], atol=1e-4)


def test_several_targets_are_independent_given_x() -> None:
    random = np.random.default_rng(0)
    points = np.sort(random.normal(size=(3, 2, 5)), -1)
    masses, lengths = np.full((1, 2, 6), 1 / 6), np.ones((3, 2, 2))
    y = random.normal(size=(3, 9, 2))
    each = [piecewise(points[:, [k]], masses[:, [k]], lengths[:, [k]])(y[..., [k]]) for k in range(2)]
    np.testing.assert_allclose(piecewise(points, masses, lengths)(y), sum(each))


def test_quantiles_that_cross_or_are_equal_give_a_finite_density() -> None:
    levels = np.arange(1, 6) / 6
    points = smoothed(np.array([[[0.0, 0.0, 0.0, 0.0, 0.0]], [[3.0, 1.0, 2.0, 5.0, 4.0]]]), levels)
    assert np.isclose(np.diff(points).min(), NARROWEST / 6)
    np.testing.assert_allclose(points[1, 0] - NARROWEST * (levels - 0.5), [1, 2, 3, 4, 5])


@pytest.mark.parametrize("name", SMALL)
def test_the_distribution_function_at_a_quantile_is_its_level(name: str) -> None:
    model = SMALL[name]
    fitted = model.fit(law(200, 0), law(60, 1), 0, silent)
    x = law(6, 2).x
    masses = masses_of(model.density(fitted, x), model.points(fitted, x)[:, 0])
    np.testing.assert_allclose(masses.cumsum(1)[:, :-1], np.tile(model.probabilities, (6, 1)), atol=1e-4)
    np.testing.assert_allclose(masses.sum(1), 1, atol=1e-4)


class Given(Quantiles):
    """Quantiles of a Laplace distribution whose scale is the first column of x."""

    def fit(self, *args: Any) -> Any:
        raise NotImplementedError

    def quantiles(self, fitted: Any, x: np.ndarray) -> np.ndarray:
        part = np.where(self.probabilities < 0.5, self.probabilities, 1 - self.probabilities)
        return x[:, :1, None] * np.sign(self.probabilities - 0.5) * -np.log(2 * part)


@pytest.mark.parametrize("is_even", [True, False])
def test_a_tail_is_as_long_as_that_of_the_rows_beyond(is_even: bool) -> None:
    """A Laplace distribution's tail has its scale as length: everywhere the same, or a share of each row's spread."""
    random = np.random.default_rng(0)
    scale = np.full(20_000, 0.5) if is_even else random.uniform(0.1, 2, 20_000)
    y = scale * random.laplace(size=20_000)
    model = Given()
    fitted = model.with_tails({}, Rows(scale[:, None], y[:, None]))
    spread = 2 * np.log(10)  # of the 5 % and the 95 % quantile, in scales
    if is_even:
        found = fitted["tails"][0, :, 0] + fitted["tails"][0, :, 1] * 0.5 * spread
        np.testing.assert_allclose(found, 0.5, rtol=0.1)
    else:
        assert (fitted["tails"][0, :, 0] == 0).all()
        np.testing.assert_allclose(fitted["tails"][0, :, 1] * spread, 1, rtol=0.1)


def test_without_a_row_beyond_a_tail_is_a_gaussian_s() -> None:
    fitted = Given().with_tails({}, Rows(np.ones((5, 1)), np.zeros((5, 1))))
    lengths = fitted["tails"][0, :, 0] + fitted["tails"][0, :, 1] * 2 * np.log(10)
    np.testing.assert_allclose(lengths, 0.13 * 2 * np.log(10), rtol=0.01)


def test_the_forest_s_arrays_give_scikit_learn_s_leaves_and_meinshausen_s_weights() -> None:
    from sklearn.ensemble import RandomForestRegressor

    train, new = law(150, 0, targets=2), law(9, 1).x
    model = QuantileForest(trees=15, min_leaf=4)
    fitted = model.fit(train, law(40, 2, targets=2), 3, silent)
    theirs = RandomForestRegressor(15, min_samples_leaf=4, max_features=1.0, random_state=3).fit(train.x, train.y)
    np.testing.assert_array_equal(leaves(fitted, new) - fitted["root"], theirs.apply(new))
    same = theirs.apply(new)[:, None] == theirs.apply(train.x)[None]  # [B, N, T]
    weights = (same / same.sum(1, keepdims=True)).mean(-1)
    found = model.quantiles(fitted, new)
    for row, target in np.ndindex(9, 2):
        order = train.y[:, target].argsort()
        order = order[weights[row, order] > 0]
        middle = weights[row, order].cumsum() - weights[row, order] / 2
        np.testing.assert_allclose(found[row, target], np.interp(model.probabilities, middle, train.y[order, target]))


def test_the_boosted_arrays_give_what_scikit_learn_gives() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    train, stop, new = law(300, 0), law(80, 1), law(9, 2).x
    model = BoostedQuantiles(trees=25, levels=3)
    fitted = model.grow(train, stop, 0, silent)
    for k, level in enumerate(model.probabilities):
        count = int((fitted["output"] == k).sum())
        theirs = HistGradientBoostingRegressor(
            loss="quantile", quantile=level, max_iter=count, max_leaf_nodes=16, min_samples_leaf=10,
            early_stopping=False,
        ).fit(train.x, train.y[:, 0])  # fmt: skip
        np.testing.assert_allclose(model.quantiles(fitted, new)[:, 0, k], theirs.predict(new), rtol=1e-12)


def test_conformal_quantiles_have_the_share_of_rows_below_that_they_say() -> None:
    """With 39 calibration rows exactly, in the mean over draws; raw quantiles that are fitted too closely do not."""
    moved, raw, inside = [], [], []
    model = ConformalQuantiles(levels=3, trees=10, learning_rate=1, min_leaf=2)
    for draw in range(40):
        fitted = model.fit(law(80, 3 * draw), law(39, 3 * draw + 1), draw, silent)
        new = law(200, 3 * draw + 2)
        quantiles, ends = model.quantiles(fitted, new.x)[:, 0], model.points(fitted, new.x)[:, 0, [0, -1]]
        moved.append((new.y <= quantiles).mean(0))
        raw.append((new.y <= quantiles - fitted["moved"][0]).mean(0))
        inside.append(((new.y >= ends[:, :1]) & (new.y <= ends[:, 1:])).mean())
    error = 3 * np.std(moved, 0) / np.sqrt(40)
    assert (abs(np.mean(moved, 0) - model.probabilities) < error).all()
    assert (abs(np.mean(raw, 0) - model.probabilities) > error)[[0, 2]].all()
    assert np.mean(inside) > 0.5


def test_conformal_calibration_rows_move_quantiles_and_train_nothing() -> None:
    model, train, val = ConformalQuantiles(levels=3, trees=5), law(100, 0), law(39, 1)
    first, other = (model.fit(train, Rows(val.x, val.y + shift), 0, silent) for shift in (0, 5))
    np.testing.assert_allclose(other["moved"], first["moved"] + 5)
    for name in first.keys() - {"moved", "tails"}:
        np.testing.assert_array_equal(first[name], other[name])


@pytest.mark.parametrize("name", SMALL)
def test_a_run_loads_to_the_same_density_and_uses_no_test_row(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = law(250, 0)
    frame = pd.DataFrame({"a": data.x[:, 0], "b": data.x[:, 1], "y": 100 + 20 * data.y[:, 0]})
    frame.to_csv("t.csv", index=False)
    small = ("model.trees=10",) if name == "quantile-forest" else ("model.trees=10", "model.levels=5")
    run_dir = ebmbench.run(*WORDS, f"model={name}", *small, "results_dir=r")
    rows, model = read_examples(run_dir), ebmbench.load(run_dir)[0]
    known = frame.iloc[rows["row"]]
    np.testing.assert_allclose(model.log_prob(known, known["y"]), rows["log_prob"], rtol=1e-6)
    frame.loc[rows["row"], ["a", "y"]] = [7.0, 1e6]
    frame.to_csv("t.csv", index=False)
    other = ebmbench.load(ebmbench.run(*WORDS, f"model={name}", *small, "results_dir=s"))[0]
    assert torch.equal(model.log_prob(known, known["y"]), other.log_prob(known, known["y"]))


@pytest.mark.parametrize("support", ["{name: positive, atoms: [0]}", "{name: circle, period: 9}"])
def test_a_circle_and_atoms_are_refused_in_one_sentence(
    support: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"a": np.arange(60.0), "y": np.arange(60.0) % 8}).to_csv("t.csv", index=False)
    with pytest.raises(UserError, match="model=quantile-forest is trained by its library, which knows no circle"):
        ebmbench.run(*WORDS, "model=quantile-forest", f"data.support={support}", "results_dir=r")


def test_without_scikit_learn_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(UserError, match=r"the package sklearn is not installed; .*'ebmbench\[sklearn\]'"):
        QuantileForest().fit(law(20, 0), law(9, 1), 0, silent)


@pytest.mark.parametrize("model", [TabICL, TabPFN])
def test_a_pretrained_model_without_weights_is_one_sentence(model: type[TabICL | TabPFN]) -> None:
    with pytest.raises(UserError, match=rf"model={model.name} needs model.weights=FILE"):
        model(weights="nowhere.ckpt").fit(law(20, 0), law(9, 1), 0, silent)


def test_other_weights_than_the_run_s_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.ckpt"
    file.write_bytes(b"one")
    model = TabPFN(weights=str(file))
    fitted = model.fit(law(20, 0), law(9, 1), 0, silent)
    file.write_bytes(b"two")
    with pytest.raises(UserError, match="other weights than those that this run was made with"):
        model.density(fitted, law(3, 2).x)


def random_tabicl(path: Path) -> None:
    """Writes a checkpoint of TabICL's layout: a small network with random weights."""
    from tabicl._model.tabicl import TabICL as Network

    config = {
        **dict.fromkeys(("col_num_blocks", "row_num_blocks", "icl_num_blocks"), 1),
        **dict.fromkeys(("col_nhead", "row_nhead", "icl_nhead", "row_num_cls"), 2),
        "max_classes": 0, "num_quantiles": 99, "embed_dim": 16, "col_num_inds": 4,
    }  # fmt: skip
    network = drawn(Network(**config))
    torch.save({"config": config, "state_dict": network.state_dict()}, path)


def random_tabpfn(path: Path) -> None:
    """Writes a checkpoint of TabPFN v2's layout: a small network with random weights, and fifty bins."""
    from tabpfn.architectures import tabpfn_v2

    config = {"max_num_classes": 0, "num_buckets": 50, "emsize": 16, "nlayers": 1, "nhead": 2}
    network = drawn(tabpfn_v2.get_architecture(tabpfn_v2.parse_config(config)[0]))
    bins = {"criterion.borders": torch.linspace(-4, 4, 51), "criterion.losses_per_bucket": torch.zeros(50)}
    torch.save({"config": config, "state_dict": {**network.state_dict(), **bins}}, path)


def drawn(network: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


def with_weights(kind: type[TabICL | TabPFN], path: Path) -> type[TabICL | TabPFN]:
    """Returns the class with random weights as its default."""
    pytest.importorskip(kind.name)
    (random_tabicl if kind is TabICL else random_tabpfn)(path)

    class Random(kind):  # type: ignore[misc, valid-type]
        weights: str | None = Field(str(path), description="random")
        estimators: int = Field(2, description="few")

    return Random


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TabICL, TabPFN])
def test_a_pretrained_network_with_random_weights_keeps_the_contract(
    kind: type[TabICL | TabPFN], tmp_path: Path
) -> None:
    made = with_weights(kind, tmp_path / "random.ckpt")
    assert [fault for check in OUTSIDE_CHECKS for fault in check(made)] == []


@pytest.mark.slow
def test_tabpfn_s_density_is_the_library_s_own(tmp_path: Path) -> None:
    model = with_weights(TabPFN, tmp_path / "random.ckpt")()
    train, new = law(60, 0), law(9, 1)
    fitted = model.fit(train, law(9, 2), 3, silent)
    theirs = model.estimator(Path(str(model.weights)), 3).fit(train.x, train.y[:, 0]).predict(new.x, output_type="full")
    expected = -theirs["criterion"](theirs["logits"], torch.from_numpy(new.y[:, 0]))
    np.testing.assert_allclose(model.density(fitted, new.x)(new.y[:, None])[:, 0], expected, rtol=1e-5)
