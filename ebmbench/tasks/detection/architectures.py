"""The base detector's networks: torchvision's Faster R-CNN over a ResNet-50 or a small backbone for the CPU."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from typing_extensions import override


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
