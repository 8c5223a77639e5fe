"""Figures as sets of panels, drawn for the page (SVG) or for a paper (PDF, PNG).

A panel is one pair of axes, so that the page can lay panels out for a phone or a desk, and a paper figure can put the
same panels in a grid.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ebmbench.display import palette
from ebmbench.display.palette import TRUTH_COLOR
from ebmbench.display.table import csv_text

# Ink of text, axes and grid. On the page, to_svg replaces each by a CSS colour of the light or dark theme.
INK, MUTED, GRID = "#1b1c1e", "#5b5c5e", "#dcdddf"
_CSS = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"}


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a title, what draws it, its width and height and the room for its y labels in inches."""

    title: str
    draw: Callable[[Axes], None]
    size: tuple[float, float] = (3.7, 2.5)
    left: float = 0.52


@dataclass(frozen=True)
class Figure:
    """Panels that belong together, the methods or labels of their legend, and the numbers behind them."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    data: pd.DataFrame
    legend: tuple[str, ...] = ()
    columns: int = 2
    short: str = ""
    """Its name in a list of links, if the title is too long for it."""


TRUTH = "true"
"""What a legend calls the truth, beside the methods."""
SMALL = (2.2, 1.8)
"""Width and height of a panel among many, in inches."""
NAMES = 0.78
"""Inches that the names of the methods take, left of a panel."""


def methods_of(frame: pd.DataFrame) -> list[str]:
    """Returns the methods of a table of runs, in the order in which they are shown."""
    return [str(method) for method in palette.in_order(frame["method"])]


def labels_with(frame: pd.DataFrame, metric: str) -> list[str]:
    """Returns the datasets that have values of a metric."""
    if metric not in frame:
        return []
    return [label for label, part in frame.groupby("label") if part[metric].notna().any()]


def save_pictures(drawn: Mapping[str, MplFigure], folder: Path) -> list[Path]:
    """Writes figures of a run as PNG and PDF under their names; returns the files."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        for suffix in ("png", "pdf"):
            path = folder / f"{name}.{suffix}"
            figure.savefig(path, dpi=200, metadata={"CreationDate": None} if suffix == "pdf" else None)
            paths.append(path)
    return paths


def read_csv(folder: Path | None, name: str, columns: list[str]) -> pd.DataFrame | None:
    """Returns columns of numbers of a CSV file in a run directory; what is no number is nan.

    None if there is no directory, or the file is missing or damaged.
    """
    if folder is None:
        return None
    try:
        table = pd.read_csv(folder / name, usecols=columns)
    except (OSError, ValueError):  # pandas' parser errors are ValueErrors
        return None
    return table.apply(pd.to_numeric, errors="coerce")


def read_arrays(folder: Path | None, name: str) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a file in a run directory; None if there is no directory, or it is missing or damaged."""
    if folder is None:
        return None
    try:
        with np.load(folder / name, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, BadZipFile, zlib.error):
        return None


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(
        {
            "font.size": 7.5,
            "axes.titlesize": 8,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 7.5,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7.5,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": MUTED,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "grid.color": GRID,
            "grid.linewidth": 0.6,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.3,
            "lines.markersize": 4.5,
            "svg.fonttype": "none",
            "pdf.fonttype": 42,
            "axes.unicode_minus": True,
        }
    ):
        yield


def to_svg(panel: Panel, prefix: str) -> str:
    """Returns the panel as an inline SVG without a title.

    Text stays text, its ids begin with `prefix`, and its ink follows the page's theme.
    """
    with _style(), matplotlib.rc_context({"svg.hashsalt": prefix}):
        # Margins of a fixed width: matplotlib's own layout would draw everything twice.
        width, height = panel.size
        left, right, bottom, top = panel.left, 0.09, 0.38, 0.06
        figure = MplFigure(figsize=panel.size)
        FigureCanvasAgg(figure)
        inner = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
        axes = figure.add_axes(inner)
        panel.draw(axes)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{prefix}-', text)
    for color, css in _CSS.items():
        text = text.replace(color, css)
    text = text.replace("'DejaVu Sans'", "system-ui, sans-serif")
    width, height = (72 * inches for inches in panel.size)
    return re.sub(
        r"<svg [^>]*>",
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    )


def save_figure(figure: Figure, folder: Path) -> list[Path]:
    """Writes `<name>.pdf`, `<name>.png` (300 dpi) and the numbers as `<name>.csv`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{figure.name}.{ending}" for ending in ("pdf", "png", "csv")]
    with _style():
        page = _drawn(figure)
        page.savefig(paths[0], metadata={"CreationDate": None})
        page.savefig(paths[1], dpi=300)
    paths[2].write_text(csv_text(figure.data, digits=None))
    return paths


def save_png(figure: Figure, folder: Path) -> Path:
    """Writes `<name>.png` (200 dpi) alone; returns its path."""
    path = folder / f"{figure.name}.png"
    with _style():
        _drawn(figure).savefig(path, dpi=200)
    return path


def _drawn(figure: Figure) -> MplFigure:
    """Returns the panels in a grid below their legend."""
    columns = min(figure.columns, len(figure.panels))
    lines = math.ceil(len(figure.panels) / columns)
    width, height = figure.panels[0].size
    legend_height = 0.35 if figure.legend else 0.0
    page = MplFigure(figsize=(width * columns, height * lines + legend_height), layout="constrained")
    FigureCanvasAgg(page)
    if figure.legend:
        page.legend(
            handles=[legend_handle(name) for name in figure.legend],
            loc="outside upper center",
            ncols=min(len(figure.legend), max(2, int(width * columns / 0.9))),
            frameon=False,
        )
    grid = page.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(figure.panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, figure.panels, strict=False):
        panel.draw(axes)
        axes.set_title(panel.title)
    return page


def legend_handle(name: str) -> Line2D:
    """Returns a method's marker and colour; the truth is a grey line."""
    if name == TRUTH:
        return Line2D([], [], color=TRUTH_COLOR, lw=3, alpha=0.6, label=name)
    return Line2D([], [], color=palette.color(name), marker=palette.marker(name), label=name)


def log_axis(axes: Axes, which: str = "x") -> None:
    """A logarithmic axis with plain numbers, labelled often enough within a decade or two."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    decades = math.log10(high / low) if low > 0 else 3
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.7 else (1, 3) if decades < 2.5 else (1,)))
    axis.set_major_formatter(FuncFormatter(plain_number))
    axis.set_minor_formatter(NullFormatter())


def plain_number(value: float, position: int | None = None) -> str:
    """0.01, 300, 2·10⁷: without mathtext, which would set a font of its own."""
    if 1e-4 < abs(value) < 1e5 or value == 0:
        return f"{value:g}"
    digits, exponent = f"{value:e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if float(digits) == 1 else f"{float(digits):g}·{power}"
