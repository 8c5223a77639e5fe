"""The table and the figure of the gradient laboratory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ebmbench.display import palette, rendering
from ebmbench.display.rendering import MUTED, Figure, Panel
from ebmbench.display.table import Cell, Table, csv_text, markdown, method_cell, number, number_cell
from ebmbench.system.files import write_atomically

FEW, MANY = 16, 1024
"""The numbers of samples that the table has, where they were measured."""
SEEN = 2.0
"""A bias is one from so many of its standard errors on."""
FLOOR = 0.01
"""The least bias that the figure shows: the exact likelihood's is the rounding of float32."""

NOTES = """\
Everything is about the gradient with respect to the parameters, the energy held fixed. *Exact* is the gradient of the
negative log-likelihood on [-3, 3], log Z by quadrature. *Bias* is the norm of the mean difference to it over
{gradients} gradients, over the exact gradient's norm; `<` means that it is below two standard errors. Score matching
has another unit than a likelihood, so its bias says little: there the cosines count. *To its own objective* is the same
against the limit of many samples that the method states; `–` where it states none. *Variance* is what the samples
bring, the mini-batch held, over the squared norm. *SNR* is the norm of the mean gradient over its standard deviation,
mini-batch and samples together; ml-exact has the mini-batch alone. *Cosine* is the mean one between a gradient and the
exact one of the same mini-batch; *of the mean*, that of the mean gradient, which no number of steps can mend.
Milliseconds are processor time of one gradient, {together} side by side. b(x) of nce-binary and snl was trained first,
for this energy. In one dimension ssm is sm, and lies upon it in the figure.
""".replace("\n", " ")


def write(frame: pd.DataFrame, name: str, folder: Path, command: str) -> list[Path]:
    """Writes the rows as CSV, the tables as Markdown and the figure as PNG; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{ending}" for ending in ("csv", "md", "png")]
    write_atomically(paths[0], csv_text(frame, digits=6).encode())
    text = [f"# Gradients of the methods: {name.removeprefix('gradients-')}\n", f"    {command}\n"]
    text += [markdown(table(part, str(energy))) for energy, part in frame.groupby("energy", sort=False)]
    notes = NOTES.format(gradients=int(frame["gradients"].min()), together=20)
    write_atomically(paths[1], "\n".join([*text, notes.strip(), ""]).encode())
    rendering.save_png(figure(frame, name), folder)
    return paths


def table(part: pd.DataFrame, energy: str) -> Table:
    """Returns a row for each method: what few and many samples give."""
    header = ["method", "M", "bias", "to its own objective", "variance", "SNR", "cosine", "of the mean", "ms"]
    rows = []
    for method in palette.in_order(part["method"]):
        of_method = part[part["method"] == method].set_index("samples")
        for samples in [count for count in of_method.index if count in (0, FEW, MANY)]:
            row = of_method.loc[samples]
            rows.append(
                [
                    method_cell(method),
                    Cell("–" if samples == 0 else str(samples), sort=float(samples)),
                    _bias(row["bias"], row["bias_error"]),
                    _bias(row["own_bias"], row["own_bias_error"]),
                    number_cell(_rounded(row["variance"])),
                    number_cell(_rounded(row["snr"])),
                    number_cell(row["cosine"], 2),
                    number_cell(row["mean_cosine"], 2),
                    number_cell(_rounded(row["milliseconds"])),
                ]
            )
    title = (
        f"{energy[0].upper()}{energy[1:]} (norm of the exact gradient {number(_rounded(part['exact_norm'].iloc[0]))})"
    )
    return Table(title, [Cell(text) for text in header], rows)


def _bias(value: float, error: float) -> Cell:
    if math.isnan(value):
        return Cell("–")
    return number_cell(_rounded(value)) if value > SEEN * error else Cell(f"<{number(_rounded(SEEN * error))}")


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


# -------------------------------------------------------------------------------------------------------- figure


def figure(frame: pd.DataFrame, name: str) -> Figure:
    """Returns a row of panels for each energy: bias and SNR by M, cosine by time."""
    panels = []
    for energy, part in frame.groupby("energy", sort=False):
        panels += [
            Panel(
                f"{energy}: bias",
                _by_samples(part, "bias", "relative bias (open: below 2 standard errors)"),
                (3.5, 2.9),
            ),
            Panel(
                f"{energy}: signal-to-noise", _by_samples(part, "snr", "SNR of a gradient (dashed: no M)"), (3.5, 2.9)
            ),
            Panel(f"{energy}: direction", _by_time(part), (3.5, 2.9)),
        ]
    legend = tuple(map(str, palette.in_order(frame["method"])))
    return Figure(name, "Gradients of the methods", "", tuple(panels), frame, legend, columns=3)


def _by_samples(part: pd.DataFrame, column: str, label: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for method in palette.in_order(part["method"]):
            rows = part[part["method"] == method].sort_values("samples")
            values = rows[column].to_numpy(dtype=float)
            seen = np.ones(len(rows), dtype=bool)
            if column == "bias":
                bound = SEEN * rows["bias_error"].to_numpy(dtype=float)
                seen = values > bound
                values = np.where(seen, values, bound)
            style: dict[str, Any] = {"color": palette.color(str(method)), "marker": palette.marker(str(method))}
            if rows["samples"].iloc[0] == 0:
                if seen[0]:
                    axes.axhline(values[0], color=style["color"], lw=1, ls=(0, (4, 2)), zorder=1)
                    axes.plot([2048], values, **style)
                continue
            x = rows["samples"].to_numpy(dtype=float)
            axes.plot(x, values, color=style["color"], zorder=2)
            axes.plot(x[seen], values[seen], ls="", **style)
            axes.plot(x[~seen], values[~seen], ls="", mfc="white", **style)
        rendering.log_axis(axes)
        axes.set_yscale("log")
        if column == "bias":
            axes.set_ylim(bottom=max(axes.get_ylim()[0], FLOOR))
        rendering.log_axis(axes, "y")
        axes.set_xlabel("M, samples per target")
        axes.set_ylabel(label)

    return draw


def _by_time(part: pd.DataFrame) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for method in palette.in_order(part["method"]):
            rows = part[part["method"] == method].sort_values("samples")
            style: dict[str, Any] = {"color": palette.color(str(method)), "marker": palette.marker(str(method))}
            axes.plot(rows["milliseconds"], rows["cosine"], **style)
        axes.axhline(0, color=MUTED, lw=0.6)
        rendering.log_axis(axes)
        axes.set_xlabel("milliseconds of one core for a gradient")
        axes.set_ylabel("mean cosine with the exact gradient")

    return draw
