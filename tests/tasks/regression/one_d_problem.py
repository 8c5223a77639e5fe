"""A small 1D problem for tests, of any method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ebmbench.methods import DSM, KLDIS, MLIS, MLMCMC, NCE, SM, Method, NCEPlus
from ebmbench.proposals import GaussianMixture
from ebmbench.tasks.regression.config import OneDTask, OneDTrainer
from ebmbench.tasks.regression.network import plain_energy
from ebmbench.tasks.regression.problem import EnergyFunction, OneDProblem


def method(name: str, num_samples: int = 16) -> Method:
    """A method with its published noise on dataset 1, and few samples."""
    wide, narrow = GaussianMixture((0.2, 1.6), shared=True), GaussianMixture((0.1, 0.8), shared=True)
    made: dict[str, Method] = {
        "ml-is": MLIS(wide, num_samples),
        "kld-is": KLDIS(wide, num_samples, 0.025),
        "ml-mcmc": MLMCMC(num_samples, 4, 0.05),
        "nce": NCE(narrow, num_samples),
        "nce+": NCEPlus(narrow, num_samples, 0.025),
        "sm": SM(),
        "dsm": DSM(num_samples, 0.2),
    }
    return made[name]


def problem(
    name: str = "nce+",
    seeds: Sequence[int] = (0,),
    dtype: torch.dtype = torch.float32,
    num_samples: int = 16,
    epochs: int = 2,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    energy: EnergyFunction = plain_energy,
    **task: Any,
) -> OneDProblem:
    """128 training points and coarse grids, unless said otherwise."""
    sizes = {"data_seed": 0, "num_train": 128, "num_val": 64, "num_test": 256, "target_noise": 0.0, "grid_points": 257}
    settings = OneDTask.model_validate({"name": "1d", "dataset": 1, **sizes, **task})
    trainer = OneDTrainer(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
    return OneDProblem(settings, trainer, method(name, num_samples), seeds, dtype=dtype, energy=energy)
