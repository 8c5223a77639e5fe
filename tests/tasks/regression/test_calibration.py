"""Calibrated intervals and regions: ranks are levels, and levels cover, against laws that are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

import ebmbench
from ebmbench.core.errors import UserError
from ebmbench.supports.base import Support
from ebmbench.supports.circle import Circle
from ebmbench.supports.integers import Integers
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.positive import Positive
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Axis
from ebmbench.tasks.regression.calibration import Calibration, hold_back
from ebmbench.tasks.regression.data.base import Arrays, Split
from ebmbench.tasks.regression.data.transforms import ArrayInput
from ebmbench.tasks.regression.density import Density
from ebmbench.tasks.regression.quadrature import GridDensity


def repeat(density: Density, count: int) -> Density:
    return Density(*(getattr(density, n).expand(count, -1) for n in ("y", "mass", "height")), density.axis)


def normal(std: float) -> Density:
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64).unsqueeze(0)
    log_p = -0.5 * (z / std).square() - math.log(std * math.sqrt(2 * math.pi))
    return Density.of(Axis(Real(), 0.0, 1.0, (), BaseDensity()), GridDensity(z, log_p), None)[0]


def made(support: Support) -> tuple[Density, Tensor]:
    """A density with two modes, and some values."""
    if support.discrete:
        axis = Axis(support, 4.0, 2.0, (), BaseDensity())
        return Density.of(axis, None, torch.sin(2 * axis.values).unsqueeze(0))[0], torch.arange(10).double()
    turn = support.turn is not None
    axis = Axis(support, math.pi if turn else 0.0, 1.0, (0.3,) if support.atoms else (), BaseDensity())
    ends = (-math.pi, math.pi) if turn else (-6.0, 6.0)
    z = torch.linspace(*ends, 4001, dtype=torch.float64).unsqueeze(0) + 1e-9
    log_p = 2 * torch.sin(2 * z) - (0 if turn else 1) * z.square()
    points = torch.tensor([[math.log(0.8)]], dtype=torch.float64) if support.atoms else None
    return Density.of(axis, GridDensity(z, log_p), points)[0], torch.linspace(0, 6, 25, dtype=torch.float64)


@pytest.mark.parametrize(
    "support", [Real(), Positive(), Circle(low=0.0), Integers(), Positive(atoms=(0.0,))], ids=lambda s: s.name
)
def test_a_rank_is_the_least_level_that_holds_the_value(support: Support) -> None:
    density, y = made(support)
    many = repeat(density, len(y))
    for ranks, name in ((many.interval_rank(y), "interval"), (many.region_rank(y), "region")):
        for value, rank in zip(y.tolist(), ranks.tolist(), strict=True):
            for level in (rank - 1e-3, rank + 1e-3):
                if not 1e-6 < level < 1 - 1e-6:
                    continue
                if name == "region":
                    holds = any(low <= value <= high or (high < low and not high < value < low)
                                for low, high in density.region(level)[0].pieces)  # fmt: skip
                else:
                    low, high = (float(end) for end in density.interval(torch.tensor([level])))
                    holds = low <= value <= high if low <= high else not high < value < low
                assert holds == (level > rank), (name, value, level, rank)


def test_the_length_of_an_interval_is_between_its_ends() -> None:
    level = torch.tensor([0.5, 0.9], dtype=torch.float64)
    low, high = normal(2.0).interval(level)
    torch.testing.assert_close(normal(2.0).width(level), high - low)
    circle = made(Circle(low=0.0))[0]
    low, high = circle.interval(level)
    torch.testing.assert_close(circle.width(level), torch.remainder(high - low, 2 * math.pi))


def test_a_density_that_is_too_narrow_is_calibrated_to_the_truth() -> None:
    """The model says N(0, 1), the truth is N(0, 4): the 90 % interval is the model's of level 2 Φ(2 z) - 1."""
    y = torch.from_numpy(stats.norm(0, 2).rvs(4000, random_state=0))
    found = Calibration.of([(repeat(normal(1.0), len(y)), y)])
    wanted = 2 * stats.norm.cdf(2 * stats.norm.ppf(0.95)) - 1
    assert found.interval_level(0.9) == pytest.approx(wanted, abs=3e-4)
    assert found.region_level(0.9) == pytest.approx(wanted, abs=3e-4)


@pytest.mark.parametrize("count", [20, 99])
def test_the_mean_coverage_is_what_is_guaranteed(count: int) -> None:
    """Over draws of held rows it lies between the level and 1 / (N + 1) above it."""
    random, levels = np.random.default_rng(0), []
    for _ in range(2000):
        ranks = torch.from_numpy(random.random(count)).sort().values
        levels.append(Calibration(ranks, ranks).interval_level(0.9))
    error = 4 * np.std(levels) / math.sqrt(len(levels))
    assert 0.9 - error < np.mean(levels) < 0.9 + 1 / (count + 1) + error
    few = Calibration(torch.rand(5).double(), torch.rand(5).double())
    assert few.region_level(0.9) == 1.0


def split(count: int, dim: int = 1) -> Split:
    rows = Arrays(torch.arange(count).float().unsqueeze(1), torch.rand(count, dim), rows=np.arange(count) + 100)
    return Split(rows, rows, rows, [f"y{k}" for k in range(dim)], ["x"], ArrayInput((1,)))


def test_rows_that_are_held_are_no_rows_for_stopping() -> None:
    left, held = hold_back(split(51))
    assert len(held) == 25 and len(left.val) == 26 and len(left.train) == 51
    assert sorted([*held.x[:, 0].tolist(), *left.val.x[:, 0].tolist()]) == list(range(51))
    assert held.rows is not None and (held.rows == held.x[:, 0].numpy() + 100).all()
    for wrong, sentence in ((split(39), "they are 39; 40 are needed"), (split(80, 2), "needs one target")):
        with pytest.raises(UserError, match=sentence):
            hold_back(wrong)


def test_a_run_keeps_what_it_needs_to_predict_calibrated_intervals(tmp_path: Path) -> None:
    words = ["task=regression", "data=values", "data.law=beta", "method=nce", "task.calibrate=true", "seeds=2"]
    sizes = ["data.num_train=300", "data.num_val=200", "data.num_test=300", "trainer.epochs=2"]
    run_dir = ebmbench.run(*words, *sizes, "device=cpu", "logger=none", f"results_dir={tmp_path}")
    scores = pd.read_csv(run_dir / "metrics.csv")
    assert (scores["calibrated_coverage_90"] - 0.9).abs().max() < 0.1
    assert (scores["calibrated_region_90"] - 0.9).abs().max() < 0.1 and (scores["width_90"] > 0).all()
    model = ebmbench.load(run_dir)[0]
    assert model.calibration is not None and len(model.calibration.region) == 100
    x = np.linspace(-1, 1, 5).reshape(-1, 1)
    level = torch.tensor([model.calibration.interval_level(0.8)], dtype=torch.float64)
    torch.testing.assert_close(model.interval(x, 0.8)[1], model.densities(x).interval(level)[1][:, 0])
    torch.testing.assert_close(model.summary(x, 0.8)["high"][:, 0], model.interval(x, 0.8)[1])
