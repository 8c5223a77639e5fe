"""A stand-in for a GPU, made of the CPU: its tensors hold values, and refuse to be mixed with the host's.

It finds, on a machine without a GPU, what a GPU refuses: operations on tensors of two devices, and `numpy()` of a
tensor that is not on the host. It calls itself `meta`, a device that PyTorch can name everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from ebmbench.proposals import mixture

aten = torch.ops.aten
DEVICE = torch.device("meta")
# What copies between devices, or takes places of the other tensor from the host.
MOVES = {
    aten._to_copy.default,
    aten.copy_.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten.lift_fresh.default,
}


class Elsewhere(Tensor):
    """A tensor of the device; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"Elsewhere({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Does an operation on the values, and puts its result where it belongs."""
    flat, spec = pytree.tree_flatten((args, kwargs))
    tensors = [part for part in flat if isinstance(part, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    if any(tensor.device == DEVICE for tensor in tensors if not isinstance(tensor, Elsewhere)):
        raise RuntimeError(f"{func}: a tensor without values")
    if there and func not in MOVES and any(t.dim() > 0 for t in tensors if not isinstance(t, Elsewhere)):
        raise RuntimeError(f"{func}: tensors on two devices")
    if func is aten._local_scalar_dense.default:
        return func(there[0].held if there else args[0])
    if func is aten.copy_.default:
        stays = isinstance(args[0], Elsewhere)
    elif kwargs.get("device") is not None:
        stays = torch.device(kwargs["device"]) == DEVICE
    else:
        stays = bool(there)
    plain_args, plain_kwargs = pytree.tree_unflatten([_plain(part) for part in flat], spec)
    made = func(*plain_args, **plain_kwargs)
    if not stays:
        return args[0] if func is aten.copy_.default else made
    return return_and_correct_aliasing(
        func, args, kwargs, pytree.tree_map(lambda part: Elsewhere(part) if isinstance(part, Tensor) else part, made)
    )


def _plain(part: Any) -> Any:
    if isinstance(part, Elsewhere):
        return part.held
    return torch.device("cpu") if isinstance(part, torch.device) and part == DEVICE else part


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What PyTorch makes below the level of operations: tensors from numbers, and numbers from tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor) and kwargs.get("device"):
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(args[0].device)
        if func is Tensor.tolist:
            return func(args[0].cpu())
        if func is Tensor.__getitem__:  # a list of places
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(torch.tensor(p) if isinstance(p, list) else p for p in places))
        return func(*args, **kwargs)


def _autocast(original: Any) -> Any:
    """Returns a `torch.autocast` that does nothing on this device."""
    return lambda kind, **more: nullcontext() if kind == DEVICE.type else original(kind, **more)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Inside, the device is there."""
    with pytest.MonkeyPatch.context() as patch, _Operations(), _Functions():
        for name, module in list(sys.modules.items()):
            if name.startswith("torch.optim") and hasattr(module, "_get_fused_kernels_supported_devices"):
                patch.setattr(module, "_get_fused_kernels_supported_devices", lambda: ["cpu", DEVICE.type])
        patch.setattr(torch, "autocast", _autocast(torch.autocast))
        mixture._on_device.cache_clear()  # PyTorch's own `meta` tensors, and afterwards these
        try:
            yield DEVICE
        finally:
            mixture._on_device.cache_clear()
