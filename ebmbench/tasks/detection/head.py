"""The energy of a box: pooled features, two hidden layers, one value per class; and the boxes' relative coordinates.

Coordinates. A candidate y for a target box with centre (cx0, cy0) and size (w0, h0) is

    y = ((cx − cx0) / w0, (cy − cy0) / h0, log(w / w0), log(h / h0)),

the paper's (cx/w0, cy/h0, log w, log h) with the origin moved to the target. No method sees the shift, but float32
does: cx/w0 of a small box at the far side of an image has no room for the Langevin steps of 1e-5 of ml-mcmc.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebmbench.core.energy import AutogradEnergy
from ebmbench.core.rng import Draws
from ebmbench.tasks.detection.pooling import Pyramid, assign_levels, pool_boxes

BINS = 7
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "softplus": F.softplus,
    "silu": F.silu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


def to_relative(boxes: Tensor, reference: Tensor) -> Tensor:
    """Boxes x1 y1 x2 y2 in the relative coordinates of reference boxes: `[..., 4]`, broadcast.

    Both must have positive width and height.
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    reference_low, reference_high = reference[..., :2], reference[..., 2:]
    size = reference_high - reference_low
    centre = (low + high - reference_low - reference_high) / (2 * size)
    return torch.cat((centre, torch.log((high - low) / size)), dim=-1)


def to_boxes(y: Tensor, reference: Tensor) -> Tensor:
    """Relative coordinates as boxes x1 y1 x2 y2: `[..., 4]`, broadcast; the inverse of `to_relative`."""
    low, high = reference[..., :2], reference[..., 2:]
    size = high - low
    centre = (low + high) / 2 + y[..., :2] * size
    half = y[..., 2:].exp() * size / 2
    return torch.cat((centre - half, centre + half), dim=-1)


class EnergyHead(nn.Module):
    """`f` from the pooled features of a box: fc, activation, fc, activation, fc to one value per class.

    Args:
        channels: of the feature maps.
        hidden: width of the two hidden layers.
        num_classes: without background; a box of label l (1 to num_classes) takes output l − 1.
        activation: one of ACTIVATIONS. Only a smooth one has a curvature that `sm` and `dsm` can see.
    """

    def __init__(self, channels: int, hidden: tuple[int, int], num_classes: int, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.fc6 = nn.Linear(BINS * BINS * channels, hidden[0])
        self.fc7 = nn.Linear(hidden[0], hidden[1])
        self.energy = nn.Linear(hidden[1], num_classes)

    @staticmethod
    def start(
        base_layers: tuple[nn.Linear, nn.Linear], num_classes: int, activation: str, from_base: bool, draws: Draws
    ) -> EnergyHead:
        """A head of the base box head's shape, the last layer of standard deviation 0.001 and bias zero.

        Args:
            base_layers: the base's two hidden layers, the first on channels-first features `[C · 7 · 7]`.
            from_base: the hidden layers start from the base's weights; else as a fresh `nn.Linear` would.
            draws: where the random weights come from, unstacked.
        """
        first, second = base_layers
        channels = first.in_features // BINS**2
        head = EnergyHead(channels, (first.out_features, second.out_features), num_classes, activation)
        with torch.no_grad():
            for name, layer in head.named_children():
                assert isinstance(layer, nn.Linear)
                bound = 1 / math.sqrt(layer.in_features)
                for part, parameter in layer.named_parameters():
                    uniform = draws.uniform(f"head/{name}/{part}", parameter.shape)
                    parameter.copy_(bound * (2 * uniform - 1))
            if from_base:
                channels_first = first.weight.unflatten(1, (channels, BINS * BINS))
                head.fc6.weight.copy_(channels_first.transpose(1, 2).flatten(1))
                head.fc7.weight.copy_(second.weight)
                head.fc6.bias.copy_(first.bias)
                head.fc7.bias.copy_(second.bias)
            head.energy.weight.copy_(0.001 * draws.normal("head/energy", head.energy.weight.shape))
            head.energy.bias.zero_()
        return head.to(first.weight.device)

    def trained(self, frozen: bool) -> dict[str, nn.Parameter]:
        """Returns the parameters that learn, by name: all, or those of the last layer."""
        return {name: p for name, p in self.named_parameters() if not frozen or name.startswith("energy.")}

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """`f` of K boxes: features `[K, 7, 7, C]`, labels `[K]` -> `[K]`; the last layer is never in half precision."""
        hidden = self.hidden(pooled)
        with torch.autocast(hidden.device.type, enabled=False):
            values = self.energy(hidden.to(self.energy.weight.dtype))
        return values.gather(1, labels[:, None] - 1)[:, 0]

    def hidden(self, pooled: Tensor) -> Tensor:
        """The layer before the energies: features `[K, 7, 7, C]` -> `[K, hidden]`."""
        hidden: Tensor = self.activation(self.fc7(self.activation(self.fc6(pooled.flatten(1)))))
        return hidden


class BoxEnergy:
    """The Energy of N target boxes: `f(x, ·)` at candidates `y [N, M, 4]` in their relative coordinates.

    It closes over the frozen features, and differentiates in y and in the head's parameters.

    Args:
        head: the network.
        pyramid: features of the images.
        reference: `[N, 4]` x1 y1 x2 y2 in pixels, of positive size: the boxes that the coordinates are relative to.
        images: `[N]` int64, the image of each.
        labels: `[N]` int64, the class of each, from 1.
        keep_level: the candidates of a target share its pyramid level, so that f is continuous in y; else each
            candidate takes the level that fits it, as the base's box head does, and f jumps where that changes.
        max_boxes: candidates that are computed at a time where no graph is kept; bounds the memory (a candidate's
            features are 49 · C numbers), and changes no result.
    """

    def __init__(
        self,
        head: EnergyHead,
        pyramid: Pyramid,
        reference: Tensor,
        images: Tensor,
        labels: Tensor,
        keep_level: bool = True,
        max_boxes: int = 16384,
    ) -> None:
        self.head, self.pyramid = head, pyramid
        self.reference, self.images, self.labels = reference.double(), images, labels
        self.keep_level, self.max_boxes = keep_level, max_boxes

    def __len__(self) -> int:
        return len(self.reference)

    def of(self, rows: Tensor) -> BoxEnergy:
        """Returns the energy of some of the target boxes."""
        parts = self.reference[rows], self.images[rows], self.labels[rows]
        return BoxEnergy(self.head, self.pyramid, *parts, self.keep_level, self.max_boxes)

    def boxes(self, y: Tensor) -> Tensor:
        """Candidates as boxes x1 y1 x2 y2 in pixels: `[N, M, 4] -> [N, M, 4]`, float32."""
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
        """`f` `[N, M]` and `∂f/∂y` `[N, M, 4]`, both detached."""
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
        """What the network sees at the target boxes themselves: its last hidden layer, detached, `[N, hidden]`."""
        targets = torch.arange(len(self), device=self.reference.device)
        return self.head.hidden(self._pooled(self.reference.new_zeros(len(self), 4), targets))

    def _flat(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """All candidates `[N · M, 4]`, and the target of each `[N · M]`."""
        targets = torch.arange(y.shape[0], device=y.device).repeat_interleave(y.shape[1])
        return y.reshape(-1, 4), targets

    def _values(self, y: Tensor, targets: Tensor) -> Tensor:
        value: Tensor = self.head(self._pooled(y, targets), self.labels[targets])
        return value

    def _pooled(self, y: Tensor, targets: Tensor) -> Tensor:
        reference = self.reference[targets]
        boxes = to_boxes(y.double(), reference)
        levels = assign_levels(reference if self.keep_level else boxes, self.pyramid.strides)
        return pool_boxes(self.pyramid, boxes, self.images[targets], levels, BINS)
