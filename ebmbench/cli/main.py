"""The entry of the command line: it finds the command, runs it, and turns what goes wrong into an exit code.

Exit codes: 0 done; 1 a run or a check failed; 2 bad input; 128 + n stopped by signal n (130 for Ctrl-C).
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import cast

from ebmbench.cli.commands import RUN
from ebmbench.cli.help import main_help, version
from ebmbench.cli.parser import Arguments, parse
from ebmbench.cli.warn import quiet_libraries
from ebmbench.core import trust
from ebmbench.core.errors import UserError, printable, shown
from ebmbench.core.lazy import import_when_used
from ebmbench.system.interrupt import on_signals, stopping_signals
from ebmbench.system.threads import sleep_while_waiting


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code."""
    code = _flushed(_main(list(sys.argv[1:] if argv is None else argv)))
    if "torch.distributed" in sys.modules:
        from ebmbench.system.distributed import end_process

        end_process(code)
    return code


def _flushed(code: int) -> int:
    """Writes out what is left to print; returns the exit code, 1 if that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"ebmbench: the output cannot be written ({error.strerror})", file=sys.stderr)
        return code or 1
    return code


def _main(words: list[str]) -> int:
    if sys.platform == "win32":
        print("ebmbench needs flock and POSIX signals, which Windows lacks; use it in WSL", file=sys.stderr)
        return 2
    try:
        os.getcwd()
    except OSError:
        print("ebmbench: the working directory was deleted; change to another one", file=sys.stderr)
        return 2
    try:
        with on_signals(set(stopping_signals()) - {signal.SIGINT}, _stop):
            return dispatch(words)
    except UserError as error:
        print(f"ebmbench: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ebmbench: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `ebmbench ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            print(f"ebmbench: {shown(error.filename)} is too long for the name of a file", file=sys.stderr)
            return 2
        where = f" ({printable(str(error.filename))})" if error.filename else ""
        print(f"ebmbench: {error.strerror or printable(str(error))}{where}", file=sys.stderr)
        return 1


def _stop(signum: int, frame: FrameType | None) -> None:
    """Ends the process with one sentence, where nothing under way has something to save first."""
    print(f"ebmbench: stopped by {signal.Signals(signum).name}", file=sys.stderr, flush=True)
    raise SystemExit(128 + signum)


def dispatch(words: list[str]) -> int:
    """Runs a command line; bad input is raised as UserError."""
    if words[:1] == ["_complete"]:  # the shell's script for tab completion asks
        from ebmbench.cli.completion import complete

        print("\n".join(complete(words[-1])))
        return 0
    try:
        arguments = parse(words)
    except SystemExit:  # argparse printed the help that was asked for
        return 0
    for sha256 in arguments.options.get("trust") or ():
        trust.accept_by_hand(sha256)
        print(f"the plug-in {sha256} is accepted; {trust.path()} lists all that are", file=sys.stderr)
    if arguments.command is RUN:
        if arguments.options["version"]:
            print(f"ebmbench {version()}")
            return 0
        if arguments.options["trust"] and not arguments.settings:
            return 0
        if not arguments.settings and not arguments.options["cfg"]:
            if arguments.options["multirun"]:
                raise UserError("-m needs settings, such as method=nce,nce+")
            if not arguments.options["info"]:
                print(main_help(), end="")
                return 0
    if arguments.options.get("config_dir"):
        from ebmbench.config.folders import use_config_dir

        for folder in arguments.options["config_dir"]:
            use_config_dir(Path(folder).expanduser())
    import_when_used()
    sleep_while_waiting()
    quiet_libraries()
    module, _, function = arguments.command.handler.partition(":")
    handler = cast(Callable[[Arguments], int], getattr(importlib.import_module(module), function))
    return handler(arguments)
