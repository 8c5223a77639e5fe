"""The range of the training targets: an energy is constant beyond it, and mass beyond it is counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebmbench.core.energy import AutogradEnergy
from ebmbench.models.networks.mlp import MLP
from ebmbench.models.stack import Place
from ebmbench.native import build
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.real import Real
from ebmbench.supports.target_range import BEND, MARGIN, InRange, TargetRange
from ebmbench.supports.targets import Axis
from ebmbench.tasks.regression.density import Density
from ebmbench.tasks.regression.quadrature import GridDensity

TARGETS = TargetRange.of(torch.tensor([[-1.5, 0.0], [0.2, 2.0], [2.0, 1.0]]))


def of(grid: GridDensity) -> Density:
    return Density.of(Axis(Real(), 0.0, 1.0, (), BaseDensity()), grid, None)[0]


def energy(y: Tensor) -> Tensor:
    return (torch.sin(3 * y[..., 0]) + y.square().sum(-1)) / 2


def test_candidates_are_clamped_to_the_range_of_training_targets() -> None:
    inside = torch.tensor([[-1.5, 0.0], [2.0, 2.0], [0.3, 1.1]])
    clamped, distance = TARGETS.clamp(inside)
    assert (clamped - inside).abs().max() < BEND * 0.05 and distance.max() < BEND * 0.1
    far = torch.tensor([[-50.0, 40.0], [60.0, -7.0]])
    ends = torch.tensor([[-1.5 - MARGIN, 2.0 + MARGIN], [2.0 + MARGIN, 0.0 - MARGIN]])
    clamped, distance = TARGETS.clamp(far)
    torch.testing.assert_close(clamped, ends)
    torch.testing.assert_close(distance, (far - ends).abs().sum(-1))
    rising = torch.linspace(-5, 5, 401, dtype=torch.float64).unsqueeze(1).expand(-1, 2)
    assert TARGETS.clamp(rising)[0].diff(dim=0).min() > -1e-12


def test_no_network_can_put_mass_far_from_the_training_targets() -> None:
    """An f that rises by 50 nats ten standard deviations away has no mass there."""
    y = torch.linspace(-60, 60, 40001, dtype=torch.float64)
    one = TargetRange.of(torch.tensor([[-1.0], [1.0]]))
    f = InRange(AutogradEnergy(lambda y: (50 * torch.sigmoid(y.abs() - 10)).sum(-1)), one)
    density = of(GridDensity(y.unsqueeze(0), f(y.view(1, -1, 1))))
    assert 1 - density.cdf_at(torch.tensor([[9.0]])).item() < 1e-3


def test_derivatives_are_those_of_autograd() -> None:
    y = 3 * torch.randn(2, 4, 50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = InRange(AutogradEnergy(energy), TARGETS)
    whole = AutogradEnergy(f)
    torch.testing.assert_close(f.grad(y), whole.grad(y))
    point = y.clone().requires_grad_()
    ours, theirs = (torch.autograd.grad(e.grad(point, create_graph=True).square().sum(), point)[0] for e in (f, whole))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)


@pytest.mark.skipif(build.unavailable() is not None, reason=f"no kernels: {build.unavailable()}")
@pytest.mark.parametrize("relative", [False, True])
def test_a_compiled_energy_has_the_derivatives_of_the_plain_one(relative: bool) -> None:
    network, x = MLP(relative=relative), torch.randn(2, 5, 3)
    y = 3 * torch.randn(2, 5, 40, 2)
    results = []
    for dtype, backend in ((torch.float32, "auto"), (torch.float64, "plain")):
        stack = network.stack((3,), 2, Place((0, 1), torch.device("cpu"), dtype, backend))
        if results:
            stack.flat.data.copy_(results[0][0])
        f = InRange(stack.bind(x.to(dtype))[0], TARGETS)
        point = y.to(dtype).requires_grad_()
        score = f.grad(point, create_graph=True)
        trace = torch.autograd.grad(score[..., 0].sum(), point, create_graph=True)[0]
        loss = (trace.sum(-1) + score.square().sum(-1)).mean() + f(y.to(dtype)).mean()
        results.append((stack.flat.detach(), torch.autograd.grad(loss, stack.flat)[0]))
    torch.testing.assert_close(results[0][1].double(), results[1][1], rtol=1e-3, atol=1e-5)


def test_mass_outside_is_beyond_the_range_widened_by_a_tenth() -> None:
    one = TargetRange.of(torch.tensor([[-1.0], [1.0]]))
    assert [end.item() for end in one.widened] == pytest.approx([-1.2, 1.2])
    y = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor([[0.0], [1.0]], dtype=torch.float64), 0.5)
    outside = of(GridDensity(y.repeat(2, 1), normal.log_prob(y))).mass_outside(*one.widened)
    expected = normal.cdf(torch.tensor(-1.2)) + 1 - normal.cdf(torch.tensor(1.2))
    torch.testing.assert_close(outside, expected.squeeze(1), rtol=0, atol=1e-5)
    assert TARGETS.is_outside(torch.tensor([[0.0, 1.0], [0.0, 2.3], [-1.9, 1.0]])).tolist() == [False, True, True]
