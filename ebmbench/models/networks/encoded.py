"""Settings of networks that are an encoder of x and a head, as every network of this package but the paper's is."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.settings import Component

if TYPE_CHECKING:
    from torch import nn

    from ebmbench.models.networks.encoders import Encoder

Activation = Literal["silu", "gelu", "elu", "tanh", "relu"]

Channels = tuple[Annotated[int, Field(ge=1, le=65_536)], ...]
CHANNELS = (16, 32, 64)
"""Of the CNN's convolutions; each halves the size of the image."""


class Encoded(Component):
    """A network or density that is made of an encoder of x and a head. A subclass defines both."""

    @abstractmethod
    def encoder_of(self, x_shape: tuple[int, ...]) -> Encoder:
        """Returns a module that maps inputs `[B, *x_shape]` to features `[B, num_features]`, an attribute of it.

        Raises:
            UserError: there is none for inputs of this shape.
        """

    @abstractmethod
    def head(self, features: int, dim: int) -> nn.Module:
        """Returns a module that maps h `[B, features]` and y `[B, M, dim]` to f `[B, M]`.

        Its attribute `normalised` says that f is `log p(y|x)`.
        """

    def build(self, x_shape: tuple[int, ...], dim: int) -> nn.Module:
        """Returns the encoder with the head."""
        from ebmbench.models.networks.encoders import EncoderAndHead

        encoder = self.encoder_of(x_shape)
        return EncoderAndHead(encoder, self.head(encoder.num_features, dim))

    def images_only(self, encoder: str, x_shape: tuple[int, ...]) -> None:
        """Raises UserError unless an input is an image `[C, H, W]`."""
        if len(x_shape) != 3:
            raise UserError(
                f"{self.group}={self.registered()} with a {encoder} encoder takes images [channels, height, width]; "
                f"an input here has the shape {list(x_shape)}: choose network=mlp, or model.encoder=mlp"
            )


def encoder_tuning(group: str) -> dict[str, object]:
    """Returns what `tune` searches of an encoder whose settings belong to `network` or to `model`."""
    return {f"{group}.activation": ["silu", "tanh", "relu"], f"{group}.dropout": [0.0, 0.05, 0.1]}


class WithMLP(Encoded):
    """A network whose encoder is an MLP on all numbers of x."""

    tuning = encoder_tuning("network")

    depth: int = Field(2, ge=0, le=64, description="layers of the encoder")
    width: int = Field(50, ge=1, le=65_536, description="units of a layer of the encoder")
    activation: Activation = Field("silu", description="of the encoder")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the encoder's activations set to zero in training")
    residual: bool = Field(False, description="whether a layer of the encoder adds its input to its output")

    @override
    def encoder_of(self, x_shape: tuple[int, ...]) -> Encoder:
        from ebmbench.models.networks.encoders import MLPEncoder

        return MLPEncoder(x_shape, self.depth, self.width, self.activation, self.dropout, self.residual)


class WithAnyEncoder(WithMLP):
    """A network that takes tables and images; its encoder is an MLP, a CNN or a ResNet-18."""

    encoder: Literal["auto", "mlp", "cnn", "resnet18"] = Field(
        "auto", description="mlp, cnn or resnet18; auto: cnn for images [C, H, W], mlp for all else"
    )
    channels: Channels = Field(CHANNELS, min_length=1, max_length=16, description="of the cnn's convolutions")
    weights: str | None = Field(None, description="file with torchvision's weights, for resnet18")

    @override
    def encoder_of(self, x_shape: tuple[int, ...]) -> Encoder:
        from ebmbench.models.networks.encoders import CNNEncoder, ResNet18Encoder

        kind = self.encoder
        if kind == "auto":
            kind = "cnn" if len(x_shape) == 3 else "mlp"
        if self.weights and kind != "resnet18":
            raise UserError(
                f"{self.group}.weights={self.weights} contradicts a {kind} encoder: weights are for resnet18"
            )
        if kind == "mlp":
            return super().encoder_of(x_shape)
        self.images_only(kind, x_shape)
        if kind == "resnet18":
            return ResNet18Encoder(x_shape, Path(self.weights) if self.weights else None)
        return CNNEncoder(x_shape, self.channels, self.width, self.activation, self.dropout)
