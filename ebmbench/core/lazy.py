"""Imports that wait until they are needed: PyTorch takes over a second, which no answer about settings should cost."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

SLOW = ("torch", "pandas")
"""What settings, status and help never need. A module of components uses them inside functions only."""


class _Waiting(ModuleType):
    """A package that is loaded, into this very module, when something of it is first used.

    `importlib.util.LazyLoader` would load it at the second `import` of it.
    """

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]  # an ordinary module from here on
        self.__dict__.update(importlib.util.module_from_spec(spec).__dict__)
        spec.loader.exec_module(self)
        return getattr(self, name)


def import_when_used(names: tuple[str, ...] = SLOW) -> None:
    """Makes a later `import NAME` load the package at its first use; for the command line, not for other programs.

    What is imported already stays, and so does what is not installed. `from NAME import x` loads at once.
    """
    for name in names:
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec is not None:
            sys.modules[name] = module = _Waiting(name)
            module.__spec__, module.__file__ = spec, spec.origin


def later(place: str) -> Callable[..., Any]:
    """Returns the function `module:name`; its module is imported when it is called."""
    module, _, name = place.partition(":")

    def call(*arguments: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments)

    return call
