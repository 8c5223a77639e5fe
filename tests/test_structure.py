"""The house keeps its rule: packages import one way, and nothing outside a task or a method names one."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ebmbench
from ebmbench.core import registry

PACKAGE = Path(ebmbench.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> set[str]:
    """The packages of ebmbench that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "ebmbench" and len(parts) > 1 and ((PACKAGE / parts[1]).is_dir() or module(parts[1])):
                found.add(parts[1])
    return found


def module(name: str) -> bool:
    return (PACKAGE / f"{name}.py").is_file()


def test_no_two_packages_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        if path.parent != PACKAGE or path.name not in ("__init__.py", "__main__.py"):
            graph.setdefault(package_of(path), set()).update(imports(path) - {package_of(path)})
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


def files_imported(path: Path, known: set[str]) -> set[str]:
    """The modules of ebmbench that a module imports, anywhere in it but for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import) and id(node) not in for_types:
            found |= {alias.name for alias in node.names}
    return found & known


def test_no_files_import_each_other_in_a_circle() -> None:
    names = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in MODULES}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    known = set(names.values())
    graph = {name: files_imported(path, known) - {name} for path, name in names.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


def test_every_file_that_registers_a_component_is_loaded() -> None:
    """A `components.py` lists the files of its package; one that it lacks would be a component that nobody finds."""
    loaded = {cls.__module__ for group in registry.groups().values() for cls in group.values()}
    having = {path for path in MODULES if re.search(r"^@register$", path.read_text(), re.M)}
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in having}
    assert len(names) > 20 and names <= loaded


def strings(path: Path) -> set[str]:
    """The string constants of a module, docstrings apart."""
    tree = ast.parse(path.read_text())
    texts = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts
    }


HOMES = {"method": "methods", "task": "tasks"}


@pytest.mark.parametrize("group", HOMES)
def test_nothing_outside_its_home_names_a_task_or_a_method(group: str) -> None:
    """Examples in help texts may; what decides something may not."""
    known = set(registry.known(group))
    for path in MODULES:
        if package_of(path) not in (HOMES[group], "check", "estimator"):
            named = strings(path) & known
            assert not named, f"{path.relative_to(PACKAGE)} names {named}"


def test_no_class_of_a_method_or_task_is_imported_outside_its_home() -> None:
    homes = {"method": "ebmbench.methods", "task": "ebmbench.tasks"}
    for group, home in homes.items():
        classes = {cls.__name__ for cls in registry.known(group).values()}
        for path in MODULES:
            inside = ("ebmbench." + ".".join(path.relative_to(PACKAGE).parts)).startswith(home)
            text = path.read_text()
            for name in () if inside else classes:
                assert not re.search(rf"isinstance\([^)]*\b{name}\b|import .*\b{name}\b", text), (path, name)


def test_every_public_function_and_class_says_what_it_does() -> None:
    lacking = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                lacking.append(f"{path.relative_to(PACKAGE)}: {node.name}")
    assert not lacking
