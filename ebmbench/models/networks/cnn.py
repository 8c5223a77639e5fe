"""The energy network for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.models.networks.encoded import CHANNELS, Activation, Channels, Encoded
from ebmbench.models.networks.energy_head import WithEnergyHead

if TYPE_CHECKING:
    from ebmbench.models.networks.encoders import Encoder


class WithCNN(Encoded):
    """A network whose encoder is a small CNN, for images `[C, H, W]`."""

    channels: Channels = Field(CHANNELS, min_length=1, max_length=16, description="of the convolutions")
    width: int = Field(64, ge=1, le=65_536, description="features of x")
    activation: Activation = Field("silu", description="of the encoder")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the features set to zero in training")

    @override
    def encoder_of(self, x_shape: tuple[int, ...]) -> Encoder:
        from ebmbench.models.networks.encoders import CNNEncoder

        self.images_only("cnn", x_shape)
        return CNNEncoder(x_shape, self.channels, self.width, self.activation, self.dropout)


@register
class CNN(WithEnergyHead, WithCNN):
    """A small CNN with GroupNorm for images, and a head that joins its features with y."""

    name = "cnn"
    trial_shape = (3, 32, 32)
