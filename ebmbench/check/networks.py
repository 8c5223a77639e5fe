"""What a network, a density and a library's model must keep to: checks that `ebmbench check` and the tests run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmbench.check.methods import DIMENSIONS
from ebmbench.core.rng import Streams
from ebmbench.models.base import DensityModel
from ebmbench.models.networks.base import Network
from ebmbench.models.outside import Outside, Rows
from ebmbench.models.stack import Place


def _stack(cls: type[Network | DensityModel], dim: int, seeds: list[int]) -> Any:
    network = cls.model_validate({})
    return network.stack(cls.trial_shape, dim, Place(seeds, torch.device("cpu"), torch.float64))


def _inputs(cls: type[Network | DensityModel], seeds: int, dim: int) -> tuple[Tensor, Tensor]:
    draws = Streams([97], stacked=False).at(0)
    shape = cls.trial_shape
    x = draws.normal("x", (1, 5, *shape), torch.float64).expand(seeds, 5, *shape)
    return x, draws.normal("y", (1, 5, 6, dim), torch.float64).expand(seeds, -1, -1, -1)


def network_shapes(cls: type[Network | DensityModel]) -> Iterator[str]:
    """The energy is one finite number for each candidate, for D = 1 and 4 and two seeds."""
    for dim in DIMENSIONS:
        x, y = _inputs(cls, 2, dim)
        f, _ = _stack(cls, dim, [0, 1]).bind(x)
        values = f(y)
        if values.shape != (2, 5, 6) or not values.isfinite().all():
            yield f"for x {tuple(x.shape)} and candidates {tuple(y.shape)}: f {tuple(values.shape)}, finite or not"
        elif not torch.allclose(_stack(cls, dim, [0, 1]).bind(x[:, :2])[0](y[:, :2]), values[:, :2]):
            yield "f of a row depends on the other rows of its mini-batch, as with batch normalisation"


def network_gradient(cls: type[Network | DensityModel]) -> Iterator[str]:
    """Its ∂f/∂y is that of finite differences, and a second derivative can be taken."""
    x, y = _inputs(cls, 1, 1)
    f, _ = _stack(cls, 1, [0]).bind(x)
    slope = f.grad(y, create_graph=True)
    difference = (f(y + 1e-5) - f(y - 1e-5)) / 2e-5
    if not torch.allclose(slope[..., 0], difference, atol=1e-5, rtol=1e-4):
        yield f"they differ by {(slope[..., 0] - difference).abs().max().item():.2g}"
    torch.autograd.grad(slope.square().sum(), [_stack(cls, 1, [0]).flat], allow_unused=True)


def network_seeds(cls: type[Network | DensityModel]) -> Iterator[str]:
    """A seed has the same weights alone and among others, and other seeds have others."""
    x, y = _inputs(cls, 2, 1)
    with torch.no_grad():
        together = _stack(cls, 1, [0, 5]).bind(x)[0](y)
        alone = _stack(cls, 1, [5]).bind(x[:1])[0](y[:1])
    if not torch.allclose(together[1], alone[0]):
        yield "seed 5 alone has another f than beside seed 0"
    if torch.allclose(together[0], together[1]):
        yield "seeds 0 and 5 have the same f: take initial weights from PyTorch's generator"


def _line(cls: type[Outside], rows: int, dim: int) -> Rows:
    """Returns rows with `y_d = x_1 + 0.5 ε_d`, for inputs of the shape with which the model is tried."""
    draws = Streams([97], stacked=False).at(rows)
    x = draws.normal("x", (rows, *cls.trial_shape))
    y = x.flatten(1)[:, :1] + 0.5 * draws.normal("y", (rows, dim))
    return Rows(x.numpy(), y.double().numpy())


def _fitted(cls: type[Outside], dim: int) -> dict[str, np.ndarray]:
    network = cls.model_validate({})
    made = network.fit(_line(cls, 200, dim), _line(cls, 60, dim), 3, lambda done, total: None)
    return {name: np.asarray(value) for name, value in made.items()}


def outside_fit(cls: type[Outside]) -> Iterator[str]:
    """A fit is plain arrays of numbers, and the same each time."""
    first, again = _fitted(cls, 1), _fitted(cls, 1)
    for name, value in first.items():
        if value.dtype.kind not in "biuf":
            yield f"{name} holds {value.dtype}, and no numbers"
        elif name not in again or not np.array_equal(value, again[name]):
            yield f"{name} is another one when the same seed is fitted again"


def outside_density(cls: type[Outside]) -> Iterator[str]:
    """Its density integrates to one, is that of each row by itself, and takes two targets as well."""
    network, nodes = cls.model_validate({}), 3 * np.sinh(np.linspace(-4.9, 4.9, 20_001))
    for dim in (1, 2):
        fitted, rows = _fitted(cls, dim), _line(cls, 5, dim)
        candidates = np.repeat(rows.y[:, None], 4, axis=1)
        values = network.density(fitted, rows.x)(candidates)
        if values.shape != (5, 4) or not np.isfinite(values).all():
            yield f"for candidates {candidates.shape}: log p {values.shape}, finite or not"
        elif not np.allclose(network.density(fitted, rows.x[3:4])(candidates[3:4]), values[3:4], atol=1e-5):
            yield "a row has another density alone than among others"
        if dim == 1:
            density = torch.from_numpy(network.density(fitted, rows.x)(np.tile(nodes[:, None], (5, 1, 1)))).exp()
            masses = torch.trapezoid(density, torch.from_numpy(nodes))
            if not torch.allclose(masses, torch.ones_like(masses), atol=0.01):
                yield f"the mass on [-200, 200] is {masses.min():.3g} to {masses.max():.3g}"


CHECKS = (network_shapes, network_gradient, network_seeds)
OUTSIDE_CHECKS = (outside_fit, outside_density)
