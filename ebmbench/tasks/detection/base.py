"""The frozen base detector: a torchvision Faster R-CNN, loaded or trained here on the dataset at hand.

It gives what the energy builds on: the feature maps of an image, the weights of the box head that the energy's hidden
layers start from, and the candidates that are to be refined. A detector trained here is stored under
`<results_dir>/base/<key>/`, the key a hash of the settings that made it: it is trained once, by the first run that
needs it, and shared by all methods and seeds. A training that was stopped goes on from `<results_dir>/base/<key>.ckpt`.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import math
import os
import sys
import tempfile
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from ebmbench import checkpoint
from ebmbench.errors import UserError
from ebmbench.interrupt import StopFlag
from ebmbench.tasks.detection import shapes
from ebmbench.tasks.detection.config import DetectionTask, ShapesData
from ebmbench.tasks.detection.data import Dataset, open_split

VERSION = 1
"""Raised when training a base detector comes to mean something else: it is a part of the key."""
CHECKPOINT_SECONDS = 60.0
"""How much of the training of a base detector a kill may lose."""
COCO_WEIGHTS = "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class SmallBackbone(nn.Module):
    """A BatchNorm ResNet with feature pyramid for the CPU: strides 4, 8 and 16, 64 channels each."""

    out_channels = 64

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 48, 80, 128)
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.stages = nn.ModuleList(
            nn.Sequential(_Residual(inputs, outputs, 2), _Residual(outputs, outputs, 1))
            for inputs, outputs in itertools.pairwise(widths)
        )
        self.fpn = FeaturePyramidNetwork(list(widths[1:]), self.out_channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for level, stage in enumerate(self.stages):
            x = stage(x)
            maps[str(level)] = x
        return cast(dict[str, Tensor], self.fpn(maps))


def build_model(architecture: str, num_classes: int, short_side: int, long_side: int) -> FasterRCNN:
    """A Faster R-CNN with random weights.

    Both architectures keep torchvision's rule for the pyramid level of a box (canonical size 224). In images of 128
    pixels, or of 320, it sends nearly every box to the finest level, knowingly: localisation lives there, and f has
    no jump where a perturbed box would change its level. `resnet50` has the frozen BatchNorm of torchvision's own
    checkpoints; `small` is trained from scratch with live BatchNorm, whose statistics are frozen afterwards.

    Args:
        num_classes: with the background.
        short_side: images are resized to this short side, at most `long_side` long.
    """
    if architecture == "resnet50":
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5)
        return FasterRCNN(backbone, num_classes, min_size=short_side, max_size=long_side)
    backbone = SmallBackbone()
    return FasterRCNN(
        backbone,
        min_size=short_side,
        max_size=long_side,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3),
        rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=200,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=48,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(backbone.out_channels * 49, 256),
        box_predictor=FastRCNNPredictor(256, num_classes),
    )


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
    data = config.data.model_dump(mode="json")
    for evaluation_only in ("eval_split", "num_test"):
        data.pop(evaluation_only, None)
    if isinstance(config.data, ShapesData):
        data["version"] = shapes.VERSION
    base = config.base.model_dump(mode="json")
    base.pop("feature_cache_mb")
    return {"version": VERSION, "data": data, "base": base}


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
        with _seeded(config.base.seed):
            model = build_model(config.base.architecture, len(dataset.categories) + 1, data.short_side, data.long_side)
        return BaseDetector(model, list(dataset.categories)).to(device)
    state, source = _checkpoint(weights)
    predictor = state.get("roi_heads.box_predictor.cls_score.weight")
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
    """A checkpoint's labels: COCO's category ids if it has COCO's 91 outputs, else the dataset's ids in order."""
    if num_classes == 91:
        ids = list(range(1, 91))
        unknown = [category for category in dataset.categories if category not in ids]
        if unknown:
            raise UserError(f"{source} does not know category {unknown[0]} of the dataset; it knows COCO's, 1 to 90.")
        return ids
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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a file that is no checkpoint
        raise UserError(
            f"task.base.weights: {path} is not a checkpoint that can be loaded safely: {error!s:.160}"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]  # as torchvision's reference training scripts save it
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"task.base.weights: {path} holds no model's state (a dictionary of tensors).")
    return state, str(path)


def _trained(config: DetectionTask, results_dir: Path, device: torch.device | str) -> BaseDetector:
    key = base_key(config)
    folder = results_dir / "base" / key
    if not (folder / "base.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):  # a second process waits here, then finds it done
            if not (folder / "base.json").exists():
                _train_and_store(config, folder, device)
    facts = json.loads((folder / "base.json").read_text())
    data = config.data
    model = build_model(config.base.architecture, len(facts["category_ids"]) + 1, data.short_side, data.long_side)
    model.load_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True))
    return BaseDetector(model, facts["category_ids"])


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


def train_base(
    config: DetectionTask, dataset: Dataset, device: torch.device | str, saved: Path | None = None
) -> tuple[FasterRCNN, float]:
    """Trains a detector from scratch: AdamW, linear warm-up, cosine to zero, horizontal flips.

    Deterministic for the same settings, number of threads and device, also when it was stopped in between.

    Args:
        saved: the checkpoint that it goes on from, and that it writes; the caller deletes it.

    Returns:
        The detector, and the seconds that its training took.

    Raises:
        Interrupted: a signal came; a checkpoint was saved.
        UserError: the loss is not finite.
    """
    base, data = config.base, config.data
    label_of = {category: label for label, category in enumerate(dataset.categories, start=1)}
    _say(
        f"Training the base detector ({base.architecture}, {base.iterations} iterations of {base.batch_size} images); "
        "it is stored and shared by all methods and seeds."
    )
    with _seeded(base.seed), StopFlag() as stop, stop.deferred():
        model = build_model(base.architecture, len(dataset.categories) + 1, data.short_side, data.long_side).to(device)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=base.learning_rate, weight_decay=base.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / max(base.warmup, 1), 0.5 + 0.5 * math.cos(math.pi * step / base.iterations)),
        )
        training = _Training(model, optimizer, schedule, torch.device(device))
        if saved is not None:
            training.restore(saved)
        started, last_save = time.perf_counter() - training.seconds, time.monotonic()
        for step in range(training.step, base.iterations):
            images: list[Tensor] = []
            targets: list[dict[str, Tensor]] = []
            while len(images) < base.batch_size:
                example = dataset.load(training.next_index(len(dataset.image_ids)))
                if example is None:
                    continue
                image, boxes = example.image.to(device).float() / 255, example.boxes.to(device)
                if torch.rand(()) < 0.5:
                    image, boxes = image.flip(-1), flip_boxes(boxes, image.shape[-1])
                labels = torch.tensor([label_of[c] for c in example.categories.tolist()], device=device)
                images.append(image)
                targets.append({"boxes": boxes, "labels": labels})
            loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            training.running += float(loss.detach())
            if not math.isfinite(training.running):
                if saved is not None:
                    checkpoint.remove(saved)  # other settings have another key: nothing goes on from it
                raise UserError(
                    f"Training the base detector diverged at step {step}: lower task.base.learning_rate "
                    f"({base.learning_rate})."
                )
            training.step, training.seconds = step + 1, time.perf_counter() - started
            if (step + 1) % 50 == 0 or step + 1 == base.iterations:
                each = training.seconds / (step + 1)
                left = each * (base.iterations - step - 1)
                _say(
                    f"  base detector {step + 1}/{base.iterations}  loss {training.running / ((step % 50) + 1):.3f}  "
                    f"{1 / each:.1f} steps/s  {left:.0f} s left"
                )
                training.running = 0.0
            due = time.monotonic() - last_save >= CHECKPOINT_SECONDS or step + 1 == base.iterations
            if saved is not None and (due or stop.signum is not None):
                training.save(saved)
                last_save = time.monotonic()
            stop.check()
    stop.check()  # a signal since the last step: it was taken from who waits for it outside
    return model, training.seconds


@dataclass
class _Training:
    """The training of a base detector between two steps: all that the rest of it depends on."""

    model: FasterRCNN
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    device: torch.device
    step: int = 0
    seconds: float = 0.0
    running: float = 0.0  # sum of the losses since they were last shown
    order: list[int] = field(default_factory=list)  # what is left of the epoch's images, the next one last

    def next_index(self, count: int) -> int:
        """The next image of an endless row of permutations."""
        if not self.order:
            self.order = torch.randperm(count).tolist()[::-1]
        return self.order.pop()

    def _made_on(self) -> dict[str, Any]:
        """What another result than an uninterrupted training's can come from."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {"device": name, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "running": self.running,
            "order": torch.tensor(self.order, dtype=torch.int64),
            # The order, the flips and torchvision's sampling of anchors and proposals draw from these.
            "generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "made_on": self._made_on(),
        }
        checkpoint.save(path, state)

    def restore(self, path: Path) -> None:
        state = checkpoint.load(path)
        if state is None:
            return
        now, then = self._made_on(), state["made_on"]
        changed = [f"{name} {then.get(name)} then and {now[name]} now" for name in now if then.get(name) != now[name]]
        if changed:
            text = f"the base detector's training goes on with {', '.join(changed)}"
            warnings.warn(f"{text}: the result is not bit for bit an uninterrupted one's", stacklevel=2)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.seconds, self.running = state["step"], state["seconds"], state["running"]
        self.order = state["order"].tolist()
        torch.set_rng_state(state["generator"])
        if self.device.type == "cuda" and state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)
        _say(f"  base detector: goes on from step {self.step}")


def flip_boxes(boxes: Tensor, width: float) -> Tensor:
    """Boxes of the horizontally flipped image: `[..., 4] -> [..., 4]`."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((width - x2, y1, width - x1, y2), dim=-1)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torchvision's sampling draws from the global generators: seed them, and restore them afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
