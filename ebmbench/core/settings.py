"""Typed settings, and the things that are chosen by name and own some."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A group of settings: frozen, strictly typed; unknown keys and non-finite numbers are refused.

    Attributes of the class:
        tuning: what `ebmbench tune` searches, by dotted key such as `method.beta`: `(low, high)` on a log scale, or a
            list of choices.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
    tuning: ClassVar[Mapping[str, object]] = MappingProxyType({})

    def plain(self) -> dict[str, Any]:
        """Returns the settings as plain data, as `config.run` reads them back."""
        return {name: plain(getattr(self, name)) for name in type(self).model_fields}

    def identity(self) -> dict[str, Any]:
        """Returns what results depend on. A setting that is not set leaves no trace: a new one changes no old hash."""
        return without_none(self.plain())


class Component(Section):
    """A thing that is chosen by name: a task, method, proposal, network or dataset. Its fields are its settings.

    `core.registry.register` makes it known. Attributes of the class:
        group: what it is, as users write it on the command line: `method`, `task`, `data`.
        chosen_by: the key that holds its registered name in the settings.
        published: settings that differ from the defaults, by dotted key: of a method by task or task and data,
            `{"1d/law2": {"method.sigma": 0.075}}`; of others, which means data, by task.
    """

    group: ClassVar[str]
    chosen_by: ClassVar[str] = "name"
    published: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType({})

    @classmethod
    def registered(cls) -> str:
        """Returns the name that users type."""
        return str(getattr(cls, cls.chosen_by))

    def plain(self) -> dict[str, Any]:
        """Returns the settings as plain data, its registered name first."""
        return {self.chosen_by: self.registered(), **super().plain()}


@dataclass(frozen=True)
class Choice:
    """Marks a field that holds a component: `data: Annotated[Data, Choice("diabetes")]`.

    Attributes:
        default: the registered name of the component that is used if the user names none.
    """

    default: str


def choice_of(field: FieldInfo) -> Choice | None:
    """Returns the mark of a field that holds a component, None for any other field."""
    return next((mark for mark in field.metadata if isinstance(mark, Choice)), None)


def choices(cls: type[Section]) -> dict[str, type[Component]]:
    """Returns the fields of a class that hold a component, with the base class of what they may hold."""
    held = {name: _parts(field.annotation) for name, field in cls.model_fields.items() if choice_of(field)}
    return {
        name: next(part for part in parts if isinstance(part, type) and issubclass(part, Component))
        for name, parts in held.items()
    }


def sections_of(field: FieldInfo) -> list[type[Section]]:
    """Returns the groups of settings that a field may hold, choices apart."""
    if choice_of(field) is not None:
        return []
    parts = (part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, Section))
    return [part for part in parts if not issubclass(part, Component)]  # a component is one value, such as a support


def _parts(annotation: Any) -> Iterator[Any]:
    """Yields a type, and those that a union or an Annotated is made of."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from _parts(part)


def plain(value: Any) -> Any:
    """Returns a value as plain data: sections as mappings, tuples as lists."""
    if isinstance(value, Section):
        return value.plain()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value  # a number or an array of numpy


def without_none(value: Any) -> Any:
    """Returns plain data without the keys whose value is None."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return value


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values by dotted key, such as `trainer.epochs`, as nested data."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
        place[last] = plain(value)
    return found
