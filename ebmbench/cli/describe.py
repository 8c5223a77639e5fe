"""`ebmbench describe`: what there is to choose from, and the settings of each, generated from the classes."""

from __future__ import annotations

import inspect
import re
import textwrap
import types
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ebmbench.cli.parser import Arguments
from ebmbench.config import compose as composition
from ebmbench.config import folders
from ebmbench.config.run import Launch, LoggerConfig
from ebmbench.core import registry
from ebmbench.core.errors import UserError, did_you_mean
from ebmbench.core.settings import Component, Section, choice_of, choices, sections_of
from ebmbench.report.settings import flat
from ebmbench.system import yamlfile
from ebmbench.tasks.base import Task

YAML_GROUPS = {
    "experiment": "presets, added with +experiment=NAME",
    "sweeps": "sweeps, for `ebmbench sweep submit NAME`",
    "hydra/launcher": "where jobs run: hydra/launcher=NAME",
}
SECTIONS: dict[str, tuple[type[Section], str]] = {
    "launch": (Launch, "how a run is carried out; nothing of it changes a result"),
    "logger": (LoggerConfig, "where the training history goes; the settings of logger=wandb"),
}


def main(arguments: Arguments) -> int:
    """Prints all groups, the options of one, or the settings of an option; returns the exit code."""
    others = [text for text in arguments.settings if not text.lstrip("+").startswith("plugins=")]
    if others or len(arguments.names) > 2:
        got = (others or arguments.names)[-1]
        raise UserError(f"describe takes [GROUP [NAME]] and plugins=[FILE], and got {got}")
    composition.prepare(arguments.settings)
    made = page if arguments.options["markdown"] else describe
    print("\n".join(made(*arguments.names)))
    return 0


def describe(group: str = "", name: str = "") -> list[str]:
    """Returns the lines of a description.

    Raises:
        UserError: there is no such group or option.
    """
    if not group:
        return _all()
    known = [*registry.groups(), *YAML_GROUPS, *SECTIONS]
    if group not in known:
        raise UserError(f"describe {group}: there is no such group{did_you_mean(group, known)}")
    if group in SECTIONS:
        section, text = SECTIONS[group]
        prefix = "" if group == "launch" else f"{group}."
        return [f"{group}: {text}", *_settings(section, prefix, _chosen_values(group))]
    if group in YAML_GROUPS:
        return _of_yaml(group, name)
    if not name:
        return _options(group)
    return _component(registry.get(group, name))


def page(group: str = "", name: str = "") -> list[str]:
    """Returns the lines of a Markdown page: what each component of a group does, its source and its settings.

    Raises:
        UserError: there is no such group of components, or one option is named.
    """
    if group not in registry.groups() or name:
        raise UserError(f"describe --markdown takes one group: {', '.join(registry.groups())}")
    known = registry.known(group)
    lines = [
        f"# Every {group}",
        "",
        f"What `{group}=NAME` chooses. This page is made from the classes: `python -m ebmbench describe {group} "
        "--markdown`. Notation: `f(x, y)` is the energy network, `q` the proposal, `y_i` the target, `y_m` the M "
        "samples, `Ẑ = 1/M Σ_m exp f(x, y_m) / q(y_m)`.",
        "",
        *(f"- [{name}](#{anchor}): {_first_sentence(known[name])}" for name, anchor in _anchors(known).items()),
    ]
    for name, cls in known.items():
        facts = [f"- {key}: {value}" for key, value in _facts(cls)]
        rows = [("setting", "type", "default", "what it is"), *_fields(cls, f"{group.replace('/', '.')}.", {})]
        lines += [
            "",
            f"## {name}",
            "",
            *inspect.cleandoc(cls.__doc__ or "").splitlines(),
            *([""] if facts else []),
            *facts,
        ]
        lines += ["", *(_markdown_rows(rows) if len(rows) > 1 else ["It has no settings."])]
        if group == "method" and (values := _tabled(name)):
            lines += [
                "",
                "From conf/noise/, by task, or task and data:",
                "",
                *_markdown_rows([("for", "settings"), *values]),
            ]
    return lines


def _anchors(names: Iterable[str]) -> dict[str, str]:
    """Returns the anchor that GitHub gives each heading: without signs, and numbered where two are equal."""
    found: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for name in names:
        plain = re.sub(r"[^\w-]", "", name)
        found[name] = f"{plain}-{seen[plain]}" if seen[plain] else plain
        seen[plain] += 1
    return found


def _markdown_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a table of Markdown; the first row is its head."""
    cells = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def _all() -> list[str]:
    lines = ["Groups, with what there is to choose. `ebmbench describe GROUP NAME` lists the settings of one.", ""]
    for group in registry.groups():
        lines += [*_options(group), ""]
    for group in YAML_GROUPS:
        lines += [*_of_yaml(group, ""), ""]
    for group, (_, text) in SECTIONS.items():
        lines.append(f"{group}: {text}")
    return lines


def _options(group: str) -> list[str]:
    """Returns a line for each option of a group: components, and variants of them that are YAML files."""
    known = registry.known(group)
    rows = [(name, _first_sentence(cls)) for name, cls in known.items()]
    rows += [(path.stem, _comment(path)) for path in _files(group) if path.stem not in known]
    return [f"{group}: {group}=NAME", *_rows(rows)]


def _first_sentence(cls: type[Component]) -> str:
    text = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]
    return " ".join(text.split())


def _of_yaml(group: str, name: str) -> list[str]:
    """Returns a line for each YAML file of a group, or the text of one; a preset may have a file for each task."""
    files = _files(group)
    named = {path.parent.name if path.parent.parent.name == group else path.stem: path for path in files}
    if not name:
        return [f"{group}: {YAML_GROUPS[group]}", *_rows([(key, _comment(path)) for key, path in named.items()])]
    if name not in named:
        raise UserError(f"{group}={name} is not known{did_you_mean(name, list(named))}")
    chosen = [
        path for path in files if path == named[name] or (path.parent.name, path.parent.parent.name) == (name, group)
    ]
    texts = [path.read_text().rstrip().splitlines() for path in chosen]
    return [line for text in texts for line in text]


def _files(group: str) -> list[Path]:
    """Returns the YAML files of a group; of two of the same name the one that Hydra uses, which is the project's."""
    places = folders.sweep_dirs() if group == "sweeps" else [folder / group for folder in folders.config_dirs()]
    patterns = ("*.yaml", "*/*.yaml") if group == "experiment" else ("*.yaml",)
    found: dict[str, Path] = {}
    for folder in places:
        for pattern in patterns:
            for path in folder.glob(pattern):
                found.setdefault(str(path.relative_to(folder)), path)
    return [found[name] for name in sorted(found)]


def _comment(path: Path) -> str:
    """Returns what a YAML file says of itself: the description of a sweep, else its first comment."""
    try:
        text = path.read_text()
        about = (yamlfile.parse(text) or {}).get("sweep") or {}
    except (OSError, UserError, AttributeError, UnicodeDecodeError):
        return "cannot be read"
    if isinstance(about, dict) and about.get("description"):
        return str(about["description"])
    comments = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    return next((line for line in comments if not line.startswith("@package")), "")


def _rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name.ljust(width)}  {text}".rstrip() for name, text in rows]


# ------------------------------------------------------------------------------------------------------ a component


def _component(cls: type[Component]) -> list[str]:
    lines = [f"{cls.group}={cls.registered()}", "", *inspect.cleandoc(cls.__doc__ or "").splitlines()]
    facts = [f"{key}: {value}" for key, value in _facts(cls)]
    facts.append(f"file: {inspect.getfile(cls)}")
    lines += ["", *facts, "", "settings", *_settings(cls, f"{cls.group.replace('/', '.')}.")]
    if issubclass(cls, Task):
        lines += ["", "settings of training", *_settings(cls.Trainer, "trainer.")]
        lines += ["", "metrics", *_rows([(m.name, _metric(m.heading, m.better)) for m in cls.metrics])]
    if cls.group == "method" and (values := _tabled(cls.registered())):
        lines += [
            "",
            "values that conf/noise/ gives instead of the defaults, by task, or task and data",
            *_rows(values),
        ]
    return lines


def _facts(cls: type[Component]) -> Iterator[tuple[str, str]]:
    """Yields what a class says of itself beside its settings."""
    reference = getattr(cls, "reference", "")
    if reference:
        yield "reference", reference
    if cls.group == "method":
        yield "draws from a proposal", "yes" if getattr(cls, "uses_proposal", False) else "no"
        yield "derivatives of f in y", str(getattr(cls, "y_derivatives", 0))


def _metric(title: str, better: object) -> str:
    if better is None:
        return title
    return f"{title} ({better} is better)" if isinstance(better, str) else f"{title} ({better:g} is best)"


def _tabled(method: str) -> list[tuple[str, str]]:
    """Returns the values that conf/noise/ has for a method, by task, or by task and data."""
    rows = []
    for path in sorted(path for folder in folders.config_dirs() for path in folder.glob(f"noise/**/{method}.yaml")):
        raw = yamlfile.read(path) or {}
        noise = {f"{_section_of(method, key)}.{key}": value for key, value in (raw.pop("noise", None) or {}).items()}
        values = " ".join(f"{key}={_shown(value)}" for key, value in {**noise, **flat(raw)}.items())
        rows.append((str(path.parent).partition("/noise/")[2], values))
    return rows


def _section_of(method: str, key: str) -> str:
    return "method" if key in registry.get("method", method).model_fields else "proposal"


def _settings(cls: type[Section], prefix: str, values: Mapping[str, Any] | None = None) -> list[str]:
    """Returns a table of settings: key, type and range, default, description."""
    rows = [("setting", "type", "default", "what it is"), *_fields(cls, prefix, values or {})]
    if len(rows) == 1:
        return ["  none"]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    lines = []
    for row in rows:
        start = "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + "  "
        text = textwrap.wrap(row[3], max(40, 120 - len(start))) or [""]
        lines += [(start + text[0]).rstrip(), *(" " * len(start) + more for more in text[1:])]
    return lines


def _fields(cls: type[Section], prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for name, field in cls.model_fields.items():
        key, mark, inner = f"{prefix}{name}", choice_of(field), sections_of(field)
        if mark is not None:
            group = choices(cls)[name].group
            yield group, "name", mark.default, f"`ebmbench describe {group}` lists them, with their settings"
        elif inner:
            yield from _fields(inner[0], f"{key}.", {})
        else:
            default = values[name] if name in values else field.get_default(call_default_factory=True)
            shown = "required" if default is PydanticUndefined else _shown(default)
            yield key, type_of(field), shown, field.description or ""


def _chosen_values(section: str) -> Mapping[str, Any]:
    """Returns the defaults of a section that conf/ has, and not the class."""
    name = "config.yaml" if section == "launch" else "logger/wandb.yaml"
    raw = yamlfile.read(folders.config_dir() / name)
    return cast(Mapping[str, Any], raw)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def type_of(field: FieldInfo) -> str:
    """Returns the type of a setting with its range, such as `int in [1, 1024]`, `float > 0`, `relu|silu`."""
    return _type(field.annotation) + _range(field.metadata)


def _type(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(parts[0]) + _range([mark for part in parts[1:] for mark in getattr(part, "metadata", [part])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, parts))
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin in (tuple, list):
        inner = [_type(part) for part in parts if part is not Ellipsis]
        return f"list of {inner[0]}" if len(inner) < len(parts) or len(inner) == 1 else f"[{', '.join(inner)}]"
    names = {bool: "true|false", type(None): "null", Any: "any"}
    return str(names.get(annotation, getattr(annotation, "__name__", annotation)))


def _range(metadata: Sequence[Any]) -> str:
    """Returns the bounds of a number, or the least length of a list, after a space; nothing if there are none."""
    keys = ("ge", "gt", "le", "lt", "min_length")
    found = {key: getattr(mark, key) for mark in metadata for key in keys if getattr(mark, key, None) is not None}
    bounds = {key: _shown(value) for key, value in found.items()}
    low = f"[{bounds['ge']}" if "ge" in bounds else f"({bounds['gt']}" if "gt" in bounds else ""
    high = f"{bounds['le']}]" if "le" in bounds else f"{bounds['lt']})" if "lt" in bounds else ""
    if low and high:
        return f" in {low}, {high}"
    for key, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        if key in bounds:
            return f" {sign} {bounds[key]}"
    return f", at least {bounds['min_length']}" if "min_length" in bounds else ""
