"""Small learners of task=1d."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ebmbench.config.compose import compose
from ebmbench.engine.train import Training
from ebmbench.tasks.regression.learner import RegressionLearner


def one_d(*overrides: str, seeds: str = "2") -> RegressionLearner:
    words = ["task=1d", "+experiment=smoke", "data.num_train=96", f"seeds={seeds}", "device=cpu", *overrides]
    config = compose(words)
    learner = config.task.learner(config.setup, config.seeds, torch.device("cpu"))
    assert isinstance(learner, RegressionLearner)
    return learner


def after_steps(learner: RegressionLearner, steps: int = 3) -> Mapping[str, Tensor]:
    training = Training(learner)
    for _ in range(steps):
        training.step()
    return {name: p.detach() for name, p in learner.parameters.items()}
