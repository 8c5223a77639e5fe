"""The help of the whole program, and its version."""

from __future__ import annotations

import importlib.metadata

from ebmbench.cli import names
from ebmbench.cli.commands import COMMANDS, GROUPS, RUN, Option, second_words

TEXT = """\
ebmbench: how should one train an energy-based model for regression?

  ebmbench task=TASK method=METHOD [key=value ...]     train and score a run; results go to results/runs/
  ebmbench -m method=nce,nce+ data=law1,law2         a multirun: a run for every combination
{commands}

Every command has its own --help. `python -m ebmbench` is the same as `ebmbench`.

options
{options}

tasks    {tasks}
methods  {methods}
presets  {experiments}
sweeps   {sweeps}

settings (--cfg job shows all of them, `describe` explains them; the published values apply where nothing is given)
  seeds=20 | 'seeds=[3,7]'     data=law1|law2     device=auto|cpu|cuda|cuda:1     force=true     results_dir=DIR
  trainer.epochs  trainer.batch_size  trainer.learning_rate  method.num_samples  method.beta  method.sigma
  proposal=NAME   proposal.stds       data=NAME     data.root=DIR     network=NAME     model=ngboost
  plugins=[my_method.py]

examples
  python -m ebmbench task=1d method=nce+
  python -m ebmbench task=1d data=law2 method=dsm seeds=20 method.sigma=0.1
  python -m ebmbench -m 'method=glob(*)' data=law1,law2 seeds=20 +experiment=smoke
"""


def main_help() -> str:
    """Returns the help of the whole program, with the tasks, methods, presets and sweeps that are there."""
    known = names.Names()
    return TEXT.format(
        commands="\n".join(_line(f"ebmbench {name}", text, 53) for name, text in _commands()),
        options="\n".join(_line(_flags(option), option.help, 24) for option in RUN.all_options),
        tasks=" ".join(known.options("task")),
        methods=" ".join(known.options("method")),
        experiments="+experiment=" + "|".join(known.options("experiment")),
        sweeps=" ".join(known.options("sweeps")) or "none",
    )


def _commands() -> list[tuple[str, str]]:
    """Returns each command with what it does; commands that belong together are one."""
    found = [(f"{name} {'|'.join(second_words(name))}", text) for name, text in GROUPS.items()]
    return found + [(command.name, command.help) for command in COMMANDS if len(command.path) == 1]


def _line(name: str, text: str, width: int) -> str:
    """Returns a name and what it does; on a line of its own where the name is as wide as its column."""
    return f"  {name:<{width}}{text}" if len(name) < width else f"  {name}\n  {'':<{width}}{text}"


def _flags(option: Option) -> str:
    return f"{f'{option.short}, ' if option.short else ''}{option.name} {option.metavar}".rstrip()


def version() -> str:
    """Returns the version of ebmbench that is installed."""
    try:
        return importlib.metadata.version("ebmbench")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown (not installed)"
