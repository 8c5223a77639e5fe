"""`ebmbench compare`: which model to take for a table. It is the sweep `compare`, and one sentence."""

from __future__ import annotations

import re
from pathlib import Path

from ebmbench.cli import launcher
from ebmbench.cli.parser import Arguments
from ebmbench.cli.report import say_lacking
from ebmbench.cli.sweep import DEFAULT_LAUNCHER
from ebmbench.core.errors import UserError
from ebmbench.display.table import markdown_rows
from ebmbench.engine.runs import FINISHED, commit
from ebmbench.methods.base import default_method
from ebmbench.report.choice import choose
from ebmbench.report.html import render
from ebmbench.report.planned import read_plan
from ebmbench.report.tables import parse_entry
from ebmbench.sweep import collect
from ebmbench.sweep.plan import make_plan
from ebmbench.sweep.submit import submit
from ebmbench.system.files import write_atomically


def main(arguments: Arguments) -> int:
    """Trains and compares the models; returns the exit code: 0 all are done, 1 some failed or are not done yet."""
    options = arguments.options
    if len(arguments.names) != 1:
        raise UserError("compare takes one table: ebmbench compare mine.csv --target y, or the name of a dataset")
    own, where = launcher.split(arguments.settings)
    preset = where.preset(DEFAULT_LAUNCHER)
    name, words = _data(arguments.names[0], options["target"] or [])
    splits = arguments.number("splits", least=2)
    words += [f"data.split=range({splits})"] if splits else []
    words += [f"hydra.sweeper.params.method={default_method(len(options['target']))}"] if options["target"] else []
    overrides = [*words, *own, f"sweep.name=compare-{options['name'] or name}"]
    plan = make_plan("compare", overrides, commit())
    results_dir = arguments.results_dir([word for word in own if word.startswith("results_dir=")]).absolute()
    code = submit(plan, results_dir, preset, arguments.number("jobs"), options["dry_run"], is_new=True)
    if options["dry_run"] or code not in (0, 1):
        return code
    plan = read_plan(results_dir, plan.name)
    results = collect.collect(plan, results_dir)
    if not len(results.done):
        return say_lacking(results, ("failed", "damaged", "missing")) or 1
    collect.write(plan, results, results_dir)
    page = results_dir / plan.name / "report.html"
    write_atomically(page, render(results, f"python -m ebmbench report page {plan.name}").encode())
    [task] = set(results.tasks.values())
    asked = [metric for entry in plan.tables for metric in parse_entry(entry)[1].get("metrics", ())]
    metrics = [known for name in asked if name in results.done and (known := task.metric(name))]
    energy = results.done.loc[results.done["run_id"].isin([job.run_id for job in plan.jobs[:1]]), "method"]
    choice = choose(results, metrics, str(energy.iloc[0]) if len(energy) else "the energy")
    print("\n".join([*markdown_rows(choice.table), "", choice.sentence, ""]))
    print(f"its run on the first split: {results.folders[choice.run_id]}")
    print(f"predict with it: python -m ebmbench predict {results.folders[choice.run_id]} NEW.csv --out predicted.csv")
    print(f"page: {page}")
    return say_lacking(results, ("failed", "damaged")) or int(any(run.state not in FINISHED for run in results.runs))


def _data(given: str, targets: list[str]) -> tuple[str, list[str]]:
    """Returns what the comparison is called, and the settings of the data: of a file, or of a dataset by its name."""
    path = Path(given).expanduser()
    if not path.is_file():
        if "/" in given or path.suffix:
            raise UserError(f"{given!r} is not a file; give a CSV or Parquet file, or the name of a dataset")
        if targets:
            raise UserError(f"--target goes with a file, and data={given} has targets of its own")
        return given, [f"data={given}"]
    name = re.sub(r"[^\w.-]+", "-", path.stem)[:50] or "table"
    listed = ",".join(_quoted(target) for target in targets)
    return name, [f"data.path={_quoted(str(path.absolute()))}", f"data.name={name}", f"data.targets=[{listed}]"]


def _quoted(text: str) -> str:
    """Returns a text as a setting takes it, with any signs in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
