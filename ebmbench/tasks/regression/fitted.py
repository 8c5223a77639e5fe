"""Fitted models of regression: all that scoring, records and use need beside a run's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ebmbench.tasks.regression.conditional import Conditionals
from ebmbench.tasks.regression.data.base import Arrays, Split
from ebmbench.tasks.regression.scaling import Scaling

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fitted:
    """S models of one network, fitted to a split.

    Attributes:
        held: rows that trained nothing, for intervals and regions that cover what they say.
    """

    split: Split
    scaling: Scaling
    conditionals: Conditionals
    seeds: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    held: Arrays | None = None

    def standardised(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns inputs and z of targets as networks see them."""
        return self.scaling.x(x).to(self.device, self.dtype), self.scaling.y(y).to(self.device, self.dtype)

    @property
    def one(self) -> bool:
        """Whether there is one target."""
        return len(self.scaling.targets.axes) == 1

    def held_rows(self) -> dict[str, Any]:
        """Returns the inputs and targets of the held rows by name, as a trained model's `held`."""
        return {} if self.held is None else {"x": self.held.x.numpy(), "y": self.held.y.numpy()}

    def plain(self) -> dict[str, Any]:
        """Returns what a trained model needs for use, beside its weights, as plain data: `model.json`."""
        split, nodes, cloud = self.split, self.conditionals.nodes, self.conditionals.cloud
        plain: dict[str, Any] = {
            "x_shape": list(split.train.x.shape[1:]),
            "targets": split.target_names,
            "features": split.feature_names,
            "transform": split.transform.plain(),
            "scaling": self.scaling.plain(),
            "rows": {name: len(getattr(split, name)) for name in ("train", "val", "test")},
            "notes": split.notes,
        }
        if self.held is not None:
            plain["rows"]["held"] = len(self.held)
        if nodes is not None:
            plain["nodes"] = {name: getattr(nodes, name).tolist() for name in ("centres", "widths")}
        if cloud is not None:
            plain["cloud"] = cloud.plain()
        return plain
