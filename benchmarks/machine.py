"""The machine on which something is measured, and when."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import torch


def machine(device: str) -> str:
    """The kind of machine, in words."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = sum(line.startswith("processor") for line in lines)
    return f"{model}, {cores} cores, {torch.backends.cpu.get_cpu_capability()}"


def conditions(commit: str | None) -> str:
    """Returns the machine, the commit, the time and the load in words, for what is measured on the CPU."""
    return f"{machine('cpu')}; commit {commit}; {now()}; load average {os.getloadavg()[0]:.1f}."


def now() -> str:
    """Returns the time to the minute."""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def wait(device: torch.device) -> None:
    """Waits until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
