"""Writes the files that a sweep ends in.

`<results_dir>/<sweep>/runs.csv` has a row per run and seed, done or not. With `sweep.json` beside it every table can be
made again without the run directories.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebmbench.config.run import ALGORITHMS
from ebmbench.core.errors import UserError
from ebmbench.display.table import csv_text
from ebmbench.report import collected, frame, tables
from ebmbench.report.frame import Results
from ebmbench.report.planned import Plan
from ebmbench.sweep.status import job_states
from ebmbench.system.files import write_atomically


def collect(plan: Plan, results_dir: Path) -> Results:
    """Returns the results of all runs that are done; SLURM is asked what is queued."""
    return frame.of_plan(plan, results_dir, job_states)


def write(plan: Plan, results: Results, results_dir: Path) -> list[Path]:
    """Writes runs.csv, the tables and sweep.json; returns their paths.

    Raises:
        UserError: a table that is not known, or a folder that cannot be written.
    """
    folder = results_dir / plan.name
    texts = tables.build(results)
    _write(folder, {"runs.csv": csv_text(results.frame, digits=None), **texts}, _about(plan))
    return [folder / name for name in ("runs.csv", collected.NAME, *texts)]


def write_tables(folder: Path) -> list[Path]:
    """Makes the tables of a collected sweep from its runs.csv and sweep.json; returns their paths.

    Raises:
        UserError: the folder holds no collected sweep, or cannot be written.
    """
    texts = tables.build(frame.load(folder))
    _write(folder, texts, collected.read(folder))
    return [folder / name for name in texts]


def _write(folder: Path, texts: Mapping[str, str], about: Mapping[str, Any]) -> None:
    """Writes tables, and the record of all that are in the folder then."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(folder / name, text.encode())
        collected.write(folder, about)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another results_dir") from None


def write_figures(plan: Plan, results: Results, results_dir: Path) -> list[Path]:
    """Draws the figures that the sweep asks for, of what is done; returns their paths."""
    if not plan.figures or results.done.empty:
        return []
    from ebmbench.display import rendering  # matplotlib only when asked for
    from ebmbench.report import plots

    paths: list[Path] = []
    for name in plan.figures:
        for figure in plots.named(results, name):
            paths += rendering.save_figure(figure, results_dir / plan.name / "figures")
    return paths


def _about(plan: Plan) -> dict[str, Any]:
    return {
        "algorithms": ALGORITHMS,
        "name": plan.name,
        "description": plan.description,
        # Tables are published: where data and results lay is this machine's own.
        "overrides": [re.sub(r"^([\w.]*(?:root|path|_dir)=).*", r"\1…", text) for text in plan.overrides],
        "axes": list(plan.axes),
        "tables": list(plan.tables),
        "figures": list(plan.figures),
    }
