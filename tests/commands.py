"""The subcommands of the command line, called in this process; bad input is raised, not printed."""

from __future__ import annotations

from collections.abc import Sequence

from ebmbench.cli.main import dispatch


def sweep(words: Sequence[str]) -> int:
    """`ebmbench sweep …`."""
    return dispatch(["sweep", *words])


def report(words: Sequence[str]) -> int:
    """`ebmbench report …`."""
    return dispatch(["report", *words])
