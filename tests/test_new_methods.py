"""The methods since 2020: against naive formulas, finite differences, closed forms, and on a law that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import pytest
import torch
from torch import Tensor

from ebmbench.config.compose import compose
from ebmbench.core import registry
from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.errors import UserError
from ebmbench.core.langevin import langevin
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Draws, Streams
from ebmbench.core.step import Step
from ebmbench.engine.execute import energy_evaluations
from ebmbench.engine.train import Callbacks, CheckpointPlan, Training, train
from ebmbench.methods.base import Method
from ebmbench.methods.contrastive import NCE, NCEPlus
from ebmbench.methods.discrepancy import EnergyDiscrepancy
from ebmbench.methods.likelihood import KLDIS, MLIS, MLMCMC
from ebmbench.methods.multiscale import MDSM
from ebmbench.methods.persistent import PCD
from ebmbench.methods.score import DSM, SM
from ebmbench.methods.self_normalised import LINEAR_FROM, SNL, NCEBinary
from ebmbench.methods.sliced import SSM
from ebmbench.proposals.learned import WIDEST, Learned
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.system.interrupt import Interrupted, StopFlag
from ebmbench.tasks.regression.learner import RegressionLearner

SHARED = GaussianMixture(stds=(0.1, 0.8), shared=True)
INDEPENDENT = GaussianMixture(stds=(0.1, 0.8), shared=False)
METHODS: dict[str, Method] = {
    "nce-binary": NCEBinary(num_samples=6),
    "snl": SNL(num_samples=6),
    "ed": EnergyDiscrepancy(num_samples=6, scale=0.4, stabilisation=0.7),
    "ssm": SSM(),
    "mdsm": MDSM(num_samples=6, sigma_low=0.2, sigma_high=0.9, levels=4, sigma0=0.3),
    "pcd": PCD(num_samples=6, langevin_steps=3, langevin_step=0.2, restart=0.3),
}
NAMES = list(METHODS)


# ------------------------------------------------------------------------------------------ a small smooth energy


def smooth_energy(parameters: Tensor) -> Callable[[Tensor], Tensor]:
    """`f(y) = Σ_j a_j tanh(w_j·y + b_j) − 0.3 ‖y‖²`; parameters `[J, D + 2]`."""

    def f(y: Tensor) -> Tensor:
        dim = y.shape[-1]
        w, b, a = parameters[:, :dim], parameters[:, dim], parameters[:, dim + 1]
        return torch.tanh(y @ w.T + b) @ a - 0.3 * y.square().sum(-1)

    return f


def energy_parameters(dim: int) -> Tensor:
    return Streams([99], stacked=False).at(0).normal("energy", (3, dim + 2), torch.float64)


def targets(lead: Sequence[int], dim: int) -> tuple[Tensor, Draws]:
    stacked = len(lead) > 1
    draws = Streams(list(range(lead[0])) if stacked else [0], stacked=stacked).at(5)
    return draws.normal("targets", (*lead, dim), torch.float64), draws


def step_for(method: Method, y: Tensor, draws: Draws, proposal: GaussianMixture, b: Tensor | None = None) -> Step:
    """A step with a given b(x), and with chains of which some have been visited before."""
    b = 0.3 * y.sum(-1) if b is None else b
    memory: dict[str, Tensor] = {}
    if isinstance(method, PCD):
        memory["chains"] = 1.5 * draws.normal("chains", (*y.shape[:-1], method.num_samples, y.shape[-1]), y.dtype)
        memory["chains"][..., :2, :] = torch.nan
    return Step(draws, proposal, {"log_normaliser": lambda: b.unsqueeze(-1)}, memory)


# ------------------------------------------------------------------------------------------ the table, written naively


def normal_pdf(y: Tensor, centre: Tensor, std: float) -> Tensor:
    dim = y.shape[-1]
    return torch.exp(-0.5 * (y - centre).square().sum(-1) / std**2) / (2 * math.pi * std**2) ** (dim / 2)


def score(f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    y = y.detach().requires_grad_()
    return torch.autograd.grad(f(y).sum(), y)[0]


def naive_loss(method: Method, f: Callable[[Tensor], Tensor], y: Tensor, step: Step) -> Tensor:
    """One example `y [D]` at a time, with bare exponentials, word for word as the docstrings of the methods have it."""
    lead, dim = y.shape[:-1], y.shape[-1]
    draws, proposal = step.draws, step.proposal
    assert isinstance(proposal, GaussianMixture)

    def per_example(values: Tensor, *shape: int) -> Tensor:
        return values.expand(*lead, *shape).reshape(-1, *shape)

    count = max(1, method.samples)
    offsets = per_example(proposal.noise("proposal", y, count, step), count, dim)
    b = (0.3 * y.sum(-1)).reshape(-1)
    out = []
    for i, target in enumerate(y.reshape(-1, dim)):
        ys = target + offsets[i]
        q = torch.stack([normal_pdf(ys, target, std) for std in proposal.stds]).mean(0)
        match method:
            case NCEBinary():
                at_target = torch.stack([normal_pdf(target, target, std) for std in proposal.stds]).mean(0)
                data = f(target).exp() / b[i].exp() / (count * at_target)  # exp G
                noise = f(ys).exp() / b[i].exp() / (count * q)
                loss = -torch.log(data / (1 + data)) - torch.log(1 / (1 + noise)).sum()
            case SNL():
                loss = b[i] - f(target) + ((f(ys) - b[i]).exp() / q).mean() - 1
            case EnergyDiscrepancy(scale=s, stabilisation=w):
                noise = per_example(draws.normal("perturbation", (*lead, 1 + count, dim), y.dtype), 1 + count, dim)[i]
                away = target + s * (noise[0] + noise[1:])
                loss = torch.log(w / count + (f(away) - f(target)).exp().mean())
            case SSM():
                bits = per_example(draws.integers("direction", (*lead, 1, dim), 2), 1, dim)[i, 0]
                v = (2 * bits - 1).to(y.dtype)
                hessian = torch.autograd.functional.hessian(f, target)
                loss = v @ hessian @ v + 0.5 * score(f, target).square().sum()
            case MDSM(sigma_low=low, sigma_high=high, levels=levels, sigma0=sigma0):
                assert sigma0 is not None
                noise = per_example(draws.normal("denoising", (*lead, count, dim), y.dtype), count, dim)[i]
                level = per_example(draws.integers("level", (*lead, count, 1), levels), count, 1)[i]
                sigma = low * (high / low) ** (level.to(y.dtype) / (levels - 1))
                noisy = target + sigma * noise
                gap = target - noisy - sigma0**2 * score(f, noisy)
                loss = (gap.square().sum(-1) / sigma[:, 0] ** 2).mean()
            case PCD():
                restart = per_example(draws.uniform("restart", (*lead, count, 1), y.dtype), count, 1)[i]
                chain = per_example(step.memory["chains"], count, dim)[i]
                for m in range(count):
                    if chain[m].isnan().any() or restart[m] < method.restart:
                        chain[m] = target
                for k in range(method.langevin_steps):
                    xi = per_example(draws.normal(f"langevin/{k}", (*lead, count, dim), y.dtype), count, dim)[i]
                    chain = chain + method.langevin_step**2 / 2 * score(f, chain) + method.langevin_step * xi
                loss = f(chain.detach()).mean() - f(target)
        out.append(loss.detach())
    return torch.stack(out).reshape(lead)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.parametrize("lead", [(5,), (2, 3)], ids=str)
@pytest.mark.parametrize("proposal", [SHARED, INDEPENDENT], ids=["shared", "independent"])
def test_each_loss_is_its_equation(name: str, dim: int, lead: tuple[int, ...], proposal: GaussianMixture) -> None:
    method = METHODS[name]
    y, draws = targets(lead, dim)
    f = smooth_energy(energy_parameters(dim))
    loss = method.loss(AutogradEnergy(f), y, step_for(method, y, draws, proposal))
    assert loss.shape == lead
    expected = naive_loss(method, f, y, step_for(method, y, draws, proposal))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 4])
def test_gradients_agree_with_finite_differences(name: str, dim: int) -> None:
    """To the parameters of f, and to b(x). pcd's samples are constants of its loss: they are held."""
    y, draws = targets((3,), dim)
    method = METHODS[name]
    size = energy_parameters(dim).numel()
    theta = torch.cat((energy_parameters(dim).flatten(), 0.3 * y.sum(-1))).requires_grad_()

    class Held(AutogradEnergy):
        def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
            if name != "pcd":
                return super().grad(y, create_graph)
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
    assert gradient[:size].abs().min() > 0
    assert bool(gradient[size:].abs().min() > 0) == bool(method.networks(1, dim))


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


def test_the_self_normalised_loss_is_the_likelihood_where_b_is_log_z_and_above_it_elsewhere() -> None:
    mu, s, count = 0.1, 0.3, 400_000
    y = torch.tensor([[0.0], [0.4]], dtype=torch.float64)
    f = AutogradEnergy(lambda v: -0.5 * (v - mu).square().sum(-1) / s**2)
    log_z = torch.full((2,), math.log(s * math.sqrt(2 * math.pi)), dtype=torch.float64)
    nll = 0.5 * (y[:, 0] - mu).square() / s**2 + log_z

    def loss(gap: float, method: Method) -> Tensor:
        draws = Streams([0], stacked=False).at(0)
        return method.loss(f, y, step_for(method, y, draws, SHARED, log_z + gap)).detach()

    snl = SNL(num_samples=count)
    torch.testing.assert_close(loss(0, snl), nll, atol=0.01, rtol=0)
    for gap in (-0.5, 0.5):
        torch.testing.assert_close(loss(gap, snl), nll + gap + math.exp(-gap) - 1, atol=0.01, rtol=0)
        # With many samples each of them is surely noise, and nce-binary tends to snl but for a constant.
        constant = math.log(count) + SHARED.offset_log_prob(torch.zeros(1, dtype=torch.float64)) + 1
        torch.testing.assert_close(
            loss(gap, NCEBinary(num_samples=count)), loss(gap, snl) + constant, atol=0.01, rtol=0
        )


def test_energy_discrepancy_tends_to_score_matching_for_small_noise() -> None:
    """`loss ≈ s² (tr ∂²f/∂y² + ½ ‖∂f/∂y‖²)` in the mean over ξ, with the sign and scale of its paper."""
    y, draws = targets((1,), 1)
    f = AutogradEnergy(smooth_energy(energy_parameters(1)))
    method = EnergyDiscrepancy(num_samples=200, scale=0.05, stabilisation=0)
    loss = method.loss(f, y.expand(20_000, 1), Step(draws)).detach()
    expected = method.scale**2 * SM().loss(f, y, Step(draws)).detach()[0]
    torch.testing.assert_close(loss.mean(), expected, atol=0.1 * abs(expected.item()), rtol=0)


# ------------------------------------------------------------------------------------------ numbers that overflow exp


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [1e4, -1e4])
@pytest.mark.parametrize("dim", [1, 4])
def test_extreme_energies_stay_finite_in_float32(name: str, level: float, dim: int) -> None:
    parameters = energy_parameters(dim).float().requires_grad_()
    y, draws = targets((3,), dim)
    method = METHODS[name]
    levels: dict[float, Tensor] = {}
    for shift in (0.0, level):
        f = AutogradEnergy(lambda v, shift=shift: smooth_energy(parameters)(v) + shift)
        step = step_for(method, y.float(), draws, SHARED)
        loss = method.loss(f, y.float(), step)
        gradient = torch.autograd.grad(loss.sum(), parameters)[0]
        assert loss.isfinite().all() and gradient.isfinite().all()
        assert gradient.double().square().sum() < torch.finfo(torch.float32).max
        levels[shift] = loss
    if not method.networks(1, dim):  # b(x) has to learn the level; for the others it is no part of the model
        torch.testing.assert_close(levels[0.0], levels[level], atol=0.02, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_steep_energies_stay_finite_in_float32(name: str) -> None:
    scale = torch.tensor(1e4, requires_grad=True)
    y, draws = targets((3,), 1)
    method = METHODS[name] if name != "pcd" else PCD(num_samples=6, langevin_steps=3, langevin_step=0.01)
    f = AutogradEnergy(lambda v: -scale * torch.tanh(v).square().sum(-1))
    loss = method.loss(f, y.float(), step_for(method, y.float(), draws, SHARED))
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), scale)[0].isfinite()


def test_the_self_normalised_loss_goes_on_as_its_tangent_and_counts_it() -> None:
    y, draws = targets((2,), 1)
    method = SNL(num_samples=6)
    f = AutogradEnergy(lambda v: smooth_energy(energy_parameters(1))(v))
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


# ------------------------------------------------------------------------------------------ a law that is known
#
# p(y|x) = N(A x + b, s²) and f(x, y) = −½ λ (y − a x − c)²: three parameters, b(x) a fourth; the optimum is known.
# What each method should find, with N, M → ∞:
#
#   nce-binary, snl  the law itself (nce-binary up to O(1/M), for q depends on the target), and b = log Z.
#   ed               the law itself, for every s; w and a finite M bias it by O(w/M).
#   ssm              mean and precision of the sample, exactly (D = 1).
#   mdsm             With η, ξ ~ N(0, 1) a term is (σξ − σ0² λ (sη + σξ))²/σ². Its mean over all, least in λ, gives the
#                    variance 1/λ = σ0² (1 + s² mean(1/σ²)); that is s² + σ0² where σ0² is the harmonic mean of σ².
#   pcd              where the data are stationary under a Langevin step, as ml-mcmc: s² = 1/(λ (1 − λ_step² λ/4)).

SLOPE, INTERCEPT, STD = 0.8, -0.3, 0.2
EXAMPLES = 2000
WIDE = GaussianMixture(stds=(0.2, 0.8))


@dataclass
class GaussianLaw:
    x: Tensor
    y: Tensor

    def energy(self, theta: Tensor, index: slice = slice(None)) -> Energy:
        """θ = (a, c, log λ, b)."""
        mean = (theta[0] * self.x[index] + theta[1]).view(-1, 1)
        return AutogradEnergy(lambda y: -0.5 * theta[2].exp() * (y[..., 0] - mean).square())


@pytest.fixture(scope="module")
def law() -> GaussianLaw:
    """EXAMPLES points; the sample's own moments are set exactly, so that what is left is the method's error."""
    draws = Streams([2], stacked=False).at(0)
    x = 2 * draws.uniform("x", (EXAMPLES,), torch.float64) - 1
    noise = draws.normal("noise", (EXAMPLES,), torch.float64)
    design = torch.stack((x, torch.ones_like(x)), dim=1)
    noise = noise - design @ torch.linalg.lstsq(design, noise.unsqueeze(1)).solution.squeeze(1)
    noise = noise / noise.square().mean().sqrt()
    return GaussianLaw(x, (SLOPE * x + INTERCEPT + STD * noise).unsqueeze(1))


def fit(law: GaussianLaw, method: Method, proposal: Proposal = WIDE, outputs: Tensor | None = None) -> Tensor:
    """The optimum of the mean loss over all examples, at fixed draws; `outputs` are those of a learned proposal."""
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    draws = Streams([0], stacked=False).at(0)
    optimizer = torch.optim.LBFGS([theta], max_iter=80, tolerance_change=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        heads = {"log_normaliser": lambda: theta[3].expand(EXAMPLES, 1)}
        if outputs is not None:
            heads["proposal"] = lambda: outputs
        loss = method.loss(law.energy(theta), law.y, Step(draws, proposal, heads)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return theta.detach()


GRID = MDSM(num_samples=64, sigma_low=0.1, sigma_high=0.8, levels=8)


def mdsm_variance(method: MDSM) -> float:
    sigmas = torch.logspace(math.log10(method.sigma_low), math.log10(method.sigma_high), method.levels).double()
    return method.target_sigma**2 * (1 + STD**2 * sigmas.pow(-2).mean().item())


@pytest.mark.parametrize(
    ("method", "variance"),
    [
        (NCEBinary(num_samples=128), STD**2),
        (SNL(num_samples=128), STD**2),
        (EnergyDiscrepancy(num_samples=256, scale=0.3, stabilisation=0.01), STD**2),
        (SSM(), STD**2),
        (GRID, mdsm_variance(GRID)),
        (GRID.model_copy(update={"sigma0": 0.3}), mdsm_variance(GRID.model_copy(update={"sigma0": 0.3}))),
    ],
    ids=["nce-binary", "snl", "ed", "ssm", "mdsm", "mdsm-sigma0"],
)
def test_each_method_recovers_a_known_gaussian(law: GaussianLaw, method: Method, variance: float) -> None:
    theta = fit(law, method)
    torch.testing.assert_close(theta[:2], torch.tensor([SLOPE, INTERCEPT]).double(), atol=0.02, rtol=0)
    assert 1 / theta[2].exp().item() == pytest.approx(variance, rel=0.06)
    if method.networks(1, 1):
        log_z = 0.5 * math.log(2 * math.pi) - 0.5 * theta[2].item()
        assert theta[3].item() == pytest.approx(log_z, abs=0.03)


@pytest.mark.parametrize("components", [1, 4])
@pytest.mark.parametrize(
    "method",
    [
        MLIS(num_samples=128),
        SNL(num_samples=128),
        NCE(num_samples=128),
        NCEPlus(num_samples=128, beta=0.1),
        KLDIS(num_samples=128, sigma=0.1),
    ],
    ids=lambda method: method.name,
)
def test_each_sampling_method_recovers_a_gaussian_with_a_learned_proposal(
    law: GaussianLaw, method: Method, components: int
) -> None:
    """Whatever q has learned: its Gaussians are two to four times as wide as the law, their means around the law's."""
    places = torch.linspace(-0.3, 0.3, components, dtype=torch.float64) if components > 1 else torch.zeros(1).double()
    means = (SLOPE * law.x + INTERCEPT).unsqueeze(1) + places
    stds = torch.linspace(0.4, 0.8, components, dtype=torch.float64)
    outputs = torch.cat((means, (2 * stds.log()).expand(EXAMPLES, -1), torch.zeros_like(means)), 1)
    proposal = Learned(components=components)
    theta = fit(law, method, proposal, outputs)
    variance = STD**2
    if isinstance(method, KLDIS):
        variance += method.sigma**2
    if isinstance(method, NCEPlus):  # the target is (1 − β) y + β ỹ, ỹ ~ q
        bound = proposal.mixture(law.y, Step(Streams([0], stacked=False).at(0), None, {"proposal": lambda: outputs}))
        wide = float((places.square() + bound.log_variances[0, :, 0].exp()).mean())
        variance = (1 - method.beta) ** 2 * variance + method.beta**2 * wide
    torch.testing.assert_close(theta[:2], torch.tensor([SLOPE, INTERCEPT]).double(), atol=0.02, rtol=0)
    assert 1 / theta[2].exp().item() == pytest.approx(variance, rel=0.06)


def test_the_default_of_sigma0_smooths_a_gaussian_by_itself() -> None:
    assert mdsm_variance(GRID) == pytest.approx(STD**2 + GRID.target_sigma**2)
    assert GRID.sigma_low < GRID.target_sigma < GRID.sigma_high


@pytest.mark.parametrize("restart", [0.0, 0.2])
def test_pcd_finds_a_gaussian_up_to_the_bias_of_its_step(law: GaussianLaw, restart: float) -> None:
    """Its loss has no minimum; its gradient vanishes at the predicted precision, and points there from either side."""
    size = 0.1
    method = PCD(num_samples=8, langevin_steps=2, langevin_step=size, restart=restart)
    streams = Streams([0], stacked=False)

    def gradient(variance: float) -> Tensor:
        """The mean over 20 visits at fixed parameters, after 20 that let the chains forget where they started."""
        log_precision = math.log(2 * (1 - math.sqrt(1 - size**2 / variance)) / size**2)  # of the fixed point
        theta = torch.tensor([SLOPE, INTERCEPT, log_precision], dtype=torch.float64, requires_grad=True)
        chains = torch.full((EXAMPLES, 8, 1), torch.nan, dtype=torch.float64)
        total = torch.zeros(3, dtype=torch.float64)
        for visit in range(40):
            step = Step(streams.at(visit), memory={"chains": chains})
            loss = method.loss(law.energy(theta), law.y, step).mean()
            chains = step.remembered["chains"]
            if visit >= 20:
                total += torch.autograd.grad(loss, theta)[0] / 20
        return total

    torch.testing.assert_close(gradient(STD**2), torch.zeros(3).double(), atol=0.02, rtol=0)
    assert gradient(0.9 * STD**2)[2] > 0.02  # too narrow: the precision has to fall
    assert gradient(1.1 * STD**2)[2] < -0.02


# ------------------------------------------------------------------------------------------ the memory of pcd


def test_chains_go_on_where_they_stopped_and_some_start_again() -> None:
    y, draws = targets((2, 50), 1)
    method = PCD(num_samples=40, langevin_steps=2, langevin_step=1e-6, restart=0.05)
    f = AutogradEnergy(smooth_energy(energy_parameters(1)))
    kept = 5 + torch.zeros(2, 50, 40, 1, dtype=torch.float64)
    step = Step(draws, memory={"chains": kept})
    method.loss(f, y, step)
    there = step.remembered["chains"]
    went_on = (there - 5).abs() < 1e-3
    restarted = (there - y.unsqueeze(-2)).abs() < 1e-3
    assert bool((went_on ^ restarted).all())
    assert restarted.double().mean().item() == pytest.approx(0.05, abs=0.02)  # of 4000
    assert not torch.equal(restarted[0], restarted[1])
    assert torch.equal(kept, torch.full_like(kept, 5))  # the learner writes, not the loss
    assert not there.requires_grad


def test_persistent_chains_reach_a_mode_that_short_ones_do_not() -> None:
    """Two modes, the target in one: after many visits about half of the chains are in the other."""
    modes = AutogradEnergy(lambda v: torch.logaddexp(-8 * (v[..., 0] - 0.6).square(), -8 * (v[..., 0] + 0.6).square()))
    y = torch.full((1, 1), 0.6, dtype=torch.float64)
    method = PCD(num_samples=500, langevin_steps=10, langevin_step=0.1, restart=0)
    streams = Streams([0], stacked=False)
    chains = torch.full((1, 500, 1), torch.nan, dtype=torch.float64)
    for visit in range(80):
        step = Step(streams.at(visit), memory={"chains": chains})
        method.loss(modes, y, step)
        chains = step.remembered["chains"]
        if visit == 0:
            once = langevin(modes, y.expand(1, 500, 1), 10, 0.1, streams.at(0))
            torch.testing.assert_close(chains, once)
            assert (chains < 0).double().mean() < 0.02
    assert (chains < 0).double().mean().item() == pytest.approx(0.5, abs=0.15)


def one_d(*overrides: str, seeds: str = "2") -> RegressionLearner:
    words = ["task=1d", "+experiment=smoke", "task.num_train=96", f"seeds={seeds}", "device=cpu", *overrides]
    config = compose(words)
    learner = config.task.learner(config.setup, config.seeds, torch.device("cpu"))
    assert isinstance(learner, RegressionLearner)
    return learner


def test_an_interrupted_run_of_pcd_ends_with_the_same_weights_and_chains(tmp_path: Path) -> None:
    words = ("method=pcd", "method.num_samples=3", "method.langevin_steps=2")
    whole = one_d(*words)
    train(whole)
    plan = CheckpointPlan(tmp_path / "checkpoint.pt", 1e9)
    stop = StopFlag()

    def stop_at_four(progress: object) -> None:
        if getattr(progress, "step", 0) == 4:
            stop.signum = SIGTERM

    with pytest.raises(Interrupted):
        train(one_d(*words), plan, Callbacks(on_step=stop_at_four), stop)
    again = one_d(*words)
    train(again, plan)
    assert torch.equal(whole.parameters["flat"], again.parameters["flat"])
    assert torch.equal(whole.state["memory.chains"], again.state["memory.chains"])
    assert whole.state["memory.chains"].isfinite().all()


# ------------------------------------------------------------------------------------------ in the harness


def after_steps(learner: RegressionLearner, steps: int = 3) -> Mapping[str, Tensor]:
    training = Training(learner)
    for _ in range(steps):
        training.step()
    return {name: p.detach() for name, p in learner.parameters.items()}


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_independent(name: str) -> None:
    words = [f"method={name}"] + (["method.num_samples=8"] if METHODS[name].samples else [])
    together = after_steps(one_d(*words, seeds="[3,7]"))
    alone = after_steps(one_d(*words, seeds="[7]"))
    for key, p in together.items():
        torch.testing.assert_close(p[1:], alone[key], rtol=1e-5, atol=1e-6)
        assert not torch.equal(p[0], p[1])
    assert any(key.startswith("own.log_normaliser") for key in together) == bool(METHODS[name].networks(1, 1))


@pytest.mark.parametrize("name", ["nce-binary", "snl"])
def test_b_learns_and_passes_nothing_to_the_features(name: str) -> None:
    learner = one_d(f"method={name}", "method.num_samples=8")
    before = {key: p.clone() for key, p in learner.parameters.items()}
    after = after_steps(learner)
    assert all(not torch.equal(before[key], p) for key, p in after.items())
    (gradient,) = torch.autograd.grad(
        learner.own.heads(learner.stack.bind(learner.x[:4].expand(2, 4))[1])["log_normaliser"]().sum(),
        learner.stack.flat,
        allow_unused=True,
    )
    assert gradient is None


@pytest.mark.parametrize("name", NAMES)
def test_fused_and_plain_paths_agree(name: str) -> None:
    words = [f"method={name}"] + (["method.num_samples=8"] if METHODS[name].samples else [])
    losses, gradients = [], []
    for backend in ("auto", "plain"):
        learner = one_d(*words, f"backend={backend}")
        loss = learner.losses(Training(learner).batches.at(0), 0)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss.sum(), learner.stack.flat)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=2e-3, atol=1e-3 * gradients[1].abs().max().item())


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("method=nce-binary", 65),
        ("method=snl", 65),
        ("method=ed", 65),
        ("method=ssm", 1),
        ("method=ml-exact", 1 + 512),
        ("method=mdsm", 64),
        ("method=pcd method.langevin_steps=10", 64 * 10 + 65),
        ("method=ml-is proposal=learned", 65 + 64),
        ("method=ml-is proposal=learned proposal.trained_by=nll", 65),
    ],
)
def test_energy_evaluations_count_those_of_a_learned_proposal(words: str, count: int) -> None:
    samples = [] if words in ("method=ssm", "method=ml-exact") else ["method.num_samples=64"]
    config = compose(["task=1d", *words.split(), *samples])
    assert energy_evaluations(config, 1, partition_nodes=512) == count


def test_no_gaussian_of_a_learned_proposal_is_wider_than_its_bound() -> None:
    outputs = torch.tensor([[0.0, 0.0, -3.0, 1000.0, 0.0, 0.0]], dtype=torch.float64)  # means, log variances, logits
    proposal, y = Learned(components=2, scale=0.5), torch.zeros(1, 1, dtype=torch.float64)
    step = Step(Streams([0], stacked=False).at(0), proposal, {"proposal": lambda: outputs})
    variances = proposal.mixture(y, step).log_variances.exp().flatten()
    assert variances[0] == pytest.approx(math.exp(-3) * 0.5**2, rel=0.01)
    assert variances[1] == pytest.approx((WIDEST * 0.5) ** 2)
    samples, log_q = proposal.sample(y, 1000, step)
    assert samples.abs().max() < 10 and log_q.isfinite().all()


@pytest.mark.slow
def test_many_gaussians_train_without_growing_apart() -> None:
    """Seed 2 diverged at step 876 while a Gaussian could be as wide as it liked."""
    words = ["method=nce", "method.num_samples=256", "proposal=learned", "proposal.components=16", "trainer.epochs=15"]
    config = compose(["task=1d", *words])
    learner = config.task.learner(config.setup, (2,), torch.device("cpu"))
    assert train(learner).alive.all() and learner.num_steps > 900


def test_colours_markers_and_places_are_all_different() -> None:
    classes = registry.known("method").values()
    for what in ("color", "marker", "order"):
        values = [getattr(cls, what) for cls in classes]
        assert len(set(values)) == len(values), what


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("method=mdsm method.sigma_low=2 method.sigma_high=1", "method.sigma_low=2"),
        ("method=ed method.scale=0", "method.scale=0"),
        ("method=pcd method.restart=1.5", "method.restart=1.5"),
        ("method=snl method.num_samples=0", "method.num_samples=0"),
    ],
)
def test_wrong_settings_are_one_sentence(words: str, text: str) -> None:
    with pytest.raises(UserError) as error:
        compose(["task=1d", *words.split()])
    assert text in str(error.value) and "\n" not in str(error.value)


def test_boxes_have_no_memory() -> None:
    config = compose(["task=detection", "method=pcd", "+experiment=smoke"])
    with pytest.raises(UserError, match="method=pcd keeps something for each training example"):
        config.task.learner(config.setup, (0,), torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("words", ["method=snl", "method=nce proposal=learned", "method=nce-binary proposal=uniform"])
def test_own_networks_train_on_boxes(tmp_path: Path, words: str) -> None:
    sizes = ["method.num_samples=8", "task.data.num_train=8", "task.base.iterations=2", "trainer.iterations=3"]
    config = compose(["task=detection", "+experiment=smoke", f"results_dir={tmp_path}", *words.split(), *sizes])
    learner = config.task.learner(config.setup, (0,), torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in learner.parameters.items()}
    train(learner)
    own = [name for name in before if name.startswith("own.")]
    assert bool(own) == ("uniform" not in words or "binary" in words)
    assert all(not torch.equal(before[name], learner.parameters[name]) for name in ["energy.weight", *own])
