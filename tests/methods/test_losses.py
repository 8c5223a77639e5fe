"""Every loss: against its equation, finite differences, closed forms, and numbers that overflow exp."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ebmbench.check.methods import energy_parameters, smooth_energy
from ebmbench.core import registry
from ebmbench.core.energy import AutogradEnergy
from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.methods.base import Method
from ebmbench.methods.contrastive import NCE
from ebmbench.methods.discrepancy import EnergyDiscrepancy
from ebmbench.methods.likelihood import MLIS, MLMCMC
from ebmbench.methods.multiscale import MDSM
from ebmbench.methods.persistent import PCD
from ebmbench.methods.score import DSM, SM
from ebmbench.methods.self_normalised import LINEAR_FROM, SNL, NCEBinary
from ebmbench.methods.sliced import SSM
from tests.methods.examples import INDEPENDENT, METHODS, PROPOSALS, SAMPLING, SHARED, naive_loss, step_for, targets

NAMES = list(METHODS)
CHAINS = ("ml-mcmc", "pcd")


def test_every_method_is_tested_here() -> None:
    known = {name: cls for name, cls in registry.known("method").items() if name != "ml-exact"}
    assert {name: type(method) for name, method in METHODS.items()} == known


CASES = [(name, key) for name in NAMES for key in (PROPOSALS if name in SAMPLING else ["shared"])]


@pytest.mark.parametrize(("name", "proposal"), CASES, ids=[f"{name}-{key}" for name, key in CASES])
@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.parametrize("lead", [(5,), (2, 3), (2, 2, 2)], ids=str)
def test_each_loss_is_its_equation(name: str, proposal: str, dim: int, lead: tuple[int, ...]) -> None:
    method, q = METHODS[name], PROPOSALS[proposal]
    y, draws = targets(lead, dim)
    f = smooth_energy(energy_parameters(dim))
    loss = method.loss(AutogradEnergy(f), y, step_for(method, y, draws, q))
    assert loss.shape == lead
    of_any_shape = lambda v: f(v.reshape(1, -1, dim)).reshape(v.shape[:-1])  # noqa: E731
    expected = naive_loss(method, of_any_shape, y, step_for(method, y, draws, q))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 4])
def test_gradients_agree_with_finite_differences(name: str, dim: int) -> None:
    """To the parameters of f, and to b(x). Samples of chains are constants of the loss: they are held."""
    y, draws = targets((3,), dim)
    method = METHODS[name]
    size = energy_parameters(dim).numel()
    theta = torch.cat((energy_parameters(dim).flatten(), 0.3 * y.sum(-1))).requires_grad_()
    held: list[Tensor] = []

    class Held(AutogradEnergy):
        def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
            if name not in CHAINS:
                return super().grad(y, create_graph)
            held.append(y)
            return AutogradEnergy(smooth_energy(energy_parameters(dim))).grad(y)

    def total(values: Tensor) -> Tensor:
        f = Held(smooth_energy(values[:size].view(3, -1)))
        return method.loss(f, y, step_for(method, y, draws, INDEPENDENT, values[size:])).sum()

    gradient = torch.autograd.grad(total(theta), theta)[0]
    for index in range(len(theta)):
        bump = torch.zeros_like(theta)
        bump[index] = 1e-5
        difference = (total(theta.detach() + bump) - total(theta.detach() - bump)) / 2e-5
        torch.testing.assert_close(gradient[index], difference.detach(), rtol=1e-6, atol=1e-7)
    assert bool(held) == (name in CHAINS)
    assert gradient[:size].abs().min() > 0
    assert bool(gradient[size:].abs().min() > 0) == bool(method.networks(1, dim))


def test_the_samples_of_ml_mcmc_are_detached() -> None:
    parameters = energy_parameters(1).requires_grad_()
    y, draws = targets((3,), 1)
    has_graph: list[bool] = []

    def f(values: Tensor) -> Tensor:
        has_graph.append(values.grad_fn is not None and values.grad_fn.name() != "CatBackward0")
        return smooth_energy(parameters)(values)

    METHODS["ml-mcmc"].loss(AutogradEnergy(f), y, Step(draws))
    assert has_graph and not any(has_graph)


# ------------------------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize("name", ["ml-is", "kld-is", "nce", "nce+"])
def test_sharing_uses_one_set_of_noise_for_the_mini_batch_of_each_seed(name: str) -> None:
    y, draws = targets((2, 4), 1)
    offsets: list[Tensor] = []

    def f(values: Tensor) -> Tensor:
        offsets.append((values - y.unsqueeze(-2)).detach())
        return smooth_energy(energy_parameters(1))(values)

    for proposal in (SHARED, INDEPENDENT):
        METHODS[name].loss(AutogradEnergy(f), y, Step(draws, proposal))
    shared, independent = offsets
    torch.testing.assert_close(shared, shared[:, :1].expand_as(shared))
    assert not torch.allclose(shared[0], shared[1])
    noise = independent[..., -6:, :]  # the samples; the target comes before them
    assert torch.pdist(noise.reshape(8, -1)).min() > 1e-3


def test_annotation_noise_has_the_mixture_with_scaled_stds() -> None:
    draws = Streams([0], stacked=False).at(0)
    y = torch.zeros(1, 1, dtype=torch.float64)
    noise = SHARED.noise("annotation", y, 200_000, Step(draws), scale=0.5).flatten()
    variance = 0.5 * (0.05**2 + 0.4**2)
    assert abs(noise.square().mean() / variance - 1) < 0.02
    fourth = 3 * 0.5 * (0.05**4 + 0.4**4)
    assert abs(noise.pow(4).mean() / fourth - 1) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_a_function_of_the_step_alone(name: str) -> None:
    y, _ = targets((2, 3), 1)
    f, method, streams = AutogradEnergy(smooth_energy(energy_parameters(1))), METHODS[name], Streams([0, 1])
    first, again, later = (method.loss(f, y, step_for(method, y, streams.at(step), SHARED)) for step in (4, 4, 5))
    assert torch.equal(first, again)
    assert torch.allclose(first, later) == (name in ("sm", "ssm"))  # (±1)² is 1 where D = 1


# ------------------------------------------------------------------------------------------ numbers that overflow exp


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [1e4, -1e4])
@pytest.mark.parametrize("dim", [1, 4])
def test_extreme_energies_stay_finite_in_float32(name: str, level: float, dim: int) -> None:
    """The energy's level is no part of the model: neither losses nor gradients may move with it, and exp overflows."""
    parameters = energy_parameters(dim).float().requires_grad_()
    y, draws = targets((3,), dim)
    method = METHODS[name]
    losses: list[Tensor] = []
    for shift in (0.0, level):
        f = AutogradEnergy(lambda v, shift=shift: smooth_energy(parameters)(v) + shift)
        loss = method.loss(f, y.float(), step_for(method, y.float(), draws, SHARED))
        gradient = torch.autograd.grad(loss.sum(), parameters)[0]
        assert loss.isfinite().all() and gradient.isfinite().all()
        assert gradient.double().square().sum() < torch.finfo(torch.float32).max
        losses.append(loss)
    # b(x) has to learn the level; and kld-is weighs it by 1 and by the mean of p/q, equal only in expectation.
    if name != "kld-is" and not method.networks(1, dim):
        torch.testing.assert_close(*losses, atol=0.02, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_steep_energies_stay_finite_in_float32(name: str) -> None:
    scale = torch.tensor(1e4, requires_grad=True)
    y, draws = targets((3,), 1)
    method = METHODS[name].model_copy(update={"langevin_step": 0.01} if name in CHAINS else {})
    f = AutogradEnergy(lambda v: -scale * torch.tanh(v).square().sum(-1))
    loss = method.loss(f, y.float(), step_for(method, y.float(), draws, SHARED))
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), scale)[0].isfinite()


def test_score_matching_takes_an_energy_without_curvature() -> None:
    """A linear f has a trace of zero, which autograd would call an error."""
    slope = torch.tensor([2.0, -1.0], requires_grad=True)
    loss = SM().loss(AutogradEnergy(lambda v: v @ slope), torch.zeros(3, 2), Step(Streams([0], stacked=False).at(0)))
    torch.testing.assert_close(loss.detach(), torch.full((3,), 2.5))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), slope)[0], 3 * slope.detach())


# ------------------------------------------------------------------------------------------ closed forms on a Gaussian


@pytest.mark.parametrize("dim", [1, 4])
def test_score_matching_of_a_gaussian_energy_is_its_closed_form(dim: int) -> None:
    """`−D/s² + ½ ‖y − μ‖²/s⁴` (Hyvärinen, 2005)."""
    mu, s = 0.3, 0.7
    y, draws = targets((6,), dim)
    loss = SM().loss(AutogradEnergy(lambda v: -0.5 * (v - mu).square().sum(-1) / s**2), y, Step(draws))
    torch.testing.assert_close(loss.detach(), -dim / s**2 + 0.5 * (y - mu).square().sum(-1) / s**4)


def test_with_many_samples_estimates_become_the_exact_likelihood() -> None:
    """ml-is: the NLL. nce: plus log M + log q(0). snl: plus gap + exp(−gap) − 1 where b = log Z + gap.

    With many samples each of them is surely noise, and nce-binary tends to snl but for a constant.
    """
    mu, s, count = 0.1, 0.3, 400_000
    y = torch.tensor([[0.0], [0.4]], dtype=torch.float64)
    f = AutogradEnergy(lambda v: -0.5 * (v - mu).square().sum(-1) / s**2)
    log_z = torch.full((2,), math.log(s * math.sqrt(2 * math.pi)), dtype=torch.float64)
    nll = 0.5 * (y[:, 0] - mu).square() / s**2 + log_z
    constant = math.log(count) + SHARED.offset_log_prob(torch.zeros(1, dtype=torch.float64))

    def loss(method: Method, gap: float = 0.0) -> Tensor:
        draws = Streams([0], stacked=False).at(0)
        return method.loss(f, y, step_for(method, y, draws, SHARED, log_z + gap)).detach()

    torch.testing.assert_close(loss(MLIS(num_samples=count)), nll, atol=0.01, rtol=0)
    torch.testing.assert_close(loss(NCE(num_samples=count)), nll + constant, atol=0.01, rtol=0)
    for gap in (-0.5, 0.0, 0.5):
        snl = loss(SNL(num_samples=count), gap)
        torch.testing.assert_close(snl, nll + gap + math.exp(-gap) - 1, atol=0.01, rtol=0)
        binary = loss(NCEBinary(num_samples=count), gap)
        torch.testing.assert_close(binary, snl + constant + 1, atol=0.01, rtol=0)


def test_nce_with_the_model_equal_to_the_proposal_cannot_tell_the_target() -> None:
    """Where f − log q is constant every entry is as likely as the others: the loss is log(M + 1)."""
    y = torch.zeros(2, 1, dtype=torch.float64)
    f = AutogradEnergy(lambda v: SHARED.offset_log_prob(v) + 3)
    loss = NCE(num_samples=15).loss(f, y, Step(Streams([0], stacked=False).at(0), SHARED))
    torch.testing.assert_close(loss, torch.full((2,), math.log(16), dtype=torch.float64))


def test_the_self_normalised_loss_goes_on_as_its_tangent_and_counts_it() -> None:
    y, draws = targets((2,), 1)
    method = SNL(num_samples=6)
    f = AutogradEnergy(smooth_energy(energy_parameters(1)))
    plain = method.loss(f, y, step_for(method, y, draws, SHARED, torch.zeros(2).double()))
    log_mean = (plain + f(y.unsqueeze(-2))[..., 0] + 1).log().detach()  # log Ẑ
    for beyond, counted in ((-0.5, False), (3.0, True)):
        b = (log_mean - LINEAR_FROM - beyond).requires_grad_()
        step = step_for(method, y, draws, SHARED, b)
        loss = method.loss(f, y, step)
        assert step.counts["overflows"].tolist() == [counted] * 2
        slope = torch.autograd.grad(loss.sum(), b)[0]
        expected = 1 - math.exp(LINEAR_FROM + min(beyond, 0.0))
        torch.testing.assert_close(slope, torch.full_like(slope, expected), rtol=1e-6, atol=0)


# ------------------------------------------------------------------------------------------ relations between methods


def test_sliced_score_matching_is_score_matching_in_one_dimension_and_in_the_mean() -> None:
    y, draws = targets((5,), 1)
    f = AutogradEnergy(smooth_energy(energy_parameters(1)))
    torch.testing.assert_close(SSM().loss(f, y, Step(draws)), SM().loss(f, y, Step(draws)))
    y, draws = targets((1,), 3)
    f = AutogradEnergy(smooth_energy(energy_parameters(3)))
    many = y.expand(4000, 3)
    sliced, exact = SSM().loss(f, many, Step(draws)).detach(), SM().loss(f, y, Step(draws)).detach()
    assert sliced.std() > 0.01
    torch.testing.assert_close(sliced.mean(), exact[0], atol=4 * sliced.std().item() / 4000**0.5, rtol=0)


def test_multiscale_denoising_with_one_scale_is_denoising_score_matching() -> None:
    y, draws = targets((5,), 4)
    f = AutogradEnergy(smooth_energy(energy_parameters(4)))
    method = MDSM(num_samples=6, sigma_low=0.3, sigma_high=0.3, levels=1)
    assert method.target_sigma == pytest.approx(0.3)
    dsm = DSM(num_samples=6, sigma=0.3).loss(f, y, Step(draws))
    torch.testing.assert_close(method.loss(f, y, Step(draws)), 0.3**2 * dsm)


def test_persistent_chains_restarted_every_time_are_ml_mcmc() -> None:
    y, draws = targets((5,), 4)
    f = AutogradEnergy(smooth_energy(energy_parameters(4)))
    always = PCD(num_samples=6, langevin_steps=3, langevin_step=0.2, restart=1)
    plain = MLMCMC(num_samples=6, langevin_steps=3, langevin_step=0.2)
    step = step_for(always, y, draws, SHARED)
    torch.testing.assert_close(always.loss(f, y, step), plain.loss(f, y, Step(draws)))


def test_energy_discrepancy_tends_to_score_matching_for_small_noise() -> None:
    """`loss ≈ s² (tr ∂²f/∂y² + ½ ‖∂f/∂y‖²)` in the mean over ξ, with the sign and scale of its paper."""
    y, draws = targets((1,), 1)
    f = AutogradEnergy(smooth_energy(energy_parameters(1)))
    method = EnergyDiscrepancy(num_samples=200, scale=0.05, stabilisation=0)
    loss = method.loss(f, y.expand(20_000, 1), Step(draws)).detach()
    expected = method.scale**2 * SM().loss(f, y, Step(draws)).detach()[0]
    torch.testing.assert_close(loss.mean(), expected, atol=0.1 * abs(expected.item()), rtol=0)
