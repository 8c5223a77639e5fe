"""Reads components and their settings from Python source, without importing it.

Importing the components imports PyTorch, which takes seconds: too long for help and tab completion. Reading the source
takes a tenth of one. `core.registry` is what counts; a test holds this module to it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORDS = ("register", "Section", "Component")
"""A file that has none of them defines no settings."""


@dataclass(frozen=True)
class Setting:
    """A field of a class.

    Attributes:
        values: what it may be, where that is a short list.
        inner: names of the classes in its type.
        is_choice: whether it holds a component that is chosen by name.
    """

    values: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    is_choice: bool = False


@dataclass
class Class:
    """A class as its source has it: base classes, constants (class attributes) and fields."""

    name: str
    bases: tuple[str, ...]
    is_registered: bool
    constants: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Setting] = field(default_factory=dict)


class Source:
    """The classes of some files."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.classes: dict[str, Class] = {}
        for file in files:
            self.classes |= {cls.name: cls for cls in _classes(file)}

    def constant(self, cls: Class, name: str) -> Any:
        """Returns a class attribute, its own or of a base class; None if there is none."""
        return next((c.constants[name] for c in self._with_bases(cls) if name in c.constants), None)

    def registered(self, cls: Class) -> str:
        """Returns the name that users type for a component."""
        return str(self.constant(cls, self.constant(cls, "chosen_by") or "name"))

    def components(self) -> dict[str, dict[str, Class]]:
        """Returns the registered classes by group and name, in the order in which they are shown."""
        found = [cls for cls in self.classes.values() if cls.is_registered]
        found.sort(key=lambda cls: (self.constant(cls, "order") or 1000, self.registered(cls)))
        groups: dict[str, dict[str, Class]] = {}
        for cls in found:
            groups.setdefault(str(self.constant(cls, "group")), {})[self.registered(cls)] = cls
        return groups

    def settings(self, cls: Class) -> Mapping[str, Setting]:
        """Returns the fields of a class, those of its base classes first."""
        found: dict[str, Setting] = {}
        for each in reversed(list(self._with_bases(cls))):
            found |= each.settings
        return found

    def keys(self, cls: Class, prefix: str) -> Iterator[tuple[str, Setting]]:
        """Yields the settings of a class by dotted key, with those of the sections in it."""
        for name, setting in self.settings(cls).items():
            inner = [self.classes[part] for part in setting.inner if part in self.classes]
            if inner and not setting.is_choice:
                yield from self.keys(inner[0], f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", setting

    def _with_bases(self, cls: Class) -> Iterator[Class]:
        yield cls
        for base in cls.bases:
            if base in self.classes and base != cls.name:
                yield from self._with_bases(self.classes[base])


def _classes(file: Path) -> Iterator[Class]:
    """Yields the classes of a file; none if it cannot be read."""
    try:
        text = file.read_text()
        body = ast.parse(text).body if any(word in text for word in WORDS) else []
    except (OSError, SyntaxError, ValueError):
        return
    for node in body:
        if isinstance(node, ast.ClassDef):
            marks = {_last_name(mark) for mark in node.decorator_list}
            made = Class(node.name, tuple(map(_last_name, node.bases)), "register" in marks)
            for line in node.body:
                _read(line, made)
            yield made


def _read(line: ast.stmt, into: Class) -> None:
    """Adds a field or a class attribute."""
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
        if "ClassVar" not in _names_in(line.annotation):
            into.settings[line.target.id] = _setting(line.annotation)
        elif line.value is not None:
            into.constants[line.target.id] = _value(line.value)
    elif isinstance(line, ast.Assign):
        for target in line.targets:
            if isinstance(target, ast.Name):
                into.constants[target.id] = _value(line.value)
            elif isinstance(target, ast.Tuple) and isinstance(line.value, ast.Tuple):
                pairs = zip(target.elts, line.value.elts, strict=False)
                into.constants |= {name.id: _value(value) for name, value in pairs if isinstance(name, ast.Name)}


def _setting(annotation: ast.expr) -> Setting:
    inside = _names_in(annotation)
    values: list[str] = []
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and _last_name(node.value) == "Literal":
            values += [str(part.value) for part in ast.walk(node.slice) if isinstance(part, ast.Constant)]
        elif isinstance(node, ast.Name) and node.id == "bool":
            values += ["true", "false"]
    return Setting(tuple(values), tuple(inside), "Choice" in inside)


def _names_in(node: ast.expr) -> list[str]:
    return [_last_name(part) for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)]


def _last_name(node: ast.expr) -> str:
    """Returns `register` for `register`, `ebmbench.register` and `register(...)`."""
    node = node.func if isinstance(node, ast.Call) else node
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _value(node: ast.expr) -> Any:
    """Returns a constant, or the name that stands there."""
    return node.value if isinstance(node, ast.Constant) else _last_name(node)
