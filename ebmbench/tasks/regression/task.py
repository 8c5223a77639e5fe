"""Regression on tables, images and made data: `task=regression`. p(y|x) is a density on all of R^D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from ebmbench.core.registry import register
from ebmbench.core.settings import Choice, Section
from ebmbench.tasks.base import Learner, Metric, Setup, SweepFigure, Task
from ebmbench.tasks.regression.base_density import BaseDensity
from ebmbench.tasks.regression.data.base import Data
from ebmbench.tasks.regression.learner import seed_bytes
from ebmbench.tasks.regression.networks.base import Network


class Trainer(Section):
    """How it is trained: AdamW, an average of the weights, early stopping by the NLL of validation rows."""

    epochs: int = Field(400, ge=1, le=1_000_000, description="passes over the training rows, at most")
    batch_size: int = Field(64, ge=1, le=1_000_000, description="rows of a mini-batch")
    learning_rate: float = Field(2e-3, gt=0, le=10, description="of AdamW")
    weight_decay: float = Field(1e-2, ge=0, le=10, description="of AdamW")
    ema: float = Field(0.99, ge=0, lt=1, description="the average of the weights keeps this much at a step; 0: none")
    patience: int | None = Field(
        50, ge=1, le=1_000_000, description="epochs without a lower validation NLL that end training; null: never"
    )
    gradient_clip: float | None = Field(None, gt=0, description="largest norm of a model's gradient; null: not clipped")


@register
class Regression(Task):
    """Regression on one's own tables and images: p(y|x) with a base density, for targets of one or more numbers."""

    name = "regression"
    Trainer = Trainer
    metrics = (
        Metric("nll", "NLL", "lower", "NLL of test rows, nats", "", True, ("ranking", "strip", "settings", "pareto")),
        Metric("nll_error", "its error"),
        Metric("nll_median", "median NLL", "lower", table=True),
        Metric("nll_mixed", "NLL, 2 % base", "lower", "NLL after mixing in 2 % of the base density, nats", table=True),
        Metric("crps", "CRPS", "lower", "CRPS, units of y", "", True, ("ranking", "strip", "settings")),
        Metric("rmse", "RMSE", "lower", "RMSE of the mean, units of y", "", True, ("strip",)),
        Metric("mae", "MAE", "lower", "MAE of the median, units of y", "", True),
        Metric("coverage_50", "coverage of 50 %", 0.5, "coverage of the 50 % interval", r"coverage of 50\,\%", True),
        Metric("coverage_90", "coverage of 90 %", 0.9, "coverage of the 90 % interval", r"coverage of 90\,\%", True,
               ("strip",)),
        Metric("calibration_error", "calibration error", "lower", table=True),
        Metric("val_nll", "validation NLL", "lower"),
    )  # fmt: skip
    sweep_figures: ClassVar[tuple[SweepFigure, ...]] = ()

    data: Annotated[Data, Choice("diabetes")]
    network: Annotated[Network, Choice("mlp")]
    base: BaseDensity = BaseDensity()

    def identity(self) -> dict[str, Any]:
        """Returns the settings that results depend on; a dataset says its own."""
        return {**super().identity(), "data": self.data.identity()}

    @property
    def dataset_name(self) -> str:
        return self.data.name

    def learner(self, setup: Setup, seeds: Sequence[int], device: torch.device) -> Learner:
        from ebmbench.tasks.regression.fitting import FitLearner

        return FitLearner(self, setup, seeds, device)

    def seed_bytes(self, setup: Setup, device: torch.device) -> int | None:
        return seed_bytes(setup.method, setup.trainer.batch_size, fused=False)

    def is_trusted(self, scores: Mapping[str, float]) -> bool:
        return scores["nll"] == scores["nll"] and scores["nll_error"] <= 0.01

    doubt = "the error of log Z is too large"
