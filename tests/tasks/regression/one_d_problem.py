"""A small 1D learner for tests, of any method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ebmbench.engine.train import Training
from ebmbench.methods.base import Method
from ebmbench.methods.contrastive import NCE, NCEPlus
from ebmbench.methods.likelihood import KLDIS, MLIS, MLMCMC
from ebmbench.methods.score import DSM, SM
from ebmbench.models.base import EBM
from ebmbench.models.networks.paper import Paper
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.supports.measure import BaseDensity
from ebmbench.tasks.base import Setup
from ebmbench.tasks.regression.data.paper import Law1, Law2
from ebmbench.tasks.regression.fitting import FitLearner
from ebmbench.tasks.regression.task import OneD, PaperTrainer

WIDE, NARROW = GaussianMixture(stds=(0.2, 1.6), shared=True), GaussianMixture(stds=(0.1, 0.8), shared=True)


def method(name: str, num_samples: int = 16) -> tuple[Method, GaussianMixture | None]:
    """A method with its published noise on dataset 1, and few samples; and its proposal."""
    made: dict[str, tuple[Method, GaussianMixture | None]] = {
        "nce+": (NCEPlus(num_samples=num_samples, beta=0.025), NARROW),
        "nce": (NCE(num_samples=num_samples), NARROW),
        "ml-is": (MLIS(num_samples=num_samples), WIDE),
        "kld-is": (KLDIS(num_samples=num_samples, sigma=0.025), WIDE),
        "ml-mcmc": (MLMCMC(num_samples=num_samples, langevin_steps=4, langevin_step=0.05), None),
        "dsm": (DSM(num_samples=num_samples, sigma=0.2), None),
        "sm": (SM(), None),
    }
    return made[name]


NAMES = ["nce+", "nce", "ml-is", "kld-is", "ml-mcmc", "dsm", "sm"]


def setup(
    name: str = "nce+",
    num_samples: int = 16,
    epochs: int = 2,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    backend: str = "plain",
) -> Setup:
    """What a run chooses beside its task."""
    trainer = PaperTrainer(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
    return Setup(*method(name, num_samples), trainer, backend=backend)


def task(**settings: Any) -> OneD:
    """128 training points and coarse grids, unless said otherwise."""
    sizes = {"data_seed": 0, "num_train": 128, "num_val": 64, "num_test": 256, "target_noise": 0.0, "grid_points": 257}
    law = {1: Law1, 2: Law2}[settings.pop("dataset", 1)]
    return OneD(
        data=law.model_validate({**sizes, **settings}), model=EBM(), network=Paper(), base=BaseDensity(nodes=512)
    )


_TRAINER = ("num_samples", "epochs", "batch_size", "learning_rate", "backend")


def problem(
    name: str = "nce+",
    seeds: Sequence[int] = (0,),
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **settings: Any,
) -> FitLearner:
    """A learner; settings are those of `setup` and of `task`."""
    chosen = {key: settings.pop(key) for key in _TRAINER if key in settings}
    return FitLearner(task(**settings), setup(name, **chosen), seeds, torch.device(device), dtype=dtype)


def losses(learner: FitLearner, step: int) -> Tensor:
    """The mean loss of each seed in a step."""
    return Training(learner).losses(step)
