"""Signals that ask a run to stop: it saves a checkpoint first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType


class Interrupted(Exception):
    """The run stopped at a signal; it goes on from its checkpoint when it is started again."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """What the process exits with, as shells have it."""
        return 128 + self.signum


def stopping_signals() -> list[signal.Signals]:
    """Returns the signals that ask to stop: Ctrl-C, kill, SLURM's warning, and a closed terminal (not under nohup)."""
    found = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    return found if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*found, signal.SIGHUP]


_remembered: list[int] = []


def remember_signals() -> None:
    """Remembers signals to stop until a `StopFlag` is entered, which acts on them. Call it in the main thread."""
    for signum in stopping_signals():
        signal.signal(signum, lambda signum, frame: _remembered.append(signum))


@contextmanager
def on_signals(signals: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Calls `handler` at these signals while it is entered. Only the main thread can set handlers; others set none."""
    is_main = threading.current_thread() is threading.main_thread()
    old = {signum: signal.signal(signum, handler) for signum in signals} if is_main else {}
    try:
        yield
    finally:
        for signum, before in old.items():
            signal.signal(signum, before)


class StopFlag:
    """Turns the first of the `stopping_signals` into Interrupted while it is entered.

    It is raised at once, wherever the run is (every file is written whole or not at all, so any moment will do), or by
    the next `check()` inside `deferred()`, for work that has something to save first. Later signals change nothing, but
    for a second SIGINT, which raises KeyboardInterrupt at once. Outside the main thread it never sees a signal.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._deferred = False
        self._handlers = ExitStack()

    def __enter__(self) -> StopFlag:
        self._handlers.enter_context(on_signals(stopping_signals(), self._handle))
        if _remembered:
            self.signum = _remembered[0]
        return self

    def __exit__(self, *error: object) -> None:
        self._handlers.close()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is only remembered, for `check()`."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before

    def check(self) -> None:
        """Raises Interrupted if a signal came."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signum = signum
        if not self._deferred:
            raise Interrupted(signum)
