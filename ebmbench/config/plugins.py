"""Copies of plug-ins in the folders of runs and plans: settings name them by their path in the folder.

So a folder can be moved, renamed or sent to somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ebmbench.core.errors import UserError, shown
from ebmbench.core.plugins import COPY, Plugin
from ebmbench.system.files import write_atomically

FUNCTIONS = (("data", "function"),)
"""Beside `plugins`, the settings that name Python code of the user's own: FILE.py:FUNCTION."""


def keep(plugins: Iterable[Plugin], folder: Path) -> None:
    """Copies the sources of plug-ins into a folder.

    Raises:
        OSError: it cannot be written.
    """
    for plugin in plugins:
        root = (folder / plugin.copy).parents[plugin.copy.count("/") - 2]
        for source in plugin.sources:
            path = root / source.place
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, source.data)


def with_copies(settings: Mapping[str, Any], plugins: Iterable[Plugin]) -> dict[str, Any]:
    """Returns settings that name the copies of these plug-ins, by their path in the folder; other plug-ins go."""
    copies = {plugin.name: plugin.copy for plugin in plugins}

    def copied(text: str) -> str:
        file, called = function_of(text)
        return f"{copies[file]}:{called}" if file in copies else text

    functions = [function_of(text)[0] for text in functions_in(settings)]
    names = [copy for name, copy in copies.items() if name not in functions or name in settings.get("plugins", ())]
    return {**_changed(settings, copied), "plugins": names}


def located(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the settings of a folder's run or plan, with the absolute paths of the copies.

    Raises:
        UserError: code is named that is no copy in this folder: nothing else is ever executed.
    """

    def absolute(text: Any) -> str:
        match = COPY.fullmatch(text.rpartition(":")[0] or text) if isinstance(text, str) else None
        if match is None or not text.startswith("plugins/") or ".." in Path(text).parts:
            raise UserError(f"{folder} names the Python code {shown(text)}, which is no copy in its own plugins/")
        return f"{folder.absolute()}/{text}"

    if not isinstance(settings.get("plugins") or [], list):
        raise UserError(f"{folder} has plugins={shown(settings['plugins'])}, which is no list")
    names = [absolute(name) for name in settings.get("plugins") or ()]
    return {**_changed(settings, absolute), "plugins": names}


def function_of(text: str) -> tuple[str, str]:
    """Returns the absolute path and the function of FILE.py:FUNCTION."""
    file, _, called = text.rpartition(":")
    return str(Path(file).expanduser().absolute()), called


def functions_in(settings: Mapping[str, Any]) -> list[str]:
    """Returns every FILE.py:FUNCTION that settings name."""
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    _changed(settings, note)
    return found


def _changed(settings: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Returns settings with what names a function changed."""
    found = dict(settings)
    for path in FUNCTIONS:
        found = _changed_at(found, path, change)
    return found


def _changed_at(settings: Mapping[str, Any], path: Sequence[str], change: Callable[[str], str]) -> dict[str, Any]:
    key, *rest = path
    value = settings.get(key)
    if rest and isinstance(value, Mapping):
        return {**settings, key: _changed_at(value, rest, change)}
    if not rest and isinstance(value, str) and ".py:" in value:
        return {**settings, key: change(value)}
    return dict(settings)
