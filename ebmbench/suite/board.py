"""The board: a page for each suite that ranks what was received, a page that lists them, and a CSV file for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ebmbench.config.folders import known_suites
from ebmbench.core.errors import UserError
from ebmbench.display.table import Cell, Table, csv_text
from ebmbench.report.html import fill
from ebmbench.suite import suite as suites
from ebmbench.suite.received import Received, read_received
from ebmbench.suite.suite import Suite
from ebmbench.suite.tables import tables
from ebmbench.system.files import write_atomically

INDEX = "index.html"


def write(results_dir: Path, out: Path) -> list[Path]:
    """Writes the pages of all that was received; returns their paths.

    Raises:
        UserError: nothing was received, or the folder cannot be written.
    """
    received: dict[str, list[Received]] = {}
    for record in read_received(results_dir):
        received.setdefault(record.suite, []).append(record)
    if not received:
        raise UserError(f"nothing was received in {str(results_dir / 'received')!r}: ebmbench suite receive FILE")
    pages = {"All suites": INDEX, **{name: f"{name}.html" for name in received}}
    files: dict[str, str] = {}
    rows = []
    for name, records in received.items():
        suite = _suite(name, records)
        frame = rows_of(records)
        made = tables(suite, records, frame)
        files[f"{name}.csv"] = csv_text(frame, digits=None)
        facts = {"submissions": str(len(records)), "hash of the suite": suite.sha256}
        files[pages[name]] = fill(
            "board.html.j2", title=name, lead=suite.about.description, facts=facts, tables=made,
            pages={**pages, "All rows as CSV": f"{name}.csv"},
        )  # fmt: skip
        best = made[0].rows[0] if made[0].rows[0][1].mark else [Cell("–"), Cell("–")]
        rows.append([Cell(name, suite.about.description), *best[:2], Cell(str(len(records)), sort=len(records))])
    header = [Cell(text) for text in ("suite", "best", "its score", "submissions")]
    listing = Table("", header, rows, ["Each suite is frozen: a change is a new version, and old ones stay."])
    lead = "Methods for energy-based regression, tuned with the same number of trials."
    files[INDEX] = fill("board.html.j2", title="Suites", lead=lead, facts={}, pages=pages, tables=[listing])
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            write_atomically(out / file, text.encode())
    except OSError as error:
        raise UserError(f"--out: {str(out)!r} cannot be written ({error.strerror})") from None
    return [out / file for file in files]


def _suite(name: str, records: Sequence[Received]) -> Suite:
    if name not in known_suites():
        raise UserError(f"submissions to {name} were received, and no sweeps/suites/{name}.yaml is here")
    suite = suites.read(name)
    other = [record for record in records if record.suite_sha256 != suite.sha256]
    if other:
        raise UserError(f"{name} was changed since {other[0].entry} was received: a change needs a new version")
    return suite


def rows_of(records: Sequence[Received]) -> pd.DataFrame:
    """Returns the rows of all submissions to a suite; `method` is what the board calls each."""
    names = Counter(record.entry for record in records)
    parts = []
    for record in records:
        name = record.entry if names[record.entry] == 1 else f"{record.entry} ({record.author}, {record.sha256[:6]})"
        part = pd.DataFrame(record.rows)
        parts.append(part.assign(method=name, label=part["task"] + "-" + part["dataset"], level=record.level))
    return pd.concat(parts, ignore_index=True)
