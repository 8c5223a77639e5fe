"""Every network of regression: shapes, derivatives, seeds side by side; and that the normalised ones are densities."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import pytest
import torch
import torchvision
from torch import Tensor, distributions

from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.models.base import DensityModel
from ebmbench.models.gaussian import Gaussian
from ebmbench.models.histogram import Histogram
from ebmbench.models.mdn import MDN
from ebmbench.models.networks.base import Network
from ebmbench.models.networks.encoders import ResNet18Encoder
from ebmbench.models.networks.mlp import MLP
from ebmbench.models.stack import Place, Stack

CPU = torch.device("cpu")
NORMALISED = sorted(name for name, cls in registry.known("model").items() if issubclass(cls, DensityModel))
NAMES = sorted([*set(registry.known("network")) - {"paper"}, *NORMALISED])
IMAGES = ("cnn", "resnet18")


def make(name: str, **settings: object) -> Network | DensityModel:
    if name == "flow":
        pytest.importorskip("zuko")
    group = "model" if name in NORMALISED else "network"
    return cast(type[Network | DensityModel], registry.get(group, name))(**settings)


def shape_of(name: str) -> tuple[int, ...]:
    return (3, 16, 16) if name in IMAGES else (6,)


def stack(network: Network | DensityModel, seeds: list[int], dim: int, dtype: torch.dtype = torch.float64) -> Stack:
    return network.stack(shape_of(network.name), dim, Place(seeds, CPU, dtype))


def batch(
    name: str, seeds: int, dim: int, samples: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(seeds, 4, *shape_of(name), generator=generator, dtype=dtype)
    y = torch.randn(seeds, 4, samples, dim, generator=generator, dtype=dtype)
    return x, y


@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_a_seed_among_others_is_the_module_of_that_seed(name: str, dim: int) -> None:
    network = make(name)
    x, y = batch(name, 2, dim)
    f, features = stack(network, [3, 8], dim).bind(x)
    values = f(y)
    assert values.shape == (2, 4, 7)
    for index, seed in enumerate([3, 8]):
        torch.manual_seed(seed)
        module = network.build(shape_of(name), dim).double()
        h = module.encode(x[index])
        assert h.shape == (4, module.num_features)
        torch.testing.assert_close(features()[index], h)
        torch.testing.assert_close(values[index], module.energy(h, y[index]))
    assert not torch.allclose(values[0], values[1])


@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"histogram"}))
def test_first_and_second_derivatives_in_y_are_those_of_finite_differences(name: str, dim: int) -> None:
    x, y = batch(name, 2, dim, samples=2)
    f, _ = stack(make(name), [0, 1], dim).bind(x)
    step = torch.zeros(dim, dtype=torch.float64)
    step[-1] = 1e-4
    first = f.grad(y.requires_grad_(), create_graph=True)
    second = torch.autograd.grad(first[..., -1].sum(), y)[0][..., -1]
    with torch.no_grad():
        below, here, above = f(y - step), f(y), f(y + step)
    torch.testing.assert_close(first[..., -1].detach(), (above - below) / 2e-4, rtol=1e-4, atol=1e-5)
    # Splines have a jump in their second derivative at each knot: a few points may have one within the step.
    expected = (above - 2 * here + below) / 1e-8
    wrong = (second - expected).abs() > 1e-3 * (1 + expected.abs())
    assert wrong.sum() <= (1 if name == "flow" else 0)
    assert second.abs().max() > 1e-3


@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_networks_integrate_to_one(name: str) -> None:
    network = make(name)
    models = stack(network, [0, 5], 1)
    assert models.normalised
    with torch.no_grad():
        models.flat.mul_(2)  # far from the start
        f, _ = models.bind(batch(name, 2, 1)[0])
        grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
        mass = torch.trapezoid(f(grid.view(1, 1, -1, 1).expand(2, 4, -1, 1)).exp(), grid)
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_networks_integrate_to_one_in_two_dimensions(name: str) -> None:
    models = stack(make(name), [0], 2)
    axis = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    y = torch.cartesian_prod(axis, axis).view(1, 1, -1, 2)
    with torch.no_grad():
        f, _ = models.bind(batch(name, 1, 2)[0][:, :1])
        mass = torch.trapezoid(torch.trapezoid(f(y).exp().view(1201, 1201), axis), axis)
    assert mass.item() == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(NORMALISED)))
def test_energy_networks_are_not_normalised(name: str) -> None:
    assert not stack(make(name), [0], 1).normalised


def test_the_gaussian_is_the_density_of_its_mean_and_variance() -> None:
    x, y = batch("gaussian", 1, 3)
    module = Gaussian().build((6,), 3).double()
    h = module.encode(x[0])
    mean, log_variance = module.head.out(h).chunk(2, dim=-1)
    normal = distributions.Independent(distributions.Normal(mean[:, None], (0.5 * log_variance).exp()[:, None]), 1)
    torch.testing.assert_close(module.energy(h, y[0]), normal.log_prob(y[0]))


def test_the_mixture_is_the_density_of_its_components() -> None:
    x, y = batch("mdn", 1, 2)
    module = MDN(components=3).build((6,), 2).double()
    h = module.encode(x[0])
    head = module.head
    means, log_variances = head.means(h).view(4, 3, 2), head.log_variances(h).view(4, 3, 2)
    normals = distributions.Independent(distributions.Normal(means, (0.5 * log_variances).exp()), 1)
    mixture = distributions.MixtureSameFamily(distributions.Categorical(logits=head.log_weights(h)), normals)
    expected = torch.stack([mixture.log_prob(y[0][:, m]) for m in range(7)], dim=-1)
    torch.testing.assert_close(module.energy(h, y[0]), expected)


def test_the_histogram_is_constant_within_a_bin_and_falls_exponentially_outside() -> None:
    module = Histogram(bins=4, low=-1, high=1, tail=0.5).build((6,), 1).double()
    h = module.encode(torch.randn(1, 6, dtype=torch.float64))

    def log_density(*y: float) -> Tensor:
        return module.energy(h, torch.tensor(y, dtype=torch.float64).view(1, -1, 1))[0]

    masses = torch.softmax(module.head.logits(h)[0], dim=-1)
    inner = log_density(-0.9, -0.6, 0.6, 0.9).exp()
    torch.testing.assert_close(inner, torch.stack([masses[1], masses[1], masses[4], masses[4]]) / 0.5)
    left, right = log_density(-1.25, -2.25), log_density(1.25, 2.25)
    torch.testing.assert_close(left[0] - left[1], torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(right.exp()[0], masses[5] / 0.5 * math.exp(-0.5))


def test_a_histogram_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.low=1.0 is not below model.high=0.5"):
        Histogram(low=1.0, high=0.5)


@pytest.mark.parametrize("name", NORMALISED)
def test_baselines_take_images_too(name: str) -> None:
    module = make(name).build((1, 12, 12), 1)
    h = module.encode(torch.randn(2, 1, 12, 12))
    assert module.energy(h, torch.randn(2, 3, 1)).shape == (2, 3)


def test_the_energy_s_units_start_with_slopes_up_to_the_setting_and_steps_among_the_targets() -> None:
    torch.manual_seed(0)
    head = MLP(head_width=2000, slope=2.5).build((6,), 1).head
    slopes, biases = head.from_y[:, 0], head.from_x.bias
    assert 2.3 < slopes.abs().max() <= 2.5
    places = -biases / slopes
    assert 0.9 < places.median().abs() + places.quantile(0.75) < 1.2  # of N(0, 1.5²): 0 and 1.01


def test_the_energy_sees_y_in_a_frame_of_its_own_for_each_x() -> None:
    torch.manual_seed(0)
    plain = MLP().build((6,), 2).head
    torch.manual_seed(0)
    head = MLP(relative=True).build((6,), 2).head
    h, y = torch.randn(3, 50), torch.randn(3, 9, 2)
    assert torch.equal(head(h, y), plain(h, y))  # as it starts
    with torch.no_grad():
        head.frame.weight.normal_(0, 0.1)
        head.frame.bias.normal_(0, 1)
    place, log_scale = head.frame(h).unsqueeze(1).split(2, -1)
    torch.testing.assert_close(head(h, y), plain(h, (y - place) * log_scale.exp()))


def test_depth_zero_hands_x_to_the_head_and_residual_layers_add_their_input() -> None:
    x = torch.randn(5, 6)
    assert torch.equal(MLP(depth=0).build((6,), 1).encode(x), x)
    plain, residual = MLP(depth=3, width=6), MLP(depth=3, width=6, residual=True)
    torch.manual_seed(0)
    one = plain.build((6,), 1).encoder
    torch.manual_seed(0)
    other = residual.build((6,), 1).encoder
    h = one.activation(one.layers[0](x))
    for layer in one.layers[1:]:
        h = h + one.activation(layer(h))
    torch.testing.assert_close(other(x), h)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_network_refuses_a_table(name: str) -> None:
    with pytest.raises(UserError, match=rf"network={name} .*takes images .*\[6\]: choose network=mlp"):
        make(name).build((6,), 1)


def test_weights_that_no_encoder_takes_are_refused() -> None:
    with pytest.raises(UserError, match=r"model.weights=w.pt contradicts a mlp encoder"):
        Gaussian(weights="w.pt").build((6,), 1)


def test_resnet18_takes_torchvision_s_weights_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().state_dict()
    path = tmp_path / "resnet18.pt"
    torch.save(theirs, path)
    with pytest.warns(UserWarning, match=r"left out are fc.bias, fc.weight, and 60 running statistics"):
        encoder = ResNet18Encoder((3, 32, 32), path)
    assert torch.equal(encoder.net.layer1[0].conv1.weight, theirs["layer1.0.conv1.weight"])
    assert torch.equal(encoder.net.conv1.weight, theirs["conv1.weight"])
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())
    with pytest.warns(UserWarning):
        grey = ResNet18Encoder((1, 32, 32), path)
    # One channel three times is what three equal channels of the original are.
    torch.testing.assert_close(grey.net.conv1.weight[:, 0], theirs["conv1.weight"].sum(1))


def test_wrong_files_of_weights_are_refused_in_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text.pt"
    text.write_text("no weights")
    other = tmp_path / "other.pt"
    torch.save({"a": torch.zeros(2)}, other)
    for path, reason in (
        (tmp_path / "none.pt", "cannot be read"),
        (text, "holds no weights of PyTorch"),
        (other, "conv1.weight is missing there"),
    ):
        with pytest.raises(UserError, match=reason):
            ResNet18Encoder((3, 32, 32), path)
