"""The network of tracking: features of a search crop, pooled at a box and modulated by the target's first look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from typing_extensions import override

from ebmbench.boxes.energy import BoxEnergy, BoxHead
from ebmbench.boxes.pooling import Pyramid, pool_boxes
from ebmbench.core.errors import UserError, first_line
from ebmbench.tasks.detection.architectures import architecture, kind_of
from ebmbench.tasks.tracking.config import ModelConfig

TEMPLATE_BINS = 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the images that torchvision's backbones were trained on."""


class _Residual(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.body = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), conv)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Small(nn.Module):
    """A backbone of 0.1 M parameters for the CPU, trained with f."""

    channels, stride = 32, 4

    def __init__(self) -> None:
        super().__init__()
        stem = (nn.Conv2d(3, 16, 5, 2, 2), nn.SiLU(), nn.Conv2d(16, self.channels, 3, 2, 1))
        blocks = (_Residual(self.channels, dilation) for dilation in (1, 2, 1))
        self.body = nn.Sequential(*stem, *blocks, nn.GroupNorm(8, self.channels))

    @override
    def forward(self, crops: Tensor) -> Tensor:
        """Returns features `[B, C, side / 4, side / 4]` of crops that do not depend on their light and contrast."""
        mean, std = crops.mean((2, 3), keepdim=True), crops.std((1, 2, 3), keepdim=True)
        features: Tensor = self.body((crops - mean) / (std + 0.02))
        return features


class Frozen(nn.Module):
    """A trained backbone that stays as it is.

    Args:
        body: from normalised images to a map of features.
    """

    def __init__(self, body: nn.Module, channels: int, stride: int) -> None:
        super().__init__()
        self.body, self.channels, self.stride = body.eval().requires_grad_(False), channels, stride

    @override
    def train(self, mode: bool = True) -> Frozen:
        return self

    @torch.no_grad()
    @override
    def forward(self, crops: Tensor) -> Tensor:
        mean, std = (crops.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        features = self.body((crops - mean) / std)
        return next(iter(features.values())) if isinstance(features, dict) else features


def _backbone(config: ModelConfig) -> Small | Frozen:
    if config.weights is None:
        return Small()
    try:
        state = torch.load(Path(config.weights).expanduser(), map_location="cpu", weights_only=True)
        state = state.get("model", state)
    except Exception as error:
        raise UserError(f"task.model.weights={config.weights} cannot be read ({first_line(error)})") from None
    try:
        if config.backbone == "detector":
            return _detector(state)
        net: Any = getattr(torchvision.models, config.backbone)()
        net.fc = nn.Identity()
        net.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"task.model.weights={config.weights} does not fit task.model.backbone={config.backbone} "
            f"({first_line(error)})"
        ) from None
    # Up to the second stage: stride 8, as fine as boxes of a crop need.
    body = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2)
    return Frozen(body, 512 if config.backbone == "resnet50" else 128, 8)


def _detector(state: dict[str, Tensor]) -> Frozen:
    """Returns the backbone of a base detector of task=detection: its finest map."""
    kind = architecture("small" if "backbone.stem.0.weight" in state else kind_of(state) or "resnet50")
    model: Any = kind.build(kind.num_classes(state), 128, 128)
    model.load_state_dict(state)
    return Frozen(model.backbone, model.backbone.out_channels, kind.strides[0])


class TemplateHead(BoxHead):
    """A head whose pooled features are multiplied by the template: by its vector, and bin by bin by its own features.

    The context of a target holds both, `[K, C + bins² C]`.
    """

    @override
    def condition(self, pooled: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None
        vector, features = context.split([pooled.shape[-1], context.shape[-1] - pooled.shape[-1]], dim=1)
        return torch.cat((pooled * vector[:, None, None], pooled * features.view(pooled.shape)), dim=-1)


class TrackingNet(nn.Module):
    """The energy of boxes in search crops, given the target's crop and box in the first frame."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = _backbone(config)
        channels = self.backbone.channels
        self.template = nn.Sequential(
            nn.Linear(TEMPLATE_BINS**2 * channels, config.hidden), nn.SiLU(), nn.Linear(config.hidden, channels)
        )
        self.head = TemplateHead(2 * channels, (config.hidden, config.hidden), 1, config.activation)

    def look(self, crops: Tensor, boxes: Tensor) -> Tensor:
        """Returns what the head knows of templates: crops `[B, 3, side, side]`, their boxes `[B, 4]` -> `[B, K]`."""
        images = torch.arange(len(boxes), device=boxes.device)
        where = self.pyramid(crops), boxes, images, torch.zeros_like(images)
        vector = 1 + self.template(pool_boxes(*where, TEMPLATE_BINS).flatten(1))
        return torch.cat((vector, pool_boxes(*where, self.head.bins).flatten(1)), dim=1)

    def pyramid(self, crops: Tensor) -> Pyramid:
        """Returns the features of crops."""
        return Pyramid.from_maps([self.backbone(crops)], [self.backbone.stride])

    def energy(
        self, pyramid: Pyramid, reference: Tensor, images: Tensor, vectors: Tensor, temperature: float = 1.0
    ) -> BoxEnergy:
        """Returns the energy of boxes relative to `reference [N, 4]` in crops `images [N]`, of templates `[N, K]`."""
        return BoxEnergy(self.head, pyramid, reference, images, vectors, temperature=temperature)

    def trained(self) -> dict[str, nn.Parameter]:
        """Returns the parameters that learn, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}
