"""The frozen base detector, such as torchvision's Faster R-CNN, loaded or trained here on the dataset at hand.

It gives what the energy builds on: the feature maps of an image, the weights of the box head (if it has one) that the
energy's hidden layers start from, and the candidates that are to be refined. A detector trained here is stored under
`<results_dir>/base/<key>/`, the key a hash of the settings that made it: it is trained once, by the first run that
needs it, and shared by all methods and seeds. A training that was stopped goes on from `<results_dir>/base/<key>.ckpt`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ebmbench.boxes.artefact import computed_once, facts_of
from ebmbench.core.errors import UserError
from ebmbench.system import checkpoint
from ebmbench.tasks.detection.architectures import ARCHITECTURES, Architecture, architecture, kind_of
from ebmbench.tasks.detection.base_training import seeded, train_base
from ebmbench.tasks.detection.config import BaseConfig, DetectionSettings
from ebmbench.tasks.detection.data import Dataset, open_split
from ebmbench.tasks.detection.detector import BaseDetector

VERSION = 2
"""Raised when training a base detector comes to mean something else: it is a part of the key."""
WHAT = "the base detector"


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
        dataset = open_split(config.data.of_base(), "train")
        return trained_base(config, results_dir, device, dataset, base_key(config))
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
                "task.base.weights=train task.base.start=coco trains it on this dataset"
            )
        return [id_of.get(name, -label) for label, name in enumerate(names) if label]
    if num_classes != len(dataset.categories) + 1:
        raise UserError(
            f"{source} knows {num_classes - 1} categories and the dataset has {len(dataset.categories)}: they must be "
            "the same, in the order of their ids; task.base.weights=train task.base.start=PATH trains it on others."
        )
    return list(dataset.categories)


def starting_weights(config: BaseConfig, kind: Architecture) -> dict[str, Tensor]:
    """Returns the weights that training starts from, by the names of the detector's parameters.

    Raises:
        UserError: they cannot be read.
    """
    assert config.start is not None
    state, _ = _checkpoint(config.start, kind, "start")
    body = "backbone.body."
    if not any(name.startswith(body) for name in state) and "conv1.weight" in state:  # a backbone alone
        state = {f"{body}{name}": value for name, value in state.items() if not name.startswith("fc.")}
    return state


def _checkpoint(weights: str, kind: Architecture, key: str = "weights") -> tuple[dict[str, Tensor], str]:
    if weights == "coco":
        if not kind.coco:
            raise UserError(f"task.base.{key}=coco: there are none for this task.base.architecture")
        try:
            return torch.hub.load_state_dict_from_url(kind.coco, progress=False, weights_only=True), "COCO's"
        except OSError as error:
            raise UserError(
                f"task.base.{key}=coco: {kind.coco} cannot be downloaded ({error}); give the path of a copy instead."
            ) from None
    path = Path(weights).expanduser()
    if not path.is_file():
        allowed = "train, coco, none" if key == "weights" else "coco"
        raise UserError(f"task.base.{key} is {weights!r}, not {allowed} or the path of a checkpoint.")
    state: Any
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a file that is no checkpoint
        raise UserError(
            f"task.base.{key}: {path} is not a checkpoint that can be loaded safely: {error!s:.160}"
        ) from None
    for key in ("model", "state_dict"):  # as torchvision's reference scripts, and Lightning, save it
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"task.base.{key}: {path} holds no model's state (a dictionary of tensors).")
    return _plain_names(state), str(path)


def _plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state without what a wrapper put before all names: `module.` (DDP), `model.` (Lightning)."""
    marks = tuple({known.mark for known in ARCHITECTURES.values()})
    found = next(((name, mark) for name in state for mark in marks if name.endswith(mark)), ("", ""))
    prefix = found[0].removesuffix(found[1])
    if not found[0]:
        return dict(state)
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def trained_base(
    config: DetectionSettings, results_dir: Path, device: torch.device | str, dataset: Dataset, key: str
) -> BaseDetector:
    """Returns the detector of this key, frozen; trained first where it is not there."""
    folder = results_dir / "base" / key
    saved = folder.with_name(f"{key}.ckpt")
    facts = computed_once(folder, WHAT, lambda scratch: _train(config, dataset, saved, scratch, device))
    checkpoint.remove(saved)
    return _stored(config, folder, facts).to(device)


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


def _train(
    config: DetectionSettings, dataset: Dataset, saved: Path, scratch: Path, device: torch.device | str
) -> dict[str, Any]:
    """Trains a detector and writes it into a folder; returns what it is, as plain data."""
    for killed in saved.parent.glob(f".{saved.name}.*.tmp"):  # left half-written; ours alone, for we hold the lock
        killed.unlink(missing_ok=True)
    data = config.data.of_base()
    val = open_split(data, "val") if config.base.patience is not None and data.has("val") else None
    start = None if config.base.start is None else starting_weights(config.base, architecture(config.base.architecture))
    model, seconds = train_base(config, dataset, device, saved, val, start)
    torch.save({name: v.cpu().contiguous() for name, v in model.state_dict().items()}, scratch / "model.pt")
    return {
        **_identity(config),
        "category_ids": list(dataset.categories),
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_seconds": round(seconds, 1),
    }
