"""Object detection: energy-based regression of boxes on top of a frozen Faster R-CNN, `task=detection`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import torch
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.lazy import later
from ebmbench.core.registry import register
from ebmbench.system import distributed
from ebmbench.tasks.base import LEAST_GAIN, TRUSTED_K, Learner, Metric, Setup, SweepFigure, Task
from ebmbench.tasks.detection.config import DetectionSettings, DetectionTrainer

if TYPE_CHECKING:
    from torch import Tensor

    from ebmbench.display.table import Table
    from ebmbench.tasks.detection.features import Frozen
    from ebmbench.tasks.detection.model import DetectionModel


@register
class DetectionTask(DetectionSettings, Task):
    """Object detection: an energy of boxes refines and ranks the boxes of a frozen base detector."""

    name = "detection"
    Trainer = DetectionTrainer
    metrics = tuple(replace(metric, doubted=metric.name.startswith(("box_nll", "coverage"))) for metric in (
        Metric("ap", "AP", "higher", "AP after refinement, %", table=True,
               figures=("ranking", "strip", "settings", "pareto"), bounds=(0, 100)),
        Metric("ap50", "AP50", "higher", tex=r"AP$_{50}$", table=True, bounds=(0, 100)),
        Metric("ap75", "AP75", "higher", "AP75 after refinement, %", r"AP$_{75}$", True, ("strip",), bounds=(0, 100)),
        Metric("ap_small", "AP small", "higher", tex=r"AP$_{\mathrm{S}}$", table=True, bounds=(0, 100)),
        Metric("ap_medium", "AP medium", "higher", tex=r"AP$_{\mathrm{M}}$", table=True, bounds=(0, 100)),
        Metric("ap_large", "AP large", "higher", tex=r"AP$_{\mathrm{L}}$", table=True, bounds=(0, 100)),
        Metric("ar", "AR", "higher", table=True, bounds=(0, 100)),
        Metric("box_nll", "box NLL", "lower", "box NLL, nats", table=True, figures=("ranking", "strip", "settings"),
               at_least=True),
        Metric("box_nll_spread", "SE of the mean", title="standard error of the mean box NLL, nats"),
        Metric("box_nll_error", "its standard error", "lower", "standard error of a box's NLL, nats", table=True),
        Metric("box_nll_k", "its Pareto k", "lower", "Pareto k of the importance weights, 90 % of boxes", table=True),
        Metric("box_nll_ess", "its effective samples", "higher", "effective samples, 90 % of boxes have more"),
        Metric("box_nll_raw", "box NLL at temperature 1", "lower", "box NLL before calibration, nats"),
        Metric("temperature", "temperature", title="temperature that fits validation boxes"),
        Metric("coverage90", "coverage 90 %", 0.9, "share of sides in their 90 % intervals", table=True, bounds=(0, 1)),
        Metric("coverage50", "coverage 50 %", 0.5, "share of sides in their 50 % intervals", bounds=(0, 1)),
        Metric("coverage90_raw", "coverage 90 %, uncalibrated", 0.9, bounds=(0, 1)),
        Metric("coverage50_raw", "coverage 50 %, uncalibrated", 0.5, bounds=(0, 1)),
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
        Metric("mean_ap_gain", "mean gain in AP", "higher", "gain in AP, mean of the seeds", of_model=False),
        Metric("mean_ap_gain_low", "mean gain in AP, low", of_model=False),
        Metric("mean_ap_gain_high", "mean gain in AP, high", of_model=False),
        Metric("mean_ap75_gain", "mean gain in AP75", "higher", "gain in AP75, mean of the seeds", of_model=False),
        Metric("mean_ap75_gain_low", "mean gain in AP75, low", of_model=False),
        Metric("mean_ap75_gain_high", "mean gain in AP75, high", of_model=False),
        Metric("accepted", "accepted", "higher", "1: the head gains on the validation split; 0: undecided; -1: worse"),
        Metric("val_ap", "validation AP", "higher", "AP of the head's boxes on the validation split, %"),
        Metric("val_gain", "gain in AP, validation"),
        Metric("val_gain_low", "gain in AP, validation, low"),
        Metric("val_gain_high", "gain in AP, validation, high"),
        Metric("head_ap", "AP of the head", "higher", "AP of the head's boxes, accepted or not, %"),
        Metric("head_gain", "gain of the head", "higher", "gain in AP of the head's boxes, accepted or not"),
        Metric("head_gain_low", "gain of the head, low"),
        Metric("head_gain_high", "gain of the head, high"),
        Metric("other_ap", "AP, other order", "higher", "AP of the head's boxes with NMS in the other order, %"),
        Metric("other_gain", "gain in AP, other order", "higher"),
        Metric("other_gain_low", "gain in AP, other order, low"),
        Metric("other_gain_high", "gain in AP, other order, high"),
        Metric("other_accepted", "accepted, other order", "higher"),
    ))  # fmt: skip
    sweep_figures: ClassVar[tuple[SweepFigure, ...]] = (
        SweepFigure("detection_stages", later("ebmbench.tasks.detection.sweep_figures:stages")),
        SweepFigure("detection_sizes", later("ebmbench.tasks.detection.sweep_figures:sizes")),
        SweepFigure("detection_gains", later("ebmbench.tasks.detection.sweep_figures:gains"), from_runs=True),
        SweepFigure("detection_pairs", later("ebmbench.tasks.detection.sweep_figures:pairs"), from_runs=True),
        SweepFigure("detection_images", later("ebmbench.tasks.detection.sweep_figures:images")),
    )
    images = ("boxes", "refinement", "heat")
    selection = "val_ap"
    draw_settings, draw_of = ("task.base.seed",), "base detector"
    data_settings = ("data.", "task.base.")
    tuning = {  # noqa: RUF012
        "task.head.activation": ["relu", "silu"],
        "task.inference.step_centre": (2.5e-5, 3e-2),
        "task.inference.step_size": (2.5e-5, 3e-2),
        "proposal.stds": [[0.0375, 0.075, 0.15], [0.075, 0.15, 0.3]],
    }
    processes = True
    can_skip_intervals = True

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
    def assist(self, device: torch.device) -> None:
        from ebmbench.tasks.detection.base_training import assist_base
        from ebmbench.tasks.detection.data import open_split

        assist_base(self, open_split(self.data.of_base(), "train"), device)

    @override
    def is_trusted(self, scores: Mapping[str, float]) -> bool:
        from ebmbench.boxes.nll import LEAST_ESS

        known = scores["box_nll_k"] <= TRUSTED_K and scores["box_nll_ess"] >= LEAST_ESS
        return math.isfinite(scores["ap"]) and (known or not self.inference.nll_boxes)

    @override
    def is_uninformed(self, scores: Mapping[str, float]) -> bool:
        from ebmbench.boxes.nll import UNIFORM_NLL

        return scores["box_nll"] > UNIFORM_NLL - LEAST_GAIN

    uninformed = "the box NLL is no better than that of a uniform density"
    doubt = "AP is not finite, or log Z of too many boxes is not known: their effective samples, or Pareto's k"

    @override
    def finish(self, setup: Setup, run_dir: Path, groups: Sequence[Sequence[int]]) -> Mapping[str, float]:
        from ebmbench.tasks.detection.records import join

        return join(run_dir, setup.seeds, self.inference)

    @override
    def figures(self, setup: Setup, run_dir: Path) -> list[Path]:
        from ebmbench.tasks.detection.figures import figures

        return figures(self, setup, run_dir)

    @override
    def predictor(self, setup: Setup, parameters: Mapping[str, Tensor], seed: int, run_dir: Path) -> DetectionModel:
        from ebmbench.tasks.detection.model import DetectionModel

        return DetectionModel.read(self, parameters, seed, run_dir)

    @override
    def predict_files(
        self, models: Mapping[int, Any], files: Sequence[Path], out: Path, level: float, **given: Any
    ) -> None:
        """Writes the objects in images, and pictures beside them; `files` are images, or folders of them.

        Args:
            level: of the intervals; 0: without them.
        """
        from ebmbench.tasks.detection.output import predict_files

        predict_files(models, files, out, level or None)

    @classmethod
    @override
    def sweep_tables(cls, title: str, frame: pd.DataFrame) -> list[Table]:
        from ebmbench.tasks.detection import sweep_figures

        return [sweep_figures.stages_table(title, frame)]


@lru_cache(maxsize=1)
def _frozen(task: DetectionTask, results_dir: Path, device: torch.device) -> Frozen:
    """Returns what all seeds and methods of a process share."""
    from ebmbench.tasks.detection.base import base_key, load_base
    from ebmbench.tasks.detection.data import open_split
    from ebmbench.tasks.detection.features import FeatureStore, Frozen

    judges = task.inference.accept or task.data.has("val")
    names = list(dict.fromkeys(("train", task.data.eval_split, *(("val",) if judges else ()))))
    datasets = [open_split(task.data, name) for name in names]
    first = datasets[0].categories
    for name, dataset in zip(names, datasets, strict=True):
        for number, called in dataset.categories.items():
            if number not in first:
                raise UserError(
                    f"class {called!r} of the {name} split of data.name={task.data.name} is not in the training "
                    "split: nothing can learn it"
                )
            if first[number] != called:
                raise UserError(
                    f"category {number} is {first[number]!r} in the training split and {called!r} in the {name} split "
                    f"of data.name={task.data.name}; give a class the same id in all splits"
                )
    base = load_base(task, results_dir, device)
    folder = results_dir / "cache" / base_key(task)
    stores = {}
    for name, dataset in zip(names, datasets, strict=True):
        unknown = [category for category in dataset.categories if category not in base.category_ids]
        if unknown:
            base.labels(torch.tensor(unknown))  # says which one
        stores[name] = FeatureStore(base, dataset, folder, task.base.feature_cache_mb)
    return Frozen(stores["train"], stores[task.data.eval_split], stores.get("val"))
