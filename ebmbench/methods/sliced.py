"""Sliced score matching: score matching along a random direction, at one second derivative whatever the dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from ebmbench.core.energy import Energy
from ebmbench.core.proposal import Proposal
from ebmbench.core.registry import register
from ebmbench.core.step import Step
from ebmbench.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor


@register
class SSM(Method):
    """Sliced score matching: `vᵀ (∂²f/∂y²) v + ½ ‖∂f/∂y‖²` at the target, v with entries ±1 of equal probability.

    In expectation over v it is score matching; for D = 1 it is equal to it. A piecewise linear network has no curvature
    that autograd could see: use a smooth activation.
    """

    name = "ssm"
    reference = "Song, Garg, Shi, Ermon, Sliced Score Matching, UAI 2019 (the variant of reduced variance)"
    color, marker, order = "#3F3F5F", "h", 75
    y_derivatives = 2

    @override
    def blur(self, proposal: Proposal | None) -> Sequence[float]:
        return ()

    @override
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        with torch.enable_grad():
            point = y.detach().unsqueeze(-2).requires_grad_()
            score = f.grad(point, create_graph=True)
            bits = step.draws.integers("direction", score.shape, 2)
            direction = (2 * bits - 1).to(y.dtype)
            # Where f is linear in y the score does not depend on it: its derivative is zero, not an error.
            along = (score * direction).sum()
            row = torch.autograd.grad(along, point, create_graph=True, materialize_grads=True)[0]
        return ((row * direction).sum(-1) + 0.5 * score.square().sum(-1)).squeeze(-1)

    @override
    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        return self.loss(f, y, step)  # in one dimension the direction is ±1, which leaves no trace
