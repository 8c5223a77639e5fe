"""Every method with small settings, the mini-batch on which it is tried, and its loss written naively."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Draws, Streams
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
from ebmbench.proposals.learned import WIDEST, Learned
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.proposals.uniform import Uniform

METHODS: dict[str, Method] = {
    "nce+": NCEPlus(num_samples=6, beta=0.5),
    "nce": NCE(num_samples=6),
    "ml-is": MLIS(num_samples=6),
    "kld-is": KLDIS(num_samples=6, sigma=0.3),
    "ml-mcmc": MLMCMC(num_samples=6, langevin_steps=3, langevin_step=0.2),
    "dsm": DSM(num_samples=6, sigma=0.3),
    "sm": SM(),
    "nce-binary": NCEBinary(num_samples=6),
    "snl": SNL(num_samples=6),
    "ed": EnergyDiscrepancy(num_samples=6, scale=0.4, stabilisation=0.7),
    "ssm": SSM(),
    "mdsm": MDSM(num_samples=6, sigma_low=0.2, sigma_high=0.9, levels=4, sigma0=0.3),
    "pcd": PCD(num_samples=6, langevin_steps=3, langevin_step=0.2, restart=0.3),
}
SAMPLING = [name for name, method in METHODS.items() if method.uses_proposal]
SHARED = GaussianMixture(stds=(0.1, 0.8), shared=True)
INDEPENDENT = GaussianMixture(stds=(0.1, 0.8), shared=False)
PROPOSALS: dict[str, Proposal] = {
    "shared": SHARED,
    "independent": INDEPENDENT,
    "uniform": Uniform(low=-4, high=5),
    "learned": Learned(components=2, scale=0.7),
}


def targets(lead: Sequence[int], dim: int) -> tuple[Tensor, Draws]:
    """Returns targets `[*lead, dim]` and the random numbers of a step; the first of two axes is that of the seeds."""
    stacked = len(lead) > 1
    draws = Streams(list(range(lead[0])) if stacked else [0], stacked=stacked).at(5)
    return draws.normal("targets", (*lead, dim), torch.float64), draws


def step_for(method: Method, y: Tensor, draws: Draws, proposal: Proposal, b: Tensor | None = None) -> Step:
    """Returns a step with a given b(x) and learned proposal, and with chains of which some were visited before."""
    b = 0.3 * y.sum(-1) if b is None else b
    heads = {"log_normaliser": lambda: b.unsqueeze(-1)}
    memory: dict[str, Tensor] = {}
    if isinstance(method, PCD):
        memory["chains"] = 1.5 * draws.normal("chains", (*y.shape[:-1], method.num_samples, y.shape[-1]), y.dtype)
        memory["chains"][..., :2, :] = torch.nan
    if isinstance(proposal, Learned):
        shape = (*y.shape[:-1], proposal.components * (2 * y.shape[-1] + 1))
        heads["proposal"] = lambda: draws.normal("head", shape, y.dtype)
    return Step(draws, proposal, heads, memory)


# ------------------------------------------------------------------------- the tables of the documents, written naively


def normal_pdf(y: Tensor, centre: Tensor, std: Tensor | float) -> Tensor:
    std = torch.as_tensor(std, dtype=y.dtype).expand(y.shape[-1])
    return torch.exp(-0.5 * ((y - centre) / std).square().sum(-1)) / (math.sqrt(2 * math.pi) * std).prod()


def proposal_pdf(proposal: Proposal, ys: Tensor, target: Tensor, head: Tensor | None) -> Tensor:
    """Returns q of candidates `[..., D]` for one target `[D]`, given what a learned proposal's network says of it."""
    dim = target.shape[-1]
    match proposal:
        case GaussianMixture(stds=stds):
            return torch.stack([normal_pdf(ys, target, std) for std in stds]).mean(0)
        case Uniform(low=low, high=high):
            return torch.full_like(ys[..., 0], (high - low) ** -dim)
        case Learned(components=count, scale=scale):
            assert head is not None
            means, log_variances = head[: count * dim].view(count, dim), head[count * dim : 2 * count * dim]
            weights = head[2 * count * dim :].exp() / head[2 * count * dim :].exp().sum()
            # The variance's logarithm is bent where it comes near its upper bound.
            bound = 2 * math.log(WIDEST)
            bent = bound - torch.log(1 + (bound - log_variances.view(count, dim)).exp())
            stds = scale * (0.5 * bent).exp()
            return torch.stack(
                [w * normal_pdf(ys, scale * m, s) for w, m, s in zip(weights, means, stds, strict=True)]
            ).sum(0)
    raise AssertionError(proposal)


def score(f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    y = y.detach().requires_grad_()
    return torch.autograd.grad(f(y).sum(), y)[0]


def naive_loss(method: Method, f: Callable[[Tensor], Tensor], y: Tensor, step: Step) -> Tensor:
    """One example `y [D]` at a time, with bare exponentials, word for word as README and docstrings have it."""
    lead, dim = y.shape[:-1], y.shape[-1]
    draws, proposal, count = step.draws, step.q(), max(1, method.samples)

    def per_example(values: Tensor, *shape: int) -> Tensor:
        return values.expand(*lead, *shape).reshape(-1, *shape)

    def normal(stream: str, number: int = count) -> Tensor:
        return per_example(draws.normal(stream, (*lead, number, dim), y.dtype), number, dim)

    samples = per_example(proposal.sample(y, count, step)[0], count, dim)
    if isinstance(proposal, GaussianMixture):
        beta = getattr(method, "beta", 1.0)
        moved = per_example(y.unsqueeze(-2) + proposal.noise("annotation", y, 1, step, beta), 1, dim)[:, 0]
    else:
        other = per_example(proposal.sample(y, 1, step, "annotation")[0], 1, dim)[:, 0]
        moved = y.reshape(-1, dim) + getattr(method, "beta", 1.0) * (other - y.reshape(-1, dim))
    heads = step.head("proposal").reshape(len(moved), -1) if "proposal" in step.heads else [None] * len(moved)
    b = step.head("log_normaliser").reshape(-1)
    out = []
    for i, target in enumerate(y.reshape(-1, dim)):
        ys = samples[i]
        q, q_target, q_moved = (proposal_pdf(proposal, at, target, heads[i]) for at in (ys, target, moved[i]))
        match method:
            case MLIS():
                loss = torch.log((f(ys).exp() / q).mean()) - f(target)
            case KLDIS(sigma=sigma):
                loss = torch.log((f(ys).exp() / q).mean()) - (f(ys) * normal_pdf(ys, target, sigma) / q).mean()
            case NCE() | NCEPlus():
                at, density = (moved[i], q_moved) if isinstance(method, NCEPlus) else (target, q_target)
                data = f(at).exp() / density
                loss = -torch.log(data / (data + (f(ys).exp() / q).sum()))
            case MLMCMC(langevin_steps=steps, langevin_step=size):
                chain = target.expand(count, -1)
                for k in range(steps):
                    chain = chain + size**2 / 2 * score(f, chain) + size * normal(f"langevin/{k}")[i]
                loss = f(chain.detach()).mean() - f(target)
            case SM():
                hessian = torch.autograd.functional.hessian(f, target)
                loss = torch.trace(hessian) + 0.5 * score(f, target).square().sum()
            case DSM(sigma=sigma):
                noisy = target + sigma * normal("denoising")[i]
                loss = (score(f, noisy) + (noisy - target) / sigma**2).square().sum(-1).mean()
            case NCEBinary():
                data = f(target).exp() / b[i].exp() / (count * q_target)  # exp G
                noise = f(ys).exp() / b[i].exp() / (count * q)
                loss = -torch.log(data / (1 + data)) - torch.log(1 / (1 + noise)).sum()
            case SNL():
                loss = b[i] - f(target) + ((f(ys) - b[i]).exp() / q).mean() - 1
            case EnergyDiscrepancy(scale=s, stabilisation=w):
                noise = normal("perturbation", 1 + count)[i]
                away = target + s * (noise[0] + noise[1:])
                loss = torch.log(w / count + (f(away) - f(target)).exp().mean())
            case SSM():
                bits = per_example(draws.integers("direction", (*lead, 1, dim), 2), 1, dim)[i, 0]
                v = (2 * bits - 1).to(y.dtype)
                hessian = torch.autograd.functional.hessian(f, target)
                loss = v @ hessian @ v + 0.5 * score(f, target).square().sum()
            case MDSM(sigma_low=low, sigma_high=high, levels=levels, sigma0=sigma0):
                assert sigma0 is not None
                level = per_example(draws.integers("level", (*lead, count, 1), levels), count, 1)[i]
                sigmas = low * (high / low) ** (level.to(y.dtype) / (levels - 1))
                noisy = target + sigmas * normal("denoising")[i]
                gap = target - noisy - sigma0**2 * score(f, noisy)
                loss = (gap.square().sum(-1) / sigmas[:, 0] ** 2).mean()
            case PCD(langevin_steps=steps, langevin_step=size, restart=share):
                restart = per_example(draws.uniform("restart", (*lead, count, 1), y.dtype), count, 1)[i]
                chain = per_example(step.memory["chains"], count, dim)[i]
                for m in range(count):
                    if chain[m].isnan().any() or restart[m] < share:
                        chain[m] = target
                for k in range(steps):
                    chain = chain + size**2 / 2 * score(f, chain) + size * normal(f"langevin/{k}")[i]
                loss = f(chain.detach()).mean() - f(target)
        out.append(loss.detach())
    return torch.stack(out).reshape(lead)
