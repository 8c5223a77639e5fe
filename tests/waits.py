"""Finds what would make the host wait for a GPU, on a machine without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = {  # their result's value or shape is known to the host only when the device is done
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_fill.Tensor,  # on CUDA it reads the value
    aten.masked_fill_.Tensor,
}
COPIES = {aten._to_copy.default, aten.copy_.default}


class _Watch(TorchDispatchMode):
    def __init__(self, found: list[str], device: str) -> None:
        super().__init__()
        self.found, self.device = found, device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS and args[0].device.type == self.device:
            self.found.append(str(func))
        if func is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.found.append("index by a mask")
        if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
            self.found.append("repeat_interleave without output_size")
        result = func(*args, **kwargs)
        if func in COPIES:
            source = args[1] if func is aten.copy_.default else args[0]
            if source.device != result.device:
                self.found.append(f"copy from {source.device} to {result.device}")
        return result


@contextmanager
def watched(device: str) -> Iterator[list[str]]:
    """Inside, whatever waits for the device, or copies between it and the host, is listed.

    Args:
        device: what stands for the GPU: `meta`, whose tensors have no values that could be read at all, or `cpu`.
    """
    found: list[str] = []

    def noted(name: str, original: Any) -> Any:
        def call(tensor: Tensor, *arguments: Any) -> Any:
            found.append(f".{name}()")
            return original(tensor, *arguments)

        return call

    with pytest.MonkeyPatch.context() as patch, _Watch(found, device):
        for name in ("tolist", "numpy", "cpu"):  # on the CPU they reach no operation
            patch.setattr(Tensor, name, noted(name, getattr(Tensor, name)))
        yield found
