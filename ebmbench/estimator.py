"""`ebmbench.EnergyRegressor`: `task=regression` with scikit-learn's interface, on the engine that runs use."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ebmbench.config.run import DEFAULT_PROPOSAL, RunConfig
from ebmbench.core import registry
from ebmbench.core.errors import UserError, shown
from ebmbench.core.extras import need
from ebmbench.core.plugins import load
from ebmbench.core.settings import nested
from ebmbench.engine.execute import resolve_device, seed_groups
from ebmbench.engine.train import Callbacks, Progress, train
from ebmbench.methods.base import default_method
from ebmbench.tasks.regression.data.base import Arrays, Split, check_targets, names_of
from ebmbench.tasks.regression.data.frames import read_columns, split_table
from ebmbench.tasks.regression.data.notes import sampling_notes, support_notes, target_notes, warn
from ebmbench.tasks.regression.data.splits import held_out, rule_values
from ebmbench.tasks.regression.data.transforms import ArrayInput
from ebmbench.tasks.regression.density import Density, Mode, Region
from ebmbench.tasks.regression.fitting import fronted
from ebmbench.tasks.regression.model import RegressionModel
from ebmbench.tasks.regression.outside import learner as make_learner

need("sklearn", "sklearn")
from sklearn.base import BaseEstimator, RegressorMixin  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.validation import check_array, check_is_fitted, validate_data  # noqa: E402

GROUPS = ("task", "data", "model", "network", "method", "proposal")
CHOSEN_BY = {"data": "data.source"}
LAUNCH = {"backend": "auto", "threads": None, "checkpoint_seconds": 60.0, "results_dir": "results", "force": False}
"""What a run needs beside; nothing of it is used to fit."""


@contextmanager
def _as_value_error() -> Iterator[None]:
    """What users can put right is a ValueError to scikit-learn."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from None


class EnergyRegressor(RegressorMixin, BaseEstimator):
    """Learns the density `p(y|x)` of one target or several; `predict` gives its mean.

    X is an array of numbers, or a DataFrame, whose columns of categories, dates and amounts are treated as those of a
    file (docs/your-data.md). Missing numbers get the training median, with an input that marks them. Arrays of more
    than two dimensions are for networks of images. A part of the rows is held back for early stopping.

    Args:
        method: how it is trained, as `ebmbench describe method` lists them; None: `ml-exact` for one target, `nce` for
            several (docs/which-method.md).
        network: `f(x, y)`, as `ebmbench describe network` lists them; None: `mlp`.
        proposal: what the method draws from, if it does; None: `mixture`.
        model: `ebm`, or a model that needs no method, network and proposal, as `ebmbench describe model` lists them.
        seeds: how many models are trained, side by side; their densities are mixed.
        epochs, batch_size, learning_rate: of training; None: as `ebmbench describe task regression` says.
        categorical: columns of numbers that are categories, by name, or by place in an array.
        missing: values that stand for a missing one, such as `[-200]`.
        support: the values that a target can have, as `data.support` takes it: `"positive"`, `{"name": "circle",
            "period": 360}`; a list for several targets; None: real numbers, and `notes_` suggest what they look like.
        calibrate: whether half of the validation rows are held back from early stopping, so that `interval` and
            `region` cover what they say (one target; docs/data.md says what is guaranteed, and what is not).
        validation_fraction: share of the rows for early stopping.
        split_rule, split_by: which rows these are: `random`, `group` (rows with the same value of the column `split_by`
            stay together) or `time` (the latest rows by the column `split_by`, or by the one column of dates).
        random_state: the first seed, which also splits the rows; a `RandomState`, or None, draws it.
        settings: any other setting, as on the command line: `{"method.num_samples": 32, "trainer.patience": 20}`.
        plugins: Python files or modules that register components of one's own.
        front: `boosted`: what boosted trees predict of a row is one more input beside its columns, out of fold for
            training rows; `auto`: where they predict well enough; `none`: the columns alone.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        warn: whether each of `notes_` is an `ebmbench.DataWarning`, and so is what is unusual about rows to predict.
        verbose: whether `fit` shows its progress.

    Attributes:
        model_: the density, an `ebmbench.tasks.regression.model.RegressionModel`.
        seeds_: the seeds whose models are mixed. A seed that diverged is not among them, and gives a warning.
        notes_: what was done to the columns, and what is unusual about inputs and targets, a sentence each.
        history_: a row for each epoch and seed: training loss, validation NLL.
    """

    def __init__(
        self,
        method: str | None = None,
        network: str | None = None,
        proposal: str | None = None,
        *,
        model: str = "ebm",
        seeds: int = 1,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        categorical: Sequence[str | int] = (),
        missing: Sequence[float | str] = (),
        support: Any = None,
        calibrate: bool = False,
        validation_fraction: float = 0.2,
        split_rule: str = "random",
        split_by: str | None = None,
        random_state: Any = 0,
        settings: Mapping[str, Any] | None = None,
        plugins: Sequence[str] = (),
        front: str = "none",
        device: str = "auto",
        warn: bool = True,
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.network = network
        self.proposal = proposal
        self.model = model
        self.seeds = seeds
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.categorical = categorical
        self.missing = missing
        self.support = support
        self.calibrate = calibrate
        self.validation_fraction = validation_fraction
        self.split_rule = split_rule
        self.split_by = split_by
        self.random_state = random_state
        self.settings = settings
        self.plugins = plugins
        self.front = front
        self.device = device
        self.warn = warn
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        X_val: Any = None,
        y_val: Any = None,
    ) -> EnergyRegressor:
        """Trains it on rows X and targets y, `[N]` or `[N, D]`; returns itself.

        Args:
            sample_weight: how much each row counts in training and in early stopping, `[N]`.
            groups: the group of each row, `[N]`: no group has rows both in training and in validation.
            X_val, y_val: rows for early stopping; without them a part of X is held back.

        Raises:
            ValueError: a setting is wrong, the data cannot be used, or every seed diverged. One sentence says why.
        """
        inputs = self._inputs(X, reset=True)
        names, targets = _targets(y, len(inputs))
        self._target_columns = list(y.columns) if isinstance(y, pd.DataFrame) else None
        if (X_val is None) != (y_val is None):
            raise ValueError("give both X_val and y_val, or neither")
        if X_val is not None:
            val_inputs = self._inputs(X_val)
            _, val_targets = _targets(self._ordered(y_val), len(val_inputs))
            join = pd.concat if isinstance(inputs, pd.DataFrame) else np.concatenate
            inputs = join([inputs, val_inputs])
            inputs = inputs.reset_index(drop=True) if isinstance(inputs, pd.DataFrame) else inputs
            targets = np.concatenate([targets, val_targets])
        num_val = 0 if X_val is None else len(val_inputs)
        first = self.random_state
        if not isinstance(first, int | np.integer):
            first = check_random_state(first).randint(2**30)
        with _as_value_error():
            config = self._config(int(first), targets.shape[1])
            weight = None if sample_weight is None else _weights(sample_weight, len(targets) - num_val, num_val)
            split = self._split(inputs, targets, names, np.random.default_rng(int(first)), weight, groups, num_val)
            check_targets(split)
            task: Any = config.task
            supports = task.data.supports(targets.shape[1])
            suggested = support_notes(split, python=True) if self.support is None else []
            sampling = sampling_notes(split, config.method, supports)
            self.notes_ = [*split.notes, *target_notes(split, supports), *sampling, *suggested]
            if self.warn:
                warn(self.notes_, 2)
            self._train(config, split)
        return self

    def _train(self, config: RunConfig, split: Split) -> None:
        device = resolve_device(config.launch.device)
        task: Any = config.task
        setup = config.setup
        split = fronted(task, split)
        history: list[dict[str, Any]] = []
        parameters: list[dict[str, Tensor]] = []
        seeds: list[int] = []
        for group in seed_groups(config, device):
            learner = make_learner(task, setup, group, device, split)
            with tqdm(total=learner.num_steps, desc=f"seeds {group}", unit="step", disable=not self.verbose) as bar:
                progress = train(learner, callbacks=_shown(bar, history))
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
        plain = learner.fitted.plain() | ({"held": learner.fitted.held_rows()} if self.calibrate else {})
        self.model_ = RegressionModel(task.stackable, task.base, parameters, seeds, plain, setup.backend)
        self.model_.warns = self.warn
        self.seeds_, self.history_ = seeds, pd.DataFrame(history)

    def _config(self, first: int, num_targets: int) -> RunConfig:
        """Returns the settings of a run of `task=regression`; what it would read its rows from is not used."""
        if not isinstance(self.plugins, str | Sequence):
            raise UserError(f"plugins={self.plugins!r} is not allowed: give a list of Python files or modules")
        loaded = load([self.plugins] if isinstance(self.plugins, str) else list(self.plugins))
        given: dict[str, Any] = {
            "task": "regression",
            "data": "table",
            "data.support": self.support,
            "task.calibrate": True if self.calibrate else None,
            "model": self.model,
            "method": self.method or (default_method(num_targets) if self._is_energy() else None),
            "network": self.network,
            "proposal": self.proposal,
            "task.front": self.front,
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
        seeds = list(range(first, first + int(self.seeds)))
        chosen = {key: value for key, value in given.items() if value is not None}
        for key in map(str, self.settings or ()):
            if key in ("task", "data") or key.startswith("data."):
                raise UserError(f"settings: {key!r} is not allowed, for the rows are given to fit")
            if key in (*given, "seeds", "plugins"):
                raise UserError(f"settings: {key!r} is not allowed; EnergyRegressor has an argument for it")
        chosen |= {"seeds": seeds, **(self.settings or {})}
        method = registry.get("method", chosen["method"]) if "method" in chosen else None
        if "proposal" not in chosen and getattr(method, "uses_proposal", False):
            chosen["proposal"] = DEFAULT_PROPOSAL
        options = {CHOSEN_BY.get(key, f"{key}.name"): chosen.pop(key) for key in GROUPS if key in chosen}
        launch = {**LAUNCH, "plugins": loaded, "logger.name": "none"}
        values = {**launch, **options, **chosen}
        return RunConfig.from_dict({"trainer": {}, **nested(values)})

    def _is_energy(self) -> bool:
        return bool(getattr(registry.get("model", self.model), "uses_method", False))

    def _split(
        self,
        inputs: pd.DataFrame | np.ndarray,
        targets: np.ndarray,
        names: list[str],
        random: np.random.Generator,
        weight: np.ndarray | None,
        groups: Any,
        num_val: int,
    ) -> Split:
        """Returns training and validation rows. No row is for test: the validation rows stand there, unused.

        Args:
            num_val: how many of the rows, the last ones, are for validation; 0: some are held back.
        """
        rule = "random" if groups is None else "group"
        if not isinstance(self.validation_fraction, Real) or not 0 < self.validation_fraction < 1:
            raise UserError(
                f"validation_fraction={self.validation_fraction!r} is not allowed: give a share between 0 and 1"
            )
        if self.split_rule not in VALIDATION_RULES or (groups is not None and self.split_rule == "time"):
            raise UserError(
                f"split_rule={self.split_rule!r} is not allowed{' with groups' if groups is not None else ''}: "
                f"choose from {', '.join(VALIDATION_RULES)}"
            )
        if len(targets) < MIN_ROWS:
            raise UserError(f"n_samples={len(targets)} is too few: at least {MIN_ROWS} rows are needed")
        if isinstance(inputs, pd.DataFrame):
            names = [f"{name} (target)" if name in inputs else name for name in names]
            table = pd.concat([inputs, pd.DataFrame(targets, columns=names)], axis=1)
            ignore = [str(self.split_by)] if self.split_rule == "group" and self.split_by is not None else []
            rows = read_columns(table, names, (), ignore, self._categorical(inputs), self._missing(), source="X")
            places, table, dates = rows.frame.index.to_numpy(), rows.table, rows.dates
            rows.weight = None if weight is None else weight[places]
            rule = self.split_rule if groups is None else rule
            if dates and rule == "random" and not num_val:
                rows.notes.append(
                    f"validation rows are taken at random from rows with dates ({', '.join(dates)}); "
                    "split_rule='time' takes the latest ones"
                )
        else:
            places, table, dates = np.arange(len(targets)), pd.DataFrame(targets, columns=names), []
        if num_val:
            group = None
            is_val = places >= len(targets) - num_val
            train, val = np.flatnonzero(~is_val), np.flatnonzero(is_val)
        else:
            values = pd.factorize(_groups(groups, len(targets))[places])[0] if groups is not None else None
            values = rule_values(rule, self.split_by, table, names, dates) if values is None else values
            group = values if rule == "group" else None
            train, val = map(np.sort, held_out(rule, values, self.validation_fraction, random, len(places)))
        if len(train) < 2 or not len(val):
            raise UserError(
                f"{len(train)} rows remain for training and {len(val)} for validation; at least 2 and 1 are needed"
            )
        if isinstance(inputs, pd.DataFrame):
            return split_table(rows, train, val, val, group)
        x, y = torch.from_numpy(inputs), torch.from_numpy(targets.astype(np.float32))
        weights = None if weight is None else torch.from_numpy(weight)
        fit, check = (Arrays(x[k], y[k], weight=None if weights is None else weights[k]) for k in (train, val))
        return Split(fit, check, check, names, ["x"], ArrayInput(tuple(x.shape[1:])))

    def _categorical(self, inputs: pd.DataFrame) -> list[str]:
        chosen = [self.categorical] if isinstance(self.categorical, str | int) else list(self.categorical)
        if hasattr(self, "feature_names_in_"):
            return [str(name) for name in chosen]
        wrong = [k for k in chosen if not isinstance(k, int | np.integer) or not 0 <= k < inputs.shape[1]]
        if wrong:
            raise UserError(
                f"categorical={wrong[0]!r} is not allowed: X is an array, so give places of columns, from 0 to "
                f"{inputs.shape[1] - 1}"
            )
        return [inputs.columns[int(k)] for k in chosen]

    def _missing(self) -> list[float | str]:
        values = [self.missing] if isinstance(self.missing, str | Real) else list(self.missing)
        wrong = [value for value in values if not isinstance(value, str | Real)]
        if wrong:
            raise UserError(f"missing={shown(wrong[0])} is not allowed: give numbers or text, such as missing=[-200]")
        return [value if isinstance(value, str) else float(value) for value in values]

    def _ordered(self, y: Any) -> Any:
        """Returns targets with the columns in the order of training; a DataFrame must have the same ones."""
        columns = getattr(self, "_target_columns", None)
        if not isinstance(y, pd.DataFrame) or columns is None:
            return y
        if set(y.columns) != set(columns) or len(y.columns) != len(columns):
            raise ValueError(
                f"y has the columns {', '.join(map(repr, y.columns))}, and the model was trained with "
                f"{', '.join(map(repr, columns))}"
            )
        return y[columns]

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
    def predict(self, X: Any, point: str = "mean") -> np.ndarray:
        """Returns a y for each row, `[N]` or `[N, D]`: the `mean`, the `median` or the `mode`."""
        if point not in POINTS:
            raise UserError(f"point={shown(point)} is not allowed: choose from {', '.join(POINTS)}")
        return getattr(self._fitted, point)(self._inputs(X)).numpy()

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Returns R² of the mean of y; several targets count alike."""
        return float(super().score(X, self._ordered(y), sample_weight))

    @_as_value_error()
    def std(self, X: Any) -> np.ndarray:
        """Returns the standard deviation of y for each row, `[N]` or `[N, D]`."""
        return self._fitted.std(self._inputs(X)).numpy()

    @_as_value_error()
    def density(self, X: Any) -> Density:
        """Returns the densities of all rows as one object, which has every answer (one target)."""
        return self._fitted.densities(self._inputs(X))

    @_as_value_error()
    def median(self, X: Any) -> np.ndarray:
        """Returns the median of y for each row, `[N]` or `[N, D]` (of each target)."""
        return self.predict(X, "median")

    @_as_value_error()
    def mode(self, X: Any) -> np.ndarray:
        """Returns the likeliest y for each row, `[N]` or `[N, D]`."""
        return self.predict(X, "mode")

    @_as_value_error()
    def modes(self, X: Any) -> list[list[Mode]]:
        """Returns the modes of each row, with `place` and `mass`, the one with the most mass first (one target)."""
        return self._fitted.modes(self._inputs(X))

    @_as_value_error()
    def region(self, X: Any, level: float = 0.9) -> list[Region]:
        """Returns the smallest set of a probability, for each row: its `pieces`, `length` and `mass` (one target)."""
        return self._fitted.region(self._inputs(X), level)

    @_as_value_error()
    def pmf(self, X: Any, y: Any) -> np.ndarray:
        """Returns the probability of K values by themselves, `[N, K]`; 0 where one has a density (one target)."""
        return self._fitted.pmf(self._inputs(X), y).numpy()

    @_as_value_error()
    def log_prob(self, X: Any, y: Any) -> np.ndarray:
        """Returns `log p(y|x)` of each row and its target, `[N]`; its mean is a score for a search of settings."""
        model, inputs = self._fitted, self._inputs(X)
        return model.log_prob(inputs, self._given(y, len(inputs))).numpy()

    @_as_value_error()
    def cdf(self, X: Any, y: Any) -> np.ndarray:
        """Returns the probability of no more than y, of each row: y is a number, `[N]`, or `[N, K]` (one target)."""
        model, inputs = self._fitted, self._inputs(X)
        return model.cdf(inputs, self._given(y, len(inputs))).numpy()

    @_as_value_error()
    def quantile(self, X: Any, probability: Any) -> np.ndarray:
        """Returns the y up to which a probability lies: one -> `[N]`, K of them -> `[N, K]` (one target)."""
        return self._fitted.quantile(self._inputs(X), probability).numpy()

    @_as_value_error()
    def interval(self, X: Any, level: Any = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ends of the central interval that holds y with a probability, `[N]` or `[N, D]` each.

        Several levels `[L]` give `[N, L]` each (one target).
        """
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
        y = self._ordered(y)
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
POINTS = ("mean", "median", "mode")
VALIDATION_RULES = ("random", "group", "time")


def _shown(bar: tqdm[Any], history: list[dict[str, Any]]) -> Callbacks:
    """Returns what keeps the history, and moves a bar."""

    def on_epoch(progress: Progress, rows: list[dict[str, Any]]) -> None:
        history.extend(rows)
        bar.set_postfix({name: f"{rows[0][name]:.4g}" for name in ("epoch", "loss", "val_nll") if name in rows[0]})

    return Callbacks(on_epoch=on_epoch, on_step=lambda progress: bar.update(progress.step - bar.n))


def _weights(sample_weight: Any, count: int, num_val: int) -> np.ndarray:
    """Returns the weights of all rows, float32; those of rows of one's own for validation are 1."""
    weight = check_array(sample_weight, ensure_2d=False, dtype=np.float32, input_name="sample_weight")
    if weight.shape != (count,):
        raise ValueError(f"sample_weight has the shape {weight.shape}: give a number for each of {count} rows")
    if (weight < 0).any() or not weight.any():
        raise ValueError("sample_weight must hold numbers from 0, and not only zeros")
    return np.concatenate([weight, np.ones(num_val, np.float32)])


def _groups(groups: Any, count: int) -> np.ndarray:
    values = np.asarray(groups)
    if values.shape != (count,):
        raise UserError(f"groups has the shape {values.shape}: give one group for each of {count} rows")
    return values


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
