"""Object detection: energy-based regression of boxes on top of a frozen Faster R-CNN, `task=detection`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pandas as pd
import torch
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.registry import register
from ebmbench.core.settings import Choice
from ebmbench.display.table import Table
from ebmbench.system import distributed
from ebmbench.system.files import write_atomically
from ebmbench.tasks.base import Learner, Metric, Setup, SweepFigure, Task
from ebmbench.tasks.detection import sweep_figures
from ebmbench.tasks.detection.config import (
    BaseConfig,
    DetectionTrainer,
    HeadConfig,
    ImageData,
    InferenceConfig,
)

if TYPE_CHECKING:
    from ebmbench.tasks.detection.learner import Frozen


@register
class DetectionTask(Task):
    """Object detection: an energy of boxes refines and ranks the boxes of a frozen base detector."""

    name = "detection"
    Trainer = DetectionTrainer
    metrics = (
        Metric("ap", "AP", "higher", "AP after refinement, %", table=True,
               figures=("ranking", "strip", "settings", "pareto")),
        Metric("ap50", "AP50", "higher", tex=r"AP$_{50}$", table=True),
        Metric("ap75", "AP75", "higher", "AP75 after refinement, %", r"AP$_{75}$", True, ("strip",)),
        Metric("ap_small", "AP small", "higher", tex=r"AP$_{\mathrm{S}}$", table=True),
        Metric("ap_medium", "AP medium", "higher", tex=r"AP$_{\mathrm{M}}$", table=True),
        Metric("ap_large", "AP large", "higher", tex=r"AP$_{\mathrm{L}}$", table=True),
        Metric("ar", "AR", "higher", table=True),
        Metric("box_nll", "box NLL", "lower", "box NLL, nats", table=True, figures=("ranking", "strip", "settings")),
        Metric("box_nll_ess", "its effective samples"),
        Metric("base_ap", "base AP", of_model=False),
        Metric("base_ap50", "base AP50", tex=r"base AP$_{50}$", of_model=False),
        Metric("base_ap75", "base AP75", tex=r"base AP$_{75}$", of_model=False),
        Metric("nms_ap", "AP after NMS by f", "higher"),
        Metric("nms_ap75", "AP75 after NMS by f", "higher", tex=r"AP$_{75}$ after NMS by f"),
        Metric("ap_gain", "gain in AP", "higher", "AP gained on the base, points", figures=("ranking",)),
        Metric("ap_gain_low", "gain in AP, low"),
        Metric("ap_gain_high", "gain in AP, high"),
        Metric("ap75_gain", "gain in AP75", "higher", tex=r"gain in AP$_{75}$"),
        Metric("ap75_gain_low", "gain in AP75, low", tex=r"gain in AP$_{75}$, low"),
        Metric("ap75_gain_high", "gain in AP75, high", tex=r"gain in AP$_{75}$, high"),
    )  # fmt: skip
    sweep_figures: ClassVar[tuple[SweepFigure, ...]] = (
        SweepFigure("detection_stages", sweep_figures.stages),
        SweepFigure("detection_sizes", sweep_figures.sizes),
    )
    images = ("boxes", "refinement", "energy")
    processes = True

    data: Annotated[ImageData, Choice("shapes")]
    base: BaseConfig = BaseConfig()
    head: HeadConfig = HeadConfig()
    inference: InferenceConfig = InferenceConfig()

    def identity(self) -> dict[str, Any]:
        """Returns the settings, without what changes no result."""
        identity = super().identity()
        identity["base"].pop("feature_cache_mb", None)
        return identity

    @property
    @override
    def dataset_name(self) -> str:
        return self.data.name

    def learner(self, setup: Setup, seeds: Sequence[int], device: torch.device) -> Learner:
        """Returns the head of one seed; the base detector is loaded, or trained, before the first one."""
        from ebmbench.tasks.detection.learner import DetectionLearner

        if setup.method.memory(DetectionLearner.target_dim):
            raise UserError(
                f"method={setup.method.name} keeps something for each training example between its visits, which "
                "task=detection cannot do for its boxes; choose another method"
            )
        if setup.method.needs_partition:
            raise UserError(
                f"method={setup.method.name} needs the exact partition function, which an energy of boxes does not "
                "have; choose a method that samples, such as nce"
            )
        device = distributed.device_of_rank(device)
        return DetectionLearner(self, setup, _frozen(self, setup.results_dir, device), seeds[0], device)

    @override
    def is_broken(self, scores: Mapping[str, float]) -> bool:
        # Without a true box to score there is neither AP nor NLL, and nothing can be said.
        scored = bool(self.inference.nll_boxes) and math.isfinite(scores["ap"])
        return scored and not math.isfinite(scores["box_nll"])

    @override
    def finish(self, setup: Setup, run_dir: Path, groups: Sequence[Sequence[int]]) -> None:
        for name in ("refinement", "stages"):
            parts = [run_dir / f"{name}.{seed}.csv" for seed in setup.seeds]
            if all(path.exists() for path in parts):
                table = pd.concat([pd.read_csv(path) for path in parts])
                write_atomically(run_dir / f"{name}.csv", table.to_csv(index=False).encode())
                for path in parts:
                    path.unlink()

    @override
    def figures(self, setup: Setup, run_dir: Path) -> list[Path]:
        from ebmbench.tasks.detection.figures import figures

        return figures(self, setup, run_dir)

    @classmethod
    @override
    def sweep_tables(cls, title: str, frame: pd.DataFrame) -> list[Table]:
        return [sweep_figures.stages_table(title, frame)]


@lru_cache(maxsize=1)
def _frozen(task: DetectionTask, results_dir: Path, device: torch.device) -> Frozen:
    """Returns what all seeds and methods of a process share."""
    from ebmbench.tasks.detection.base import base_key, load_base
    from ebmbench.tasks.detection.data import open_split
    from ebmbench.tasks.detection.features import FeatureStore
    from ebmbench.tasks.detection.learner import Frozen

    base = load_base(task, results_dir, device)
    folder = results_dir / "cache" / base_key(task)
    stores = []
    for name in ("train", task.data.eval_split):
        dataset = open_split(task.data, name)
        unknown = [category for category in dataset.categories if category not in base.category_ids]
        if unknown:
            base.labels(torch.tensor(unknown))  # says which one
        stores.append(FeatureStore(base, dataset, folder, task.base.feature_cache_mb))
    return Frozen(*stores)
