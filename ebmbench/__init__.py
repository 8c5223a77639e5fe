"""ebmbench: how should one train an energy-based model for regression?

`run` trains and scores, `load` gives the trained models of a run, `results` a table of many runs. `EnergyRegressor` has
scikit-learn's interface. For components of one's own: `register`, the base classes `Method`, `Proposal`, `Network`,
`DensityModel`, `Outside`, `Data` and `Task`, and what they are given and return. docs/api.md lists all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmbench.core.energy import Energy
    from ebmbench.core.proposal import Proposal
    from ebmbench.core.registry import register
    from ebmbench.core.rng import Streams
    from ebmbench.core.settings import Choice, Section
    from ebmbench.core.step import Step
    from ebmbench.engine.api import load, run
    from ebmbench.estimator import EnergyRegressor
    from ebmbench.methods.base import Method, energies, log_partition
    from ebmbench.models.base import DensityModel
    from ebmbench.models.networks.base import Network
    from ebmbench.models.outside import Outside
    from ebmbench.models.stack import Place
    from ebmbench.report.frame import results
    from ebmbench.supports.base import Support
    from ebmbench.tasks.base import Learner, Metric, Setup, Task
    from ebmbench.tasks.regression.data.base import Data, Split
    from ebmbench.tasks.regression.data.function import arrays_split
    from ebmbench.tasks.regression.data.notes import DataWarning
    from ebmbench.tasks.regression.density import Density
    from ebmbench.tasks.regression.learner import RegressionLearner

_WHERE = {
    "Choice": "core.settings",
    "Data": "tasks.regression.data.base",
    "Density": "tasks.regression.density",
    "DensityModel": "models.base",
    "Energy": "core.energy",
    "EnergyRegressor": "estimator",
    "Learner": "tasks.base",
    "Method": "methods.base",
    "Metric": "tasks.base",
    "Network": "models.networks.base",
    "Outside": "models.outside",
    "Place": "models.stack",
    "Proposal": "core.proposal",
    "RegressionLearner": "tasks.regression.learner",
    "Section": "core.settings",
    "Setup": "tasks.base",
    "Split": "tasks.regression.data.base",
    "Step": "core.step",
    "Streams": "core.rng",
    "Support": "supports.base",
    "Task": "tasks.base",
    "DataWarning": "tasks.regression.data.notes",
    "arrays_split": "tasks.regression.data.function",
    "energies": "methods.base",
    "load": "engine.api",
    "log_partition": "methods.base",
    "register": "core.registry",
    "results": "report.frame",
    "run": "engine.api",
}

__all__ = [
    "Choice",
    "Data",
    "DataWarning",
    "Density",
    "DensityModel",
    "Energy",
    "EnergyRegressor",
    "Learner",
    "Method",
    "Metric",
    "Network",
    "Outside",
    "Place",
    "Proposal",
    "RegressionLearner",
    "Section",
    "Setup",
    "Split",
    "Step",
    "Streams",
    "Support",
    "Task",
    "arrays_split",
    "energies",
    "load",
    "log_partition",
    "register",
    "results",
    "run",
]


def __getattr__(name: str) -> Any:
    # Loaded when it is used: the command line answers a typing error without importing PyTorch first.
    if name in _WHERE:
        return getattr(import_module(f"ebmbench.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'ebmbench' has no attribute {name!r}")
