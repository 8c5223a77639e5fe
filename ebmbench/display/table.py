"""A table before it is Markdown, LaTeX, HTML or CSV."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """A text, and how it is marked.

    Attributes:
        mark: `best`, or nothing.
        tex: LaTeX, where it is not the escaped text.
        tail: LaTeX after it, which is not marked.
    """

    text: str
    mark: str = ""
    tex: str | None = None
    tail: str = ""


@dataclass(frozen=True)
class Table:
    """A title, a header, rows, and notes below."""

    title: str
    header: list[Cell]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
