"""What SLURM calls on a node. It listens for signals before it imports anything slow: a warning may come early."""

from __future__ import annotations

from ebmbench.system.interrupt import remember_signals


def slurm_job(config_yaml: str, sweep_folder: str, max_requeues: int) -> str:
    """Carries out a run inside SLURM; see `job.slurm_job`."""
    remember_signals()
    from ebmbench.sweep import job  # slow: PyTorch

    return job.slurm_job(config_yaml, sweep_folder, max_requeues)
