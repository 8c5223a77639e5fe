"""Every method on p(y|x) known and Gaussian, data plenty: it finds the optimum that its equation predicts.

p(y|x) = N(A x + b, s²) and f(x, y) = −½ λ (y − a x − c)²: three parameters, b(x) a fourth. With N, M → ∞:

    ml-is, nce       the distribution itself.
    kld-is           Σ_i KL(N(y_i, σ²) ‖ model) is least for the distribution smoothed by σ: variance s² + σ².
    nce+             The softmax's sum is M Ẑ, so the loss tends to log M + log Z − f(y_i + ν) + log q(ν), whose last
                     term is free of θ: maximum likelihood of targets y_i + ν. In the Gaussian family that is the same
                     mean and the variance s² + β² mean_k σ_k².
    ml-mcmc, pcd     The gradient vanishes where Langevin steps leave the second moment of the data unchanged, which is
                     where the data are stationary under y ← a y + λ_step ξ, a = 1 − λ_step² λ/2 (around the mean):
                     s² = λ_step²/(1 − a²) = 1/(λ (1 − λ_step² λ/4)), for every L.
    sm, ssm          mean and precision of the sample, exactly (ssm: D = 1).
    dsm              variance s² + σ².
    nce-binary, snl  the distribution itself (nce-binary up to O(1/M), since q depends on the target), and b = log Z.
    ed               the distribution itself, for every s; w and a finite M bias it by O(w/M).
    mdsm             With η, ξ ~ N(0, 1) a term is (σξ − σ0² λ (sη + σξ))²/σ². Its mean over all, least in λ, gives
                     1/λ = σ0² (1 + s² mean(1/σ²)); that is s² + σ0² where σ0² is the harmonic mean of σ².
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.methods.base import Method
from ebmbench.methods.contrastive import NCE, NCEPlus
from ebmbench.methods.discrepancy import EnergyDiscrepancy
from ebmbench.methods.likelihood import KLDIS, MLIS, MLMCMC
from ebmbench.methods.multiscale import MDSM
from ebmbench.methods.persistent import PCD
from ebmbench.methods.score import DSM, SM
from ebmbench.methods.self_normalised import SNL, NCEBinary
from ebmbench.methods.sliced import SSM
from ebmbench.proposals.learned import Learned
from ebmbench.proposals.mixture import GaussianMixture

SLOPE, INTERCEPT, STD = 0.8, -0.3, 0.2
EXAMPLES = 2000
WIDE = GaussianMixture(stds=(0.2, 0.8))
SCALES = MDSM(num_samples=64, sigma_low=0.1, sigma_high=0.8, levels=8)


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


def divergence(theta: Tensor, law: GaussianLaw, variance: float) -> float:
    """`KL(N(A x + b, variance) ‖ model)`, averaged over x."""
    ratio = theta[2].exp().item() * variance
    gap = (theta[0] - SLOPE) * law.x + theta[1] - INTERCEPT
    return 0.5 * (ratio - 1 - math.log(ratio)) + 0.5 * theta[2].exp().item() * gap.square().mean().item()


def mdsm_variance(method: MDSM) -> float:
    sigmas = torch.logspace(math.log10(method.sigma_low), math.log10(method.sigma_high), method.levels).double()
    return method.target_sigma**2 * (1 + STD**2 * sigmas.pow(-2).mean().item())


CASES: list[tuple[Method, float]] = [
    (MLIS(num_samples=128), STD**2),
    (NCE(num_samples=128), STD**2),
    (KLDIS(num_samples=128, sigma=0.15), STD**2 + 0.15**2),
    (NCEPlus(num_samples=128, beta=0.25), STD**2 + 0.25**2 * (0.2**2 + 0.8**2) / 2),
    (DSM(num_samples=16, sigma=0.2), STD**2 + 0.2**2),
    (SM(), STD**2),
    (NCEBinary(num_samples=128), STD**2),
    (SNL(num_samples=128), STD**2),
    (EnergyDiscrepancy(num_samples=256, scale=0.3, stabilisation=0.01), STD**2),
    (SSM(), STD**2),
    (SCALES, mdsm_variance(SCALES)),
    (SCALES.model_copy(update={"sigma0": 0.3}), mdsm_variance(SCALES.model_copy(update={"sigma0": 0.3}))),
]


@pytest.mark.parametrize(("method", "variance"), CASES, ids=lambda value: getattr(value, "name", None))
def test_each_method_finds_the_gaussian_that_its_equation_predicts(
    law: GaussianLaw, method: Method, variance: float
) -> None:
    theta = fit(law, method)
    torch.testing.assert_close(theta[:2], torch.tensor([SLOPE, INTERCEPT]).double(), atol=0.02, rtol=0)
    assert 1 / theta[2].exp().item() == pytest.approx(variance, rel=0.06)
    assert divergence(theta, law, variance) < 0.002
    if variance > 1.5 * STD**2:  # and it is the prediction that it found, not the clean distribution
        assert divergence(theta, law, STD**2) > 0.02
    if isinstance(method, SM | SSM):  # nothing is drawn, or nothing of it counts: exact
        assert divergence(theta, law, STD**2) < 1e-9
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
    assert mdsm_variance(SCALES) == pytest.approx(STD**2 + SCALES.target_sigma**2)
    assert SCALES.sigma_low < SCALES.target_sigma < SCALES.sigma_high


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
        method.loss(law.energy(theta, part), law.y[part], Step(streams.at(k))).mean().backward()
        optimizer.step()
        schedule.step()
    theta = theta.detach()
    precision = theta[2].exp().item()
    assert 1 / (precision * (1 - step**2 * precision / 4)) == pytest.approx(STD**2, rel=0.06)
    torch.testing.assert_close(theta[:2], torch.tensor([SLOPE, INTERCEPT]).double(), atol=0.03, rtol=0)
    assert divergence(theta, law, STD**2) < 0.02


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
