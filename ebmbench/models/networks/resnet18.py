"""The energy network on torchvision's ResNet-18."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.models.networks.encoded import Encoded
from ebmbench.models.networks.energy_head import WithEnergyHead

if TYPE_CHECKING:
    from ebmbench.models.networks.encoders import Encoder


class WithResNet18(Encoded):
    """A network whose encoder is torchvision's ResNet-18, for images `[C, H, W]`."""

    weights: str | None = Field(None, description="file with torchvision's weights of resnet18; random without one")

    @override
    def encoder_of(self, x_shape: tuple[int, ...]) -> Encoder:
        from ebmbench.models.networks.encoders import ResNet18Encoder

        self.images_only("resnet18", x_shape)
        return ResNet18Encoder(x_shape, Path(self.weights) if self.weights else None)


@register
class ResNet18(WithEnergyHead, WithResNet18):
    """torchvision's ResNet-18 with GroupNorm in the place of BatchNorm, and a head that joins its features with y."""

    name = "resnet18"
    trial_shape = (3, 32, 32)
    reference = "He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016"
