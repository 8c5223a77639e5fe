"""What reports say of settings: their names and published values, and the command that makes a run again.

Names and descriptions are those of the fields of the component's class.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic.fields import FieldInfo

from ebmbench.config import folders
from ebmbench.config.compose import untouched
from ebmbench.config.run import DEFAULT_PROPOSAL
from ebmbench.core import registry
from ebmbench.core.settings import Component, choice_of, sections_of
from ebmbench.tasks.base import Task

UNKNOWN = object()
SECTIONS = ("task", "data", "network", "method", "proposal", "trainer")
"""The groups of settings on which results depend."""
_SYMBOL = re.compile(r"[A-Za-z](?=,)|[α-ω](_\w)?(?=[, ])")
"""A description that begins with a symbol: "M, samples per target" or "σ of the noise"."""


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what results depend on beside task and method, under dotted names; lists as JSON."""
    found = _flatten({section: config.get(section) or {} for section in SECTIONS})
    return {key: value for key, value in found.items() if key not in ("task.name", "method.name")}


def _flatten(raw: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in raw.items():
        key = f"{prefix}{name}"
        found |= _flatten(value, f"{key}.") if isinstance(value, dict) else {key: comparable(value)}
    return found


def comparable(value: Any) -> Any:
    """Returns lists as text, so that settings can be compared and grouped."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def name_of(config: Mapping[str, Any]) -> str:
    """Returns what tables call a run: its method, or the model that no method trains."""
    return str((config.get("method") or config["model"])["name"])


def group_of(name: str) -> str:
    """Returns `model` for the name of a model that no method trains, else `method`."""
    return "model" if name in registry.known("model") else "method"


def published(key: str, task: str, data: str, method: str) -> Any:
    """Returns the value that a setting has if nobody gives one, for this option of `data`; None if it has none."""
    return flat(untouched(task, data, **{group_of(method): method})).get(key)


def field_of(key: str, task: str, method: str) -> FieldInfo | None:
    """Returns the field of the class that a dotted setting belongs to, None where it is not known."""
    section, *rest = key.split(".")
    task_class = registry.known("task").get(task)
    known: dict[str, list[Any]] = {
        "task": [task_class],
        "trainer": [cast(type[Task], task_class).Trainer if task_class else None],
        "method": [registry.known("method").get(method)],
        "model": [registry.known("model").get(method)],
        **{group: list(registry.known(group).values()) for group in ("data", "network", "proposal")},
    }
    classes = known.get(section, [])
    field: FieldInfo | None = None
    for name in rest:
        field = next((cls.model_fields[name] for cls in classes if cls and name in cls.model_fields), None)
        if field is None:
            return None
        chosen = choice_of(field) is not None
        group = cast(type[Component], field.annotation).group if chosen else ""
        classes = list(registry.known(group).values()) if chosen else list(sections_of(field))
    return field


def sign(key: str, task: str, method: str) -> str:
    """Returns the symbol that a setting has in equations, which its description begins with; empty if it has none."""
    field = field_of(key, task, method)
    match = _SYMBOL.match((field.description or "") if field else "")
    return match.group(0) if match else ""


def symbol(key: str, task: str, method: str) -> str:
    """Returns a setting's name in a word: its symbol, else the key's last part."""
    return sign(key, task, method) or key.rpartition(".")[2].replace("_", " ")


def title(key: str, task: str, methods: Sequence[str]) -> str:
    """Returns a setting's name for an axis: its description, as the first method that has it gives it."""
    fields = (field_of(key, task, method) for method in methods)
    described = [field.description for field in fields if field is not None and field.description]
    if not described:
        return key
    return f"{symbol(key, task, '')} {described[0]}" if described[0].startswith("of ") else described[0]


def is_tuned_per_dataset(task: str, method: str) -> bool:
    """Returns whether conf/noise has a file of the method for some data of the task alone."""
    pattern = f"noise/{task}/*/{method}.yaml"
    return any(True for folder in folders.config_dirs() for _ in folder.glob(pattern))


def command(config: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """Returns what makes a run again: only what differs from the published settings is spelled out."""
    if not config:
        return ""
    named = {
        "task": config["task"]["name"],
        "data": config.get("data_option") or "",
        group_of(name_of(config)): name_of(config),
    }
    named["proposal"] = (config.get("proposal") or {}).get("name", DEFAULT_PROPOSAL if config.get("method") else "")
    named["network"] = (config.get("network") or {}).get("name", "")
    base = flat(untouched(**named))
    if named["proposal"] == DEFAULT_PROPOSAL:
        del named["proposal"]
    parts = [f"{group}={name}" for group, name in named.items() if name]
    if config.get("plugins"):
        parts.append(f"plugins=[{','.join(config['plugins'])}]")
    for key, value in flat(config).items():
        if value != base.get(key, UNKNOWN) and key not in (
            "proposal.name",
            "network.name",
            "model.name",
            "data.source",
        ):
            parts.append(f"{key}={'null' if value is None else str(value).replace(' ', '')}")
    if list(seeds) != [0]:
        plain_seeds = list(seeds) == list(range(len(seeds)))
        parts.append(f"seeds={len(seeds)}" if plain_seeds else f"seeds={str(list(seeds)).replace(' ', '')}")
    return "python -m ebmbench " + " ".join(shlex.quote(part) for part in parts)


def dataset_of(config: Mapping[str, Any]) -> str:
    """Returns the label of the data in the settings of a run."""
    data = config.get("data") or {}
    return str(config["task"].get("dataset", data.get("name") or data.get("source")))
