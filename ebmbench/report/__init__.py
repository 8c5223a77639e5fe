"""What runs turn into: tables, plots, one HTML page, a Weights & Biases report. `python -m ebmbench report`."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """`python -m ebmbench report ...`; returns the exit code."""
    from ebmbench.report.cli import main as cli_main  # matplotlib and pandas only when asked for

    return cli_main(argv)
