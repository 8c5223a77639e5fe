"""The base detector's networks: torchvision's over a ResNet-50, a small one, and the interface for others."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from typing_extensions import override

from ebmbench.boxes.pooling import Pyramid, pool_boxes
from ebmbench.core import plugins
from ebmbench.core.errors import UserError
from ebmbench.core.sources import is_installed


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

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x.contiguous(memory_format=torch.channels_last))  # a tenth faster on the CPU
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for level, stage in enumerate(self.stages):
            x = stage(x)
            maps[str(level)] = x
        return cast(dict[str, Tensor], self.fpn(maps))


class PrecisePooling(nn.Module):
    """Pools the boxes of a box head as the energy does, in torchvision's layout: `[K, C, 7, 7]`.

    Its backward pass takes a fifth of the time of torchvision's RoIAlign on the CPU.
    """

    def __init__(self, levels: Sequence[str], strides: Sequence[int]) -> None:
        super().__init__()
        self.levels, self.strides = tuple(levels), tuple(strides)

    @override
    def forward(self, maps: Mapping[str, Tensor], boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Tensor:
        pyramid = Pyramid.from_maps([maps[level] for level in self.levels], self.strides)
        owner = torch.cat([torch.full((len(own),), image, device=own.device) for image, own in enumerate(boxes)])
        return pool_boxes(pyramid, torch.cat(list(boxes)), owner).permute(0, 3, 1, 2)


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


class Architecture(ABC):
    """A detector that an energy can stand on: what gives features, boxes and scores.

    A class of one's own is named by `task.base.architecture=MODULE:CLASS`. Its network is a module with torchvision's
    conventions: `transform` resizes and normalises a list of images, `backbone` gives feature maps by name, and in
    training `model(images, targets)` returns its losses. Label 0 is the background.

    Attributes of the class:
        levels: the feature maps that boxes are pooled from, finest first; each has half the size of the one before.
        strides: of these maps.
        mark: the ending of a parameter's name by which a checkpoint of this architecture is known.
        coco: where weights trained on COCO are, if anywhere.
    """

    levels: ClassVar[tuple[str, ...]] = ("0", "1", "2", "3")
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    mark: ClassVar[str] = ""
    coco: ClassVar[str] = ""

    @abstractmethod
    def build(self, num_classes: int, short_side: int, long_side: int) -> nn.Module:
        """Returns the network with random weights.

        Args:
            num_classes: with the background.
            short_side: images are resized to this short side, at most `long_side` long.
        """

    @abstractmethod
    def candidates(
        self, model: nn.Module, batch: ImageList, maps: dict[str, Tensor], score_threshold: float
    ) -> list[Candidates]:
        """Returns the class-specific boxes of each image whose class score is above the threshold, before any NMS.

        Args:
            batch: the resized images.
            maps: all feature maps of the backbone.
        """

    @abstractmethod
    def num_classes(self, state: Mapping[str, Tensor]) -> int:
        """Returns the number of classes of a checkpoint, with the background; KeyError for one of another kind."""

    def hidden_layers(self, model: nn.Module) -> tuple[nn.Linear, nn.Linear] | None:
        """Returns two layers on pooled features `[C · 7 · 7]` that the energy's start from; None if there are none."""
        return None


class _TwoStage(Architecture):
    """What Faster R-CNNs have in common."""

    mark = "roi_heads.box_predictor.cls_score.weight"

    @override
    def candidates(self, model: Any, batch: ImageList, maps: dict[str, Tensor], score_threshold: float) -> Any:
        proposals, _ = model.rpn(batch, maps)
        heads = model.roi_heads
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
        return found

    @override
    def num_classes(self, state: Mapping[str, Tensor]) -> int:
        return len(state["roi_heads.box_predictor.cls_score.weight"])

    @override
    def hidden_layers(self, model: Any) -> tuple[nn.Linear, nn.Linear] | None:
        head = model.roi_heads.box_head
        return (head.fc6, head.fc7) if isinstance(head, TwoMLPHead) else None


class Small(_TwoStage):
    """1.9 M parameters, for the CPU. Trained from scratch with live BatchNorm, whose statistics are frozen afterwards.

    It keeps torchvision's rule for the pyramid level of a box (canonical size 224), as the others do. In images of 128
    pixels, or of 320, it sends nearly every box to the finest level, knowingly: localisation lives there, and f has
    no jump where a perturbed box would change its level.
    """

    levels = ("0", "1", "2")
    strides = (4, 8, 16)

    @override
    def build(self, num_classes: int, short_side: int, long_side: int) -> nn.Module:
        backbone = SmallBackbone()
        model = FasterRCNN(
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
            box_head=TwoMLPHead(backbone.out_channels * 49, 256),
            box_predictor=FastRCNNPredictor(256, num_classes),
        )
        model.roi_heads.box_roi_pool = PrecisePooling(self.levels, self.strides)
        return model.to(memory_format=torch.channels_last)


class FasterRCNN50(_TwoStage):
    """torchvision's fasterrcnn_resnet50_fpn, with the frozen BatchNorm of its checkpoints."""

    coco = "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"

    @override
    def build(self, num_classes: int, short_side: int, long_side: int) -> nn.Module:
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5)
        return FasterRCNN(backbone, num_classes, min_size=short_side, max_size=long_side)


class FasterRCNN50V2(_TwoStage):
    """torchvision's fasterrcnn_resnet50_fpn_v2. Its box head begins with convolutions: the energy's starts afresh."""

    mark = "roi_heads.box_head.0.0.weight"
    coco = "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"

    @override
    def build(self, num_classes: int, short_side: int, long_side: int) -> nn.Module:
        made: nn.Module = fasterrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=num_classes, min_size=short_side, max_size=long_side
        )
        return made


class _OneStage(Architecture):
    """What RetinaNet and FCOS have in common: maps from stride 8 on, and scores at every place of them."""

    levels = ("0", "1", "2")
    strides = (8, 16, 32)
    network: ClassVar[type[RetinaNet] | type[FCOS]]
    anchors: ClassVar[int]

    @override
    def build(self, num_classes: int, short_side: int, long_side: int) -> nn.Module:
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50",
            weights=None,
            trainable_layers=5,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256),
        )
        model: nn.Module = self.network(backbone, num_classes, min_size=short_side, max_size=long_side)
        return model

    @override
    def candidates(self, model: Any, batch: ImageList, maps: dict[str, Tensor], score_threshold: float) -> Any:
        features = list(maps.values())
        places = [self.anchors * m.shape[-2] * m.shape[-1] for m in features]
        outputs = {name: list(value.split(places, 1)) for name, value in model.head(features).items()}
        anchors = [list(one.split(places)) for one in model.anchor_generator(batch, features)]
        model.score_thresh, model.nms_thresh, model.detections_per_img = score_threshold, 1.0, None  # all of them
        found = []
        for one in model.postprocess_detections(outputs, anchors, batch.image_sizes):
            boxes, scores, labels = one["boxes"], one["scores"], one["labels"]
            good = (labels > 0) & ((boxes[:, 2:] - boxes[:, :2]) >= 1e-2).all(-1)
            found.append(Candidates(boxes[good], scores[good], labels[good]))
        return found

    @override
    def num_classes(self, state: Mapping[str, Tensor]) -> int:
        return len(state["head.classification_head.cls_logits.weight"]) // self.anchors


class RetinaNet50(_OneStage):
    """torchvision's retinanet_resnet50_fpn."""

    mark = "head.classification_head.cls_logits.weight"
    coco = "https://download.pytorch.org/models/retinanet_resnet50_fpn_coco-eeacb38b.pth"
    network, anchors = RetinaNet, 9


class FCOS50(_OneStage):
    """torchvision's fcos_resnet50_fpn. A score is the root of class probability times centreness."""

    mark = "head.regression_head.bbox_ctrness.weight"
    coco = "https://download.pytorch.org/models/fcos_resnet50_fpn_coco-99b0c9b7.pth"
    network, anchors = FCOS, 1


ARCHITECTURES: dict[str, type[Architecture]] = {
    "small": Small,
    "resnet50": FasterRCNN50,
    "resnet50_v2": FasterRCNN50V2,
    "retinanet": RetinaNet50,
    "fcos": FCOS50,
}
"""By the name that users type."""


def architecture(name: str) -> Architecture:
    """Returns the architecture of this name, or of a class of one's own, `MODULE:CLASS`.

    The module is installed, or a plug-in of the run: a folder of results may name any other file beside it.

    Raises:
        UserError: there is none.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]()
    module, _, cls = name.partition(":")
    try:
        loaded = plugins.module_of(module) or sys.modules.get(module)
        spec = None if loaded else importlib.util.find_spec(module.partition(".")[0])
        places = [*filter(None, [spec.origin]), *(spec.submodule_search_locations or ())] if spec else []
        if not all(is_installed(Path(place)) for place in places if place not in ("built-in", "frozen")):
            raise UserError(f"task.base.architecture={name} is in a file of your own: name it in plugins=[FILE.py] too")
        found = getattr(loaded or importlib.import_module(module), cls)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"task.base.architecture={name} cannot be imported ({error})") from None
    if not (isinstance(found, type) and issubclass(found, Architecture)):
        raise UserError(f"task.base.architecture={name} is no subclass of {__name__}.Architecture")
    return found()


def kind_of(state: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the architecture that a checkpoint is of, None if it is of none."""
    marks = [(name, known.mark) for name, known in ARCHITECTURES.items() if name != "small"]
    # The later ones have what the earlier ones have, and more.
    found = [name for name, mark in marks if mark in state]
    return found[-1] if found else None
