"""`python -m benchmarks [NAME] [options]`, NAME one of BENCHMARKS; one_d by default."""

from __future__ import annotations

import importlib
import sys

from ebmbench.system.allocator import keep_freed_memory
from ebmbench.system.threads import sleep_while_waiting

BENCHMARKS = (
    "one_d",
    "waits",
    "pooling",
    "head",
    "sweep",
    "gpu",
    "coverage",
    "gradients",
    "floors",
    "spike",
    "claims",
    "base_detector",
)


def main(argv: list[str]) -> int:
    """Runs a benchmark by its name; returns the exit code."""
    name = argv[0] if argv and not argv[0].startswith("-") else "one_d"
    if name not in BENCHMARKS:
        print(f"{name} is no benchmark; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    sleep_while_waiting()  # as a run does
    keep_freed_memory()
    return int(importlib.import_module(f"benchmarks.{name}").main(argv[1:] if argv[:1] == [name] else argv) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
