"""Makes Hydra know the components: a configuration group with an option for each, written from the class's own fields.

Each value is `${setting:KEY}`: what the tables of settings say for the task, dataset and method at hand
(`conf/settings/*.yaml`), else the default of the class.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ebmbench.config import folders
from ebmbench.core import registry
from ebmbench.core.errors import UserError, first_line
from ebmbench.core.settings import Component, Section, choice_of, sections_of
from ebmbench.tasks.base import Task

MISSING = object()
_SETTING = re.compile(r"\$\{setting:([\w.]+)\}")


def store() -> None:
    """Stores a configuration of every registered component, and makes `${setting:…}` known."""
    known = ConfigStore.instance()
    for group, components in registry.groups().items():
        for name, cls in components.items():
            known.store(group=group, name=name, node=_node(cls, group.replace("/", ".")), provider="ebmbench")
            if issubclass(cls, Task):
                known.store(group="trainer", name=name, node=_values(cls.Trainer, "trainer"), provider="ebmbench")
    OmegaConf.register_new_resolver("setting", _resolve, replace=True, use_cache=False)


def _node(cls: type[Component], prefix: str) -> dict[str, Any]:
    node: dict[str, Any] = {}
    chosen = [{name: mark.default} for name, field in cls.model_fields.items() if (mark := choice_of(field))]
    if chosen:
        node["defaults"] = [*chosen, "_self_"]
    return {**node, cls.chosen_by: cls.registered(), **_values(cls, prefix)}


def _values(cls: type[Section], prefix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        if choice_of(field) is not None:
            continue
        inner = sections_of(field)
        values[name] = _values(inner[0], f"{prefix}.{name}") if inner else f"${{setting:{prefix}.{name}}}"
    return values


# ------------------------------------------------------------------------------------------------------- values


@lru_cache(maxsize=8)
def tables(dirs: tuple[Path, ...]) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Returns the tables of settings in these folders: group (a task, or task-dataset), method, key, value.

    A method may be `all`, or have a network behind it: `ml-exact, mdn`.

    Raises:
        UserError: a file is no such table.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in (path for folder in dirs for path in sorted(folder.glob("settings/*.yaml"))):
        try:
            raw = yaml.safe_load(path.read_text()) or {}
            for group, methods in raw.items():
                for method, values in methods.items():
                    found.setdefault(str(group), {}).setdefault(str(method), {}).update(values or {})
        except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no table of settings by task and method ({first_line(error)})") from None
    return found


def tabled(
    dirs: tuple[Path, ...], task: str, dataset: str, method: str, key: str, source: str = "", network: str = ""
) -> Any:
    """Returns what the tables say of a key (such as `proposal.stds`), MISSING where they say nothing.

    Args:
        source: the kind of dataset, for what holds for all of one kind.
        network: for what holds for a method with one network, such as `ml-exact, mdn`.
    """
    found = tables(dirs)
    for group in (f"{task}-{dataset}", f"{task}-{source}", task):
        for name in (f"{method}, {network}", method, "all"):
            values = found.get(group, {}).get(name, {})
            if key in values:
                return values[key]
    return MISSING


def dataset_of(task: Mapping[str, Any]) -> str:
    """Returns the dataset's name in the settings of a task: `task.dataset`, else that of `task.data`."""
    data = task.get("data") or {}
    return str(task.get("dataset", data.get("name") or data.get("source")))


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Returns `OmegaConf.to_container(cfg, resolve=True)`, but does not parse each `${setting:…}` anew."""

    def value(plain: Any, *place: Any) -> Any:
        if isinstance(plain, dict):
            return {name: value(inner, *place, name) for name, inner in plain.items()}
        if isinstance(plain, list):
            return [value(inner, *place, number) for number, inner in enumerate(plain)]
        if not isinstance(plain, str) or "${" not in plain:
            return plain
        if own := _SETTING.fullmatch(plain):
            return _setting(own[1], cfg, task)
        found = reduce(operator.getitem, place, cfg)
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found

    try:
        task = _unresolved(cfg.task)
        return {str(key): value(plain, key) for key, plain in _unresolved(cfg).items()}
    except (AttributeError, TypeError, ValueError):  # OmegaConf says what is wrong
        return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def _unresolved(cfg: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))


def _resolve(key: str, *, _root_: DictConfig) -> Any:
    value = _setting(key, _root_, _unresolved(_root_.task))
    return OmegaConf.create(value) if isinstance(value, list) else value  # OmegaConf shows no plain list


def _setting(key: str, cfg: DictConfig, task: dict[str, Any]) -> Any:
    """Returns the value of `${setting:KEY}` in a configuration, whose part `task` is given unresolved."""
    method_name = str(cfg.method.get("name"))
    method = registry.known("method").get(method_name)
    if key.startswith("proposal.") and method is not None and not getattr(method, "uses_proposal", False):
        return None
    if key in ("task.dataset", "task.data.name", "task.data.source"):
        value = MISSING  # they name the table
    else:
        source = str((task.get("data") or {}).get("source", ""))
        network = str((task.get("network") or {}).get("name", ""))
        name, dataset = str(task.get("name")), _plain_dataset(task)
        value = tabled(folders.config_dirs(), name, dataset, method_name, key, source, network)
    if value is MISSING:
        value = default(key, task, method_name, str((cfg.get("proposal") or {}).get("name")))
    return list(value) if isinstance(value, list | tuple) else value


def _plain_dataset(task: dict[str, Any]) -> str:
    """Returns the dataset's name before the settings are resolved: where none was given, the default one."""
    name = dataset_of(task)
    if "${" not in name:
        return name
    key = "task.dataset" if "dataset" in task else "task.data.name"
    return str(default(key, task, "", ""))


def default(key: str, task: Mapping[str, Any], method: str, proposal: str) -> Any:
    """Returns the default of a setting by its class, None where there is none."""
    section, *rest = key.split(".")
    classes: dict[str, Any] = {"method": registry.known("method").get(method)}
    classes["proposal"] = registry.known("proposal").get(proposal)
    classes["task"] = task_class = registry.known("task").get(str(task.get("name")))
    classes["trainer"] = cast(type[Task], task_class).Trainer if task_class else None
    cls: type[Section] | None = classes.get(section)
    values: Mapping[str, Any] = task
    for name in rest[:-1]:
        field = cls.model_fields.get(name) if cls else None
        if field is None:
            return None
        values = values.get(name) or {}
        cls = _class_of(field, values)
    field = cls.model_fields.get(rest[-1]) if cls else None
    value = field.get_default(call_default_factory=True) if field else None
    return None if value is PydanticUndefined else value


def _class_of(field: FieldInfo, values: Mapping[str, Any]) -> type[Section] | None:
    if choice_of(field) is not None:
        base = cast(type[Component], field.annotation)
        return registry.known(base.group).get(str(values.get(base.chosen_by)))
    return next(iter(sections_of(field)), None)


def options(group: str) -> list[str]:
    """Returns the options of a group that components give."""
    return list(registry.known("task" if group == "trainer" else group))
