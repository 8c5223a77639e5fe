"""The frozen base detector: a torchvision Faster R-CNN, loaded or trained here on the dataset at hand.

It gives what the energy builds on: the feature maps of an image, the weights of the box head that the energy's hidden
layers start from, and the candidates that are to be refined. A detector trained here is stored under
`<results_dir>/base/<key>/`, the key a hash of the settings that made it: it is trained once, by the first run that
needs it, and shared by all methods and seeds. A training that was stopped goes on from `<results_dir>/base/<key>.ckpt`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from ebmbench.core.errors import UserError
from ebmbench.system import checkpoint
from ebmbench.system.locking import Lock
from ebmbench.tasks.detection.architectures import build_model
from ebmbench.tasks.detection.base_training import seeded, train_base
from ebmbench.tasks.detection.data import Dataset, open_split
from ebmbench.tasks.detection.task import DetectionTask

VERSION = 1
"""Raised when training a base detector comes to mean something else: it is a part of the key."""
COCO_WEIGHTS = "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"


@dataclass(frozen=True)
class Candidates:
    """What the base detector proposes for one image, before any non-maximum suppression.

    Attributes:
        boxes: `[N, 4]` x1 y1 x2 y2 in the resized frame, inside the image.
        scores: `[N]` class scores.
        labels: `[N]` int64, the detector's labels (1 to its number of classes).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Features:
    """The frozen features of a batch.

    Attributes:
        maps: pyramid levels that boxes are pooled from, finest first, `[B, C, H_l, W_l]` each.
        sizes: height and width of each image after resizing, without padding.
    """

    maps: list[Tensor]
    sizes: list[tuple[int, int]]


class BaseDetector:
    """A frozen Faster R-CNN in evaluation mode.

    Args:
        model: the detector.
        category_ids: the dataset's category id of label 1, 2, …
    """

    def __init__(self, model: FasterRCNN, category_ids: Sequence[int]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.category_ids = tuple(category_ids)
        self._label_of = {category: label for label, category in enumerate(self.category_ids, start=1)}
        self.levels: list[str] = list(model.roi_heads.box_roi_pool.featmap_names)
        self.strides = [4 * 2**level for level in range(len(self.levels))]

    @property
    def num_classes(self) -> int:
        """With the background."""
        return len(self.category_ids) + 1

    @property
    def hidden_layers(self) -> tuple[nn.Linear, nn.Linear]:
        """The two hidden layers of the box head, which the energy's start from."""
        head = self.model.roi_heads.box_head
        return head.fc6, head.fc7

    def labels(self, categories: Tensor) -> Tensor:
        """The detector's labels of category ids: `[N] -> [N]`.

        Raises:
            UserError: a category that the detector does not know.
        """
        try:
            return torch.tensor([self._label_of[c] for c in categories.tolist()], dtype=torch.int64)
        except KeyError as error:
            raise UserError(
                f"The base detector does not know category {error.args[0]} of the dataset; it knows "
                f"{len(self.category_ids)} of them: task.base.weights must have been trained on this dataset."
            ) from None

    def to(self, device: torch.device | str) -> BaseDetector:
        """Moves the model to a device; returns the detector."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def resize(self, images: Sequence[Tensor]) -> ImageList:
        """uint8 images `[3, H, W]` of any sizes as one batch: resized, normalised, zero-padded right and below."""
        device = next(self.model.parameters()).device
        batch, _ = self.model.transform([image.to(device).float() / 255 for image in images])
        return cast(ImageList, batch)

    @torch.no_grad()
    def features(self, images: Sequence[Tensor]) -> Features:
        """The pyramid levels that boxes are pooled from."""
        batch = self.resize(images)
        maps = self.model.backbone(batch.tensors)
        return Features([maps[level] for level in self.levels], batch.image_sizes)

    @torch.no_grad()
    def candidates(self, images: Sequence[Tensor], score_threshold: float) -> tuple[Features, list[Candidates]]:
        """Features, and every class-specific box whose class score is above the threshold."""
        batch = self.resize(images)
        maps = self.model.backbone(batch.tensors)
        proposals, _ = self.model.rpn(batch, maps)
        heads = self.model.roi_heads
        pooled = heads.box_roi_pool(maps, proposals, batch.image_sizes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        boxes = heads.box_coder.decode(deltas, proposals)  # [R, classes, 4]
        scores = logits.softmax(-1)
        found = []
        counts = [len(p) for p in proposals]
        for box, score, (height, width) in zip(
            boxes.split(counts), scores.split(counts), batch.image_sizes, strict=True
        ):
            limit = torch.tensor([width, height, width, height], device=box.device, dtype=box.dtype)
            box = torch.minimum(box.clamp(min=0), limit)
            row, label = torch.nonzero(score[:, 1:] > score_threshold, as_tuple=True)
            label = label + 1
            kept = box[row, label]
            good = ((kept[:, 2:] - kept[:, :2]) >= 1e-2).all(-1)
            found.append(Candidates(kept[good], score[row, label][good], label[good]))
        return Features([maps[level] for level in self.levels], batch.image_sizes), found


def base_key(config: DetectionTask) -> str:
    """The name under which a detector trained here is stored: a hash of all that makes it."""
    return hashlib.blake2s(json.dumps(_identity(config), sort_keys=True).encode()).hexdigest()[:12]


def _identity(config: DetectionTask) -> dict[str, Any]:
    return {"version": VERSION, "data": config.data.training_identity(), "base": config.base.identity()}


def load_base(config: DetectionTask, results_dir: Path, device: torch.device | str) -> BaseDetector:
    """The configured base detector, frozen; trained first if it is to be and has not been.

    Raises:
        UserError: no such checkpoint, one of another architecture, or one that does not know the dataset's categories.
    """
    weights = config.base.weights
    if weights == "train":
        return _trained(config, results_dir, device).to(device)
    dataset = open_split(config.data, "train")
    data = config.data
    if weights == "none":
        with seeded(config.base.seed):
            model = build_model(config.base.architecture, len(dataset.categories) + 1, data.short_side, data.long_side)
        return BaseDetector(model, list(dataset.categories)).to(device)
    state, source = _checkpoint(weights)
    predictor = state.get(PREDICTOR)
    kind = _other_kind(state)
    if kind is not None:
        raise UserError(f"task.base.weights: {source} is {kind}; a fasterrcnn_resnet50_fpn (the first one) is needed.")
    if predictor is None:
        raise UserError(f"task.base.weights: {source} is not a torchvision Faster R-CNN (it has no box predictor).")
    num_classes = len(predictor)
    model = build_model(config.base.architecture, num_classes, data.short_side, data.long_side)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = str(error).splitlines()[1:2] or [str(error)]
        raise UserError(
            f"task.base.weights: {source} does not fit task.base.architecture={config.base.architecture} "
            f"(small, resnet50): {detail[0].strip()[:160]}"
        ) from None
    return BaseDetector(model, _category_ids(num_classes, dataset, source)).to(device)


def _category_ids(num_classes: int, dataset: Dataset, source: str) -> list[int]:
    """Returns the category id of each label of a checkpoint.

    A checkpoint with COCO's 91 outputs knows COCO's classes: they are found by their names. Those that the dataset
    does not have get negative ids, which no dataset uses. Any other checkpoint must have the dataset's classes, in the
    order of their ids.
    """
    if num_classes == 91:
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

        names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
        id_of = {name: category for category, name in dataset.categories.items()}
        unknown = [name for name in id_of if name not in names]
        if unknown:
            raise UserError(
                f"{source} knows COCO's 80 classes, and the dataset's class {unknown[0]!r} is not one of them; "
                "task.base.weights=train trains a detector on this dataset"
            )
        return [id_of.get(name, -label) for label, name in enumerate(names) if label]
    if num_classes != len(dataset.categories) + 1:
        raise UserError(
            f"{source} knows {num_classes - 1} categories and the dataset has {len(dataset.categories)}: they must be "
            "the same, in the order of their ids."
        )
    return list(dataset.categories)


def _checkpoint(weights: str) -> tuple[dict[str, Tensor], str]:
    if weights == "coco":
        try:
            return torch.hub.load_state_dict_from_url(COCO_WEIGHTS, progress=False, weights_only=True), "COCO's"
        except OSError as error:
            raise UserError(
                f"task.base.weights=coco: {COCO_WEIGHTS} cannot be downloaded ({error}); "
                "give the path of a copy instead."
            ) from None
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"task.base.weights is {weights!r}, not train, coco, none or the path of a checkpoint.")
    state: Any
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a file that is no checkpoint
        raise UserError(
            f"task.base.weights: {path} is not a checkpoint that can be loaded safely: {error!s:.160}"
        ) from None
    for key in ("model", "state_dict"):  # as torchvision's reference scripts, and Lightning, save it
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"task.base.weights: {path} holds no model's state (a dictionary of tensors).")
    return _plain_names(state), str(path)


PREDICTOR = "roi_heads.box_predictor.cls_score.weight"


def _plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state without what a wrapper put before all names: `module.` (DDP), `model.` (Lightning)."""
    prefix = next((name.removesuffix(PREDICTOR) for name in state if name.endswith(PREDICTOR)), "")
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _other_kind(state: dict[str, Tensor]) -> str | None:
    """Returns what a checkpoint is, where it is a detector of torchvision that this task does not build on."""
    if "roi_heads.box_head.0.0.weight" in state:
        return "torchvision's fasterrcnn_resnet50_fpn_v2"
    if any(name.startswith("head.classification_head.") for name in state):
        return "a one-stage detector (RetinaNet or FCOS)"
    return None


def _trained(config: DetectionTask, results_dir: Path, device: torch.device | str) -> BaseDetector:
    key = base_key(config)
    folder = results_dir / "base" / key
    if not (folder / "base.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):  # a second process waits here, then finds it done
            if not (folder / "base.json").exists():
                _train_and_store(config, folder, device)
    return _stored(config, folder)


def _stored(config: DetectionTask, folder: Path) -> BaseDetector:
    """Reads a detector that was trained here."""
    facts = json.loads((folder / "base.json").read_text())
    data = config.data
    model = build_model(config.base.architecture, len(facts["category_ids"]) + 1, data.short_side, data.long_side)
    model.load_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True))
    return BaseDetector(model, facts["category_ids"])


def record_of(config: DetectionTask, base: BaseDetector, names: Mapping[int, str]) -> dict[str, Any]:
    """Returns plain data from which `reopen` finds a detector again, without the data that it was trained on."""
    return {"key": base_key(config), "category_ids": list(base.category_ids), "names": dict(names)}


def reopen(config: DetectionTask, record: Mapping[str, Any], results_dir: Path) -> BaseDetector:
    """Returns the detector that a finished run stood on; nothing is trained.

    Raises:
        UserError: it is not there any more.
    """
    weights, data = config.base.weights, config.data
    if weights == "train":
        folder = results_dir / "base" / str(record["key"])
        if not (folder / "base.json").exists():
            raise UserError(f"{folder}, the base detector that the run stands on, is not there")
        return _stored(config, folder)
    count = len(record["category_ids"]) + 1
    with seeded(config.base.seed):
        model = build_model(config.base.architecture, count, data.short_side, data.long_side)
    if weights != "none":
        model.load_state_dict(_checkpoint(weights)[0])
    return BaseDetector(model, record["category_ids"])


def _train_and_store(config: DetectionTask, folder: Path, device: torch.device | str) -> None:
    dataset = open_split(config.data, "train")
    saved = folder.with_suffix(".ckpt")
    for killed in folder.parent.glob(f".{saved.name}.*.tmp"):  # left half-written; ours alone, for we hold the lock
        killed.unlink(missing_ok=True)
    model, seconds = train_base(config, dataset, device, saved)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, Path(scratch) / "model.pt")
        facts = {
            **_identity(config),
            "category_ids": list(dataset.categories),
            "parameters": sum(p.numel() for p in model.parameters()),
            "train_seconds": round(seconds, 1),
        }
        (Path(scratch) / "base.json").write_text(json.dumps(facts, indent=2))
        os.chmod(scratch, 0o755)
        os.rename(scratch, folder)
        os.mkdir(scratch)  # for TemporaryDirectory to remove
    checkpoint.remove(saved)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = Lock(path)
    said = False
    while not lock.take():
        if not said:
            print("ebmbench: another process trains the base detector; waiting for it", file=sys.stderr, flush=True)
            said = True
        time.sleep(1)
    try:
        yield
    finally:
        lock.release()
