"""The network f(x, y) of detection: one value for each class, its hidden layers started from a base detector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebmbench.boxes.energy import BoxHead
from ebmbench.core.rng import Draws

BINS = 7
"""Along each side of a box, as in the box heads that the hidden layers start from."""


class ClassHead(BoxHead):
    """One value for each class; the context of a target is its label, from 1, and f is output label − 1."""

    @override
    def choose(self, values: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None
        return values.gather(1, context[:, None] - 1)[:, 0]

    @staticmethod
    def start(
        base_layers: tuple[nn.Linear, nn.Linear], num_classes: int, activation: str, from_base: bool, draws: Draws
    ) -> ClassHead:
        """Returns a head of the shape of the base's box head, the last layer of standard deviation 0.001 and bias zero.

        Args:
            base_layers: the base's two hidden layers, the first on channels-first features `[C · 7 · 7]`.
            num_classes: without background.
            from_base: the hidden layers start from the base's weights; else as a fresh `nn.Linear` would.
            draws: where the random weights come from, unstacked.
        """
        first, second = base_layers
        channels = first.in_features // BINS**2
        head = ClassHead(channels, (first.out_features, second.out_features), num_classes, activation, BINS)
        head.initialise(draws)
        if from_base:
            with torch.no_grad():
                channels_first = first.weight.unflatten(1, (channels, BINS * BINS))
                head.fc6.weight.copy_(channels_first.transpose(1, 2).flatten(1))
                head.fc7.weight.copy_(second.weight)
                head.fc6.bias.copy_(first.bias)
                head.fc7.bias.copy_(second.bias)
        return head.to(first.weight.device)

    def trained(self, frozen: bool) -> dict[str, nn.Parameter]:
        """Returns the parameters that learn, by name: all, or those of the last layer."""
        return {name: p for name, p in self.named_parameters() if not frozen or name.startswith("energy.")}
