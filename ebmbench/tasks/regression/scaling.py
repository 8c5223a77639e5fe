"""How inputs and targets are seen by networks: by the training rows alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.targets import Targets


@dataclass(frozen=True)
class Scaling:
    """Means and standard deviations of the inputs, and the targets' supports, fitted to the training rows.

    Attributes:
        x_mean, x_std: they broadcast against one input: `[p]` for p features, `[C, 1, 1]` for images (of each channel).
        targets: z of the targets.
    """

    x_mean: Tensor
    x_std: Tensor
    targets: Targets

    @staticmethod
    def of(x: Tensor, targets: Targets, standardize: bool = True) -> Scaling:
        """Measures training inputs `[N, ...]`. A feature that is constant keeps its unit."""
        axes = [0, *range(2, x.dim())]
        kept = x.shape[1:2] + (1,) * (x.dim() - 2)
        if not standardize:
            return Scaling(torch.zeros(kept), torch.ones(kept), targets)
        mean = x.mean(axes, dtype=torch.float64)
        # In pieces: images in float64 would take twice their memory.
        square = sum((part.double() - mean.view(kept)).square().sum(axes) for part in x.split(4096))
        std = (torch.as_tensor(square) / max(1, x.numel() // max(1, mean.numel()))).sqrt()
        return Scaling(mean.view(kept).float(), _usable(std, 1e-7 * mean.abs()).view(kept).float(), targets)

    def x(self, raw: Tensor) -> Tensor:
        """Returns standardised inputs, float32: `[N, ...]`."""
        return (raw - self.x_mean) / self.x_std

    def y(self, raw: Tensor) -> Tensor:
        """Returns z of targets, float64: `[..., D]`."""
        return self.targets.z(raw)

    def raw_y(self, z: Tensor) -> Tensor:
        """Returns targets in their own units from z, on any device, float64: `[..., D]`."""
        return self.targets.value(z)

    def log_slope(self, z: Tensor) -> Tensor:
        """Returns what a log-density of z `[..., D]` has more than that of the targets in their own units: `[...]`."""
        return self.targets.log_slope(z)

    def plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON."""
        return {"x_mean": self.x_mean.tolist(), "x_std": self.x_std.tolist(), "targets": self.targets.plain()}

    @staticmethod
    def restore(plain: Mapping[str, Any], base: BaseDensity) -> Scaling:
        """Reads back what `plain` returned."""
        mean, std = (torch.tensor(plain[name], dtype=torch.float32) for name in ("x_mean", "x_std"))
        return Scaling(mean, std, Targets.restore(plain["targets"], base))


def _usable(std: Tensor, rounding: Tensor) -> Tensor:
    """Returns the standard deviation, 1 where there is none but rounding."""
    return torch.where(std > rounding + 1e-30, std, 1.0)
