"""The settings of object detection, typed and range-checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from ebmbench.schema import Section


class ShapesData(Section):
    """Made images of shapes; see conf/task/data/shapes.yaml."""

    name: Literal["shapes"]
    data_seed: int = Field(ge=0, lt=2**31)
    num_train: int = Field(ge=1, le=1_000_000)
    num_val: int = Field(ge=1, le=1_000_000)
    num_test: int = Field(ge=1, le=1_000_000)
    annotation_noise: float = Field(ge=0, le=1)
    short_side: int = Field(ge=32, le=4096)
    long_side: int = Field(ge=32, le=4096)
    eval_split: Literal["val", "test"]


class CocoData(Section):
    """A dataset in COCO's format; see conf/task/data/coco.yaml."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,40}$", description="at most 41 lower-case letters, digits, _ . and -"
    )
    root: str | None
    train_images: str
    train_annotations: str
    val_images: str
    val_annotations: str
    test_images: str | None
    test_annotations: str | None
    skip_bad_images: bool
    short_side: int = Field(ge=32, le=4096)
    long_side: int = Field(ge=32, le=4096)
    eval_split: Literal["val", "test"]

    def files(self, split: str) -> tuple[Path, Path]:
        """The annotation file and the image folder of a split."""
        from ebmbench.errors import UserError

        if self.root is None:
            raise UserError(
                f"task.data.root is not given: the folder that holds {self.train_annotations} and {self.train_images}."
            )
        annotations, images = getattr(self, f"{split}_annotations"), getattr(self, f"{split}_images")
        if annotations is None or images is None:
            raise UserError(
                f"task.data.{split}_annotations and task.data.{split}_images are not given: {self.name} has no "
                f"{split} split (task.data.eval_split={self.eval_split})."
            )
        root = Path(self.root).expanduser()
        return root / annotations, root / images


DataConfig = Annotated[
    Annotated[ShapesData, Tag("shapes")] | Annotated[CocoData, Tag("coco")],
    Discriminator(lambda v: "shapes" if _name(v) == "shapes" else "coco"),
]


def _name(value: Any) -> Any:
    return value.get("name") if isinstance(value, dict) else getattr(value, "name", None)


class BaseConfig(Section):
    """The frozen detector below the head; see conf/task/detection.yaml."""

    architecture: Literal["small", "resnet50"]
    weights: str = Field(min_length=1)  # train, coco, none, or the path of a checkpoint
    iterations: int = Field(ge=1, le=10_000_000)
    batch_size: int = Field(ge=1, le=1024)
    learning_rate: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0, le=1)
    warmup: int = Field(ge=0, le=1_000_000)
    seed: int = Field(ge=0, lt=2**31)
    feature_cache_mb: int = Field(ge=0, le=1_000_000)


class HeadConfig(Section):
    """The network f(x, y) on the pooled features of a box."""

    activation: Literal["relu", "softplus", "silu", "gelu", "tanh"]
    from_base: bool
    keep_level: bool


class InferenceConfig(Section):
    """From candidates to detections: f-ordered NMS, then gradient ascent on f."""

    score_threshold: float = Field(ge=0, lt=1)
    nms_threshold: float = Field(gt=0, le=1)
    max_detections: int = Field(ge=1, le=10_000)
    steps: int = Field(ge=0, le=10_000)
    step_centre: float = Field(gt=0, le=10)
    step_size: float = Field(gt=0, le=10)
    bootstrap: int = Field(ge=0, le=1_000_000)
    nll_boxes: int = Field(ge=0, le=10_000_000)
    nll_samples: int = Field(ge=1, le=1_048_576)


class DetectionTask(Section):
    """What is to be learned; see conf/task/detection.yaml."""

    name: Literal["detection"]
    data: DataConfig
    base: BaseConfig
    head: HeadConfig
    inference: InferenceConfig

    def identity(self) -> dict[str, Any]:
        """Without what changes no result."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"base": {"feature_cache_mb"}})

    @property
    def dataset_name(self) -> str:
        return self.data.name


class DetectionTrainer(Section):
    """How the head is trained; see conf/trainer/detection.yaml."""

    iterations: int = Field(ge=1, le=100_000_000)
    batch_size: int = Field(ge=1, le=100_000)
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float = Field(gt=0, le=10)
    weight_decay: float = Field(ge=0, le=1)
    warmup: int = Field(ge=0, le=1_000_000)
    decay_at: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    gradient_clip: float | None = Field(gt=0)
    mixed_precision: bool
