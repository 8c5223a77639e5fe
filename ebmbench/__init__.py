"""ebmbench: how should one train an energy-based model for regression?

`ebmbench.load(run_directory)` gives the trained models of a run, by seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmbench.model import Model, load

__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    # Loaded when it is used: the command line answers a typing error without importing PyTorch first.
    if name in __all__:
        from ebmbench import model

        return getattr(model, name)
    raise AttributeError(f"module 'ebmbench' has no attribute {name!r}")
