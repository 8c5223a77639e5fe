"""`ebmbench.EnergyRegressor`: `task=regression` with scikit-learn's interface, on the engine that runs use."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError, shown
from ebmbench.core.extras import need
from ebmbench.engine.execute import resolve_device, seed_groups
from ebmbench.engine.train import Callbacks, train
from ebmbench.tasks.regression.data.base import (
    Arrays,
    Split,
    check_targets,
    discrete_notes,
    far_notes,
    names_of,
    split_off,
)
from ebmbench.tasks.regression.data.frames import read_columns, split_table
from ebmbench.tasks.regression.data.transforms import ArrayInput
from ebmbench.tasks.regression.model import RegressionModel
from ebmbench.tasks.regression.outside import learner as make_learner
from ebmbench.tasks.regression.records import model_plain

need("sklearn", "sklearn")
from sklearn.base import BaseEstimator, RegressorMixin  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.validation import check_array, check_is_fitted, validate_data  # noqa: E402

_composing = threading.Lock()
"""Hydra keeps its state in one place, and scikit-learn may fit in several threads."""


@contextmanager
def _as_value_error() -> Iterator[None]:
    """What users can put right is a ValueError to scikit-learn."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from None


class EnergyRegressor(RegressorMixin, BaseEstimator):
    """Learns the density `p(y|x)` of one target or several; `predict` gives its mean.

    X is an array of numbers, or a DataFrame: words become an input for each level there. Missing numbers become the
    training rows' median, with an input that says so. Arrays of more than two dimensions are for networks of images. A
    part of the rows is held back for early stopping.

    Args:
        method: how it is trained, as `ebmbench describe method` lists them.
        network: `f(x, y)`, as `ebmbench describe task/network` lists them; a normalised one goes with `ml-exact`.
        proposal: what the method draws from, if it does.
        seeds: how many models are trained, side by side; their densities are mixed.
        epochs, batch_size, learning_rate: of training; None: as `ebmbench describe task regression` says.
        validation_fraction: share of the rows for early stopping.
        random_state: the first seed, which also splits the rows; a `RandomState`, or None, draws it.
        settings: any other setting, as on the command line: `{"method.num_samples": 32, "trainer.patience": 20}`.
        plugins: Python files or modules that register components of one's own.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Attributes:
        model_: the density, an `ebmbench.tasks.regression.model.RegressionModel`.
        seeds_: the seeds whose models are mixed. A seed that diverged is not among them, and gives a warning.
        notes_: what was done to the columns, and what is unusual about inputs and targets, a sentence each.
        history_: a row for each epoch and seed: training loss, validation NLL.
    """

    def __init__(
        self,
        method: str = "nce+",
        network: str = "mlp",
        proposal: str = "mixture",
        *,
        seeds: int = 1,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        validation_fraction: float = 0.2,
        random_state: Any = 0,
        settings: Mapping[str, Any] | None = None,
        plugins: Sequence[str] = (),
        device: str = "auto",
    ) -> None:
        self.method = method
        self.network = network
        self.proposal = proposal
        self.seeds = seeds
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.settings = settings
        self.plugins = plugins
        self.device = device

    def fit(self, X: Any, y: Any) -> EnergyRegressor:
        """Trains it on rows X and targets y, `[N]` or `[N, D]`; returns itself.

        Raises:
            ValueError: a setting is wrong, the data cannot be used, or every seed diverged. One sentence says why.
        """
        inputs = self._inputs(X, reset=True)
        names, targets = _targets(y, len(inputs))
        first = self.random_state
        if not isinstance(first, int | np.integer):
            first = check_random_state(first).randint(2**30)
        with _as_value_error():
            config = self._config(int(first))
            split = self._split(inputs, targets, names, int(first))
            check_targets(split)
            self._train(config, split)
        self.notes_ = [*split.notes, *far_notes(split), *discrete_notes(split)]
        return self

    def _train(self, config: RunConfig, split: Split) -> None:
        device = resolve_device(config.launch.device)
        task: Any = config.task
        setup = config.setup
        history: list[dict[str, Any]] = []
        parameters: list[dict[str, Tensor]] = []
        seeds: list[int] = []
        for group in seed_groups(config, device):
            learner = make_learner(task, setup, group, device, split)
            progress = train(learner, callbacks=Callbacks(on_epoch=lambda _, rows: history.extend(rows)))
            alive = progress.alive.nonzero().flatten().tolist()
            trained = {name: value.detach().cpu() for name, value in learner.parameters.items()}
            parameters += [{name: value[index].clone() for name, value in trained.items()} for index in alive]
            seeds += [group[index] for index in alive]
        if not seeds:
            raise UserError("training diverged with every seed; give a smaller learning_rate, or another method")
        if len(seeds) < len(config.seeds):
            count = len(config.seeds) - len(seeds)
            text = f"{count} of {len(config.seeds)} seeds diverged, and {'is' if count == 1 else 'are'} left out"
            warnings.warn(text, ConvergenceWarning, 3)
        plain = model_plain(learner)
        self.model_ = RegressionModel(task.network, task.base, parameters, seeds, plain, setup.backend)
        self.seeds_, self.history_ = seeds, pd.DataFrame(history)

    def _config(self, first: int) -> RunConfig:
        """Returns the settings of a run of `task=regression`; what it would read its rows from is not used."""
        given: dict[str, Any] = {
            "task": "regression",
            "data": "table",
            "method": self.method,
            "network": self.network,
            "proposal": self.proposal,
            "trainer.epochs": self.epochs,
            "trainer.batch_size": self.batch_size,
            "trainer.learning_rate": self.learning_rate,
            "device": self.device,
        }
        if not isinstance(self.seeds, int | np.integer) or self.seeds < 1:
            raise UserError(f"seeds={self.seeds!r} is not allowed: give how many models are trained, from 1")
        if not isinstance(self.settings or {}, Mapping):
            raise UserError(
                f"settings={shown(self.settings)} is not allowed: give a dict, such as {{'trainer.patience': 20}}"
            )
        if not isinstance(self.plugins, str | Sequence):
            raise UserError(f"plugins={self.plugins!r} is not allowed: give a list of Python files or modules")
        seeds = list(range(first, first + int(self.seeds)))
        chosen = {key: value for key, value in given.items() if value is not None}
        for key in map(str, self.settings or ()):
            if key in ("task", "data") or key.startswith(("data.", "task.data.")):
                raise UserError(f"settings: {key!r} is not allowed, for the rows are given to fit")
            if key in (*given, "seeds", "plugins"):
                raise UserError(f"settings: {key!r} is not allowed; EnergyRegressor has an argument for it")
        plugins = [self.plugins] if isinstance(self.plugins, str) else list(self.plugins)
        chosen |= {"seeds": seeds, "plugins": plugins, **(self.settings or {})}
        with _composing:
            return compose([f"{key}={_text(value)}" for key, value in chosen.items()])

    def _split(self, inputs: pd.DataFrame | np.ndarray, targets: np.ndarray, names: list[str], seed: int) -> Split:
        """Returns training and validation rows. No row is for test: the validation rows stand there, unused."""
        if not isinstance(self.validation_fraction, Real) or not 0 < self.validation_fraction < 1:
            raise UserError(
                f"validation_fraction={self.validation_fraction!r} is not allowed: give a share between 0 and 1"
            )
        count = len(targets)
        if count < MIN_ROWS:
            raise UserError(f"n_samples={count} is too few: at least {MIN_ROWS} rows are needed")
        train, val = split_off(np.random.default_rng(seed).permutation(count), self.validation_fraction)
        if isinstance(inputs, pd.DataFrame):
            names = [f"{name} (target)" if name in inputs else name for name in names]
            table = pd.concat([inputs, pd.DataFrame(targets, columns=names)], axis=1)
            return split_table(read_columns(table, names, source="X"), train, val, val)
        x, y = torch.from_numpy(inputs), torch.from_numpy(targets.astype(np.float32))
        fit, check = (Arrays(x[rows], y[rows]) for rows in (train, val))
        return Split(fit, check, check, names, ["x"], ArrayInput(tuple(x.shape[1:])))

    def _inputs(self, X: Any, reset: bool = False) -> pd.DataFrame | np.ndarray:
        """Returns checked inputs: a table of their columns, or float32 `[N, ...]` where they have more dimensions."""
        if isinstance(X, pd.DataFrame):
            if not X.columns.is_unique:
                raise ValueError(
                    f"X has several columns named {X.columns[X.columns.duplicated()][0]!r}; rename or drop one"
                )
            if X.columns.nlevels > 1:
                raise ValueError(f"X has columns of {X.columns.nlevels} levels; give each column one name")
            validate_data(self, X, reset=reset, skip_check_array=True)
            if not len(X) or not X.shape[1]:
                raise ValueError(f"Found array with shape {X.shape}: at least one row and one column are required")
            return X.reset_index(drop=True).rename(columns=str)
        array = validate_data(self, X, reset=reset, ensure_all_finite="allow-nan", allow_nd=True)
        if array.ndim > 2:
            return np.ascontiguousarray(array, dtype=np.float32)
        names = getattr(self, "feature_names_in_", None)
        columns = [f"x{k + 1}" for k in range(array.shape[1])] if names is None else list(names)
        return pd.DataFrame(array, columns=columns)

    @property
    def _fitted(self) -> RegressionModel:
        check_is_fitted(self, "model_")
        return self.model_

    @_as_value_error()
    def predict(self, X: Any) -> np.ndarray:
        """Returns the mean of y for each row, `[N]` or `[N, D]`."""
        return self._fitted.mean(self._inputs(X)).numpy()

    @_as_value_error()
    def std(self, X: Any) -> np.ndarray:
        """Returns the standard deviation of y for each row, `[N]` or `[N, D]`."""
        return self._fitted.std(self._inputs(X)).numpy()

    @_as_value_error()
    def mode(self, X: Any) -> np.ndarray:
        """Returns the likeliest y for each row, `[N]` or `[N, D]`."""
        return self._fitted.mode(self._inputs(X)).numpy()

    @_as_value_error()
    def log_prob(self, X: Any, y: Any) -> np.ndarray:
        """Returns `log p(y|x)` of each row and its target, `[N]`; its mean is a score for a search of settings."""
        model, inputs = self._fitted, self._inputs(X)
        return model.log_prob(inputs, self._given(y, len(inputs))).numpy()

    @_as_value_error()
    def cdf(self, X: Any, y: Any) -> np.ndarray:
        """Returns the probability that the target is at most y, of each row: y is a number or `[N]` (one target)."""
        model, inputs = self._fitted, self._inputs(X)
        return model.cdf(inputs, self._given(y, len(inputs))).numpy()

    @_as_value_error()
    def quantile(self, X: Any, probability: Any) -> np.ndarray:
        """Returns the y up to which a probability lies: one -> `[N]`, K of them -> `[N, K]` (one target)."""
        return self._fitted.quantile(self._inputs(X), probability).numpy()

    @_as_value_error()
    def interval(self, X: Any, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ends of the central interval that holds y with a probability, `[N]` or `[N, D]` each."""
        low, high = self._fitted.interval(self._inputs(X), level)
        return low.numpy(), high.numpy()

    @_as_value_error()
    def sample(self, X: Any, n: int = 1, random_state: Any = None) -> np.ndarray:
        """Returns n draws of y for each row, `[N, n]` or `[N, n, D]`; None draws others at each call."""
        model, inputs = self._fitted, self._inputs(X)
        generator = torch.Generator().manual_seed(int(check_random_state(random_state).randint(2**31 - 1)))
        return model.sample(inputs, n, generator).numpy()

    def _given(self, y: Any, count: int) -> Tensor:
        if y is None:
            raise ValueError("y is None: give the target of each row")
        try:
            values = torch.from_numpy(np.array(y, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ValueError(f"y={shown(y)} is not allowed: give numbers ({error})") from None
        return values.expand(count) if not values.dim() else values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.multi_output = True
        return tags


MIN_ROWS = 5
"""With fewer there is nothing to train and to stop with."""


def _targets(y: Any, count: int) -> tuple[list[str], np.ndarray]:
    """Returns the names of the targets, and y as `[N, D]` float64."""
    if y is None:
        raise ValueError("EnergyRegressor requires y to be passed, but the target y is None")
    if np.asarray(y).dtype.kind in "mM":
        raise ValueError("y holds dates or durations: give numbers, such as days")
    values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    values = values.reshape(len(values), -1)
    if len(values) != count:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: {[count, len(values)]}")
    return names_of(y, values.shape[1]), values


def _text(value: Any) -> str:
    """Returns a value as the command line takes it."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str) else json.dumps(value)
