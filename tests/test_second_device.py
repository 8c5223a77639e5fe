"""Whole runs on another device than the CPU: their scores are the CPU's. A stand-in for a GPU needs none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ebmbench import EnergyRegressor, estimator
from ebmbench.config.compose import compose
from ebmbench.engine.execute import result_rows
from ebmbench.engine.train import train
from tests.second_device import second_device

SMALL = ["data.num_train=64", "data.num_val=16", "data.num_test=16"]
RUNS = [
    pytest.param(["task=1d", "method=nce"], id="1d"),
    pytest.param(["task=regression", "data=diabetes", "method=nce+"], id="table"),
    pytest.param(["task=regression", "data=diabetes", "model=mdn"], id="a density"),
    pytest.param(
        ["task=regression", "data=laws", "data.dim=2", "method=nce", "task.base.samples=32", *SMALL],
        id="two targets",
        marks=pytest.mark.slow,
    ),
    pytest.param(["task=detection", "method=nce"], id="boxes", marks=pytest.mark.slow),
]
MEASURES = {"nll", "d_kl", "crps", "rmse", "box_nll"}


def scores(words: list[str], device: torch.device, folder: Path) -> pd.DataFrame:
    """Trains a smoke run on a device, and returns its metrics."""
    folder.mkdir()
    config = compose([*words, "+experiment=smoke", "seeds=2", f"results_dir={folder}"])
    learner = config.task.learner(config.setup, config.seeds, device)
    progress = train(learner)
    return pd.DataFrame(result_rows(config.task, learner, progress, folder))


def assert_same(ours: pd.DataFrame, cpu: pd.DataFrame) -> None:
    """Holds scores to the CPU's: to 2 %, and what they say of their own error by chance."""
    compared = sorted(MEASURES & set(ours))
    assert compared
    for name in compared:
        chance = ours.get(f"{name}_error", 0.0) + cpu.get(f"{name}_error", 0.0)
        assert ((ours[name] - cpu[name]).abs() <= 0.02 * cpu[name].abs() + 0.02 + 4 * chance).all(), name


@pytest.mark.parametrize("words", RUNS)
def test_a_run_on_a_stand_in_scores_as_on_the_cpu(words: list[str], tmp_path: Path) -> None:
    with second_device() as device:
        ours = scores(words, device, tmp_path / "there")
    assert_same(ours, scores(words, torch.device("cpu"), tmp_path / "here"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("words", RUNS)
def test_a_run_on_a_gpu_scores_as_on_the_cpu(words: list[str], tmp_path: Path) -> None:
    ours = scores(words, torch.device("cuda"), tmp_path / "there")
    assert_same(ours, scores(words, torch.device("cpu"), tmp_path / "here"))


def test_an_estimator_is_trained_there_and_predicts_here(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    y = x[:, 0] + 0.1 * rng.normal(size=120)
    model = EnergyRegressor(method="nce", epochs=3, seeds=2)
    expected = model.fit(x, y).predict(x)
    with second_device() as device:
        monkeypatch.setattr(estimator, "resolve_device", lambda name: device)
        monkeypatch.setattr(estimator, "seed_groups", lambda config, device: [config.seeds])
        model.fit(x, y)
    np.testing.assert_allclose(model.predict(x), expected, rtol=0.02, atol=0.02)


def test_the_stand_in_refuses_what_a_gpu_refuses() -> None:
    with second_device() as device:
        there = torch.tensor([1.0, 2.0], device=device)
        assert (there * 2.0 + 1.0).tolist() == [3.0, 5.0]
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(2)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert (there + torch.ones(2).to(device)).cpu().numpy().tolist() == [2.0, 3.0]
