"""1D regression on two known laws, the published study: `task=1d`. Models live on y in [-3, 3]."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ebmbench.core.lazy import later
from ebmbench.core.registry import register
from ebmbench.core.settings import Section
from ebmbench.tasks.base import LEAST_GAIN, Metric, Setup, SweepFigure, Task
from ebmbench.tasks.regression.laws import Y_HIGH, Y_LOW, Dataset, Law
from ebmbench.tasks.regression.networks.paper import fused_available

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ebmbench.tasks.regression.one_d_learner import OneDLearner

EDGE_MASS_LIMIT = 0.01
QUADRATURE_LIMIT = 1e-3
PARTITION_NODES = 512
"""Of the quadrature in training, for a method that needs `log Z`: 0.2 % off at the laws' narrowest σ, 0.007."""


@lru_cache(maxsize=1024)
def _floor(law: Law, stds: tuple[float, ...]) -> float:
    """Returns `KL(p ‖ p∗ν)` of a law, a mean over x."""
    import torch

    from ebmbench.tasks.regression.floors import INPUTS, floor

    x = Y_LOW + (Y_HIGH - Y_LOW) * (torch.arange(INPUTS, dtype=torch.float64) + 0.5) / INPUTS
    return floor(law.log_prob, x, stds, 2 * Y_HIGH)


class OneDTrainer(Section):
    """How it is trained. Published: Adam, mini-batches reshuffled every epoch, the last short batch kept."""

    tuning = {"trainer.learning_rate": (1e-4, 1e-2)}  # noqa: RUF012

    epochs: int = Field(75, ge=1, le=1_000_000, description="passes over the training points")
    batch_size: int = Field(32, ge=1, le=1_000_000, description="points of a mini-batch")
    learning_rate: float = Field(1e-3, gt=0, le=10, description="of Adam")
    schedule: Literal["constant", "cosine"] = Field("constant", description="of the learning rate; cosine: down to 0")


@register
class OneD(Task):
    """1D regression, p(y|x) on y in [-3, 3], on one of two laws that are known exactly."""

    name = "1d"
    Trainer = OneDTrainer
    metrics = (
        Metric("d_kl", "D_KL", "lower", "D_KL(true ‖ model), nats", r"$D_{\mathrm{KL}}$", True,
               ("ranking", "strip", "settings", "pareto"), bounds=(0, math.inf), at_least=True),
        Metric("nll", "NLL", "lower", "NLL on held-out points, nats", "", True, ("ranking", "strip", "settings"),
               at_least=True),
        Metric("crps", "CRPS", "lower", "CRPS, units of y", "", True, ("strip",), bounds=(0, math.inf)),
        Metric("coverage_50", "coverage of 50 %", 0.5, "coverage of the 50 % interval", r"coverage of 50\,\%", True,
               bounds=(0, 1)),
        Metric("coverage_90", "coverage of 90 %", 0.9, "coverage of the 90 % interval", r"coverage of 90\,\%", True,
               ("strip",), bounds=(0, 1)),
        Metric("edge_mass", "edge mass", "lower", table=True, bounds=(0, 1)),
        Metric("val_nll", "validation NLL", "lower", at_least=True),
        Metric("nll_error", "quadrature error"),
        Metric("d_kl_noisy", "D_KL to noisy truth", "lower", "D_KL(noisy truth ‖ model), nats",
               r"$D_{\mathrm{KL}}$ to noisy truth", figures=("settings",), only_with="task.target_noise",
               bounds=(0, math.inf), at_least=True),
        Metric("nll_noisy", "NLL of noisy targets", "lower", "NLL on noisy held-out points, nats",
               figures=("settings",), only_with="task.target_noise", at_least=True),
    )  # fmt: skip
    sweep_figures: ClassVar[tuple[SweepFigure, ...]] = (
        SweepFigure("densities", later("ebmbench.tasks.regression.one_d_sweep_figures:densities"), from_runs=True),
        SweepFigure("calibration", later("ebmbench.tasks.regression.one_d_sweep_figures:calibration"), from_runs=True),
    )
    title = "1D, dataset {dataset}"
    starts_with: ClassVar[Mapping[str, str]] = MappingProxyType({"data": "law1"})
    draw_settings = ("task.data_seed",)
    data_settings = ("task.data_seed", "task.num_", "task.target_noise", "task.grid_points")
    selection = "val_nll"

    @override
    def floor(self, blur: Sequence[float] | None) -> float | None:
        return None if blur is None else _floor(Law(self.dataset), tuple(blur))

    uninformed = "no better than the uniform density"
    doubt = "mass near the edge of the grid, or a quadrature error"

    dataset: Literal[1, 2] = Field(1, description="1: two modes left, log-normal right; 2: heteroscedastic Gaussian")
    data_seed: int = Field(0, ge=0, lt=2**31, description="the draw of all points, the same for all seeds and methods")
    num_train: int = Field(2000, ge=1, le=10_000_000, description="training points")
    num_val: int = Field(2000, ge=1, le=10_000_000, description="validation points")
    num_test: int = Field(10000, ge=1, le=10_000_000, description="test points")
    target_noise: float = Field(0.0, ge=0, le=10, description="standard deviation of noise on the training targets")
    grid_points: int = Field(2048, ge=9, le=65_537, description="points on [-3, 3] for D_KL and log Z")

    @property
    @override
    def dataset_name(self) -> str:
        return str(self.dataset)

    @override
    def learner(self, setup: Setup, seeds: Sequence[int], device: torch.device) -> OneDLearner:
        from ebmbench.tasks.regression.one_d_learner import OneDLearner

        return OneDLearner(self, setup, seeds, device)

    @override
    def seed_bytes(self, setup: Setup, device: torch.device) -> int | None:
        from ebmbench.tasks.regression.learner import seed_bytes

        batch = min(setup.trainer.batch_size, self.num_train)
        return seed_bytes(setup.method, batch, PARTITION_NODES, fused_available(setup.backend, device))

    @override
    def cost(self, setup: Setup, device: str, threads: int, measured: Sequence[Path]) -> tuple[float, float] | None:
        from ebmbench.tasks.regression import one_d_cost

        return one_d_cost.cost(self, setup, device, threads, measured)

    @override
    def is_trusted(self, scores: Mapping[str, float]) -> bool:
        good = scores["edge_mass"] <= EDGE_MASS_LIMIT and scores["nll_error"] <= QUADRATURE_LIMIT
        return good and all(map(math.isfinite, scores.values()))

    @override
    def is_uninformed(self, scores: Mapping[str, float]) -> bool:
        return scores["nll"] > math.log(Y_HIGH - Y_LOW) - LEAST_GAIN

    @override
    def finish(self, setup: Setup, run_dir: Path, groups: Sequence[Sequence[int]]) -> None:
        from ebmbench.tasks.regression.one_d_learner import join

        join(run_dir, groups)

    @override
    def figures(self, setup: Setup, run_dir: Path) -> list[Path]:
        from ebmbench.tasks.regression import one_d_figures

        train = Dataset.draw(self).train
        return one_d_figures.figures(setup.method.name, f"1D dataset {self.dataset}", train, run_dir)

    @override
    def predictor(self, setup: Setup, parameters: Mapping[str, Tensor], seed: int, run_dir: Path) -> Any:
        from ebmbench.tasks.regression.one_d_model import IntervalModel

        return IntervalModel(parameters["flat"], seed, self.grid_points)
