"""What a Python program calls: `ebmbench.run` and `ebmbench.load`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ebmbench.config import compose
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.engine.execute import execute


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
        UserError: the directory holds no finished run, or the task offers no prediction.
    """
    folder = Path(run_dir)
    try:
        config = RunConfig.from_yaml((folder / "config.yaml").read_text())
        saved = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    except OSError:
        raise UserError(f"{folder} holds no finished run: config.yaml and checkpoint.pt are expected there") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{folder}/checkpoint.pt is damaged, or no checkpoint ({type(error).__name__})") from None
    status = runs.read_status(folder)
    diverged = status.diverged if status else {}
    models = {}
    for seed, parameters in saved["parameters"].items():
        models[seed] = config.task.predictor(config.setup, parameters, seed, folder)
        models[seed].diverged_step = diverged.get(str(seed))
    return models
