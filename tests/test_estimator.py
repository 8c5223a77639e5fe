"""`ebmbench.EnergyRegressor`: scikit-learn's contract, and the mathematics of what it says of y."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from ebmbench import DataWarning, EnergyRegressor

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

QUICK: dict[str, Any] = {
    "method": "nce",
    "device": "cpu",
    "epochs": 40,
    "settings": {"task.base.nodes": 64, "method.num_samples": 16},
}


@pytest.mark.slow
@parametrize_with_checks(
    [EnergyRegressor(**QUICK)],
    expected_failed_checks=lambda _: {
        f"check_sample_weight_equivalence_on_{kind}_data": "mini-batches are random: a weight of 2 is no row twice"
        for kind in ("dense", "sparse")
    },
)
def test_scikit_learn_s_own_checks_pass(estimator: EnergyRegressor, check: Any) -> None:
    check(estimator)


def test_the_package_itself_loads_neither_pytorch_nor_scikit_learn() -> None:
    code = "import ebmbench, sys; assert not {'torch', 'sklearn', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def law(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a Gaussian whose mean is `2 sin x` and whose standard deviation is `0.2 + 0.1 x²`; a useless column."""
    random = np.random.default_rng(seed)
    x = random.uniform(-2, 2, (count, 2))
    return x, truth(x).rvs(random_state=random)


def truth(x: np.ndarray) -> Any:
    return stats.norm(2 * np.sin(x[:, 0]), 0.2 + 0.1 * x[:, 0] ** 2)


@pytest.fixture(scope="module", params=[{"method": "nce+"}, {"model": "gaussian"}], ids=["nce+", "gaussian"])
def fitted(request: pytest.FixtureRequest) -> EnergyRegressor:
    chosen = request.param
    return EnergyRegressor(**chosen, seeds=2, epochs=50, batch_size=128, device="cpu").fit(*law(1500))


def test_the_log_density_is_near_the_truth(fitted: EnergyRegressor) -> None:
    x, y = law(1000, seed=1)
    gap = truth(x).logpdf(y) - fitted.log_prob(x, y)
    assert abs(gap.mean()) < 0.08  # an estimate of D_KL
    assert fitted.score(x, y) > 0.85
    np.testing.assert_allclose(fitted.predict(x), truth(x).mean(), atol=0.3)
    assert np.abs(fitted.mode(x) - truth(x).mean()).mean() < 0.15
    assert np.abs(fitted.std(x) / truth(x).std() - 1).mean() < 0.2


def test_the_density_integrates_to_one_and_to_the_cdf(fitted: EnergyRegressor) -> None:
    y = np.linspace(-6, 8, 1401)
    x = np.tile([[0.5, 0.0]], (len(y), 1))
    density = np.exp(fitted.log_prob(x, y))
    below = integrate.cumulative_trapezoid(density, y, initial=0)
    assert below[-1] == pytest.approx(1, abs=2e-3)
    np.testing.assert_allclose(fitted.cdf(x, y), below, atol=3e-3)


def test_interval_quantile_and_cdf_agree_and_cover(fitted: EnergyRegressor) -> None:
    x, y = law(1000, seed=2)
    low, high = fitted.interval(x, 0.8)
    np.testing.assert_allclose(fitted.cdf(x, low), 0.1, atol=1e-3)
    np.testing.assert_allclose(fitted.cdf(x, high), 0.9, atol=1e-3)
    np.testing.assert_allclose(fitted.quantile(x, [0.1, 0.9]), np.stack([low, high], axis=1))
    assert ((y >= low) & (y <= high)).mean() == pytest.approx(0.8, abs=0.06)
    with pytest.raises(ValueError, match="level=2 is not allowed"):
        fitted.interval(x, 2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model, x: model.quantile(x, 2), "probability=2 is not allowed: give numbers from 0 to 1"),
        (lambda model, x: model.quantile(x, [0.5, np.nan]), "is not allowed: give numbers from 0 to 1"),
        (lambda model, x: model.quantile(x, "a"), "probability='a' is not allowed: give numbers from 0 to 1"),
        (lambda model, x: model.cdf(x, ["a"] * 20), "give numbers (could not convert string to float: 'a')"),
        (lambda model, x: model.sample(x, -1), "n=-1 is not allowed: give a number of draws, from 0"),
        (lambda model, x: model.sample(x, 1.5), "n=1.5 is not allowed: give a number of draws, from 0"),
        (lambda model, x: clone(model).set_params(settings="trainer.patience=3").fit(x, x[:, 0]), "give a dict, such"),
        (lambda model, x: clone(model).set_params(plugins="nope.py").fit(x, x[:, 0]), "plugins=nope.py is not a file"),
    ],
)  # fmt: skip
def test_what_is_asked_for_in_vain_is_one_sentence(fitted: EnergyRegressor, call: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        call(fitted, law(20)[0])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_targets_that_are_unusual_are_said() -> None:
    x = np.random.default_rng(0).normal(size=(400, 2))
    grades = np.floor(6 * np.random.default_rng(1).random(400))
    for y, said in (
        (grades, "takes 6 different values"),
        (np.where(x[:, 0] > 2, 1e9, x[:, 1]), "may stand for a missing value"),
    ):
        model = EnergyRegressor(model="gaussian", epochs=1, device="cpu").fit(x, y)
        assert any(said in note for note in model.notes_), model.notes_


def test_samples_have_the_moments_of_the_density(fitted: EnergyRegressor) -> None:
    x, _ = law(5, seed=3)
    drawn = fitted.sample(x, 40_000, random_state=0)
    assert drawn.shape == (5, 40_000)
    assert all(
        stats.kstest(fitted.cdf(np.tile(row, (500, 1)), some[:500]), "uniform").pvalue > 1e-3
        for row, some in zip(x, drawn, strict=True)
    )
    mean, std = fitted.predict(x), fitted.std(x)
    assert (np.abs(drawn.mean(1) - mean) < 5 * std / 200).all()
    np.testing.assert_allclose(drawn.std(1), std, rtol=0.05)
    np.testing.assert_array_equal(drawn, fitted.sample(x, 40_000, random_state=0))
    assert not np.array_equal(fitted.sample(x, 3), fitted.sample(x, 3))


def test_a_pickle_and_a_clone(fitted: EnergyRegressor) -> None:
    x, y = law(20, seed=4)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.log_prob(x, y), fitted.log_prob(x, y))
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params() and not hasattr(fresh, "model_")


def test_a_pipeline_is_the_same_model_for_it_standardises_anyway() -> None:
    x, y = law(200)
    model = EnergyRegressor(model="gaussian", epochs=40, device="cpu")
    alone = clone(model).fit(x, y)
    piped = make_pipeline(StandardScaler(), model).fit(x, y)
    np.testing.assert_allclose(piped.predict(x), alone.predict(x), atol=1e-3)
    assert len(cross_val_score(piped, x, y, cv=2)) == 2


def test_a_search_over_methods_by_their_log_density() -> None:
    x, y = law(200)
    search = GridSearchCV(
        EnergyRegressor(**{**QUICK, "epochs": 15}),
        {"method": ["nce+", "ml-is"], "settings": [{"trainer.patience": 5}]},
        scoring=lambda model, x, y: model.log_prob(x, y).mean(),
        cv=2,
        error_score="raise",
    ).fit(x, y)
    assert search.best_params_["method"] in ("nce+", "ml-is")
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_table_with_words_gaps_and_two_targets() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.normal(size=80), "city": random.choice(["Ulm", "Bonn"], 80)})
    frame.loc[::9, "size"] = np.nan
    targets = pd.DataFrame({"a": (frame["city"] == "Ulm") + 0.1 * random.normal(size=80), "b": random.normal(size=80)})
    model = EnergyRegressor(**{**QUICK, "epochs": 20}).fit(frame, targets)
    assert model.model_.targets == ["a", "b"] and any("city (2)" in note for note in model.notes_)
    assert model.predict(frame).shape == (80, 2) and model.sample(frame, 7).shape == (80, 7, 2)
    assert model.log_prob(frame, targets).shape == (80,)
    with pytest.raises(ValueError, match=r"feature names|columns"):
        model.predict(frame.drop(columns="city"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "nec+"}, "did you mean nce"),
        ({"model": "gausian"}, "did you mean gaussian"),
        ({"seeds": 0}, "seeds=0 is not allowed"),
        ({"epochs": -1}, "trainer.epochs=-1 is not allowed"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0 is not allowed"),
        ({"settings": {"method.bta": 1}}, "method.bta is not a setting"),
        ({"epochs": 9, "settings": {"trainer.epochs": 3}}, "settings: 'trainer.epochs' is not allowed; .* an argument"),
        ({"settings": {"data.path": "x.csv"}}, "settings: 'data.path' is not allowed, for the rows are given to fit"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("+", r"\+")):
        EnergyRegressor(**{"device": "cpu", **settings}).fit(*law(40))


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (np.full(40, 3.0), "the target 'y' is 3 in all training rows"),
        (np.full(40, np.nan), "Input y contains NaN"),
        (np.zeros(39), "inconsistent numbers of samples"),
    ],
)
def test_targets_that_cannot_be_used_are_one_sentence(y: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        EnergyRegressor(**QUICK).fit(law(40)[0], y)


NEVER = """
from ebmbench import Method, register


@register
class Never(Method):
    name = "{name}"
    color, marker = "#000000", "x"

    def loss(self, f, y, step):
        return f(y.unsqueeze(-2)).squeeze(-1) * {factor}
"""


def test_a_target_may_have_the_name_of_a_column_and_columns_may_not_share_one() -> None:
    frame = pd.DataFrame(law(40)[0], columns=["a", "b"])
    y = frame["a"] + np.random.default_rng(0).normal(size=40)  # pandas calls it a
    model = EnergyRegressor(model="gaussian", epochs=2, device="cpu").fit(frame, y)
    assert y.name == "a" and model.model_.targets == ["a (target)"] and model.predict(frame[:1]).shape == (1,)
    with pytest.raises(ValueError, match="several columns named 'a'"):
        clone(model).fit(pd.concat([frame, frame], axis=1), y)


def test_columns_that_are_no_numbers_words_or_dates_are_one_sentence() -> None:
    frame = pd.DataFrame(law(40)[0], columns=["a", "b"])
    for column, kind in (([[1]] * 40, "lists or bytes"), ([b"x"] * 40, "lists or bytes"), (frame["a"] * 1j, "complex")):
        with pytest.raises(ValueError, match=f"the column 'a' of X holds {kind}"):
            EnergyRegressor(epochs=1, device="cpu").fit(frame.assign(a=column), frame["b"])
    levels = pd.DataFrame(frame.to_numpy(), columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)]))
    with pytest.raises(ValueError, match="columns of 2 levels; give each column one name"):
        EnergyRegressor(epochs=1, device="cpu").fit(levels, frame["b"])


def test_a_fit_that_failed_leaves_no_model() -> None:
    model = EnergyRegressor(model="gaussian", epochs=2, device="cpu")
    with pytest.raises(ValueError, match="no column is left as an input"):
        model.fit(np.ones((30, 2)), np.arange(30.0))
    with pytest.raises(NotFittedError):
        model.predict(np.ones((30, 2)))


def test_training_that_diverges_is_said(tmp_path: Path) -> None:
    plugin = tmp_path / "never.py"
    plugin.write_text(NEVER.format(name="never", factor="float('nan')"))
    with pytest.raises(ValueError, match="diverged with every seed"):
        EnergyRegressor("never", epochs=2, device="cpu", plugins=[str(plugin)]).fit(*law(40))


def test_a_seed_that_diverges_is_left_out_with_a_warning(tmp_path: Path) -> None:
    plugin = tmp_path / "first.py"
    factor = "y.new_tensor([float('nan')] + [0.0] * (len(y) - 1)).view(-1, 1)"
    plugin.write_text(NEVER.format(name="first-never", factor=factor))
    model = EnergyRegressor("first-never", seeds=3, epochs=2, device="cpu", plugins=[str(plugin)], random_state=4)
    with pytest.warns(ConvergenceWarning, match="1 of 3 seeds diverged"):
        model.fit(*law(40))
    assert model.seeds_ == [5, 6]


def test_targets_of_another_shape_are_refused(fitted: EnergyRegressor) -> None:
    x, y = law(6)
    np.testing.assert_allclose(fitted.cdf(x, y[:, None])[:, 0], fitted.cdf(x, y))  # one y a row of a grid [N, 1]
    for call in (fitted.cdf, fitted.log_prob):
        with pytest.raises(ValueError, match="x has 6 rows and y has 4"):
            call(x, y[:4])
        with pytest.raises(ValueError, match=r"y has the shape \(6, 5, 2\); the targets y are \[N"):
            call(x, np.zeros((6, 5, 2)))
        with pytest.raises(ValueError, match="y is None"):
            call(x, None)
    with pytest.raises(ValueError, match=r"y has the shape \(6, 5\); the targets y are \[N\]"):
        fitted.log_prob(x, np.zeros((6, 5)))
    with pytest.raises(ValueError, match="level=much is not allowed"):
        fitted.interval(x, "much")  # type: ignore[arg-type]


def test_two_targets_are_asked_for_as_two() -> None:
    x, y = law(60)
    model = EnergyRegressor(model="gaussian", epochs=1, device="cpu").fit(x, np.stack([y, -3 * y + x[:, 0]], 1))
    with pytest.raises(ValueError, match=r"y has the shape \(3,\); the targets y1, y2 are \[N, 2\]"):
        model.log_prob(x[:3], y[:3])
    with pytest.raises(ValueError, match="needs one target, and the model has 2"):
        model.cdf(x[:3], y[:3])
    with pytest.raises(ValueError, match="give one number, for the model has 2 targets"):
        model.quantile(x[:3], [0.1, 0.5])


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [({"validation_fraction": "half"}, "validation_fraction='half'"), ({"plugins": 3}, "plugins=3 is not allowed")],
)
def test_a_setting_of_another_type_is_one_sentence(setting: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        EnergyRegressor(**setting).fit(*law(60))


def test_targets_are_taken_by_their_names() -> None:
    x, y = law(60)
    targets = pd.DataFrame({"a": y, "b": 1000 * x[:, 0]})
    model = EnergyRegressor(model="gaussian", epochs=2, device="cpu").fit(x, targets)
    swapped = targets[["b", "a"]]
    np.testing.assert_array_equal(model.log_prob(x, swapped), model.log_prob(x, targets))
    assert model.score(x, swapped) == model.score(x, targets)
    with pytest.raises(ValueError, match="y has the columns 'a', 'c', and the model was trained with 'a', 'b'"):
        model.log_prob(x, targets.rename(columns={"b": "c"}))


def test_two_targets_a_thousand_times_as_far_have_a_log_density() -> None:
    x, y = law(60)
    model = EnergyRegressor(**{**QUICK, "epochs": 2}).fit(x, np.stack([y, x[:, 1]], 1))
    log_prob = model.log_prob(x[:2], 1000 * np.stack([y, x[:, 1]], 1)[:2])
    assert np.isfinite(log_prob).all() and (log_prob < -100).all()


def test_weights_count_in_training() -> None:
    random = np.random.default_rng(0)
    x, high = random.normal(size=(600, 1)), random.random(600) < 0.5
    y = np.where(high, 5, -5) + random.normal(size=600)
    model = EnergyRegressor(model="gaussian", epochs=30, device="cpu")
    weighted = clone(model).fit(x, y, sample_weight=np.where(high, 0.9, 0.1))
    assert weighted.predict(x[:1]) == pytest.approx(4, abs=0.8)
    for wrong in (np.ones(3), np.zeros(600), -np.ones(600)):
        with pytest.raises(ValueError, match="sample_weight"):
            clone(model).fit(x, y, sample_weight=wrong)


def test_validation_rows_are_one_s_own_or_by_groups_or_the_latest() -> None:
    x, y = law(80)
    frame = pd.DataFrame({"x": x[:, 0], "day": pd.date_range("2024", periods=80)})
    random = np.random.default_rng(0)
    model = EnergyRegressor(model="gaussian", epochs=1, device="cpu", split_rule="time", warn=False)
    split = model.fit(frame, y)._split(frame, y[:, None], ["y"], random, None, None, 0)
    assert split.val.places.tolist() == list(range(64, 80))
    model.split_rule = "random"
    split = model._split(frame, y[:, None], ["y"], random, None, np.arange(80) // 10, 0)
    assert not set(split.train.places // 10) & set(split.val.places // 10)
    own = clone(model).fit(frame[:60], y[:60], X_val=frame[60:], y_val=y[60:])
    assert own.history_["val_nll"].notna().all()
    with pytest.raises(ValueError, match="give both X_val and y_val"):
        model.fit(frame, y, X_val=frame)
    with pytest.raises(ValueError, match="split_rule='tails' is not allowed: choose from random, group, time"):
        clone(model).set_params(split_rule="tails").fit(frame, y)


def test_notes_are_warnings_with_a_switch_and_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = law(60)
    frame = pd.DataFrame({"a": x[:, 0], "constant": 1.0})
    model = EnergyRegressor(model="gaussian", epochs=2, device="cpu")
    with pytest.warns(DataWarning, match="left out, as constant: constant"):
        model.fit(frame, y)
    with pytest.warns(DataWarning, match="far outside of training's"):
        model.predict(frame.assign(a=1e6))
    assert not capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_params(warn=False, verbose=True).fit(frame, y)
        model.predict(frame.assign(a=1e6))
    assert "val_nll" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["name", "category", "text", "place"])
def test_codes_are_categories_in_python_too(how: str) -> None:
    random = np.random.default_rng(0)
    code = random.choice([101, 205, 7], 60)
    frame = pd.DataFrame({"code": code, "x": random.normal(size=60)})
    frame = frame.astype({"code": {"category": "category", "text": str}.get(how, int)})
    chosen: list[Any] = {"name": ["code"], "place": [0]}.get(how, [])  # type: ignore[assignment]
    model = EnergyRegressor(model="gaussian", epochs=1, device="cpu", categorical=chosen)
    model.fit(frame.to_numpy() if how == "place" else frame, code + frame["x"])
    assert len(model.model_.transform.names) == 4  # type: ignore[attr-defined]


def test_a_code_of_missing_values_is_left_out() -> None:
    x, y = law(60)
    y[::5] = -200
    model = EnergyRegressor(model="gaussian", epochs=1, device="cpu", missing=[-200]).fit(x, y)
    assert any("12 rows without a target are left out" in note for note in model.notes_)


def test_dates_are_no_target() -> None:
    with pytest.raises(ValueError, match="y holds dates or durations"):
        EnergyRegressor().fit(law(60)[0], pd.date_range("2024", periods=60))


def test_one_target_trains_by_the_exact_likelihood_and_several_by_samples() -> None:
    assert [EnergyRegressor()._config(0, count).method.name for count in (1, 2, 5)] == ["ml-exact", "nce", "nce"]
    assert EnergyRegressor("nce+")._config(0, 1).method.name == "nce+"


def test_a_repeated_value_is_told_where_a_method_samples() -> None:
    x, y = law(100)
    y[:30] = 0.0
    quick = {"epochs": 1, "device": "cpu"}
    with pytest.warns(DataWarning, match="of the training rows have the target 0: a method that"):
        sampled = EnergyRegressor("nce", random_state=1, **quick).fit(x, y)
    assert any("use method=ml-exact" in note for note in sampled.notes_)
    assert not any("use method=ml-exact" in note for note in EnergyRegressor(**quick).fit(x, y).notes_)


def test_it_needs_no_hydra(tmp_path: Path) -> None:
    """A constructor call composes no YAML: several threads may fit at once, and a folder `./conf` changes nothing."""
    fit = "ebmbench.EnergyRegressor(epochs=1).fit([[0.1 * k] for k in range(30)], [0.3 * k for k in range(30)])"
    code = f"import ebmbench, sys; {fit}; assert 'hydra' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_a_support_and_every_answer() -> None:
    """A gamma with zeros, told what it is: no mass below 0, the probability of 0, modes and regions."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (400, 1))
    y = np.where(random.random(400) < 0.4, 0.0, random.gamma(4, size=400))
    quick = QUICK | {"epochs": 20}
    plain = EnergyRegressor(**quick, warn=False).fit(x, y)
    assert any("support={'name': 'positive', 'atoms': [0.0]} models it so" in note for note in plain.notes_)
    model = EnergyRegressor(**quick, support={"name": "positive", "atoms": "auto"}, warn=False).fit(x, y)
    assert any("by atoms=auto: 0 (" in note for note in model.notes_)
    assert not any("models it so" in note for note in model.notes_)
    rows = x[:3]
    np.testing.assert_allclose(model.pmf(rows, [0.0])[:, 0], 0.4, atol=0.1)
    np.testing.assert_allclose(model.pmf(rows, [0.0])[:, 0], np.exp(model.log_prob(rows, np.zeros(3))), rtol=1e-4)
    assert (model.cdf(rows, -1e-9) == 0).all() and model.cdf(rows, np.ones((3, 2))).shape == (3, 2)
    for modes, region in zip(model.modes(rows), model.region(rows, 0.8), strict=True):
        assert 0.0 in [mode.place for mode in modes] and region.pieces[0][0] == 0
        assert region.mass == pytest.approx(0.8, abs=0.01)
    low, high = model.interval(rows, [0.5, 0.9])
    assert low.shape == (3, 2) and (low >= 0).all() and (high[:, 1] > high[:, 0]).all()
    assert len(model.density(rows)) == 3
    points = {point: model.predict(rows, point) for point in ("mean", "median", "mode")}
    np.testing.assert_array_equal(points["median"], model.quantile(rows, 0.5))
    np.testing.assert_array_equal(points["mode"], model.mode(rows))
    with pytest.raises(ValueError, match="point='best' is not allowed: choose from mean, median, mode"):
        model.predict(rows, "best")
    with pytest.raises(ValueError, match="is no support"):
        EnergyRegressor(**quick, support=3).fit(x, y)
    with pytest.raises(ValueError, match=r"the target 'y' is 0 in .* training rows, and support=positive takes"):
        EnergyRegressor(**quick, support="positive").fit(x, y)


def test_calibrated_intervals_are_those_of_held_rows_and_survive_a_pickle() -> None:
    x, y = law(400)
    model = EnergyRegressor(**QUICK | {"epochs": 3}, calibrate=True).fit(x, y)
    assert model.model_.calibration is not None and len(model.model_.calibration.interval) == 40
    new, observed = law(1000, seed=1)
    low, high = model.interval(new, 0.9)
    assert abs(((observed >= low) & (observed <= high)).mean() - 0.9) < 0.12
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.interval(new[:5], 0.9), (low[:5], high[:5]))
    with pytest.raises(ValueError, match="calibrate=true holds back half of the validation rows, and they are 10"):
        EnergyRegressor(**QUICK, calibrate=True).fit(x[:50], y[:50])
