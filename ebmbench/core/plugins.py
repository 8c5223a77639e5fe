"""Plug-ins: Python files or modules of the user's own, which register components.

They are named by the setting `plugins` (paths or modules), or installed with the entry-point group `ebmbench.plugins`.
A run and a plan keep copies of the plug-ins that they use, in `plugins/<hash>/`. Such a copy is executed only if it is
what the hash says and if the user trusts this hash: naming a plug-in oneself does so, and `--trust HASH`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from ebmbench.core import registry, trust
from ebmbench.core.errors import UserError, first_line
from ebmbench.core.settings import Component
from ebmbench.core.sources import Source, Sources, digest, imports, read_copy

GROUP = "ebmbench.plugins"
"""The group of entry points by which an installed package offers a plug-in."""
COPY = re.compile(r"(?:^|.*/)plugins/(?P<hash>[0-9a-f]{32})/(?P<entry>[^:]+\.py)")
"""The path of a plug-in's copy in a folder of results."""


@dataclass(frozen=True)
class Plugin:
    """A plug-in that is loaded.

    Attributes:
        name: its absolute path, or the module's name.
        module: the Python module that holds it.
        sha256: 32 digits, of all its sources; a part of the identity of each run that uses the plug-in.
        sources: its own, and those of the modules outside of site-packages that it imports.
        entry: the name of its own module in `sources`.
        classes: what these modules define.
        components: those of them that are registered.
    """

    name: str
    module: ModuleType
    sha256: str
    sources: tuple[Source, ...]
    entry: str
    classes: frozenset[type]
    components: tuple[type[Component], ...]

    @property
    def copy(self) -> str:
        """Returns the path of its copy, in the folder of a run or plan."""
        source = next(source for source in self.sources if source.name == self.entry)
        return f"plugins/{self.sha256}/{source.place}"


_loaded: dict[str, Plugin] = {}
_seen: list[Plugin] = []
"""All that were ever loaded, for the components that are in use: a file may have been edited since."""
_stamps: dict[str, tuple[object, ...]] = {}
"""The times and sizes of the files of each plug-in when it was loaded."""
_content: dict[str, bytes] = {}
"""What each module held that was imported for a plug-in, by its name."""


def load(names: Sequence[str]) -> list[str]:
    """Loads plug-ins by path or module name; returns their names as a run keeps them (absolute paths).

    Raises:
        UserError: one cannot be found or imported, or registers a name that is taken, or is a copy that is not trusted.
    """
    installed()
    return [load_one(name).name for name in names]


def module_of(name: str) -> ModuleType | None:
    """Returns the module of the plug-in that was loaded last of those that are a file `NAME.py`; None without one."""
    modules = (plugin.module for plugin in reversed(_seen))
    return next((module for module in modules if Path(str(module.__file__)).stem == name), None)


@lru_cache(maxsize=1)
def installed() -> None:
    """Loads the plug-ins that installed packages offer."""
    registry.load()
    for entry in importlib.metadata.entry_points(group=GROUP):
        load_one(entry.module)


def load_one(name: str) -> Plugin:
    """Loads a plug-in, anew where one of its files was edited; raises as `load`."""
    registry.load()
    is_file = name.endswith(".py") or "/" in name
    path = Path(name).expanduser().absolute()
    key = str(path) if is_file else name
    known = _loaded.get(key)
    if known is None or _stamp(known) != _stamps.get(key):
        if is_file and not path.is_file():
            raise UserError(f"plugins={name} is not a file; give the path of a Python file, or the name of a module")
        copy = COPY.fullmatch(path.as_posix()) if is_file else None
        if copy:
            known = _load_copy(path, copy["hash"], copy["entry"])
        else:
            known = _load(key, _sources_of_file(path) if is_file else _sources_of_module(name))
            trust.accept(known.sha256, key)
        _loaded[key] = known = replace(known, name=key)
        _seen.append(known)
        _stamps[key] = _stamp(known)
    for component in known.components:  # another version of it may have taken their names since
        registry.put(component)
    return known


def _stamp(plugin: Plugin) -> tuple[object, ...]:
    found: list[object] = []
    for source in plugin.sources:
        try:
            about = os.stat(source.file)
        except OSError:
            found.append(None)
        else:
            found.append((about.st_mtime_ns, about.st_size, about.st_ino))
    return tuple(found)


def _sources_of_file(path: Path) -> Sources:
    root, name = path.parent, path.stem
    while (root / "__init__.py").is_file():  # a module of a package: its name says where it is
        root, name = root.parent, f"{root.name}.{name}"
    return Sources(Source("" if root == path.parent else name, path, path.read_bytes()), root)


def _sources_of_module(name: str) -> Sources:
    try:
        spec = importlib.util.find_spec(name)
        file = Path(spec.origin or "") if spec is not None else Path()
        data = file.read_bytes()
    except ModuleNotFoundError as error:
        raise _cannot_import(name, error) from None
    except (ImportError, ValueError, AttributeError, OSError):
        raise UserError(f"plugins={name} cannot be imported; give the name of a module, or its file") from None
    root = file.parents[name.count(".") + (file.name == "__init__.py")]
    return Sources(Source(name, file, data), root)


def _load(key: str, sources: Sources) -> Plugin:
    """Imports a plug-in, and returns it with all that it imported."""
    entry = next(iter(sources.found))
    module = _import(key, entry, sources.found)
    new = list(sources.found)
    while new:  # what was imported without an import statement counts too
        modules = [module if name == entry else sys.modules.get(name) for name in new]
        new = sources.add_used(there for there in modules if there is not None)
    return _plugin(key, entry, module, sources.found)


def _load_copy(path: Path, sha256: str, place: str) -> Plugin:
    """Loads a copy in a folder of results: nothing of it is executed before it is known to be what the hash says."""
    root = path.parents[place.count("/")]
    try:
        found = read_copy(root, place)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    entry = next((source.name for source in found.values() if source.file == root / place), None)
    if entry is None or digest(entry, {name: source.data for name, source in found.items()}) != sha256:
        raise UserError(f"{root} is damaged: its files are not those of the plug-in {sha256}; nothing was executed")
    known = next((plugin for plugin in _loaded.values() if plugin.sha256 == sha256), None)
    if known is not None:
        return replace(known, sources=tuple(found[name] for name in sorted(found)))
    if not trust.is_accepted(sha256):
        raise UserError(
            f"{path} is a plug-in that came with these results and that you have not accepted, so nothing of it was "
            f"executed; read the files in {root}, and if you trust them: python -m ebmbench --trust {sha256}"
        )
    return _plugin(str(path), entry, _import(str(path), entry, found, is_copy=True), found)


def _plugin(key: str, entry: str, module: ModuleType, found: Mapping[str, Source]) -> Plugin:
    modules = [module, *(sys.modules[name] for name in found if name in sys.modules)]
    classes = {value for there in modules for value in vars(there).values() if isinstance(value, type)}
    own = {there.__name__ for there in modules}
    sha256 = digest(entry, {name: source.data for name, source in found.items()})
    sources = tuple(found[name] for name in sorted(found))
    defined = frozenset(cls for cls in classes if cls.__module__ in own)
    components = tuple(cls for group in registry.groups().values() for cls in group.values() if cls in defined)
    return Plugin(key, module, sha256, sources, entry, defined, components)


def _import(key: str, entry: str, found: Mapping[str, Source], is_copy: bool = False) -> ModuleType:
    """Imports the module `entry`; those that it imports are taken from `found`, as they were read."""
    sha256 = digest(entry, {name: source.data for name, source in found.items()})
    name = entry or re.sub(r"\W", "_", f"ebmbench_plugin_{found[entry].file.stem}_{sha256}")
    sources = {name if key == entry else key: source for key, source in found.items()}
    stale = [key for key, source in sources.items() if key in sys.modules and _held(key) != source.data]
    if stale:  # edited since, or another version: all of them are imported anew
        for key in sources:
            sys.modules.pop(key, None)
    if not entry:
        sys.modules.pop(name, None)
    _finder.sources.update(sources)
    if is_copy:
        registry.copies.add(name)
    before = registry.groups()
    try:
        return importlib.import_module(name)
    except BaseException as error:
        registry.restore(before)
        sys.modules.pop(name, None)
        if isinstance(error, UserError) or not isinstance(error, Exception | SystemExit):
            raise
        raise _cannot_import(key, error) from None


def _held(name: str) -> bytes | None:
    """Returns the source that a loaded module was made of: the one that was imported here, else its file."""
    if name not in _content:
        file = getattr(sys.modules[name], "__file__", None)
        try:
            _content[name] = Path(file).read_bytes() if file else b""
        except OSError:
            return None
    return _content[name]


def _cannot_import(name: str, error: BaseException) -> UserError:
    return UserError(f"plugins={name} cannot be imported ({type(error).__name__}: {first_line(error)})")


class _Loader(SourceLoader):
    """Imports a source as it was read and hashed: neither a later edit nor a file of byte code can slip in."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def get_filename(self, fullname: str) -> str:
        return str(self.source.file)

    def get_data(self, path: str | bytes) -> bytes:
        return self.source.data

    def exec_module(self, module: ModuleType) -> None:
        _content[module.__name__] = self.source.data
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds the modules of plug-ins, before all other finders."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        source = self.sources.get(fullname)
        if source is None:
            return None
        inside = [str(source.file.parent)] if source.is_package else None
        loader = _Loader(source) if source.file.suffix == ".py" else None
        return importlib.util.spec_from_file_location(
            fullname, source.file, loader=loader, submodule_search_locations=inside
        )


_finder = _Finder()
sys.meta_path.insert(0, _finder)


def of(components: Iterable[Component | None], named: Iterable[str] = ()) -> list[Plugin]:
    """Returns the loaded plug-ins that define any of these components, or a class that one is derived from.

    Args:
        named: plug-ins that are asked for by name; others count only for what these do not define.
    """
    named, found = set(named), {}
    for component in components:
        classes = set(type(component).__mro__)
        having = {plugin.name: plugin for plugin in _seen if classes & plugin.classes}  # by name the last one
        wanted = [plugin for name, plugin in having.items() if name in named]
        for plugin in wanted or list(having.values())[:1]:
            found[plugin.sha256] = plugin
    return [found[key] for key in sorted(found)]


def installed_imports(cls: type) -> set[str]:
    """Returns the installed packages that the plug-ins of a class import, those that ebmbench needs itself apart."""
    plugins = [plugin for plugin in _seen if cls in plugin.classes]
    tops = {name.partition(".")[0] for plugin in plugins for source in plugin.sources for name in imports(source)}
    names = importlib.metadata.packages_distributions()
    found = {package for top in tops - set(sys.stdlib_module_names) for package in names.get(top, ())}
    return found - {"ebmbench", "numpy", "pydantic", "torch", "typing_extensions"}


def package_version(package: str) -> str | None:
    """Returns the version of an installed package, None if it is not installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def accept_copies_in(settings: str) -> None:
    """Accepts the copies that a job's settings name, for this process: one that has loaded them sent the job."""
    for sha256 in re.findall(r"/plugins/([0-9a-f]{32})/", settings):
        trust.accept_here(sha256)


def forget(names: Iterable[str]) -> None:
    """Forgets loaded plug-ins and their modules; for tests."""
    _seen[:] = [plugin for plugin in _seen if plugin.name not in set(names)]
    for name in names:
        plugin = _loaded.pop(name)
        for source in plugin.sources:
            for key in (source.name, plugin.module.__name__):
                sys.modules.pop(key, None)
                _finder.sources.pop(key, None)
                _content.pop(key, None)
