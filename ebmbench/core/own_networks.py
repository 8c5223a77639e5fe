"""The networks that a method or its proposal owns, in training: one copy for each seed, on the features of x."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


def seeded_module(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Returns a module whose random initial weights are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


class Beside(nn.Module):
    """Networks Linear-ReLU-Linear of the same features, their outputs side by side: `[..., F] -> [..., Σ outputs]`."""

    def __init__(self, features: int, outputs: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, count)) for count in outputs
        )

    def forward(self, h: Tensor) -> Tensor:
        """Returns the outputs of all."""
        return torch.cat([part(h) for part in self.parts], dim=-1)


class OwnNetworks:
    """The networks of a method and its proposal, one copy for each seed: maps of the features of x.

    Args:
        build: makes the networks of one seed, by name.
    """

    def __init__(
        self, build: Callable[[], dict[str, nn.Module]], seeds: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> None:
        # Another seed than the model's: equal layers must not start with equal weights.
        made = [seeded_module(lambda: nn.ModuleDict(build()), 2**32 + seed).to(device, dtype) for seed in seeds]
        self.names = [name for name, _ in made[0].named_children()]
        self.parameters: dict[str, Tensor] = {}
        self._modules: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {}
        for name in self.names:
            modules = [module.get_submodule(name) for module in made]
            parameters, buffers = stack_module_state(modules)
            leaves = {key: p.detach().clone().requires_grad_() for key, p in parameters.items()}
            for key, leaf in leaves.items():
                leaf.grad = torch.zeros_like(leaf)
                self.parameters[f"own.{name}.{key}"] = leaf
            self._modules[name] = (copy.deepcopy(modules[0]).to("meta"), buffers)

    def heads(self, features: Callable[[], Tensor]) -> dict[str, Callable[[], Tensor]]:
        """Returns the outputs for a mini-batch, as functions by name: `[S, B, outputs]` each. Features are detached."""
        return {name: partial(self._output, name, features) for name in self.names}

    def _output(self, name: str, features: Callable[[], Tensor]) -> Tensor:
        module, buffers = self._modules[name]
        prefix = f"own.{name}."
        parameters = {key.removeprefix(prefix): p for key, p in self.parameters.items() if key.startswith(prefix)}

        def one(p: dict[str, Tensor], b: dict[str, Tensor], h: Tensor) -> Tensor:
            result: Tensor = functional_call(module, (p, b), (h,))
            return result

        result: Tensor = vmap(one)(parameters, buffers, features().detach())
        return result
