"""ebmbench: how should one train an energy-based model for regression?

`run` trains and scores, `load` gives the trained models of a run, `results` a table of many runs. `EnergyRegressor` has
scikit-learn's interface. For components of one's own: `register`, and the base classes `Method`, `Proposal`, `Task`,
`Network`, `Outside` and `Data`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmbench.core.proposal import Proposal
    from ebmbench.core.registry import register
    from ebmbench.core.rng import Streams
    from ebmbench.core.settings import Choice, Section
    from ebmbench.engine.api import load, run
    from ebmbench.estimator import EnergyRegressor
    from ebmbench.methods.base import Method
    from ebmbench.report.frame import results
    from ebmbench.tasks.base import Metric, Task
    from ebmbench.tasks.regression.data.base import Data
    from ebmbench.tasks.regression.data.function import arrays_split
    from ebmbench.tasks.regression.networks.base import Network
    from ebmbench.tasks.regression.networks.outside import Outside

_WHERE = {
    "register": "core.registry",
    "EnergyRegressor": "estimator",
    "load": "engine.api",
    "run": "engine.api",
    "results": "report.frame",
    "Method": "methods.base",
    "Proposal": "core.proposal",
    "Metric": "tasks.base",
    "Task": "tasks.base",
    "Network": "tasks.regression.networks.base",
    "Outside": "tasks.regression.networks.outside",
    "Data": "tasks.regression.data.base",
    "arrays_split": "tasks.regression.data.function",
    "Choice": "core.settings",
    "Section": "core.settings",
    "Streams": "core.rng",
}

__all__ = [
    "Choice",
    "Data",
    "EnergyRegressor",
    "Method",
    "Metric",
    "Network",
    "Outside",
    "Proposal",
    "Section",
    "Streams",
    "Task",
    "arrays_split",
    "load",
    "register",
    "results",
    "run",
]


def __getattr__(name: str) -> Any:
    # Loaded when it is used: the command line answers a typing error without importing PyTorch first.
    if name in _WHERE:
        return getattr(import_module(f"ebmbench.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'ebmbench' has no attribute {name!r}")
