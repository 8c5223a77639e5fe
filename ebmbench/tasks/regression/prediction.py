"""Predictions of a trained run for tables in files: `ebmbench predict`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from ebmbench.core.errors import UserError, counted
from ebmbench.core.extras import has
from ebmbench.supports.target_range import MUCH_OUTSIDE
from ebmbench.system.files import write_atomically
from ebmbench.tasks.regression.data.files import PARQUET, read_table
from ebmbench.tasks.regression.data.frames import read_targets
from ebmbench.tasks.regression.model import RegressionModel
from ebmbench.tasks.regression.records import endings


def predict_tables(models: Mapping[int, RegressionModel], files: Sequence[Path], out: Path, level: float) -> None:
    """Writes a row for each row of some tables: `predict_table`, by the equal mixture of the seeds.

    Args:
        files, out: CSV or Parquet, by their names. With several files, the column `file` says which.
        level: the probability of the interval.

    Raises:
        UserError: a table does not fit the models, or a file cannot be read or written.
    """
    if out.suffix.lower() not in (".csv", *PARQUET):
        raise UserError(f"--out: {out.name!r} is not allowed: give a name that ends in .csv or .parquet")
    if out.suffix.lower() in PARQUET and not has("pyarrow"):
        raise UserError(f"--out: {out.name!r} needs pyarrow (pip install 'ebmbench[parquet]'); or give a .csv file")
    first, *others = models.values()
    model = RegressionModel.mixture([first, *others]) if others else first
    parts = []
    for file in files:
        table, read = read_table(file, None)
        try:
            made, notes = predict_table(model, table, level)
        except UserError as error:
            raise UserError(f"{file.name}: {error}") from None
        for note in read + notes:
            print(f"ebmbench: {file.name}: {note}", file=sys.stderr)
        if len(files) > 1:
            made.insert(0, "file", file.name)
        parts.append(made)
    try:
        write_atomically(out, _encoded(pd.concat(parts, ignore_index=True), out))
    except OSError as error:
        raise UserError(f"--out: {str(out)!r} cannot be written ({error.strerror})") from None


def predict_table(model: RegressionModel, table: pd.DataFrame, level: float) -> tuple[pd.DataFrame, list[str]]:
    """Returns a row for each row of a table, and what is to be said of the table, a sentence each.

    The columns are `row` (its number, from 0), and for each target `mean`, `median`, `mode`, `std`, and the ends `low`
    and `high` of the central interval; of several targets their names end in `_TARGET`. Of one target there are
    `modes`, `[[place, mass], ...]`, and the pieces of the smallest set that has the interval's probability, `region`,
    `[[low, high], ...]`, both as JSON. `outside` is the mass beyond the range of the training targets, widened by a
    tenth of it. Where the table holds the targets too, `log_prob` is their log-density; it is empty in rows that lack a
    target.
    """
    table = table.rename(columns=lambda name: str(name).strip())
    used = [*model.transform.used, *model.targets]
    extra = [name for name in table.columns if name not in used]
    notes = [f"not used: {', '.join(extra)}"] if extra else []
    x, said = model.transform.read(table)
    y = None
    if all(name in table for name in model.targets):
        y, notes_of_targets = read_targets(table, model.targets, model.transform)
        said += notes_of_targets
    made = model.summary_of(x, level, y)
    result: dict[str, np.ndarray] = {"row": np.arange(len(table))}
    for k, ending in enumerate(endings(model.targets)):
        result |= {f"{name}{ending}": made[name][:, k].numpy() for name in NUMBERS}
    if "modes" in made:
        result["modes"] = np.array([_text(modes) for modes in made["modes"]], dtype=object)
        result["region"] = np.array([_text(region.pieces) for region in made["regions"]], dtype=object)
    result["outside"] = made["outside"].numpy()
    if "log_prob" in made:
        result["log_prob"] = made["log_prob"].numpy()
    return pd.DataFrame(result), notes + said + _outside(made["outside"])


NUMBERS = ("mean", "median", "mode", "std", "low", "high")
"""What is said of each target."""


def _text(pairs: Sequence[tuple[float, float]]) -> str:
    """Returns pairs of numbers as JSON, to six digits."""
    return json.dumps([[float(f"{value:.6g}") for value in pair] for pair in pairs])


def _outside(outside: Tensor) -> list[str]:
    """Returns a sentence if rows have much of their mass, `[N]`, where no training target was."""
    rows = int((outside > MUCH_OUTSIDE).sum())
    if not rows:
        return []
    return [
        f"{counted(rows, 'row has', 'rows have')} more than {MUCH_OUTSIDE:.0%} of the density beyond the range of the "
        "training targets, widened by a tenth (column outside): do not rely on these predictions"
    ]


def _encoded(table: pd.DataFrame, out: Path) -> bytes:
    if out.suffix.lower() in PARQUET:
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue()
    return table.to_csv(index=False, float_format="%.8g").encode()
