"""The one reader of YAML: plain data, bounded in size, depth and aliases, and no key twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ebmbench.core.errors import UserError, first_line
from ebmbench.system.files import read_bounded

MOST_BYTES = 2**24
MOST_NODES = 500_000
MOST_DEPTH = 40
"""Of mappings and lists in one another."""
MOST_ALIASES = 1000
"""Each may stand for a part of the file; what it stands for counts as nodes each time."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """A safe loader (plain data only) that refuses what no person writes."""


def parse(text: str | bytes) -> Any:
    """Returns the plain data of a YAML text; a byte order mark at its beginning is no part of it.

    Raises:
        UserError: it is no YAML, has a key twice, or is too large, too deep or has too many aliases.
    """
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if len(data) > MOST_BYTES:
        raise UserError(f"it is longer than {MOST_BYTES} bytes")
    try:
        _bound(data.decode("utf-8-sig"))
        return yaml.load(data.decode("utf-8-sig"), Loader=_Loader)  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise UserError(f"it is no YAML that can be read ({first_line(error)})") from None


def read(path: Path) -> Any:
    """Returns the plain data of a YAML file.

    Raises:
        UserError: it cannot be read; see `parse`.
    """
    try:
        return parse(read_bounded(path, MOST_BYTES))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def check_bounds(path: Path) -> None:
    """Raises UserError if a file is larger, deeper or has more aliases than `parse` reads; other faults may stay."""
    try:
        data = read_bounded(path, MOST_BYTES)
        _bound(data.decode("utf-8-sig"))
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        if "longer than" in str(error):
            raise UserError(str(error)) from None
    except (OSError, yaml.YAMLError):
        pass  # whoever uses it says what is wrong


def _bound(text: str) -> None:
    """Counts nodes, depth and aliases before anything is built: aliases may stand for exponentially many nodes."""
    sizes: dict[str, int] = {}
    open_anchors: list[tuple[str | None, int]] = []
    nodes = depth = aliases = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            aliases += 1
            nodes += sizes.get(event.anchor, MOST_NODES + 1)  # of a node that is not closed yet: it is in itself
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            open_anchors.append((event.anchor, nodes))
            nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            anchor, before = open_anchors.pop()
            if anchor is not None:
                sizes[anchor] = nodes - before
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        for name, value, most in (
            ("nodes", nodes, MOST_NODES),
            ("levels", depth, MOST_DEPTH),
            ("aliases", aliases, MOST_ALIASES),
        ):
            if value > most:
                raise UserError(f"it has more than {most} {name}")


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for part, _ in node.value:
        key = None if part.tag == "tag:yaml.org,2002:merge" else loader.construct_object(part, deep=True)
        if key is not None and key in seen:
            raise UserError(f"the key {key} is there twice, line {part.start_mark.line + 1}")
        seen.add(key)
    loader.flatten_mapping(node)
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
