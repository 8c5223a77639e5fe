"""Writes what the committed results say into this repository's documents: `python -m benchmarks claims`.

It writes what stands between marks such as `<!-- results -->` and `<!-- end of results -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ebmbench.core.errors import UserError
from ebmbench.display.table import Cell, Table, markdown_rows, method_cell
from ebmbench.report import findings, frame
from ebmbench.report.findings import Finding, Row
from ebmbench.report.frame import Results
from ebmbench.report.tables import DOUBTFUL, FEWER, UNDECIDED, groups, listed, mean_cell, places_of
from ebmbench.system.files import write_atomically

COMPARED = ("paper_1d", "shapes")
"""The sweeps that compare the paper's seven methods at published settings, or as near to them as two cores allow."""
AT_THESE_SETTINGS = ("extended_1d", "dimension", "dimension_seeds", "shapes", "uci", "uci_small")
"""Sweeps whose settings come from a search of its own for each method: their sentences hold at these settings alone."""
STUDY = "does_it_matter"
"""The sweep that gives all sampling methods the same optimiser and proposal."""
REDRAWN = "data_seeds"
"""The sweep that makes the comparison again on other draws of the data."""


def replaced(document: str, mark: str, text: str) -> str:
    """Returns a document with `text` between its marks `<!-- mark -->` and `<!-- end of mark -->`.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    pattern = f"(?s){re.escape(begin)}\n.*?{re.escape(end)}"
    made, count = re.subn(pattern, lambda found: f"{begin}\n{text}{end}", document)
    if not count:
        raise ValueError(f"there is no {begin} … {end}")
    return made


def _at_these_settings(name: str, finding: Finding) -> Finding:
    """Says of a sweep whose settings were found for each method by itself that another search may rank otherwise."""
    return replace(finding, text=f"At these settings: {finding.text}") if name in AT_THESE_SETTINGS else finding


def _collected(results_dir: Path) -> list[Results]:
    return [frame.load(path.parent) for path in sorted(results_dir.glob("*/sweep.json"))]


def findings_text(results_dir: Path) -> str:
    """Returns what all collected sweeps say, as Markdown: a paragraph for each question that one compares.

    A sweep without tables, such as one that tries settings, says nothing.
    """
    lines: list[str] = []
    for results in (results for results in _collected(results_dir) if results.tables):
        said = [finding for finding in findings.findings(results) if finding.verdicts]
        said = [_at_these_settings(results.name, finding) for finding in said]
        lines += [f"**{results.description.rstrip('.')}** ([tables]({results.name}/tables.md))", ""] if said else []
        for finding in said:
            values = f" Means: {finding.values}." if finding.values else ""
            lines.append(f"- {finding.title}: {finding.text}{values}")
        lines += [""] if said else []
    return "\n".join(lines) + "\n"


def results_text(results_dir: Path) -> str:
    """Returns the comparison of methods in one table, as Markdown, and what the tests say, of other draws too.

    A column is the headline metric of one dataset of the sweeps in COMPARED.
    """
    named = [
        (results.name, group, findings.at_equal_seeds(group.frame, "method", group.headline, results))
        for results in _collected(results_dir)
        if results.name in COMPARED
        for group in groups(results.done, ())
    ]
    names = [name for name, *_ in named]
    columns = [(group, records) for _, group, records in named]
    methods = list(dict.fromkeys(method for group, _ in columns for method in group.methods))
    rows = [[method_cell(method), *(_marked_cell(records, method) for _, records in columns)] for method in methods]
    header = [Cell("method")]
    for group, records in columns:
        header.append(
            Cell(f"{group.title}: {group.headline.label} {group.headline.arrow} ({records[0]['seeds']} seeds)")
        )
    lines = markdown_rows(Table("", header, rows))
    legend = (
        "Mean over seeds and its 95 % interval. Each column uses one data set, or one base detector. Bold: the best "
        "mean. "
        f"{UNDECIDED}: not significantly different from it."
    )
    unsure = [group for group, records in columns if any(row["n_untrusted"] for row in records)]
    if unsure:
        doubts = {group.title.partition(",")[0]: group.task.doubt for group in unsure}
        reasons = "; ".join(f"{title}, {doubt}" for title, doubt in doubts.items())
        legend += f" ≥: a lower bound, and {DOUBTFUL}: a mean, with unreliable values ({reasons})."
    if any(FEWER in line for line in lines):
        legend += f" {FEWER}: over fewer than all seeds, for some diverged or have no finite value."
    said = [
        _at_these_settings(name, findings.of_methods(group, group.headline, records))
        for name, (group, records) in zip(names, columns, strict=True)
    ]
    redrawn = [results for results in _collected(results_dir) if results.name == REDRAWN]
    said += [found for results in redrawn for found in findings.findings(results)]
    return "\n".join([*lines, "", legend, "", *(f"- {finding.title}: {finding.text}" for finding in said)]) + "\n"


def _marked_cell(records: Sequence[Row], method: object) -> Cell:
    row = next((row for row in records if row["method"] == method), None)
    if row is None:
        return Cell("–")
    return mean_cell(row, places_of(*records), len(records) > 1 and row["verdict"] in ("not significant", ""))


def speed_text(results_dir: Path) -> str:
    """Returns what the committed benchmark of 1D training says, as Markdown."""
    table = pd.read_csv(results_dir / "bench" / "one_d.csv")
    lines = []
    for threads, part in table[table["seeds"] == 20].groupby("threads"):
        each = ", ".join(f"`{row.method}` {row.ratio:.1f}" for row in part.itertuples())
        cores = "one core" if threads == 1 else f"{threads} cores"
        lines.append(f"- On {cores}, 20 seeds at the published settings, times the textbook way: {each}.")
    lines += ["", "([results/bench/one_d.md](../results/bench/one_d.md); `python -m benchmarks`)", ""]
    return "\n".join(lines)


PUBLISHED = "`dsm` and `ml-mcmc` have published settings tuned for each dataset, the others do not."
SPLITS = "Splits of a set share most of their rows: what is significant holds for splits of this set, not for new rows."
GUIDE = (
    ("One target, proposal scales as published", "paper_1d", PUBLISHED),
    (
        "One target, all methods with equal tuning and 128 samples",
        "extended_1d",
        "Each method has the best of eight trials on each dataset.",
    ),
    (
        "Proposal scales that nobody knows",
        "learned_proposals",
        "Only K is compared: nce with fixed scales is in [paper_1d](../results/paper_1d/tables.md).",
    ),
    ("Another draw of the training data", "data_seeds", PUBLISHED),
    ("Few samples a step", "num_samples", PUBLISHED),
    (
        "Noise on the labels",
        "annotation_noise",
        "D_KL is to the clean law; the tables have it to the noisy one too. `dsm` has a published σ for each dataset.",
    ),
    (
        "More targets at once",
        "dimension",
        "`laws` is a mixture of three Gaussians, `banana` a bent one, `ring` a shell. Each method has the best of six "
        "trials on the mixture at D = 4, and the same settings everywhere.",
    ),
    (
        "Up to four targets, with seeds enough for a test",
        "dimension_seeds",
        "Seeds 0 to 4 are those of the sweep dimension, and so are the settings.",
    ),
    (
        "A table: an energy, or another density or trees, equal tuning",
        "uci",
        "Each model has the best of five settings on each set. Set by hand, for some sets alone: passes and "
        "mini-batches of all networks, the proposal, M and `network.relative` of nce (conf/recipe/regression/uci/). "
        f"{SPLITS}",
    ),
    (
        "A table: the same at default settings, and by the exact likelihood",
        "uci_small",
        f"The defaults are those of commit 309daca8d886. {SPLITS}",
    ),
    (
        "An image with several right answers",
        "squares",
        "The settings are those of sweeps/squares.yaml: no search was made with equal trials.",
    ),
    (
        "A number for an image",
        "cells",
        "Each model has the best of four settings. The draws are halves of the same 200 images.",
    ),
    ("Boxes on images", "shapes", "Each method has the best of six trials."),
    ("Boxes on photographs", "bccd", "Both have the settings chosen on shapes."),
)
"""A situation of practice, the sweep that answers for it, and what to know of that comparison."""


def guide_text(results_dir: Path) -> str:
    """Returns what each sweep says to somebody who has to choose a method, as Markdown: a table for each situation."""
    lines: list[str] = []
    for situation, name, caveat in GUIDE:
        results = frame.load(results_dir / name)
        figures = sorted((results_dir / name / "figures").glob("*.png"), key=lambda path: path.stem)
        shown = "".join(f", [{path.stem}](../results/{name}/figures/{path.name})" for path in figures[:1])
        if name in AT_THESE_SETTINGS:
            caveat = f"{caveat} All that is said holds at these settings: another search may rank otherwise."
        tried = f"{results.description.rstrip('.')} ([tables](../results/{name}/tables.md){shown})."
        said = findings.findings(results)
        abouts = list(dict.fromkeys(finding.about for finding in said))
        lines += [
            f"### {situation}",
            "",
            f"{tried} Compared: {'; '.join(abouts)}. {caveat}",
            "",
            *_verdict_rows(said),
            "",
        ]
    return "\n".join(lines)


def _verdict_rows(said: Sequence[Finding]) -> Iterator[str]:
    """Yields the lines of a table of verdicts, then the notes on it."""
    setting = next((finding.setting for finding in said if finding.setting), "")
    header = ["data", *[setting] * bool(setting), "best mean", "not significantly different", "worse"]
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    notes: dict[str, dict[str, list[str]]] = {}
    for finding in said:
        for verdict in finding.verdicts:
            at = [verdict.at] * bool(setting)
            yield f"| {' | '.join([finding.title, *at, verdict.best, verdict.open, verdict.worse])} |"
            if verdict.note:
                notes.setdefault(verdict.note, {}).setdefault(finding.title, []).extend(at)
    if notes:
        yield ""
    for note, places in notes.items():
        where = (f"{title}, {setting} = {listed(values)}" if values else title for title, values in places.items())
        yield f"- {'; '.join(where)}: {note}"


def study_text(results_dir: Path) -> str:
    """Returns what the study of equal optimisers says, as Markdown; what to run, where nobody did."""
    if not (results_dir / STUDY / "sweep.json").is_file():
        return (
            "The study has not been run yet. `python -m ebmbench sweep submit does_it_matter` trains its 4,800 models, "
            "`python -m ebmbench sweep collect does_it_matter` makes its figure and tables, and "
            "`python -m benchmarks claims` writes its numbers into this page.\n"
        )
    results = frame.load(results_dir / STUDY)
    done = results.done
    rate, schedule, stds = "trainer.learning_rate", "trainer.schedule", "proposal.stds"
    lines = ["| | " + " | ".join(CHANGES) + " |", "|---" + "|---:" * len(CHANGES) + "|"]
    for label, part in done[done[stds].notna()].groupby("label", sort=True):
        task = results.tasks[str(label)]
        means = part.groupby(["method", rate, schedule, stds])[task.metrics[0].name].mean()
        cells = []
        for level in ("method", rate, schedule, stds):
            rest = [name for name in means.index.names if name != level]
            ranges = means.groupby(rest).agg(lambda own: own.max() - own.min())
            low, middle, high = ranges.quantile([0.1, 0.5, 0.9])
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        dataset = part["dataset"].iloc[0]
        lines.append(f"| {task.titled(str(dataset))} | {' | '.join(cells)} |")
    figures = sorted((results_dir / STUDY / "figures").glob("settings-*.png"))
    shown = [f"![Mean D_KL against the learning rate](../results/{STUDY}/figures/{path.name})" for path in figures[:1]]
    said = [f"- {finding.title}: {finding.text}" for finding in findings.findings(results)]
    explained = (
        "How far the mean D_KL (nats, over ten draws of the data) moves if one thing changes and all else stays: the "
        "median over all other choices, and in brackets from the 10 % to the 90 % quantile. "
        f"([tables](../results/{STUDY}/tables.md))"
    )
    return "\n".join([explained, "", *lines, "", *shown, "", *said, ""])


CHANGES = ("method", "learning rate", "schedule", "proposal")
"""What the study changes."""
DOCUMENTS = {
    "docs/results.md": ("results", results_text),
    "results/README.md": ("findings", findings_text),
    "docs/speed.md": ("speed", speed_text),
    "docs/which-method.md": ("guide", guide_text),
    "docs/does-it-matter.md": ("study", study_text),
}
"""Document to its mark, and to what writes the text between: of a folder of results."""


def main(argv: Sequence[str] = ()) -> int:
    """Writes all documents; returns the exit code."""
    for name, (mark, text) in DOCUMENTS.items():
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{name} is not here: call this at the top of the repository")
        write_atomically(path, replaced(path.read_text(), mark, text(Path("results"))).encode())
        print(path)
    return 0
