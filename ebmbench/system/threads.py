"""How the threads of a computation wait for one another."""

from __future__ import annotations

import os


def sleep_while_waiting() -> None:
    """Makes OpenMP's threads sleep while they wait, unless OMP_WAIT_POLICY is set; call it before PyTorch is loaded.

    By default they spin. Where other programs want the cores too, a thread that spins keeps the very thread from
    running that it waits for: a step of 1 ms on two threads then takes a second, and so 1.4 ms.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
