"""The one error that is shown to a user as a sentence instead of a traceback, and what such a sentence is made of."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any


class UserError(Exception):
    """Something the user can put right. Its text names the key, the value and what is allowed; exit code 2."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or two if the first ends in a colon; without a text, its type."""
    if problem := getattr(error, "problem", None):  # PyYAML's text begins with what it was reading
        mark = getattr(error, "problem_mark", None)
        return f"{problem}, line {mark.line + 1}" if mark else str(problem)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else type(error).__name__


def printable(text: str) -> str:
    """Returns a text whose control characters are shown, not sent: a file of somebody else moves no cursor."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in text)


def shown(value: Any) -> str:
    """Returns a value as a user would recognise it, cut if it is long."""
    value = value.item() if hasattr(value, "dtype") and not getattr(value, "shape", True) else value  # of NumPy
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def counted(count: int, one: str, many: str | None = None) -> str:
    """Returns a number with its noun: `1 image`, `2 images`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def row_at(index: int) -> str:
    """Returns how messages name a row of a table: as `predict` and files of splits number it."""
    return f"row {index}, counting from 0"


def did_you_mean(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    """Returns what a message says after an unknown word: the closest known ones, or all of them if they are few."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    if not close:  # a key may be right in its last part: trainer.sigma for noise.sigma
        tail = word.rsplit(".", 1)[-1]
        close = [key for key in known if key.rsplit(".", 1)[-1] == tail][:3]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; choose from {', '.join(known)}" if len(known) <= 20 else ""
