"""One HTML page that compares runs: self-contained, no network, opens by double click.

Everything that is shown goes through the template's escaping; only SVG drawn here, from numbers and escaped labels,
is put in as it is.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from PIL import Image

from ebmbench.config import compose as composition
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.display import palette, rendering
from ebmbench.display.palette import TRUTH_COLOR
from ebmbench.engine.runs import FINISHED
from ebmbench.report import plots, scores
from ebmbench.report.data import Results, Run, flat_settings, flat_value, provenance, setting_keys, symbol
from ebmbench.system.files import write_atomically

MAX_IMAGES = 24
MAX_IMAGE_BYTES = 4_000_000  # of all example images together: the page stays under 10 MB


_SCRIPT = """
'use strict';
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => {
      const cell = row.cells[column], value = cell.dataset.v;
      const text = value === undefined ? cell.textContent.trim() : value;
      const number = text === '' || text === 'nan' ? NaN : Number(text);
      return {text, number, empty: text === '' || text === 'nan' || text === '\u2013'};
    };
    const rows = [...table.tBodies[0].rows].map(row => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (a.empty || b.empty) return a.empty - b.empty;  // what has no value stays at the end
      const order = Number.isNaN(a.number) || Number.isNaN(b.number)
        ? a.text.localeCompare(b.text, 'en', {numeric: true}) : a.number - b.number;
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}
"""


@dataclass(frozen=True)
class Cell:
    """What a table shows and what it sorts by; a method's name gets its colour; `mark` is best or none."""

    text: str
    sort: float | str | None = None
    method: bool = False
    mark: str = ""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A sortable table; `numbers` is offered as CSV."""

    title: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbers: pd.DataFrame


def write_page(results: Results, path: Path, how: str) -> Path:
    """Writes the page of `results` to `path`, which appears whole or not at all; `how` is the command that does it."""
    write_atomically(path, render(results, how).encode())
    return path


def render(results: Results, how: str) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ebmbench.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["csv_uri"] = csv_uri
    environment.globals["swatch"] = swatch
    figures = plots.all_figures(results)
    script_hash = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    states = Counter(run.state for run in results.runs)
    return environment.get_template("page.html.j2").render(
        results=results,
        provenance=provenance(results),
        states=sorted(states.items(), key=lambda item: (item[0] not in ("done",), item[0])),
        warnings=warnings(results),
        labels=list(dict.fromkeys(results.frame["label"])) if len(results.frame) else [],
        score_tables=score_tables(results),
        comparisons=comparison_tables(results),
        figures=[(figure, _draw(figure)) for figure in figures],
        images=example_images(results),
        failures=failures(results),
        jobs=jobs(results),
        settings=settings(results),
        again=again(results, how),
        script=Markup(_SCRIPT),
        script_hash=script_hash,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _draw(figure: rendering.Figure) -> list[tuple[rendering.Panel, Markup]]:
    """The SVG of each panel. Safe as it is: matplotlib escapes text, and there is none but labels and numbers."""
    name = "".join(c if c.isalnum() else "-" for c in figure.name)
    return [(panel, Markup(rendering.to_svg(panel, f"{name}-{i}"))) for i, panel in enumerate(figure.panels)]


def csv_uri(frame: pd.DataFrame) -> str:
    """The numbers as a data: URI that downloads as CSV."""
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False)
    return "data:text/csv;base64," + base64.b64encode(buffer.getvalue().encode()).decode()


_SHAPES = {
    "o": '<circle cx="7" cy="7" r="4.5"/>',
    "s": '<rect x="3" y="3" width="8" height="8"/>',
    "^": '<path d="M7 2l5 9.5H2z"/>',
    "v": '<path d="M7 12l5-9.5H2z"/>',
    "D": '<path d="M7 1.5L12.500 7 7 12.500 1.500 7z"/>',
    "P": '<path d="M5 2h4v3h3v4H9v3H5V9H2V5h3z"/>',
    "X": '<path d="M4 1.500l3 3 3-3L12.500 4l-3 3 3 3L10 12.500l-3-3-3 3L1.500 10l3-3-3-3z"/>',
}


def swatch(name: str) -> Markup:
    """A method's marker in its colour, as in the figures; the truth is a grey bar."""
    color = palette.color(name) if name in registry.known("method") else TRUTH_COLOR
    shape = (
        _SHAPES.get(palette.marker(name), _SHAPES["o"])
        if name in registry.known("method")
        else '<rect y="5" width="14" height="4"/>'
    )
    return Markup(f'<svg class="swatch" viewBox="0 0 14 14" fill="{color}" aria-hidden="true">{shape}</svg>')


# ---------------------------------------------------------------------------------------------------------- tables


def score_tables(results: Results) -> list[Table]:
    """Scores with intervals, and cost, per dataset; every variant, where settings are varied."""
    tables: list[Table] = []
    if results.frame.empty:
        return tables
    reference = ""
    if results.varies:
        keys = sorted({symbol(key) for found in results.varied.values() for key in found})
        reference = (
            f" The runs vary {', '.join(keys)}: compared here at the published value, or the one with most seeds."
        )
    for label, part in results.comparison.groupby("label", sort=True):
        tables.append(_scores(str(label), part, reference))
    if results.varies:
        for label, part in results.frame.groupby("label", sort=True):
            tables.append(_variants(str(label), part))
    return tables


def comparison_tables(results: Results) -> list[Table]:
    """Paired comparisons, and what becomes of the ranking by other rules or other draws of the data."""
    tables: list[Table] = []
    if results.frame.empty:
        return tables
    for label, part in results.comparison.groupby("label", sort=True):
        if part["method"].nunique() > 1:
            metric = scores.headline(part)
            tables.append(_comparisons(str(label), part, metric))
            audit = scores.audit(part, ["label"], "method", metric)
            if len(audit):  # else the methods have no two seeds in common
                tables.append(_audit(str(label), part, audit))
    for label, part in results.frame.groupby("label", sort=True):
        if "task.data_seed" in part and part["task.data_seed"].nunique() > 1:
            tables.append(_draws(str(label), part))
    return tables


_SCORES = (
    *("d_kl", "nll", "crps", "coverage_50", "coverage_90", "edge_mass"),
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ap_gain", "ap75_gain", "nms_ap", "box_nll"),
)
_BEST = "★ best mean over the seeds that all have; whether a test decides it: see p (Holm). [95 % interval]."


def _scored(row: Mapping[str, Any]) -> Cell:
    if not row["n"]:
        return Cell("–", math.nan)
    mean, low, high = row["mean"], row["low"], row["high"]
    if math.isnan(low) or low == high:
        return Cell(_number(mean), mean, mark=str(row["mark"]))
    # As many decimals as the interval's width makes sense of: two of its digits.
    decimals = max(0, 1 - math.floor(math.log10(high - low)))
    text = f"{mean:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]" if decimals < 8 else _number(mean)
    return Cell(text.replace("-", "−"), mean, mark=str(row["mark"]))


def _with_values(part: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Those that any seed has, and the headline always: its row says that all seeds diverged."""
    main = scores.headline(part)
    return [m for m in metrics if m == main or (m in part and part[m].notna().any())]


def _scores(label: str, part: pd.DataFrame, reference: str) -> Table:
    main = scores.headline(part)
    metrics = _with_values(part, _SCORES)
    costs = [m for m in scores.COST if m in part and part[m].notna().any()]
    numbers = scores.summarise(part, ["label"], "method", [*metrics, *costs])
    head = ["method", "seeds", "diverged", *(scores.METRICS[m].label for m in metrics)]
    head[3 + (main in metrics) : 3 + (main in metrics)] = [f"median {scores.METRICS[main].label}", "best quarter"]
    rows = []
    for method in scores.in_order(part["method"].tolist()):
        own = {row["metric"]: row for row in numbers[numbers["method"] == method].to_dict("records")}
        first = own[main]
        cells = [Cell(str(method), method=True), Cell(str(first["seeds"]), first["seeds"])]
        cells.append(Cell(str(first["diverged"]), first["diverged"]))
        for metric in metrics:
            cells.append(_scored(own[metric]))
            if metric == main:
                cells += [Cell(_number(own[metric][key]), own[metric][key]) for key in ("median", "best")]
        cells += [Cell(_number(own[cost]["mean"]), own[cost]["mean"]) for cost in costs]
        rows.append(tuple(cells))
    head += [scores.METRICS[cost].label for cost in costs]
    caption = f"Mean over the seeds that have a value. {_BEST} Best quarter: as the published best 5 of 20.{reference}"
    return Table(f"Scores, {label}", caption, tuple(head), tuple(rows), numbers)


def _comparisons(label: str, part: pd.DataFrame, metric: str) -> Table:
    numbers = scores.compare(part, ["label"], "method", metric)
    name = scores.METRICS[metric].label
    rows = [
        (
            Cell(row["first"], method=True),
            Cell(row["second"], method=True),
            Cell(_number(row["difference"]), row["difference"]),
            Cell(_number(row["p_holm"], 2), row["p_holm"]),
            Cell(f"{100 * row['beats']:.0f} %", row["beats"]),
            Cell(str(row["pairs"]), row["pairs"]),
        )
        for row in numbers.to_dict("records")
    ]
    head = ("first", "second", f"difference in {name}", "p (Holm)", "first beats second", "pairs")
    caption = "Every pair of methods at equal seeds: same data, initial weights and mini-batches. Diverged seeds lose."
    return Table(f"Comparisons, {label}, by {name}", caption, head, tuple(rows), numbers)


_RULES = {
    "all": "mean of all seeds",
    "median": "median",
    "best": "best quarter",
    "best_by_val": "best quarter by validation NLL",
}


def _audit(label: str, part: pd.DataFrame, numbers: pd.DataFrame) -> Table:
    methods = scores.in_order(part["method"].tolist())
    rows = []
    for rule in dict.fromkeys(numbers["rule"]):
        own = numbers[numbers["rule"] == rule].set_index("method")
        cells = [Cell(_RULES.get(rule, rule))]
        for method in methods:
            value, rank = own.at[method, "value"], own.at[method, "rank"]
            cells.append(Cell(f"{rank}. ({_number(float(value))})", float(rank)))
        tau = float(own["tau"].iloc[0])
        rows.append((*cells, Cell(f"{tau:.2f}", tau)))
    caption = (
        "Rank (and value) of each method by four rules of choosing seeds; tau: agreement with the ranking by the mean "
        "of all seeds. A method with a diverged seed has no such mean and comes last."
    )
    head = ("rule", *(str(method) for method in methods), "tau")
    return Table(f"Does the ranking depend on the rule? {label}", caption, head, tuple(rows), numbers)


def _variants(label: str, part: pd.DataFrame) -> Table:
    """Where settings are varied: a row per variant."""
    wanted = ("d_kl", "d_kl_noisy", "nll", "nll_noisy", "crps", "ap", "ap75", "box_nll", "train_seconds")
    metrics = _with_values(part, wanted)
    if "task.target_noise" not in part or not part["task.target_noise"].any():
        metrics = [m for m in metrics if not m.endswith("_noisy")]
    keyed = part.assign(cell=part["method"] + " | " + part["variant"]).drop_duplicates(["cell", "seed"])
    numbers = scores.summarise(keyed, ["label"], "cell", metrics)
    order = {method: place for place, method in enumerate(registry.known("method"))}
    values = setting_keys(part)
    cells = keyed.drop_duplicates("cell").sort_values(["method", *(v for v in values if part[v].nunique() > 1)])
    rows: list[tuple[Cell, ...]] = []
    for cell in sorted(cells["cell"], key=lambda cell: order.get(cell.partition(" | ")[0], 99)):
        method, _, variant = str(cell).partition(" | ")
        own = numbers[numbers["cell"] == cell]
        by_metric = {row["metric"]: row | {"mark": ""} for row in own.to_dict("records")}
        first = by_metric[metrics[0]]
        rows.append(
            (
                Cell(method, method=True),
                Cell(variant or "–", len(rows)),
                Cell(f"{first['n']} of {first['seeds']}", first["n"]),
                *(_scored(by_metric[metric]) for metric in metrics),
            )
        )
    head = ("method", "varied", "seeds with a value", *(scores.METRICS[m].label for m in metrics))
    return Table(f"All variants, {label}", "Mean over seeds [95 % interval].", head, tuple(rows), numbers)


def _draws(label: str, part: pd.DataFrame) -> Table:
    metric = scores.headline(part)
    numbers = scores.draws(part, ["label"], metric)
    rows = [
        (
            Cell(row["method"], method=True),
            _scored(row),
            Cell(_number(row["std_draws"]), row["std_draws"]),
            Cell(_number(row["std_seeds"]), row["std_seeds"]),
            Cell(row["ranks"]),
            Cell(_number(row["tau"]), row["tau"]),
        )
        for row in numbers.to_dict("records")
    ]
    head = (
        "method",
        scores.METRICS[metric].label,
        "std between draws",
        "std between seeds",
        "rank in each draw",
        "tau",
    )
    caption = "Is the ranking one of the methods, or of one draw of the training data? " + _BEST.replace("seed", "draw")
    return Table(f"Over draws of the data, {label}", caption, head, tuple(rows), numbers)


def _number(value: Any, digits: int = 3) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.{digits}g}".replace("-", "−", value < 0)
    return f"{value:,}"


def warnings(results: Results) -> list[str]:
    """What a reader must know before the numbers."""
    said = []
    unfinished = [run for run in results.runs if run.state not in FINISHED]
    if unfinished:
        counts = Counter(run.state for run in unfinished)
        listed = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
        said.append(
            f"{len(unfinished)} of {len(results.runs)} jobs have no result ({listed}): their cells are missing."
        )
    frame = results.frame
    if len(frame) and "diverged" in frame:
        diverged = int((frame["diverged"] == 1).sum())
        if diverged:
            said.append(
                f"{diverged} of {len(frame)} models diverged; they are counted (✕) and have no values to average."
            )
        if "trusted" in frame:
            doubtful = int(((frame["trusted"] == 0) & (frame["diverged"] != 1)).sum())
            if doubtful:
                said.append(
                    f"{doubtful} of {len(frame)} models have numbers that are not to be trusted "
                    "(mass near the edge of the grid, or a quadrature error)."
                )
    seeds = frame.groupby("config_hash").size() if len(frame) else pd.Series(dtype=int)
    if len(seeds) and seeds.min() < 5:
        said.append(
            f"As few as {seeds.min()} seeds per cell: intervals of so few skewed seeds are too narrow, and fewer than "
            "six cannot decide a difference between two methods."
        )
    if set(frame["method"]) & {"dsm", "ml-mcmc"} if len(frame) else False:
        said.append("dsm and ml-mcmc have published settings that were tuned per dataset; the other methods' were not.")
    return said


def failures(results: Results) -> list[Table]:
    """Jobs without a result, and seeds that diverged or are not to be trusted."""
    tables = []
    rows = [
        (
            Cell(run.folder.name, code=True),
            Cell(run.method, method=True),
            Cell(run.label),
            Cell(run.state),
            Cell(run.problem or ""),
            Cell(_steps(run), run.status.step if run.status else 0),
        )
        for run in results.runs
        if run.state not in FINISHED
    ]
    if rows:
        head = ("run", "method", "dataset", "state", "last line of the error", "steps")
        tables.append(_table("Jobs without a result", "Running the sweep again repeats only these.", head, rows))
    frame = results.frame
    if len(frame) and "diverged" in frame:
        bad = frame[(frame["diverged"] == 1) | (frame.get("trusted", 1) == 0)]
        rows = []
        for row in bad.to_dict("records"):
            diverged = row["diverged"] == 1
            step = row.get("diverged_step")
            why = (
                f"diverged at step {step:.0f}" if diverged and isinstance(step, float) and step == step else "diverged"
            )
            rows.append(
                (
                    Cell(str(row["run_id"]), code=True),
                    Cell(str(row["method"]), method=True),
                    Cell(str(row["label"])),
                    Cell(str(row["seed"]), row["seed"]),
                    Cell(why if diverged else "not to be trusted"),
                    Cell(_number(float(row.get("edge_mass", math.nan))), row.get("edge_mass")),
                )
            )
        if rows:
            head = ("run", "method", "dataset", "seed", "what", "mass near the edge")
            tables.append(_table("Models that diverged or are not to be trusted", "", head, rows))
    return tables


def _steps(run: Run) -> str:
    return f"{run.status.step:,} of {run.status.num_steps:,}" if run.status else ""


def _table(title: str, caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """A table whose CSV is its text."""
    cells = tuple(tuple(row) for row in rows)
    numbers = pd.DataFrame([[cell.text for cell in row] for row in cells], columns=list(head))
    return Table(title, caption, tuple(head), cells, numbers)


def jobs(results: Results) -> Table:
    """Every job with the command that runs it again."""
    rows = []
    for run in results.runs:
        status = run.status
        rows.append(
            (
                Cell(run.folder.name, code=True),
                Cell(run.method, method=True),
                Cell(run.label),
                Cell(_seed_text(run.seeds), len(run.seeds)),
                Cell(run.state),
                Cell(status.commit or "" if status else "", code=True),
                Cell(str(run.environment.get("device", ""))),
                Cell(command(run), code=True),
            )
        )
    head = ("run", "method", "dataset", "seeds", "state", "commit", "device", "again")
    return _table("Jobs", "One line per job; its seeds train together.", head, rows)


@dataclass(frozen=True)
class Again:
    """A command, and what it does."""

    text: str
    command: str


def again(results: Results, how: str) -> list[Again]:
    """How to get all of this again."""
    said = []
    if results.command:
        said.append(Again("The whole sweep; what has a result already is not trained again:", results.command))
    said.append(
        Again("This page, and its figures for a paper:", how + "\n" + how.replace(" report ", " report figures ", 1))
    )
    return said


def _seed_text(seeds: Sequence[int]) -> str:
    if list(seeds) == list(range(len(seeds))):
        return f"{len(seeds)} (0 to {len(seeds) - 1})" if len(seeds) > 1 else "1 (0)"
    return ", ".join(map(str, seeds))


def settings(results: Results) -> Table:
    """Per method and dataset the settings of its runs, those that vary as a set."""
    rows = []
    keys: list[str] = []
    by_cell: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for run in results.runs:
        values = by_cell.setdefault((run.label, run.method), {})
        for key, value in run.settings.items():
            if value is not None and key.split(".")[0] in ("method", "proposal", "noise", "trainer"):
                known = values.setdefault(key, [])
                if value not in known:
                    known.append(value)
                if key not in keys:
                    keys.append(key)
    order = {method: place for place, method in enumerate(registry.known("method"))}
    for (label, method), values in sorted(by_cell.items(), key=lambda item: (item[0][0], order.get(item[0][1], 99))):
        texts = [
            ", ".join(_number(v, 6) if isinstance(v, int | float) else str(v) for v in values.get(k, [])) for k in keys
        ]
        rows.append((Cell(label), Cell(method, method=True), *(Cell(text) for text in texts)))
    head = ("dataset", "method", *(symbol(key) if key != symbol(key) else key for key in keys))
    return _table("Settings", "As resolved; several values where the runs vary one.", head, rows)


@lru_cache(maxsize=64)
def _defaults(task: str, dataset: str) -> tuple[tuple[str, ...], Mapping[str, Any]] | None:
    """The shortest overrides that name a task and dataset, and what they compose to."""
    for extra in ([f"task.dataset={dataset}"], [f"task/data={dataset}"]):
        overrides = [f"task={task}", *extra]
        try:
            composed = composition.compose(overrides)
        except UserError:
            continue
        return tuple(overrides), flat_settings(composed.to_dict())
    return None


def command(run: Run) -> str:
    """What runs it again: only what differs from the published settings is spelled out."""
    (task, _, dataset), method, seeds = run.label.partition("-"), run.method, list(run.seeds)
    known = _defaults(task, dataset) if run.settings else None
    if known is None:
        return ""
    parts = [*known[0], f"method={method}"]
    for key, value in run.settings.items():
        default = flat_value(composition.setting(task, dataset, method, key))
        if default is None and key.startswith(("task.", "trainer.")):
            default = known[1].get(key)
        if key != "task.data.name" and value != default:
            parts.append(f"{key}={'null' if value is None else str(value).replace(' ', '')}")
    if seeds != [0]:
        plain = seeds == list(range(len(seeds)))
        parts.append(f"seeds={len(seeds)}" if plain else f"seeds={str(seeds).replace(' ', '')}")
    return "python -m ebmbench " + " ".join(shlex.quote(part) for part in parts)


# ---------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class Example:
    """An image from a run's figures, to be shown as it is."""

    caption: str
    uri: str


_EXAMPLES = ("boxes", "refinement", "energy")
"""Figures of a detection run that no plot of the page replaces; all methods' first, then the next."""


def example_images(results: Results) -> list[Example]:
    """Detection: images with base, refined and true boxes, AP by refinement step, energy around a box; per method."""
    compared = list(dict.fromkeys(results.comparison["run_id"])) if len(results.comparison) else []
    by_id = {run.status.run_id: run for run in results.runs if run.status}
    runs = [by_id[run_id] for run_id in compared if by_id[run_id].label.startswith("detection-")]
    order = {method: place for place, method in enumerate(registry.known("method"))}
    found: list[Example] = []
    size = 0
    for name in _EXAMPLES:
        for run in sorted(runs, key=lambda run: (run.label, order.get(run.method, 99))):
            image = _image(run.folder / "figures" / f"{name}.png")
            if image is None or len(found) == MAX_IMAGES or size + len(image) > MAX_IMAGE_BYTES:
                continue
            size += len(image)
            found.append(Example(f"{run.method}, {run.label}: {name}", image))
    return found


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
