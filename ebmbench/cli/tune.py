"""`ebmbench tune`: the same trials for each method. It is a sweep, `tune-<name>`, whose settings are searched."""

from __future__ import annotations

from pathlib import Path

from ebmbench.cli import launcher
from ebmbench.cli.parser import Arguments
from ebmbench.cli.report import say_lacking
from ebmbench.cli.sweep import DEFAULT_LAUNCHER
from ebmbench.config import compose as composition
from ebmbench.config.run import SweepConfig, TuneConfig
from ebmbench.core.errors import UserError, counted
from ebmbench.engine.runs import FINISHED, commit
from ebmbench.report.planned import read_plan, sweep_dir
from ebmbench.sweep import best, collect, status
from ebmbench.sweep.plan import plan_of
from ebmbench.sweep.submit import submit

TABLES = ("scores", "search")
FIGURES = ("search",)


def main(arguments: Arguments) -> int:
    """Searches settings; returns the exit code: 0 all trials are done, 1 some failed or are not done yet."""
    if arguments.names:
        raise UserError(f"tune takes task=TASK method=A,B, and got {arguments.names[0]}")
    own, where = launcher.split(arguments.settings)
    preset = where.preset(DEFAULT_LAUNCHER)
    if not any(word.startswith("method=") for word in own):
        raise UserError("tune needs method=A,B: the methods that are tuned")
    lines = composition.expand(own)
    configs = composition.compose_all(lines, own)
    tune = TuneConfig(
        trials=arguments.number("trials") or 8,
        repeats=arguments.number("repeats") or 5,
        seed=arguments.number("seed", least=0) or 0,
    )
    name = f"tune-{arguments.options['name'] or configs[0].label}"
    description = (
        f"{counted(tune.trials, 'trial')} of each method, the same for all, in "
        f"{counted(tune.repeats, 'search', 'searches')} of seed {tune.seed}."
    )
    about = SweepConfig(name=name, description=description, tables=TABLES, figures=FIGURES, tune=tune)
    plan = plan_of(about, lines, configs, own, commit())
    results_dir = Path(configs[0].launch.results_dir).expanduser().absolute()
    _refuse_another(name, results_dir, own, tune)
    dry_run = arguments.options["dry_run"]
    code = submit(plan, results_dir, preset, arguments.number("jobs"), dry_run, is_new=True)
    if dry_run or code not in (0, 1):
        return code
    plan = read_plan(results_dir, name)
    results = collect.collect(plan, results_dir)
    paths = [
        *collect.write(plan, results, results_dir),
        *(collect.write_figures(plan, results, results_dir) if len(results.done) else []),
    ]
    lacking = say_lacking(results, [state for state in status.STATES if state not in FINISHED])
    if len(results.done):
        told = f"The best of {description} Set for all: {' '.join(own)}"
        paths += best.write(best.best(results), results_dir / name, told)
        print(f"use the best settings with --config-dir {results_dir / name}")
    print("\n".join(map(str, paths)))
    return lacking or int(any(run.state not in FINISHED for run in results.runs))


def _refuse_another(name: str, results_dir: Path, own: list[str], tune: TuneConfig) -> None:
    """Keeps a search apart from another one of the same name; more trials or repeats are the same search."""
    if not (sweep_dir(results_dir, name) / "plan.json").exists():
        return
    old = read_plan(results_dir, name)
    seed = old.jobs[0].config["sweep"]["tune"]["seed"]
    if (list(old.overrides), seed) != (own, tune.seed):
        raise UserError(f"--name: {name} is a search of {' '.join(old.overrides)}, seed {seed}; give another name")
