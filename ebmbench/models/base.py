"""What a model is: settings, and S of it side by side."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from ebmbench.core.registry import register
from ebmbench.core.settings import Component
from ebmbench.models.stack import Place, Stack

if TYPE_CHECKING:
    from torch import nn


class Model(Component):
    """What gives p(y|x) in `task=regression`. Its fields are its settings (`model.<field>`).

    It is of one of three kinds: an energy, whose name in tables is that of its method; a `DensityModel`; an `Outside`.

    Attributes of the class:
        name: what users type, and what tables call it.
        reference: who published it.
        color, marker, order: how figures and tables show it, as those of a method.
        uses_method: whether a method trains it, with a network.
        trains_in_steps: whether the engine trains it, with the settings of `trainer`.
        trial_shape: the shape of x with which `ebmbench check` tries it.
    """

    group: ClassVar[str] = "model"
    name: ClassVar[str]
    reference: ClassVar[str] = ""
    color: ClassVar[str] = "#5b5c5e"
    marker: ClassVar[str] = "o"
    order: ClassVar[int] = 1000
    uses_method: ClassVar[bool] = False
    trains_in_steps: ClassVar[bool] = True
    trial_shape: ClassVar[tuple[int, ...]] = (3,)


@register
class EBM(Model):
    """An energy-based model: a network f(x, y), a method that trains it, and the proposal that this draws from."""

    name = "ebm"
    uses_method = True
    order = 0


class DensityModel(Model):
    """A model that is normalised by construction, trained by its exact likelihood.

    A subclass defines `build`. Its module's f is `log p(y|x)`, and the module says so: its attribute `normalised` is
    True.
    """

    @abstractmethod
    def build(self, x_shape: tuple[int, ...], dim: int) -> nn.Module:
        """Returns a module, as `Network.build` does."""

    def stack(self, x_shape: tuple[int, ...], dim: int, place: Place) -> Stack:
        """Returns S models side by side."""
        from ebmbench.models.module_stack import ModuleStack

        return ModuleStack(lambda: self.build(x_shape, dim), place.seeds, place.device, place.dtype)
