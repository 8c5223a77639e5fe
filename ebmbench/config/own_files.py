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
    for folder in own:
        for group in GROUPS:
            for path in sorted((folder / group).rglob("*.yaml")):
                place = path.relative_to(folder)
                if (project / place).is_file():
                    raise UserError(
                        f"{path} would not be used: the project has {place}, which wins; use --config-dir "
                        "with a file of sweeps/ or +experiment, or give the values on the command line"
                    )
                for kind, name, known in _parts(place.relative_to(group).with_suffix(""), group):
                    if name not in known:
                        raise UserError(f"{path}: {kind} {name!r} is not known{did_you_mean(name, sorted(known))}")
                if group == "noise" and len(place.parts) == 3:
                    _check_keys(path)


def _parts(place: PurePath, group: str) -> Iterator[tuple[str, str, set[str]]]:
    """Yields what the parts of a file's place must be: the kind, the name that is there, and the names that may be."""
    parts = list(place.parts)
    models = parts[0] == "model" and group == "best"
    tasks, methods = set(registry.known("task")), {*registry.known("method"), *folders.options("method")}
    yield "the task", parts[models] if len(parts) > models else "", tasks
    if models:
        yield "the model", parts[-1], {*registry.known("model"), *folders.options("model")}
    elif group == "best" and parts[-1] in registry.known("network"):
        yield "the method", parts[-2], methods
    elif group != "recipe":
        yield "the method", parts[-1], methods


def _check_keys(path: Path) -> None:
    """Refuses a key of `noise/TASK/METHOD.yaml` that no method or proposal has."""
    raw = yamlfile.read(path)
    classes = [cls for group in ("method", "proposal") for cls in registry.known(group).values()]
    fields = {"defaults", *(name for cls in classes for name in cls.model_fields)}
    for key in map(str, raw if isinstance(raw, dict) else ()):
        if key not in fields:
            near = did_you_mean(key, sorted(fields))
            raise UserError(f"{path}: {key!r} is no setting of a method or proposal{near}")
