"""Importance sampling of densities of several numbers, with diagnostics. Everything is float64.

It serves where f costs much and its gradient more, or where the proposal is known to fit. A proposal may be fitted to
the density in a few rounds, for each row by itself (population Monte Carlo: Cappé et al., 2004). Every estimate of Z is
unbiased. Whether it can be trusted, the effective sample size and Pareto's k say. `core.tempering` goes further, with
gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor


CENTRES = 64
"""Training targets around which the first proposal samples."""
COMPONENTS = 8
"""Components of a fitted mixture of normals."""
EARLY = 3
"""Rounds that have four times the draws: a mode that is lost while the power is low is not found again."""
SETTLED = 1
"""Rounds at the density itself after which a mixture is good enough if its draws are, too."""


class Proposal(Protocol):
    """A distribution of y for each of `[S, B]` densities."""

    def sample(self, lead: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
        """Returns draws that broadcast to `[S, B, count, D]`."""
        ...

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns `log q`: `[S, B, M, D]` -> `[S, B, M]`."""
        ...


@dataclass(frozen=True)
class Cloud:
    """Equally likely Gaussian kernels of one shape.

    Attributes:
        centres: `[..., K, D]`; chol: the Cholesky factor of their covariance, `[..., D, D]`. `...` is nothing, or it
            broadcasts to `[S, B]`.
    """

    centres: Tensor
    chol: Tensor

    @staticmethod
    def of_targets(y: Tensor) -> Cloud:
        """Makes kernels around some of the standardised training targets `[N, D]`, with a width by Scott's rule."""
        y = y.double().cpu()
        dim = y.shape[1]
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
        centres = y[order[:CENTRES]]
        covariance = torch.cov(y.T).reshape(dim, dim) + 1e-4 * torch.eye(dim, dtype=y.dtype)
        return Cloud(centres, len(centres) ** (-1 / (dim + 4)) * torch.linalg.cholesky(covariance))

    def as_one(self) -> Cloud:
        """Returns one kernel with the mean and the covariance of all."""
        covariance = torch.cov(self.centres.T, correction=0) + self.chol @ self.chol.T
        return Cloud(self.centres.mean(0, keepdim=True), torch.linalg.cholesky(covariance))

    def sample(self, lead: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
        """Returns `count` draws for S models and B rows, `[B, count, D]` or `[S, B, count, D]`."""
        dim, kernels = self.centres.shape[-1], self.centres.shape[-2]
        noise = normal((lead[1], count, dim), generator, self.centres.device)
        which = torch.arange(count, device=self.centres.device) * kernels // count  # each kernel its equal share
        return self.centres[..., which, :] + noise @ self.chol.transpose(-1, -2)

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns the log-density at y: `[..., D] -> [...]`."""
        inverse = torch.linalg.inv(self.chol).transpose(-1, -2).to(y.dtype)
        white, centres = y @ inverse, self.centres.to(y.dtype) @ inverse
        distance = torch.cdist(white, centres.expand(*white.shape[:-2], *centres.shape[-2:]))
        dim = y.shape[-1]
        log_det = self.chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * dim * math.log(2 * math.pi) + math.log(self.centres.shape[-2])
        return torch.logsumexp(-0.5 * distance.square(), -1) - constant - log_det.unsqueeze(-1)

    def plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON."""
        return {"centres": self.centres.tolist(), "chol": self.chol.tolist()}

    @staticmethod
    def restore(plain: dict[str, Any]) -> Cloud:
        """Reads back what `plain` returned."""
        return Cloud(*(torch.tensor(plain[name], dtype=torch.float64) for name in ("centres", "chol")))

    def to(self, device: torch.device) -> Cloud:
        """Returns it on a device."""
        return Cloud(self.centres.to(device), self.chol.to(device))


@dataclass(frozen=True)
class Mixture:
    """A mixture of normals for each of `[S, B]` densities.

    Attributes:
        shares: `[S, B, K]`; centres: `[S, B, K, D]`; chol: Cholesky factors of the covariances, `[S, B, K, D, D]`.
    """

    shares: Tensor
    centres: Tensor
    chol: Tensor

    @staticmethod
    def fit(made: Weighted, steps: int = 6) -> Mixture:
        """Fits it to weighted draws by expectation maximisation.

        The covariance of a component is drawn to the mean of all, so that one of few draws does not collapse.
        """
        covariance = _covariance(made)
        dim = made.y.shape[-1]
        prior = ((dim + 1) / (made.ess * made.y.shape[-2]))[..., None]  # that many draws, as a part of all
        found = Mixture(
            covariance.new_full((*covariance.shape[:2], COMPONENTS), 1 / COMPONENTS),
            made.resample(COMPONENTS),
            torch.linalg.cholesky(0.1 * covariance).unsqueeze(2).repeat(1, 1, COMPONENTS, 1, 1),
        )
        for _ in range(steps):
            weights = made.weights.unsqueeze(-1) * torch.softmax(found._log_parts(made.y), -1)  # [S, B, M, K]
            size = weights.sum(-2)
            centres = weights.transpose(-1, -2) @ made.y / size.clamp(min=1e-12).unsqueeze(-1)
            centred = made.y.unsqueeze(-3) - centres.unsqueeze(-2)  # [S, B, K, M, D]
            scatter = (weights.transpose(-1, -2).unsqueeze(-1) * centred).transpose(-1, -2) @ centred
            mean = scatter.sum(2, keepdim=True)
            covariances = (scatter + prior[..., None, None] * mean) / (size + prior)[..., None, None]
            shares = (size + 0.01) / (size + 0.01).sum(-1, keepdim=True)
            found = Mixture(shares, centres, torch.linalg.cholesky(covariances + floor(covariances)))
        return found

    def of(self, rows: Tensor) -> Mixture:
        """Returns those of some of the B densities, given by a mask or their places."""
        return Mixture(self.shares[:, rows], self.centres[:, rows], self.chol[:, rows])

    def wider(self, factor: float) -> Mixture:
        """Returns it with standard deviations so many times as large."""
        return Mixture(self.shares, self.centres, factor * self.chol)

    def sample(self, lead: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
        """Returns `count` draws for S models and B rows, `[S, B, count, D]`; each component its share, rounded."""
        noise = normal((lead[1], count, self.centres.shape[-1]), generator, self.centres.device)
        shift = torch.rand((lead[1], 1), generator=generator, dtype=torch.float64).to(self.centres.device)
        which = systematic(self.shares.expand(*lead, -1), count, shift)[..., None]  # unbiased, and little noise
        centres = self.centres.gather(2, which.expand(*which.shape[:-1], noise.shape[-1]))
        chol = self.chol.gather(2, which[..., None].expand(*which.shape[:-1], *self.chol.shape[-2:]))
        return centres + (chol @ noise.unsqueeze(-1)).squeeze(-1)

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns the log-density at y: `[S, B, M, D] -> [S, B, M]`."""
        return torch.logsumexp(self._log_parts(y), -1)

    def _log_parts(self, y: Tensor) -> Tensor:
        """Returns the components' log-densities, with their shares: `[S, B, M, D] -> [S, B, M, K]`."""
        inverse = torch.linalg.inv(self.chol)
        white = (y.unsqueeze(-3) - self.centres.unsqueeze(-2)) @ inverse.transpose(-1, -2)  # [S, B, K, M, D]
        log_det = self.chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = self.shares.log() - log_det - 0.5 * y.shape[-1] * math.log(2 * math.pi)
        return (constant.unsqueeze(-1) - 0.5 * white.square().sum(-1)).transpose(-1, -2)


@dataclass(frozen=True)
class Weighted:
    """Weighted draws of `[S, B]` densities.

    Attributes:
        y: `[S, B, M, D]`.
        log_weights: `log exp(f) / q`, `[S, B, M]`.
        log_values: f, the energies, `[S, B, M]`.
    """

    y: Tensor
    log_weights: Tensor
    log_values: Tensor

    @cached_property
    def log_z(self) -> Tensor:
        """The estimate of log Z, `[S, B]`."""
        return torch.logsumexp(self.log_weights, -1) - math.log(self.log_weights.shape[-1])

    @cached_property
    def weights(self) -> Tensor:
        """The weights, normalised: `[S, B, M]`."""
        return torch.softmax(self.log_weights, -1)

    @cached_property
    def ess(self) -> Tensor:
        """The effective sample size as a share of the sample, `[S, B]`."""
        return 1 / (self.weights.square().sum(-1) * self.weights.shape[-1])

    @cached_property
    def error(self) -> Tensor:
        """The standard error of log Z, `[S, B]`."""
        return ((1 / self.ess - 1).clamp(min=0) / self.weights.shape[-1]).sqrt()

    @cached_property
    def k_hat(self) -> Tensor:
        """Pareto's k of the weights' tail, `[S, B]`."""
        return pareto_k(self.log_weights.flatten(0, 1)).view(self.log_z.shape)

    @cached_property
    def mean(self) -> Tensor:
        """`E[y]`, `[S, B, D]`."""
        return (self.weights.unsqueeze(-1) * self.y).sum(-2)

    @cached_property
    def spread(self) -> Tensor:
        """The standard deviation of each coordinate, `[S, B, D]`."""
        centred = (self.y - self.mean.unsqueeze(-2)).square()
        return (self.weights.unsqueeze(-1) * centred).sum(-2).sqrt()

    def quantile(self, probability: float) -> Tensor:
        """The quantile of each coordinate, `[S, B, D]`."""
        y, order = self.y.sort(-2)
        weights = self.weights.unsqueeze(-1).expand_as(y).gather(-2, order)
        place = (weights.cumsum(-2) < probability).sum(-2, keepdim=True).clamp(max=y.shape[-2] - 1)
        return y.gather(-2, place).squeeze(-2)

    def resample(self, count: int, shift: Tensor | float = 0.5) -> Tensor:
        """Returns equally likely draws by systematic resampling, `[S, B, count, D]`.

        Args:
            shift: in [0, 1); a random one makes the draws random.
        """
        place = systematic(self.weights, count, shift)
        return self.y.gather(-2, place.unsqueeze(-1).expand(*place.shape, self.y.shape[-1]))

    def mass_above(self, log_value: Tensor) -> Tensor:
        """The mass where the energy is higher than a value `[S, B]`: `[S, B]`."""
        return (self.weights * (self.log_values > log_value.unsqueeze(-1))).sum(-1)


@dataclass(frozen=True)
class Proposed:
    """Draws from a mixture of proposals, not yet weighted.

    Attributes:
        y: `[S, B, M, D]`; log_q: the mixture's log-density there, `[S, B, M]`. S is 1 where all models share them.
    """

    y: Tensor
    log_q: Tensor

    def weighted(self, log_density: Callable[[Tensor], Tensor], lead: tuple[int, int]) -> Weighted:
        """Returns them with the weights of S models and B rows."""
        y = self.y.expand(*lead, *self.y.shape[2:])
        values = log_density(y)
        return Weighted(y, values - self.log_q, values)


def propose(
    parts: Sequence[tuple[float, Proposal]], lead: tuple[int, int], count: int, generator: torch.Generator
) -> Proposed:
    """Draws from a mixture of proposals, each its exact share.

    Args:
        parts: shares, which sum to one, and proposals.
        lead: S and B.
    """
    sizes = [max(1, round(share * count)) for share, _ in parts]
    drawn = [p.sample(lead, size, generator) for size, (_, p) in zip(sizes, parts, strict=True)]
    y = torch.cat([d.expand(*lead, *d.shape[-2:]) for d in drawn], dim=-2)
    total = sum(sizes)
    log_q = torch.stack([p.log_prob(y) + math.log(size / total) for size, (_, p) in zip(sizes, parts, strict=True)])
    return Proposed(y, torch.logsumexp(log_q, 0))


def _covariance(made: Weighted) -> Tensor:
    """Returns the covariance of weighted draws, kept from being singular: `[S, B, D, D]`."""
    centred = made.y - made.mean.unsqueeze(-2)
    covariance = (made.weights.unsqueeze(-1) * centred).transpose(-1, -2) @ centred
    return covariance + floor(covariance)


def floor(covariance: Tensor, least: float = 1e-6) -> Tensor:
    """Returns what is added to a covariance so that it is not singular: `[..., D, D]`."""
    size = least + 1e-3 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    return size[..., None, None] * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)


def annealed(
    density_of: Callable[[Tensor], Callable[[Tensor], Tensor]],
    start: Proposal,
    rows: Tensor,
    count: int,
    generator: torch.Generator,
    rounds: int = 25,
) -> Mixture:
    """Returns mixtures of normals that are fitted to powers of densities, rising to the first: `[1, B]` of them.

    (Tempering as in sequential Monte Carlo: Del Moral et al., 2006.) It finds modes that are far from the first
    proposal's mass as well. `covering` makes a proposal of it.

    Args:
        density_of: from some of the rows to their log-densities, `[1, b, M, D] -> [1, b, M]`. Rows that are fitted are
            not evaluated again.
        start: the first proposal, wide enough to meet every mode of a low power.
        rows: `[B]` which densities.
        count: draws of a round.
        rounds: at most.
    """
    left = torch.arange(len(rows), device=rows.device)
    lead = (1, len(rows))
    made = propose([(1.0, start)], lead, 4 * count, generator).weighted(density_of(rows), lead)
    power, stay = torch.zeros_like(made.log_z), torch.zeros(len(rows), device=rows.device)
    places: list[Tensor] = []
    fits: list[Mixture] = []
    for number in range(rounds):
        log_q = made.log_values - made.log_weights
        # It rises where the fit is poor, too: the effective size of what is drawn says whether that went well.
        least = (1.4 * power).clamp(max=1.0)
        power = flattening(made.log_values, log_q, least, 0.15, 30)
        flat = Weighted(made.y, power.unsqueeze(-1) * made.log_values - log_q, made.log_values)
        fitted = Mixture.fit(flat)
        stay = torch.where(power[0] == 1, stay + 1, 0)
        done = (stay > SETTLED) | ((stay == SETTLED) & (made.ess[0] >= 0.15)) | (number == rounds - 1)
        places.append(left[done])
        fits.append(fitted.of(done))
        left, stay, power, fitted = left[~done], stay[~done], power[:, ~done], fitted.of(~done)
        if not len(left):
            break
        size, lead = 4 * count if number < EARLY else count, (1, len(left))
        made = propose(covering(fitted, start), lead, size, generator).weighted(density_of(rows[left]), lead)
    order = torch.cat(places).argsort()
    names = ("shares", "centres", "chol")
    return Mixture(*(torch.cat([getattr(fit, name) for fit in fits], dim=1)[:, order] for name in names))


def covering(fitted: Mixture, start: Proposal) -> list[tuple[float, Proposal]]:
    """Returns a proposal of wider copies of a mixture and, for a tenth, of the first proposal."""
    return [(0.6, fitted.wider(1.1)), (0.3, fitted.wider(2.0)), (0.1, start)]


def flattening(
    log_weights: Tensor, log_q: Tensor | float = 0.0, least: Tensor | None = None, share: float = 0.1, steps: int = 12
) -> Tensor:
    """Returns the largest power that leaves `power · log_weights − log_q` an effective size of a share.

    Shapes: `[..., M] -> [...]`.

    Args:
        least: the smallest power, where the effective size is enough; 0 if not given.
        steps: of the bisection.
    """
    low = torch.zeros_like(log_weights[..., 0]) if least is None else least
    high = torch.ones_like(low)
    power = high
    for _ in range(steps):
        weights = torch.softmax(power.unsqueeze(-1) * log_weights - log_q, -1)
        enough = 1 / weights.square().sum(-1) >= share * log_weights.shape[-1]
        low, high = torch.where(enough, power, low), torch.where(enough, high, power)
        power = torch.where(low == 1, 1.0, 0.5 * (low + high))
    return torch.where(low == 1, 1.0, low)


def systematic(weights: Tensor, count: int, shift: Tensor | float) -> Tensor:
    """Returns places of the weights `[..., M]`, each as often as its share of the weight says: `[..., count]`.

    Args:
        shift: in [0, 1), a number or `[..., 1]`; random ones make the choice random and unbiased.
    """
    u = (torch.arange(count, dtype=torch.float64, device=weights.device) + shift) / count
    cdf = weights.cumsum(-1)
    cdf = cdf / cdf[..., -1:]
    place = torch.searchsorted(cdf, u.expand(*cdf.shape[:-1], count).contiguous())
    return place.clamp(max=cdf.shape[-1] - 1)


def pareto_k(log_weights: Tensor) -> Tensor:
    """Returns the shape k of a generalised Pareto distribution fitted to the largest weights: `[N, M] -> [N]`.

    (Zhang and Stephens, 2009, with the weak prior of Vehtari et al., 2024.) Weights that are all alike have k = -inf.
    """
    count = log_weights.shape[-1]
    tail = max(5, min(count // 5, math.ceil(3 * math.sqrt(count))))
    weights = (log_weights - log_weights.amax(-1, keepdim=True)).double().exp().sort(-1).values
    x = (weights[:, -tail:] - weights[:, -tail - 1 : -tail]).clamp(min=0)
    flat = x[:, -1] < 1e-10
    x = torch.where(flat.unsqueeze(1), torch.ones_like(x), x.clamp(min=1e-300))
    grid = 30 + int(math.sqrt(tail))
    steps = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device)
    quarter = x[:, int(tail / 4 + 0.5) - 1 : int(tail / 4 + 0.5)]
    theta = (1 - (grid / (steps - 0.5)).sqrt()) / (3 * quarter) + 1 / x[:, -1:]
    k = torch.log1p(-theta.unsqueeze(-1) * x.unsqueeze(1)).mean(-1)
    length = tail * ((-(theta / k)).log() - k - 1)
    share = torch.softmax(torch.nan_to_num(length, nan=-math.inf), -1)
    chosen = (share * torch.nan_to_num(theta)).sum(-1, keepdim=True)
    shape = torch.log1p(-chosen * x).mean(-1)
    return torch.where(flat, -math.inf, (tail * shape + 5) / (tail + 10))


def normal(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Returns the same numbers on every device."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)
