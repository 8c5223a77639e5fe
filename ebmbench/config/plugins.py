"""Plug-ins: Python files or modules of the user's own, which register components.

They are named by the setting `plugins` (paths or modules), or installed with the entry-point group `ebmbench.plugins`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ebmbench.core import registry
from ebmbench.core.errors import UserError, first_line
from ebmbench.core.settings import Component

GROUP = "ebmbench.plugins"
"""The group of entry points by which an installed package offers a plug-in."""


@dataclass(frozen=True)
class Plugin:
    """A plug-in that is loaded.

    Attributes:
        name: its absolute path, or the module's name.
        module: the Python module that holds it.
        file: its source.
        sha256: of the source; a part of the identity of each run that uses the plug-in.
    """

    name: str
    module: str
    file: Path
    sha256: str


_loaded: dict[str, Plugin] = {}


def load(names: Sequence[str]) -> list[str]:
    """Loads plug-ins by path or module name; returns their names as a run keeps them (absolute paths).

    Raises:
        UserError: one cannot be found or imported, or registers a name that is taken.
    """
    installed()
    return [_load(name).name for name in names]


@lru_cache(maxsize=1)
def installed() -> None:
    """Loads the plug-ins that installed packages offer."""
    registry.load()
    for entry in importlib.metadata.entry_points(group=GROUP):
        _load(entry.module)


def _load(name: str) -> Plugin:
    registry.load()
    is_file = name.endswith(".py") or "/" in name
    path = Path(name).expanduser().absolute()
    key = str(path) if is_file else name
    if is_file and not path.is_file():
        raise UserError(f"plugins={name} is not a file; give the path of a Python file, or the name of a module")
    digest = _digest(path) if is_file else ""
    known = _loaded.get(key)
    if known is not None and (not is_file or known.sha256 == digest):
        return known
    # The source names the module: a plug-in copied into a run's folder is the same plug-in.
    module = f"ebmbench_plugin_{path.stem}_{digest[:12]}" if is_file else name
    if module not in sys.modules:
        _import(name, module, path if is_file else None)
    file = path if is_file else Path(inspect.getsourcefile(sys.modules[module]) or "")
    _loaded[key] = Plugin(key, module, file, digest or _digest(file))
    return _loaded[key]


def _import(name: str, module: str, path: Path | None) -> None:
    try:
        if path is None:
            importlib.import_module(module)
            return
        spec = importlib.util.spec_from_file_location(module, path)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        sys.modules[module] = made
        spec.loader.exec_module(made)
    except UserError:
        sys.modules.pop(module, None)
        raise
    except (Exception, SystemExit) as error:
        sys.modules.pop(module, None)
        raise UserError(f"plugins={name} cannot be imported ({type(error).__name__}: {first_line(error)})") from None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def of(components: Iterable[Component | None]) -> list[Plugin]:
    """Returns the loaded plug-ins that define any of these components."""
    modules = {type(component).__module__ for component in components if component is not None}
    found = {plugin.module: plugin for plugin in _loaded.values() if plugin.module in modules}
    return list(found.values())


def registered_by(name: str) -> list[type[Component]]:
    """Returns the components that a loaded plug-in registered, by the name that `load` returned."""
    module = _loaded[name].module
    return [cls for known in registry.groups().values() for cls in known.values() if cls.__module__ == module]
