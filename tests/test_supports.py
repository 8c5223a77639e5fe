"""The supports, their base measures, proposals on them, and densities on each: against closed forms and known laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ebmbench.config.compose import compose
from ebmbench.core.energy import AutogradEnergy
from ebmbench.core.errors import UserError
from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.supports.base import Support, support_of
from ebmbench.supports.circle import Circle
from ebmbench.supports.guess import guess, text_of
from ebmbench.supports.integers import Integers
from ebmbench.supports.interval import Interval
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.placed import Placed
from ebmbench.supports.positive import Positive
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Axis, Embedded, Targets
from ebmbench.tasks.regression import records
from ebmbench.tasks.regression.data.base import Arrays, Split
from ebmbench.tasks.regression.data.notes import support_notes
from ebmbench.tasks.regression.data.transforms import ArrayInput
from ebmbench.tasks.regression.data.values import LAWS, ValueLaw
from ebmbench.tasks.regression.density import Density
from ebmbench.tasks.regression.fitting import FitLearner
from ebmbench.tasks.regression.quadrature import GridDensity
from ebmbench.tasks.regression.scores import crps_of_points, pinball, qice

TRAINING = torch.tensor([0.2, 0.3, 0.4, 0.9, 1.0, 2.0, 3.0, 5.0], dtype=torch.float64)
KINDS: list[tuple[Support, Tensor]] = [
    (Real(), TRAINING),
    (Positive(), TRAINING),
    (Interval(low=0, high=6), TRAINING),
    (Circle(period=6), TRAINING),
    (Integers(), TRAINING.round()),
    (Positive(atoms=(0.0,)), torch.cat((TRAINING, torch.zeros(4).double()))),
]


def axis(support: Support, y: Tensor) -> Axis:
    return Axis.of("y", support, y, BaseDensity(), True)


def integral(made: Axis, log_p: Tensor | None = None) -> float:
    """The mass of the base measure, over nodes and points."""
    total = 0.0
    if not made.support.discrete:
        z = torch.linspace(*made.measure.ends, 200_001, dtype=torch.float64) + 1e-7
        total += float(torch.trapezoid(made.log_prob(z).exp(), z))
    return total + float(made.log_prob(made.points).exp().sum())


@pytest.mark.parametrize(("support", "y"), KINDS, ids=lambda v: getattr(v, "name", ""))
def test_the_base_measure_has_mass_one(support: Support, y: Tensor) -> None:
    assert integral(axis(support, y)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("support", "y"), KINDS, ids=lambda v: getattr(v, "name", ""))
def test_values_go_to_the_coordinate_and_back(support: Support, y: Tensor) -> None:
    made = axis(support, y)
    torch.testing.assert_close(made.value(made.z(y)), y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(made.value(made.z(y).float()), y, rtol=1e-5, atol=1e-5)
    if support.discrete or support.atoms:
        return
    z = made.z(y)
    slope = (made.value(z + 1e-6) - made.value(z - 1e-6)).log() - math.log(2e-6)
    torch.testing.assert_close(made.log_slope(z), slope, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("support", "y"), KINDS, ids=lambda v: getattr(v, "name", ""))
def test_draws_of_a_proposal_follow_the_density_that_it_says_there(support: Support, y: Tensor) -> None:
    """An importance sampling of the mass of the base measure, which is one, around a target near an end."""
    made = axis(support, y)
    proposal = Placed.on(GaussianMixture(stds=(0.3, 2.0)), made)
    target = made.z(y[:1]).unsqueeze(1)
    step = Step(Streams([0], stacked=False).at(0), proposal)
    for candidates, log_q in (
        proposal.sample(target, 40_000, step),
        [part[:, 1:] for part in proposal.beside_target(target, 40_000, step, 0.01)],
    ):
        weights = (made.log_prob(candidates.squeeze(-1)) - log_q).exp()
        assert not made.outside(candidates.squeeze(-1)).any()
        assert float(weights.mean()) == pytest.approx(1, abs=5 * float(weights.std()) / 200)


@pytest.mark.parametrize(("support", "y"), KINDS, ids=lambda v: getattr(v, "name", ""))
def test_the_energy_s_slope_is_that_of_the_coordinate(support: Support, y: Tensor) -> None:
    made = axis(support, y)
    targets = Targets((made,))
    weights = torch.linspace(-1, 1, targets.features, dtype=torch.float64)
    f = AutogradEnergy(lambda u: (u * weights).sum(-1).sin())
    energy = Embedded(f, targets) if support.discrete else targets.energy(f)
    z = torch.tensor([[[0.1], [0.7]]], dtype=torch.float64)
    slope = (energy(z + 1e-6) - energy(z - 1e-6)) / 2e-6
    torch.testing.assert_close(energy.grad(z).squeeze(-1), slope, atol=1e-6, rtol=0)


def test_settings_name_a_support() -> None:
    assert support_of("circle") == Circle() and support_of({"name": "circle", "period": 360}).period == 360  # type: ignore
    for given, sentence in (
        ("cirle", "did you mean circle"),
        ({"name": "circle", "width": 2}, "has no width"),
        ({"name": "interval", "low": 2.0, "high": 1.0}, "is not below"),
        (3, "give a name"),
    ):
        with pytest.raises(ValueError, match=sentence):
            support_of(given)


@pytest.mark.parametrize(
    ("support", "y", "sentence"),
    [
        (Positive(), [1.0, 0.0, 2.0], "is 0 in 1 of 3 training rows, and support=positive takes values above 0"),
        (Integers(), [1.0, 2.5, 2.0], "is 2.5 in 1 of 3"),
        (Interval(), [0.5, 1.5, 2.0], "is 1.5 in 2 of 3 training rows"),
    ],
)
def test_a_target_outside_its_support_is_refused(support: Support, y: list[float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        axis(support, torch.tensor(y, dtype=torch.float64))


def test_a_method_that_differentiates_is_refused_on_integers() -> None:
    config = compose(["task=regression", "data=values", "data.law=poisson", "method=dsm", "data.num_train=50"])
    with pytest.raises(UserError, match="method=dsm moves targets or differentiates in y, which support=integers"):
        config.task.learner(config.setup, (0,), torch.device("cpu"))


@pytest.mark.parametrize("law", list(LAWS))
def test_draws_of_a_truth_follow_it(law: str) -> None:
    x = torch.full((4000, 1), 0.3)
    y = ValueLaw(law).sample(x, 1, Streams([0], stacked=False).at(0), "y")[:, 0, 0]
    support, _ = LAWS[law]
    ends = (-math.pi, math.pi) if support.turn else (-1.0, 40.0)
    values = torch.linspace(*ends, 200_001, dtype=torch.float64)
    if support.discrete:
        values = torch.arange(120, dtype=torch.float64)
    p = ValueLaw(law).log_prob(x[:1], values.view(1, -1, 1))[0].exp()
    if support.discrete:
        assert float(p.sum()) == pytest.approx(1, abs=1e-9)
        counts = torch.bincount(y.long(), minlength=120)[:120].double() / len(y)
        assert float((counts - p).abs().max()) < 0.03
        return
    mass = float(torch.trapezoid(torch.where(values == 0, 0.0, p), values))
    atom = float(ValueLaw(law).log_prob(x[:1], torch.zeros(1, 1, 1)).exp()) if support.atoms else 0.0
    assert mass + atom == pytest.approx(1, abs=2e-3)
    assert float((y == 0).double().mean()) == pytest.approx(atom, abs=0.04)
    inner = y[y != 0].numpy()
    cdf = np.cumsum(np.where(values == 0, 0.0, p)) * float(values[1] - values[0]) / mass
    assert stats.kstest(inner, lambda v: np.interp(v, values, cdf)).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nce", "ml-is", "ml-exact"])
@pytest.mark.parametrize("law", list(LAWS))
def test_trained_models_find_the_truth_on_each_support(law: str, method: str) -> None:
    words = ["task=regression", "data=values", f"data.law={law}", f"method={method}", "trainer.epochs=60"]
    config = compose([*words, "data.num_test=300", "device=cpu"])
    from ebmbench.engine.train import train

    made = config.task.learner(config.setup, (0,), torch.device("cpu"))
    assert isinstance(made, FitLearner)
    train(made)
    made.end_training()
    from ebmbench.tasks.regression import scoring

    scores = scoring.score_rows(made.fitted, made.split.test)
    assert float(scores.d_kl.mean()) < 0.03
    if LAWS[law][0].atoms:  # y = 0
        test, zero = made.split.test, torch.zeros(300, 1, 1)
        oracle = (ValueLaw(law).log_prob(test.x, zero).exp() - (test.y == 0).double()).square().mean()
        assert float(scores.brier.mean()) < float(oracle) + 0.005


# ------------------------------------------------------------------------------------------ densities


def wrapped(mean: float, std: float, period: float = 360.0) -> Density:
    """A wrapped normal on a circle."""
    made = Axis(Circle(period=period, low=0.0), period / 2, period / (2 * math.pi), (), BaseDensity())
    z = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64).unsqueeze(0)
    y = made.value(z)
    turns = torch.arange(-3, 4).view(-1, 1, 1) * period
    return Density.of(made, GridDensity(z, torch.logsumexp(-0.5 * ((y + turns - mean) / std) ** 2, 0)), None)[0]


def test_answers_on_a_circle_do_not_know_its_seam() -> None:
    for mean in (0.0, 2.0, 180.0, 359.0):
        made = wrapped(mean, 5.0)
        apart = (float(made.mean) - mean + 180) % 360 - 180
        assert abs(apart) < 1e-3 and float(made.std) == pytest.approx(5, rel=1e-3)
        low, high = (float(end) for end in made.interval(torch.tensor([0.9], dtype=torch.float64)))
        half = 5 * stats.norm.ppf(0.95)
        assert low == pytest.approx((mean - half) % 360, abs=0.02) and high == pytest.approx(
            (mean + half) % 360, abs=0.02
        )
        (region,) = made.region(0.9)
        assert len(region.pieces) == 1 and region.length == pytest.approx(2 * half, rel=1e-3)
        (modes,) = made.modes()
        assert len(modes) == 1 and modes[0].mass == pytest.approx(1, abs=1e-6)
        y = torch.tensor([(mean + 4) % 360], dtype=torch.float64)
        flat = stats.norm(0, 5)
        expected = 5 * (0.8 * (2 * flat.cdf(4) - 1) + 2 * 5 * flat.pdf(4) - 1 / math.sqrt(math.pi))
        assert float(made.crps(y)) == pytest.approx(expected, rel=0.02)
        assert float(made.pit(y, torch.zeros(1).double())) == pytest.approx(flat.cdf(4), abs=1e-3)


def rain() -> Density:
    """0 with probability 0.4, else log-normal."""
    made = Axis(Positive(atoms=(0.0,)), 0.0, 1.0, (0.4,), BaseDensity())
    z = torch.linspace(-6, 6, 4001, dtype=torch.float64).unsqueeze(0) + 1e-9
    grid = GridDensity(z, math.log(0.6) - 0.5 * z.square() - 0.5 * math.log(2 * math.pi))
    return Density.of(made, grid, torch.tensor([[math.log(0.4)]], dtype=torch.float64))[0]


def test_answers_of_a_density_with_an_atom() -> None:
    made, wet = rain(), stats.lognorm(1)
    at = torch.tensor([[-0.5, 0.0, 0.7, 3.0]], dtype=torch.float64)
    expected = [0, 0.4, *(0.4 + 0.6 * wet.cdf([0.7, 3.0]))]
    np.testing.assert_allclose(made.cdf(at)[0], expected, atol=1e-6)
    np.testing.assert_allclose(made.pmf(at)[0], [0, 0.4, 0, 0], atol=1e-9)
    np.testing.assert_allclose(made.log_prob(at[:, 1:])[0].exp(), [0.4, *(0.6 * wet.pdf([0.7, 3.0]))], rtol=1e-4)
    p = torch.tensor([0.1, 0.39, 0.7], dtype=torch.float64)
    np.testing.assert_allclose(made.quantile(p)[0], [0, 0, wet.ppf(0.5)], atol=1e-4)
    assert float(made.mean) == pytest.approx(0.6 * wet.mean(), rel=1e-3)
    (modes,) = made.modes()
    assert [round(mode.mass, 3) for mode in modes] == [0.6, 0.4] and modes[1].place == 0
    (region,) = made.region(0.7)
    assert region.pieces[0] == (0.0, 0.0) and region.mass == pytest.approx(0.7, abs=1e-3)
    y = torch.tensor([0.0, 1.3], dtype=torch.float64)
    both = Density(*(getattr(made, n).expand(2, -1) for n in ("y", "mass", "height")), made.axis)
    draws = made.sample(40_000, torch.Generator().manual_seed(0))[0]
    assert float((draws == 0).double().mean()) == pytest.approx(0.4, abs=0.01)
    pairs = (draws[:20_000] - draws[20_000:]).abs().mean()
    expected_crps = [(draws - value).abs().mean() - 0.5 * pairs for value in y]
    np.testing.assert_allclose(both.crps(y), expected_crps, rtol=0.03)


def test_answers_of_counts() -> None:
    made = Axis(Integers(), 4.0, 2.0, (), BaseDensity())
    law = stats.poisson(3.0)
    log_points = torch.from_numpy(law.logpmf(made.values.numpy())).unsqueeze(0) + 5
    density, log_z = Density.of(made, None, log_points)
    assert float(log_z) == pytest.approx(5, abs=1e-9)
    at = torch.tensor([[-1.0, 0.0, 2.0, 2.5, 7.0]], dtype=torch.float64)
    np.testing.assert_allclose(density.cdf(at)[0], law.cdf(at[0]), atol=1e-9)
    np.testing.assert_allclose(density.pmf(at)[0], law.pmf(at[0]), atol=1e-9)
    assert float(density.mean) == pytest.approx(3, abs=1e-6) and float(density.std) == pytest.approx(
        math.sqrt(3), abs=1e-4
    )
    p = torch.tensor([0.01, 0.3, 0.5, 0.99], dtype=torch.float64)
    np.testing.assert_allclose(density.quantile(p)[0], law.ppf(p))
    (region,) = density.region(0.5)
    assert region.pieces == ((2.0, 4.0),) and region.mass == pytest.approx(law.pmf([2, 3, 4]).sum())
    y = np.array([1.0])
    values = np.arange(60)
    expected = ((law.cdf(values) - (values >= 1)) ** 2).sum()
    assert float(density.crps(torch.from_numpy(y))) == pytest.approx(expected, abs=1e-6)
    uniform = torch.linspace(0, 1, 3, dtype=torch.float64)
    pit = [float(density.pit(torch.tensor([2.0]).double(), u.view(1))) for u in uniform]
    np.testing.assert_allclose(pit, [law.cdf(1), 0.5 * (law.cdf(1) + law.cdf(2)), law.cdf(2)], atol=1e-9)


def test_two_modes_have_their_places_masses_and_a_region_of_two_pieces() -> None:
    y = torch.linspace(0, 30, 6001, dtype=torch.float64).unsqueeze(0)
    log_p = torch.logaddexp(
        math.log(0.3) - 0.5 * (y - 6) ** 2 / 0.25 - math.log(0.5), math.log(0.7) - 0.5 * (y - 23) ** 2
    )
    made, _ = Density.of(Axis(Real(), 0.0, 1.0, (), BaseDensity()), GridDensity(y, log_p), None)
    (modes,) = made.modes()
    assert [mode.place for mode in modes] == pytest.approx([23, 6], abs=0.01)
    assert [mode.mass for mode in modes] == pytest.approx([0.7, 0.3], abs=1e-3)
    (region,) = made.region(0.9)
    assert len(region.pieces) == 2 and region.length < 5 and region.mass == pytest.approx(0.9, abs=1e-3)
    low, high = made.interval(torch.tensor([0.5, 0.9], dtype=torch.float64))
    assert low.shape == (1, 2) and float(high[0, 1] - low[0, 1]) > 17


@pytest.mark.parametrize("std", [1.0, 0.05, 0.003])
def test_a_density_integrates_to_one_and_agrees_with_its_cdf(std: float) -> None:
    """Within 1e-4, however narrow: spikes on a wide part."""
    start = torch.linspace(-18, 18, 265, dtype=torch.float64).unsqueeze(0)

    def log_p(y: Tensor) -> Tensor:
        wide = -0.5 * (y - 1) ** 2 + math.log(0.5)
        narrow = -0.5 * ((y - 0.31) / std) ** 2 - math.log(std) + math.log(0.5)
        return torch.logaddexp(wide, narrow) - 0.5 * math.log(2 * math.pi)

    grid = GridDensity.refined(log_p, torch.cat((start, torch.tensor([[0.31]]).double()), 1).sort(-1).values)
    made, log_z = Density.of(Axis(Real(), 0.0, 1.0, (), BaseDensity()), grid, None)
    assert abs(float(log_z)) < 1e-4
    y = torch.tensor([[-1.0, 0.31 - std, 0.31, 0.31 + std, 2.0]], dtype=torch.float64)
    expected = 0.5 * stats.norm(1, 1).cdf(y) + 0.5 * stats.norm(0.31, std).cdf(y)
    np.testing.assert_allclose(made.cdf(y), expected, atol=1e-4)


# ------------------------------------------------------------------------------------------ guesses and atoms

DRAWN = np.random.default_rng(0)
WET = np.where(DRAWN.random(500) < 0.3, 0.0, DRAWN.lognormal(size=500))


@pytest.mark.parametrize(
    ("y", "setting"),
    [
        (DRAWN.normal(size=500), None),
        (20 + DRAWN.normal(size=500), None),
        (DRAWN.lognormal(size=500), "positive"),
        (DRAWN.poisson(3, 500), "integers"),
        (DRAWN.poisson(3, 500) - 4, {"name": "integers", "low": None}),
        (DRAWN.integers(0, 7, 500), "integers"),
        (DRAWN.integers(10_000, 90_000, 500), None),
        (DRAWN.uniform(-np.pi, np.pi, 500), {"name": "circle", "period": 6.283185}),
        (DRAWN.integers(0, 37, 500) * 10, {"name": "circle", "period": 360}),
        (DRAWN.beta(2, 3, 500), {"name": "interval", "low": 0, "high": 1}),
        (WET, {"name": "positive", "atoms": [0.0]}),
        (np.append(DRAWN.normal(size=400), np.full(100, 2.5)), {"name": "real", "atoms": [2.5]}),
        (DRAWN.normal(size=500).round(1), None),
    ],
)
def test_a_guess_is_a_support_that_takes_the_rows(y: np.ndarray, setting: object) -> None:
    found = guess(y.astype(float))
    assert (found and found[0]) == setting
    if found:
        words = f"data.support={text_of(found[0])}"
        (support,) = compose(["task=regression", "data=values", "method=nce", words]).task.data.support
        assert axis(support, torch.from_numpy(y).double()).support.name in str(setting)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        ({"y": WET}, "'data.support={name: positive, atoms: [0]}' models it so; as it stands it is taken for a real"),
        ({"a": np.exp(X := DRAWN.normal(size=500)), "b": X}, "'data.support=[positive, real]'"),
        ({"y": DRAWN.normal(size=500)}, None),
        ({"y": np.where(DRAWN.random(500) < 0.1, -200.0, DRAWN.lognormal(size=500))}, None),  # -200: missing values
    ],
)
def test_a_note_suggests_the_support_that_targets_look_like(frame: dict[str, np.ndarray], sentence: str | None) -> None:
    y = torch.tensor(np.stack(list(frame.values()), 1))
    rows = Arrays(torch.zeros(len(y), 1), y)
    notes = support_notes(Split(rows, rows, rows, list(frame), ["x"], ArrayInput((1,))))
    assert (sentence is None and not notes) or sentence in notes[0]


def test_atoms_that_are_found_are_those_of_the_training_rows() -> None:
    support = support_of({"name": "positive", "atoms": "auto"})
    made = Targets.of(["y"], [support], torch.from_numpy(WET).unsqueeze(1), BaseDensity())
    assert made.axes[0].support.atoms == (0.0,) and made.axes[0].shares == (np.mean(WET == 0),)
    again = Targets.restore(made.plain(), BaseDensity())
    assert again.axes[0].support == made.axes[0].support
    without = Targets.of(["y"], [support], torch.from_numpy(WET[WET > 0]).unsqueeze(1), BaseDensity())
    assert without.axes[0].support.atoms == ()


# ------------------------------------------------------------------------------------------ scores


def test_scores_of_densities_are_their_closed_forms() -> None:
    at = torch.tensor([0.0, 1.3], dtype=torch.float64)
    rainy = rain()
    both = Density(*(getattr(rainy, n).expand(2, -1) for n in ("y", "mass", "height")), rainy.axis)
    np.testing.assert_allclose(both.brier(at), [0.36, 0.16], atol=1e-9)
    assert float(wrapped(180, 5.0).square) == pytest.approx(1 / (10 * math.sqrt(math.pi)), rel=1e-3)
    counts = Axis(Integers(), 4.0, 2.0, (), BaseDensity())
    law = stats.poisson(3.0)
    density, _ = Density.of(counts, None, torch.from_numpy(law.logpmf(counts.values.numpy())).unsqueeze(0))
    assert float(density.square) == pytest.approx(float((law.pmf(np.arange(50)) ** 2).sum()), abs=1e-9)
    ranked = float(density.crps(torch.tensor([2.0])))  # of integers it is the ranked probability score
    assert ranked == pytest.approx(float(((law.cdf(np.arange(50)) - (np.arange(50) >= 2)) ** 2).sum()), abs=1e-6)


def test_pinball_is_half_a_crps_and_qice_is_zero_of_uniform_numbers() -> None:
    points = torch.from_numpy(stats.norm.ppf((np.arange(999) + 0.5) / 999)).unsqueeze(0)
    y = torch.tensor([0.7], dtype=torch.float64)
    assert float(pinball(points, y)) == pytest.approx(float(crps_of_points(points, y)) / 2, rel=1e-6)
    assert float(qice((torch.arange(1000) + 0.5) / 1000)) == pytest.approx(0, abs=1e-6)
    assert float(qice(torch.zeros(100))) == pytest.approx(0.18, abs=1e-6)


def test_errors_on_a_circle_go_the_shorter_way() -> None:
    support = Circle(period=360.0, low=0.0)
    a, b = torch.tensor([1.0, 359.0, 90.0]).double(), torch.tensor([359.0, 1.0, 10.0]).double()
    np.testing.assert_allclose(support.difference(a, b), [2, -2, 80])


@pytest.mark.parametrize("centre", [0.0, 100.0])
def test_the_scores_of_mixed_seeds_do_not_know_the_seam(centre: float) -> None:
    """Two seeds that see the same wrapped normal, one a degree to either side; three observations near it."""
    targets = Targets((Axis(Circle(period=360.0, low=0.0), 180.0, 180 / math.pi, (), BaseDensity()),))
    steps = stats.norm(0, 5).ppf((np.arange(99) + 0.5) / 99)
    y = (centre + np.array([[-4.0], [0.0], [6.0]])) % 360
    means = np.stack([np.full((3, 1), (centre + side) % 360) for side in (-1, 1)])
    points = np.stack([np.tile((centre + side + steps) % 360, (3, 1))[..., None] for side in (-1, 1)])
    arrays = {"good": np.array([True, True]), "log_prob": np.zeros((2, 3)), "pit": np.full((2, 3), 0.5)}
    arrays |= {"mean": means, "points": points, "y": y, "log_base": np.zeros(3)}
    scores = records._mixture_scores(arrays, targets)
    assert scores["rmse"] == pytest.approx(math.sqrt((16 + 36) / 3), abs=1e-6)
    assert scores["mae"] == pytest.approx(10 / 3, abs=0.3) and 1 < scores["crps"] < 4
    assert scores["interval_score"] == pytest.approx(2 * stats.norm(0, 5.1).ppf(0.95), rel=0.03)
