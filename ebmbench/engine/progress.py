"""What is seen of a run on the terminal: a bar, or plain lines where the output is none."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from tqdm import tqdm

from ebmbench.engine.train import Progress
from ebmbench.tasks.base import Learner

PLAIN_SECONDS = 30.0
"""Time between two plain lines."""
FIRST_STEPS = 10
"""Steps after which a plain line says how long it takes, if that is longer."""


class ProgressDisplay:
    """A bar with epoch, loss, models·steps per second and time left; one for each stage that is no training."""

    def __init__(self, title: str, learner: Learner, quiet: bool) -> None:
        self.title, self.learner, self.quiet = title, learner, quiet
        self.interactive = sys.stderr.isatty() and not quiet
        self._bar: tqdm[Any] | None = None
        self._loss = ""
        self._first: tuple[int, float] | None = None
        self._last_line = time.monotonic()
        self._stage = ""
        self._stage_started = 0.0

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, progress: Progress) -> None:
        """Called after each step; never reads from the device."""
        if self._first is None:
            self._first = (progress.step, time.monotonic())
        if self.interactive:
            if self._bar is None:
                form = "{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt} steps, {remaining} left{postfix}"
                self._bar = tqdm(
                    total=self.learner.num_steps,
                    initial=progress.step - 1,
                    desc=self.title,
                    leave=False,
                    bar_format=form,
                    file=sys.stderr,
                )
            self._bar.update(progress.step - self._bar.n)
        elif not self.quiet:
            now, total, (first, started) = time.monotonic(), self.learner.num_steps, self._first
            left = (now - started) / max(progress.step - first, 1) * (total - progress.step)
            is_early = progress.step - first == FIRST_STEPS and left >= PLAIN_SECONDS
            if is_early or now - self._last_line >= PLAIN_SECONDS:
                self._last_line = now
                text = f"{100 * progress.step / total:.0f} %, step {progress.step}/{total}, about {left:.0f} s left"
                self.message(f"{text}{self._loss}")

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        """Called with the history's rows."""
        losses = [row["loss"] for row in rows if row["loss"] == row["loss"]]
        mean = sum(losses) / len(losses) if losses else float("nan")
        epochs = math.ceil(self.learner.num_steps / math.ceil(self.learner.num_items / self.learner.batch_size))
        self._loss = f", epoch {rows[0]['epoch']}/{epochs}, loss {mean:.4g}"
        if self._first is not None:
            steps = rows[0]["step"] - self._first[0]
            rate = len(rows) * steps / max(time.monotonic() - self._first[1], 1e-9)
            self._loss += f", {rate:.3g} models·steps/s"
        if self._bar is not None:
            self._bar.set_postfix_str(self._loss.lstrip(", "), refresh=False)

    def stage(self, name: str, done: int, total: int) -> None:
        """Called as a stage that is no training goes on, such as evaluation: `done` of `total` items."""
        now = time.monotonic()
        if name != self._stage:
            self._stage, self._stage_started, self._last_line = name, now, now
            if self._bar is not None:
                self._bar.close()
            if self.interactive:
                form = "{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt}, {remaining} left"
                desc = f"{self.title} {name}"
                self._bar = tqdm(total=total, desc=desc, leave=False, bar_format=form, file=sys.stderr)
        if self.interactive and self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif not self.quiet and done and now - self._last_line >= PLAIN_SECONDS:
            self._last_line = now
            left = (now - self._stage_started) / done * (total - done)
            self.message(f"{name} {done}/{total}, {left:.0f} s left")

    def message(self, text: str) -> None:
        """A plain line, where there is no bar."""
        if not self.quiet and not self.interactive:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)
