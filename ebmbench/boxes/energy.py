"""The energy of a box: a network on its pooled features, as methods and refinement see it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebmbench.boxes.coordinates import to_boxes
from ebmbench.boxes.pooling import Pyramid, assign_levels, pool_boxes
from ebmbench.core.energy import AutogradEnergy
from ebmbench.core.rng import Draws

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "softplus": F.softplus,
    "silu": F.silu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


class BoxHead(nn.Module):
    """`f` from the pooled features of a box: fc, activation, fc, activation, fc to one or several values.

    A subclass that uses the context of a target (its class, the vector of a template) overrides `condition`, `choose`,
    or both.

    Args:
        channels: of the feature maps.
        hidden: width of the two hidden layers.
        outputs: values of the last layer.
        activation: one of ACTIVATIONS. Only a smooth one has a curvature that `sm` and `dsm` can see.
        bins: along each side of a box, for the pooling.
    """

    def __init__(
        self, channels: int, hidden: tuple[int, int], outputs: int = 1, activation: str = "relu", bins: int = 7
    ) -> None:
        super().__init__()
        self.bins, self.activation = bins, ACTIVATIONS[activation]
        self.fc6 = nn.Linear(bins * bins * channels, hidden[0])
        self.fc7 = nn.Linear(hidden[0], hidden[1])
        self.energy = nn.Linear(hidden[1], outputs)

    def initialise(self, draws: Draws) -> Self:
        """Sets all weights from draws: hidden layers as `nn.Linear` does, the last one N(0, 0.001²), its bias zero."""
        with torch.no_grad():
            for name, layer in self.named_modules():
                if isinstance(layer, nn.Linear):
                    bound = 1 / math.sqrt(layer.in_features)
                    for part, parameter in layer.named_parameters():
                        uniform = draws.uniform(f"head/{name}/{part}", parameter.shape)
                        parameter.copy_(bound * (2 * uniform - 1))
            self.energy.weight.copy_(0.001 * draws.normal("head/energy", self.energy.weight.shape))
            self.energy.bias.zero_()
        return self

    def condition(self, pooled: Tensor, context: Tensor | None) -> Tensor:
        """Returns the pooled features `[K, bins, bins, C]` as the contexts of their targets change them."""
        return pooled

    def choose(self, values: Tensor, context: Tensor | None) -> Tensor:
        """Returns `f` of each box from the values of the last layer: `[K, outputs] -> [K]`; the first one."""
        return values[:, 0]

    def forward(self, pooled: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns `f` of K boxes, `[K]`; the last layer is never in half precision.

        Args:
            pooled: `[K, bins, bins, C]`.
            context: of the target of each box, `[K, ...]`.
        """
        hidden = self.hidden(pooled, context)
        with torch.autocast(hidden.device.type, enabled=False):
            values = self.energy(hidden.to(self.energy.weight.dtype))
        return self.choose(values, context)

    def hidden(self, pooled: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the layer before the values, `[K, hidden]`; the arguments are those of `forward`."""
        features = self.condition(pooled, context).flatten(1)
        hidden: Tensor = self.activation(self.fc7(self.activation(self.fc6(features))))
        return hidden


class BoxEnergy:
    """The Energy of N target boxes: `f(x, ·)` at candidates `y [N, M, 4]` in their relative coordinates.

    It closes over the features, and is differentiable in y and in the network's parameters (and in the features and the
    context, where those require gradients).

    Args:
        head: the network.
        pyramid: features of the images.
        reference: `[N, 4]` x1 y1 x2 y2 in pixels, of positive size: the boxes that the coordinates are relative to.
        images: `[N]` int64, the image of each.
        context: what the network knows of each target beside its image, `[N, ...]`: its class, a template's vector.
        keep_level: the candidates of a target share its pyramid level, so that f is continuous in y; else each
            candidate takes the level that fits it, as a detector's box head does, and f jumps where that changes.
        max_boxes: candidates that are computed at a time where no graph is kept; bounds the memory (a candidate's
            features are bins² · C numbers), and changes no result.
        temperature: f is the network's value divided by it.
    """

    def __init__(
        self,
        head: BoxHead,
        pyramid: Pyramid,
        reference: Tensor,
        images: Tensor,
        context: Tensor | None = None,
        keep_level: bool = True,
        max_boxes: int = 16384,
        temperature: float = 1.0,
    ) -> None:
        self.head, self.pyramid = head, pyramid
        self.reference, self.images, self.context = reference.double(), images, context
        self.keep_level, self.max_boxes, self.temperature = keep_level, max_boxes, temperature

    def __len__(self) -> int:
        return len(self.reference)

    def of(self, rows: Tensor) -> BoxEnergy:
        """Returns the energy of some of the target boxes."""
        context = None if self.context is None else self.context[rows]
        rest = self.keep_level, self.max_boxes, self.temperature
        return BoxEnergy(self.head, self.pyramid, self.reference[rows], self.images[rows], context, *rest)

    def boxes(self, y: Tensor) -> Tensor:
        """Returns candidates as boxes x1 y1 x2 y2 in pixels: `[N, M, 4] -> [N, M, 4]`, float32."""
        return to_boxes(y.double(), self.reference[:, None]).float()

    def __call__(self, y: Tensor) -> Tensor:
        """Returns `f(x, y)`: y `[..., M, D]` -> `[..., M]`."""
        flat, targets = self._flat(y)
        if torch.is_grad_enabled():
            return self._values(flat, targets).view(y.shape[:-1])
        chunks = zip(flat.split(self.max_boxes), targets.split(self.max_boxes), strict=True)
        return torch.cat([self._values(*chunk) for chunk in chunks]).view(y.shape[:-1])

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns `∂f/∂y`, `[..., M, D]`; with `create_graph` it can be differentiated again."""
        if not create_graph:
            return self.value_and_grad(y)[1]
        return AutogradEnergy(self).grad(y, create_graph=True)

    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `f` `[N, M]` and `∂f/∂y` `[N, M, 4]`, both detached."""
        flat, targets = self._flat(y.detach())
        values, grads = [], []
        with torch.enable_grad():
            for part, of in zip(flat.split(self.max_boxes), targets.split(self.max_boxes), strict=True):
                point = part.detach().requires_grad_()
                value = self._values(point, of)
                grads.append(torch.autograd.grad(value.sum(), point)[0])
                values.append(value.detach())
        return torch.cat(values).view(y.shape[:-1]), torch.cat(grads).view(y.shape)

    @torch.no_grad()
    def features(self) -> Tensor:
        """Returns the last hidden layer of the network at the target boxes themselves, detached, `[N, hidden]`."""
        targets = torch.arange(len(self), device=self.reference.device)
        pooled = self._pooled(self.reference.new_zeros(len(self), 4), targets)
        return self.head.hidden(pooled, self.context)

    def _flat(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns all candidates `[N · M, 4]`, and the target of each `[N · M]`."""
        targets = torch.arange(y.shape[0], device=y.device).repeat_interleave(y.shape[1])
        return y.reshape(-1, 4), targets

    def _values(self, y: Tensor, targets: Tensor) -> Tensor:
        context = None if self.context is None else self.context[targets]
        value: Tensor = self.head(self._pooled(y, targets), context)
        return value / self.temperature

    def _pooled(self, y: Tensor, targets: Tensor) -> Tensor:
        reference = self.reference[targets]
        boxes = to_boxes(y.double(), reference)
        levels = assign_levels(reference if self.keep_level else boxes, self.pyramid.strides)
        return pool_boxes(self.pyramid, boxes, self.images[targets], levels, self.head.bins)
