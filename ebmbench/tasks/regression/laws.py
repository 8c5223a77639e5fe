"""The two laws of 1D regression, known exactly, and the points drawn from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ebmbench.core.rng import Streams

if TYPE_CHECKING:
    from torch import Tensor

    from ebmbench.tasks.regression.one_d import OneD

Y_LOW, Y_HIGH = -3.0, 3.0
"""The interval on which the model lives; x is uniform on the same."""


def _normal_log_prob(y: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    std = torch.as_tensor(std, dtype=y.dtype, device=y.device)
    return -0.5 * ((y - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def _log_normal_log_prob(y: Tensor) -> Tensor:
    """`y + 1` is log-normal with log-mean 0 and log-standard-deviation 0.25."""
    log_shifted = (y + 1).clamp(min=1e-300).log()
    log_prob = _normal_log_prob(log_shifted, torch.zeros_like(y), 0.25) - log_shifted
    return torch.where(y > -1, log_prob, -math.inf)


@dataclass(frozen=True)
class Law:
    """The true p(y|x) of dataset 1 or 2 (docs/data.md).

    Attributes:
        dataset: 1 or 2.
    """

    dataset: int

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """`log p(y|x)`; x and y broadcast."""
        return self.noisy_log_prob(x, y, 0.0)

    def noisy_log_prob(self, x: Tensor, y: Tensor, noise: float) -> Tensor:
        """`log p(y + ε | x)` with `ε ~ N(0, noise²)`, in closed form where there is one; x and y broadcast."""
        x, y = torch.broadcast_tensors(x.double(), y.double())
        if self.dataset == 2:
            own = 0.15 * torch.sigmoid(x)
            return _normal_log_prob(y, x.sin(), own.square().add(noise**2).sqrt() if noise else own)
        std = math.hypot(0.075, noise)
        major = math.log(0.8) + _normal_log_prob(y, x.sin(), std)
        minor = math.log(0.2) + _normal_log_prob(y, -x.sin(), std)
        right = self._noisy_log_normal(y, noise) if noise else _log_normal_log_prob(y)
        return torch.where(x < 0, torch.logaddexp(major, minor), right)

    @staticmethod
    def _noisy_log_normal(y: Tensor, noise: float) -> Tensor:
        """The convolution by the trapezoidal rule, which converges geometrically for such integrands.

        Its variable is the narrower of the two factors' own: the noise in units of its standard deviation, or the
        normal number that the log-normal is made from. The rest of the integrand is then wide in it.
        """
        nodes = torch.linspace(-8, 8, 257, dtype=torch.float64, device=y.device)
        log_weights = torch.log_softmax(-0.5 * nodes.square(), 0)
        total = torch.full_like(y, -math.inf)
        for node, log_weight in zip(nodes, log_weights, strict=True):
            if noise < 0.15:
                part = _log_normal_log_prob(y - noise * node)
            else:
                part = _normal_log_prob(y, (0.25 * node).exp() - 1, noise)
            total = torch.logaddexp(total, log_weight + part)
        return total

    def sample(self, x: Tensor, streams: Streams, name: str) -> Tensor:
        """One y for each x `[N]`, from the named streams of a single unstacked seed."""
        draws = streams.at(0)
        normal = draws.normal(f"{name}/y", x.shape, torch.float64)
        if self.dataset == 2:
            return x.sin() + 0.15 * torch.sigmoid(x) * normal
        sign = torch.where(draws.uniform(f"{name}/mode", x.shape, torch.float64) < 0.8, 1.0, -1.0)
        return torch.where(x < 0, sign * x.sin() + 0.075 * normal, (0.25 * normal).exp() - 1)


@dataclass(frozen=True)
class Points:
    """Pairs (x, y) of float64 `[N]` each."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Dataset:
    """A law with its fixed draws of points, a function of `data_seed` alone."""

    law: Law
    train: Points
    val: Points
    test: Points

    @staticmethod
    def draw(task: OneD, device: torch.device | str = "cpu") -> Dataset:
        """The points of a task. Noise is added to the training targets only; test and validation points stay clean."""
        law = Law(task.dataset)
        streams = Streams([task.data_seed], "cpu", stacked=False)

        def points(name: str, count: int, noise: float = 0.0) -> Points:
            x = Y_LOW + (Y_HIGH - Y_LOW) * streams.at(0).uniform(f"{name}/x", (count,), torch.float64)
            y = law.sample(x, streams, name)
            if noise:
                y = y + noise * streams.at(0).normal(f"{name}/target_noise", (count,), torch.float64)
            return Points(x.to(device), y.to(device))

        return Dataset(
            law,
            points("train", task.num_train, task.target_noise),
            points("val", task.num_val),
            points("test", task.num_test),
        )
