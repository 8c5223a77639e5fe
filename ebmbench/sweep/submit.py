"""Submits what has no result yet: locally, in a bounded number of processes, or to SLURM as an array."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from ebmbench.config import folders
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError, counted, did_you_mean, first_line
from ebmbench.engine.execute import need_memory, resolve_device
from ebmbench.engine.runs import FINISHED, all_diverged
from ebmbench.report.planned import Plan, sweep_dir
from ebmbench.sweep import local, slurm
from ebmbench.sweep.estimate import estimate
from ebmbench.sweep.job import HELD
from ebmbench.sweep.plan import make_folder, write_plan
from ebmbench.sweep.status import ACTIVE, counts, job_states, record_submission
from ebmbench.system import yamlfile
from ebmbench.system.locking import Lock

FOLDER = "hydra/launcher"
"""Where presets are, in conf/ and in every other folder of YAML."""


@dataclass(frozen=True)
class Preset:
    """How jobs are launched: a file of conf/hydra/launcher/.

    Attributes:
        is_slurm: whether it submits to SLURM; else jobs run on this machine.
        values: its settings, as YAML has them.
    """

    name: str
    is_slurm: bool
    values: dict[str, Any]


def launcher_settings(name: str, overrides: Sequence[str]) -> Preset:
    """Reads a preset, with overrides such as `hydra.launcher.partition=gpu`.

    Raises:
        UserError: an unknown preset or key, or a file that is no preset.
    """
    known = sorted(folders.options(FOLDER))
    if name not in known:
        raise UserError(f"launcher={name} is not known; choose from {', '.join(known)}")
    kinds, values = _preset(name, set())
    for override in overrides:
        key, equals, text = override.lstrip("+").partition("=")
        path = key.removeprefix("hydra.launcher.")
        if not equals or path == key:
            raise UserError(f"{override} is not allowed: give hydra.launcher.KEY=VALUE")
        is_known = path.partition(".")[0] in values or ("submitit_slurm" in kinds and path in slurm.PASSED_ON)
        if not is_known and not override.startswith("+"):
            raise UserError(f"{key} is not a setting of launcher={name}{did_you_mean(path, [*map(str, values)])}")
        try:
            values = OmegaConf.merge(values, OmegaConf.from_dotlist([f"{path}={text}"]))
        except Exception as error:  # OmegaConf's own, and the YAML parser's
            raise UserError(f"{override} cannot be read ({first_line(error)})") from None
    plain = cast(dict[str, Any], OmegaConf.to_container(values, resolve=False))
    return Preset(name, "submitit_slurm" in kinds, plain)


def _preset(name: str, seen: set[str]) -> tuple[set[str], Any]:
    """Returns the presets that a preset builds on, and its values over theirs."""
    files = [folder / FOLDER / f"{name}.yaml" for folder in folders.config_dirs()]
    path = next((file for file in reversed(files) if file.is_file()), None)  # the user's own wins
    if path is None or name in seen:
        return {name}, OmegaConf.create({"n_jobs": 1} if name == "basic" else {})  # one of Hydra's own
    try:
        raw = yamlfile.read(path) or {}
        parents = [_preset(str(entry), seen | {name}) for entry in raw.pop("defaults", []) if entry != "_self_"]
        return {name}.union(*(kinds for kinds, _ in parents)), OmegaConf.merge(*(below for _, below in parents), raw)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no preset of a launcher ({first_line(error)})") from None


def submit(
    plan: Plan, results_dir: Path, preset: Preset, bound: int | None, dry_run: bool, is_new: bool = False
) -> int:
    """Submits the jobs of a plan that have no result and are not under way; returns the exit code.

    Local launchers return when all is done, SLURM's at once. A new plan is written after all that can be
    seen to be wrong was refused.

    Args:
        bound: how many jobs run at a time, at the most.

    Raises:
        UserError: a device that cannot be had, or another process that submits the same sweep.
    """
    settings, is_slurm = preset.values, preset.is_slurm
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
                plan = write_plan(plan, results_dir)
        states = job_states(plan, results_dir, submitting=True)
        damaged = [state for state in states if state.state == "damaged"]
        for state in damaged:
            text = f"{state.job.run_id} is left alone: {state.detail}; delete the folder to run it again"
            print(f"ebmbench: {text}", file=sys.stderr)
        todo = [state.job for state in states if state.state not in (*FINISHED, *ACTIVE, "damaged")]
        configs = [job.run_config(results_dir) for job in todo]
        print(f"{plan.name}: {counts(states)}; {len(todo)} to run", flush=True)
        if not todo:
            return 1 if damaged else 0
        if is_slurm:
            slurm.check_delay(settings)
            places, threads = int(settings.get("array_parallelism") or 1), int(settings.get("cpus_per_task") or 1)
        else:
            for config in configs:
                need_memory(config, resolve_device(config.launch.device))
            slots = local.slots(configs[0].launch.device, bound or positive(settings.get("n_jobs")), len(configs))
            places, threads = len(slots), slots[0].threads
        device = "gpu" if _on_gpu(configs, settings, is_slurm) else "cpu"
        print(estimate(configs, device, places, configs[0].launch.threads or threads, results_dir), flush=True)
        if dry_run:
            return 0
        if is_slurm:
            for numbers in slurm.submit_arrays(configs, settings, folder):
                record_submission(folder, numbers, preset.name)  # at once: the next array may be refused
                array = next(iter(numbers.values())).partition("_")[0]
                print(f"submitted {counted(len(numbers), 'job')} to SLURM as {array}", flush=True)
            print(f"python -m ebmbench sweep status {plan.name} shows them")
            return 0
        codes = local.run_pool(configs, slots, folder, positive(settings.get("max_num_restarts")) or 0)
    is_failed = _tell_ended(plan, results_dir, codes)
    if len(codes) < len(configs) or any(code > 128 for code in codes.values()):
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 1 if is_failed or damaged else 0


def _tell_ended(plan: Plan, results_dir: Path, codes: Mapping[str, int]) -> bool:
    """Prints what has become of the jobs that were started; returns whether one failed.

    Args:
        codes: their exit codes, by run.
    """
    runs = job_states(plan, results_dir)
    print(f"{plan.name}: {counts(runs)}")
    is_failed = False
    for run in runs:
        code = codes.get(run.job.run_id)
        if code == HELD and run.state not in (*FINISHED, "failed", "damaged"):
            print(f"  another process works on {run.job.run_id}  {run.detail}".rstrip())
        elif code is not None and (run.state not in FINISHED or all_diverged(run.folder)):
            print(f"  {run.state:12}{run.job.run_id}  {run.detail}".rstrip(), file=sys.stderr)
            is_failed = True
    return is_failed


def positive(number: object) -> int | None:
    """Returns a number of a preset that bounds something; None for one that does not, such as -1."""
    return number if isinstance(number, int) and number > 0 else None


def _on_gpu(configs: Sequence[RunConfig], settings: dict[str, Any], is_slurm: bool) -> bool:
    if is_slurm:
        return bool(settings.get("gpus_per_node") or settings.get("gpus_per_task") or settings.get("gres"))
    return resolve_device(configs[0].launch.device).type == "cuda"
