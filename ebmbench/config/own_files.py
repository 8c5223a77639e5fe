"""YAML of the user's own that Hydra would ignore in silence: it has the wrong place, or a key that nobody reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath

from ebmbench.config import folders
from ebmbench.core import registry
from ebmbench.core.errors import UserError, did_you_mean
from ebmbench.system import yamlfile

GROUPS = ("noise", "recipe", "best")
"""Groups whose files are used where their place fits a run: an unknown task or method is a file that none uses."""


def check() -> None:
    """Refuses files of one's own in `conf/noise`, `conf/recipe` and `conf/best` that no run would use.

    Raises:
        UserError: a file's place names no task or method, is that of a file of the project, or a key is not known.
    """
    project, *own = folders.config_dirs()
    files = [(path, folder) for folder in own for group in GROUPS for path in sorted((folder / group).rglob("*.yaml"))]
    if not files:
        return
    known = {group: {*registry.known(group), *folders.options(group)} for group in ("method", "model")}
    known["task"] = set(registry.known("task"))
    for path, folder in files:
        place = path.relative_to(folder)
        if (project / place).is_file():
            raise UserError(
                f"{path} would not be used: the project has {place}, which wins; use --config-dir "
                "with a file of sweeps/ or +experiment, or give the values on the command line"
            )
        for group, name in _parts(place.with_suffix("")):
            if name not in known[group]:
                near = did_you_mean(name, sorted(known[group]))
                raise UserError(f"{path}: the {group} {name!r} is not known{near}")
        if place.parts[0] == "noise" and len(place.parts) == 3:
            _check_keys(path)


def _parts(place: PurePath) -> Iterator[tuple[str, str]]:
    """Yields what the parts of a file's place must name: a group of components, and the name that is there."""
    group, *parts = place.parts
    is_model = group == "best" and parts[0] == "model"
    yield "task", parts[is_model] if len(parts) > is_model else ""
    if is_model:
        yield "model", parts[-1]
    elif group == "best" and parts[-1] in registry.known("network"):
        yield "method", parts[-2]
    elif group != "recipe":
        yield "method", parts[-1]


def _check_keys(path: Path) -> None:
    """Refuses a key of `noise/TASK/METHOD.yaml` that no method or proposal has."""
    raw = yamlfile.read(path)
    classes = [cls for group in ("method", "proposal") for cls in registry.known(group).values()]
    fields = {"defaults", *(name for cls in classes for name in cls.model_fields)}
    for key in map(str, raw if isinstance(raw, dict) else ()):
        if key not in fields:
            near = did_you_mean(key, sorted(fields))
            raise UserError(f"{path}: {key!r} is no setting of a method or proposal{near}")
