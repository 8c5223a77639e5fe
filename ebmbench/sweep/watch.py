"""What is seen of jobs that run side by side: a line for each on a terminal, plain lines where there is none."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine.runs import read_status

FORM = "{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt} steps, {remaining} left"


class Watch:
    """Lines of progress on stderr, in the places of the jobs, below a line for all of them together.

    Args:
        jobs: how many there are.
    """

    def __init__(self, jobs: int) -> None:
        self.interactive = sys.stderr.isatty()
        self._whole: tqdm[Any] | None = None
        self._bars: dict[int, tuple[Path, tqdm[Any]]] = {}
        if self.interactive:
            form = "{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt} jobs, {elapsed} so far"
            self._whole = tqdm(total=jobs, desc="all", bar_format=form, leave=False, file=sys.stderr)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        for _, bar in self._bars.values():
            bar.close()
        if self._whole is not None:
            self._whole.close()

    def started(self, place: int, config: RunConfig) -> None:
        """A job has started in one of the places."""
        if self.interactive:
            bar = tqdm(
                total=1, desc=config.run_id, bar_format="{desc} starts", position=place + 1, leave=False,
                file=sys.stderr,
            )  # fmt: skip
            self._bars[place] = (config.run_dir, bar)

    def ended(self, place: int, is_last: bool) -> None:
        """The job of a place has ended; `is_last`: it will not start again."""
        if place in self._bars:
            self._bars.pop(place)[1].close()
        if self._whole is not None:
            self._whole.update(is_last)

    def refresh(self) -> None:
        """Looks into the run directories for how far the jobs are."""
        for folder, bar in self._bars.values():
            with contextlib.suppress(UserError):
                status = read_status(folder)
                if status and status.state == "running" and status.num_steps:
                    bar.bar_format, bar.total = FORM, status.num_steps
                    if bar.n == 0:
                        bar.initial = status.step  # where it goes on from a checkpoint
                    bar.n = status.step
            bar.refresh()
        if self._whole is not None:
            self._whole.refresh()

    def say(self, text: str) -> None:
        """A line of output, above the others."""
        if self.interactive:
            tqdm.write(text, file=sys.stdout)
        else:
            print(text, flush=True)
