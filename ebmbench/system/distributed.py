"""Several processes (torchrun) that train one head: rank 0 leads, the others compute their share of its gradients.

The others keep no state. At each step rank 0 sends the step's number and the parameters, every rank computes the summed
loss, its gradient and the number of boxes for its images, and the sums go to rank 0, which divides by the number of
boxes of all. So the loss is that of one process, and divergence, clipping, resuming and the optimiser are rank 0's
alone. One broadcast and one reduction move as many bytes as the all-reduction that they replace.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from ebmbench.system.interrupt import Interrupted

if TYPE_CHECKING:
    from torch import Tensor

_STOP = -1
EVALUATE, PREPARE = -2, -3
"""In the place of a step: rank 0 begins an evaluation, or what comes before the first step, and the others do their
share of it."""


def world() -> tuple[int, int]:
    """Rank and number of processes, as torchrun sets them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def joined() -> tuple[int, int]:
    """Rank and number of the processes that this one has joined; 0 and 1 where it is alone."""
    return world() if torch.distributed.is_initialized() else (0, 1)


def device_of_rank(device: torch.device) -> torch.device:
    """Each process of a machine takes its own GPU."""
    if device.type == "cuda" and world()[1] > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def join(device: torch.device) -> None:
    """Waits for the other processes that torchrun started; does nothing where they are joined already."""
    if not torch.distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where objects are gathered
        # The others wait while rank 0 evaluates.
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
        # Left to the interpreter's end, the group's threads may still run when their handles go, and that aborts.
        atexit.register(torch.distributed.destroy_process_group)


def end_process(code: int) -> None:
    """Ends this process with an exit code, if it joined others; else does nothing.

    The interpreter's own end takes down what gloo's threads may still use, and that aborts now and then, whether the
    group was left before or not (1 of some 100 with two processes). All are through here, so nothing is to be left.
    """
    if torch.distributed.is_initialized():
        atexit.unregister(torch.distributed.destroy_process_group)
        atexit._run_exitfuncs()  # of the others, such as W&B's
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def leading(device: torch.device) -> Iterator[None]:
    """Rank 0's run: the others are let go at its end, and where it stops at a signal.

    After any other error they may be in the midst of a step; torchrun ends them.
    """
    device = device_of_rank(device)
    join(device)
    try:
        yield
    except Interrupted:
        _send_stop(device)
        raise
    _send_stop(device)


def _send_stop(device: torch.device) -> None:
    send_step(-1, _STOP, device)
    _wait_for_all(device)


def _wait_for_all(device: torch.device) -> None:
    """Until every rank came here: rank 0 keeps the store that the others join by, and must leave last."""
    sum_on_leader(torch.zeros(1, device=device)).item()


def send_step(seed: int, step: int, device: torch.device) -> None:
    """Rank 0: what the others are to compute next."""
    torch.distributed.broadcast(torch.tensor([seed, step], device=device), src=0)


def receive_step(device: torch.device) -> tuple[int, int] | None:
    """The other ranks: seed and step, or None when rank 0 lets them go."""
    numbers = torch.zeros(2, dtype=torch.int64, device=device)
    torch.distributed.broadcast(numbers, src=0)
    seed, step = numbers.tolist()
    if step == _STOP:
        _wait_for_all(device)
        return None
    return seed, step


def share_parameters(parameters: Sequence[Tensor]) -> None:
    """All ranks take over the parameters of rank 0."""
    flat = torch.cat([p.detach().flatten() for p in parameters])
    torch.distributed.broadcast(flat, src=0)
    with torch.no_grad():
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))


def sum_on_leader(tensor: Tensor) -> Tensor:
    """The sum over all ranks; it is whole on rank 0 alone."""
    torch.distributed.reduce(tensor, dst=0)
    return tensor


def say(value: Any) -> None:
    """Rank 0: sends a value to the others, who `hear` it."""
    torch.distributed.broadcast_object_list([value], src=0)


def hear() -> Any:
    """The other ranks: returns what rank 0 says."""
    heard: list[Any] = [None]
    torch.distributed.broadcast_object_list(heard, src=0)
    return heard[0]


def gather_on_leader(value: Any) -> list[Any]:
    """The values of all ranks, in their order, on rank 0; nothing on the others. All must call it."""
    rank, count = world()
    if count == 1:
        return [value]
    found: list[Any] | None = [None] * count if rank == 0 else None
    torch.distributed.gather_object(value, found, dst=0)
    return found or []
