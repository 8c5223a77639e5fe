"""What a repeated target value does to each method: `python -m benchmarks spike`.

x is standard normal, and y is 0 with some probability, else 3 and a standard normal number: y does not depend on x. A
model is trained on 1000 rows with its defaults, and asked for `P(|y| < 0.5)` and for its mean, at 500 other x.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from ebmbench import EnergyRegressor
from ebmbench.display.table import Cell, Table, csv_text, markdown, method_cell, number_cell
from ebmbench.system.files import write_atomically

SHARES = (0.2, 0.6)
MODELS: tuple[tuple[str, int | None], ...] = (
    ("ml-exact", None),
    *((method, count) for method in ("nce+", "nce", "ml-is") for count in (64, 512)),
)
ROWS, EPOCHS = 1000, 40
NEAR = 0.5
NOTES = [
    f"y is 0 with the given probability, else N(3, 1), whatever x. {ROWS} rows, {EPOCHS} passes, one seed. P: of "
    f"|y| < {NEAR}, a mean over x; mean: of E[y|x]. A method that samples draws M values for each target.",
]


def _rows() -> Iterator[dict[str, object]]:
    for share in SHARES:
        random = np.random.default_rng(0)
        x = random.normal(size=(ROWS, 1))
        y = np.where(random.random(ROWS) < share, 0.0, 3 + random.normal(size=ROWS))
        near = share + (1 - share) * (norm.cdf(NEAR, 3) - norm.cdf(-NEAR, 3))
        yield {"share": share, "method": "the law", "M": None, "P": near, "mean": 3 * (1 - share)}
        yield {"share": share, "method": "the rows", "M": None, "P": (np.abs(y) < NEAR).mean(), "mean": y.mean()}
        for method, count in MODELS:
            settings = None if count is None else {"method.num_samples": count}
            model = EnergyRegressor(method, epochs=EPOCHS, settings=settings, device="cpu", warn=False)
            model.fit(x, y)
            new = random.normal(size=(500, 1))
            inside = model.cdf(new, NEAR) - model.cdf(new, -NEAR)
            yield {"share": share, "method": method, "M": count, "P": inside.mean(), "mean": model.predict(new).mean()}


def main(argv: Sequence[str] = ()) -> int:
    """Writes spike.md and spike.csv into results/bench; returns the exit code."""
    data = pd.DataFrame(_rows())
    rows = [
        [
            number_cell(row["share"], 1),
            method_cell(row["method"]) if row["method"] in dict(MODELS) else Cell(row["method"]),
            Cell("" if pd.isna(row["M"]) else f"{row['M']:.0f}"),
            *(number_cell(row[name], 3) for name in ("P", "mean")),
        ]
        for row in data.to_dict("records")
    ]
    heads = ["probability of 0", "method", "M", f"P(|y| < {NEAR})", "mean"]
    table = Table("What a repeated value does to each method", list(map(Cell, heads)), rows, NOTES)
    folder = Path("results/bench")
    write_atomically(folder / "spike.md", (markdown(table, 1).rstrip() + "\n").encode())
    write_atomically(folder / "spike.csv", csv_text(data).encode())
    print(markdown(table, 1))
    return 0
