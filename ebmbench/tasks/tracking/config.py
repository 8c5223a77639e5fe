"""The settings of tracking beside those of its videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import override

from ebmbench.core.settings import Section
from ebmbench.system.files import fingerprint_of_file


class ModelConfig(Section):
    """The network f(x, y; template)."""

    backbone: Literal["small", "resnet18", "resnet34", "resnet50", "detector"] = Field(
        "small",
        description="small: trained with f; a ResNet of torchvision, or a base detector of task=detection: frozen",
    )
    weights: str | None = Field(
        None, min_length=1, description="for a frozen backbone: the file of its weights (detector: model.pt of a base)"
    )
    crop: int = Field(96, ge=32, le=1024, description="side of a crop in pixels")
    context: float = Field(2.5, ge=1, le=10, description="side of a crop in the frame, by √(w h) of the box")
    hidden: int = Field(128, ge=8, le=4096, description="width of the two hidden layers")
    activation: Literal["relu", "softplus", "silu", "gelu", "tanh"] = Field("silu", description="of the hidden layers")

    @model_validator(mode="after")
    def _has_weights(self) -> ModelConfig:
        if (self.backbone == "small") != (self.weights is None):
            raise ValueError(
                "task.model.weights is the file of a frozen backbone's weights: give it with resnet18, resnet34, "
                "resnet50 and detector, not with small"
            )
        return self

    @override
    def identity(self) -> dict[str, Any]:
        found = super().identity()
        if self.weights is not None:
            path = Path(self.weights).expanduser()
            found["weights"] = fingerprint_of_file(path) if path.is_file() else None
        return found


class RefinementConfig(Section):
    """From a coarse box to a refined one: ascent from several boxes, and the mean of the best."""

    loop: Literal["open", "closed"] = Field(
        "open", description="open: each frame around its coarse box; closed: a refined box also moves the next one"
    )
    candidates: int = Field(10, ge=1, le=1000, description="the coarse box, and the others moved from it by noise")
    best: int = Field(3, ge=1, le=1000, description="candidates of the highest f whose mean is the refined box")
    noise: tuple[float, float] = Field((0.05, 0.1), description="standard deviations, of the centre and the log size")
    steps: int = Field(10, ge=0, le=1000, description="steps of gradient ascent on f")
    lengths: tuple[float, ...] = Field(
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        min_length=1,
        description="first step lengths, of which the validation videos choose one",
    )
    accept: bool = Field(True, description="report the coarse boxes where the validation gain is not above zero")

    @model_validator(mode="after")
    def _can_be_done(self) -> RefinementConfig:
        if self.best > self.candidates:
            raise ValueError(f"best={self.best} is not allowed: there are {self.candidates} candidates")
        if min(self.noise) < 0 or min(self.lengths) <= 0:
            raise ValueError("noise may not be negative, and lengths must be above zero")
        return self


class ScoreConfig(Section):
    """How tracks are scored."""

    count_first: bool = Field(True, description="whether the first frame, whose box is given, counts (OTB, LaSOT)")
    bootstrap: int = Field(1000, ge=100, le=1_000_000, description="resamples of the sequences, for intervals")
    interval_frames: int = Field(
        64, ge=0, le=100_000, description="frames of each set whose boxes' intervals and temperature are looked at"
    )
    level: float = Field(0.9, gt=0, lt=1, description="the probability of these intervals")


class TrackingTrainer(Section):
    """How f is trained: AdamW, linear warm-up, cosine to zero."""

    tuning = {"trainer.learning_rate": (2e-4, 5e-3)}  # noqa: RUF012

    iterations: int = Field(1500, ge=1, le=100_000_000)
    batch_size: int = Field(16, ge=1, le=10_000, description="pairs of frames")
    learning_rate: float = Field(1.5e-3, gt=0, le=10)
    weight_decay: float = Field(0.01, ge=0, le=1)
    warmup: int = Field(100, ge=0, le=1_000_000, description="iterations")
    gradient_clip: float | None = Field(10.0, gt=0, description="largest norm of the gradient; null: not clipped")
    noise_centre: float = Field(0.2, ge=0, le=1, description="how far crops are off the target, by its size")
    noise_size: float = Field(0.25, ge=0, le=1, description="how wrong their size is, of log √(w h)")
