"""Any `nn.Module` as a stack of models, by `torch.func`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import stack_module_state, vmap
from typing_extensions import override

from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.errors import UserError
from ebmbench.core.own_networks import seeded_module
from ebmbench.models.stack import Stack


class ModuleStack(Stack):
    """S copies of any `nn.Module`, run side by side by `torch.func`.

    The module has `forward(x, y) -> f`, with x `[B, ...]`, y `[B, M, D]` and f `[B, M]`. If it has `encode(x) -> h`
    `[B, F]` and `energy(h, y) -> f` instead, the features of x are computed once for a mini-batch, and methods and
    proposals with networks of their own can build on them.

    Args:
        build: makes the module of one seed; its random initial weights are the seed's own.
    """

    def __init__(self, build: Callable[[], nn.Module], seeds: Sequence[int], device: torch.device, dtype: torch.dtype):
        made = [seeded_module(build, seed) for seed in seeds]
        if made and not isinstance(made[0], nn.Module):
            raise UserError(f"build returned a {type(made[0]).__name__}, and no nn.Module")
        modules = [module.to(device, dtype) for module in made]
        parameters, buffers = stack_module_state(modules)
        super().__init__({name: p.detach() for name, p in parameters.items()})
        self.buffers: dict[str, Tensor] = buffers
        self.module = copy.deepcopy(modules[0]).to("meta")
        self._places = _places(modules[0], self.module)
        self.splits = hasattr(self.module, "encode") and hasattr(self.module, "energy")
        self.num_features = int(getattr(self.module, "num_features", 0)) if self.splits else 0
        self.normalised = bool(getattr(self.module, "normalised", False))
        self.step_seeds = [name for name in buffers if name.rpartition(".")[2] == "step"]

    @override
    def bind(self, x: Tensor, index: int | None = None) -> tuple[Energy, Callable[[], Tensor]]:
        parameters, buffers = self.views(), self.buffers
        if index is not None:
            parameters = {name: p[index : index + 1] for name, p in parameters.items()}
            buffers = {name: b[index : index + 1] for name, b in buffers.items()}
        owned = [*parameters.values(), *buffers.values()]

        def call(what: str, *arguments: Tensor) -> Tensor:
            def one(*inputs: Tensor) -> Tensor:
                with self._holding(inputs[: len(owned)]):
                    result: Tensor = getattr(self.module, what)(*inputs[len(owned) :])
                return result

            result: Tensor = vmap(one, randomness="different")(*owned, *arguments)
            return result

        if not self.splits:
            return AutogradEnergy(lambda y: call("forward", x, _whole(y, x))), _no_features
        h = call("encode", x)
        plain = AutogradEnergy(lambda y: call("energy", h, _whole(y, x)))
        return self.energy_of(parameters, h, plain), lambda: h

    @contextmanager
    def _holding(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the module has these parameters and buffers, in their order.

        It is what `functional_call` does at a third of an MLP's step: the places are looked up once, here.
        """
        kept = [places[0][0][places[0][1]] for places in self._places]
        try:
            for places, tensor in zip(self._places, tensors, strict=True):
                for owner, name in places:
                    owner[name] = tensor
            yield
        finally:
            for places, tensor in zip(self._places, kept, strict=True):
                for owner, name in places:
                    owner[name] = tensor

    def energy_of(self, parameters: Mapping[str, Tensor], h: Tensor, plain: Energy) -> Energy:
        """Returns the energy of a mini-batch with the features h `[S, B, F]`: `plain`, or a faster one that equals it.

        Args:
            parameters: by name in the module, `[S, ...]`.
            plain: `energy(h, y)` in PyTorch operations.
        """
        return plain

    @contextmanager
    @override
    def evaluating(self) -> Iterator[None]:
        if not self.module.training:  # within another one: to go through all modules takes time
            yield
            return
        self.module.eval()
        try:
            yield
        finally:
            self.module.train()

    @override
    def start_step(self, step: int | Tensor) -> None:
        for name in self.step_seeds:
            self.buffers[name].copy_(torch.as_tensor(step).expand_as(self.buffers[name]))


def _places(source: nn.Module, module: nn.Module) -> list[list[tuple[dict[str, Any], str]]]:
    """Returns where a copy of a module keeps each of the source's parameters, then buffers.

    There are several places for one that is shared between submodules, which a copy on another device may not know.
    """
    found: dict[int, list[tuple[dict[str, Any], str]]] = {}
    kinds = (("_parameters", source.named_parameters), ("_buffers", source.named_buffers))
    for kind, named in kinds:
        for name, tensor in named(remove_duplicate=False):
            path, _, leaf = name.rpartition(".")
            found.setdefault(id(tensor), []).append((getattr(module.get_submodule(path), kind), leaf))
    return list(found.values())


def _whole(y: Tensor, x: Tensor) -> Tensor:
    """Candidates for each example, where one set of them serves the whole mini-batch."""
    return y.expand(*x.shape[:2], *y.shape[2:])


def _no_features() -> Tensor:
    raise UserError(
        "the network has no features of x of its own, which the method or its proposal needs: define encode(x), "
        "energy(h, y) and num_features instead of forward(x, y)"
    )
