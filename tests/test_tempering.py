"""The partition function by annealed populations, on densities whose integral is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ebmbench.core.energy import AutogradEnergy
from ebmbench.core.importance import Cloud, Proposal
from ebmbench.core.tempering import Tempered, tempered
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Axis, Targets, Wide

LOG_Z = 3.0
ROWS = 40


def normal(y: Tensor, mean: Tensor | float, std: float) -> Tensor:
    """The logarithm of a normal density that is the same in all directions."""
    constant = y.shape[-1] * (math.log(std) + 0.5 * math.log(2 * math.pi))
    return -0.5 * ((y - mean) / std).square().sum(-1) - constant


def narrow(y: Tensor) -> Tensor:
    return normal(y, torch.linspace(-3, 3, y.shape[-1]), 0.03)


def anisotropic(y: Tensor) -> Tensor:
    dim = y.shape[-1]
    turn, _ = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(1)))
    stds = torch.logspace(-1.7, 0.2, dim)
    return normal((y @ turn - 0.5) / stds, 0.0, 1.0) - stds.log().sum()


def two_modes(y: Tensor) -> Tensor:
    return torch.logaddexp(normal(y, -1.0, 0.2) + math.log(0.3), normal(y, 1.0, 0.2) + math.log(0.7))


def shell(y: Tensor) -> Tensor:
    dim = y.shape[-1]
    log_radius = (y - 0.3).norm(dim=-1).clamp(min=1e-20).log()
    log_area = math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(dim / 2)
    return normal((log_radius - 0.5).unsqueeze(-1), 0.0, 0.1) - dim * log_radius - log_area


def far(y: Tensor) -> Tensor:
    return normal(y, 12 / y.shape[-1] ** 0.5, 0.5)


def unequal_modes(y: Tensor) -> Tensor:
    """A narrow mode with most of the mass beside a wide one, which has all of it while the power is low."""
    return torch.logaddexp(normal(y, -1.0, 0.3) + math.log(0.1), normal(y, 1.0, 0.1) + math.log(0.9))


def wide(dim: int) -> Wide:
    return Wide(Targets((Axis(Real(), 0.0, 1.0, (), BaseDensity()),) * dim), torch.device("cpu"))


def made(
    log_density: Callable[[Tensor], Tensor], dim: int, *others: tuple[float, Proposal], count: int = 256, seeds: int = 1
) -> Tempered:
    base = (1 - sum(share for share, _ in others), wide(dim))
    f = AutogradEnergy(lambda y: log_density(y) + LOG_Z)
    return tempered(f, [base, *others], (seeds, ROWS), count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize("log_density", [narrow, anisotropic, two_modes, shell, far])
def test_log_z_is_right_within_its_error(log_density: Callable[[Tensor], Tensor], dim: int) -> None:
    """Over rows that differ by their random numbers alone. What half of the work misses is told as bias."""
    found = made(log_density, dim)
    gap = found.log_z[0] - LOG_Z
    spread = float(gap.std())
    allowed = 3.5 * spread / ROWS**0.5 + abs(float(found.bias.mean()))
    assert abs(float(gap.mean())) < allowed, (gap.mean(), allowed)
    stated = float(found.error.square().mean().sqrt())
    assert 0.4 * spread < stated < 2.5 * spread, (stated, spread)
    assert float((gap.abs() < 2 * found.error[0] + found.bias.mean().abs()).double().mean()) > 0.7


def test_moves_that_fit_themselves_to_their_particles_bias_nothing() -> None:
    """With an island's own covariance log Z of the narrow normal would be 0.85 too high in 16 dimensions."""
    gap = made(narrow, 16, count=512).log_z - LOG_Z
    assert abs(float(gap.mean())) < 0.4


def test_the_draws_are_the_density_s() -> None:
    found = made(anisotropic, 4, count=2048)
    grid = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(2))
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
    exact = (grid * torch.logspace(-1.7, 0.2, 4) + 0.5) @ turn.T
    torch.testing.assert_close(found.mean.mean((0, 1)).float(), exact.mean(0), atol=0.06, rtol=0)
    torch.testing.assert_close(found.spread.mean((0, 1)).float(), exact.std(0), atol=0.03, rtol=0.1)
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(1, ROWS, dtype=torch.float64))


def test_each_part_of_the_start_is_answerable_for_its_own_mass() -> None:
    """A mode that tempering from the base density loses is found where a part of the start lies near it."""
    alone = made(unequal_modes, 8).log_z.mean() - LOG_Z
    assert float(alone) < -1.5  # only the wide mode: log 0.1 is -2.3
    near = Cloud(torch.full((1, 8), 1.3, dtype=torch.float64), 0.3 * torch.eye(8, dtype=torch.float64))
    found = made(unequal_modes, 8, (0.3, near))
    assert abs(float(found.log_z.mean()) - LOG_Z) < 0.15


def test_parts_that_overlap_count_no_mass_twice() -> None:
    dim = 3
    same = wide(dim)
    found = made(two_modes, dim, (0.4, same))
    assert abs(float(found.log_z.mean()) - LOG_Z) < 0.1


def test_little_work_is_told_as_bias() -> None:
    """Many narrow modes far apart, in 8 dimensions: what is missed by few particles is not missed in silence."""

    def rough(y: Tensor) -> Tensor:
        weights = torch.randn(8, 24, generator=torch.Generator().manual_seed(3))
        return 12 * torch.tanh(2 * y @ weights).mean(-1) * 4 + normal(y, 0.0, 3.0)

    few, many = made(rough, 8, count=32), made(rough, 8, count=2048)
    missed = float(many.log_z.mean() - few.log_z.mean())
    assert missed > 0
    assert missed < 2 * float(few.bias.mean().abs()) + 3 * float(few.error.square().mean().sqrt()) / ROWS**0.5
    assert abs(float(many.bias.mean())) < float(few.bias.mean())


def test_a_density_is_the_same_beside_others() -> None:
    one, two = made(far, 3), made(far, 3, seeds=2)
    torch.testing.assert_close(one.log_z[0], two.log_z[0], atol=0.05, rtol=0)
    torch.testing.assert_close(one.islands.shape, two.islands[:1].shape)


def test_energies_that_are_no_number_give_none() -> None:
    found = made(lambda y: torch.where(y[..., 0] > 0, torch.nan, normal(y, 0.0, 1.0)), 2)
    assert found.log_z.isnan().all() and found.error.isnan().all()
