"""Commands that hand over to another part: check, predict, audit, rescore."""

from __future__ import annotations

import math
from pathlib import Path

from ebmbench.cli.parser import Arguments
from ebmbench.core.errors import UserError


def check(arguments: Arguments) -> int:
    """Puts a plug-in through the contract; returns the exit code: 1 if something of it fails."""
    if len(arguments.names) != 1 or arguments.settings:
        raise UserError("check takes one FILE: a Python file, or a module, that registers components")
    from ebmbench.check.components import main

    return main(arguments.names[0])


def audit_files(arguments: Arguments) -> int:
    """Checks every file of a results folder; returns the exit code: 1 if one is damaged."""
    if arguments.names:
        raise UserError(f"audit files takes results_dir=DIR, and got {arguments.names[0]}")
    from ebmbench.audit.files import main

    return main(arguments.results_dir(), arguments.options["repair"])


def audit_tables(arguments: Arguments) -> int:
    """Makes the tables of a collected sweep again; returns the exit code: 1 if one differs."""
    from ebmbench.audit.tables import main
    from ebmbench.cli.sweep import place

    results_dir, name = place(arguments, arguments.settings)
    return main(name, results_dir)


def audit_training(arguments: Arguments) -> int:
    """Trains random seeds of finished runs again; returns the exit code: 1 if one differs."""
    if len(arguments.names) != 1:
        raise UserError("audit training takes one RUN_DIRECTORY or SWEEP")
    from ebmbench.audit.training import main

    seed = arguments.number("seed", least=0) or 0
    given = [text for text in arguments.settings if text.startswith("results_dir=")]
    others = [text for text in arguments.settings if text not in given]
    results_dir = arguments.results_dir(given)
    return main(arguments.names[0], results_dir, arguments.number("runs") or 3, seed, others)


def rescore(arguments: Arguments) -> int:
    """Scores finished runs again; returns the exit code: 1 if one could not be."""
    if len(arguments.names) != 1:
        raise UserError("rescore takes one RUN_DIRECTORY or SWEEP")
    from ebmbench.engine.rescore import rescore
    from ebmbench.report.frame import find

    results_dir = arguments.results_dir()
    found = find(arguments.names, results_dir)
    folders = {run.folder.resolve(): None for run in found.runs if run.status and run.status.state == "done"}
    if not folders:
        raise UserError(f"{arguments.names[0]!r} has no finished run in {str(results_dir / 'runs')!r}")
    failed = 0
    for number, folder in enumerate(folders, 1):
        try:
            done = "scored again" if rescore(folder) else "scored by this commit already"
        except UserError as error:
            failed += 1
            done = f"left as it is: {error}"
        print(f"{number}/{len(folders)} {folder.name}: {done}", flush=True)
    return 1 if failed else 0


def predict(arguments: Arguments) -> int:
    """Writes the predictions of a trained run for files of inputs."""
    if arguments.settings or len(arguments.names) < 2 or not arguments.options["out"]:
        raise UserError("predict takes RUN_DIRECTORY FILE... --out FILE")
    level, box = _level(arguments.options["level"]), _box(arguments.options["box"])
    folder, *files = map(Path, arguments.names)
    missing = next((path for path in files if not path.exists()), None)
    if missing is not None:
        raise UserError(f"{str(missing)!r} is not there; give files of inputs")
    another = next((path for path in files if (path / "config.yaml").is_file()), None)
    if another is not None:
        raise UserError(f"predict takes one run, and {str(another)!r} is the folder of another")
    out = Path(arguments.options["out"])
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UserError(f"--out: {str(out)!r} cannot be written; give a file in a folder that is there")
    if any(out.exists() and out.samefile(path) for path in files):
        raise UserError(f"--out: {str(out)!r} is a file of inputs; give another")
    from ebmbench.engine import api, runs

    if runs.read_state(folder) not in runs.FINISHED:
        raise UserError(f"{str(folder)!r} holds no finished run; give a directory of <results_dir>/runs/")
    models = {seed: model for seed, model in api.load(folder).items() if model.diverged_step is None}
    if not models:
        raise UserError("every seed of the run diverged: there is nothing to predict with")
    task = api.read_config(folder).task
    if arguments.options["no_intervals"]:
        if not task.can_skip_intervals:
            raise UserError("--no-intervals is for runs that find objects in images; leave it out")
        level = 0.0
    if box is not None and not task.takes_box:
        raise UserError("--box is for runs that track a target in a video; leave it out")
    task.predict_files(models, files, out, level, **({"box": box} if task.takes_box else {}))
    print(out)
    return 0


def _level(text: str | None) -> float:
    try:
        level = 0.9 if text is None else float(text)
    except ValueError:
        level = 0.0
    if not 0 < level < 1:
        raise UserError(f"--level={text} is not allowed: give a probability between 0 and 1, such as 0.9")
    return level


def _box(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        box = tuple(float(word) for word in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
        raise UserError(f"--box={text} is not allowed: give x,y,w,h in pixels with a positive width and height")
    return box
