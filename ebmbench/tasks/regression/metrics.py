"""Scores of one-dimensional densities on a grid, as pure functions.

A density is known by its logarithm on an equally spaced grid, up to a constant, and is taken to be piecewise linear
between the grid points; its mass is all within the grid. Everything is computed in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmbench.tasks.regression.density import square_integral


def grid(low: float, high: float, points: int, device: torch.device | str = "cpu") -> Tensor:
    """Equally spaced points from low to high inclusive, float64 `[G]`."""
    return torch.linspace(low, high, points, dtype=torch.float64, device=device)


def log_integral(log_values: Tensor, spacing: float) -> Tensor:
    """`log ∫ exp(log_values)` by the trapezoidal rule over the last axis: `[..., G] -> [...]`."""
    log_values = log_values.double()
    log_sum = torch.logsumexp(log_values, dim=-1)
    ends = (log_values[..., 0] - log_sum).exp() + (log_values[..., -1] - log_sum).exp()  # their share: at most all
    return log_sum + torch.log1p(-0.5 * ends) + math.log(spacing)


def quadrature_error(log_values: Tensor, log_z: Tensor, spacing: float) -> Tensor:
    """How far `log_z`, their `log_integral`, moves when every other point is left out, over 3: `[..., G] -> [...]`.

    For a smooth integrand the trapezoidal error falls with the square of the spacing, so a third of that difference
    is its size (Richardson). G must be odd, so that the coarse grid has the same ends.
    """
    coarse = log_integral(log_values[..., ::2], 2 * spacing)
    return (log_z - coarse).abs() / 3


def kl_divergence(log_true: Tensor, log_model: Tensor, spacing: float) -> Tensor:
    """`KL(true ‖ model)` in nats over the last axis, as the paper computes it: `[..., G] -> [...]`.

    Both densities are normalised on the grid by their sum, after 1e-30 is added to the true one (Gustafsson et al.,
    2020, section 5.1). Neither argument need be normalised before, but `log_true` must be a density for the 1e-30 to
    mean what it meant there.
    """
    true = log_true.double().exp() + 1e-30
    true = true / (true.sum(-1, keepdim=True) * spacing)
    log_q = torch.log_softmax(log_model.double(), dim=-1) - math.log(spacing)
    return (true * (true.log() - log_q)).sum(-1) * spacing


def cdf(density: Tensor, spacing: float) -> Tensor:
    """The distribution function at the grid points; the density is linear between them: `[..., G] -> [..., G]`."""
    cells = 0.5 * (density[..., 1:] + density[..., :-1]) * spacing
    return torch.nn.functional.pad(cells.cumsum(-1), (1, 0))


def _cell(y: Tensor, low: float, spacing: float, points: int) -> tuple[Tensor, Tensor]:
    """The grid cell that holds y, and y's place in it in [0, 1]; outside the grid, the nearest end."""
    position = ((y.double() - low) / spacing).clamp(0, points - 1)
    cell = position.floor().clamp(max=points - 2)
    return cell.long(), position - cell


def probability_integral_transform(density: Tensor, y: Tensor, low: float, spacing: float) -> Tensor:
    """PIT, the model's distribution function at the observations: `[N, G], [N] -> [N]`; uniform if calibrated."""
    cell, t = _cell(y, low, spacing, density.shape[-1])
    index = torch.stack((cell, cell + 1), dim=-1)
    left, right = density.gather(-1, index).unbind(-1)
    below = cdf(density, spacing).gather(-1, cell.unsqueeze(-1)).squeeze(-1)
    return (below + spacing * t * (left + 0.5 * t * (right - left))).clamp(0, 1)


def crps(density: Tensor, y: Tensor, low: float, spacing: float) -> Tensor:
    """Continuous ranked probability score, `∫ (F(t) − 1{t ≥ y})² dt`: `[N, G], [N] -> [N]`, in units of y.

    (Gneiting and Raftery, 2007.) The cell that holds y is cut there; F is taken as linear within a piece. The exact
    distance is added for a y outside the grid, where F is 0 or 1.
    """
    distribution = cdf(density, spacing)
    points = density.shape[-1]
    cell, t = _cell(y, low, spacing, points)
    at_y = probability_integral_transform(density, y, low, spacing)
    left, right = distribution[..., :-1], distribution[..., 1:]
    index = torch.arange(points - 1, device=y.device)
    after = (index >= cell.unsqueeze(-1)).double()
    pieces = square_integral(left - after, right - after)
    f_left = distribution.gather(-1, cell.unsqueeze(-1)).squeeze(-1)
    f_right = distribution.gather(-1, cell.unsqueeze(-1) + 1).squeeze(-1)
    split = t * square_integral(f_left, at_y) + (1 - t) * square_integral(1 - at_y, 1 - f_right)
    whole = pieces.sum(-1) - square_integral(1 - f_left, 1 - f_right)
    high = low + spacing * (points - 1)
    outside = (low - y.double()).clamp(min=0) + (y.double() - high).clamp(min=0)
    return spacing * (whole + split) + outside


def edge_mass(density: Tensor, spacing: float, fraction: float = 0.01) -> Tensor:
    """The mass within `fraction` of the grid's length from either end: `[..., G] -> [...]`.

    Where it is not small, the model would put mass outside the grid if it could, and scores on the grid flatter it.
    """
    low = fraction * (density.shape[-1] - 1)
    cell, place = int(low), low - int(low)

    def mass(density: Tensor) -> Tensor:
        """From the left end up to `cell + place`."""
        left, right = density[..., cell], density[..., cell + 1]
        return cdf(density[..., : cell + 1], spacing)[..., cell] + spacing * place * (
            left + 0.5 * place * (right - left)
        )

    return mass(density) + mass(density.flip(-1))
