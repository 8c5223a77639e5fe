"""`ebmbench tune`: the same number of trials for each method."""

from __future__ import annotations

from pathlib import Path

from ebmbench.cli import launcher
from ebmbench.cli.parser import Arguments
from ebmbench.cli.sweep import DEFAULT_LAUNCHER
from ebmbench.config import compose as composition
from ebmbench.core.errors import UserError, counted
from ebmbench.sweep import tune


def main(arguments: Arguments) -> int:
    """Searches settings; returns the exit code: 0 all trials are done, 1 some failed or are not done yet."""
    if arguments.names:
        raise UserError(f"tune takes task=TASK method=A,B, and got {arguments.names[0]}")
    own, where = launcher.split(arguments.settings)
    preset = where.preset(DEFAULT_LAUNCHER)
    named = [word.removeprefix("method=") for word in own if word.startswith("method=")]
    if not named:
        raise UserError("tune needs method=A,B: the methods that are tuned")
    methods = tuple(dict.fromkeys(named[-1].split(",")))
    settings = tuple(composition.for_task([word for word in own if not word.startswith("method=")]))
    seed = arguments.number("seed", least=0) or 0
    config = composition.compose([*settings, f"method={methods[0]}"])
    name = arguments.options["name"] or config.label
    search = tune.Search(
        name=name,
        settings=settings,
        methods=methods,
        trials=arguments.number("trials") or 20,
        sampler=arguments.options["sampler"] or "random",
        seed=seed,
    )
    results_dir = Path(config.launch.results_dir).expanduser().absolute()
    dry_run = arguments.options["dry_run"]
    rows = tune.run(search, results_dir, preset, arguments.number("jobs"), dry_run)
    if dry_run:
        return 0
    for method, part in rows.groupby("method", sort=False):
        states = ", ".join(f"{count} {state}" for state, count in part["state"].value_counts().items())
        print(f"{method}: {states} of {counted(search.trials, 'trial')}")
    folder = results_dir / "tune" / name
    print(f"{folder / 'trials.csv'}\nuse the best settings with --config-dir {folder}")
    return 0 if len(rows) == search.trials * len(methods) and set(rows["state"]) <= {"done", "diverged"} else 1
