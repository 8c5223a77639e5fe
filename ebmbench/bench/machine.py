"""The machine on which something is measured."""

from __future__ import annotations

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
