"""JSON that carries a digest of itself, so that a file that was changed is not read as if it were whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "seal"


class Broken(ValueError):
    """A sealed text is not what was written."""


class OtherVersion(Exception):
    """A sealed text has another layout; the text of the error is its version."""


def of(data: Mapping[str, Any]) -> str:
    """Returns the seal of plain data: 32 hexadecimal digits of a SHA-256 of all but the key `seal`."""
    rest = {key: value for key, value in data.items() if key != KEY}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def encode(data: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """Returns plain data as JSON, with its seal as the last key."""
    plain = json.loads(json.dumps(data))  # as it is read back: tuples are lists, keys are texts
    sealed = {**{key: value for key, value in plain.items() if key != KEY}, KEY: of(plain)}
    return (json.dumps(sealed, indent=indent, ensure_ascii=False) + "\n").encode(errors="surrogatepass")


def decode(text: bytes, schema: int) -> dict[str, Any]:
    """Returns what `encode` wrote, with its seal.

    Args:
        schema: what its key `schema` must be.

    Raises:
        Broken: it is not what was written.
        OtherVersion: it has another `schema`.
    """
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Broken(str(error)) from None
    if isinstance(data, dict) and "schema" in data and data["schema"] != schema:
        raise OtherVersion(str(data["schema"])[:20])
    if not isinstance(data, dict) or data.get(KEY) != of(data):
        raise Broken("its seal does not match")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
