"""The energy of a box: coordinates, derivatives, and splitting that changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from ebmbench.boxes.coordinates import to_boxes, to_relative
from ebmbench.boxes.energy import ACTIVATIONS, BoxEnergy
from ebmbench.boxes.pooling import Pyramid
from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.methods.base import Method
from ebmbench.methods.contrastive import NCE, NCEPlus
from ebmbench.methods.likelihood import KLDIS, MLIS, MLMCMC
from ebmbench.methods.score import DSM, SM
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.tasks.detection.head import ClassHead

DRAWS = Streams([3], stacked=False).at(0)
PROPOSAL = GaussianMixture(stds=(0.0375, 0.075, 0.15), shared=False)
ALL: dict[str, Method] = {
    "ml-is": MLIS(num_samples=7),
    "ml-mcmc": MLMCMC(num_samples=6, langevin_steps=2, langevin_step=1e-2),
    "kld-is": KLDIS(num_samples=7, sigma=0.0225),
    "nce": NCE(num_samples=7),
    "nce+": NCEPlus(num_samples=7, beta=0.1),
    "sm": SM(),
    "dsm": DSM(num_samples=6, sigma=0.075),
}


def make_energy(
    count: int = 5,
    activation: str = "softplus",
    dtype: torch.dtype = torch.float64,
    max_boxes: int = 16384,
    last: float = 0.5,
) -> BoxEnergy:
    """Boxes on two images of two levels; a last layer of weights large enough to make f vary."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 4, 64 // s, 80 // s, dtype=dtype, generator=generator) for s in (4, 8)]
    low = torch.rand(count, 2, generator=generator) * 30
    reference = torch.cat((low, low + 8 + 40 * torch.rand(count, 2, generator=generator)), 1)
    layers = (nn.Linear(4 * 49, 16), nn.Linear(16, 12))
    head = ClassHead.start(layers, 3, activation, from_base=False, draws=DRAWS).to(dtype)
    with torch.no_grad():
        head.energy.weight.mul_(last / 0.001)
    images = torch.randint(0, 2, (count,), generator=generator)
    labels = torch.randint(1, 4, (count,), generator=generator)
    return BoxEnergy(head, Pyramid.from_maps(maps, (4, 8)), reference, images, labels, max_boxes=max_boxes)


def test_relative_coordinates() -> None:
    reference = torch.tensor([[10.0, 20.0, 30.0, 60.0]], dtype=torch.float64)
    torch.testing.assert_close(to_relative(reference, reference), torch.zeros(1, 4, dtype=torch.float64))
    moved = torch.tensor([[20.0, 10.0, 60.0, 30.0]], dtype=torch.float64)  # twice as wide, half as high
    expected = torch.tensor([[1.0, -0.5, math.log(2), -math.log(2)]], dtype=torch.float64)
    torch.testing.assert_close(to_relative(moved, reference), expected)
    y = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    boxes = to_boxes(y, reference)
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    torch.testing.assert_close(to_relative(boxes, reference), y)


def test_small_steps_are_not_lost_far_from_the_origin() -> None:
    """In float32, a step of 1e-4 of a small box at the far side of a large image moves f by its slope.

    There cx/w is 255, which float32 holds to 3e-5.
    """
    energy = make_energy(1, dtype=torch.float32, last=5.0)
    feature = torch.randn(1, 4, 8, 400, generator=torch.Generator().manual_seed(2))
    reference = torch.tensor([[1300.3, 9.2, 1305.4, 15.9]])
    one = torch.ones(1, dtype=torch.int64)
    energy = BoxEnergy(energy.head, Pyramid.from_maps([feature], (4,)), reference, 0 * one, one)
    slope = energy.grad(torch.zeros(1, 1, 4))[0, 0, 0].item()
    shift = 1e-4 * torch.tensor([[[-1.0, 0, 0, 0], [1, 0, 0, 0]]])
    below, above = energy(shift)[0].tolist()
    assert (above - below) / 2e-4 == pytest.approx(slope, rel=0.02)


def test_the_hidden_layers_start_from_the_base_box_head() -> None:
    """With its weights, the hidden features are the base's own of the same pooled features in torchvision's layout."""
    base = TwoMLPHead(4 * 49, 32)
    head = ClassHead.start((base.fc6, base.fc7), 5, "relu", from_base=True, draws=DRAWS)
    pooled = torch.randn(6, 7, 7, 4)
    expected = base(pooled.permute(0, 3, 1, 2))
    hidden = torch.relu(head.fc7(torch.relu(head.fc6(pooled.flatten(1)))))
    torch.testing.assert_close(hidden, expected)
    labels = torch.tensor([1, 2, 3, 4, 5, 1])
    values = head(pooled, labels)
    torch.testing.assert_close(values, (expected * head.energy.weight[labels - 1]).sum(1))
    assert not head.energy.bias.any()
    large = ClassHead.start((nn.Linear(49, 200), nn.Linear(200, 300)), 90, "relu", True, DRAWS)
    assert 0.00095 < large.energy.weight.std() < 0.00105


def test_the_start_depends_on_the_seed_alone() -> None:
    def start(seed: int) -> Tensor:
        draws = Streams([seed], stacked=False).at(0)
        head = ClassHead.start((nn.Linear(49, 8), nn.Linear(8, 8)), 3, "relu", False, draws)
        return torch.cat([p.detach().flatten() for p in head.parameters()])

    torch.testing.assert_close(start(1), start(1), rtol=0, atol=0)
    assert (start(1) != start(2)).float().mean() > 0.9


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_gradient_in_relative_coordinates(activation) -> None:
    energy = make_energy(activation=activation)
    y = 0.1 * torch.randn(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    gradient = energy.grad(y)
    values, same = energy.value_and_grad(y)
    torch.testing.assert_close(same, gradient)
    torch.testing.assert_close(values, energy(y))
    torch.testing.assert_close(energy.grad(y, create_graph=True), gradient)
    step = 1e-6
    for d in range(4):
        shift = step * torch.eye(4, dtype=torch.float64)[d]
        difference = (energy(y + shift) - energy(y - shift)) / (2 * step)
        torch.testing.assert_close(gradient[..., d], difference.detach(), rtol=1e-5, atol=1e-7)


def test_the_value_is_that_of_the_box_class_and_image() -> None:
    energy = make_energy()
    y = torch.zeros(5, 1, 4)
    together = energy(y)
    for k in range(5):
        alone = energy.of(torch.tensor([k]))
        torch.testing.assert_close(alone(y[:1]), together[k : k + 1])
    with torch.no_grad():
        energy.head.energy.bias += torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)
    torch.testing.assert_close(energy(y)[:, 0] - together[:, 0], 10.0 * energy.context.double())


def test_f_is_continuous_where_the_fitting_level_changes() -> None:
    """A candidate keeps its target's level: f has no jump where another would fit; else it has."""
    energy = make_energy(1)
    generator = torch.Generator().manual_seed(5)
    maps = [torch.randn(1, 4, 320 // s, 320 // s, dtype=torch.float64, generator=generator) for s in (4, 8)]
    energy.pyramid = Pyramid.from_maps(maps, (4, 8))
    energy.reference = torch.tensor([[100.0, 100.0, 212.0, 212.0]], dtype=torch.float64)  # sqrt(area) is 112: P2 | P3
    energy.images = torch.zeros(1, dtype=torch.int64)
    y = torch.zeros(1, 2, 4, dtype=torch.float64)
    y[0, :, 2] = torch.tensor([-1e-5, 1e-5])
    jumps = {}
    for keep in (True, False):
        energy.keep_level = keep
        jumps[keep] = (energy(y)[0, 1] - energy(y)[0, 0]).abs().item()
    assert jumps[True] < 1e-3 < 0.05 < jumps[False]


def test_chunks_change_nothing() -> None:
    y = 0.1 * torch.randn(5, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    whole, split = make_energy(), make_energy(max_boxes=3)
    with torch.no_grad():
        torch.testing.assert_close(split(y), whole(y))
    torch.testing.assert_close(split.grad(y), whole.grad(y))


@pytest.mark.parametrize("name", sorted(ALL))
def test_gradient_of_every_loss_against_finite_differences_in_theta(name) -> None:
    """For `dsm` and `sm` it goes through the second derivative of the pooling."""
    energy = make_energy(3)

    def loss() -> Tensor:
        targets = torch.zeros(3, 4, dtype=torch.float64)
        return ALL[name].loss(energy, targets, Step(DRAWS, PROPOSAL)).mean()

    if name == "ml-mcmc":
        pytest.skip("its samples are detached, so that its gradient is not that of its value")
    parameters = list(energy.head.parameters())
    grads = torch.autograd.grad(loss(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(7)
    step = 1e-6
    for parameter, grad in zip(parameters, grads, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
            values.append(loss().item())
            with torch.no_grad():
                parameter -= sign * step * direction
        expected = (values[0] - values[1]) / (2 * step)
        found = 0.0 if grad is None else (grad * direction).sum().item()
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("activation", "sees"), [("relu", False), ("softplus", True), ("silu", True), ("gelu", True)])
def test_only_a_smooth_activation_has_curvature_of_its_own(activation, sees) -> None:
    """With features linear in y the curvature of f is the network's alone; autograd sees none of a ReLU's."""
    energy = make_energy(1, activation=activation)
    x = torch.arange(80, dtype=torch.float64).expand(1, 4, 64, 80).contiguous() / 40
    energy.pyramid = Pyramid.from_maps([x], (1,))
    energy.reference = torch.tensor([[20.2, 20.1, 40.7, 35.3]], dtype=torch.float64)
    energy.images = torch.zeros(1, dtype=torch.int64)
    y = torch.zeros(1, 1, 4, dtype=torch.float64, requires_grad=True)
    gradient = energy.grad(y, create_graph=True)
    curvature = torch.autograd.grad(gradient[..., 0].sum(), y)[0][0, 0, 0]
    assert (curvature.abs() > 1e-6) == sees


def test_half_precision_keeps_the_last_layer_exact() -> None:
    energy = make_energy(dtype=torch.float32)
    y = torch.zeros(5, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = energy(y)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, energy(y), rtol=0.05, atol=0.05)
