"""Regression on tables, images and made data: `task=regression`; and the published study of it in 1D: `task=1d`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import counted
from ebmbench.core.lazy import later
from ebmbench.core.plugins import package_version
from ebmbench.core.registry import register
from ebmbench.core.settings import Choice, Section
from ebmbench.methods.base import default_method
from ebmbench.models.base import DensityModel, Model
from ebmbench.models.networks.base import Network
from ebmbench.models.outside import Outside
from ebmbench.supports.measure import BaseDensity
from ebmbench.tasks.base import LEAST_GAIN, Learner, Metric, Setup, SweepFigure, Task
from ebmbench.tasks.regression.data.base import Data
from ebmbench.tasks.regression.data.front import Front
from ebmbench.tasks.regression.data.paper import PaperData

if TYPE_CHECKING:
    import torch
    from torch import Tensor

QUADRATURE_LIMIT, SAMPLING_LIMIT = 0.01, 0.05
"""The error of a mean NLL or D_KL, in nats, beyond which it is unreliable: by quadrature, by annealed draws.

It is the same for good and bad models. An unreliable one is a lower bound.
"""
EDGE_MASS_LIMIT, PAPER_QUADRATURE_LIMIT = 0.01, 1e-3
"""The mass near the ends of the interval, and the error of a mean NLL, beyond which a run of task=1d is unreliable."""


class Trainer(Section):
    """How it is trained: AdamW, an average of the weights, early stopping by validation rows."""

    tuning = {"trainer.learning_rate": (5e-4, 1e-2), "trainer.weight_decay": (1e-4, 1.0)}  # noqa: RUF012

    epochs: int = Field(400, ge=1, le=1_000_000, description="passes over the training rows, at most")
    batch_size: int = Field(64, ge=1, le=1_000_000, description="rows of a mini-batch")
    learning_rate: float = Field(2e-3, gt=0, le=10, description="of AdamW")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="of the learning rate; cosine: down to 0 at the last epoch"
    )
    weight_decay: float = Field(1e-2, ge=0, le=10, description="of AdamW")
    ema: float = Field(0.99, ge=0, lt=1, description="the average of the weights keeps this much at a step; 0: none")
    patience: int | None = Field(
        50,
        ge=1,
        le=1_000_000,
        description="epochs without a lower validation score after which the learning rate drops, or training ends if "
        "no drop is left; null: never; at 50, at most 4000 steps",
    )
    drops: int = Field(
        2,
        ge=0,
        le=10,
        description="how often a model whose patience is over goes back to its best weights, to train on with a fifth "
        "of the learning rate and half the patience",
    )
    select: Literal["exact", "own"] = Field(
        "exact",
        description="what early stopping looks at on validation rows: exact, the NLL, with a log Z that most methods "
        "exist to do without; own, the method's own loss",
    )
    gradient_clip: float | None = Field(None, gt=0, description="largest norm of a model's gradient; null: not clipped")


@register
class Regression(Task):
    """Regression on one's own tables and images: p(y|x) with a base density, for targets of one or more numbers."""

    name = "regression"
    Trainer = Trainer
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("nll", "NLL", "lower", "NLL of test rows, nats", "", True, ("ranking", "strip", "settings", "pareto"),
               at_least=True),
        Metric("d_kl", "D_KL", "lower", "D_KL(true ‖ model), nats", r"$D_{\mathrm{KL}}$", True,
               ("ranking", "strip", "settings", "pareto"), bounds=(0, math.inf), at_least=True),
        Metric("nll_median", "median NLL", "lower", "median NLL of test rows, nats", "", True, at_least=True),
        Metric("nll_mixed", "NLL, 2 % base", "lower", "NLL after mixing in 2 % of the base density, nats",
               r"NLL, 2\,\% base", True, at_least=True),
        Metric("crps", "CRPS", "lower", "CRPS, units of y", "", True, ("ranking", "strip", "settings"),
               bounds=(0, math.inf)),
        Metric("energy_score", "energy score", "lower", "energy score, units of y", "", True,
               ("ranking", "strip", "settings")),
        Metric("rmse", "RMSE", "lower", "RMSE of the mean, units of y", "", True, ("strip",), bounds=(0, math.inf)),
        Metric("mae", "MAE", "lower", "MAE of the median, units of y", "", True),
        Metric("coverage_50", "coverage of 50 %", 0.5, "coverage of the 50 % interval", r"coverage of 50\,\%", True,
               bounds=(0, 1)),
        Metric("interval_score", "interval score", "lower", "score of the 90 % interval, units of y", "", True,
               bounds=(0, math.inf)),
        Metric("pinball", "pinball loss", "lower", "mean pinball loss, units of y", bounds=(0, math.inf)),
        Metric("brier", "Brier score", "lower", "Brier score of the atoms", "", True, bounds=(0, 2)),
        Metric("cde_loss", "CDE loss", "lower", "CDE loss, 1 / units of y"),
        Metric("qice", "QICE", "lower", "QICE: shares of tenths from 0.1", bounds=(0, 1)),
        Metric("mass_outside", "mass outside", "lower", "mass beyond the training targets' range and a tenth of it", "",
               True, bounds=(0, 1)),
        Metric("outside_rows", "rows with mass outside", "lower", "test rows with over 1 % of their mass outside", "",
               True),
        Metric("coverage_90", "coverage of 90 %", 0.9, "coverage of the 90 % interval", r"coverage of 90\,\%", True,
               ("strip",), bounds=(0, 1)),
        Metric("width_90", "width of 90 %", "lower", "mean width of the 90 % interval, units of y", r"width of 90\,\%",
               True, bounds=(0, math.inf)),
        Metric("calibrated_coverage_90", "calibrated coverage of 90 %", 0.9, "coverage of the calibrated 90 % interval",
               r"calibrated coverage of 90\,\%", True, bounds=(0, 1)),
        Metric("calibrated_width_90", "calibrated width of 90 %", "lower",
               "mean width of the calibrated 90 % interval, units of y", r"calibrated width of 90\,\%", True,
               bounds=(0, math.inf)),
        Metric("calibrated_region_90", "calibrated region of 90 %", 0.9, "coverage of the calibrated 90 % region",
               r"calibrated region of 90\,\%", True, bounds=(0, 1)),
        Metric("calibration_error", "calibration error", "lower", "mean distance of coverage from its level", "", True),
        Metric("ensemble_nll", "ensemble NLL", "lower", "NLL of the mixture of the seeds, nats", "", True,
               of_model=False),
        Metric("ensemble_crps", "ensemble CRPS", "lower", "CRPS of the mixture of the seeds", "", True, of_model=False),
        Metric("ensemble_energy_score", "ensemble energy score", "lower", of_model=False),
        Metric("ensemble_rmse", "ensemble RMSE", "lower", "RMSE of the seeds' mean", "", True, of_model=False),
        Metric("ensemble_interval_score", "ensemble interval score", "lower", of_model=False),
        Metric("ensemble_mae", "ensemble MAE", "lower", of_model=False),
        Metric("ensemble_nll_median", "ensemble median NLL", "lower", of_model=False),
        Metric("ensemble_nll_mixed", "ensemble NLL, 2 % base", "lower", of_model=False),
        Metric("ensemble_coverage_50", "ensemble coverage of 50 %", 0.5, of_model=False),
        Metric("ensemble_coverage_90", "ensemble coverage of 90 %", 0.9, of_model=False),
        Metric("ensemble_qice", "ensemble QICE", "lower", of_model=False),
        Metric("ensemble_calibration_error", "ensemble calibration error", "lower", of_model=False),
        Metric("val_nll", "validation NLL", "lower", at_least=True),
        Metric("nll_error", "error of the mean log Z"),
        Metric("nll_true", "NLL of the truth", of_model=False),
        Metric("nll_base", "NLL of the base density", of_model=False),
        Metric("d_kl_error", "error of D_KL"),
        Metric("best_epoch", "best epoch", of_training=True),
        Metric("edge_mass", "edge mass", "lower", bounds=(0, 1)),
        Metric("d_kl_noisy", "D_KL to noisy truth", "lower", "D_KL(noisy truth ‖ model), nats",
               r"$D_{\mathrm{KL}}$ to noisy truth", figures=("settings",), only_with="data.target_noise",
               bounds=(0, math.inf), at_least=True),
        Metric("nll_noisy", "NLL of noisy targets", "lower", "NLL on noisy held-out points, nats",
               figures=("settings",), only_with="data.target_noise", at_least=True),
    )  # fmt: skip
    sweep_figures: ClassVar[tuple[SweepFigure, ...]] = (
        SweepFigure("densities", later("ebmbench.tasks.regression.sweep_figures:densities"), from_runs=True),
        SweepFigure("calibration", later("ebmbench.tasks.regression.sweep_figures:calibration"), from_runs=True),
    )
    one_unit = False
    draw_settings: ClassVar[tuple[str, ...]] = ("data.split", "data.split_seed", "data.data_seed")
    images: ClassVar[tuple[str, ...]] = ("predictions", "calibration")
    selection = "val_nll"
    # The widest component is as wide as the base density: where no sample comes, nothing holds f down.
    tuning = {  # noqa: RUF012
        "proposal.stds": [[0.01, 0.1, 0.8, 3.0], [0.05, 0.2, 0.8, 3.0], [0.1, 0.5, 3.0]]
    }

    data: Annotated[Data, Choice("diabetes")]
    model: Annotated[Model, Choice("ebm")]
    network: Annotated[Network | None, Choice("mlp")] = None
    base: BaseDensity = BaseDensity()
    standardize: bool = Field(True, description="whether networks see inputs and targets in standard deviations")
    calibrate: Literal[True] | None = Field(
        None, description="whether half of the validation rows are held back, for intervals and regions that cover y"
    )

    front: Front = Field(
        "none",
        description="boosted: what boosted trees predict of a row is one more input beside its columns (out of fold "
        "for training rows); auto: where they predict well enough; none: the columns alone",
    )

    def identity(self) -> dict[str, Any]:
        """Returns the settings that results depend on; a dataset says its own."""
        found = {**super().identity(), "data": self.data.identity()}
        if self.front == "none":
            del found["front"]
            return found
        return {**found, "front_version": package_version("scikit-learn")}

    @property
    @override
    def dataset_name(self) -> str:
        return self.data.label

    @property
    @override
    def model_name(self) -> str:
        return "" if self.model.uses_method else self.model.name

    @classmethod
    @override
    def default_method(cls) -> str:
        return default_method(1)

    @override
    def method_for(self, default: str) -> str:
        several = default == self.default_method() and self.data.num_targets > 1
        return default_method(self.data.num_targets) if several else default

    @property
    @override
    def trains_in_steps(self) -> bool:
        return self.model.trains_in_steps

    @property
    def stackable(self) -> Network | DensityModel | Outside:
        """What makes the models of several seeds: the network of an energy, or the model itself."""
        chosen = self.network or self.model
        assert isinstance(chosen, Network | DensityModel | Outside)
        return chosen

    @override
    def learner(self, setup: Setup, seeds: Sequence[int], device: torch.device) -> Learner:
        from ebmbench.tasks.regression.outside import learner

        return learner(self, setup, seeds, device)

    @override
    def seed_bytes(self, setup: Setup, device: torch.device) -> int | None:
        if not self.trains_in_steps:
            return None
        from ebmbench.tasks.regression.learner import seed_bytes

        fused = self.network is not None and self.network.is_fused(setup.backend, device)
        return seed_bytes(setup.method, setup.trainer.batch_size, self.base.nodes, fused)

    @override
    def is_trusted(self, scores: Mapping[str, float]) -> bool:
        if "d_kl_error" in scores:
            return scores["d_kl_error"] <= SAMPLING_LIMIT
        limit = QUADRATURE_LIMIT if "crps" in scores else SAMPLING_LIMIT
        return math.isfinite(scores["nll"]) and scores["nll_error"] <= limit

    @override
    def is_uninformed(self, scores: Mapping[str, float]) -> bool:
        return scores["nll"] > scores["nll_base"] - LEAST_GAIN

    @override
    def remarks(self, scores: Mapping[str, float]) -> list[str]:
        rows = int(scores.get("outside_rows", 0))
        if not rows:
            return []
        return [
            f"{counted(rows, 'test row has', 'test rows have')} more than 1 % of the density beyond the range of the "
            "training targets, widened by a tenth"
        ]

    uninformed = "no better than the base density"
    doubt = "the error of log Z is too large"

    @override
    def finish(self, setup: Setup, run_dir: Path, groups: Sequence[Sequence[int]]) -> Mapping[str, float]:
        from ebmbench.tasks.regression import records

        return records.join(run_dir, groups)

    @override
    def figures(self, setup: Setup, run_dir: Path) -> list[Path]:
        from ebmbench.tasks.regression.figures import figures

        return figures(self.model_name or setup.method.name, self.dataset_name, run_dir)

    @override
    def predictor(self, setup: Setup, parameters: Mapping[str, Tensor], seed: int, run_dir: Path) -> Any:
        from ebmbench.tasks.regression.model import RegressionModel

        return RegressionModel.read(self.stackable, self.base, parameters, seed, run_dir, setup.backend)

    @override
    def predict_files(
        self, models: Mapping[int, Any], files: Sequence[Path], out: Path, level: float, **given: Any
    ) -> None:
        from ebmbench.tasks.regression.prediction import predict_tables

        predict_tables(models, files, out, level)


@lru_cache(maxsize=1024)
def _floor(law: Any, stds: tuple[float, ...]) -> float:
    """Returns `KL(p ‖ p∗ν)` of a law of the 1D study, a mean over x."""
    import torch

    from ebmbench.tasks.regression.data.paper import HIGH, LOW
    from ebmbench.tasks.regression.floors import INPUTS, floor

    x = LOW + (HIGH - LOW) * (torch.arange(INPUTS, dtype=torch.float64) + 0.5) / INPUTS
    return floor(lambda x, y: law.log_prob(x, y.view(1, -1, 1)), x, stds, 2 * HIGH)


class PaperTrainer(Trainer):
    """How it is trained. Published: Adam, mini-batches reshuffled every epoch, the last short batch kept."""

    tuning = {"trainer.learning_rate": (1e-4, 1e-2)}  # noqa: RUF012

    epochs: int = Field(75, ge=1, le=1_000_000, description="passes over the training points")
    batch_size: int = Field(32, ge=1, le=1_000_000, description="points of a mini-batch")
    learning_rate: float = Field(1e-3, gt=0, le=10, description="of Adam")
    weight_decay: float = Field(0.0, ge=0, le=10, description="of AdamW; 0: Adam")
    ema: float = Field(0.0, ge=0, lt=1, description="the average of the weights keeps this much at a step; 0: none")
    patience: int | None = Field(None, ge=1, le=1_000_000, description="as of task=regression; null: no early stopping")


FIGURES: dict[str, tuple[str, ...]] = {
    "d_kl": ("ranking", "strip", "settings", "pareto"),
    "nll": ("ranking", "strip", "settings"),
    "crps": ("strip",),
    "coverage_90": ("strip",),
    "d_kl_noisy": ("settings",),
    "nll_noisy": ("settings",),
}
"""Figures of the 1D study, by metric."""
SHOWN = ("d_kl", "nll", "crps", "coverage_50", "coverage_90", "edge_mass")


@register
class OneD(Regression):
    """Regression as the published 1D study has it: one of two known laws, y in [-3, 3], D_KL on a grid first."""

    name = "1d"
    Trainer = PaperTrainer
    title = "1D, dataset {dataset}"
    draw_settings = ("data.data_seed",)
    metrics = tuple(
        replace(metric, table=metric.name in SHOWN, figures=FIGURES.get(metric.name, ()))
        for metric in sorted(Regression.metrics, key=lambda m: (*SHOWN, m.name).index(m.name))
    )
    one_unit = True
    images = ()
    tuning = {}  # noqa: RUF012
    uninformed = "no better than the uniform density"
    doubt = "mass near the edge of the grid, or a quadrature error"

    data: Annotated[PaperData, Choice("law1")]
    network: Annotated[Network | None, Choice("paper")] = None
    base: BaseDensity = BaseDensity(nodes=512)
    standardize: bool = Field(False, description="whether networks see inputs and targets in standard deviations")
    front: Literal["none"] = Field("none", description="as published: the input alone")

    @classmethod
    @override
    def default_method(cls) -> str:
        return default_method(None)

    @override
    def cost(self, setup: Setup, device: str, threads: int, measured: Sequence[Path]) -> tuple[float, float] | None:
        from ebmbench.tasks.regression.cost import cost

        return cost(self, setup, device, threads, measured)

    @override
    def floor(self, blur: Sequence[float] | None) -> float | None:
        law = getattr(self.data, "paper_law", None)
        return None if blur is None or law is None else _floor(law, tuple(blur))

    @override
    def is_trusted(self, scores: Mapping[str, float]) -> bool:
        precise = max(scores["nll_error"], scores["d_kl_error"]) <= PAPER_QUADRATURE_LIMIT
        return precise and scores["edge_mass"] <= EDGE_MASS_LIMIT and all(map(math.isfinite, scores.values()))
