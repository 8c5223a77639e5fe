"""Makes Hydra know the components: an option of a group for each, with the defaults of its class.

The fields of a method or proposal take the value that `noise.<field>` has in the files of conf/noise and conf/recipe.
"""

from __future__ import annotations

import json
from typing import Any

from hydra.core.config_store import ConfigStore
from pydantic_core import PydanticUndefined

from ebmbench.core import registry
from ebmbench.core.settings import Component, Section, choice_of, choices, nested, plain, sections_of
from ebmbench.tasks.base import Task

CHOSEN = ("data", "network")
"""Groups that conf/config.yaml lists; a task names the option of each that it starts with."""
NOISE = ("method", "proposal")
"""Groups whose values conf/noise may set."""

NOTHING = "none"
"""The option of `network` and `method`, without settings, beside a model that is no energy. Nobody types it."""

_stored: dict[tuple[str, str], type[Component]] = {}


def store() -> None:
    """Stores every registered component that is new."""
    for group in ("network", "method"):
        ConfigStore.instance().store(group=group, name=NOTHING, node={}, provider="ebmbench")
    for group, components in registry.groups().items():
        for name, cls in components.items():
            if _stored.get((group, name)) is not cls:
                _stored[group, name] = cls
                _store(group, name, cls)


def _store(group: str, name: str, cls: type[Component]) -> None:
    known = ConfigStore.instance()
    values = {cls.chosen_by: name, **defaults(cls, noise=group in NOISE)}
    if not issubclass(cls, Task):
        if group == "method" and not getattr(cls, "uses_proposal", False):
            node = {"defaults": ["_self_", {"override /proposal": None}], "method": values}
            known.store(group=group, name=name, node=node, package="_global_", provider="ebmbench")
        elif group == "model" and not getattr(cls, "uses_method", False):
            taken = {"network": NOTHING, "method": NOTHING, "proposal": None}
            without = [{f"override /{part}": option} for part, option in taken.items()]
            node = {"defaults": ["_self_", *without], "model": values}
            known.store(group=group, name=name, node=node, package="_global_", provider="ebmbench")
        else:
            known.store(group=group, name=name, node=values, provider="ebmbench")
        folder = "noise" if group == "method" else "recipe"
        for place, settings in cls.published.items():
            node = nested(settings)
            known.store(group=f"{folder}/{place}", name=name, node=node, package="_global_", provider="ebmbench")
        return
    chosen = {name: mark.default for name, field in cls.model_fields.items() if (mark := choice_of(field))}
    listed = [{f"override /{key}": option} for key, option in chosen.items() if key in CHOSEN]
    own = [
        {f"/{base.group}@_global_.{key}": chosen[key]}
        for key, base in choices(cls).items()
        if key not in (*CHOSEN, "model")  # conf/config.yaml chooses the model
    ]
    listed.append({"override /method": cls.default_method()})
    node = {"defaults": [*own, "_self_", *listed], "task": values}
    known.store(group=group, name=name, node=node, package="_global_", provider="ebmbench")
    known.store(group="trainer", name=name, node=defaults(cls.Trainer), provider="ebmbench")


def defaults(cls: type[Section], noise: bool = False) -> dict[str, Any]:
    """Returns the defaults of a class as plain data; `???` where a value must be given.

    Args:
        noise: whether a value is that of `noise.<field>`, and the default only where there is none.
    """
    values: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        if choice_of(field) is not None:
            continue
        inner, value = sections_of(field), field.get_default(call_default_factory=True)
        if isinstance(value, Section):
            values[name] = value.plain()
        elif inner and value is PydanticUndefined:
            values[name] = defaults(inner[0])
        else:
            values[name] = "???" if value is PydanticUndefined else plain(value)
            if noise:
                text = json.dumps(values[name])
                text = f"${{oc.create:{text}}}" if text[0] in "[{" else text
                values[name] = f"${{oc.select:noise.{name},{text}}}"
    return values


def options(group: str) -> list[str]:
    """Returns the options of a group that components give."""
    return list(registry.known("task" if group == "trainer" else group))
