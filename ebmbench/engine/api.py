"""What a Python program calls: `ebmbench.run` and `ebmbench.load`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmbench.config import compose
from ebmbench.config.run import RunConfig
from ebmbench.engine import runs
from ebmbench.engine.execute import execute
from ebmbench.system import checkpoint

if TYPE_CHECKING:
    from torch import Tensor


def run(*overrides: str, **settings: Any) -> Path:
    """Trains and scores a run, or finds its result; returns its directory.

    Args:
        overrides: settings as on the command line: `run("task=1d", "method=nce+", "seeds=2")`.
        settings: the same by keyword, where the key is a Python name: `run(task="1d", method="nce+", seeds=2)`.

    Raises:
        UserError: a setting is wrong, or the run cannot be carried out.
    """
    words = [*overrides, *(f"{key}={value}" for key, value in settings.items())]
    return execute(compose.compose(words), quiet=True).run_dir


def load(run_dir: str | Path) -> Mapping[int, Any]:
    """Returns the trained models of a finished run by seed; what a model can do is its task's (see docs/).

    Each model has `seed`, and `diverged_step`: the step at which its training diverged, None if it did not. The weights
    of a model that diverged are those it had before, and no result.

    Raises:
        runs.Damaged: a file of the run is missing, or not what the run wrote.
        UserError: the directory holds no finished run, or the task offers no prediction.
    """
    folder = Path(run_dir)
    runs.need_whole(folder)
    config = read_config(folder)
    status = runs.read_status(folder)
    diverged = status.diverged if status else {}
    models = {}
    for seed, parameters in read_parameters(folder).items():
        models[seed] = config.task.predictor(config.setup, parameters, seed, folder)
        models[seed].diverged_step = diverged.get(str(seed))
    return models


def read_config(run_dir: Path) -> RunConfig:
    """Returns the settings of a finished run.

    Raises:
        UserError: the directory holds no finished run, or its settings cannot be read.
    """
    return RunConfig.from_yaml(runs.read_output(run_dir, "config.yaml").decode(errors="replace"), run_dir)


def read_parameters(run_dir: Path) -> dict[int, dict[str, Tensor]]:
    """Returns the trained parameters of a finished run by seed and name.

    Raises:
        runs.Damaged: `checkpoint.pt` is missing, not what the run wrote, or another run's.
        UserError: the run is not finished, or the file cannot be read.
    """
    path = run_dir / "checkpoint.pt"
    state = checkpoint.decode(path, runs.read_output(run_dir, path.name))
    status = runs.read_status(run_dir)
    if status is not None and state.get("run_hash") != status.run_hash:
        raise runs.Damaged(f"{path} is of another run ({state.get('run_hash')}, and this is {status.run_hash})")
    parameters: dict[int, dict[str, Tensor]] = state["parameters"]
    return parameters
