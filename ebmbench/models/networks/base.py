"""What a network of regression is: settings, and how to build `f(x, y)`."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from ebmbench.core.settings import Component
from ebmbench.models.stack import Place, Stack

if TYPE_CHECKING:
    import torch
    from torch import nn


class Network(Component):
    """A network `f(x, y)` of inputs and candidate targets. Its fields are its settings (`network.<field>`).

    A subclass sets `name` and defines `build`.
    """

    group: ClassVar[str] = "network"
    name: ClassVar[str]
    reference: ClassVar[str] = ""
    trial_shape: ClassVar[tuple[int, ...]] = (3,)
    """The shape of x with which `ebmbench check` tries it."""

    @abstractmethod
    def build(self, x_shape: tuple[int, ...], dim: int) -> nn.Module:
        """Returns a module with `forward(x, y) -> f`, or with `encode(x) -> h` and `energy(h, y) -> f`.

        Shapes: x `[B, *x_shape]`, y `[B, M, dim]`, h `[B, num_features]` (an attribute of the module), f `[B, M]`.
        Inputs and targets are standardised. Its random initial weights come from PyTorch's global generator, which is
        seeded for each model.
        """

    def is_fused(self, backend: str, device: torch.device) -> bool:
        """Returns whether all of it runs on a compiled kernel, which keeps little memory for each evaluation of f."""
        return False

    def stack(self, x_shape: tuple[int, ...], dim: int, place: Place) -> Stack:
        """Returns S models side by side. A network with a faster way to run them defines this too."""
        from ebmbench.models.module_stack import ModuleStack

        return ModuleStack(lambda: self.build(x_shape, dim), place.seeds, place.device, place.dtype)
