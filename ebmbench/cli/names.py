"""The names that a command line may use: components, YAML files, sweeps, settings. Nothing here imports PyTorch."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import yaml

from ebmbench.cli.source import Class, Source
from ebmbench.config import folders

PACKAGE = Path(__file__).resolve().parent.parent
PRESETS = {"experiment": "+experiment", "sweeps": "+sweeps"}
"""Groups whose options are added to what there is."""
OPEN = ("method", "data", "model", "network")
"""Groups whose settings are all offered while none of their options is chosen."""


class Names:
    """What is there: in the project, in `./conf`, `./sweeps`, in folders of the user's own, and in plug-ins.

    Args:
        plugins: Python files of the user's own.
    """

    def __init__(self, plugins: Sequence[Path] = ()) -> None:
        self._plugins = [*plugins, *_installed_plugins()]

    @cached_property
    def defaults(self) -> dict[str, str]:
        """What conf/config.yaml chooses, by group."""
        entries = yaml.safe_load((folders.config_dir() / "config.yaml").read_text())["defaults"]
        return {key: str(value) for entry in entries if isinstance(entry, dict) for key, value in entry.items()}

    @cached_property
    def source(self) -> Source:
        """The classes of the project and of plug-ins."""
        own = [PACKAGE / "config" / "run.py"]
        for folder in ("methods", "proposals", "models", "tasks"):
            own += sorted((PACKAGE / folder).rglob("*.py"))
        return Source([*own, *self._plugins])

    @cached_property
    def components(self) -> Mapping[str, Mapping[str, Class]]:
        """The registered classes by group and name."""
        return self.source.components()

    def groups(self) -> list[str]:
        """Returns the groups of which one option is chosen, as users write them."""
        return [*self.components, "logger", "trainer", "hydra/launcher", *PRESETS.values()]

    def options(self, group: str) -> list[str]:
        """Returns the options of a group: components first, then YAML files; `group` is written in full."""
        found = list(self.components.get("task" if group == "trainer" else group, {}))
        return found + sorted(folders.options(group) - set(found))

    def settings(self, chosen: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Returns the settings of a run by dotted key, with the values of those that have a short list of them.

        Args:
            chosen: the options that are chosen, by group.
        """
        chosen = {**self.defaults, **chosen}
        found = dict(self._keys("Launch", ""))
        found |= dict.fromkeys(("seeds", "plugins"), ())
        for group, components in self.components.items():
            cls = components.get(chosen.get(group, "").partition("/")[0])
            classes = [cls] if cls else list(components.values()) if group in OPEN else []
            for each in classes:
                found |= {name: s.values for name, s in self.source.keys(each, f"{group}.") if not s.is_choice}
        task = self.components["task"].get(chosen["task"])
        if task is not None:
            found |= dict(self._keys(str(self.source.constant(task, "Trainer")), "trainer."))
        if chosen["logger"] == "wandb":
            found |= dict(self._keys("LoggerConfig", "logger."))
        return found

    def _keys(self, cls: str, prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        if cls in self.source.classes:
            yield from ((key, s.values) for key, s in self.source.keys(self.source.classes[cls], prefix))


def _installed_plugins() -> list[Path]:
    """Returns the files of the plug-ins that installed packages offer."""
    found = []
    for entry in importlib.metadata.entry_points(group="ebmbench.plugins"):
        if entry.dist is not None:
            stem = entry.module.replace(".", "/")
            found += [Path(str(entry.dist.locate_file(f"{stem}{end}"))) for end in (".py", "/__init__.py")]
    return [path for path in found if path.is_file()]
