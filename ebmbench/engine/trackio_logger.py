"""Trackio beside the CSV history: one run per seed, sent when the run is done."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmbench.core.extras import need

if TYPE_CHECKING:
    from ebmbench.config.run import RunConfig

Row = Mapping[str, Any]


class TrackioLogger:
    """Keeps the rows of each seed, and sends them when all is done: Trackio has one run at a time in a process.

    Args:
        earlier: the rows of an interrupted run that this one goes on with.
    """

    def __init__(self, config: RunConfig, earlier: Sequence[Row]) -> None:
        self._trackio: Any = need("trackio", "trackio")
        self._config = config
        self._rows: dict[int, dict[int, Row]] = {seed: {} for seed in config.seeds}
        self._scores: dict[int, Row] = {}
        self.log(earlier)

    def log(self, rows: Sequence[Row]) -> None:
        """Keeps rows of the training history."""
        for row in rows:
            self._rows[int(row["seed"])][int(row["step"])] = row

    def finish(self, metrics_rows: Sequence[Row], figures: Sequence[Path], run_dir: Path) -> None:
        """Keeps the final metrics."""
        self._scores = {int(row["seed"]): row for row in metrics_rows}

    def close(self, state: str) -> None:
        """Sends the history and the final metrics of each seed, if the run is done."""
        for seed, rows in self._rows.items() if state == "done" else ():
            with contextlib.redirect_stdout(io.StringIO()):
                run = self._trackio.init(
                    project=self._config.logger.project or "ebmbench",
                    name=f"{self._config.run_id}-{seed}",
                    group=self._config.sweep.name if self._config.sweep else self._config.label,
                    config={**self._config.to_dict(), "seed": seed},
                    embed=False,
                    auto_log_gpu=False,
                    auto_log_cpu=False,
                )
                for step in sorted(rows):
                    run.log(_numbers(rows[step]), step=step)
                run.log({f"final/{key}": value for key, value in _numbers(self._scores.get(seed, {})).items()})
                self._trackio.finish()
        self._rows = {}


def _numbers(row: Row) -> dict[str, float]:
    """Returns the finite numbers of a row, without its place."""
    numbers = {
        key: float(value) for key, value in row.items() if key not in ("step", "seed") and value not in ("", None)
    }
    return {key: value for key, value in numbers.items() if math.isfinite(value)}
