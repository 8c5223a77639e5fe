"""The density of a box by importance sampling, the negative log-likelihood of a true box, and the temperature.

The density is that of relative coordinates y within ±1 of the box (see `coordinates`), `exp (f(y)/T) / Z` on the cube
`[−1, 1]^4`: centres no farther than one width and height away, sizes between 1/e and e times the box's. What
the model holds possible outside is not counted, and a density per pixel would be another number. Then

    NLL = log Z − f(0)/T,    Z = ∫_{[−1, 1]^4} exp (f(y)/T) dy = E_q[exp (f(y)/T) / q(y)].

The temperature T moves no box and changes no order: it makes the density as wide as boxes of images that were not
trained on ask for (temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

The proposal q is uniform on the cube at first. It is then fitted to powers of `exp f` that rise to the first, for each
box by itself (see `core.importance`). That may lose a narrow mode, such as the box of a neighbour, and no weight shows
what no draw meets. So gradient ascent on f from many places looks for modes as well, and a part of the proposal lies
around all the ends that it finds. A tenth of it stays uniform: so the weights `exp f / q` are bounded, and their
variance is finite whatever f is. A box of which too few samples are effective, as where a mode was lost, gets more of
them, of a proposal that is fitted to those that it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebmbench.core import importance
from ebmbench.core.energy import Energy
from ebmbench.core.importance import Cloud, Mixture, Weighted

LEAST_ESS = 200
"""Effective samples that a box must have, for a standard error of log Z of 0.07."""
MOST_SAMPLES = 2**13
"""Samples of a box that does not get there."""
CLIMBS, CLIMB_STEPS, KEPT_ENDS = 128, 16, 16
"""Places from which f is climbed to find its modes, the steps of each, and how many of the ends the proposal has."""
FIRST_STEP, STEP_DECAY = 0.1, 0.85
"""How far the first step goes in each coordinate, and how much shorter each other one is than the one before."""
WIDTHS = (0.03, 0.1)
"""Standard deviations of the proposal around the ends of these climbs."""
BOXES_AT_A_TIME = 256
UNIFORM_NLL = 4 * math.log(2)
"""The NLL of the uniform density on the cube, in nats."""
TEMPERATURES = (1 / 8, 1024.0)
"""The lowest and the highest temperature that is fitted; at the highest one any f is all but uniform."""
SPREADS, UNIFORM_SHARE = (0.02, 0.05, 0.1, 0.2, 0.4), 0.25
"""Standard deviations of the samples around a true box that the temperature is fitted on; the share of uniform ones."""
NOTHING = -1e30
"""The logarithm of a density that is zero, still a number."""


@dataclass(frozen=True)
class Uniform:
    """The uniform density on a box around 0.

    Attributes:
        half: how far each coordinate goes, up and down, `[4]`.
    """

    half: Tensor

    def sample(self, lead: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
        """Returns `count` draws for each of B boxes, `[B, count, 4]`."""
        draws = torch.rand((lead[1], count, 4), generator=generator, dtype=torch.float64).to(self.half.device)
        return (2 * draws - 1) * self.half

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns the log-density at y, `NOTHING` outside: `[..., 4] -> [...]`."""
        return torch.where(self.has(y), -float((2 * self.half).log().sum()), NOTHING)

    def has(self, y: Tensor) -> Tensor:
        """Returns whether y is inside: `[..., 4] -> [...]`."""
        return (y.abs() <= self.half).all(-1)


@torch.no_grad()
def weighted_samples(
    energies: Callable[[Tensor], Energy],
    count: int,
    seed: int,
    device: torch.device,
    samples: int,
    least_ess: float = LEAST_ESS,
    half: tuple[float, float] = (1.0, 1.0),
    climbs: int = CLIMBS,
    temperature: float = 1.0,
) -> Iterator[tuple[Tensor, Weighted]]:
    """Yields some of the boxes, and samples with their weights `exp (f/T) / q`: `[1, n, M, 4]`. Each box comes once.

    Args:
        energies: from some of the boxes to their energy in coordinates relative to them.
        count: of the boxes.
        seed: of the random numbers.
        samples: of a box; twice as many where fewer than `least_ess` are effective, again and again, up to
            `MOST_SAMPLES`.
        half: how far the density's centres and log sizes go.
        climbs: places from which f is climbed; 0 where it is known to have one mode.
        temperature: T.
    """
    generator = torch.Generator().manual_seed(seed)
    start = Uniform(torch.tensor(half, dtype=torch.float64, device=device).repeat_interleave(2))
    broken = torch.zeros(count, dtype=torch.bool, device=device)

    def density_of(rows: Tensor) -> Callable[[Tensor], Tensor]:
        f = energies(rows)

        def log_density(y: Tensor) -> Tensor:
            value = f(torch.minimum(torch.maximum(y[0], -start.half), start.half).float()).double() / temperature
            broken[rows] |= ~value.isfinite().all(-1)
            return torch.where(start.has(y) & value.isfinite(), value, NOTHING)

        return log_density

    for part in torch.arange(count, device=device).split(BOXES_AT_A_TIME):
        ends = _climb(density_of(part), energies(part), start, len(part), climbs, generator) if climbs else None
        rows, size = part, samples
        fitted = importance.annealed(density_of, start, rows, max(32, size // 2), generator)
        while len(rows):
            parts: list[tuple[float, importance.Proposal]] = importance.covering(fitted, start)
            if ends is not None:
                around = [Cloud(ends[rows - part[0]], width * torch.eye(4).to(ends)) for width in WIDTHS]
                wide, wider, flat = parts
                parts = [(0.5, wide[1]), (0.2, wider[1]), flat, *((0.2 / len(WIDTHS), cloud) for cloud in around)]
            lead = (1, len(rows))
            made = importance.propose(parts, lead, size, generator).weighted(density_of(rows), lead)
            # Where f is not a number somewhere, nothing is known of its density.
            made = replace(made, log_weights=torch.where(broken[rows, None], torch.nan, made.log_weights))
            done = ~(made.ess[0] * made.log_weights.shape[-1] < least_ess)  # nor where f is not a number
            if 2 * size > MOST_SAMPLES:
                done[:] = True
            yield rows[done], _of(made, done)
            rows, made, size = rows[~done], _of(made, ~done), 2 * size
            if len(rows):
                power = importance.flattening(made.log_weights).unsqueeze(-1)
                fitted = Mixture.fit(replace(made, log_weights=power * made.log_weights))


def _climb(
    log_density: Callable[[Tensor], Tensor],
    f: Energy,
    region: Uniform,
    boxes: int,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Returns where gradient ascent on f ends that starts at random places, `[boxes, KEPT_ENDS, 4]` float64.

    Steps are those of Adam: as long where f is steep as where it is flat. Of the ends the higher ones are kept.
    """
    half = region.half.float()
    y = region.sample((1, boxes), count, generator).float()
    mean, square = torch.zeros_like(y), torch.zeros_like(y)
    for step in range(CLIMB_STEPS):
        grad = f.grad(y).nan_to_num(0.0, 0.0, 0.0)
        mean, square = 0.8 * mean + 0.2 * grad, 0.9 * square + 0.1 * grad.square()
        ahead = mean / (1 - 0.8 ** (step + 1)) / ((square / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
        y = torch.minimum(torch.maximum(y + FIRST_STEP * STEP_DECAY**step * ahead, -half), half)
    ends = y.double().unsqueeze(0)
    values = log_density(ends)
    power = importance.flattening(values).unsqueeze(-1)
    return Weighted(ends, power * values, values).resample(KEPT_ENDS)[0]


def _of(made: Weighted, rows: Tensor) -> Weighted:
    return Weighted(*(x[:, rows] for x in (made.y, made.log_weights, made.log_values)))


@dataclass(frozen=True)
class BoxNLL:
    """Per true box, all `[N]` float64.

    Attributes:
        nll: `log Ẑ − f(0)/T` in nats, of the density in relative coordinates. Ẑ is unbiased; its logarithm is low by
            about half the square of `error`.
        ess: effective samples `(Σ w)² / Σ w²`.
        error: standard error of the NLL by the delta method.
        k_hat: Pareto's k of the weights; above 0.7 the NLL is not to be trusted.
    """

    nll: Tensor
    ess: Tensor
    error: Tensor
    k_hat: Tensor


@torch.no_grad()
def box_nll(
    energies: Callable[[Tensor], Energy],
    count: int,
    seed: int,
    device: torch.device,
    samples: int = 512,
    temperature: float = 1.0,
) -> BoxNLL:
    """Returns the NLL of each true box; the arguments are those of `weighted_samples`, the true boxes at 0."""
    nll, ess, error, k_hat = (torch.full((count,), math.nan, dtype=torch.float64, device=device) for _ in range(4))
    for rows, made in weighted_samples(energies, count, seed, device, samples, temperature=temperature):
        target = energies(rows)(torch.zeros(len(rows), 1, 4, device=device))[:, 0].double() / temperature
        nll[rows] = made.log_z[0] - target
        ess[rows] = made.ess[0] * made.log_weights.shape[-1]
        error[rows], k_hat[rows] = made.error[0], made.k_hat[0]
    return BoxNLL(nll, ess, error, k_hat)


@torch.no_grad()
def fit_temperature(
    energies: Callable[[Tensor], Energy], count: int, seed: int, device: torch.device, samples: int = 512
) -> float:
    """Returns the temperature with the lowest mean NLL of the true boxes, within `TEMPERATURES`; 1 without boxes.

    The NLL is convex in 1/T, of slope `E_p[f] − f(0)`. One set of samples around each true box serves all temperatures:
    at the best one the density is about as wide as true boxes are away from its mode, and has its mass there. A box of
    which f is not a number somewhere is left out. The arguments are those of `weighted_samples`.
    """
    if not count:
        return 1.0
    generator = torch.Generator().manual_seed(seed)
    cube = Uniform(torch.ones(4, dtype=torch.float64, device=device))
    eye, centre = torch.eye(4).to(cube.half), torch.zeros(1, 4).to(cube.half)
    parts: list[tuple[float, importance.Proposal]] = [(UNIFORM_SHARE, cube)]
    parts += [((1 - UNIFORM_SHARE) / len(SPREADS), Cloud(centre, spread * eye)) for spread in SPREADS]
    log_q, values, targets = [], [], []
    for rows in torch.arange(count, device=device).split(BOXES_AT_A_TIME):
        f = energies(rows)
        made = importance.propose(parts, (1, len(rows)), samples, generator)
        y = made.y[0]
        value = f(y.clamp(-1, 1).float()).double()
        values.append(torch.where(cube.has(y), value, NOTHING))
        log_q.append(made.log_q[0])
        targets.append(f(torch.zeros(len(rows), 1, 4, device=device))[:, 0].double())
    of_samples, of_proposal, of_boxes = torch.cat(values), torch.cat(log_q), torch.cat(targets)

    def slope(rate: float) -> float:
        weights = torch.softmax(rate * of_samples - of_proposal, -1)
        return float(((weights * of_samples).sum(-1) - of_boxes).nanmean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]  # of 1 / T
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / math.sqrt(low * high)
