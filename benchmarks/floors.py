"""What each objective loses even with plenty of data and a perfect optimiser: `python -m benchmarks floors`.

An objective whose optimum is the true density smoothed by noise ν cannot come closer than `KL(p ‖ p∗ν)`. Here it is by
quadrature on both laws of 1D regression: at the published settings, and at others of nce+ and dsm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from ebmbench.config.compose import compose
from ebmbench.display.table import Cell, Table, csv_text, markdown, method_cell, number_cell
from ebmbench.system.files import write_atomically

METHODS = ("ml-exact", "ml-is", "nce", "sm", "nce+", "kld-is", "dsm")
OTHERS = {
    "nce+": ("method.beta", (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3)),
    "dsm": ("method.sigma", (0.01, 0.025, 0.05, 0.075, 0.1, 0.2)),
    "kld-is": ("method.sigma", (0.005, 0.01, 0.025, 0.05)),
}
NOTES = [
    "KL(p ‖ p∗ν) in nats, by quadrature: what is left with plenty of data, samples and training steps. 0: the "
    "objective's optimum is the true density.",
    "ml-exact, ml-is, nce, sm: also nce-binary, snl, ssm, and ed with many samples.",
]


def _rows() -> Iterator[dict[str, object]]:
    for method in METHODS:
        yield _row(method)
    for method, (key, values) in OTHERS.items():
        for value in values:
            yield _row(method, f"{key}={value}")


def _row(method: str, *words: str) -> dict[str, object]:
    row: dict[str, object] = {"method": method, "setting": " ".join(words) or "published"}
    for dataset in (1, 2):
        config = compose(["task=1d", f"data=law{dataset}", f"method={method}", *words])
        row[f"law {dataset}"] = config.task.floor(config.method.blur(config.proposal))
    return row


def main(argv: Sequence[str] = ()) -> int:
    """Writes floors.md and floors.csv into results/bench; returns the exit code."""
    data = pd.DataFrame(_rows())
    rows = [
        [method_cell(row["method"]), Cell(row["setting"]), *(number_cell(row[f"law {k}"], 4) for k in (1, 2))]
        for row in data.to_dict("records")
    ]
    table = Table("The floor of each objective", [*map(Cell, data.columns)], rows, NOTES)
    folder = Path("results/bench")
    write_atomically(folder / "floors.md", (markdown(table, 1).rstrip() + "\n").encode())
    write_atomically(folder / "floors.csv", csv_text(data).encode())
    print(markdown(table, 1))
    return 0
