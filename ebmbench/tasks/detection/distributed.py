"""Several processes (torchrun) that train one head: rank 0 leads, the others compute their share of its gradients.

The others keep no state. At each step rank 0 sends the step's number and the parameters, every rank computes the summed
loss, its gradient and the number of boxes for its images, and the sums go to rank 0, which divides by the number of boxes
of all. So the loss is that of one process, and divergence, clipping, resuming and the optimiser are rank 0's alone. One
broadcast and one reduction move as many bytes as the all-reduction that they replace.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

STOP = -1


def world() -> tuple[int, int]:
    """Rank and number of processes, as torchrun sets them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def start(device: torch.device) -> None:
    """Joins the processes that torchrun started; does nothing for a single one."""
    if world()[1] > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def device_of_rank(device: torch.device) -> torch.device:
    """Each process of a machine takes its own GPU."""
    if device.type == "cuda" and world()[1] > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def send_step(step: int, parameters: Sequence[Tensor]) -> None:
    """Rank 0: what the others are to compute next; STOP ends them."""
    device = parameters[0].device
    dist.broadcast(torch.tensor([step], device=device), src=0)
    if step != STOP:
        dist.broadcast(torch.cat([p.detach().flatten() for p in parameters]), src=0)


def receive_step(parameters: Sequence[Tensor]) -> int:
    """The other ranks: the step, with the parameters set to those of rank 0."""
    device = parameters[0].device
    number = torch.zeros(1, dtype=torch.int64, device=device)
    dist.broadcast(number, src=0)
    step = int(number)
    if step != STOP:
        flat = torch.cat([p.detach().flatten() for p in parameters])
        dist.broadcast(flat, src=0)
        with torch.no_grad():
            for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                parameter.copy_(part.view_as(parameter))
    return step


def sum_on_leader(tensor: Tensor) -> Tensor:
    """The sum over all ranks; it is whole on rank 0 alone."""
    dist.reduce(tensor, dst=0)
    return tensor
