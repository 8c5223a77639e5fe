"""`ebmbench report`: the page, the figures, the W&B report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ebmbench.cli.parser import Arguments
from ebmbench.core.errors import UserError, printable
from ebmbench.core.extras import need
from ebmbench.report import frame
from ebmbench.report.frame import Results
from ebmbench.sweep.status import job_states
from ebmbench.system.files import write_atomically

SHOWN = 40
"""Lines for runs that are in no table; of more, the number is said."""


def page(arguments: Arguments) -> int:
    """Writes one HTML page; returns the exit code: 1 if a run is damaged."""
    from ebmbench.report.html import render

    results = _results(arguments)
    path = _out(arguments) or _default_out(arguments, results, "report.html", ".html")
    if path.is_dir():
        raise UserError(f"--out: {str(path)!r} is a folder; give a file, such as {str(path / 'report.html')!r}")
    _make_folder(path.parent)
    try:
        write_atomically(path, render(results, _how(arguments)).encode())
    except OSError as error:
        raise UserError(f"--out: {str(path)!r} cannot be written ({error.strerror})") from None
    print(path)
    return say_lacking(results, ("damaged",))


def figures(arguments: Arguments) -> int:
    """Draws the figures; returns the exit code: 1 if no run is finished, or one is damaged."""
    from ebmbench.display import rendering
    from ebmbench.report import plots

    results = _results(arguments)
    folder = _out(arguments) or _default_out(arguments, results, "figures", "")
    made = plots.all_figures(results)
    if not made:
        print(f"ebmbench: {results.name} has no finished run yet, so there is nothing to draw", file=sys.stderr)
        return 1
    _make_folder(folder)
    for figure in made:
        try:
            paths = rendering.save_figure(figure, folder)
        except OSError as error:
            raise UserError(f"--out: {str(folder)!r} cannot be written ({error.strerror})") from None
        for path in paths:
            print(path)
    return say_lacking(results, ("damaged",))


def wandb(arguments: Arguments) -> int:
    """Publishes a report on Weights & Biases, and prints its address."""
    need("wandb_workspaces", "wandb")
    from ebmbench.report.wandb import publish

    options = arguments.options
    print(publish(_results(arguments), options["project"] or "ebmbench", options["entity"]))
    return 0


def say_lacking(results: Results, states: Sequence[str]) -> int:
    """Names the runs of some states, which are in no table; returns the exit code: 1 if a run is damaged."""
    lacking = [run for run in results.runs if run.state in states]
    for run in lacking[:SHOWN]:
        print(printable(f"not in the tables: {run.state:12}{run.job.run_id}  {run.detail}".rstrip()), file=sys.stderr)
    if len(lacking) > SHOWN:
        print(f"not in the tables: {len(lacking) - SHOWN} more", file=sys.stderr)
    if not any(run.state == "damaged" for run in lacking):
        return 0
    again = f", and sweep resume {results.sweep} computes them again" if results.sweep else ""
    print(f"python -m ebmbench audit files --repair clears what is damaged{again}", file=sys.stderr)
    return 1


def _results(arguments: Arguments) -> Results:
    if not arguments.names:
        raise UserError(f"{arguments.command.name} needs a sweep or run directories: {arguments.command.takes}")
    return frame.find(arguments.names, arguments.results_dir(), job_states)


def _out(arguments: Arguments) -> Path | None:
    return Path(arguments.options["out"]) if arguments.options["out"] else None


def _default_out(arguments: Arguments, results: Results, sweep_file: str, ending: str) -> Path:
    """Beside the tables of a sweep; else under report/."""
    if results.sweep:
        return arguments.results_dir() / results.sweep / sweep_file
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in results.name)
    return arguments.results_dir() / "report" / f"{safe}{ending}"


def _how(arguments: Arguments) -> str:
    """Returns the command that made the page, for the page itself."""
    words = [*arguments.names, *arguments.settings]
    return "python -m ebmbench report " + " ".join(map(shlex.quote, words))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out: {str(folder)!r} cannot be made ({error.strerror}); give a folder that can be"
        ) from None
