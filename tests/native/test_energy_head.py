"""The fused energy head against PyTorch operations in float64: values, derivatives and their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.methods.base import Method
from ebmbench.methods.contrastive import NCE
from ebmbench.methods.likelihood import MLMCMC
from ebmbench.methods.score import DSM, SM
from ebmbench.models.networks.fused_head import SERIAL, HeadStack
from ebmbench.models.networks.mlp import MLP
from ebmbench.models.stack import Place, Stack
from ebmbench.native import build
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Axis, Targets, WithBase

pytestmark = pytest.mark.skipif(build.unavailable() is not None, reason=f"no kernels: {build.unavailable()}")

CPU = torch.device("cpu")
METHODS: dict[str, Method] = {
    "nce": NCE(num_samples=70),
    "ml-mcmc": MLMCMC(num_samples=7, langevin_steps=3, langevin_step=0.05),
    "dsm": DSM(num_samples=9, sigma=0.2),
    "sm": SM(),
}


def stacks(width: int, dim: int, seeds: int, relative: bool = True) -> tuple[Stack, Stack]:
    """The same models by the kernel, and by PyTorch in float64; their weights are large enough to saturate."""
    network = MLP(head_width=width, relative=relative)
    fused = network.stack((3,), dim, Place(range(seeds), CPU))
    exact = network.stack((3,), dim, Place(range(seeds), CPU, torch.float64, "plain"))
    with torch.no_grad():
        fused.flat.mul_(1.5)
        if relative:  # it starts at zero
            fused.views()["head.frame.weight"].normal_(0, 0.1, generator=torch.Generator().manual_seed(width))
        exact.flat.copy_(fused.flat.double())
    assert isinstance(fused, HeadStack) and not isinstance(exact, HeadStack)
    return fused, exact


def points(seeds: int, batch: int, samples: int, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seeds + 10 * batch + 1000 * samples)
    shapes = [(seeds, batch, 3), (seeds, batch, samples, dim), (seeds, batch, samples), (seeds, batch, samples, dim)]
    x, y, values, slopes = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, y, values, slopes


def everything(stack: Stack, x: Tensor, y: Tensor, values: Tensor, slopes: Tensor) -> list[Tensor]:
    """Values, their gradients in weights and y, slopes with and without a graph, and their gradient in the weights."""
    f, _ = stack.bind(x.to(stack.flat.dtype))
    y, values, slopes = (t.to(stack.flat.dtype) for t in (y, values, slopes))
    at = y.clone().requires_grad_()
    value = f(at)
    of_value = torch.autograd.grad((value * values).sum(), [stack.flat, at], retain_graph=True)
    slope = f.grad(at.detach(), create_graph=True)
    of_slope = torch.autograd.grad((slope * slopes).sum(), stack.flat, retain_graph=True)
    return [t.detach() for t in (value, *of_value, slope, f.grad(at.detach()), *of_slope)]


# A part of a block, several examples in a vector and in a block, several blocks in an example, several tasks; widths
# that are no multiple of a tile, and the largest.
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(
    ("width", "dim", "seeds", "batch", "samples"),
    [
        (32, 1, 1, 1, 1),
        (32, 1, 2, 3, 7),
        (30, 4, 3, 5, 64),
        (5, 3, 2, 64, 1),
        (32, 2, 1, 3, 1025),
        (64, 16, 1, 2, 4500),
    ],
)
def test_all_derivatives_against_float64(
    width: int, dim: int, seeds: int, batch: int, samples: int, relative: bool
) -> None:
    fused, exact = stacks(width, dim, seeds, relative)
    given = points(seeds, batch, samples, dim)
    for ours, theirs in zip(everything(fused, *given), everything(exact, *given), strict=True):
        assert (ours.double() - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradient_of_methods_are_the_plain_ones(name: str) -> None:
    fused, exact = stacks(32, 2, 2)
    x, y, _, _ = points(2, 6, 1, 2)
    seen = []
    for stack in (fused, exact):
        f, _ = stack.bind(x.to(stack.flat.dtype))
        target = y[:, :, 0].to(stack.flat.dtype)
        loss = METHODS[name].loss(f, target, Step(Streams((0, 3)).at(11), GaussianMixture(stds=(0.1, 0.8))))
        seen.append((loss.double(), torch.autograd.grad(loss.sum(), stack.flat)[0].double()))
    torch.testing.assert_close(seen[0][0], seen[1][0], rtol=2e-5, atol=2e-5)
    assert (seen[0][1] - seen[1][1]).abs().max() <= 1e-4 * seen[1][1].abs().max()


def test_one_set_of_candidates_serves_the_whole_mini_batch() -> None:
    fused, _ = stacks(32, 2, 2)
    x, y, _, _ = points(2, 5, 9, 2)
    f, _ = fused.bind(x)
    assert torch.equal(f(y[:, :1]), f(y[:, :1].expand_as(y)))


def test_the_number_of_threads_changes_nothing(threads: None) -> None:
    fused, _ = stacks(32, 2, 3)
    given = points(3, 9, 1025, 2)
    assert given[2].numel() > SERIAL
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(everything(fused, *given))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_seed_whose_weights_are_not_finite_says_so_and_leaves_the_others_alone() -> None:
    fused, _ = stacks(32, 2, 3)
    given = points(3, 4, 70, 2)
    good = everything(fused, *given)
    with torch.no_grad():
        fused.views()["head.mix.weight"][1, 4, 4] = torch.nan
    bad = everything(fused, *given)
    assert bad[0][1].isnan().all() and bad[3][1].isnan().all()
    assert all(torch.equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(good, bad, strict=True))


def test_what_the_kernel_has_no_room_for_takes_the_plain_path() -> None:
    for network, dim, backend in ((MLP(head_width=65), 1, "auto"), (MLP(), 17, "auto"), (MLP(), 1, "plain")):
        assert not isinstance(network.stack((3,), dim, Place((0,), CPU, backend=backend)), HeadStack)


def test_score_methods_of_a_model_with_a_base_density_use_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    fused, _ = stacks(32, 2, 2)
    x, y, _, slopes = points(2, 5, 9, 2)
    base = Targets((Axis(Real(), 0.0, 1.0, (), BaseDensity()),))
    f, _ = fused.bind(x)
    monkeypatch.setattr(f, "plain", None)
    slope = WithBase(f, base).grad(y, create_graph=True)
    torch.testing.assert_close(slope, f.grad(y) + base.score(y))
    assert (torch.autograd.grad((slope * slopes).sum(), fused.flat)[0] != 0).any()
    assert not WithBase(f, base).grad(y.requires_grad_()).requires_grad
