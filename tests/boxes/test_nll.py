"""The box NLL against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from ebmbench.boxes.nll import CLIMBS, LEAST_ESS, BoxNLL, box_nll, weighted_samples
from ebmbench.core import importance
from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.tasks.base import TRUSTED_K

CPU = torch.device("cpu")
Energies = Callable[[Tensor], Energy]


def gaussian(std: Tensor, mean: Tensor, constant: float = 0.0) -> Energies:
    """`f` of a normal law per box and coordinate, `[N, 4]` each, up to a constant."""
    return lambda rows: AutogradEnergy(
        lambda y: constant - 0.5 * ((y - mean[rows, None]) / std[rows, None]).square().sum(-1)
    )


def same(f: Callable[[Tensor], Tensor]) -> Energies:
    """One energy for all boxes; it may be constant."""
    return lambda rows: AutogradEnergy(lambda y: f(y) + 0 * y.sum(-1))


def truncated_nll(std: Tensor, mean: Tensor) -> Tensor:
    """Of the point 0 under `N(mean, std²)` cut to the cube: `[N]`."""
    normal = Normal(mean.double(), std.double())
    one = torch.ones_like(mean, dtype=torch.float64)
    inside = normal.cdf(one) - normal.cdf(-one)
    return (inside.log() - normal.log_prob(0 * one)).sum(-1)


def check(found: BoxNLL, expected: Tensor) -> None:
    """It is right within its error, and says that it can be trusted."""
    assert (found.ess >= LEAST_ESS).all() and (found.error < 0.08).all() and (found.k_hat < TRUSTED_K).all()
    assert ((found.nll - expected).abs() < 4 * found.error + 1e-6).all()


@pytest.mark.parametrize("scale", [0.003, 0.03, 0.1, 0.5, 3.0])
def test_a_quadratic_f_is_a_truncated_gaussian(scale: float) -> None:
    """From far narrower than the first proposal's components to nearly flat."""
    std = scale * torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.7, 1.0, 1.3, 1.0]])
    mean = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, -0.3, 0.2, 0.0]]) * scale
    check(box_nll(gaussian(std, mean, constant=7.5), 2, 0, CPU), truncated_nll(std, mean))


@pytest.mark.parametrize("std", [0.003, 0.02])
def test_a_narrow_mode_far_from_the_box_is_found(std: float) -> None:
    """With a fixed proposal it was wrong by 5 nats, and nothing said so."""
    stds, mean = torch.full((2, 4), std), torch.tensor([[0.6, -0.6, 0.6, 0.6], [-0.9, 0.2, 0.0, 0.9]])
    found = box_nll(lambda rows: AutogradEnergy(lambda y: _log_mixture(y, [mean[rows]], [stds[rows]])), 2, 0, CPU)
    target = _log_mixture(torch.zeros(2, 1, 4), [mean], [stds])[:, 0].double()
    check(found, -target)


def test_an_anisotropic_f_along_a_diagonal() -> None:
    """Standard deviations of .3 and .01 along directions that are no axes."""
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    covariance = turn @ torch.diag(torch.tensor([0.15, 0.05, 0.02, 0.01], dtype=torch.float64) ** 2) @ turn.T
    law = MultivariateNormal(torch.zeros(4, dtype=torch.float64), covariance)
    found = box_nll(same(lambda y: (law.log_prob(y.double()) + 3).float()), 3, 0, CPU)
    check(found, -law.log_prob(torch.zeros(4, dtype=torch.float64)).expand(3))


def _log_mixture(y: Tensor, means: list[Tensor], stds: list[Tensor]) -> Tensor:
    parts = [Normal(mean[:, None], std[:, None]).log_prob(y).sum(-1) for mean, std in zip(means, stds, strict=True)]
    return torch.logsumexp(torch.stack(parts), 0) - math.log(len(parts))


@pytest.mark.parametrize("std", [0.02, 0.05])
def test_two_modes(std: float) -> None:
    """One at the box and one far from it, such as the box of a neighbour: half of the mass is there."""
    means, stds = (
        [torch.zeros(2, 4), torch.tensor([[0.7, 0.0, 0.2, 0.0], [0.0, -0.6, 0.0, 0.3]])],
        torch.full((2, 4), std),
    )
    found = box_nll(
        lambda rows: AutogradEnergy(lambda y: _log_mixture(y, [m[rows] for m in means], [stds[rows]] * 2)), 2, 0, CPU
    )
    check(found, -_log_mixture(torch.zeros(2, 1, 4), means, [stds] * 2)[:, 0].double())


@pytest.mark.parametrize("climbs", [0, CLIMBS])
def test_climbing_f_finds_peaks_that_the_fit_has_lost(climbs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours of a box: on trained heads the fit lost the highest peak of one box in ten, by up to 20 nats."""
    places = torch.tensor([[0.0] * 4, [0.7, -0.3, 0.1, 0.0], [-0.4, 0.5, -0.1, 0.0], [-0.6, -0.7, 0.3, 0.1]])
    heights = torch.tensor([10.0, 30.0, 25.0, 20.0])

    def f(y: Tensor) -> Tensor:
        return torch.logsumexp(heights - (y.unsqueeze(-2) - places).norm(dim=-1) / 0.008, -1)

    def only_at_the_box(density_of: Any, start: Any, rows: Tensor, *others: Any) -> importance.Mixture:
        parts = torch.zeros(1, len(rows), importance.COMPONENTS, 4, dtype=torch.float64)
        chol = torch.diag_embed(parts + 0.05)
        return importance.Mixture(torch.full_like(parts[..., 0], 1 / importance.COMPONENTS), parts, chol)

    monkeypatch.setattr(importance, "annealed", only_at_the_box)
    log_z = math.log(12 * math.pi**2 * 0.008**4) + float(heights.logsumexp(0))
    draws = weighted_samples(same(f), 12, 0, CPU, 512, climbs=climbs)
    found = torch.cat([made.log_z[0] for _, made in draws])
    assert len(found) == 12 and ((found - log_z).abs() < 0.3).all() == bool(climbs)


def test_the_standard_error_is_the_spread_between_seeds() -> None:
    std, mean = torch.full((1, 4), 0.08), torch.full((1, 4), 0.03)
    results = [box_nll(gaussian(std, mean), 1, seed, CPU, samples=512) for seed in range(150)]
    spread = torch.cat([r.nll for r in results]).std()
    stated = torch.cat([r.error for r in results]).mean()
    assert 0.6 < spread / stated < 1.25  # every kernel draws its exact share: a little less than stated


def test_a_constant_f_is_uniform_and_a_constant_changes_nothing() -> None:
    flat = box_nll(same(lambda y: torch.zeros(y.shape[:-1])), 3, 0, CPU)
    check(flat, torch.full((3,), 4 * math.log(2), dtype=torch.float64))
    high = box_nll(same(lambda y: torch.full(y.shape[:-1], 300.0)), 3, 0, CPU)
    torch.testing.assert_close(high.nll, flat.nll)


def test_a_box_that_is_hard_gets_more_samples_and_the_others_do_not() -> None:
    """The hard one has its mass on a thin shell, which no few normals cover well."""

    def energies(rows: Tensor) -> Energy:
        def f(y: Tensor) -> Tensor:
            length = y.norm(dim=-1)
            return -0.5 * torch.where(rows[:, None] == 1, (length - 0.6) / 0.01, length / 0.1).square()

        return AutogradEnergy(f)

    sizes = {
        int(row): made.log_weights.shape[-1]
        for rows, made in weighted_samples(energies, 2, 0, CPU, 512)
        for row in rows
    }
    assert set(sizes) == {0, 1} and sizes[0] < 600 < sizes[1]
    found = box_nll(energies, 2, 0, CPU)
    r = torch.linspace(0, 1, 100_001, dtype=torch.float64)[1:]
    shell = torch.exp(-0.5 * ((r - 0.6) / 0.01).square())
    log_z = torch.log((2 * math.pi**2 * r**3 * shell).sum() * 1e-5)
    expected = torch.stack([2 * math.log(2 * math.pi * 0.1**2) + 0 * log_z, log_z + 0.5 * 60**2])
    assert ((found.nll - expected).abs() < 4 * found.error).all()


def test_an_f_that_no_sample_reaches_is_not_trusted() -> None:
    """A needle of no width on a plain: nothing can find it, and what was found is the plain."""
    found = box_nll(same(lambda y: torch.where((y - 0.7).abs().amax(-1) < 0.02, 40.0, 0.0)), 1, 0, CPU)
    assert found.ess < LEAST_ESS or found.k_hat > TRUSTED_K or abs(float(found.nll) - 4 * math.log(2)) < 0.5


def test_where_f_is_not_a_number_nothing_is_known() -> None:
    def f(y: Tensor) -> Tensor:
        return torch.where(y[..., 0] > 0.5, torch.nan, 0.0)

    found = box_nll(
        lambda rows: AutogradEnergy(lambda y: torch.where(rows[:, None] == 1, f(y), 0 * y[..., 0])), 2, 0, CPU
    )
    assert found.nll[0].isfinite() and found.nll[1].isnan()
