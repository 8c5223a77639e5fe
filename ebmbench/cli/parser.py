"""The one parser of the command line, made from the table of commands.

Settings and folders are `key=value` for every command; what is no setting of a run is an `--option`.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ebmbench.cli.commands import COMMANDS, GROUPS, RUN, Command, Option, find, first_words, second_words
from ebmbench.cli.help import main_help
from ebmbench.core.errors import UserError, did_you_mean, shown


@dataclass(frozen=True)
class Arguments:
    """A command line, taken apart.

    Attributes:
        names: the words that are no settings: names of sweeps, files, directories.
        settings: the `key=value` words.
        options: the values of the options by name, without the dashes.
    """

    command: Command
    names: list[str]
    settings: list[str]
    options: dict[str, Any]

    def results_dir(self, settings: list[str] | None = None) -> Path:
        """Returns the folder of `results_dir=DIR`, `results` if it is not given.

        Args:
            settings: what is left of the settings for it; all if not given.

        Raises:
            UserError: it is empty, or another setting is given, which this command does not take.
        """
        given = self.settings if settings is None else settings
        others = [text for text in given if not text.startswith("results_dir=")]
        if others:
            text = f"takes results_dir=DIR and no other setting, and got {others[0]}"
            raise UserError(f"{self.command.name} {text}")
        value = given[-1].partition("=")[2].strip("'\"") if given else "results"
        if not value:
            raise UserError("results_dir='' is not allowed: give a folder")
        return Path(value).expanduser()

    def number(self, option: str, least: int = 1) -> int | None:
        """Returns the number of an option, None if it is not given.

        Raises:
            UserError: it is no whole number, or below `least`.
        """
        text = self.options.get(option.replace("-", "_"))
        if text is None:
            return None
        if not text.isdecimal() or int(text) < least:
            raise UserError(f"--{option}={text} is not allowed: give a number from {least}")
        return int(text)


def parse(words: list[str]) -> Arguments:
    """Takes a command line apart.

    Raises:
        UserError: an unknown command or option.
        SystemExit: it asked for help, which is printed.
    """
    found = find(words)
    if found is None:
        group, known = words[0], second_words(words[0])
        if not {"-h", "--help"} & set(words):
            what = f"{words[1]} is not a command" if len(words) > 1 else "needs a command"
            raise UserError(f"{group} {what}{did_you_mean(' '.join(words[1:2]), known)}")
        parser().parse_args([group, "--help"])
        raise AssertionError("argparse ends at --help")
    command, rest = found
    parsed, more = parser().parse_known_args([*(command.path or (RUN_WORD,)), *rest])
    values = vars(parsed)
    rest = [*values.pop("words"), *more]
    for word in rest:
        if word.startswith("-"):
            options = ", ".join(option.name for option in command.all_options)
            called = command.name or "a run"
            raise UserError(f"{word.partition('=')[0]} is not an option of {called}; there are: {options}")
    settings = [word for word in rest if is_setting(word)]
    others = [word for word in rest if not is_setting(word)]
    if command is RUN and others:
        close = did_you_mean(others[0], first_words())
        raise UserError(f"{shown(others[0])} is neither a command nor a setting, key=value{close}")
    return Arguments(command, others, settings, values)


def is_setting(word: str) -> bool:
    """Returns whether a word sets something (`key=value`, `+key=value`) or takes it away (`~key`)."""
    return "=" in word or word.startswith("~")


PROGRAM = "ebmbench"
RUN_WORD = ""
"""The command of a run in the parser: users write none."""


class _Parser(argparse.ArgumentParser):
    """Wrong usage is a UserError like any other: one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(re.sub(r"^argument (?:-\w/)?([^:]+): ", r"\1: ", message))

    def format_help(self) -> str:
        """Returns the help; that of a run is the help of the whole program."""
        return main_help() if self.prog == PROGRAM else super().format_help()


def parser() -> argparse.ArgumentParser:
    """Returns the parser. A run is its command without a name."""
    root = _Parser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    first = root.add_subparsers(required=True, parser_class=_Parser, metavar="COMMAND")
    groups = {}
    for name, text in GROUPS.items():
        group = first.add_parser(name, description=_sentence(text), prog=f"{PROGRAM} {name}")
        groups[name] = group.add_subparsers(required=True, parser_class=_Parser, metavar="COMMAND", title="commands")
    for command in COMMANDS:
        place = groups[command.path[0]] if len(command.path) > 1 else first
        made = place.add_parser(
            command.path[-1] if command.path else RUN_WORD,
            help=command.help,
            prog=f"{PROGRAM} {command.name}".rstrip(),
            usage=f"{PROGRAM} {command.name} [options] {command.takes}",
            description=_sentence(command.help),
            epilog=command.detail,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.add_argument("words", nargs="*", help=argparse.SUPPRESS)
        for option in command.all_options:
            _add(made, option)
    return root


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _add(to: argparse.ArgumentParser, option: Option) -> None:
    flags = [flag for flag in (option.short, option.name) if flag]
    if not option.metavar:
        to.add_argument(*flags, action="store_true", help=option.help, dest=option.key)
        return
    action = "append" if option.is_repeatable else "store"
    choices = option.choices or None
    to.add_argument(*flags, action=action, metavar=option.metavar, choices=choices, help=option.help, dest=option.key)
