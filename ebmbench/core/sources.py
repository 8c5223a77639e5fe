"""What a Python file is made of: its own source, and that of every module outside of site-packages that it imports."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Source:
    """The source of one module.

    Attributes:
        name: the module's; empty for a file that is no module of a package.
        data: its content; empty for a package without an `__init__.py`.
    """

    name: str
    file: Path
    data: bytes

    @property
    def is_package(self) -> bool:
        """Whether other modules are inside it."""
        return self.file.name == "__init__.py"

    @property
    def place(self) -> str:
        """Returns its path in a copy of all sources: `helper.py`, `package/__init__.py`."""
        if not self.name:
            return self.file.name
        path = self.name.replace(".", "/")
        return f"{path}/__init__.py" if self.is_package else path + self.file.name[self.file.name.index(".") :]


def digest(entry: str, contents: Mapping[str, bytes]) -> str:
    """Returns a hash of 32 digits of sources by module name; `entry` is the name of the one that is loaded."""
    listed = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in contents.items())
    return hashlib.sha256(json.dumps([entry, listed]).encode()).hexdigest()[:32]


def read_copy(root: Path, entry: str) -> dict[str, Source]:
    """Returns every file of a folder that holds a copy of sources, by module name.

    Args:
        entry: the path, in the folder, of the file that is loaded.

    Raises:
        OSError: a file cannot be read.
    """
    found = {}
    for path in sorted(path for path in root.rglob("*") if not path.is_dir()):
        place = path.relative_to(root).as_posix()
        stem = place.rpartition("/")[0] if path.name == "__init__.py" else place[: -len("".join(path.suffixes)) or None]
        name = "" if place == entry and "/" not in entry else stem.replace("/", ".")
        found[name] = Source(name, path, path.read_bytes())
    return found


class Sources:
    """The sources of a file or module, collected by following its imports.

    Args:
        entry: where to begin.
        root: the folder in which its imports are looked for first.
    """

    def __init__(self, entry: Source, root: Path) -> None:
        importlib.invalidate_caches()
        self.root = root
        self.top = entry.name.partition(".")[0]
        self.found: dict[str, Source] = {entry.name: entry}
        self._absent: set[str] = set()
        self.add(imports(entry))
        if self.top:
            self.add([entry.name])

    def add(self, names: Iterable[str]) -> bool:
        """Adds modules, the packages that they are in, and all that these import; returns whether any was new."""
        before, waiting = len(self.found), list(names)
        while waiting:
            name = waiting.pop()
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                part = ".".join(parts[:end])
                if part in self._absent:
                    break
                if part in self.found and (self.found[part].is_package or end == len(parts)):
                    continue
                source = self._source(part)
                if source is None:
                    self._absent.add(part)
                    break
                self.found[part] = source
                waiting += imports(source)
        return len(self.found) > before

    def add_used(self, modules: Iterable[ModuleType]) -> list[str]:
        """Adds the modules of what loaded modules have among their names, and returns the new ones.

        So imports are found that no `import` statement shows.
        """
        before = set(self.found)
        for module in modules:
            for value in list(vars(module).values()):
                name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
                if isinstance(name, str) and not name.startswith("ebmbench_plugin_"):
                    self.add([name])
        return [name for name in self.found if name not in before]

    def _source(self, name: str) -> Source | None:
        """Returns the source of a module; None where it is part of Python, of ebmbench or of an installed package."""
        top = name.partition(".")[0]
        if not name or top in sys.stdlib_module_names or top in ("ebmbench", "__main__"):
            return None
        spec = _spec(name, self.root)
        if spec is None:
            return None
        if spec.origin is None or not spec.has_location:  # a package without an __init__.py
            places = list(spec.submodule_search_locations or ())
            if not places or (is_installed(Path(places[0])) and top != self.top):
                return None
            return Source(name, Path(places[0]) / "__init__.py", b"")
        file = Path(spec.origin)
        if is_installed(file) and top != self.top:
            return None
        try:
            return Source(name, file, file.read_bytes())
        except OSError:
            return None


def _spec(name: str, root: Path) -> ModuleSpec | None:
    top, _, rest = name.partition(".")
    try:
        loaded = getattr(sys.modules.get(top), "__file__", None)
        spec = None
        if loaded is None or not is_installed(Path(loaded)):
            spec = PathFinder.find_spec(top, [str(root)])
        spec = spec or importlib.util.find_spec(top)
        place = top
        for part in rest.split(".") if rest else ():
            if spec is None or spec.submodule_search_locations is None:
                return None
            place = f"{place}.{part}"
            spec = PathFinder.find_spec(place, list(spec.submodule_search_locations))
    except (ImportError, ValueError, AttributeError):
        return None
    return spec


@lru_cache(maxsize=1)
def _python() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib")
    return tuple(Path(path).resolve() for name in names if (path := sysconfig.get_paths().get(name)))


def is_installed(file: Path) -> bool:
    """Returns whether a file belongs to Python, to ebmbench, or to a package in site-packages."""
    file = file.resolve()
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    return any(file.is_relative_to(folder) for folder in (*_python(), PACKAGE))


def imports(source: Source) -> Iterator[str]:
    """Yields the names of all modules that a source may import, anywhere in it."""
    if source.file.suffix != ".py":
        return
    try:
        tree = ast.parse(source.data)
    except (SyntaxError, ValueError, RecursionError):
        return  # whoever imports it says what is wrong
    package = source.name if source.is_package else source.name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".") if package else []
            base = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module:
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and len(node.args) and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value.lstrip(".")
