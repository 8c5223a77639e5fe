"""Gradient ascent on the energy of boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmbench.boxes.energy import BoxEnergy

FARTHEST = (1.0, 1.0)
"""How far ascent may move centres, in box sizes, and log sizes: the region of the density (see `nll`)."""


def refine(energy: BoxEnergy, steps: int, step_centre: float, step_size: float) -> tuple[Tensor, Tensor]:
    """Climbs f from each target box of an energy, all boxes at once.

    In coordinates relative to the starting box, whose w and h stay fixed: `y ← y + step · ∂f/∂y`, held within
    `FARTHEST` of it. A step that lowers f (or leaves it not a number) is undone, and the steps of that box are halved.

    Args:
        step_centre, step_size: first step lengths of the centre, relative to the box, and of log width and height.

    Returns:
        boxes `[steps + 1, N, 4]` in pixels, the starting boxes first, and f there `[steps + 1, N]`.
    """
    y = energy.reference.new_zeros(len(energy), 1, 4, dtype=torch.float32)
    step = y.new_tensor([step_centre, step_centre, step_size, step_size]).repeat(len(energy), 1, 1)
    if not len(energy):
        return y.reshape(1, 0, 4).repeat(steps + 1, 1, 1), y.new_zeros(steps + 1, 0)
    limit = y.new_tensor(FARTHEST).repeat_interleave(2)
    value, grad = energy.value_and_grad(y)
    path, values = [energy.boxes(y)], [value]
    for _ in range(steps):
        candidate = torch.minimum(torch.maximum(y + (step * grad).nan_to_num(), -limit), limit)
        new_value, new_grad = energy.value_and_grad(candidate)
        better = (new_value >= value)[..., None]
        y = torch.where(better, candidate, y)
        grad = torch.where(better, new_grad, grad)
        value = torch.where(better[..., 0], new_value, value)
        step = torch.where(better, step, 0.5 * step)
        path.append(energy.boxes(y))
        values.append(value)
    return torch.stack(path)[:, :, 0], torch.stack(values)[..., 0]
