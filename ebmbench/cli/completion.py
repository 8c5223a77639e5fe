"""Tab completion for bash and zsh: the shell asks `ebmbench _complete LINE`, which answers without PyTorch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ebmbench.cli.commands import GROUPS, RUN, find, first_words, second_words
from ebmbench.cli.names import PRESETS, Names
from ebmbench.cli.parser import Arguments, is_setting
from ebmbench.config.folders import known_suites, known_sweeps, use_config_dir
from ebmbench.core.errors import UserError

# An answer that ends in a space is a whole word; any other can go on, such as `method=`. bash replaces only what
# follows the last `=` of the word, because `=` separates words for it.
BASH = """\
# Tab completion of ebmbench for bash: source <(ebmbench completion bash)
_ebmbench() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n'
    local word="${line##* }" answer
    COMPREPLY=()
    while read -r answer; do
        [[ "$word" == *=* ]] && answer="${answer#"${word%"${word##*=}"}"}"
        COMPREPLY+=("$answer")
    done < <("$1" _complete "$line" 2>/dev/null)
}
complete -o default -o nospace -F _ebmbench ebmbench
"""
ZSH = """\
# Tab completion of ebmbench for zsh: source <(ebmbench completion zsh)
_ebmbench() {
    local answer
    local -a whole begun
    for answer in "${(@f)$("$words[1]" _complete "$LBUFFER" 2>/dev/null)}"; do
        [[ -z "$answer" ]] && continue
        if [[ "$answer" == *' ' ]]; then whole+=("${answer% }"); else begun+=("$answer"); fi
    done
    (( $#whole + $#begun )) || { _files; return }
    (( $#whole )) && compadd -Q -a whole
    (( $#begun )) && compadd -Q -S '' -a begun
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _ebmbench ebmbench
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}


def script(arguments: Arguments) -> int:
    """Prints the script of a shell."""
    name = " ".join(arguments.names)
    if name not in SCRIPTS:
        raise UserError(f"completion takes {' or '.join(SCRIPTS)}, and got {name or 'none'}")
    print(SCRIPTS[name], end="")
    return 0


def complete(line: str) -> list[str]:
    """Returns what the last word of a command line may become; a whole word ends in a space.

    Args:
        line: up to the cursor, with the program's name.
    """
    words = _split(line)
    current = "" if not line or line[-1].isspace() else (words or [""])[-1]
    before = words[1 : len(words) - (1 if current else 0)]
    answers = _answers(before, current)
    return [answer for answer in dict.fromkeys(answers) if answer.startswith(current) and answer.strip() != current]


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is not closed yet
        return line.split()


def _answers(before: Sequence[str], current: str) -> list[str]:
    if before and before[0] in GROUPS and len(before) == 1 and not current.startswith("-"):
        found = [f"{word} " for word in second_words(before[0])]
        return found + (_sweeps() if before[0] == "report" else [])
    command, rest = find(list(before)) or (RUN, list(before))
    flags = {flag: option for option in command.all_options for flag in (option.name, option.short) if flag}
    valued = {flag: option for flag, option in flags.items() if option.metavar}
    if rest and rest[-1] in valued:
        return [f"{choice} " for choice in valued[rest[-1]].choices]
    if current.startswith("-"):
        return [f"{flag} " for flag in (*flags, "--help")]
    names = _names(before)
    if command is RUN:
        first = [] if before else [f"{word} " for word in first_words()]
        return first + _settings(names, rest, current)
    words = [word for previous, word in zip(["", *rest], rest, strict=False) if previous not in valued]
    given = [word for word in words if not word.startswith("-") and not is_setting(word)]
    if command.completes == "sweeps":
        if given and command.name == "sweep submit":
            return _settings(names, [*rest, f"+sweeps={given[0]}"], current)
        folder = [] if "." in current or "/" in current else ["results_dir="]
        launcher = _settings(names, rest, current) if command.name == "sweep resume" and current.startswith("h") else []
        return [*([] if given and command.path[0] == "sweep" else _sweeps()), *folder, *launcher]
    if command.completes == "suites":
        return [] if given else [f"{name} " for name in known_suites()]
    if command.completes == "groups":
        return _groups(names, given)
    if command.completes == "files":
        return []
    if command.completes == "folders":
        return ["results_dir="]
    return [] if given else [f"{word} " for word in command.completes.split()]


def _names(words: Sequence[str]) -> Names:
    for option, value in pairwise(words):
        if option == "--config-dir" and Path(value).expanduser().is_dir():
            use_config_dir(Path(value).expanduser())
    listed = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("plugins=")]
    files = [Path(text).expanduser() for text in re.split(r"[\[\],'\"\s]+", " ".join(listed)) if text.endswith(".py")]
    return Names(files)


def _sweeps() -> list[str]:
    submitted = {path.parent.name for path in Path("results/sweeps").glob("*/plan.json")}
    return [f"{name} " for name in sorted({*known_sweeps(), *submitted})]


def _groups(names: Names, given: Sequence[str]) -> list[str]:
    groups = [*names.components, "experiment", "sweeps", "hydra/launcher", "launch", "logger"]
    if not given:
        return [f"{group} " for group in groups]
    group = given[0]
    return [f"{name} " for name in names.options(group)] if len(given) == 1 and group in groups[:-2] else []


def _settings(names: Names, given: Sequence[str], current: str) -> list[str]:
    """Returns the settings and their values: groups first, a group's own settings when its name and a dot are there."""
    key, equals, value = current.partition("=")
    if equals:
        start = current[: len(current) - len(value.rpartition(",")[2])]
        return [f"{start}{text} " for text in _values(names, given, key)]
    found = [f"{group}=" for group in names.groups()]
    for setting in names.settings(_chosen(given)):
        head, dot, _ = setting.partition(".")
        found.append(f"{setting}=" if not dot or current.startswith(f"{head}.") else f"{head}.")
    return found


def _values(names: Names, given: Sequence[str], key: str) -> Sequence[str]:
    """Returns the options of a group, or the values of a setting that has a short list of them."""
    group = next((full for full, written in PRESETS.items() if written == key), key)
    if group in (*names.components, *PRESETS, "logger", "trainer", "hydra/launcher"):
        return names.options(group)
    known = names.settings(_chosen(given))
    return known.get(key, ())


def _chosen(given: Sequence[str]) -> dict[str, str]:
    """Returns the options that the words choose, by group."""
    return dict(word.lstrip("+").partition("=")[::2] for word in given if is_setting(word))
