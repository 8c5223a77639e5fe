"""The partition function of a density of several numbers, by annealed populations that Hamiltonian moves carry.

The start is a mixture `q = Σ_c α_c q_c` of known densities. Each q_c sends out a population of its own, and

    Z = ∫ exp f = Σ_c α_c E_{q_c}[exp f / q],

so that each is answerable for the mass where its own density is the highest, and none has to find what another one
starts from. A population goes from `q_c` to `q_c · exp f / q` along `q_c · (exp f / q)^t`, with t from 0 to 1:
sequential Monte Carlo (Del Moral et al., 2006) with powers t that leave a share of the effective sample size,
systematic resampling, and Hamiltonian moves (Neal, 2011) whose step follows the rate of acceptance. Without powers
between 0 and 1 this is importance sampling from q.

Two things are uncertain. A population is several islands that never exchange particles: their estimates of Z differ by
chance, and their spread gives a standard error. And all of them may miss the same mass, for want of particles and of
moves. So all is done once more with a quarter of the particles and half of the leapfrog steps: what the other work
adds is taken for the bias that is left (`Tempered.bias`). Mass that no part of the start leads to is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from ebmbench.core.importance import Proposal, Weighted, flattening, floor, normal, systematic

if TYPE_CHECKING:
    from torch import Tensor

    from ebmbench.core.energy import Energy

ISLANDS = 4
KEPT = 0.8
"""The share of the effective sample size that a rise of the power leaves."""
LEAPS = 10
"""Leapfrog steps of a move."""
LITTLE = (4, 2)
"""By what the second, smaller run divides the particles and the leapfrog steps."""
MOVES = 2
"""Hamiltonian moves at each power."""
ACCEPTED = 0.65
MOST_RISES = 300
IMPOSSIBLE = -1e30
"""The logarithm of a weight that is zero, still a number."""


@dataclass(frozen=True)
class Tempered(Weighted):
    """Draws of `[S, B]` densities, and what is uncertain of their log Z.

    Attributes:
        islands: independent estimates of log Z, `[S, B, R]`.
        bias: by how much log Z is perhaps too low, `[S, B]`: what seven eighths of the work added to it, and half
            of its variance, by which the logarithm of an unbiased estimate is too low.
    """

    islands: Tensor
    bias: Tensor

    @cached_property
    def error(self) -> Tensor:
        """The standard error of log Z by the spread of the islands, `[S, B]`."""
        return self.islands.std(-1) / self.islands.shape[-1] ** 0.5


@torch.no_grad()
def tempered(
    f: Energy, start: Sequence[tuple[float, Proposal]], lead: tuple[int, int], count: int, generator: torch.Generator
) -> Tempered:
    """Returns draws of `exp f / Z` and an estimate of Z.

    Args:
        f: the log-densities, `[S, B, M, D] -> [S, B, M]`, and their gradient.
        start: shares, which sum to one, and densities that reach all of the mass together.
        lead: S and B.
        count: particles of all populations together.
    """

    def populations(count: int, leaps: int) -> list[_Population]:
        sizes = [ISLANDS * max(1, round(share * count / ISLANDS)) for share, _ in start]
        return [_Annealing(f, start, own, lead, size, generator).run(leaps) for own, size in enumerate(sizes)]

    made, short = populations(count, LEAPS), populations(count // LITTLE[0], LEAPS // LITTLE[1])
    y, values = (torch.cat([getattr(p, name) for p in made], 2) for name in ("y", "values"))
    log_weights = torch.cat([p.log_weights + math.log(y.shape[2] / p.y.shape[2]) for p in made], -1)
    islands, before = (torch.logsumexp(torch.stack([p.islands for p in some]), 0) for some in (made, short))
    gained = torch.logsumexp(islands, -1) - torch.logsumexp(before, -1)
    return Tempered(y, log_weights, values, islands, gained + 0.5 * islands.var(-1) / ISLANDS)


@dataclass(frozen=True)
class _Population:
    """Where the particles of one part of the start arrived: `y` `[S, B, M, D]`, f there `values` `[S, B, M]`.

    `islands`: the estimates of `log α_c E_{q_c}[exp f / q]`, `[S, B, R]`.
    """

    y: Tensor
    values: Tensor
    islands: Tensor

    @property
    def log_weights(self) -> Tensor:
        """The estimate of each particle's island, `[S, B, M]`."""
        return self.islands.repeat_interleave(self.y.shape[2] // ISLANDS, -1)


class _Annealing:
    """The way of one population of M particles, by the powers of its `[S, B]` densities.

    Its state: particles `y` with f there (`values`), the logarithms of `exp f / q` (`gain`) and of `q_c` (`own`);
    `power`, `step` `[S, B]` and `islands` `[S, B, R]`.
    """

    def __init__(
        self,
        f: Energy,
        start: Sequence[tuple[float, Proposal]],
        number: int,
        lead: tuple[int, int],
        count: int,
        generator: torch.Generator,
    ) -> None:
        self.f, self.start, self.number, self.generator = f, start, number, generator
        share, part = start[number]
        y = part.sample(lead, count, generator)
        self.y = y.expand(*lead, *y.shape[-2:]).float().contiguous()
        self.values, self.gain, self.own = self._at(self.y)
        self.power, self.step = self.y.new_zeros(lead), self.y.new_full(lead, 0.5)
        self.islands = self.y.new_full((*lead, ISLANDS), math.log(share), dtype=torch.float64)
        # The forces of q_c are those of a normal of its moments: this changes what is accepted, and no more.
        self.mean = self.y.mean(2, keepdim=True)
        self.precision = torch.linalg.inv(_covariance(self.y))

    def run(self, leaps: int) -> _Population:
        """Takes the population to the power one."""
        broken = ~self.values.isfinite().all(-1)
        self.power = torch.where(broken, 1.0, self.power)  # nothing is known of its density
        for _ in range(MOST_RISES):
            moving = self.power < 1
            if not moving.any():
                break
            self._rise()
            chol = self._shapes()
            for _ in range(MOVES):
                self._move(chol, moving, leaps)
        broken |= self.power < 1
        islands = torch.where(broken.unsqueeze(-1), math.nan, self.islands)
        return _Population(self.y.double(), self.values.double(), islands)

    def _at(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns f, `log exp f / q` and `log q_c`: `[S, B, M]` each."""
        values = self.f(y)
        parts = torch.stack([part.log_prob(y) + math.log(share) for share, part in self.start])
        gain = values - torch.logsumexp(parts, 0)
        own = parts[self.number].expand_as(values).float()
        return values.float(), torch.where(gain.isfinite(), gain, IMPOSSIBLE).float(), own

    def _rise(self) -> None:
        """Raises the powers, weighs the particles, and resamples them within their islands."""
        rise = torch.minimum(flattening(self.gain, share=KEPT, steps=40), 1 - self.power)
        power = torch.where(rise == 1 - self.power, 1.0, self.power + rise)
        weights = (rise.unsqueeze(-1) * self.gain).unflatten(-1, (ISLANDS, -1))
        size = weights.shape[-1]
        self.islands = self.islands + torch.logsumexp(weights.double(), -1) - math.log(size)
        shift = torch.rand((power.shape[1], ISLANDS, 1), generator=self.generator, dtype=torch.float64)
        places = systematic(torch.softmax(weights.double(), -1), size, shift.to(weights.device))
        places = (places + size * torch.arange(ISLANDS, device=places.device).unsqueeze(1)).flatten(2)
        # A population that has arrived stays as it is, whatever the others beside it do.
        places = torch.where(
            (self.power < 1).unsqueeze(-1), places, torch.arange(places.shape[-1], device=places.device)
        )
        self.y = self.y.gather(2, places.unsqueeze(-1).expand_as(self.y))
        self.values, self.gain, self.own = (v.gather(2, places) for v in (self.values, self.gain, self.own))
        self.power = power

    def _shapes(self) -> Tensor:
        """Returns a Cholesky factor of the covariance that each island's moves suppose, `[S, B, R, D, D]`.

        It is that of the other islands. With its own the moves would depend on the particles that they move, and the
        estimate of Z would be too high.
        """
        by_island = self.y.unflatten(2, (ISLANDS, -1))
        others = [[r for r in range(ISLANDS) if r != own] for own in range(ISLANDS)]
        return torch.stack([torch.linalg.cholesky(_covariance(by_island[:, :, r].flatten(2, 3))) for r in others], 2)

    def _move(self, chol: Tensor, moving: Tensor, leaps: int) -> None:
        """Moves the particles by leapfrog steps in coordinates in which their covariance is the unit matrix."""
        shape = self.y.shape[1:]
        momentum = normal(shape, self.generator, self.y.device).float()
        log_uniform = torch.rand(shape[:-1], generator=self.generator).log().to(self.y.device)
        step, power = self.step[..., None, None], self.power.unsqueeze(-1)

        def times(v: Tensor, matrix: Tensor) -> Tensor:
            return (v.unflatten(2, (ISLANDS, -1)) @ matrix).flatten(2, 3)

        def force(y: Tensor) -> Tensor:
            own = (self.mean - y) @ self.precision
            return times(torch.lerp(own, self.f.grad(y).to(y.dtype), power.unsqueeze(-1)), chol)

        y, p = self.y, momentum + 0.5 * step * force(self.y)
        for leap in range(leaps):
            y = y + times(step * p, chol.transpose(-1, -2))
            p = p + (step if leap < leaps - 1 else 0.5 * step) * force(y)
        values, gain, own = self._at(y)
        change = power * (gain - self.gain) + own - self.own
        change = change - 0.5 * (p.square() - momentum.square()).sum(-1)
        change = torch.where(change.isfinite(), change, -math.inf)
        accepted = (log_uniform < change) & moving.unsqueeze(-1)
        self.y = torch.where(accepted.unsqueeze(-1), y, self.y)
        self.values, self.gain, self.own = (
            torch.where(accepted, new, old) for new, old in ((values, self.values), (gain, self.gain), (own, self.own))
        )
        rate = change.clamp(max=0).exp().mean(-1)
        self.step = (self.step * (rate - ACCEPTED).exp()).clamp(1e-4, 2.0)


def _covariance(y: Tensor) -> Tensor:
    """Returns the covariance of draws, kept from being singular: `[S, B, M, D] -> [S, B, D, D]`."""
    centred = y - y.mean(2, keepdim=True)
    covariance = centred.transpose(-1, -2) @ centred / y.shape[2]
    return covariance + floor(covariance, 1e-8)
