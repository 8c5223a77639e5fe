"""The settings of object detection, typed and range-checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ebmbench.core.settings import Choice, Section
from ebmbench.tasks.detection.data import ImageData, fingerprint_of


class BaseConfig(Section):
    """The frozen detector below the head. It is trained or loaded once, and shared by all methods and seeds."""

    architecture: str = Field(
        "small",
        pattern=r"^(small|resnet50|resnet50_v2|retinanet|fcos|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="small (1.9 M parameters, for the CPU); torchvision's over a ResNet-50: resnet50, resnet50_v2 "
        "(Faster R-CNN), retinanet, fcos; or MODULE:CLASS, an Architecture of your own",
    )
    weights: str = Field(
        "train", min_length=1, description="train (on this dataset), coco, none (random), or the path of a checkpoint"
    )
    start: str | None = Field(
        None,
        min_length=1,
        description="for weights=train: what training starts from: coco; the path of a checkpoint of the architecture, "
        "with any classes (the predictor is new where they differ); or of its ResNet alone, such as ImageNet's; null: "
        "random weights",
    )
    augment: Literal["none", "v2"] = Field(
        "none", description="v2: torchvision's photometric distortion, zooming out and crops around boxes"
    )
    flips: bool = Field(True, description="half of the images are flipped; false for text and other things with a left")
    iterations: int = Field(90_000, ge=1, le=10_000_000, description="this and the rest: for weights=train")
    batch_size: int = Field(8, ge=1, le=1024, description="images")
    learning_rate: float = Field(2e-4, gt=0, le=1, description="of AdamW: linear warm-up, cosine to zero")
    weight_decay: float = Field(0.01, ge=0, le=1)
    warmup: int = Field(100, ge=0, le=1_000_000, description="iterations")
    patience: int | None = Field(
        None,
        ge=1,
        description="tenths of the iterations without a higher AP on the validation split after which training ends; "
        "the best weights are kept. null: all iterations",
    )
    seed: int = Field(0, ge=0, lt=2**31)
    feature_cache_mb: int = Field(
        0, ge=0, le=1_000_000, description="memory for the frozen features of training images; 0: none is kept"
    )

    @model_validator(mode="after")
    def _can_train(self) -> BaseConfig:
        if self.weights == "train" and self.start is None and self.architecture in FROZEN_NORM:
            raise ValueError(
                f"task.base.architecture={self.architecture} has a frozen batch norm, with which random weights do not "
                "learn: give task.base.start=coco or a file of weights, or task.base.architecture=small or resnet50_v2"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Returns the settings, without what changes no result, and with hashes of files of weights."""
        found = {key: value for key, value in super().identity().items() if key != "feature_cache_mb"}
        for key in ("weights", "start"):
            value = found.get(key)
            if value is not None and value not in WEIGHTS and Path(value).expanduser().is_file():
                found[key] = fingerprint_of(Path(value).expanduser())
        return found


FROZEN_NORM = ("resnet50", "retinanet", "fcos")
"""Architectures whose batch norm stays as it is at the start."""
WEIGHTS = ("train", "coco", "none")
"""What `task.base.weights` may be beside a path."""


class HeadConfig(Section):
    """The network f(x, y): the pooled features of a box through two hidden layers to one value per class."""

    activation: Literal["relu", "softplus", "silu", "gelu", "tanh"] = Field(
        "relu", description="all but relu are smooth, which matters to methods that take derivatives in y"
    )
    from_base: bool = Field(True, description="the hidden layers start from the base detector's box head")
    frozen: bool = Field(False, description="the hidden layers stay as they start; the last one alone learns")
    keep_level: bool = Field(
        True, description="a moved box is pooled from the pyramid level of the box it was made from: f has no jumps"
    )


class InferenceConfig(Section):
    """From candidates to detections: NMS in the order of f, then gradient ascent on f."""

    nms_order: Literal["f", "score"] = Field("f", description="what NMS goes by: f, or the base's class score")
    other_order: bool = Field(False, description="score NMS in the other order, too: other_ap, other_gain")
    accept: bool = Field(
        True, description="report the base's boxes where the gain on the validation split may be nothing or a loss"
    )

    folds: int = Field(
        0,
        ge=0,
        le=20,
        description="K above 1: all training images decide in the place of the validation split. K heads (and K base "
        "detectors, where the base was trained on them) are each trained without a part of them, and find its boxes",
    )
    score_threshold: float = Field(0.05, ge=0, lt=1)
    nms_threshold: float = Field(0.5, gt=0, le=1)
    max_detections: int = Field(100, ge=1, le=10_000)
    steps: int = Field(10, ge=0, le=10_000, description="steps of gradient ascent on f")
    step_centre: float = Field(4e-4, gt=0, le=10, description="first step length of the centre, relative to the box")
    step_size: float = Field(1.6e-3, gt=0, le=10, description="first step length of log width and height")
    bootstrap: int = Field(1000, ge=0, le=1_000_000, description="resamples of the images, for the gain's interval")
    nll_boxes: int = Field(64, ge=0, le=10_000_000, description="true boxes whose NLL is taken: the split's first")
    nll_samples: int = Field(
        512, ge=1, le=1_048_576, description="importance samples for the log Z of each; more where that is too few"
    )

    @model_validator(mode="after")
    def _can_decide(self) -> InferenceConfig:
        if self.folds == 1:
            raise ValueError("task.inference.folds=1 leaves nothing to train on: 0, or 2 and more")
        if self.accept and not self.bootstrap:
            raise ValueError("task.inference.accept=true needs an interval: task.inference.bootstrap=1000")
        return self


class DetectionTrainer(Section):
    """How the head is trained.

    Biases learn at twice the rate, without decay; linear warm-up from a third; the rate is divided by 10 at `decay_at`.
    """

    tuning = {"trainer.learning_rate": (2e-4, 1e-2)}  # noqa: RUF012

    iterations: int = Field(60_000, ge=1, le=100_000_000)
    batch_size: int = Field(16, ge=1, le=100_000, description="images")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd has momentum 0.9")
    learning_rate: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    warmup: int = Field(500, ge=0, le=1_000_000, description="iterations")
    decay_at: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.66667, 0.83333), description="parts of the iterations after which the rate is divided by 10"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="rows of the history (50 steps) without a lower validation loss after which training ends; the "
        "weights with the lowest one are kept. null: all iterations, and the last weights",
    )
    gradient_clip: float | None = Field(None, gt=0, description="largest norm of the gradient; null: not clipped")
    mixed_precision: bool = Field(True, description="bfloat16 in the head's matrix products, on a GPU only")


class DetectionSettings(Section):
    """What a base detector and its head depend on; `task.DetectionTask` is one."""

    data: Annotated[ImageData, Choice("shapes")]
    base: BaseConfig = BaseConfig()
    head: HeadConfig = HeadConfig()
    inference: InferenceConfig = InferenceConfig()

    def identity(self) -> dict[str, Any]:
        """Returns the settings, without what changes no result."""
        return {**super().identity(), "data": self.data.identity(), "base": self.base.identity()}

    def is_broken(self, scores: Mapping[str, float]) -> bool:
        """Returns whether the scores show that a head has finite weights and energies that are not finite."""
        # Without a true box to score there is neither AP nor NLL, and nothing can be said.
        scored = bool(self.inference.nll_boxes) and math.isfinite(scores["ap"])
        return scored and not math.isfinite(scores["box_nll"])
