"""A table, and how it is written as Markdown, LaTeX (booktabs) and CSV; the page writes it as HTML.

Texts may come from others: run directories, sweep files, plug-ins. Each format escapes them, so that none can add HTML,
LaTeX commands or formulas of a spreadsheet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Cell:
    """A text, and how it is shown.

    Attributes:
        beside: what belongs to it, such as an interval; the page shows it below, in small print.
        marks: signs behind the text that the notes explain.
        mark: `best`, or nothing.
        tex: LaTeX, where it is not the escaped text.
        tail: LaTeX for what stands beside it.
        sort: what the page sorts by, if it is not the text.
        kind: `method` (the page shows its colour), `code`, or nothing.
    """

    text: str
    beside: str = ""
    mark: str = ""
    marks: str = ""
    tex: str | None = None
    tail: str = ""
    sort: float | str | None = None
    kind: str = ""

    @property
    def whole(self) -> str:
        """The text, with what stands beside it."""
        return " ".join(filter(None, [self.text, self.beside, self.marks]))


@dataclass(frozen=True)
class Table:
    """A title, a header, rows, and notes.

    Attributes:
        data: the numbers behind it, to more digits; the texts of the cells if not given.
        file: the CSV file that has its data, together with that of the other tables of this name.
        folded: whether it is a detail, which the page folds away.
    """

    title: str
    header: list[Cell]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    data: pd.DataFrame | None = None
    file: str = ""
    folded: bool = False

    @property
    def aligned(self) -> list[bool]:
        """Whether each column holds numbers, which stand on the right."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.header)
        return [any(isinstance(cell.sort, int | float) for cell in column) for column in columns]

    @property
    def numbers(self) -> pd.DataFrame:
        """What is offered as CSV."""
        if self.data is not None:
            return self.data
        return pd.DataFrame([[cell.whole for cell in row] for row in self.rows], columns=[c.text for c in self.header])


def method_cell(name: object) -> Cell:
    """Returns the cell of a method's name."""
    return Cell(str(name), kind="method")


def code_cell(text: object) -> Cell:
    """Returns a cell of a hash, a name of a run or a command."""
    return Cell(str(text), tex=rf"\texttt{{{latex_text(str(text))}}}", kind="code")


def number_cell(value: float, decimals: int | None = None) -> Cell:
    """Returns the cell of a number."""
    return Cell(number(value, decimals), sort=value)


def plain(value: Any) -> str:
    """Returns a value as it is printed; what is missing, as in YAML."""
    if value is None or value != value:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(value: float, decimals: int | None = None) -> str:
    """Returns a number as it is printed: to so many decimals, else to four significant digits; tiny ones as 1.7e-05."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if decimals is None:
        text = f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"
    else:
        text = f"{value:,.0f}" if decimals == 0 else f"{value:.{decimals}f}" if decimals < 6 else f"{value:.2g}"
    sign = "−" if text.startswith("-") and text.strip("-0.") else ""  # what is rounded to zero has no sign
    return sign + text.removeprefix("-")


def one_line(text: str) -> str:
    """Returns a text without line breaks and other control characters."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else " " for c in text).split())


# ------------------------------------------------------------------------------------------------------------ CSV


def csv_text(frame: pd.DataFrame, digits: int | None = 10) -> str:
    """Returns a table as CSV, texts that a spreadsheet would take for a formula with a quote before them.

    Args:
        digits: significant ones. Ten are more than any use needs, and fewer than other machines may round differently.
            None: to the last digit.
    """
    safe = frame.copy()
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            safe[name] = frame[name].map(_defused, na_action="ignore")
    safe.columns = pd.Index([_defused(name) for name in frame.columns])
    return str(safe.to_csv(index=False, float_format=f"%.{digits}g" if digits else None, lineterminator="\n"))


def _defused(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


# ------------------------------------------------------------------------------------------------------- Markdown


def markdown(table: Table, level: int = 2) -> str:
    """Returns a table as GitHub's Markdown, with its title and its notes."""
    lines = ["#" * level + " " + markdown_text(table.title), "", *markdown_rows(table), ""]
    return "\n".join([*lines, *(f"{markdown_text(note)}  " for note in table.notes), ""])


def markdown_rows(table: Table) -> list[str]:
    """Returns the lines of a table as GitHub's Markdown, without title and notes."""
    lines = ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in [table.header, *table.rows]]
    return [lines[0], "|" + "---|" + "---:|" * (len(table.header) - 1), *lines[1:]]


def markdown_text(text: str) -> str:
    """Returns a text that Markdown shows as it is: no HTML, no link, no emphasis, no new cell."""
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", one_line(text))  # "<0.001" is no HTML and stays readable
    return re.sub(r"([\\|*`]|(?<=\])\()", r"\\\1", text)


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    behind = "".join(f" {markdown_text(part)}" for part in (cell.beside, cell.marks) if part)
    return (f"**{text}**" if cell.mark == "best" else text) + behind


# ---------------------------------------------------------------------------------------------------------- LaTeX


def latex(table: Table, label: str, symbols: Mapping[str, str], notes: Sequence[str] = ()) -> str:
    """Returns a table as LaTeX with booktabs.

    Args:
        symbols: names and their LaTeX, such as `D_KL`, for titles and notes.
        notes: further ones.
    """

    def text(words: str) -> str:
        escaped = latex_text(words)
        for name, tex in symbols.items():
            escaped = escaped.replace(latex_text(name), tex)
        return escaped

    tails = any(cell.tail for row in table.rows for cell in row)
    lines = [r"\begin{table}[htbp]", r"\centering", *([r"\renewcommand{\arraystretch}{1.3}"] if tails else [])]
    lines += [rf"\caption{{{text(table.title)}.}}", rf"\label{{tab:{re.sub(r'[^A-Za-z0-9.-]', '-', label)}}}"]
    lines.append(r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%")
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}", r"\toprule"]
    lines.append(" & ".join(_latex_cell(cell) for cell in table.header) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    ends = ["Below and above a mean: the ends of its 95 % interval."] if tails else []
    said = " ".join(text(note) for note in [*ends, *table.notes, *notes])
    return "\n".join([*lines, "", r"\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {said}}}", r"\end{table}", ""])


def _latex_cell(cell: Cell) -> str:
    text = latex_text(cell.text) if cell.tex is None else cell.tex
    tail = cell.tail or (f" {latex_text(cell.beside)}" if cell.beside else "")
    return (rf"\textbf{{{text}}}" if cell.mark == "best" else text) + tail


_TEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": "$-$",
    "∞": r"$\infty$",
    "≥": r"$\geq$",
    "°": r"$^\circ$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\rightarrow$",
    "…": r"\dots{}",
    "×": r"$\times$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "θ": r"$\theta$",
}


def latex_text(text: str) -> str:
    """Returns a text that LaTeX shows as it is."""
    return "".join(_TEX.get(character, character) for character in one_line(text))
