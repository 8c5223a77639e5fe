"""p(y|x) over the plane of one input and one target: for pictures, and for D_KL as the 1D study publishes it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmbench.tasks.regression.data.base import Law
from ebmbench.tasks.regression.fitted import Fitted
from ebmbench.tasks.regression.scores import grid_error, grid_kl

X_POINTS, Y_POINTS, SLICE_POINTS = 121, 241, 1201
SLICES = (1 / 6, 5 / 12, 7 / 12, 5 / 6)
"""Places on the range of x at which densities are kept on a fine grid."""
EVALUATIONS = 2**21
"""Of f at a time."""


def log_densities(fitted: Fitted, x: Tensor, y: Tensor, normalise: bool = True) -> Tensor:
    """Returns `log p(y|x)` of each model at every pair of raw x `[N, ...]` and y `[G]`: `[S, N, G]` float64.

    Args:
        normalise: whether log Z is taken off; else it is up to a constant for each x. It is -inf outside the support.
    """
    conditionals, (axis,) = fitted.conditionals, fitted.scaling.targets.axes
    inputs = fitted.scaling.x(x.float() if fitted.dtype == torch.float32 else x).to(fitted.device, fitted.dtype)
    z = axis.z(y).to(fitted.device)
    parts = []
    for some in inputs.split(max(1, EVALUATIONS // (conditionals.seeds * len(y)))):
        values = conditionals.bind(some)(z.expand(conditionals.seeds, len(some), -1).unsqueeze(-1))
        if normalise:
            values = values - conditionals.densities(some)[1].view(conditionals.seeds, -1, 1)
        parts.append(values)
    found = torch.cat(parts, 1) - axis.log_slope(z)
    return found.masked_fill(~axis.support.inside(y).to(found.device), -math.inf)


def log_true(law: Law, x: Tensor, y: Tensor) -> Tensor:
    """Returns the truth's `log p(y|x)` at every pair of x `[N, ...]` and y `[G]`: `[N, G]`."""
    return law.log_prob(x, y.view(1, -1, 1).expand(len(x), -1, -1))


def published_scores(fitted: Fitted) -> list[dict[str, float]]:
    """Returns what each seed has of D_KL on the published grid, and of scores against targets with noise.

    Nothing for data that have no such grid.
    """
    grid, seeds = fitted.split.kl_grid, range(len(fitted.seeds))
    if grid is None:
        return [{} for _ in seeds]
    assert fitted.split.truth is not None
    spacing = float(grid.y[1] - grid.y[0])
    laws = [fitted.split.truth] + [grid.noisy_law] * (grid.noisy_law is not None)
    sums = torch.zeros(len(laws), len(seeds), dtype=torch.float64)
    errors = torch.zeros(len(seeds), dtype=torch.float64)
    for x in grid.x.split(256):
        model = log_densities(fitted, x, grid.y, normalise=False)
        errors += grid_error(model).sum(-1).cpu() / len(grid.x)
        for total, law in zip(sums, laws, strict=True):
            assert law is not None
            total += grid_kl(log_true(law, x, grid.y).to(model.device), model, spacing).sum(-1).cpu()
    d_kl, noisy = sums[0] / len(grid.x), sums[-1] / len(grid.x)
    nll = _noisy_nll(fitted, grid.noisy_y)
    return [
        {"d_kl": float(d_kl[k]), "d_kl_error": float(errors[k]), "d_kl_noisy": float(noisy[k])}
        | ({} if nll is None else {"nll_noisy": nll[k]})
        for k in seeds
    ]


def _noisy_nll(fitted: Fitted, y: Tensor | None) -> list[float] | None:
    """Returns the NLL of test targets with noise, of each seed; those that the noise carries outside do not count."""
    if y is None:
        return None
    conditionals, (axis,), test = fitted.conditionals, fitted.scaling.targets.axes, fitted.split.test
    inside = axis.support.inside(y.squeeze(1))
    x, z = fitted.standardised(test.x[inside], y[inside])
    log_prob = conditionals.exact_log_prob(x, z) - axis.log_slope(z[:, 0].double())
    return (-log_prob.mean(-1)).tolist()


def can_draw(fitted: Fitted) -> bool:
    """Returns whether there is one input, a number, and one target that has a density."""
    train = fitted.split.train
    return fitted.one and train.x.shape[1:] in ((), (1,)) and not fitted.scaling.targets.discrete


def pictures(fitted: Fitted, good: list[bool]) -> dict[str, Any]:
    """Returns densities on a grid of x and y, and at four x on a finer one, by seed; and the true ones.

    Args:
        good: the seeds whose densities are results; the others have none.
    """
    train, (axis,), grid = fitted.split.train, fitted.scaling.targets.axes, fitted.split.kl_grid
    low, high = (train.x if grid is None else grid.x).double().aminmax()
    y_low, y_high = (train.y.double() if grid is None else grid.y).aminmax()
    if axis.support.bounded:
        y_low, y_high = (axis.mean + axis.std * torch.tensor(axis.measure.ends)).double()
    elif axis.support.name != "positive":
        margin = 0.05 * (y_high - y_low)
        y_low, y_high = y_low - margin, y_high + margin

    def line(start: Tensor, end: Tensor, points: int) -> Tensor:
        return start + (end - start) * torch.linspace(0, 1, points, dtype=torch.float64)

    arrays: dict[str, Any] = {"seeds": np.array(fitted.seeds)}
    columns = {"": (line(low, high, X_POINTS), line(y_low, y_high, Y_POINTS))}
    columns["slice_"] = (low + (high - low) * torch.tensor(SLICES), line(y_low, y_high, SLICE_POINTS))
    lost = ~torch.tensor(good).view(-1, 1, 1)
    for prefix, (x, y) in columns.items():
        inputs = x.view(-1, *(1,) * (train.x.dim() - 1))
        model = log_densities(fitted, inputs, y).exp().cpu().masked_fill(lost, math.nan)
        arrays |= {f"{prefix}x": x.numpy(), f"{prefix}y": y.numpy(), f"{prefix}model": model.float().numpy()}
        if fitted.split.truth is not None and train.latent is None:
            arrays[f"{prefix}true"] = log_true(fitted.split.truth, inputs, y).exp().float().numpy()
    return arrays
