"""The settings of object detection, typed and range-checked."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.registry import register
from ebmbench.core.settings import Component, Section
from ebmbench.system.files import fingerprint_of_file

if TYPE_CHECKING:
    from ebmbench.tasks.detection.data import Dataset, Part

SPLITS = ("train", "val", "test")
NAME = r"^[a-z0-9][a-z0-9_.-]{0,40}$"
NAME_TEXT = "at most 41 lower-case letters, digits, _ . and -"


class ImageData(Component):
    """Images with boxes. A subclass sets `source`; `name` is the dataset's name in runs and tables."""

    group: ClassVar[str] = "task/data"
    chosen_by: ClassVar[str] = "source"
    source: ClassVar[str]

    name: str = Field(pattern=NAME, description=NAME_TEXT)
    short_side: int = Field(800, ge=32, le=4096, description="images are resized to this short side, in pixels")
    long_side: int = Field(1333, ge=32, le=4096, description="the longest that a long side may be, in pixels")
    eval_split: Literal["val", "test"] = Field("val", description="the split that is scored")

    @abstractmethod
    def open(self, split: str) -> Dataset:
        """Returns a split: train, val or test.

        Raises:
            UserError: it is not there, or cannot be used.
        """

    def has(self, split: str) -> bool:
        """Returns whether there is such a split."""
        return True

    @property
    def sides(self) -> tuple[int, int]:
        """The short side that images are resized to, and the longest that the long one may be."""
        return self.short_side, self.long_side

    def of_base(self) -> ImageData:
        """Returns the data whose training split the base detector is trained on: the same, if nothing else is said."""
        return self

    def training_identity(self) -> dict[str, Any]:
        """Returns what a detector that is trained on the training split depends on."""
        return {
            key: value
            for key, value in self.identity().items()
            if key not in ("eval_split", "eval_content", "val_content")
        }


@register
class ShapesData(ImageData):
    """Made images: rotated, textured, overlapping, partly occluded shapes on structured noise. Nothing to download."""

    source = "shapes"

    name: str = Field("shapes", pattern="^shapes$", description="shapes")
    data_seed: int = Field(0, ge=0, lt=2**31, description="the draw of all images")
    base_seed: int | None = Field(
        None, ge=0, lt=2**31, description="the draw of images that the base detector is trained on; null: the same"
    )
    num_train: int = Field(2000, ge=1, le=1_000_000, description="training images")
    num_val: int = Field(500, ge=1, le=1_000_000, description="validation images")
    num_test: int = Field(500, ge=1, le=1_000_000, description="test images")
    annotation_noise: float = Field(
        0.0, ge=0, le=1, description="standard deviation of noise on the training boxes, in (cx/w, cy/h, log w, log h)"
    )
    short_side: int = Field(128, ge=32, le=4096, description="images are resized to this short side, in pixels")
    long_side: int = Field(128, ge=32, le=4096, description="the longest that a long side may be, in pixels")
    eval_split: Literal["val", "test"] = Field("test", description="the split that is scored; val is for choices")

    @override
    def open(self, split: str) -> Dataset:
        from ebmbench.tasks.detection.data import ShapesDataset

        return ShapesDataset(self, split)

    @override
    def identity(self) -> dict[str, Any]:
        from ebmbench.tasks.detection import shapes

        return {**super().identity(), "version": shapes.VERSION}

    @override
    def of_base(self) -> ShapesData:
        if self.base_seed is None:
            return self
        return self.model_copy(update={"data_seed": self.base_seed, "base_seed": None})

    @override
    def training_identity(self) -> dict[str, Any]:
        return {key: value for key, value in super().training_identity().items() if key not in ("num_val", "num_test")}


class FileData(ImageData):
    """Images in files, with annotations as COCO has them. A subclass says where they are."""

    root: str | None = Field(None, description="the folder that holds the images and their annotations")
    skip_bad_images: bool = Field(False, description="leave out images that are missing or damaged")
    num_train: int | None = Field(
        None, ge=1, description="training images that are used, drawn once for all; null: all of them"
    )
    workers: int | None = Field(
        None, ge=0, le=256, description="threads that read images ahead; null: by the cores; changes no result"
    )

    @abstractmethod
    def part(self, split: str) -> Part:
        """Returns the annotations and the image folder of a split.

        Raises:
            UserError: they are not there, or cannot be used.
        """

    @override
    def open(self, split: str) -> Dataset:
        from ebmbench.tasks.detection.data import CocoDataset

        return CocoDataset(self, split)

    @override
    def identity(self) -> dict[str, Any]:
        """Returns the settings, with hashes of the files in the place of their names: edited data are other data."""
        files = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "annotations")]
        files += ["root", "skip_bad_images", "workers"]
        found = {key: value for key, value in super().identity().items() if key not in files}
        splits = {"train": "train", "val": "val", "eval": self.eval_split}
        return {**found, **{f"{name}_content": self.content(split) for name, split in splits.items()}}

    @override
    def has(self, split: str) -> bool:
        return self.content(split) is not None

    def content(self, split: str) -> str | None:
        """Returns a hash of a split's annotations and of its images' sizes, None where they cannot be read."""
        try:
            return self.part(split).content
        except (UserError, OSError):
            return None


@register
class CocoData(FileData):
    """COCO 2017, or any dataset in its format: `data=coco data.name=mine data.root=/data/mine`."""

    source = "coco"

    name: str = Field("coco", pattern=NAME, description=NAME_TEXT)
    train_images: str = "train2017"
    train_annotations: str = "annotations/instances_train2017.json"
    val_images: str = "val2017"
    val_annotations: str = "annotations/instances_val2017.json"
    test_images: str | None = None
    test_annotations: str | None = None

    @override
    def part(self, split: str) -> Part:
        from ebmbench.tasks.detection.data import Part

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
        return Part.of_file(root / annotations, root / images)


class BaseConfig(Section):
    """The frozen detector below the head. It is trained or loaded once, and shared by all methods and seeds."""

    architecture: str = Field(
        "resnet50",
        pattern=r"^(small|resnet50|resnet50_v2|retinanet|fcos|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="small (1.9 M parameters, for the CPU); torchvision's over a ResNet-50: resnet50, resnet50_v2 "
        "(Faster R-CNN), retinanet, fcos; or MODULE:CLASS, an Architecture of your own",
    )
    weights: str = Field(
        "train", min_length=1, description="train (on this dataset), coco, none (random), or the path of a checkpoint"
    )
    backbone: str | None = Field(
        None,
        min_length=1,
        description="for weights=train: a file of the ResNet's weights to start from, such as ImageNet's",
    )
    iterations: int = Field(90_000, ge=1, le=10_000_000, description="this and the rest: for weights=train")
    batch_size: int = Field(8, ge=1, le=1024, description="images")
    learning_rate: float = Field(2e-4, gt=0, le=1, description="of AdamW: linear warm-up, cosine to zero")
    weight_decay: float = Field(0.01, ge=0, le=1)
    warmup: int = Field(100, ge=0, le=1_000_000, description="iterations")
    seed: int = Field(0, ge=0, lt=2**31)
    feature_cache_mb: int = Field(
        0, ge=0, le=1_000_000, description="memory for the frozen features of training images; 0: none is kept"
    )

    def identity(self) -> dict[str, Any]:
        """Returns the settings, without what changes no result, and with hashes of files of weights."""
        found = {key: value for key, value in super().identity().items() if key != "feature_cache_mb"}
        for key in ("weights", "backbone"):
            value = found.get(key)
            if value is not None and value not in WEIGHTS and Path(value).expanduser().is_file():
                found[key] = fingerprint_of(Path(value).expanduser())
        return found


WEIGHTS = ("train", "coco", "none")
"""What `task.base.weights` may be beside a path."""


def fingerprint_of(path: Path) -> str:
    """Returns a hash of a file's content, which is remembered until the file changes; raises OSError."""
    about = path.stat()
    return _fingerprint(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=32)
def _fingerprint(path: Path, *changed: int) -> str:
    return fingerprint_of_file(path)


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
    gradient_clip: float | None = Field(None, gt=0, description="largest norm of the gradient; null: not clipped")
    mixed_precision: bool = Field(True, description="bfloat16 in the head's matrix products, on a GPU only")
