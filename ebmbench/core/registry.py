"""Everything that is chosen by name: tasks, methods, proposals, networks and datasets.

A class registers itself with the decorator `register`. The project's own classes and those of a plug-in register in the
same way, and there is no other list of them. `load` imports the project's own, once.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

from ebmbench.core.errors import UserError, did_you_mean
from ebmbench.core.settings import Component

OWN = ("ebmbench.supports", "ebmbench.methods", "ebmbench.proposals", "ebmbench.models", "ebmbench.tasks")
"""Packages whose modules register something."""

NAME = r"[\w][\w.+-]*"
"""What users can type as `method=NAME`."""

_found: dict[str, Mapping[str, type[Component]]] = {}
"""By group, then by name, in the order in which they are shown. A group is replaced, never changed."""
_C = TypeVar("_C", bound=type[Component])
copies: set[str] = set()
"""Modules that are copies of plug-ins from a folder of results: they replace other plug-ins, and are replaced."""


def register(cls: _C) -> _C:
    """Makes a component known under its name. To be used as a decorator.

    Raises:
        UserError: another file's class has this name already, or it is no name, or the class is no component.
    """
    if not (isinstance(cls, type) and issubclass(cls, Component) and hasattr(cls, "group")):
        what = getattr(cls, "__name__", cls)
        raise UserError(
            f"@register is above {what}, which must be a Method, Proposal, Model, Network, Data or Task of ebmbench"
        )
    name = getattr(cls, cls.chosen_by, None)
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        said = f"{cls.chosen_by} = {name!r}" if name is not None else f"no {cls.chosen_by}"
        raise UserError(
            f'{cls.__name__} has {said}: give it one, such as {cls.chosen_by} = "my-{cls.__name__.lower()}"'
        )
    group = _found.get(cls.group, {})
    other = group.get(name)
    if other is not None and _file(other) == _file(cls) and other.__module__ != cls.__module__:
        other = None  # the file was edited
    is_own = other is not None and other.__module__.startswith("ebmbench.")
    if other is not None and not is_own and {other.__module__, cls.__module__} & copies:
        other = None
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UserError(f"{cls.group}={name} of {_file(cls)} is taken by {_file(other)}; choose another name")
    put(cls)
    return cls


def put(cls: type[Component]) -> None:
    """Makes a component known, in the place of another one of its name."""
    group, name = _found.get(cls.group, {}), cls.registered()
    if group.get(name) is not cls:
        components: list[type[Component]] = [*(other for key, other in group.items() if key != name), cls]
        _found[cls.group] = {known.registered(): known for known in sorted(components, key=_place)}


def restore(before: Mapping[str, Mapping[str, type[Component]]]) -> None:
    """Makes exactly those components known that `groups` returned before."""
    _found.clear()
    _found.update(before)


def _file(cls: type) -> str:
    """Returns the file that a class was read from. A plug-in that was edited is another module of the same file."""
    module = sys.modules.get(cls.__module__)
    return str(getattr(module, "__file__", None) or cls.__module__)


@lru_cache(maxsize=1)
def load() -> None:
    """Imports the project's own components."""
    for package in OWN:
        _load(package)


def _load(package: str) -> None:
    """Imports the modules of a package; where one is called `components`, that one alone."""
    children = list(pkgutil.iter_modules(importlib.import_module(package).__path__))
    if any(child.name == "components" for child in children):
        importlib.import_module(f"{package}.components")
        return
    for child in children:
        (_load if child.ispkg else importlib.import_module)(f"{package}.{child.name}")


def groups() -> Mapping[str, Mapping[str, type[Component]]]:
    """Returns the components by group and name, in the order in which they are shown."""
    load()
    return dict(_found)


def _place(cls: type[Component]) -> tuple[int, str]:
    """Sorts by the class's `order`, if it has one, then by name."""
    return int(getattr(cls, "order", 1000)), cls.registered()


def known(group: str) -> Mapping[str, type[Component]]:
    """Returns the components of a group by name, in the order in which they are shown."""
    load()
    return _found.get(group, {})


def get(group: str, name: object) -> type[Component]:
    """Returns the component of this name.

    Raises:
        UserError: there is none; the text names the closest ones.
    """
    found = known(group)
    if not isinstance(name, str) or name not in found:
        raise UserError(f"{group}={name} is not known{did_you_mean(str(name), list(found))}")
    return found[name]
