"""One run from its configuration to a complete run directory."""

from __future__ import annotations

import csv
import io
import math
import os
import platform
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ebmbench.config.plugins import keep
from ebmbench.config.run import RunConfig
from ebmbench.core.energy import AutogradEnergy
from ebmbench.core.errors import UserError, counted
from ebmbench.core.plugins import package_version
from ebmbench.engine import loggers, runs
from ebmbench.engine.progress import ProgressDisplay
from ebmbench.engine.train import Callbacks, CheckpointPlan, Progress, Training, read_checkpoint, train
from ebmbench.methods.base import trial_step
from ebmbench.system import checkpoint, distributed
from ebmbench.system.allocator import keep_freed_memory
from ebmbench.system.files import write_atomically
from ebmbench.system.interrupt import Interrupted, StopFlag
from ebmbench.tasks.base import Learner, Task

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("ebmbench", "torch", "torchvision", "numpy", "hydra-core", "omegaconf", "pandas", "pycocotools")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `state` as `runs.read_state` gives it; `existed` if nothing had to be done.

    `undrawn` says why there are no figures, where drawing them failed.
    """

    run_dir: Path
    state: str
    existed: bool
    undrawn: str = ""


def execute(
    config: RunConfig, quiet: bool = False, on_result: Callable[[list[dict[str, str]]], None] = lambda rows: None
) -> Outcome:
    """Trains and evaluates a run, or finds its result; goes on with an unfinished one.

    Args:
        on_result: gets the rows of `metrics.csv` as text, before the figures are drawn; not of a result that was there.

    Raises:
        UserError: the device or the folder cannot be had, or another process works on the run.
        Interrupted: a signal came; the run goes on when it is executed again.
        Exception: whatever made it fail; the run directory is marked as failed.
    """
    run_dir = config.run_dir
    state = runs.check_state(config)
    if not config.launch.force and state in runs.FINISHED and not runs.is_promotion_pending(run_dir):
        runs.remove_leftovers(run_dir)
        return Outcome(run_dir, state, existed=True)
    device = resolve_device(config.launch.device)
    need_memory(config, device)
    if config.launch.threads:
        torch.set_num_threads(config.launch.threads)
    keep_freed_memory()
    with runs.open_attempt(config, runs.commit()) as attempt, StopFlag() as stop:
        if attempt is None:
            return Outcome(run_dir, runs.read_state(run_dir), existed=True)
        try:
            undrawn = _run(config, device, attempt, stop, quiet, on_result)
        except (Interrupted, KeyboardInterrupt):
            attempt.end("interrupted")
            raise
        except BaseException as error:
            attempt.end("failed", last_line(error), traceback.format_exc())
            raise
    return Outcome(run_dir, runs.read_state(run_dir), existed=False, undrawn=undrawn)


def resolve_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        UserError: a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count() if name.startswith("cuda") else 0
    if name.startswith("cuda") and (torch.device(name).index or 0) >= count:
        have = counted(count, "CUDA device") if count else "no CUDA device"
        raise UserError(f"device={name} cannot be had: this machine has {have}; use device=auto or device=cpu")
    return torch.device(name)


def last_line(error: BaseException) -> str:
    """The error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def _run(
    config: RunConfig,
    device: torch.device,
    attempt: runs.Attempt,
    stop: StopFlag,
    quiet: bool,
    on_result: Callable[[list[dict[str, str]]], None],
) -> str:
    """Returns why there are no figures, if drawing them failed."""
    started = time.monotonic()
    work_dir, setup = attempt.work_dir, config.setup
    groups = seed_groups(config, device)
    parts = [_Part(work_dir, index, seeds, config.run_hash) for index, seeds in enumerate(groups)]
    keep(config.used_plugins, work_dir)
    logger = loggers.open(config, work_dir, _resume_steps(parts))
    state = "failed"
    try:
        rows: list[dict[str, Any]] = []
        states: list[dict[str, Any]] = []
        for part in parts:
            stop.check()
            result = part.result()
            if result is None:
                result = _train_part(config, part, device, attempt, logger, stop, quiet, len(parts))
            rows += result["rows"]
            states.append(result)
        evaluations = energy_evaluations(config, states[0]["target_dim"], states[0]["partition_nodes"])
        for row in rows:
            row["energy_evaluations"] = evaluations * int(row.pop("examples"))
        of_all = config.task.finish(setup, work_dir, groups) or {}
        rows = [{**row, **of_all} for row in rows]
        parameters = {seed: p for state in states for seed, p in state["parameters"].items()}
        trained = checkpoint.encode({"run_hash": config.run_hash, "parameters": parameters})
        write_atomically(work_dir / "checkpoint.pt", trained)
        content = table(rows)
        write_atomically(work_dir / "metrics.csv", content)
        seconds = sum(result["seconds"] for result in states)
        runs.write_json(
            work_dir / "environment.json", environment(device, seconds, time.monotonic() - started, states[0])
        )
        try:
            on_result(list(csv.DictReader(content.decode().splitlines())))
        except OSError as error:  # a full disk or a closed pipe takes nothing away from the result
            with suppress(OSError):
                print(f"ebmbench: the result cannot be printed ({error.strerror}); it is computed", file=sys.stderr)
        figures, undrawn = draw(config, work_dir)
        attempt.status.diverged = {str(row["seed"]): int(row["diverged_step"]) for row in rows if row["diverged"]}
        logger.finish(rows, figures, work_dir)
        (work_dir / "error.txt").unlink(missing_ok=True)
        state = "done"
    except (Interrupted, KeyboardInterrupt):
        state = "interrupted"
        raise
    finally:
        logger.close(state)
    with stop.deferred():  # so near the end, a signal does not stop it
        attempt.publish()
    return undrawn


def draw(config: RunConfig, work_dir: Path) -> tuple[list[Path], str]:
    """Returns the figures of a run, or none and why: what cannot be drawn costs no result."""
    if not config.launch.figures:
        return [], ""
    try:
        return config.task.figures(config.setup, work_dir), ""
    except Interrupted:
        raise
    except Exception as error:
        shutil.rmtree(work_dir / runs.FIGURES, ignore_errors=True)
        print(f"ebmbench: the figures were not drawn ({last_line(error)}); the result is whole", file=sys.stderr)
        return [], last_line(error)


MEMORY = 2**31
"""Bytes that a step may take, about; more seeds than fit are trained in groups, one after the other."""


def seed_groups(config: RunConfig, device: torch.device) -> list[tuple[int, ...]]:
    """Returns the seeds that train together, so many as fit into memory, in groups as equal as can be."""
    each = config.task.seed_bytes(config.setup, device)
    if each is None:
        return [(seed,) for seed in config.seeds]
    count = math.ceil(len(config.seeds) / max(1, MEMORY // each))
    size = math.ceil(len(config.seeds) / count)
    return [config.seeds[start : start + size] for start in range(0, len(config.seeds), size)]


def need_memory(config: RunConfig, device: torch.device) -> None:
    """Raises UserError if a step of a single seed takes more memory than the device has."""
    each, there = config.task.seed_bytes(config.setup, device) or 0, total_memory(device)
    if each > there:
        raise UserError(
            f"a step of one seed takes about {each / 1e9:.0f} GB of memory, and this machine has {there / 1e9:.0f} GB; "
            "lower method.num_samples or trainer.batch_size"
        )


class _Part:
    """Seeds that train together: the checkpoint of their training, then their result."""

    def __init__(self, work_dir: Path, index: int, seeds: tuple[int, ...], run_hash: str) -> None:
        self.seeds = seeds
        self.index = index
        self.training = work_dir / f"training.{index}.ckpt"
        self.finished = work_dir / f"part.{index}.ckpt"
        self._run_hash = run_hash

    def result(self) -> dict[str, Any] | None:
        """What `_train_part` returned, if it did."""
        return read_checkpoint(self.finished, self._run_hash, self.seeds)

    def step(self) -> int | None:
        """The step that its training goes on from, None if it starts anew."""
        state = self.result() or read_checkpoint(self.training, self._run_hash, self.seeds)
        return None if state is None else int(state["step"])


def _resume_steps(parts: Sequence[_Part]) -> dict[int, int] | None:
    """Per seed the step to which its history stands, None if nothing was begun."""
    steps: dict[int, int] = {}
    for part in parts:
        step = part.step()
        if step is not None:
            steps |= dict.fromkeys(part.seeds, step)
    return steps or None


def _train_part(
    config: RunConfig,
    part: _Part,
    device: torch.device,
    attempt: runs.Attempt,
    logger: loggers.Logger,
    stop: StopFlag,
    quiet: bool,
    num_parts: int,
) -> dict[str, Any]:
    """Trains and scores the seeds of a part; keeps what it returns in the file `part.finished`."""
    learner = config.task.learner(config.setup, part.seeds, device)
    stamp = {
        "run_hash": config.run_hash,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "code path": learner.code_path,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),  # its own type would be no plain data
    }
    plan = CheckpointPlan(part.training, config.launch.checkpoint_seconds, stamp)
    attempt.update(num_steps=learner.num_steps * num_parts)
    before = part.index * learner.num_steps
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    title = f"{config.label} {config.name}"
    if num_parts > 1:
        title += f" part {part.index + 1}/{num_parts}"
    with ProgressDisplay(title, learner, quiet) as display:

        def on_stage(name: str, done: int, total: int) -> None:
            display.stage(name, done, total)
            attempt.heartbeat(before + learner.num_steps)

        learner.on_stage = on_stage

        def on_epoch(progress: Progress, rows: list[dict[str, Any]]) -> None:
            logger.log(rows)
            display.epoch(rows)

        def on_step(progress: Progress) -> None:
            display.step(progress)
            attempt.heartbeat(before + progress.step)

        progress = train(learner, plan, Callbacks(on_epoch, on_step), stop)
        display.message("evaluating")
        rows = result_rows(config.task, learner, progress, attempt.work_dir)
    stop.check()
    _add_cost(rows, learner, progress, device)
    stacked = learner.streams.stacked
    result = {
        "run_hash": config.run_hash,
        "rows": rows,
        "seeds": list(part.seeds),
        "step": progress.step,
        "seconds": progress.seconds,
        "target_dim": learner.target_dim,
        "partition_nodes": learner.partition_nodes,
        "code_path": learner.code_path,
        "parameters": {
            seed: {name: (p[index] if stacked else p).detach().cpu().clone() for name, p in learner.parameters.items()}
            for index, seed in enumerate(part.seeds)
        },
    }
    checkpoint.save(part.finished, result)
    return result


def _add_cost(rows: list[dict[str, Any]], learner: Learner, progress: Progress, device: torch.device) -> None:
    """Adds what training took, and what the method counted, to the rows of the seeds."""
    share = progress.seconds / len(rows)
    memory = round(peak_memory(device) / 2**20, 1)
    for row in rows:
        row |= {"train_seconds": round(share, 3), "peak_memory_mb": memory, "examples": learner.num_examples}
    for name, counts in progress.counts.items():
        for row, count, first in zip(rows, counts.tolist(), progress.count_steps[name].tolist(), strict=True):
            row |= {name: count, first_step_column(name): first if count else ""}


def first_step_column(counter: str) -> str:
    """Returns the column of metrics.csv for the step at which a method's counter first counted an example."""
    return f"{counter.removesuffix('s')}_step"


def result_rows(task: Task, learner: Learner, progress: Progress, work_dir: Path) -> list[dict[str, Any]]:
    """Returns the row of metrics.csv of each seed.

    What a seed that diverged scores is no result: it is nan. A seed whose weights are finite and whose energies are not
    diverged at the last step.
    """
    stopped = progress.diverged_step.tolist()
    rows = []
    for seed, step, scores in zip(
        learner.seeds, stopped, learner.evaluate(work_dir, [step >= 0 for step in stopped]), strict=True
    ):
        if step < 0 and task.is_broken(scores):
            step = learner.num_steps
        diverged = step >= 0
        if diverged:
            of_data = {metric.name for metric in task.metrics if not metric.of_model}
            scores = {name: value if name in of_data else math.nan for name, value in scores.items()}
        rows.append(
            {
                "seed": seed,
                **scores,
                "diverged": int(diverged),
                "diverged_step": step if diverged else "",
                "trusted": int(not diverged and task.is_trusted(scores)),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> bytes:
    """Returns rows as the content of a CSV file."""
    buffer = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)  # a part that an older version trained may lack some
    writer = csv.DictWriter(buffer, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def energy_evaluations(config: RunConfig, dim: int, partition_nodes: int) -> int:
    """Returns how often f (or its gradient) is evaluated for one example and step, counted on a quadratic energy.

    Args:
        dim: D, the dimension of a target.
        partition_nodes: evaluations for one exact `log Z`.
    """
    count = 0

    def quadratic(y: Tensor) -> Tensor:
        nonlocal count
        count += y.shape[-2]
        return -0.5 * y.square().sum(-1)

    y = torch.zeros(1, dim)
    f, step = AutogradEnergy(quadratic), trial_step(config.method, config.proposal, y, nodes=partition_nodes)
    config.method.loss(f, y, step)
    if config.proposal is not None:
        config.proposal.loss(f, y, step)
    return count


def follow(config: RunConfig, device: torch.device) -> None:
    """Does what every process but the first does under torchrun: its share of each step, until rank 0 is done.

    A signal to stop reaches all; rank 0 finishes its step, for which it needs the others, and lets them go.

    Raises:
        Interrupted: a signal came, and rank 0 is done.
    """
    device = distributed.device_of_rank(device)
    distributed.join(device)
    training: Training | None = None
    with StopFlag() as stop, stop.deferred():
        while (order := distributed.receive_step(device)) is not None:
            seed, step = order
            if step == distributed.PREPARE:
                config.task.assist(device)
                continue
            if training is None or training.learner.seeds != (seed,):
                training = Training(config.task.learner(config.setup, (seed,), device))
            distributed.share_parameters(list(training.learner.parameters.values()))
            if step == distributed.EVALUATE:
                training.learner.assist()
                continue
            distributed.sum_on_leader(training.learner.partial(training.batches.at(step), step))
        stop.check()


def environment(
    device: torch.device, train_seconds: float, total_seconds: float, result: Mapping[str, Any]
) -> dict[str, Any]:
    """What the run ran on; `result` is what `_train_part` returned."""
    return {
        "python": platform.python_version(),
        "packages": {package: package_version(package) for package in PACKAGES},
        "commit": runs.commit(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({os.cpu_count()} cores)",
        "threads": torch.get_num_threads(),
        "code_path": result["code_path"],
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "train_seconds": round(train_seconds, 3),
        "total_seconds": round(total_seconds, 3),
        "peak_memory_mb": round(peak_memory(device) / 2**20, 1),
    }


def total_memory(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device's allocator on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
