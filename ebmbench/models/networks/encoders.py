"""The modules that encode x: from x to its features `[B, F]`."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebmbench.core.errors import UserError, first_line
from ebmbench.models.networks.dropout import Dropout

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


class MLPEncoder(nn.Module):
    """Layers of equal width on all numbers of x: Linear, activation, dropout, each time.

    Args:
        residual: adds a layer's input to its output, from the second layer on.
    """

    def __init__(
        self, x_shape: tuple[int, ...], depth: int, width: int, activation: str, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        inputs = math.prod(x_shape)
        self.residual = residual
        self.num_features = width if depth else inputs
        sizes = [inputs, *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.dropouts = nn.ModuleList(Dropout(dropout) for _ in self.layers)
        self.activation = ACTIVATIONS[activation]()

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = x.reshape(len(x), -1)
        for index, (layer, dropout) in enumerate(zip(self.layers, self.dropouts, strict=True)):
            out = dropout(self.activation(layer(h)))
            h = h + out if self.residual and index else out
        return h


class CNNEncoder(nn.Module):
    """For images `[C, H, W]`: convolutions 3×3 that halve the size, GroupNorm, activation; then a layer on a 4×4 grid.

    The grid keeps where things are, roughly: a mean over the whole image would lose it.
    """

    def __init__(
        self, x_shape: tuple[int, ...], channels: tuple[int, ...], features: int, activation: str, dropout: float
    ) -> None:
        super().__init__()
        self.num_features = features
        blocks: list[nn.Module] = []
        sizes = [x_shape[0], *channels]
        for inputs, outputs in pairwise(sizes):
            blocks += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
                _group_norm(outputs),
                ACTIVATIONS[activation](),
            ]
        self.blocks = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.last = nn.Sequential(nn.Linear(16 * channels[-1], features), ACTIVATIONS[activation](), Dropout(dropout))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.blocks(x)))


class ResNet18Encoder(nn.Module):
    """torchvision's ResNet-18 without its last layer, for images `[C, H, W]`; 512 features.

    GroupNorm stands in for BatchNorm, whose running statistics are no function of the parameters alone, so that models
    could not be stacked.

    Args:
        weights: a file with torchvision's weights of `resnet18`; without one the weights are random.
    """

    num_features = 512

    def __init__(self, x_shape: tuple[int, ...], weights: Path | None = None) -> None:
        from torchvision.models import resnet18  # seconds, which no other network should wait for

        super().__init__()
        net = resnet18(norm_layer=_group_norm)
        net.fc = nn.Identity()
        if weights is not None:
            _load(net, weights)
        if x_shape[0] != 3:
            net.conv1 = _first_layer(net.conv1, x_shape[0])
        self.net = net

    @override
    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.net(x))


Encoder = MLPEncoder | CNNEncoder | ResNet18Encoder


def _group_norm(channels: int) -> nn.Module:
    """Returns a GroupNorm with groups of at least four channels, at most 32 groups."""
    return nn.GroupNorm(math.gcd(max(1, min(32, channels // 4)), channels), channels)


def _first_layer(old: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Returns the first layer for another number of channels: each takes the mean of the old ones' weights."""
    new = nn.Conv2d(channels, old.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    with torch.no_grad():
        new.weight.copy_(old.weight.mean(1, keepdim=True) * old.in_channels / channels)
    return new


def _load(net: nn.Module, path: Path) -> None:
    """Loads the weights that fit, and says what is left out.

    Raises:
        UserError: there is no such file, or it holds no weights of a ResNet-18.
    """
    key = "network.weights"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{key}={path} cannot be read ({error.strerror or first_line(error)})") from None
    except Exception as error:  # torch.load raises many kinds for a file that is no checkpoint
        raise UserError(f"{key}={path} holds no weights of PyTorch ({type(error).__name__})") from None
    if isinstance(saved, dict) and isinstance(saved.get("state_dict"), dict):
        saved = saved["state_dict"]
    own = net.state_dict()
    there = saved if isinstance(saved, dict) else {}
    fitting = {name: there[name] for name in own if getattr(there.get(name), "shape", None) == own[name].shape}
    if len(fitting) < len(own):
        missing = next(name for name in own if name not in fitting)
        raise UserError(f"{key}={path} holds no weights of torchvision's resnet18: {missing} is missing there")
    net.load_state_dict(fitting)
    left_out = sorted(name for name in saved if name not in fitting and not _is_statistic(name))
    statistics = sum(_is_statistic(name) for name in saved)
    if left_out or statistics:
        warnings.warn(
            f"{path}: left out are {', '.join(left_out) or 'no weights'}, and {statistics} running statistics of "
            "BatchNorm, for which GroupNorm stands in",
            stacklevel=2,
        )


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


class EncoderAndHead(nn.Module):
    """An encoder `[B, ...] -> [B, F]`, and a head that maps features and candidates to f."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.num_features = encoder.num_features
        self.normalised = bool(getattr(head, "normalised", False))

    def encode(self, x: Tensor) -> Tensor:
        """Returns the features of x: `[B, ...] -> [B, F]`."""
        return cast(Tensor, self.encoder(x))

    def energy(self, h: Tensor, y: Tensor) -> Tensor:
        """Returns f at candidates: h `[B, F]`, y `[B, M, D]` -> `[B, M]`."""
        return cast(Tensor, self.head(h, y))
