"""Figures as sets of panels, drawn for the page (SVG) or for a paper (PDF, PNG).

A panel is one pair of axes, so that the page can lay panels out for a phone or a desk, and a paper figure can put the
same panels in a grid.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import is_color_like, to_hex
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ebmbench.core import registry
from ebmbench.display import palette
from ebmbench.display.palette import TRUTH_COLOR
from ebmbench.display.table import csv_text

# Ink of text, axes and grid, and the paper, which is no white that a figure means as such. On the page, to_svg replaces
# each by a CSS colour of the light or dark theme.
INK, MUTED, GRID, PAPER = "#1b1c1e", "#5b5c5e", "#dcdddf", "#fefefe"
_CSS = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}
DARK_PAPER = "#15171a"


def dark_colors() -> dict[str, str]:
    """Returns what the colours of methods become on the page's dark paper, for those that would vanish there."""
    named = (palette.color(name) for name in registry.known("method"))
    colors = {to_hex(color) for color in named if is_color_like(color)}
    lighter = {color: palette.on_dark(color, DARK_PAPER) for color in sorted(colors)}
    return {color: light for color, light in lighter.items() if light != color}


def themed(color: str) -> str:
    """Returns a method's colour as CSS that follows the page's theme."""
    known = to_hex(color)
    return f"var(--c{known[1:]}, {color})" if known in dark_colors() else color


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a title, what draws it, its width and height in inches."""

    title: str
    draw: Callable[[Axes], None]
    size: tuple[float, float] = (3.7, 2.5)


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
    paired: bool = False
    """Whether each two panels belong together, side by side."""
    note: str = ""
    """What a mark means that not every figure of this kind has: behind the caption, and above the legend."""
    short: str = ""
    """Its name in a list of links, if the title is too long for it."""


TRUTH = "true"
"""What a legend calls the truth, beside the methods."""
SMALL = (2.2, 1.8)
"""Width and height of a panel among many, in inches."""
MARGIN = 0.04
"""Inches between what is drawn and the edge of the picture."""


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
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # what was laid out once stays
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
        figure = MplFigure(figsize=panel.size)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.2, 0.2, 0.75, 0.75))
        panel.draw(axes)
        _fit(axes, panel.size)
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
    for color, css in [*_CSS.items(), *((color, themed(color)) for color in dark_colors())]:
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


def _fit(axes: Axes, size: tuple[float, float]) -> None:
    """Sizes the axes so that their labels just fit into the picture: faster than a layout, which draws all twice."""
    for _ in range(2):  # with another size come other ticks
        drawn = axes.get_tightbbox()
        assert drawn is not None
        box = drawn.transformed(axes.figure.transSubfigure.inverted())
        inner = axes.get_position()
        x, y = (MARGIN / inches for inches in size)
        left, bottom = x + inner.x0 - box.x0, y + inner.y0 - box.y0
        right, top = 1 - x - (box.x1 - inner.x1), 1 - y - (box.y1 - inner.y1)
        axes.set_position((left, bottom, right - left, top - bottom))


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
    legend_height = 0.35 * bool(figure.legend) + 0.15 * bool(figure.note)
    page = MplFigure(figsize=(width * columns, height * lines + legend_height), layout="constrained")
    FigureCanvasAgg(page)
    if figure.legend:
        room = max(2, int(width * columns / 0.9))
        page.legend(
            handles=[legend_handle(name) for name in figure.legend],
            loc="outside upper center",
            ncols=math.ceil(len(figure.legend) / math.ceil(len(figure.legend) / room)),
            frameon=False,
            title=figure.note or None,
            title_fontsize=7.5,
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


@dataclass(frozen=True)
class Scale:
    """The range of an axis, linear or logarithmic, such as panels share."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(cls, values: Iterable[float], ends: Iterable[float] = ()) -> Scale | None:
        """Returns a range with all these values and some room, logarithmic from a factor of 12 on; None without any.

        Args:
            ends: of intervals, to be shown too; as far down as a tenth of the lowest value, if it is logarithmic.
        """
        finite = [float(value) for value in values if math.isfinite(value)]
        if not finite:
            return None
        low, high = min(finite), max(finite)
        log = low > 0 and high / low > 12
        shown = [float(end) for end in ends if math.isfinite(end) and (end > low / 10 or not log)]
        low, high = min([low, *shown]), max([high, *shown])
        if log:
            room = (high / low) ** 0.05
            return cls(low / room, high * room, True)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
        return cls(low - room, high + room)

    def share(self, other: Scale) -> float:
        """Returns how much of this range another one takes, on this one's scale."""
        turn = math.log if self.log else float
        low, high = max(self.low, other.low), min(self.high, other.high)
        return max(0.0, turn(high) - turn(low)) / (turn(self.high) - turn(self.low)) if high > low else 0.0

    def apply(self, axes: Axes, which: str = "x") -> None:
        """Sets the range and the ticks of an axis."""
        (axes.set_xlim if which == "x" else axes.set_ylim)(self.low, self.high)
        if self.log:
            log_axis(axes, which)
        else:
            axis = axes.xaxis if which == "x" else axes.yaxis
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(FuncFormatter(plain_number))


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
        return f"{value:g}".replace("-", "−")
    digits, exponent = f"{value:e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if float(digits) == 1 else f"{float(digits):g}·{power}"
