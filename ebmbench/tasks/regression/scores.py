"""Scores of densities and of samples, as pure functions: CRPS, energy score, coverage, D_KL on a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def square_integral(a: Tensor, b: Tensor) -> Tensor:
    """∫ of the square of a linear function over a piece of unit length, from its ends."""
    return (a * a + a * b + b * b) / 3


def crps_of_points(points: Tensor, y: Tensor) -> Tensor:
    """The CRPS of equally likely points: `[N, Q], [N] -> [N]`."""
    points = points.double().sort(-1).values
    count = points.shape[-1]
    distance = (points - y.double().unsqueeze(-1)).abs().mean(-1)
    # E|Y − Y'| of a sorted sample.
    rank = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=points.device) - count - 1
    return distance - (rank * points).sum(-1) / count**2


def circular_crps(points: Tensor, y: Tensor, period: float) -> Tensor:
    """Returns the CRPS of equally likely points by the distance along a circle: `[N, Q], [N] -> [N]`."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        apart = torch.remainder(a - b, period)
        return torch.minimum(apart, period - apart)

    points = points.double()
    own = distance(points, y.double().unsqueeze(-1)).mean(-1)
    pairs = [distance(part.unsqueeze(1), part.unsqueeze(2)).mean((1, 2)) for part in points.split(64)]
    return own - 0.5 * torch.cat(pairs)


def energy_score(points: Tensor, y: Tensor) -> Tensor:
    """`E‖Y − y‖ − ½ E‖Y − Y'‖` from draws Y: `[N, Q, D], [N, D] -> [N]` (Gneiting and Raftery, 2007).

    The second mean is over pairs of different draws, so that the estimate is unbiased.
    """
    points, y = points.double(), y.double().unsqueeze(1)
    distance = (points - y).norm(dim=-1).mean(-1)
    count = points.shape[1]
    pairs = torch.cat([torch.cdist(part, part).sum((1, 2)) for part in points.split(64)]) / (count * (count - 1))
    return distance - 0.5 * pairs


INTERVAL = (0.05, 0.95)
"""The ends of the 90 % interval that is scored, as probabilities."""


def interval_score(ends: Tensor, y: Tensor) -> Tensor:
    """The score of `INTERVAL` (Gneiting and Raftery, 2007): its ends `[N, 2]`, y `[N]` -> `[N]`.

    It is the interval's length, and 20 times the distance of a y outside from it.
    """
    low, high = ends.unbind(-1)
    missed = (low - y).clamp(min=0) + (y - high).clamp(min=0)
    return high - low + missed / INTERVAL[0]


def central_coverage(pit: Tensor, level: float) -> Tensor:
    """Share of observations inside the central interval of a level, from their PIT: `[..., N] -> [...]`."""
    tail = (1 - level) / 2
    return ((pit >= tail) & (pit <= 1 - tail)).double().mean(-1)


def region_coverage(outside: Tensor, level: float) -> Tensor:
    """Share of observations inside the region of highest density of a level: `[..., N] -> [...]`.

    Args:
        outside: the model's mass where its density is higher than at the observation.
    """
    return (outside <= level).double().mean(-1)


BINS = 10


def qice(pit: Tensor) -> Tensor:
    """Returns how far the share of each tenth of a PIT `[N]` is from 0.1, in the mean (Han, Zheng and Zhou, 2022)."""
    counts = torch.bincount((pit * BINS).long().clamp(0, BINS - 1), minlength=BINS)
    return (counts / len(pit) - 1 / BINS).abs().mean()


def pinball(points: Tensor, y: Tensor) -> Tensor:
    """Returns the mean pinball loss of equally likely points, the quantiles (k - ½) / Q: `[N, Q], [N] -> [N]`."""
    points = points.double().sort(-1).values
    level = (torch.arange(points.shape[-1], device=y.device) + 0.5) / points.shape[-1]
    above = y.double().unsqueeze(-1) - points
    return torch.maximum(level * above, (level - 1) * above).mean(-1)


LEVELS = [round(0.05 * k, 2) for k in range(1, 20)]
"""Levels of calibration curves."""


def mixed_nll(log_prob: Tensor, log_base: Tensor, share: float = 0.02) -> Tensor:
    """The NLL after a share of the base density is mixed in, which bounds what a single point can cost."""
    return -torch.logaddexp(log_prob + math.log1p(-share), log_base + math.log(share))


def point_metrics(log_prob: Tensor, of_mean: Tensor, of_median: Tensor, log_base: Tensor) -> dict[str, Tensor]:
    """Returns robust summaries of the NLL, `[N]`, and of the errors of mean and median, `[N, D]` each.

    Args:
        log_base: the base density, `[N]`.
    """
    return {
        "nll_median": -log_prob.median(),
        "nll_mixed": mixed_nll(log_prob, log_base).mean(),
        "rmse": of_mean.square().mean().sqrt(),
        "mae": of_median.abs().mean(),
    }


def calibration_metrics(pit: Tensor, one: bool) -> dict[str, Tensor]:
    """Returns coverages, and how far the calibration curve is off in the mean, from the PIT `[N]`."""
    curve = calibration_curve(pit, one)
    return {
        "coverage_50": curve[LEVELS.index(0.5)],
        "coverage_90": curve[LEVELS.index(0.9)],
        "calibration_error": (curve - curve.new_tensor(LEVELS)).abs().mean(),
        "qice": qice(pit),
    }


def calibration_curve(pit: Tensor, one: bool) -> Tensor:
    """Returns the coverage at each of `LEVELS`: of central intervals, or of regions for several targets."""
    covered = central_coverage if one else region_coverage
    return torch.stack([covered(pit, level) for level in LEVELS])


def grid_kl(log_true: Tensor, log_model: Tensor, spacing: float) -> Tensor:
    """Returns `KL(true ‖ model)` in nats on an equally spaced grid, as the paper computes it: `[..., G] -> [...]`.

    Both densities are normalised on the grid by their sum, after 1e-30 is added to the true one (Gustafsson et al.,
    2020, section 5.1). Neither argument need be normalised before, but `log_true` must be a density for the 1e-30 to
    mean what it meant there.
    """
    true = log_true.double().exp() + 1e-30
    true = true / (true.sum(-1, keepdim=True) * spacing)
    log_q = torch.log_softmax(log_model.double(), dim=-1) - math.log(spacing)
    return (true * (true.log() - log_q)).sum(-1) * spacing


def grid_error(log_model: Tensor) -> Tensor:
    """Returns how far log Z on an equally spaced grid moves when every other point is left out: `[..., G] -> [...]`."""
    values = log_model.double()
    return (torch.logsumexp(values, -1) - torch.logsumexp(values[..., ::2], -1) - math.log(2)).abs()
