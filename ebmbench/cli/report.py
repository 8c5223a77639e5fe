"""`python -m ebmbench report ...`: the page, the figures, the W&B report."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ebmbench.core.errors import UserError
from ebmbench.report import frame
from ebmbench.report.frame import Results

USAGE = """\
python -m ebmbench report SWEEP | RUN_DIRECTORY...            one HTML page that compares them
python -m ebmbench report figures SWEEP | RUN_DIRECTORY...    its figures as PDF and PNG, with their numbers as CSV
python -m ebmbench report wandb SWEEP                         a report on Weights & Biases (runs made with logger=wandb)
"""


class _Parser(argparse.ArgumentParser):
    """Bad usage is a UserError like any other: one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; usage:\n{USAGE.rstrip()}")


def main(argv: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    kinds = {"figures": _figures, "wandb": _wandb, "page": _page}
    kind = argv[0] if argv and argv[0] in kinds else "page"
    rest = list(argv[1:] if argv and argv[0] in kinds else argv)
    parser = _Parser(prog="python -m ebmbench report", usage=USAGE, add_help=True)
    parser.add_argument("targets", nargs="+", metavar="SWEEP | RUN_DIRECTORY")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="where runs/ is (default: results)")
    if kind == "page":
        parser.add_argument("--output", type=Path, help="default: <results-dir>/<sweep>/report.html")
    elif kind == "figures":
        parser.add_argument("--output", type=Path, help="folder; default: <results-dir>/<sweep>/figures")
    else:
        parser.add_argument("--project", default="ebmbench", help="the W&B project that the runs were logged to")
        parser.add_argument("--entity", help="the W&B user or team; default: the account's")
    arguments = parser.parse_args(rest)
    return kinds[kind](arguments)


def _results(arguments: argparse.Namespace) -> Results:
    from ebmbench.sweep.status import job_states

    return frame.find(arguments.targets, arguments.results_dir, job_states)


def _default_output(arguments: argparse.Namespace, results: Results, sweep_file: str, ending: str) -> Path:
    """Beside the tables of a sweep; else under report/."""
    if results.sweep:
        return arguments.results_dir / results.sweep / sweep_file
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in results.name)
    return arguments.results_dir / "report" / f"{safe}{ending}"


def _how(arguments: argparse.Namespace) -> str:
    parts = [str(target) for target in arguments.targets]
    if arguments.results_dir != Path("results"):
        parts += ["--results-dir", str(arguments.results_dir)]
    return "python -m ebmbench report " + " ".join(map(shlex.quote, parts))


def _page(arguments: argparse.Namespace) -> int:
    from ebmbench.report.html import write_page

    results = _results(arguments)
    path = arguments.output or _default_output(arguments, results, "report.html", ".html")
    if path.is_dir():
        raise UserError(f"--output: {str(path)!r} is a folder; give a file, such as {str(path / 'report.html')!r}")
    _make_folder(path.parent)
    try:
        write_page(results, path, _how(arguments))
    except OSError as error:
        raise UserError(f"--output: {str(path)!r} cannot be written ({error.strerror})") from None
    print(path)
    return 0


def _figures(arguments: argparse.Namespace) -> int:
    from ebmbench.display import rendering
    from ebmbench.report import plots

    results = _results(arguments)
    folder = arguments.output or _default_output(arguments, results, "figures", "")
    made = plots.all_figures(results)
    if not made:
        print(f"ebmbench: {results.name} has no finished run yet, so there is nothing to draw", file=sys.stderr)
        return 1
    _make_folder(folder)
    for figure in made:
        try:
            paths = rendering.save_figure(figure, folder)
        except OSError as error:
            raise UserError(f"--output: {str(folder)!r} cannot be written ({error.strerror})") from None
        for path in paths:
            print(path)
    return 0


def _wandb(arguments: argparse.Namespace) -> int:
    from ebmbench.report.wandb import publish

    print(publish(_results(arguments), arguments.project, arguments.entity))
    return 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output: {str(folder)!r} cannot be made ({error.strerror}); give a folder that can be"
        ) from None
