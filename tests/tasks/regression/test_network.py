"""The stacked network against the textbook module of one model."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from ebmbench.models.networks.paper import HIDDEN, LAYERS, Parameters, initial_parameters, plain_energy


class Textbook(nn.Module):
    """The published network of one model, as anybody would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.x1, self.x2 = nn.Linear(1, 10), nn.Linear(10, 10)
        self.y1 = nn.Linear(1, 10)
        self.joint = nn.Linear(20, 10)
        self.res1, self.res2 = nn.Linear(10, 10), nn.Linear(10, 10)
        self.out = nn.Linear(10, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x `[B]`, y `[B, M]` -> `[B, M]`."""
        h_x = torch.relu(self.x2(torch.relu(self.x1(x.unsqueeze(-1)))))
        h_y = torch.tanh(self.y1(y.unsqueeze(-1)))
        h_x = h_x.unsqueeze(1).expand(-1, y.shape[1], -1)
        h = torch.tanh(self.joint(torch.cat((h_x, h_y), dim=-1)))
        h = torch.tanh(self.res1(h)) + h
        h = torch.tanh(self.res2(h)) + h
        return self.out(h).squeeze(-1)


def textbook_of(parameters: Parameters, index: int) -> Textbook:
    model = Textbook().to(parameters["x1.weight"].dtype)
    model.load_state_dict({name: p[index].detach() for name, p in parameters.items()})
    return model


def inputs(seeds: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(seeds, 5, generator=generator, dtype=torch.float64)
    y = 2 * torch.randn(seeds, 5, 7, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_values_and_all_gradients_are_the_textbook_module_s(dtype: torch.dtype, tolerance: float) -> None:
    parameters = initial_parameters([0, 3, 8], dtype, "cpu")
    x, y = inputs(3, dtype)
    candidates = y.unsqueeze(-1).requires_grad_()
    values = plain_energy(parameters, x)(candidates)
    assert values.shape == (3, 5, 7)
    values.square().sum().backward()
    assert candidates.grad is not None
    for index in range(3):
        model = textbook_of(parameters, index)
        one_y = y[index].clone().requires_grad_()
        expected = model(x[index], one_y)
        torch.testing.assert_close(values[index].detach(), expected.detach(), rtol=tolerance, atol=tolerance)
        expected.square().sum().backward()
        torch.testing.assert_close(candidates.grad[index, ..., 0], one_y.grad, rtol=10 * tolerance, atol=10 * tolerance)
        for name, parameter in model.named_parameters():
            got = parameters[name].grad
            assert got is not None
            torch.testing.assert_close(got[index], parameter.grad, rtol=10 * tolerance, atol=10 * tolerance)


def test_grad_in_y_and_its_gradient_in_the_parameters_are_the_textbook_module_s() -> None:
    """What sm and dsm need: second derivatives."""
    parameters = initial_parameters([2], torch.float64, "cpu")
    x, y = inputs(1, torch.float64)
    score = plain_energy(parameters, x).grad(y.unsqueeze(-1), create_graph=True)
    gradients = torch.autograd.grad(score.square().sum(), [parameters["y1.weight"], parameters["x1.weight"]])
    model = textbook_of(parameters, 0)
    one_y = y[0].clone().requires_grad_()
    expected = torch.autograd.grad(model(x[0], one_y).sum(), one_y, create_graph=True)[0]
    torch.testing.assert_close(score[0, ..., 0], expected, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(expected.square().sum(), [model.y1.weight, model.x1.weight])
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got[0], want, rtol=1e-11, atol=1e-12)


def test_models_do_not_touch_each_other() -> None:
    parameters = initial_parameters([0, 1], torch.float64, "cpu")
    x, y = inputs(2, torch.float64)
    with torch.no_grad():
        before = plain_energy(parameters, x)(y.unsqueeze(-1))
        for p in parameters.values():
            p[1] = math.nan
        after = plain_energy(parameters, x)(y.unsqueeze(-1))
    assert torch.equal(before[0], after[0]) and after[1].isnan().all()


def test_it_has_the_published_number_of_parameters() -> None:
    parameters = initial_parameters([0], torch.float32, "cpu")
    published = sum(p.numel() for p in Textbook().parameters())
    assert sum(p.numel() for p in parameters.values()) == published
    assert set(parameters) == {name for name, _ in Textbook().named_parameters()}


def test_initial_weights_are_uniform_within_pytorch_s_bounds() -> None:
    parameters = initial_parameters(range(200), torch.float64, "cpu")
    for layer, (fan_in, _) in LAYERS.items():
        bound = 1 / math.sqrt(fan_in)
        for name in (f"{layer}.weight", f"{layer}.bias"):
            values = parameters[name].detach().flatten()
            assert values.abs().max() <= bound and values.abs().max() > 0.98 * bound
            assert stats.kstest(values.numpy(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    assert HIDDEN == 10


def test_initial_weights_of_a_seed_are_the_same_alone_and_stacked() -> None:
    together = initial_parameters(range(20), torch.float32, "cpu")
    alone = initial_parameters([13], torch.float32, "cpu")
    for name, p in alone.items():
        assert torch.equal(p[0], together[name][13])
        assert not torch.equal(p[0], together[name][12])
