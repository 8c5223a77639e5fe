"""The network of 1D regression, S models with stacked weights.

Features of x: Linear 1→10, ReLU, Linear 10→10, ReLU. Features of y: tanh(Linear 1→10). On the 20 concatenated:
h = tanh(Linear 20→10); twice h ← tanh(Linear 10→10 of h) + h; f = Linear 10→1 (Gustafsson et al., 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from typing_extensions import override

from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.errors import UserError
from ebmbench.core.registry import register
from ebmbench.core.rng import Streams
from ebmbench.models.networks.base import Network
from ebmbench.models.stack import Place, Stack, split_flat
from ebmbench.native.build import unavailable

if TYPE_CHECKING:
    from torch import Tensor, nn

HIDDEN = 10
LAYERS: dict[str, tuple[int, int]] = {
    "x1": (1, HIDDEN),
    "x2": (HIDDEN, HIDDEN),
    "y1": (1, HIDDEN),
    "joint": (2 * HIDDEN, HIDDEN),  # inputs: the features of x, then those of y
    "res1": (HIDDEN, HIDDEN),
    "res2": (HIDDEN, HIDDEN),
    "out": (HIDDEN, 1),
}
"""Inputs and outputs of each Linear layer."""
SHAPES: dict[str, tuple[int, ...]] = {
    f"{layer}.{name}": shape
    for layer, (fan_in, fan_out) in LAYERS.items()
    for name, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,)))
}
"""Of the parameters of one model, in the order in which they are stored."""

Parameters: TypeAlias = "dict[str, Tensor]"
"""`<layer>.weight` of `[S, out, in]` and `<layer>.bias` of `[S, out]`."""


def initial_parameters(seeds: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Parameters:
    """PyTorch's default initialisation of nn.Linear: weights and biases `U(±1/√in)`, from each seed's own stream."""
    draws = Streams(seeds, device).at(0)
    parameters: Parameters = {}
    for name, shape in SHAPES.items():
        fan_in, _ = LAYERS[name.partition(".")[0]]
        unit = draws.uniform(f"init/{name}", (len(seeds), *shape), torch.float64)
        parameters[name] = ((2 * unit - 1) / fan_in**0.5).to(dtype).requires_grad_()
    return parameters


def layers(flat: Tensor) -> Parameters:
    """Returns the weights and biases of S models from one tensor `[S, P]`, in the order of SHAPES."""
    return split_flat(flat, SHAPES)


def features(parameters: Parameters, x: Tensor) -> Tensor:
    """Returns the features of x: `[S, B] -> [S, hidden, B]`."""
    h = torch.relu(_linear(parameters, "x1", x.unsqueeze(1)))
    return torch.relu(_linear(parameters, "x2", h))


def plain_energy(parameters: Parameters, x: Tensor) -> Energy:
    """`f(x, ·)` in PyTorch operations for a mini-batch x `[S, B]`; candidates are `[S, B, M, 1]`.

    Activations are feature-first, `[S, hidden, B·M]`: row-major products with ten columns are slow.
    """
    bias, weight = parameters["joint.bias"].unsqueeze(-1), parameters["joint.weight"][..., :HIDDEN]
    from_x = torch.baddbmm(bias, weight, features(parameters, x))  # what of the joint layer depends on x alone

    def f(y: Tensor) -> Tensor:
        seeds, batch, samples, _ = y.shape
        h = torch.tanh(_linear(parameters, "y1", y.reshape(seeds, 1, batch * samples)))
        joint = parameters["joint.weight"][..., HIDDEN:] @ h
        h = torch.tanh(joint.unflatten(-1, (batch, samples)) + from_x.unsqueeze(-1)).flatten(-2)
        h = torch.tanh(_linear(parameters, "res1", h)) + h
        h = torch.tanh(_linear(parameters, "res2", h)) + h
        return _linear(parameters, "out", h).reshape(seeds, batch, samples)

    return AutogradEnergy(f)


def unfused_energy(flat: Tensor, x: Tensor) -> Energy:
    """`f(x, ·)` in PyTorch operations, of models `[S, P]`."""
    return plain_energy(layers(flat), x)


def fused_energy(flat: Tensor, x: Tensor) -> Energy:
    """`f(x, ·)` of models `[S, P]` by compiled kernels where they can be had, else the plain one."""
    from ebmbench.models.networks.fused import FusedEnergy, can_fuse

    return FusedEnergy(flat, x) if can_fuse(flat) else unfused_energy(flat, x)


def _linear(parameters: Parameters, layer: str, h: Tensor) -> Tensor:
    """`[S, in, N] -> [S, out, N]`."""
    return torch.baddbmm(parameters[f"{layer}.bias"].unsqueeze(-1), parameters[f"{layer}.weight"], h)


def fused_available(backend: str, device: torch.device) -> bool:
    """Returns whether the compiled kernels serve this network."""
    return backend == "auto" and device.type == "cpu" and unavailable() is None


class PaperStack(Stack):
    """S models of the paper's network, by compiled kernels where they can be had."""

    num_features = HIDDEN

    def __init__(self, seeds: Sequence[int], device: torch.device, dtype: torch.dtype, backend: str) -> None:
        super().__init__(initial_parameters(seeds, dtype, device))
        self.make_energy = unfused_energy if backend == "plain" else fused_energy
        fused = fused_available(backend, device) and dtype == torch.float32
        self.code_path = "fused" if fused else "plain"

    @override
    def bind(self, x: Tensor, index: int | None = None) -> tuple[Energy, Callable[[], Tensor]]:
        x = x.squeeze(-1) if x.dim() == 3 else x
        flat = self.flat if index is None else self.flat[index : index + 1].detach()
        return self.make_energy(flat, x), lambda: features(layers(flat), x).transpose(1, 2)


@register
class Paper(Network):
    """The network of the paper's 1D experiments. It runs on compiled kernels where there is a C compiler."""

    name = "paper"
    reference = "Gustafsson et al., BMVC 2020"

    @override
    def build(self, x_shape: tuple[int, ...], dim: int) -> nn.Module:
        raise NotImplementedError("the paper's network has a stack of its own")

    @override
    def is_fused(self, backend: str, device: torch.device) -> bool:
        return fused_available(backend, device)

    @override
    def stack(self, x_shape: tuple[int, ...], dim: int, place: Place) -> Stack:
        if x_shape not in ((), (1,)) or dim != 1:
            raise UserError(f"network=paper takes one number x and one number y, not {x_shape} and {dim}")
        return PaperStack(place.seeds, place.device, place.dtype, place.backend)
