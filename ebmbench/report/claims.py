"""What the committed results say, in sentences: written into the README from the tables, never by hand.

`python -m ebmbench report claims` writes what stands between the marks `<!-- results -->` and
`<!-- end of results -->`.
Each sentence follows from a test that could have said otherwise; what no test decides is called not decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ebmbench.display.table import number
from ebmbench.report import frame, scores
from ebmbench.report.frame import Results
from ebmbench.report.settings import symbol
from ebmbench.report.tables import Group, groups
from ebmbench.system.files import write_atomically

BEGIN, END = "<!-- {} -->", "<!-- end of {} -->"


def update(document: Path, mark: str, text: str) -> None:
    """Writes `text` between the marks of a document; all else stays as it is."""
    write_atomically(document, replaced(document.read_text(), mark, text).encode())


def replaced(document: str, mark: str, text: str) -> str:
    """Returns a document with `text` between its marks `<!-- mark -->` and `<!-- end of mark -->`.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = BEGIN.format(mark), END.format(mark)
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(document):
        raise ValueError(f"there is no {begin} … {end}")
    return pattern.sub(lambda found: f"{begin}\n{text}{end}", document)


def results_text(results_dir: Path) -> str:
    """Returns what all collected sweeps say, as Markdown: a paragraph for each question."""
    lines: list[str] = []
    for folder in sorted(path.parent for path in results_dir.glob("*/sweep.json")):
        lines += _sweep(frame.load(folder), folder)
    return "\n".join(lines) + "\n"


def _sweep(results: Results, folder: Path) -> list[str]:
    place = f"results/{folder.name}/tables.md"
    said = [sentence for group in groups(results.done, ()) for sentence in _ranking(group, results)]
    if not said:
        return []
    command = f"`python -m ebmbench sweep submit {results.sweep}`"
    return [f"**{results.description.rstrip('.')}** ([tables]({place}); {command}).", "", *said, ""]


def _ranking(group: Group, results: Results) -> Iterator[str]:
    """Yields a line for a dataset where methods are compared, or the values of one method's setting."""
    metric = group.headline
    if not results.axes:
        over = "method"
        table = scores.summarise(group.frame, ["task", "dataset"], over, [metric])
        names = [f"`{name}`" for name in table[over]]
    elif len(group.methods) == 1 and len(results.axes) == 1:
        over = results.axes[0]
        compared = scores.at_equal_seeds(group.frame, over, ["method"])
        table = scores.summarise(compared, ["task", "dataset"], over, [metric])
        sign = symbol(over, str(group.frame["task"].iloc[0]), str(group.methods[0]))
        names = [f"{sign} = {value:g}" for value in table[over]]
    else:
        return
    rows: list[dict[str, Any]] = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    by_name = dict(zip(names, rows, strict=True))
    listed = ", ".join(f"{name} {_value(row)}" for name, row in by_name.items())
    yield f"- {group.title}, mean {metric.label} over {_seeds(rows)}: {listed}. {_verdicts(by_name)}"


def _value(row: dict[str, Any]) -> str:
    doubtful = row["n_untrusted"] and abs(row["mean"] - row["mean_trusted"]) > 0.05 * abs(row["mean"])
    without = f" ({number(row['mean_trusted'], 2)} without {row['n_untrusted']} doubtful seeds)" if doubtful else ""
    return number(row["mean"]) + without if abs(row["mean"]) >= 100 else f"{row['mean']:.3g}" + without


def _seeds(rows: Sequence[dict[str, Any]]) -> str:
    counts = sorted({int(row["n"]) for row in rows})
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _verdicts(by_name: dict[str, dict[str, Any]]) -> str:
    """Returns what the tests decide."""
    found: dict[str, list[str]] = {}
    for name, row in by_name.items():
        found.setdefault(str(row["verdict"]), []).append(name)
    if "best" not in found:
        return "There is no ranking."
    said = [f"{_and(found['best'])} has the best mean."]
    if "worse" in found:
        said.append(f"Worse than it: {_and(found['worse'])} (p < {scores.SIGNIFICANCE}, Holm).")
    if "equivalent" in found:
        said.append(f"Equivalent to it: {_and(found['equivalent'])}.")
    if "not decided" in found:
        said.append(f"Not decided: {_and(found['not decided'])}.")
    return " ".join(said)


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def speed_text(results_dir: Path) -> str:
    """Returns what the committed benchmark of 1D training says, as Markdown."""
    table = pd.read_csv(results_dir / "bench" / "one_d.csv")
    rows = table[(table["kind"] == "table") & (table["seeds"] == 20)]
    lines = []
    for threads, part in rows.groupby("threads"):
        ratios = part.set_index("method")["ratio"]
        each = ", ".join(f"`{method}` {ratio:.1f}" for method, ratio in ratios.items())
        cores = "one core" if threads == 1 else f"{threads} cores"
        lines.append(f"- On {cores}, 20 seeds at the published settings, times the textbook way: {each}.")
    lines.append("")
    lines.append("([results/bench/one_d.md](../results/bench/one_d.md); `python -m ebmbench.bench`)")
    return "\n".join(lines) + "\n"
