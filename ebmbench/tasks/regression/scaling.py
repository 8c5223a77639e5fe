"""Standardising inputs and targets by the training rows alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """Means and standard deviations of the training rows.

    Attributes:
        x_mean, x_std: they broadcast against one input: `[p]` for p features, `[C, 1, 1]` for images (of each channel).
        y_mean, y_std: `[D]`.
    """

    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor

    @staticmethod
    def of(x: Tensor, y: Tensor) -> Scaling:
        """Measures training inputs `[N, ...]` and targets `[N, D]`. A feature that is constant keeps its unit."""
        axes = [0, *range(2, x.dim())]
        kept = x.shape[1:2] + (1,) * (x.dim() - 2)
        mean = x.mean(axes, dtype=torch.float64)
        # In pieces: images in float64 would take twice their memory.
        square = sum((part.double() - mean.view(kept)).square().sum(axes) for part in x.split(4096))
        std = (torch.as_tensor(square) / max(1, x.numel() // max(1, mean.numel()))).sqrt()
        y_mean, y_std = y.double().mean(0), y.double().std(0, unbiased=False)
        return Scaling(mean.view(kept).float(), _usable(std, 1e-7 * mean.abs()).view(kept).float(), y_mean, y_std)

    def x(self, raw: Tensor) -> Tensor:
        """Returns standardised inputs, float32: `[N, ...]`."""
        return (raw - self.x_mean) / self.x_std

    def y(self, raw: Tensor) -> Tensor:
        """Returns standardised targets, float64: `[..., D]`."""
        return (raw.double() - self.y_mean) / self.y_std

    def raw_y(self, y: Tensor) -> Tensor:
        """Returns targets in their own units from standardised ones, on any device, float64: `[..., D]`."""
        return y.double() * self.y_std.to(y.device) + self.y_mean.to(y.device)

    @property
    def log_scale(self) -> float:
        """`Σ log std` of the targets: what the NLL in the target's own units adds to that of standardised ones."""
        return float(self.y_std.log().sum())

    def plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON."""
        return {name: getattr(self, name).tolist() for name in ("x_mean", "x_std", "y_mean", "y_std")}

    @staticmethod
    def restore(plain: Mapping[str, Any]) -> Scaling:
        """Reads back what `plain` returned."""
        x = [torch.tensor(plain[name], dtype=torch.float32) for name in ("x_mean", "x_std")]
        y = [torch.tensor(plain[name], dtype=torch.float64) for name in ("y_mean", "y_std")]
        return Scaling(*x, *y)


def _usable(std: Tensor, rounding: Tensor) -> Tensor:
    """Returns the standard deviation, 1 where there is none but rounding."""
    return torch.where(std > rounding + 1e-30, std, 1.0)
