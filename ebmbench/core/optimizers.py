"""PyTorch's optimisers without what they do for `torch.compile`, whose import at the first use takes a second."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import TypeVar

import torch

_O = TypeVar("_O", bound=torch.optim.Optimizer)
GUARDED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
"""Methods that PyTorch wraps to keep them out of compiled graphs."""


@lru_cache
def eager(kind: type[_O]) -> type[_O]:
    """Returns the same optimiser, with the same results and states, for steps that nobody compiles."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in GUARDED}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})
