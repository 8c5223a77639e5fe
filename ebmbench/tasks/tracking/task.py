"""Visual tracking: an energy of boxes refines the boxes of a coarse tracker, `task=tracking`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.lazy import later
from ebmbench.core.registry import register
from ebmbench.core.settings import Choice
from ebmbench.tasks.base import Learner, Metric, Setup, SweepFigure, Task
from ebmbench.tasks.tracking.coarse import identity_of
from ebmbench.tasks.tracking.config import ModelConfig, RefinementConfig, ScoreConfig, TrackingTrainer
from ebmbench.tasks.tracking.data import MADE, VideoData

if TYPE_CHECKING:
    from torch import Tensor

    from ebmbench.tasks.tracking.prediction import TrackingModel

PERCENT = (0.0, 100.0)
_SET = (
    Metric("gain", "gain in AUC", "higher", "AUC gained on the coarse tracker, points", table=True,
           figures=("ranking", "strip", "settings", "pareto")),
    Metric("gain_low", "gain in AUC, low"),
    Metric("gain_high", "gain in AUC, high"),
    Metric("auc", "AUC", "higher", "AUC of the success plot, %", table=True, figures=("strip",), bounds=PERCENT),
    Metric("coarse_auc", "coarse AUC", of_model=False, table=True, bounds=PERCENT),
    Metric("precision", "precision", "higher", "precision at 20 pixels, %", table=True, bounds=PERCENT),
    Metric("norm_precision", "norm. precision at 0.2", "higher", table=True, bounds=PERCENT),
    Metric("norm_precision_mean", "norm. precision, mean to 0.5", "higher", table=True, bounds=PERCENT),
    Metric("ao", "AO", "higher", "average overlap, %", table=True, bounds=PERCENT),
    Metric("sr50", "SR 0.5", "higher", table=True, bounds=PERCENT),
    Metric("sr75", "SR 0.75", "higher", table=True, bounds=PERCENT),
    Metric("accepted", "accepted", "higher", "whether the refined boxes gain on the validation videos", table=True),
    Metric("val_gain", "gain in AUC, validation", "higher"),
    Metric("val_gain_low", "gain in AUC, validation, low"),
    Metric("val_gain_high", "gain in AUC, validation, high"),
    Metric("head_gain", "gain of the model", "higher", "gain in AUC, accepted or not", table=True),
    Metric("head_gain_low", "gain of the model, low"),
    Metric("head_gain_high", "gain of the model, high"),
    Metric("noise_auc", "AUC of noisy boxes", of_model=False, bounds=PERCENT),
    Metric("noise_gain", "gain on noisy boxes", "higher", "gain in AUC on the true boxes with noise", table=True),
    Metric("coverage", "coverage", "higher", "true sides in their intervals, %", table=True, bounds=PERCENT),
    Metric("mean_gain", "mean gain", "higher", "gain of the model, mean of the seeds", of_model=False),
    Metric("mean_gain_low", "mean gain, low", of_model=False),
    Metric("mean_gain_high", "mean gain, high", of_model=False),
    Metric("sequences", "sequences", of_model=False),
)  # fmt: skip
"""Of a set of sequences: the folder's, if there is one, and the made videos'."""


@register
class TrackingTask(Task):
    """Visual tracking: an energy of boxes, given the target's first look, refines the boxes of a coarse tracker."""

    name = "tracking"
    Trainer = TrackingTrainer
    metrics = tuple(replace(metric, doubted=False) for metric in (
        *_SET,
        *(replace(one, name=f"{MADE}_{one.name}", label=f"{one.label}, made", title="", table=one.name == "gain",
                  figures=("ranking",) if one.name == "gain" else ()) for one in _SET),
        Metric("step_length", "step length", title="first step length that validation chose"),
        Metric("temperature", "temperature"),
    ))  # fmt: skip
    title = "Tracking, {dataset}"
    sweep_figures: ClassVar[tuple[SweepFigure, ...]] = (
        SweepFigure("tracking_sequences", later("ebmbench.tasks.tracking.figures:sequences"), from_runs=True),
    )
    images = ("frames", "curves", "training")
    selection = "val_gain"
    takes_box = True
    draw_settings, draw_of = ("data.data_seed",), "training videos"
    data_settings = ("data.", "task.coarse", "task.score.count_first")

    data: Annotated[VideoData, Choice("videos")]
    coarse: str = Field(
        "csrt", min_length=1, description="csrt (OpenCV's), noise (the true boxes with noise), or a folder of SEQ.txt"
    )
    model: ModelConfig = ModelConfig()
    refinement: RefinementConfig = RefinementConfig()
    score: ScoreConfig = ScoreConfig()

    def identity(self) -> dict[str, Any]:
        """Returns the settings, with what the coarse tracks depend on."""
        parts = {"data": self.data.identity(), "model": self.model.identity(), "coarse": identity_of(self.coarse)}
        return {**super().identity(), **parts}

    @property
    @override
    def dataset_name(self) -> str:
        return self.data.name

    def learner(self, setup: Setup, seeds: Sequence[int], device: torch.device) -> Learner:
        """Returns the network of one seed."""
        from ebmbench.tasks.tracking.learner import TrackingLearner

        for needed, why in (
            (setup.method.memory(4), "keeps something for each training example between its visits"),
            (setup.method.needs_partition, "needs the exact partition function"),
        ):
            if needed:
                raise UserError(
                    f"method={setup.method.name} {why}, which task=tracking does not offer; choose another, such as nce"
                )
        return TrackingLearner(self, setup, seeds[0], device)

    @override
    def finish(self, setup: Setup, run_dir: Path, groups: Sequence[Sequence[int]]) -> Mapping[str, float]:
        from ebmbench.tasks.tracking.evaluation import join

        return join(run_dir, setup.seeds, self.score.bootstrap)

    @override
    def figures(self, setup: Setup, run_dir: Path) -> list[Path]:
        from ebmbench.tasks.tracking.figures import figures

        return figures(self, setup, run_dir)

    @override
    def predictor(self, setup: Setup, parameters: Mapping[str, Tensor], seed: int, run_dir: Path) -> TrackingModel:
        from ebmbench.tasks.tracking.prediction import TrackingModel

        return TrackingModel.read(self, parameters, seed, run_dir)

    @override
    def predict_files(
        self, models: Mapping[int, Any], files: Sequence[Path], out: Path, level: float, **given: Any
    ) -> None:
        """Writes the track of a video as CSV, and the video with its boxes."""
        from ebmbench.tasks.tracking.prediction import predict_files

        predict_files(models, files, out, level, **given)
