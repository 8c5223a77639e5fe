"""Published figures of known sets, beside a report's own: the tables of results/published.yaml."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pandas as pd
import yaml

from ebmbench.display.table import Cell, Table, method_cell, number_cell
from ebmbench.system.files import share_dir


@cache
def _known() -> dict[str, Any]:
    """Returns what results/published.yaml says of the UCI sets, with each set under all of its names."""
    text = (share_dir() / "results" / "published.yaml").read_text(encoding="utf-8")
    known: dict[str, Any] = yaml.safe_load(text)["uci"]
    other = known["names"]
    rows = [{**row, **{other[name]: row[name] for name in other if name in row}} for row in known["rows"]]
    return {**known, "rows": rows}


def published_tables(done: pd.DataFrame) -> list[Table]:
    """Returns a table of the published rows beside the mean of each model here; none where no set is known.

    Args:
        done: the runs and seeds that are done, as `Results.done` has them.
    """
    known = _known()
    metric = known["metric"]
    if done.empty or metric not in done:
        return []
    here = done[done["dataset"].isin({name for row in known["rows"] for name in row})]
    if "data" in here:
        here = here[here["data"].astype(str).str.startswith("uci")]
    sets = sorted(map(str, here["dataset"].unique()))
    if not sets:
        return []
    rows = []
    for kind, column in (("here, one model", metric), ("here, mixture of the seeds", f"ensemble_{metric}")):
        if column in here and here[column].notna().any():
            means = here.pivot_table(column, "method", "dataset", "mean")
            for method, row in means.iterrows():
                rows.append(
                    [method_cell(method), Cell(kind), *(number_cell(row.get(name, math.nan), 2) for name in sets)]
                )
    for row in known["rows"]:
        rows.append(
            [Cell(row["model"]), Cell(row["source"]), *(number_cell(row.get(name, math.nan), 2) for name in sets)]
        )
    sources = {row["source"]: known["sources"][row["source"]] for row in known["rows"]}
    notes = [known["protocol"].strip(), *(f"{name}: {text}." for name, text in sources.items())]
    header = [Cell("model"), Cell("from"), *map(Cell, sets)]
    return [Table("Beside published rows: mean test NLL, nats", header, rows, notes)]
