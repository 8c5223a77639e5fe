"""The frozen base detector, such as torchvision's Faster R-CNN, loaded or trained here on the dataset at hand.

It gives what the energy builds on: the feature maps of an image, the weights of the box head (if it has one) that the
energy's hidden layers start from, and the candidates that are to be refined. A detector trained here is stored under
`<results_dir>/base/<key>/`, the key a hash of the settings that made it: it is trained once, by the first run that
needs it, and shared by all methods and seeds. A training that was stopped goes on from `<results_dir>/base/<key>.ckpt`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from ebmbench.boxes.artefact import computed_once, facts_of
from ebmbench.core.errors import UserError
from ebmbench.system import checkpoint
from ebmbench.tasks.detection.architectures import ARCHITECTURES, Architecture, Candidates, architecture, kind_of
from ebmbench.tasks.detection.base_training import seeded, train_base
from ebmbench.tasks.detection.config import DetectionSettings
from ebmbench.tasks.detection.data import Dataset, open_split

VERSION = 2
"""Raised when training a base detector comes to mean something else: it is a part of the key."""
WHAT = "the base detector"
HIDDEN = 1024
"""Width of the energy's hidden layers where the detector has no box head to start from."""


@dataclass(frozen=True)
class Features:
    """The frozen features of an image.

    Attributes:
        maps: pyramid levels that boxes are pooled from, finest first, `[C, H_l, W_l]` each, in half precision.
        size: height and width after resizing, without padding.
    """

    maps: list[Tensor]
    size: tuple[int, int]


class BaseDetector:
    """A frozen detector in evaluation mode.

    Args:
        kind: what it is.
        model: its network.
        category_ids: the dataset's category id of label 1, 2, …
    """

    def __init__(self, kind: Architecture, model: nn.Module, category_ids: Sequence[int]) -> None:
        self.kind = kind
        self.model: Any = model.eval().requires_grad_(False)
        self.category_ids = tuple(category_ids)
        self._label_of = {category: label for label, category in enumerate(self.category_ids, start=1)}
        self.strides = list(kind.strides)

    @property
    def num_classes(self) -> int:
        """With the background."""
        return len(self.category_ids) + 1

    @property
    def has_box_head(self) -> bool:
        """Whether there are layers for the energy's to start from."""
        return self.kind.hidden_layers(self.model) is not None

    @property
    def hidden_layers(self) -> tuple[nn.Linear, nn.Linear]:
        """The two hidden layers of the box head, which the energy's start from; else two of the shape to give them."""
        found = self.kind.hidden_layers(self.model)
        if found is not None:
            return found
        device = next(self.model.parameters()).device
        channels = self.model.backbone.out_channels
        return nn.Linear(49 * channels, HIDDEN, device=device), nn.Linear(HIDDEN, HIDDEN, device=device)

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
    def features(self, images: Sequence[Tensor]) -> list[Features]:
        """The pyramid levels that boxes are pooled from, of uint8 images `[3, H, W]` of any sizes."""
        found: dict[int, Features] = {}
        for places, batch in self._batches(images):
            found |= zip(places, self._features(self._maps(batch), batch), strict=True)
        return [found[place] for place in range(len(images))]

    @torch.no_grad()
    def candidates(self, images: Sequence[Tensor], score_threshold: float) -> list[tuple[Features, Candidates]]:
        """Features, and every class-specific box whose class score is above the threshold."""
        found: dict[int, tuple[Features, Candidates]] = {}
        for places, batch in self._batches(images):
            maps = self._maps(batch)
            boxes = self.kind.candidates(self.model, batch, maps, score_threshold)
            found |= zip(places, zip(self._features(maps, batch), boxes, strict=True), strict=True)
        return [found[place] for place in range(len(images))]

    def _batches(self, images: Sequence[Tensor]) -> Iterator[tuple[list[int], ImageList]]:
        """Yields batches of resized, normalised, padded images, and the places of these images.

        On a GPU those of one padded size are taken together, else each image alone: what is made of an image must not
        depend on which others are there, and a CPU gains little by more than one.
        """
        device = next(self.model.parameters()).device
        groups: dict[Any, list[tuple[int, ImageList]]] = {}
        for place, image in enumerate(images):
            one, _ = self.model.transform([image.to(device, non_blocking=True).float() / 255])
            key = one.tensors.shape if device.type == "cuda" else place
            groups.setdefault(key, []).append((place, one))
        for group in groups.values():
            tensors, sizes = [one.tensors for _, one in group], [size for _, one in group for size in one.image_sizes]
            yield [place for place, _ in group], ImageList(torch.cat(tensors), sizes)

    def _maps(self, batch: ImageList) -> dict[str, Tensor]:
        """All maps of the backbone; a GPU computes them in half precision, to which they are rounded afterwards."""
        device = batch.tensors.device
        with torch.autocast(device.type, dtype=torch.float16, enabled=device.type == "cuda"):
            maps = self.model.backbone(batch.tensors)
        return {name: level.float() for name, level in maps.items()}

    def _features(self, maps: Mapping[str, Tensor], batch: ImageList) -> list[Features]:
        levels = [maps[level].half() for level in self.kind.levels]
        return [Features([m[place] for m in levels], size) for place, size in enumerate(batch.image_sizes)]


def base_key(config: DetectionSettings) -> str:
    """The name under which a detector trained here is stored: a hash of all that makes it."""
    return hashlib.blake2s(json.dumps(_identity(config), sort_keys=True).encode()).hexdigest()[:12]


def _identity(config: DetectionSettings) -> dict[str, Any]:
    return {"version": VERSION, "data": config.data.of_base().training_identity(), "base": config.base.identity()}


def load_base(config: DetectionSettings, results_dir: Path, device: torch.device | str) -> BaseDetector:
    """The configured base detector, frozen; trained first if it is to be and has not been.

    Raises:
        UserError: no such checkpoint, one of another architecture, or one that does not know the dataset's categories.
    """
    weights = config.base.weights
    if weights == "train":
        return _trained(config, results_dir, device).to(device)
    dataset = open_split(config.data, "train")
    kind = architecture(config.base.architecture)
    if weights == "none":
        return _made(config, list(dataset.categories), None).to(device)
    state, source = _checkpoint(weights, kind)
    name = kind_of(state)
    known = config.base.architecture in ARCHITECTURES
    if known and name is None:
        raise UserError(f"task.base.weights: {source} is not a torchvision Faster R-CNN, RetinaNet or FCOS.")
    if known and name != config.base.architecture.replace("small", "resnet50"):
        given = config.base.architecture
        raise UserError(f"task.base.weights: {source} is of task.base.architecture={name}, and {given} is given.")
    try:
        num_classes = kind.num_classes(state)
        model = kind.build(num_classes, *config.data.sides)
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        detail = str(error).splitlines()[1:2] or [str(error)]
        raise UserError(
            f"task.base.weights: {source} does not fit task.base.architecture={config.base.architecture} "
            f"({', '.join(ARCHITECTURES)}): {detail[0].strip()[:160]}"
        ) from None
    return BaseDetector(kind, model, _category_ids(num_classes, dataset, source)).to(device)


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


def _checkpoint(weights: str, kind: Architecture) -> tuple[dict[str, Tensor], str]:
    if weights == "coco":
        if not kind.coco:
            raise UserError("task.base.weights=coco: there are none for this task.base.architecture; train it (train)")
        try:
            return torch.hub.load_state_dict_from_url(kind.coco, progress=False, weights_only=True), "COCO's"
        except OSError as error:
            raise UserError(
                f"task.base.weights=coco: {kind.coco} cannot be downloaded ({error}); give the path of a copy instead."
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


def _plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state without what a wrapper put before all names: `module.` (DDP), `model.` (Lightning)."""
    marks = tuple({known.mark for known in ARCHITECTURES.values()})
    found = next(((name, mark) for name in state for mark in marks if name.endswith(mark)), ("", ""))
    prefix = found[0].removesuffix(found[1])
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _trained(config: DetectionSettings, results_dir: Path, device: torch.device | str) -> BaseDetector:
    folder = results_dir / "base" / base_key(config)
    saved = folder.with_suffix(".ckpt")
    facts = computed_once(folder, WHAT, lambda scratch: _train(config, saved, scratch, device))
    checkpoint.remove(saved)
    return _stored(config, folder, facts)


def _stored(config: DetectionSettings, folder: Path, facts: Mapping[str, Any]) -> BaseDetector:
    """Reads a detector that was trained here."""
    state = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
    return _made(config, facts["category_ids"], state)


def _made(config: DetectionSettings, category_ids: Sequence[int], state: Mapping[str, Tensor] | None) -> BaseDetector:
    """Returns a detector of the configured architecture with weights from a state; None: random ones."""
    kind = architecture(config.base.architecture)
    with seeded(config.base.seed):
        model = kind.build(len(category_ids) + 1, *config.data.sides)
    if state is not None:
        model.load_state_dict(state)
    return BaseDetector(kind, model, category_ids)


def record_of(config: DetectionSettings, base: BaseDetector, dataset: Dataset) -> dict[str, Any]:
    """Returns plain data from which `reopen` finds a detector again, without the data that it was trained on."""
    about = {"names": dict(dataset.categories), "turned": dataset.turned}
    return {"key": base_key(config), "category_ids": list(base.category_ids), **about}


def reopen(config: DetectionSettings, record: Mapping[str, Any], results_dir: Path) -> BaseDetector:
    """Returns the detector that a finished run stood on; nothing is trained.

    Raises:
        UserError: it is not there any more.
    """
    weights = config.base.weights
    if weights == "train":
        folder = results_dir / "base" / str(record["key"])
        return _stored(config, folder, facts_of(folder, WHAT))
    state = None if weights == "none" else _checkpoint(weights, architecture(config.base.architecture))[0]
    return _made(config, record["category_ids"], state)


def _train(config: DetectionSettings, saved: Path, scratch: Path, device: torch.device | str) -> dict[str, Any]:
    """Trains a detector and writes it into a folder; returns what it is, as plain data."""
    dataset = open_split(config.data.of_base(), "train")
    for killed in saved.parent.glob(f".{saved.name}.*.tmp"):  # left half-written; ours alone, for we hold the lock
        killed.unlink(missing_ok=True)
    model, seconds = train_base(config, dataset, device, saved)
    torch.save({name: v.cpu().contiguous() for name, v in model.state_dict().items()}, scratch / "model.pt")
    return {
        **_identity(config),
        "category_ids": list(dataset.categories),
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_seconds": round(seconds, 1),
    }
