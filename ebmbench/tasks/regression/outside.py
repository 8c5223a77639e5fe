"""The learner of models that another library trains, beside the one of networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from ebmbench.core.errors import UserError, first_line
from ebmbench.models.outside import Outside, OutsideStack, Rows
from ebmbench.system.interrupt import Interrupted
from ebmbench.tasks.base import Setup
from ebmbench.tasks.regression.data.base import Split
from ebmbench.tasks.regression.fitting import FitLearner

if TYPE_CHECKING:
    from ebmbench.tasks.regression.task import Regression

LOSS_ROWS = 64
"""Training rows of which the loss in the history is the mean, at most: a density may take longer than the fit."""


def learner(
    task: Regression, setup: Setup, seeds: Sequence[int], device: torch.device, split: Split | None = None
) -> FitLearner:
    """Returns the models of `task=regression` in training: of the task's rows, if no split is given."""
    kind = OutsideLearner if isinstance(task.model, Outside) else FitLearner
    return kind(task, setup, seeds, device, split)


class OutsideLearner(FitLearner):
    """One model that a library trains, in one step of the engine: split, scaling, scores and files are as ever.

    It evaluates no energy, and an interrupted fit starts again. Its history has one row: the NLL of some training rows
    and of all validation rows.
    """

    def __init__(
        self, task: Regression, setup: Setup, seeds: Sequence[int], device: torch.device, split: Split | None = None
    ) -> None:
        super().__init__(task, setup, seeds, device, split)
        if not self.scaling.targets.standard:
            raise UserError(
                f"model={task.model.name} is trained by its library, which knows no circle and no atoms; "
                "leave data.support out, or choose another model"
            )
        self.batch_size, self.steps_per_row, self.num_steps, self.num_examples = self.num_items, 1, 1, 0

    @override
    def fit(self) -> Tensor:
        model, stack = self.task.model, self.stack
        assert isinstance(model, Outside) and isinstance(stack, OutsideStack)
        train, val = (
            Rows(x.cpu().numpy(), self.scaling.y(part.y).numpy())
            for x, part in ((self.x, self.split.train), (self.val[0], self.split.val))
        )
        (seed,) = self.seeds
        try:
            fitted = model.fit(train, val, seed, lambda done, total: self.on_stage("fitting", done, total))
        except (UserError, Interrupted):
            raise
        except Exception as error:
            raise UserError(
                f"model={model.name} could not be fitted ({type(error).__name__}: {first_line(error)})"
            ) from error
        self.parameters = {name: _tensor(model, name, value).unsqueeze(0) for name, value in fitted.items()}
        stack.load([{name: value[0] for name, value in self.parameters.items()}])
        some = torch.arange(0, self.num_items, math.ceil(self.num_items / LOSS_ROWS), device=self.device)
        return -self.conditionals.log_prob(self.x[some], self.y[some].double()).mean(-1)

    @override
    def load(self, parameters: Sequence[Mapping[str, Tensor]]) -> None:
        self.stack.load(parameters)

    @override
    def end_training(self) -> None:
        """Changes nothing: the library chose when to stop."""


def _tensor(model: Outside, name: str, value: np.ndarray) -> Tensor:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise UserError(f"model={model.name}: fit must return arrays of numbers, and {name!r} is {array.dtype}")
    return torch.from_numpy(np.array(array))
