"""One HTML page that compares runs: self-contained, no network, opens by double click.

Everything that is shown goes through the template's escaping; only SVG drawn here, from numbers and escaped labels,
is put in as it is.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from PIL import Image

from ebmbench.core.errors import first_line
from ebmbench.display import palette, rendering
from ebmbench.display.palette import TRUTH_COLOR
from ebmbench.display.table import Cell, Table, code_cell, csv_text, method_cell, number
from ebmbench.engine.runs import FINISHED
from ebmbench.report import findings, plots, tables
from ebmbench.report import settings as reported
from ebmbench.report.frame import Results, Run, task_of
from ebmbench.report.published import published_tables

MAX_IMAGES = 24
MAX_IMAGE_BYTES = 4_000_000  # of all example images together: the page stays under 10 MB


def render(results: Results, how: str) -> str:
    """Returns the page as text; `how` is the command that makes it.

    It opens with what was found, one figure and one table; all else is folded away beneath. A damaged file of a run
    costs the figures that need it, and the page says so.
    """
    troubles: list[str] = []
    drawn = [(figure, _draw(figure, troubles)) for figure in plots.all_figures(results, troubles)]
    images = [*example_images(results), *_pictures(results, {figure.name for figure, _ in drawn})]
    jobs = results.frame.drop_duplicates("run_id")
    states = Counter(run.state for run in results.runs) or Counter(jobs["state"])
    made = [*all_tables(results), *(replace(table, folded=True) for table in published_tables(results.done))]
    return fill(
        "page.html.j2",
        results=results,
        number_of_jobs=len(results.runs) or len(jobs),
        facts=facts(results),
        findings=findings.findings(results),
        states=sorted(states.items(), key=lambda item: (item[0] != "done", item[0])),
        reservations=[*warnings(results), *troubles],
        headline=tables.headline(made, results.tasks.values()) if made else None,
        tables=made,
        leading=drawn[:1],
        figures=drawn[1:],
        images=images,
        failures=failures(results),
        jobs=job_table(results),
        settings=settings_table(results),
        again=again(results, how),
    )


def fill(template: str, **values: Any) -> str:
    """Returns a page of this folder's templates, with the script and the style that all pages have."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ebmbench.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(csv_uri=csv_uri, marked=marked, unbroken=unbroken)
    environment.globals.update(swatch=swatch, dark_colors=rendering.dark_colors())
    script = "\n" + Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        **values,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _draw(figure: rendering.Figure, troubles: list[str]) -> list[tuple[rendering.Panel, Markup]]:
    """Returns the SVG of each panel. It is safe as it is: matplotlib escapes text, which is labels and numbers."""
    name = "".join(c if c.isalnum() else "-" for c in figure.name)
    found = []
    for index, panel in enumerate(figure.panels):
        try:
            found.append((panel, Markup(rendering.to_svg(panel, f"{name}-{index}"))))
        except Exception as error:  # numbers that cannot be drawn: the other panels are
            what = f"{type(error).__name__}: {first_line(error)}"
            troubles.append(f"{figure.title}, {panel.title} cannot be drawn ({what}).")
    return found


def marked(text: str) -> Markup:
    """Returns a sentence, with the methods that stand between backticks in bold and their marker before them."""
    parts: list[str] = re.split(r"`([^`]+)`", text)
    parts[1::2] = [Markup("<b>{}{}</b>").format(swatch(name), name) for name in parts[1::2]]
    return Markup("").join(parts)  # escapes what is no markup


def unbroken(head: str) -> str:
    """Returns the head of a column such that no line ends within a method's name, or before an arrow."""
    return re.sub(" (?=[↑↓])", "\N{NO-BREAK SPACE}", head).replace("-", "\N{NON-BREAKING HYPHEN}")


def csv_uri(frame: pd.DataFrame) -> str:
    """Returns the numbers as a data: URI that downloads as CSV."""
    return "data:text/csv;base64," + base64.b64encode(csv_text(frame, digits=None).encode()).decode()


_SHAPES = {
    "o": '<circle cx="7" cy="7" r="4.5"/>',
    "s": '<rect x="3" y="3" width="8" height="8"/>',
    "^": '<path d="M7 2l5 9.5H2z"/>',
    "v": '<path d="M7 12l5-9.5H2z"/>',
    "<": '<path d="M2 7l9.5-5v10z"/>',
    ">": '<path d="M12 7L2.500 2v10z"/>',
    "D": '<path d="M7 1.5L12.500 7 7 12.500 1.500 7z"/>',
    "d": '<path d="M7 1l3.500 6L7 13 3.500 7z"/>',
    "p": '<path d="M7 2l5 3.640-1.910 5.870H3.910L2 5.640z"/>',
    "h": '<path d="M7 1.800l4.500 2.600v5.200L7 12.200 2.500 9.600V4.400z"/>',
    "8": '<path d="M5 2.200h4L11.800 5v4L9 11.800H5L2.200 9V5z"/>',
    "*": '<path d="M7 1l1.500 4h4.200L9.400 7.700l1.200 4.200L7 9.500l-3.600 2.400 1.200-4.200L1.300 5h4.200z"/>',
    "P": '<path d="M5 2h4v3h3v4H9v3H5V9H2V5h3z"/>',
    "X": '<path d="M4 1.500l3 3 3-3L12.500 4l-3 3 3 3L10 12.500l-3-3-3 3L1.500 10l3-3-3-3z"/>',
}


def swatch(name: str) -> Markup:
    """Returns a method's marker in its colour, as in the figures; the truth is a grey bar."""
    is_truth = name == rendering.TRUTH
    color = TRUTH_COLOR if is_truth else palette.color(name)
    bar = '<rect y="5" width="14" height="4"/>'
    shape = bar if is_truth else _SHAPES.get(palette.marker(name), _SHAPES["o"])
    return Markup('<svg class="swatch" viewBox="0 0 14 14" style="fill: {}" aria-hidden="true">{}</svg>').format(
        rendering.themed(color), Markup(shape)
    )


# ---------------------------------------------------------------------------------------------------------- tables


def all_tables(results: Results) -> list[Table]:
    """Returns the tables that a sweep asks for; else scores, cost and comparisons per dataset, and every variant."""
    if results.tables:
        return [table for _, table in tables.asked(results)]
    if results.done.empty:
        return []
    made = [*tables.score_tables(results.comparison, [], {})]
    for task, part in results.done.groupby("task", sort=True):
        if task_of(str(task)).drawn_by(results.axes):
            made = [*tables.draw_tables(part, results.axes, {}), *(replace(table, folded=True) for table in made)]
    compared = results.comparison[results.comparison.groupby("label")["method"].transform("nunique") > 1]
    for kind in ("comparisons", "audit") if len(compared) else ():
        made += tables.KINDS[kind](compared, [], {})
    made += tables.cost_tables(results.comparison, [], {})
    return [*made, *(tables.variant_tables(results.done, results.axes, {}) if results.varies else [])]


def facts(results: Results) -> dict[str, str]:
    """Returns what stands below the title of the page."""
    done = results.done
    times = sorted(_minute(str(time)) for time in done["finished"].dropna())
    return {
        "models": str(len(done)),
        "datasets": ", ".join(dict.fromkeys(done["label"])) or "none",
        "commit": tables.commits_of(done),
        "finished": f"{times[0]} to {times[-1]}" if times else "unknown",
    }


def _minute(time: str) -> str:
    """2026-01-02 03:04 UTC; what is no time is shown as it is."""
    try:
        return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return time


def warnings(results: Results) -> list[str]:
    """Returns what a reader must know before the numbers."""
    said = []
    done = results.done
    unfinished = Counter(run.state for run in results.runs if run.state not in FINISHED)
    if unfinished:
        listed = ", ".join(f"{times} {state}" for state, times in sorted(unfinished.items()))
        count = unfinished.total()
        said.append(f"{count} of {len(results.runs)} jobs have no result ({listed}): their cells are missing.")
    if results.varies:
        names = {
            reported.symbol(key, task.name, method): None
            for method, keys in results.varied.items()
            for key in keys
            for task in results.tasks.values()
            if key not in task.draw_settings
        }
        if names:
            what = "figures" if results.tables else "tables and figures"
            said.append(
                f"The runs vary {', '.join(sorted(names))}; {what} of methods compare them at the published value, or "
                "at the one with most seeds."
            )
    diverged = int((done["diverged"] == 1).sum())
    if diverged:
        said.append(f"{diverged} of {len(done)} models diverged; they are counted (✕) and have no values to average.")
    doubtful = tables.count_doubtful(done)
    if doubtful:
        reasons = ", ".join(sorted({task.doubt for task in results.tasks.values() if task.doubt}))
        said.append(f"{doubtful} of {len(done)} models have unreliable scores ({reasons}).")
    alone = [label for label in results.tasks if not results.draw_of(label)]
    seeds = done[done["label"].isin(alone)].groupby("config_hash").size()
    if len(seeds) and seeds.min() < 6:
        narrow = "intervals of so few skewed seeds are too narrow" if seeds.min() > 1 else "one seed has no interval"
        said.append(
            f"The smallest number of seeds is {seeds.min()}: {narrow}, and with fewer than six no difference of two "
            "methods can be significant."
        )
    runs = done[["task", "method"]].drop_duplicates().itertuples(index=False)
    tuned = {method for task, method in runs if reported.is_tuned_per_dataset(task, method)}
    if tuned and len(tuned) < done["method"].nunique():
        names_of = tables.listed(list(map(str, palette.in_order(tuned))))
        said.append(f"The settings of {names_of} were chosen for each dataset; those of the other methods were not.")
    return said


def failures(results: Results) -> list[Table]:
    """Returns the jobs without a result, and the seeds that diverged or are unreliable; alike ones together."""
    kinds: dict[tuple[str, ...], list[Run]] = {}
    for run in (run for run in results.runs if run.state not in FINISHED):
        progress = run.detail if run.state == "failed" else ""
        kinds.setdefault((run.label, run.method, run.state, progress), []).append(run)
    made = []
    if kinds:
        rows = [
            [
                Cell(label),
                method_cell(method),
                Cell(state),
                Cell(why or "; ".join(dict.fromkeys(run.detail for run in runs if run.detail))),
                Cell(str(len(runs)), sort=len(runs)),
                code_cell(runs[0].job.run_id + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")),
            ]
            for (label, method, state, why), runs in kinds.items()
        ]
        header = _heads("dataset", "method", "state", "last line of the error, or how far", "jobs", "runs")
        made.append(Table("Jobs without a result", header, rows, ["Running the sweep again repeats only these."]))
    done = results.done
    bad = done[(done["diverged"] == 1) | (done["trusted"] == 0)]
    rows = []
    for (label, method, variant, diverged), part in bad.groupby(["label", "method", "variant", "diverged"], sort=False):
        task = results.tasks[label]
        of = done[(done["label"] == label) & (done["method"] == method) & (done["variant"] == variant)]
        rows.append(
            [
                Cell(label),
                method_cell(method),
                *([Cell(variant or "–")] if results.varies else []),
                Cell("diverged" if diverged == 1 else f"unreliable: {task.doubt}"),
                Cell(f"{len(part)} of {len(of)}", sort=len(part)),
                Cell(", ".join(_seed_at(row) for row in part.to_dict("records"))),
            ]
        )
    if rows:
        varied = ["varied"] if results.varies else []
        header = _heads("dataset", "method", *varied, "what", "models", "seeds")
        made.append(Table("Models that diverged or are unreliable", header, rows))
    return made


def _seed_at(row: Mapping[Any, Any]) -> str:
    """A seed, with the step at which it diverged."""
    step = row.get("diverged_step", math.nan)
    return f"{row['seed']} (step {step:.0f})" if row["diverged"] == 1 and step == step else str(row["seed"])


def _heads(*names: str) -> list[Cell]:
    return [Cell(name) for name in names]


def job_table(results: Results) -> Table:
    """Returns the first jobs, each with the command that runs it again, as far as its settings are known."""
    rows = [
        [
            code_cell(run.job.run_id),
            method_cell(run.method),
            Cell(run.label),
            Cell(_seed_text(run.seeds), sort=len(run.seeds)),
            Cell(run.state),
            code_cell((run.status.commit if run.status else "") or ""),
            Cell(_device(run.folder)),
            code_cell(reported.command(run.config, run.seeds)),
        ]
        for run in results.runs[: tables.SHOWN_RUNS]
    ]
    header = _heads("run", "method", "dataset", "seeds", "state", "commit", "device", "again")
    if not results.runs:  # from runs.csv
        header = header[:6]
        for run_id, part in itertools.islice(results.frame.groupby("run_id", sort=False), tables.SHOWN_RUNS):
            row = part.iloc[0]
            seeds = part["seed"].tolist()
            names = [code_cell(run_id), method_cell(row["method"]), Cell(f"{row['task']}-{row['dataset']}")]
            commit = "" if pd.isna(row["commit"]) else row["commit"]
            rows.append([*names, Cell(_seed_text(seeds), sort=len(seeds)), Cell(str(row["state"])), code_cell(commit)])
    count = len(results.runs) or results.frame["run_id"].nunique()
    more = f" The first {len(rows)} of {count}; runs.csv has them all." if count > len(rows) else ""
    return Table("Jobs", header, rows, [f"One line per job; its seeds train together.{more}"])


def _device(folder: Path) -> str:
    try:
        raw = json.loads((folder / "environment.json").read_text())
        return str(raw.get("device", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _seed_text(seeds: Sequence[int]) -> str:
    if list(seeds) == list(range(len(seeds))):
        return f"{len(seeds)} (0 to {len(seeds) - 1})" if len(seeds) > 1 else "1 (0)"
    return ", ".join(map(str, seeds))


@dataclass(frozen=True)
class Again:
    """A command, and what it does."""

    text: str
    command: str


def again(results: Results, how: str) -> list[Again]:
    """Returns how to get all of this again."""
    figures = how + "\n" + how.replace(" report ", " report figures ", 1)
    said = [Again("This page, and its figures for a paper:", figures)]
    if results.command:
        text = "The whole sweep; what has a result already is not trained again:"
        said.insert(0, Again(text, results.command))
    return said


def settings_table(results: Results) -> Table | None:
    """Returns the settings of each method on each dataset, those that vary as a set; None where they are not known."""
    by_cell: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for run in results.runs:
        values = by_cell.setdefault((run.label, run.method), {})
        for key, value in run.settings.items():
            if value is not None and not key.startswith("task.") and value not in values.setdefault(key, []):
                values[key].append(value)
    if not any(by_cell.values()):
        return None
    keys = list(dict.fromkeys(key for values in by_cell.values() for key in values))
    rows = []
    for (label, method), values in sorted(by_cell.items(), key=lambda item: (item[0][0], palette.place(item[0][1]))):
        texts = [", ".join(number(v) if isinstance(v, float) else str(v) for v in values.get(key, [])) for key in keys]
        rows.append([Cell(label), method_cell(method), *(Cell(text) for text in texts)])
    return Table(
        "Settings", _heads("dataset", "method", *keys), rows, ["As resolved; several values where the runs vary one."]
    )


# ---------------------------------------------------------------------------------------------------------- images


def example_images(results: Results) -> list[tuple[str, str]]:
    """Returns the pictures of the compared runs that their tasks name, all methods' first, then the next.

    Each has a caption and is a data: URI.
    """
    compared = set(results.comparison["run_id"])
    runs = [run for run in results.runs if run.job.run_id in compared and run.state in FINISHED]
    runs.sort(key=lambda run: (run.label, palette.place(run.method)))
    found: list[tuple[str, str]] = []
    size = 0
    for name in dict.fromkeys(name for task in results.tasks.values() for name in task.images):
        for run in (run for run in runs if name in results.tasks[run.label].images):
            image = _image(run.folder / "figures" / f"{name}.png")
            if image is None or len(found) == MAX_IMAGES or size + len(image) > MAX_IMAGE_BYTES:
                continue
            size += len(image)
            found.append((f"{run.method}, {run.label}: {name}", image))
    return found


def _pictures(results: Results, drawn: set[str]) -> list[tuple[str, str]]:
    """Returns the figures that were collected, where the runs from which to draw them again are not there."""
    paths = sorted(results.pictures.glob("*.png")) if results.pictures else []
    images = [(path.stem, _image(path)) for path in paths if path.stem not in drawn]
    return [(f"{name}, as collected", image) for name, image in images[:MAX_IMAGES] if image]


def _image(path: Path) -> str | None:
    """An image as a data: URI, large ones as JPEG; None if it is missing or no image."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if len(data) < 150_000:
                image.verify()
                return "data:image/png;base64," + base64.b64encode(data).decode()
            flat = Image.new("RGB", image.size, "white")
            flat.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    except (OSError, ValueError, SyntaxError):  # Pillow's answers to a file that is no PNG
        return None
    flat.thumbnail((1400, 1400))
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
