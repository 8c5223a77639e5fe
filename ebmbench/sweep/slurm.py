"""Jobs as one SLURM array, by submitit: submitted with resolved settings, and not waited for."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.sweep.entry import slurm_job

# What submitit calls the same for every kind of cluster; the rest is SLURM's own and gets a prefix.
_COMMON = (
    "name",
    "timeout_min",
    "mem_gb",
    "nodes",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "stderr_to_stdout",
)
_NOT_PASSED = ("submitit_folder", "max_num_timeout", "slurm_python")
PASSED_ON = ("slurm_python", "use_srun", "srun_args")
"""Settings that Hydra's own launcher does not know: the Python of the nodes, such as a container's, and srun."""
EARLY_SECONDS = 60
"""SLURM may send the warning so much earlier than it was asked to."""
ARRAY_SIZE = 1000
"""SLURM's default MaxArraySize is 1001."""


def submit_arrays(configs: Sequence[RunConfig], launcher: dict[str, Any], folder: Path) -> Iterator[dict[str, str]]:
    """Submits the jobs in arrays, and returns while they are queued.

    Args:
        launcher: the values of conf/hydra/launcher/slurm*.yaml.

    Yields:
        Of each array, run to SLURM job: `12_3` for a task of an array.

    Raises:
        UserError: SLURM cannot be reached, or refuses the jobs.
    """
    import submitit

    delay = check_delay(launcher)
    threads = launcher.get("cpus_per_task")
    texts = [config.replace(threads=config.launch.threads or threads).to_yaml() for config in configs]
    restarts = int(launcher.get("max_num_timeout") or 0)
    with _clean_environment():
        for start in range(0, len(texts), ARRAY_SIZE):
            part = texts[start : start + ARRAY_SIZE]
            python = launcher.get("slurm_python")
            own = {"slurm_python": str(python)} if python else {}
            executor = submitit.AutoExecutor(folder=str(folder / "slurm"), cluster="slurm", **own)
            try:
                executor.update_parameters(**_parameters(launcher, delay))
                count = len(part)
                jobs = executor.map_array(slurm_job, part, [str(folder.absolute())] * count, [restarts] * count)
            except submitit.core.utils.FailedJobError as error:
                raise UserError(f"SLURM refuses the jobs: {_reason(str(error))}") from None
            except (ValueError, NameError) as error:
                raise UserError(f"hydra.launcher is not what submitit takes: {_reason(str(error))}") from None
            except (OSError, subprocess.SubprocessError) as error:
                raise UserError(f"SLURM cannot be reached: {_reason(str(error))}") from None
            some = configs[start : start + ARRAY_SIZE]
            yield {config.run_id: job.job_id for config, job in zip(some, jobs, strict=True)}


def check_delay(launcher: dict[str, Any]) -> int:
    """Returns how many seconds before its end a job is warned.

    Raises:
        UserError: the job would be warned when it has hardly begun, and would never get anything done.
    """
    delay, limit = int(launcher.get("signal_delay_s") or 120), launcher.get("timeout_min")
    if limit is not None and 60 * float(limit) < delay + 2 * EARLY_SECONDS:
        least = math.ceil((delay + 2 * EARLY_SECONDS) / 60)
        raise UserError(
            f"hydra.launcher.timeout_min={limit} is not allowed: a job is warned hydra.launcher.signal_delay_s={delay} "
            f"seconds before its end, and SLURM may do it a minute early; give {least} minutes, or a shorter delay"
        )
    return delay


def _parameters(launcher: dict[str, Any], delay: int) -> dict[str, Any]:
    given = {key: value for key, value in launcher.items() if value is not None and key not in _NOT_PASSED}
    found = {key if key in _COMMON else f"slurm_{key}": value for key, value in given.items()}
    # ebmbench's own warning, which makes a run save and queue again; submitit's SIGUSR2 stops it at once.
    extra = {**(launcher.get("additional_parameters") or {}), "signal": f"USR1@{delay}"}
    return {**found, "slurm_additional_parameters": extra}


def _reason(text: str) -> str:
    """The line that says why: sbatch's own last word."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no reason given"])[-1]


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Without the SLURM variables of a job that this itself runs in: sbatch would hand them on to the new jobs."""
    of_a_job = [key for key in os.environ if key.startswith(("SLURM_", "SBATCH_")) and key != "SLURM_CONF"]
    removed = {key: os.environ.pop(key) for key in of_a_job}
    try:
        yield
    finally:
        os.environ.update(removed)
