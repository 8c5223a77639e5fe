"""The seven losses: against naive formulas, finite differences, closed forms, and on a law that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ebmbench.core import registry
from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.rng import Draws, Streams
from ebmbench.core.step import Step
from ebmbench.methods.base import Method
from ebmbench.methods.contrastive import NCE, NCEPlus
from ebmbench.methods.likelihood import KLDIS, MLIS, MLMCMC
from ebmbench.methods.score import DSM, SM
from ebmbench.proposals.mixture import GaussianMixture

SHARED = GaussianMixture(stds=(0.1, 0.8), shared=True)
INDEPENDENT = GaussianMixture(stds=(0.1, 0.8), shared=False)


def methods(num_samples: int = 6) -> dict[str, Method]:
    return {
        "nce+": NCEPlus(num_samples=num_samples, beta=0.5),
        "nce": NCE(num_samples=num_samples),
        "ml-is": MLIS(num_samples=num_samples),
        "kld-is": KLDIS(num_samples=num_samples, sigma=0.3),
        "ml-mcmc": MLMCMC(num_samples=num_samples, langevin_steps=3, langevin_step=0.2),
        "dsm": DSM(num_samples=num_samples, sigma=0.3),
        "sm": SM(),
    }


NAMES = list(methods())


def loss_of(method: Method, f: Energy, y: Tensor, draws: Draws, proposal: GaussianMixture = SHARED) -> Tensor:
    return method.loss(f, y, Step(draws, proposal))


def test_every_method_of_the_paper_is_tested_here() -> None:
    known = registry.known("method")
    assert {name: type(method) for name, method in methods().items()} == {name: known[name] for name in NAMES}


# ------------------------------------------------------------------------------------------ a small smooth energy


def smooth_energy(parameters: Tensor) -> Callable[[Tensor], Tensor]:
    """`f(y) = Σ_j a_j tanh(w_j·y + b_j) − c ‖y‖²`: smooth, with all derivatives; parameters `[J, D + 2]` and c last."""

    def f(y: Tensor) -> Tensor:
        dim = y.shape[-1]
        w, b, a = parameters[:, :dim], parameters[:, dim], parameters[:, dim + 1]
        return torch.tanh(y @ w.T + b) @ a - 0.3 * y.square().sum(-1)

    return f


def energy_parameters(dim: int) -> Tensor:
    return Streams([99], stacked=False).at(0).normal("energy", (3, dim + 2), torch.float64)


def targets(lead: Sequence[int], dim: int, stacked: bool) -> tuple[Tensor, Draws]:
    seeds = list(range(lead[0])) if stacked else [0]
    draws = Streams(seeds, stacked=stacked).at(5)
    return draws.normal("targets", (*lead, dim), torch.float64), draws


# ------------------------------------------------------------------------------------------ the table, written naively


def normal_pdf(y: Tensor, centre: Tensor, std: float) -> Tensor:
    dim = y.shape[-1]
    return torch.exp(-0.5 * (y - centre).square().sum(-1) / std**2) / (2 * math.pi * std**2) ** (dim / 2)


def mixture_pdf(y: Tensor, centre: Tensor, stds: Sequence[float]) -> Tensor:
    return torch.stack([normal_pdf(y, centre, std) for std in stds]).mean(0)


def autograd_score(f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    y = y.detach().requires_grad_()
    return torch.autograd.grad(f(y).sum(), y)[0]


def naive_loss(
    name: str, method: Method, f: Callable[[Tensor], Tensor], y: Tensor, draws: Draws, proposal: GaussianMixture
) -> Tensor:
    """One example `y [D]` at a time, with bare exponentials: the table of README.md, word for word."""
    flat = y.reshape(-1, y.shape[-1])
    out = []
    samples = shift = None
    if method.uses_proposal:
        lead, step = y.shape[:-1], Step(draws)
        samples = proposal.noise("proposal", y, method.samples, step)
        samples = samples.expand(*lead, *samples.shape[-2:]).reshape(len(flat), *samples.shape[-2:])
        if name == "nce+":
            shift = proposal.noise("annotation", y, 1, step, scale=method.beta)  # type: ignore[attr-defined]
            shift = shift.expand(*lead, *shift.shape[-2:]).reshape(len(flat), -1)
    if name == "dsm":
        shape = (*y.shape[:-1], method.num_samples, y.shape[-1])  # type: ignore[attr-defined]
        denoising = draws.normal("denoising", shape, y.dtype).reshape(len(flat), *shape[-2:])
    if name == "ml-mcmc":
        shape = (*y.shape[:-1], method.num_samples, y.shape[-1])  # type: ignore[attr-defined]
        langevin = [
            draws.normal(f"langevin/{step}", shape, y.dtype).reshape(len(flat), *shape[-2:])
            for step in range(method.langevin_steps)  # type: ignore[attr-defined]
        ]
    for i, target in enumerate(flat):
        if samples is not None:
            ys = target + samples[i]
            q = mixture_pdf(ys, target, proposal.stds)
        match method:
            case MLIS():
                loss = torch.log((f(ys).exp() / q).mean()) - f(target)
            case KLDIS():
                p = normal_pdf(ys, target, method.sigma)
                loss = torch.log((f(ys).exp() / q).mean()) - (f(ys) * p / q).mean()
            case NCE() | NCEPlus():
                entry = target if shift is None else target + shift[i]
                zero = f(entry).exp() / mixture_pdf(entry, target, proposal.stds)
                loss = -torch.log(zero / (zero + (f(ys).exp() / q).sum()))
            case MLMCMC():
                chain = target.expand(method.num_samples, -1)
                for noise in langevin:
                    step = method.langevin_step
                    chain = chain + step**2 / 2 * autograd_score(f, chain) + step * noise[i]
                loss = f(chain.detach()).mean() - f(target)
            case SM():
                jacobian = torch.autograd.functional.jacobian(lambda t: autograd_score_graph(f, t), target)
                score = autograd_score(f, target)
                loss = torch.trace(jacobian) + 0.5 * score.square().sum()
            case DSM():
                noisy = target + method.sigma * denoising[i]
                score = autograd_score(f, noisy)
                loss = (score + (noisy - target) / method.sigma**2).square().sum(-1).mean()
        out.append(loss.detach())
    return torch.stack(out).reshape(y.shape[:-1])


def autograd_score_graph(f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    return torch.autograd.grad(f(y).sum(), y, create_graph=True)[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.parametrize("lead", [(5,), (2, 3), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_each_loss_is_the_table(name: str, dim: int, lead: tuple[int, ...], shared: bool) -> None:
    method, proposal = methods()[name], SHARED if shared else INDEPENDENT
    y, draws = targets(lead, dim, stacked=len(lead) > 1)
    f = smooth_energy(energy_parameters(dim))
    loss = loss_of(method, AutogradEnergy(f), y, draws, proposal)
    assert loss.shape == lead
    torch.testing.assert_close(loss.detach(), naive_loss(name, method, f, y, draws, proposal), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 4])
def test_gradients_agree_with_finite_differences(name: str, dim: int) -> None:
    """ml-mcmc's samples are constants of its loss: its differences are taken with the samples held."""
    y, draws = targets((3,), dim, stacked=False)
    method = methods()[name]
    parameters = energy_parameters(dim).requires_grad_()
    held: list[Tensor] = []

    class Held(AutogradEnergy):
        def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
            if name != "ml-mcmc":
                return super().grad(y, create_graph)
            at_start = AutogradEnergy(smooth_energy(parameters.detach()))
            held.append(y)
            return at_start.grad(y)

    def total(values: Tensor) -> Tensor:
        return loss_of(method, Held(smooth_energy(values)), y, draws, INDEPENDENT).sum()

    gradient = torch.autograd.grad(total(parameters), parameters)[0]
    step = 1e-5
    for index in range(parameters.numel()):
        bump = torch.zeros(parameters.numel(), dtype=torch.float64)
        bump[index] = step
        bump = bump.view_as(parameters)
        difference = (total(parameters.detach() + bump) - total(parameters.detach() - bump)) / (2 * step)
        torch.testing.assert_close(gradient.flatten()[index], difference.detach(), rtol=1e-6, atol=1e-7)
    assert bool(held) == (name == "ml-mcmc")
    assert gradient.abs().min() > 0


def test_the_samples_of_ml_mcmc_are_detached() -> None:
    parameters = energy_parameters(1).requires_grad_()
    y, draws = targets((3,), 1, stacked=False)
    seen: list[bool] = []

    def f(values: Tensor) -> Tensor:
        seen.append(values.grad_fn is not None and values.grad_fn.name() != "CatBackward0")
        return smooth_energy(parameters)(values)

    loss_of(methods()["ml-mcmc"], AutogradEnergy(f), y, draws)
    assert seen and not any(seen)


# ------------------------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize("name", ["ml-is", "kld-is", "nce", "nce+"])
def test_sharing_uses_one_set_of_noise_for_the_mini_batch_of_each_seed(name: str) -> None:
    y, draws = targets((2, 4), 1, stacked=True)
    offsets: list[Tensor] = []

    def f(values: Tensor) -> Tensor:
        offsets.append((values - y.unsqueeze(-2)).detach())
        return smooth_energy(energy_parameters(1))(values)

    for proposal in (SHARED, INDEPENDENT):
        loss_of(methods()[name], AutogradEnergy(f), y, draws, proposal)
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


def test_the_proposal_s_density_integrates_to_one_and_fits_its_draws() -> None:
    y = torch.linspace(-8, 8, 40_001, dtype=torch.float64).unsqueeze(-1)
    density = SHARED.offset_log_prob(y).exp()
    assert torch.trapezoid(density, y[:, 0]).item() == pytest.approx(1, abs=1e-9)
    noise = SHARED.noise("x", torch.zeros(1, 1).double(), 100_000, Step(Streams([3], stacked=False).at(0))).flatten()
    share = (noise.abs() < 0.1).double().mean().item()
    inside = torch.trapezoid(density[y[:, 0].abs() <= 0.1], y[y[:, 0].abs() <= 0.1, 0]).item()
    assert share == pytest.approx(inside, abs=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_a_function_of_the_step_alone(name: str) -> None:
    y, _ = targets((2, 3), 1, stacked=True)
    f = AutogradEnergy(smooth_energy(energy_parameters(1)))
    streams = Streams([0, 1])
    method = methods()[name]
    first, again, later = (loss_of(method, f, y, streams.at(step)) for step in (4, 4, 5))
    assert torch.equal(first, again)
    assert torch.equal(first, later) == (name == "sm")


# ------------------------------------------------------------------------------------------ numbers that overflow exp


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [1e4, -1e4])
@pytest.mark.parametrize("dim", [1, 4])
def test_extreme_energies_stay_finite_in_float32(name: str, level: float, dim: int) -> None:
    """The energy's level is no part of the model: neither losses nor gradients may move with it, and exp overflows."""
    parameters = energy_parameters(dim).float().requires_grad_()
    y, draws = targets((3,), dim, stacked=False)
    method = methods()[name]
    levels = {}
    for shift in (0.0, level):
        f = AutogradEnergy(lambda v, shift=shift: smooth_energy(parameters)(v) + shift)
        loss = loss_of(method, f, y.float(), draws)
        gradient = torch.autograd.grad(loss.sum(), parameters)[0]
        assert loss.isfinite().all() and gradient.isfinite().all()
        levels[shift] = loss
    if name != "kld-is":  # its two estimates weigh the level by 1 and by the mean of p/q, equal only in expectation
        torch.testing.assert_close(levels[0.0], levels[level], atol=0.02, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_steep_energies_stay_finite_in_float32(name: str) -> None:
    scale = torch.tensor(1e4, requires_grad=True)
    y, draws = targets((3,), 1, stacked=False)
    method = methods()[name] if name != "ml-mcmc" else MLMCMC(num_samples=6, langevin_steps=3, langevin_step=0.01)
    loss = loss_of(method, AutogradEnergy(lambda v: -scale * torch.tanh(v).square().sum(-1)), y.float(), draws)
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), scale)[0].isfinite()


def test_score_matching_takes_an_energy_without_curvature() -> None:
    """A linear f has a trace of zero, which autograd would call an error."""
    slope = torch.tensor([2.0, -1.0], requires_grad=True)
    y = torch.zeros(3, 2)
    loss = loss_of(SM(), AutogradEnergy(lambda v: v @ slope), y, Streams([0], stacked=False).at(0))
    torch.testing.assert_close(loss.detach(), torch.full((3,), 2.5))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), slope)[0], 3 * slope.detach())


# ------------------------------------------------------------------------------------------ closed forms on a Gaussian


@pytest.mark.parametrize("dim", [1, 4])
def test_score_matching_of_a_gaussian_energy_is_its_closed_form(dim: int) -> None:
    """`−D/s² + ½ ‖y − μ‖²/s⁴` (Hyvärinen, 2005)."""
    mu, s = 0.3, 0.7
    y, draws = targets((6,), dim, stacked=False)
    loss = loss_of(SM(), AutogradEnergy(lambda v: -0.5 * (v - mu).square().sum(-1) / s**2), y, draws)
    torch.testing.assert_close(loss.detach(), -dim / s**2 + 0.5 * (y - mu).square().sum(-1) / s**4)


def test_importance_sampling_finds_the_partition_function_of_a_gaussian() -> None:
    """With many samples `ml-is` is the exact negative log-likelihood, and nce's loss is it plus log M plus log q(0)."""
    mu, s, count = 0.1, 0.3, 400_000
    y = torch.tensor([[0.0], [0.4]], dtype=torch.float64)
    draws = Streams([0], stacked=False).at(0)
    f = AutogradEnergy(lambda v: -0.5 * (v - mu).square().sum(-1) / s**2)
    nll = 0.5 * (y[:, 0] - mu).square() / s**2 + math.log(s * math.sqrt(2 * math.pi))
    torch.testing.assert_close(loss_of(MLIS(num_samples=count), f, y, draws).detach(), nll, atol=0.01, rtol=0)
    nce = loss_of(NCE(num_samples=count), f, y, draws).detach()
    log_q = SHARED.offset_log_prob(torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(nce, nll + math.log(count) + log_q, atol=0.01, rtol=0)


def test_nce_with_the_model_equal_to_the_proposal_cannot_tell_the_target() -> None:
    """Where f − log q is constant every entry is as likely as the others: the loss is log(M + 1)."""
    y = torch.zeros(2, 1, dtype=torch.float64)
    draws = Streams([0], stacked=False).at(0)
    loss = loss_of(NCE(num_samples=15), AutogradEnergy(lambda v: SHARED.offset_log_prob(v) + 3), y, draws)
    torch.testing.assert_close(loss, torch.full((2,), math.log(16), dtype=torch.float64))


# ---------------------------------------------------------------------- p(y|x) known and Gaussian, data plenty
#
# p(y|x) = N(A x + b, s²) and f(x, y) = −½ λ (y − a x − c)²: three parameters, and the optimum is known.
# What each method should find, with N, M → ∞:
#
#   ml-is, nce   the law itself.
#   kld-is       Σ_i KL(N(y_i, σ²) ‖ model) is least for the law smoothed by σ: variance s² + σ².
#   nce+         With M → ∞ the softmax's sum is M Ẑ, so the loss tends to log M + log Z − f(y_i + ν) + log q(ν), whose
#                last term is free of θ: maximum likelihood of targets y_i + ν. The optimum is the law convolved with
#                the density of ν; in the Gaussian family that is the same mean and the variance s² + β² mean_k σ_k².
#                (The M-th entry's share in the sum, the only place where y_i + ν is also counted in Ẑ, is O(1/M).)
#   ml-mcmc      The gradient vanishes where L Langevin steps leave the second moment of the data unchanged, which is
#                where the data are stationary under y ← a y + λ_step ξ, a = 1 − λ_step² λ/2 (around the mean):
#                s² = λ_step²/(1 − a²) = 1/(λ (1 − λ_step² λ/4)), for every L.
#   sm           mean and precision of the law (exactly those of the sample).
#   dsm          mean and precision of the law smoothed by σ: variance s² + σ².

SLOPE, INTERCEPT, STD = 0.8, -0.3, 0.2
EXAMPLES = 4000
WIDE = GaussianMixture(stds=(0.2, 0.8), shared=False)


@dataclass
class GaussianLaw:
    x: Tensor
    y: Tensor

    def energy(self, theta: Tensor, index: slice = slice(None)) -> Energy:
        """θ = (a, c, log λ)."""
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


def fit(law: GaussianLaw, method: Method) -> Tensor:
    """The optimum of the mean loss over all examples, at fixed draws, by L-BFGS."""
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    draws = Streams([0], stacked=False).at(0)
    optimizer = torch.optim.LBFGS([theta], max_iter=60, tolerance_change=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(method, law.energy(theta), law.y, draws, WIDE).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return theta.detach()


def divergence(theta: Tensor, law: GaussianLaw, variance: float) -> float:
    """`KL(N(A x + b, variance) ‖ model)`, averaged over x."""
    ratio = theta[2].exp().item() * variance
    gap = (theta[0] - SLOPE) * law.x + theta[1] - INTERCEPT
    return 0.5 * (ratio - 1 - math.log(ratio)) + 0.5 * theta[2].exp().item() * gap.square().mean().item()


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        (MLIS(num_samples=128), 0.0),
        (NCE(num_samples=128), 0.0),
        (KLDIS(num_samples=128, sigma=0.15), 0.15**2),
        (NCEPlus(num_samples=128, beta=0.25), 0.25**2 * (0.2**2 + 0.8**2) / 2),
        (DSM(num_samples=16, sigma=0.2), 0.2**2),
        (SM(), 0.0),
    ],
    ids=["ml-is", "nce", "kld-is", "nce+", "dsm", "sm"],
)
def test_each_method_recovers_a_gaussian_smoothed_by_its_own_noise(
    law: GaussianLaw, method: Method, extra: float
) -> None:
    theta = fit(law, method)
    assert divergence(theta, law, STD**2 + extra) < 0.002
    if extra:  # and it is the prediction that it found, not the clean law
        assert divergence(theta, law, STD**2) > 0.02
    torch.testing.assert_close(theta[:2], torch.tensor([SLOPE, INTERCEPT]).double(), atol=0.02, rtol=0)
    assert 1 / theta[2].exp().item() == pytest.approx(STD**2 + extra, rel=0.06)
    if isinstance(method, SM):  # nothing is drawn: exact
        assert divergence(theta, law, STD**2) < 1e-9


@pytest.mark.parametrize("langevin_steps", [1, 8])
@pytest.mark.parametrize("step", [0.05, 0.15])
def test_ml_mcmc_recovers_a_gaussian_up_to_the_bias_of_its_step(
    law: GaussianLaw, langevin_steps: int, step: float
) -> None:
    """Its loss has no minimum that a line search could find (the samples follow the parameters): plain Adam."""
    method = MLMCMC(num_samples=4, langevin_steps=langevin_steps, langevin_step=step)
    theta = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.05)
    steps = 250
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: max(0.0, 1 - k / steps))
    streams = Streams([0], stacked=False)
    for k in range(steps):
        start = 1000 * k % EXAMPLES
        part = slice(start, start + 1000)
        optimizer.zero_grad()
        loss_of(method, law.energy(theta, part), law.y[part], streams.at(k)).mean().backward()
        optimizer.step()
        schedule.step()
    theta = theta.detach()
    precision = theta[2].exp().item()
    assert 1 / (precision * (1 - step**2 * precision / 4)) == pytest.approx(STD**2, rel=0.06)
    torch.testing.assert_close(theta[:2], torch.tensor([SLOPE, INTERCEPT]).double(), atol=0.03, rtol=0)
    assert divergence(theta, law, STD**2) < 0.02
