"""Tries the components of a plug-in against the contract. `python -m ebmbench check my_method.py`.

Each check is a function of the class. It yields nothing if all is well, and otherwise sentences that say what fails.
"""

from __future__ import annotations

import inspect
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ebmbench.check import methods, networks, proposals, supports, tasks
from ebmbench.check.methods import Note
from ebmbench.config import compose
from ebmbench.core import plugins
from ebmbench.core.errors import UserError, first_line
from ebmbench.core.proposal import Proposal
from ebmbench.core.settings import Component, Section, choice_of, sections_of
from ebmbench.engine.execute import execute
from ebmbench.methods.base import Method
from ebmbench.models.base import DensityModel
from ebmbench.models.networks.base import Network
from ebmbench.models.outside import Outside
from ebmbench.supports.base import Support
from ebmbench.tasks.base import Task

Check = Callable[[Any], Iterator[str]]


@dataclass(frozen=True)
class Finding:
    """What came of a check: what fails, and what else there is to say."""

    component: str
    check: str
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()


def main(path: str) -> int:
    """Checks every component of a plug-in and says what fails; returns the exit code.

    Raises:
        UserError: the plug-in cannot be loaded, or registers nothing.
    """
    failed = 0
    for finding in check(path):
        print(f"{'FAILS' if finding.faults else 'ok':6}{finding.component}: {finding.check}", flush=True)
        for sentence in (*finding.faults, *finding.notes):
            print(f"      {sentence}", flush=True)
        failed += bool(finding.faults)
    print(f"{failed} checks fail" if failed else "all checks pass")
    return 1 if failed else 0


def check(path: str) -> Iterator[Finding]:
    """Yields what came of each check of each component of a plug-in."""
    (name,) = plugins.load([path])
    components = plugins.load_one(name).components
    if not components:
        raise UserError(f"{path} registers nothing: put the decorator @register above a class of its own")
    for cls in components:
        yield from check_component(cls)
        if issubclass(cls, Task):
            yield _finding(cls, _title(tasks.task_run), partial(tasks.task_run, cls, name))
            continue
        words = _smoke_run(cls, name)
        if words and _can_be_made(cls):
            yield _finding(cls, f"a short run ends: {' '.join(words)}", partial(short_run, words))


def check_component(cls: type[Component]) -> Iterator[Finding]:
    """Yields what came of each check of a component, a short run apart."""
    for title, function in _checks(cls):
        found = _finding(cls, title, partial(function, cls))
        yield found
        if function is settings and found.faults and not _can_be_made(cls):
            return


def _can_be_made(cls: type[Component]) -> bool:
    """Whether the class can be used with its default settings; a choice inside it may have none."""
    try:
        cls.model_validate({})
    except ValidationError:
        return any(choice_of(field) for field in cls.model_fields.values())
    except TypeError:  # a method is missing
        return False
    return True


def _finding(cls: type[Component], title: str, function: Callable[[], Iterator[str]]) -> Finding:
    notes: list[str] = []
    try:
        sentences = list(function())
        notes = [sentence for sentence in sentences if isinstance(sentence, Note)]
        faults = tuple(sentence for sentence in sentences if not isinstance(sentence, Note))
    except UserError as error:
        faults = (str(error),)
    except Exception as error:
        faults = (f"{type(error).__name__}: {_reason(error)}{_place(cls, error)}",)
    return Finding(f"{cls.group} {cls.registered()}", title, faults, tuple(notes))


def _reason(error: Exception) -> str:
    """Returns what is wrong in a line; of settings, the first fault with its field."""
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    return first_line(error)


def _place(cls: type[Component], error: Exception) -> str:
    """Returns the line of the component's own file in which an error was raised last, if there is one."""
    file = inspect.getfile(cls)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(file).name}, line {lines[-1]})" if lines else ""


def _checks(cls: type[Component]) -> Iterator[tuple[str, Check]]:
    """Yields the checks of a component, by title: the first line of each one's docstring."""
    kinds: dict[type[Component], tuple[Check, ...]] = {
        Component: (settings,),
        Method: methods.CHECKS,
        Proposal: proposals.CHECKS,
        Network: networks.CHECKS,
        DensityModel: networks.CHECKS,
        Outside: networks.OUTSIDE_CHECKS,
        Support: supports.CHECKS,
        Task: tasks.CHECKS,
    }
    found = [check for kind, checks in kinds.items() if issubclass(cls, kind) for check in checks]
    found += [tasks.data_arrays] if hasattr(cls, "load") else []
    for function in found:
        yield _title(function), function


def _title(function: Callable[..., Iterator[str]]) -> str:
    """Returns the first line of a check's docstring, as a part of a sentence."""
    sentence = str(function.__doc__).splitlines()[0].rstrip(".")
    return sentence[0].lower() + sentence[1:]


def settings(cls: type[Component]) -> Iterator[str]:
    """Its settings are described, with defaults that are allowed."""
    if not (cls.__doc__ or "").strip():
        yield "the class has no docstring: its first line is what users read"
    yield from _described(cls, cls.group.replace("/", "."))
    try:
        cls.model_validate({})
    except Exception as error:
        if not any(choice_of(field) for field in cls.model_fields.values()):
            yield _reason(error) if isinstance(error, TypeError) else f"the defaults are not allowed: {_reason(error)}"


def _described(cls: type[Section], prefix: str) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        if choice_of(field) is not None:
            continue
        inner = sections_of(field)
        if inner:
            yield from _described(inner[0], f"{prefix}.{name}")
        elif not field.description:
            yield f"{prefix}.{name} has no description: give Field(..., description=...)"
        elif field.is_required():
            yield f"{prefix}.{name} has no default"


def _smoke_run(cls: type[Component], plugin: str) -> list[str]:
    """Returns the words of a short run that uses a component; none for what no short run can know."""
    name = cls.registered()
    if issubclass(cls, Method):
        words = ["task=1d", f"method={name}"]
    elif issubclass(cls, Proposal):
        words = ["task=1d", "method=ml-is", f"proposal={name}"]
    elif issubclass(cls, DensityModel | Outside):
        words = ["task=regression", f"model={name}"]
    elif issubclass(cls, Network):
        words = ["task=regression", "method=nce", f"network={name}"]
    elif hasattr(cls, "load"):
        words = ["task=regression", "method=nce", f"data={name}"]
    else:
        return []
    return [*words, "+experiment=smoke", f"plugins=[{plugin}]", "device=cpu", "logger=none"]


def short_run(words: list[str]) -> Iterator[str]:
    """Runs a command in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = compose.compose([*words, f"results_dir={folder}"])
        outcome = execute(config, quiet=True)
        if outcome.state != "done":
            yield f"it ended as {outcome.state}"
        if outcome.undrawn:
            yield f"its figures are not drawn: {outcome.undrawn}"
