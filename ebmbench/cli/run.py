"""A run or a multirun on the command line, or their settings."""

from __future__ import annotations

import contextlib
import io

from omegaconf import DictConfig

from ebmbench.cli import launcher
from ebmbench.cli.entry import with_hydra
from ebmbench.cli.parser import Arguments
from ebmbench.cli.single import run_one
from ebmbench.config import compose as composition
from ebmbench.core.errors import UserError
from ebmbench.core.lazy import later


def run(arguments: Arguments) -> int:
    """Carries out a run or a multirun, or prints its settings; returns the exit code."""
    options, words = arguments.options, arguments.settings
    if options["multirun"] and (options["cfg"] or options["info"]):
        raise UserError("--cfg and --info show a single run: leave -m out, and give each setting one value")
    if options["cfg"] or options["info"]:
        return _show(arguments)
    if options["package"]:
        raise UserError("--package goes with --cfg: --cfg job --package method")
    if options["multirun"]:
        return int(later("ebmbench.cli.multirun:multirun")(words))  # statistics take a second to load
    own, _ = launcher.split(words, "a single run")
    return run_one(composition.compose(own), options["all"])


def _show(arguments: Arguments) -> int:
    """Prints settings, as Hydra composes them, and trains nothing."""
    options = arguments.options
    flags = [word for name in ("cfg", "package", "info") if options[name] for word in (f"--{name}", options[name])]
    if options["cfg"]:
        flags.append("--resolve")
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage), composition.explained():
            with_hydra(_nothing, flags, composition.completed(arguments.settings))
    except UserError:
        composition.compose(arguments.settings)  # says what is wrong in better words than Hydra's, if it is that
        raise
    except SystemExit as exit:  # its argument parser's
        if exit.code:
            raise UserError(usage.getvalue().strip().rpartition("error: ")[2]) from None
    return 0


def _nothing(cfg: DictConfig) -> None:
    """What Hydra calls after it printed the settings."""
