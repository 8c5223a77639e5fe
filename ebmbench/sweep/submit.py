"""Submits what has no result yet: locally, in a bounded number of processes, or to SLURM as an array."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ebmbench.config import compose as composition
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine.execute import resolve_device
from ebmbench.engine.runs import FINISHED
from ebmbench.sweep import local, slurm
from ebmbench.sweep.estimate import estimate
from ebmbench.sweep.plan import Plan, make_folder, sweep_dir, write_plan
from ebmbench.sweep.status import ACTIVE, JobState, counts, job_states, record_submission
from ebmbench.system.locking import Lock

LAUNCHERS = ("local", "local_parallel", "slurm", "slurm_gpu")


def launcher_settings(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The values of conf/hydra/launcher/<name>.yaml with overrides such as `hydra.launcher.partition=gpu`.

    Raises:
        UserError: an unknown launcher or key.
    """
    names = sorted({*LAUNCHERS, *(path.stem for path in (composition.config_dir() / "hydra/launcher").glob("*.yaml"))})
    if name not in names:
        raise UserError(f"launcher={name} is not known; choose from {', '.join(names)}")
    composition.prepare([])
    lines = [f"hydra/launcher={name}", *overrides, composition.search_path_override()]
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(composition.config_dir())):
            composed = hydra.compose("config", lines, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(composition.explain(error)) from None
    values = OmegaConf.to_container(composed.hydra.launcher, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def submit(
    plan: Plan,
    results_dir: Path,
    launcher: str,
    overrides: Sequence[str],
    bound: int | None,
    dry_run: bool,
    is_new: bool = False,
) -> int:
    """Submits the jobs of a plan that have no result and are not under way; returns the exit code.

    Local launchers return when all is done, SLURM's at once. A new plan is written after all that can be
    seen to be wrong was refused.

    Raises:
        UserError: a launcher that is not known or cannot be had, or another process that submits the same sweep.
    """
    settings = launcher_settings(launcher, overrides)
    is_slurm = settings["_target_"].endswith("SlurmLauncher")
    if is_slurm and shutil.which("sbatch") is None:
        raise UserError(f"launcher={launcher} cannot be had: sbatch is not on this machine; use local_parallel")
    if not is_slurm:
        resolve_device(str(plan.jobs[0].config["device"]))
    folder = sweep_dir(results_dir, plan.name)
    with contextlib.ExitStack() as stack:
        if not dry_run:
            make_folder(folder, results_dir)
            lock = Lock(folder / "lock")
            lock.acquire()
            stack.callback(lock.release)
            if is_new:
                write_plan(plan, results_dir)
        states = job_states(plan, results_dir, submitting=True)
        todo = [state.job for state in states if _is_to_do(state)]
        damaged = [state for state in states if state.state == "damaged"]
        for state in damaged:
            text = f"{state.job.run_id} is left alone: {state.detail}; delete the folder to run it again"
            print(f"ebmbench: {text}", file=sys.stderr)
        configs = [job.run_config(results_dir) for job in todo]
        bound = bound or _bound(settings)
        print(f"{plan.name}: {counts(states)}; {len(todo)} to run", flush=True)
        if not todo:
            return 1 if damaged else 0
        if is_slurm:
            places, threads = int(settings.get("array_parallelism") or 1), int(settings.get("cpus_per_task") or 1)
        else:
            slots = local.slots(configs[0].launch.device, bound, len(configs))
            places, threads = len(slots), slots[0].threads
        device = "gpu" if _on_gpu(configs, settings, is_slurm) else "cpu"
        print(estimate(configs, device, places, configs[0].launch.threads or threads, results_dir), flush=True)
        if dry_run:
            return 0
        if is_slurm:
            for numbers in slurm.submit_arrays(configs, settings, folder):
                record_submission(folder, numbers, launcher)  # at once: the next array may be refused
                array = next(iter(numbers.values())).partition("_")[0]
                print(f"submitted {len(numbers)} jobs to SLURM as {array}", flush=True)
            print(f"python -m ebmbench sweep status {plan.name} shows them")
            return 0
        codes = local.run_pool(configs, slots, folder)
    states = job_states(plan, results_dir)
    print(f"{plan.name}: {counts(states)}")
    failed = [state for state in states if state.job.run_id in codes and state.state not in FINISHED]
    for state in failed:
        print(f"  {state.state:12}{state.job.run_id}  {state.detail}".rstrip(), file=sys.stderr)
    if len(codes) < len(configs) or any(code > 128 for code in codes.values()):
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 1 if failed or damaged else 0


def _is_to_do(state: JobState) -> bool:
    return state.state not in (*FINISHED, *ACTIVE, "damaged")


def _bound(settings: dict[str, Any]) -> int | None:
    """Jobs at a time by the preset: Hydra's basic launcher is one; joblib's n_jobs, -1 being as many as fit."""
    if settings["_target_"].endswith("BasicLauncher"):
        return 1
    number = settings.get("n_jobs")
    return number if isinstance(number, int) and number > 0 else None


def _on_gpu(configs: Sequence[RunConfig], settings: dict[str, Any], is_slurm: bool) -> bool:
    if is_slurm:
        return bool(settings.get("gpus_per_node") or settings.get("gpus_per_task") or settings.get("gres"))
    return resolve_device(configs[0].launch.device).type == "cuda"
