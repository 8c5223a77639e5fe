"""The gradient laboratory: exact where a closed form says so, and it sees what theory says of the estimators."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from benchmarks import gradients, gradients_report
from ebmbench.config.compose import compose
from ebmbench.core import registry
from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.errors import UserError
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Draws
from ebmbench.methods.base import Method, exact_nll
from ebmbench.methods.contrastive import NCE
from ebmbench.methods.likelihood import MLIS
from ebmbench.models.stack import Stack
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.tasks.regression.learner import RegressionLearner

WIDE = GaussianMixture(stds=(0.2, 0.6), shared=False)
PARAMETERS = torch.tensor([3.0, 0.1, 0.6], dtype=torch.float64)
"""log precision a, intercept m and slope s of `f = -exp(a)/2 (y - m - s x)²`."""


class Bell(Stack):
    """Copies of one Gaussian energy; its features are 1 and x."""

    num_features = 2

    def __init__(self, copies: int) -> None:
        super().__init__({"bell": PARAMETERS.expand(copies, -1)})

    def bind(self, x: Tensor, index: int | None = None) -> tuple[Energy, Callable[[], Tensor]]:
        a, m, s = self.flat.unsqueeze(-1).unsqueeze(-1).unbind(1)

        def f(y: Tensor) -> Tensor:
            return -0.5 * a.exp() * (y.squeeze(-1) - m - s * x.unsqueeze(-1)).square()

        return AutogradEnergy(f), lambda: torch.stack((torch.ones_like(x), x), dim=-1)


class Bells(RegressionLearner):
    """Their estimators are measured, and no score."""

    def evaluate(self, run_dir: Path, diverged: Sequence[bool]) -> list[dict[str, float]]:
        raise AssertionError

    def log_partition(self, draws: Draws, y: Tensor) -> Callable[[Energy], Tensor]:
        return lambda f: gradients.log_partition(f, y)


def bells(method: Method, proposal: Proposal | None = WIDE, copies: int = 20, points: int = 40) -> RegressionLearner:
    x = torch.linspace(-1, 1, points, dtype=torch.float64)
    y = (0.3 * x + 0.3 * (7 * x).sin()).unsqueeze(-1)
    return Bells(Bell(copies), x, y, method, proposal, range(copies), 1, 10)


def test_the_exact_gradient_is_the_closed_form() -> None:
    learner = bells(NCE())
    found = gradients.example_gradients(learner, exact_nll)
    assert found is not None and found.shape == (40, 3)
    x, y, (a, m, s) = learner.x, learner.y[:, 0], PARAMETERS
    residual = y - m - s * x
    closed = torch.stack((0.5 * a.exp() * residual**2 - 0.5, -a.exp() * residual, -a.exp() * residual * x), dim=1)
    torch.testing.assert_close(found, closed, rtol=1e-9, atol=1e-9)


def test_the_exact_gradient_of_a_network_is_that_of_finite_differences() -> None:
    config = compose(["task=1d", "method=ml-exact", "data.num_train=3"])
    flat = gradients.trained_here(compose(["task=1d", "method=ml-exact", "data.num_train=64", "trainer.epochs=1"]))[1]

    def loss(parameters: Tensor) -> float:
        learner = gradients.held(config, "nce", gradients.Model("", parameters), copies=1, dtype=torch.float64)
        f, _ = learner.stack.bind(learner.x.unsqueeze(0))
        y = learner.y.unsqueeze(0)
        return (gradients.log_partition(f, y) - f(y.unsqueeze(-2)).squeeze(-1)).mean().item()

    start = flat.flat.double()
    learner = gradients.held(config, "nce", dataclasses.replace(flat, flat=start), dtype=torch.float64)
    found = gradients.example_gradients(learner, exact_nll)
    assert found is not None
    for index in range(0, len(start), 97):
        bump = torch.zeros_like(start)
        bump[index] = 1e-5
        difference = (loss(start + bump) - loss(start - bump)) / 2e-5
        assert found.mean(0)[index].item() == pytest.approx(difference, rel=1e-4, abs=1e-7)


def bias_of(num_samples: int) -> tuple[float, float]:
    learner = bells(MLIS(num_samples=num_samples), copies=200)
    exact = gradients.example_gradients(learner, exact_nll)
    assert exact is not None
    row = gradients.scores(gradients.gradient_pairs(learner, 10_000), exact, exact)
    assert row["bias"] == row["own_bias"] and row["own_cosine"] == pytest.approx(1)
    return row["bias"], row["bias_error"]


def test_the_bias_of_ml_is_falls_as_one_over_m() -> None:
    (few, few_error), (many, many_error) = bias_of(32), bias_of(128)
    assert few > 20 * few_error and many > 10 * many_error  # both are seen
    assert 3 < few / many < 6  # 4, and a bit more: the next term falls as 1/M²


LIMITS = [name for name in registry.known("method") if name not in ("ml-mcmc", "pcd")]


@pytest.mark.parametrize("name", LIMITS)
def test_a_method_comes_to_its_own_objective_with_many_samples(name: str) -> None:
    """And away from it with few, or from another method's, which shows that the test can tell."""
    cls = registry.known("method")[name]
    many = {"num_samples": 4096} if "num_samples" in cls.model_fields else {}
    settings = {"kld-is": {"sigma": 0.2}, "nce+": {"beta": 0.5}, "mdsm": {"levels": 3, "sigma_low": 0.1}}
    method = cls.model_validate({**many, **settings.get(name, {})})
    assert isinstance(method, Method)
    learner = bells(method, WIDE if method.uses_proposal else None)
    with torch.no_grad():
        for parameter in learner.own.parameters.values():
            parameter.copy_(parameter[:1].clone().expand_as(parameter))
    own = gradients.example_gradients(learner, method.population)
    exact = gradients.example_gradients(learner, exact_nll)
    assert own is not None and exact is not None
    row = gradients.scores(gradients.gradient_pairs(learner, 60), exact, own)
    size = (own.mean(0).norm() / exact.mean(0).norm()).item()
    assert row["own_bias"] < 5 * row["own_bias_error"] + 0.01 * size
    if name not in ("ml-is", "nce", "ml-exact"):  # theirs is the likelihood itself
        assert row["bias"] > 3 * row["bias_error"] or row["own_cosine"] > 0.999


def test_scores_of_gradients_that_are_known() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.tensor([[2.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    places = torch.tensor([[0], [1]]).repeat(5000, 1)
    noise = torch.randn(2, 10_000, 2, generator=generator, dtype=torch.float64)
    drawn = exact[places[:, 0]] + torch.tensor([0.0, 1.5], dtype=torch.float64) + 0.3 * noise
    row = gradients.scores(gradients.Pairs(places, drawn, 1.0), exact, None)
    assert row["exact_norm"] == pytest.approx(3)
    assert row["bias"] == pytest.approx(0.5, abs=0.01) and row["bias_error"] == pytest.approx(
        0.3 / math.sqrt(10_000) / 3, rel=0.05
    )
    assert row["variance"] == pytest.approx(2 * 0.09 / 9, rel=0.05)
    assert row["snr"] == pytest.approx(math.hypot(3, 1.5) / math.sqrt(1 + 2 * 0.09), rel=0.02)
    assert row["mean_cosine"] == pytest.approx(3 / math.hypot(3, 1.5), rel=0.01)
    assert math.isnan(row["own_bias"])


def test_rows_are_repeatable_and_written(tmp_path: Path) -> None:
    config = compose(["task=1d", "method=ml-exact", "data.num_train=64", "trainer.epochs=1"])
    models = gradients.trained_here(config)

    def rows() -> pd.DataFrame:
        found = gradients.measure(config, models, ["nce", "pcd", "sm"], [1, 16], 40)
        return pd.DataFrame([dataclasses.asdict(row) for row in found])

    frame = rows()
    assert list(frame["samples"]) == [1, 16, 1, 16, 0] * 2 and set(frame["energy"]) == {m.title for m in models}
    pd.testing.assert_frame_equal(frame.drop(columns="milliseconds"), rows().drop(columns="milliseconds"))
    paths = gradients_report.write(frame, "gradients-1d-1", tmp_path, "the command")
    assert [path.suffix for path in paths] == [".csv", ".md", ".png"] and paths[2].stat().st_size > 20_000
    text = paths[1].read_text()
    assert "the command" in text and text.count("| nce | 16 |") == 2 and "## Untrained" in text


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    for words in (["--gradients", "3"], ["--samples", "0"], ["--run", str(tmp_path)]):
        with pytest.raises(UserError, match=words[0]):
            gradients.main(words)


# ---------------------------------------------------------------------------------------------- what the docs say


@pytest.fixture(scope="module")
def measured() -> Callable[[int, str, str, int], pd.Series]:
    """Rows of the committed figures: dataset, state (`untrained` or `after`), method and M."""
    folder = Path(__file__).parents[2] / "results" / "bench"
    frames = {dataset: pd.read_csv(folder / f"gradients-1d-{dataset}.csv") for dataset in (1, 2)}

    def row(dataset: int, state: str, method: str, samples: int) -> pd.Series:
        frame = frames[dataset]
        chosen = frame["energy"].str.startswith(state) & (frame["method"] == method) & (frame["samples"] == samples)
        (found,) = (row for _, row in frame[chosen].iterrows())
        return found

    return row


def test_the_page_follows_from_the_committed_figures(measured: Callable[[int, str, str, int], pd.Series]) -> None:
    def both(state: str, method: str, samples: int, column: str) -> list[float]:
        return [float(measured(dataset, state, method, samples)[column]) for dataset in (1, 2)]

    after = "after 10 epochs"
    assert min(both(after, "nce", 1024, "cosine") + both(after, "ml-is", 1024, "cosine")) >= 0.985
    exact = both(after, "ml-exact", 0, "snr")
    assert both(after, "nce", 1024, "snr") == pytest.approx(exact, rel=0.02)
    few = both(after, "nce", 16, "cosine") + both(after, "ml-is", 16, "cosine")
    assert min(few) >= 0.625 and max(few) < 0.735
    for method in ("nce", "ml-is"):
        times = zip(both(after, method, 16, "milliseconds"), both(after, method, 1024, "milliseconds"), strict=True)
        assert all(0.05 < one / other < 0.15 for one, other in times)
    found = [measured(1, after, "nce", count)["bias"] for count in (1, 16, 1024)]
    assert found == pytest.approx([1.0, 0.25, 0.03], abs=0.005)
    assert both(after, "nce+", 1024, "cosine") == pytest.approx([0.93, 0.85], abs=0.005)
    assert both(after, "nce", 1024, "cosine") == pytest.approx([0.99, 0.99], abs=0.005)
    assert both("untrained", "ml-is", 16, "bias") == pytest.approx([0.25, 0.34], abs=0.005)
    assert both("untrained", "ml-is", 1024, "bias") == pytest.approx([0.58, 0.76], abs=0.005)
    pairs = zip(both(after, "kld-is", 1024, "variance"), both(after, "ml-is", 1024, "variance"), strict=True)
    assert all(one > 10 * other for one, other in pairs)
    assert min(both(after, "kld-is", 1024, "own_cosine")) > 0.99
    chains = [value for count in gradients.SAMPLES for value in both(after, "ml-mcmc", count, "bias")]
    assert min(chains) >= 0.745 and max(chains) < 0.895
    assert both(after, "pcd", 1024, "bias") == pytest.approx([0.25, 0.08], abs=0.005)
    for method in ("pcd", "ml-mcmc"):
        times = zip(both(after, method, 1024, "milliseconds"), both(after, "nce", 1024, "milliseconds"), strict=True)
        assert all(5 < one / other < 8.5 for one, other in times)
    assert both(after, "nce-binary", 1024, "cosine") == pytest.approx([0.95, 0.62], abs=0.005)
    assert both(after, "snl", 1024, "cosine") == pytest.approx([0.94, 0.58], abs=0.005)
    assert max(measured(2, after, name, 1024)["own_cosine"] for name in ("nce-binary", "snl")) < 0.65
    assert min(both("untrained", "sm", 0, "cosine") + both("untrained", "dsm", 1024, "cosine")) > 0.97
    assert measured(1, after, "sm", 0)["cosine"] == pytest.approx(0.44, abs=0.005)
    assert measured(1, after, "sm", 0)["mean_cosine"] < 0
    assert both(after, "dsm", 1024, "cosine") == pytest.approx([0.42, 0.85], abs=0.005)
    assert both(after, "dsm", 16, "cosine") == pytest.approx(both(after, "dsm", 1024, "cosine"), abs=0.02)
    assert both(after, "ed", 1024, "bias") == pytest.approx([0.46, 0.15], abs=0.005)
    ratio = zip(both(after, "ed", 1024, "variance"), both(after, "ed", 16, "variance"), strict=True)
    assert all(one > 0.5 * other for one, other in ratio)
