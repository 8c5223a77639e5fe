"""Speed of 1D training, for every method, against the textbook way and against the machine's limit.

    python -m ebmbench.bench                      all methods, S = 1, 5, 20, 80, on the CPU
    python -m ebmbench.bench --device cuda        the same on a GPU
    python -m ebmbench.bench --methods nce+ --seeds 20 --seconds 1 --no-curves

In each measurement steps of the baseline (`textbook.py`) and of this project alternate, in a process of their own, and
their medians are compared: what else the machine does falls on both, and an epoch's last, short batch counts for
nothing. Times are stated per model and step, by the clock and in processor time.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import math
import multiprocessing
import os
import resource
import shlex
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ebmbench.bench.machine import machine
from ebmbench.bench.textbook import Textbook
from ebmbench.config.compose import compose
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.engine.runs import commit
from ebmbench.engine.train import Training
from ebmbench.system.files import share_dir

PAPER_STEPS = 75 * 63
PAPER_SEEDS = 20
PAPER_DATASETS = 2

MEETING = 5
"""Steps that processes make beside one another before they wait for the last of them."""

# Operations per evaluation of f: 320 multiply-adds and 40 tanh, counted as the 18 operations of a rational function.
VALUE = 2 * 320 + 40 * 18
SLOPE = 2 * 2 * 320 + 40 * (18 + 3)  # value and tangent together
BACKWARD = 2 * 2 * 320 + 40 * 4
SLOPE_BACKWARD = 2 * BACKWARD + 40 * 6


@dataclass(frozen=True)
class Case:
    """What is measured: a method at so many seeds, samples and examples."""

    method: str
    seeds: int
    samples: int = 1024
    batch: int = 32


@dataclass(frozen=True)
class Row:
    """A measurement; milliseconds are per model and step."""

    kind: str
    method: str
    seeds: int
    samples: int
    batch: int
    threads: int
    baseline_ms: float
    ms: float
    baseline_cpu_ms: float
    cpu_ms: float
    baseline_memory_mb: float
    memory_mb: float
    of_compute: float
    of_bandwidth: float
    all_cores: float = math.nan
    """How many times faster the same steps are with all threads; only of rows with one."""
    a_process_each: float = math.nan
    """How many times as many steps are made by a process for each core, as a sweep runs them; of the same rows."""

    @property
    def models_steps_per_second(self) -> float:
        """The models·steps in a second, by the clock."""
        return 1e3 / self.ms

    @property
    def ratio(self) -> float:
        """Models·steps per second against the baseline's, both by the clock."""
        return self.baseline_ms / self.ms

    @property
    def cpu_ratio(self) -> float:
        """The same per second of processor time: what a core does."""
        return self.baseline_cpu_ms / self.cpu_ms


@dataclass(frozen=True)
class Limits:
    """What the machine can do, measured: operations and bytes per second."""

    flops: float
    flops_one_core: float
    bandwidth: float


def main(argv: list[str]) -> int:
    """Measures training steps in 1D, and writes the tables; returns the exit code."""
    arguments = _arguments(argv)
    try:
        return _run(arguments, argv)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    measured_at = commit()  # before results are written, which makes the checkout differ
    _isolated(_warm_up, arguments)
    limits = _isolated(_measure_limits, arguments)
    print(limits_line(limits))
    rows: list[Row] = []
    memory: dict[Case, float] = {}

    def measure(kind: str, cases: Iterable[Case], threads: int) -> None:
        for case in cases:
            alone = replace(case, seeds=1)
            if alone not in memory:
                memory[alone] = _isolated(_baseline_memory, arguments, alone, threads)
            rows.append(_isolated(_measure, arguments, kind, case, threads, limits, memory[alone]))
            print(_line(rows[-1]), flush=True)
        write(rows, limits, arguments, argv, measured_at)

    print(_HEAD)
    many = max(arguments.seeds)
    measure("table", [Case(m, s) for m in arguments.methods for s in arguments.seeds], arguments.threads)
    if arguments.threads > 1:
        measure("one core", [Case(m, min(20, many)) for m in arguments.methods], 1)
    if arguments.curves:
        measure("seeds", [Case("nce+", s) for s in (1, 2, 5, 10, 20, 40, 80, 200)], arguments.threads)
        measure("samples", [Case("nce+", 20, samples=m) for m in (16, 64, 256, 1024, 4096, 16384)], arguments.threads)
        measure("batch", [Case("nce+", 20, batch=b) for b in (4, 8, 16, 32, 64, 128)], arguments.threads)
    print(f"written: {arguments.out}")
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ebmbench.bench one_d", description=__doc__.split("\n\n")[0])
    parser.add_argument("--methods", nargs="+", default=paper_methods(), choices=list(registry.known("method")))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 5, 20, 80], help="models trained together")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each measurement, at least five steps")
    parser.add_argument("--backend", default="auto", choices=["auto", "plain"])
    parser.add_argument(
        "--no-curves", dest="curves", action="store_false", help="leave out cost against S, M and batch"
    )
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="folder for one_d.{csv,md,png}")
    return parser.parse_args(argv)


# ------------------------------------------------------------------------------------------------ measuring


def _isolated(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own, so that its peak memory and threads are its own."""
    context = multiprocessing.get_context("fork")  # nothing has computed here, so no thread is lost in the fork
    ours, theirs = context.Pipe(duplex=False)

    def child() -> None:
        try:
            theirs.send((work(*arguments), None))
        except Exception as error:
            theirs.send((None, error))

    process = context.Process(target=child)
    process.start()
    theirs.close()
    try:
        result, error = ours.recv()
    except EOFError:
        raise UserError(f"the measurement {arguments[1:]} was killed, perhaps for memory") from None
    process.join()
    if error is not None:
        raise error
    return result


def _warm_up(arguments: argparse.Namespace) -> float:
    """Compiles what is cached, and says how long that took."""
    started = time.perf_counter()
    step, _ = _ours(Case("nce+", 1), arguments)
    step()
    seconds = time.perf_counter() - started
    print(f"first step, with all that is compiled once: {seconds:.1f} s", flush=True)
    return seconds


def _ours(case: Case, arguments: argparse.Namespace) -> tuple[Callable[[], None], Any]:
    overrides = ["task=1d", f"method={case.method}", f"seeds={case.seeds}", f"trainer.batch_size={case.batch}"]
    if "num_samples" in registry.known("method")[case.method].model_fields:
        overrides.append(f"method.num_samples={case.samples}")
    config = compose([*overrides, f"device={arguments.device}", f"backend={arguments.backend}"])
    learner = config.task.learner(config.setup, config.seeds, torch.device(arguments.device))
    return Training(learner).stepper(), learner


def _baseline(case: Case, problem: Any, device: torch.device) -> Callable[[], None]:
    return Textbook(problem.method, problem.proposal, problem.x, problem.y, case.batch, device).step


def _measure(
    arguments: argparse.Namespace, kind: str, case: Case, threads: int, limits: Limits, memory_of: float
) -> Row:
    others = arguments.threads - 1 if threads == 1 and arguments.device == "cpu" else 0
    barrier = _companions(arguments, case, others)  # before anything computes here, as in `_isolated`
    torch.set_num_threads(threads)
    device = torch.device(arguments.device)
    _ours(replace(case, seeds=1, samples=16), arguments)[0]()  # libraries that are loaded at first use are not counted
    ours, problem = _ours(case, arguments)
    before = _peak_mb(device)
    ours()
    memory = _peak_mb(device) - before
    baseline = _baseline(case, problem, device)
    baseline()
    # A baseline step per model would take most of the time; a few are enough for its median.
    plan = [("ours", ours, threads, 1), ("baseline", baseline, threads, 3)]
    if threads < arguments.threads:
        plan.insert(1, ("all cores", ours, arguments.threads, 1))
    if others:
        plan.insert(1, ("a process each", lambda: _together(barrier, ours), 1, 1))
    clock: dict[str, list[float]] = {name: [] for name, *_ in plan}
    cpu: dict[str, list[float]] = {name: [] for name, *_ in plan}
    end = time.perf_counter() + arguments.seconds
    while len(clock["ours"]) < 5 or time.perf_counter() < end:
        for name, step, count, repeats in plan:
            if torch.get_num_threads() != count:
                torch.set_num_threads(count)
                step()  # wakes the threads
            for _ in range(repeats):
                _wait(device)
                started, used = time.perf_counter(), time.process_time()
                step()
                _wait(device)
                clock[name].append((time.perf_counter() - started) * 1e3)
                cpu[name].append((time.process_time() - used) * 1e3)
    typical = {name: statistics.median(times) for name, times in clock.items()}
    cpu_typical = {name: statistics.median(times) for name, times in cpu.items()}
    ms = typical["ours"] / case.seeds
    flops = limits.flops if threads == arguments.threads else limits.flops_one_core
    operations, traffic = least_work(case)
    return Row(
        kind=kind,
        method=case.method,
        seeds=case.seeds,
        samples=case.samples,
        batch=case.batch,
        threads=threads,
        baseline_ms=typical["baseline"],
        ms=ms,
        baseline_cpu_ms=cpu_typical["baseline"],
        cpu_ms=cpu_typical["ours"] / case.seeds,
        baseline_memory_mb=memory_of,
        memory_mb=memory,
        of_compute=operations / flops / (ms * 1e-3),
        of_bandwidth=traffic / limits.bandwidth / (ms * 1e-3),
        all_cores=_median_ratio(clock["ours"], clock.get("all cores")),
        a_process_each=(others + 1) * MEETING * _median_ratio(clock["ours"], clock.get("a process each")),
    )


def _companions(arguments: argparse.Namespace, case: Case, count: int) -> threading.Barrier:
    """Starts processes that make steps on one core whenever they and the caller meet at the barrier."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count + 1, timeout=600)  # so that the death of one is an error, and no endless wait

    def steps() -> None:
        torch.set_num_threads(1)
        step, _ = _ours(case, arguments)
        step()
        while True:
            _together(barrier, step)

    for _ in range(count):
        context.Process(target=steps, daemon=True).start()  # ends with this process
    return barrier


def _together(barrier: threading.Barrier, step: Callable[[], None]) -> None:
    """Some steps, from when all processes are ready to when the last is done."""
    barrier.wait()
    for _ in range(MEETING):
        step()
    barrier.wait()


def _median_ratio(times: list[float], others: list[float] | None) -> float:
    """Of what was measured in turn, so that a machine whose speed changes counts the same in both, if it was."""
    if others is None:
        return math.nan
    return statistics.median(time / other for time, other in zip(times, others, strict=True))


def _baseline_memory(arguments: argparse.Namespace, case: Case, threads: int) -> float:
    """Peak memory of the baseline in MB."""
    torch.set_num_threads(threads)
    device = torch.device(arguments.device)
    _, problem = _ours(case, arguments)
    _baseline(replace(case, samples=16), problem, device)()
    step = _baseline(case, problem, device)
    before = _peak_mb(device)
    step(), step()
    return _peak_mb(device) - before


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _measure_limits(arguments: argparse.Namespace) -> Limits:
    """Peak rates by a large float32 matrix product, with all threads and with one in turn, and a large copy."""
    device = torch.device(arguments.device)
    torch.set_float32_matmul_precision("highest")
    size = 1024 if device.type == "cpu" else 8192
    a = torch.rand(size, size, device=device)
    copied = torch.rand(2**25 if device.type == "cpu" else 2**28, device=device)
    target = torch.empty_like(copied)

    def product() -> Tensor:
        return a @ a

    def copy() -> Tensor:
        return target.copy_(copied)

    works = {"product": (product, arguments.threads), "one core": (product, 1), "copy": (copy, arguments.threads)}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(20):
        for name, (work, threads) in works.items():
            torch.set_num_threads(threads)
            for _ in range(2):  # the first wakes the threads
                _wait(device)
                started = time.perf_counter()
                work()
                _wait(device)
            times[name].append(time.perf_counter() - started)
    best = {name: min(seconds) for name, seconds in times.items()}
    operations = 2 * size**3
    return Limits(operations / best["product"], operations / best["one core"], 2 * copied.numel() * 4 / best["copy"])


def limits_line(limits: Limits) -> str:
    """The machine's limits in words."""
    return (
        f"Limits measured beside: {limits.flops / 1e9:.1f} Gflop/s (float32 matrix product; "
        f"{limits.flops_one_core / 1e9:.1f} with one thread), {limits.bandwidth / 1e9:.1f} GB/s (copy)."
    )


def least_work(case: Case) -> tuple[float, float]:
    """Operations and bytes that a model's step needs: nothing computed twice, activations never in memory."""
    evaluations = case.batch * case.samples
    method = registry.known("method")[case.method]
    derivatives = getattr(method, "y_derivatives", 0)
    if derivatives == 2:
        # Value, first and second derivative carried along together, and the reverse of it.
        return case.batch * 3 * (3 * 2 * 320 + 40 * 18), case.batch * 16
    if "langevin_steps" in method.model_fields:
        steps = 16
        return evaluations * (steps * SLOPE + VALUE + BACKWARD), evaluations * (steps * 2 * 4 + 16)
    if derivatives == 1:
        return evaluations * (SLOPE + SLOPE_BACKWARD), evaluations * 16
    return evaluations * (VALUE + BACKWARD), evaluations * 16


# ------------------------------------------------------------------------------------------------ telling

_HEAD = (
    "kind      method    S     M      B    threads  baseline ms   ms      times faster (per cpu s)  memory MB  of peak"
)


def _line(row: Row) -> str:
    return (
        f"{row.kind:9} {row.method:9} {row.seeds:<5} {row.samples:<6} {row.batch:<4} {row.threads:<8} "
        f"{row.baseline_ms:<13.2f} {row.ms:<7.3f} {row.ratio:<7.1f} ({row.cpu_ratio:.1f}){'':11} "
        f"{row.memory_mb:<10.0f} {row.of_compute:.0%}"
        + ("" if math.isnan(row.all_cores) else f"    all cores {row.all_cores:.2f}")
        + ("" if math.isnan(row.a_process_each) else f"    a process each {row.a_process_each:.2f}")
    )


def write(
    rows: list[Row], limits: Limits, arguments: argparse.Namespace, argv: list[str], measured_at: str | None
) -> None:
    """`one_d.csv`, `one_d.md` and, with curves, `one_d.png`; on a GPU `one_d_cuda.*`."""
    name = "one_d" if arguments.device == "cpu" else f"one_d_{arguments.device.split(':')[0]}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*Row.__dataclass_fields__, "models_steps_per_second", "ratio", "cpu_ratio"])
        writer.writeheader()
        for row in rows:
            extra = {key: getattr(row, key) for key in ("models_steps_per_second", "ratio", "cpu_ratio")}
            values = asdict(row) | extra
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in values.items()})
    (arguments.out / f"{name}.md").write_text(markdown(rows, limits, arguments, argv, measured_at))
    if any(row.kind == "batch" for row in rows):
        plot(rows, arguments.out / f"{name}.png")


def markdown(
    rows: list[Row], limits: Limits, arguments: argparse.Namespace, argv: list[str], measured_at: str | None
) -> str:
    """The table, with what is needed to measure it again."""
    lines = [
        "# Speed of 1D training",
        "",
        f"    {shlex.join(['python', '-m', 'ebmbench.bench', *argv])}",
        "",
        f"{machine(arguments.device)}; {arguments.threads} CPU threads; torch {torch.__version__}; "
        f"commit {measured_at}; {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC; "
        f"load average {os.getloadavg()[1]:.1f} "
        "(above the number of threads it would mean other work beside, and times too long, ours and the baseline's).",
        limits_line(limits),
        "",
        "Milliseconds are per model and step, by the clock, of the median step. *Faster* is the baseline's time over",
        "ours, by the clock and per second of processor time. *Of compute* is the least time for a step's operations",
        "at the machine's peak, over the time taken; *of bandwidth* the same for the bytes that must be moved. Memory",
        "is what training takes at most beyond what the process holds before. *All cores* is how many times faster the",
        "same steps are with all threads than with one, in turn; *a process each* how many times as many are made by a",
        "process for each core, one thread each, as a sweep runs them.",
        "",
        "| | method | S | threads | baseline ms | ms | models·steps/s | faster | faster per cpu second "
        "| baseline MB | MB | of compute | of bandwidth | all cores | a process each |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        if row.kind in ("table", "one core"):
            cells = [row.kind, row.method, row.seeds, row.threads, f"{row.baseline_ms:.2f}", f"{row.ms:.3f}"]
            cells += [f"{row.models_steps_per_second:.0f}", f"{row.ratio:.1f}", f"{row.cpu_ratio:.1f}"]
            cells += [f"{row.baseline_memory_mb:.0f}", f"{row.memory_mb:.0f}"]
            cells += [f"{row.of_compute:.0%}", f"{row.of_bandwidth:.1%}"]
            cells += ["" if math.isnan(gain) else f"{gain:.2f}" for gain in (row.all_cores, row.a_process_each)]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", paper_table(rows), ""]
    return "\n".join(lines)


def paper_methods() -> list[str]:
    """Returns the methods of the paper's table, as sweeps/paper_1d.yaml lists them."""
    sweep = yaml.safe_load((share_dir() / "sweeps" / "paper_1d.yaml").read_text())
    return str(sweep["hydra"]["sweeper"]["params"]["method"]).split(",")


def paper_table(rows: list[Row]) -> str:
    """How long the whole 1D table takes, extrapolated from steps at the number of seeds nearest to 20."""
    ours = baseline = 0.0
    methods = paper_methods()
    for method in methods:
        measured = [row for row in rows if row.kind == "table" and row.method == method]
        if not measured:
            return "(The time of the whole 1D table needs all methods.)"
        row = min(measured, key=lambda row: abs(row.seeds - PAPER_SEEDS))
        steps = PAPER_DATASETS * PAPER_SEEDS * PAPER_STEPS
        ours += steps * row.ms / 1e3
        baseline += steps * row.baseline_ms / 1e3
    models = len(methods) * PAPER_SEEDS * PAPER_DATASETS
    return (
        f"Extrapolated from these steps, without evaluation: all {models} models of the 1D table take "
        f"{ours / 60:.1f} minutes, and {baseline / 3600:.1f} hours the textbook way, "
        f"{baseline / ours:.1f} times as long."
    )


def plot(rows: list[Row], path: Path) -> None:
    """Cost of a step of nce+ against S, M and the batch size: ours and the textbook's for as many models."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), constrained_layout=True, sharey=True)
    panels = (("seeds", "models trained together, S"), ("samples", "samples, M"), ("batch", "examples in a batch"))
    for axis, (kind, label) in zip(axes, panels, strict=True):
        chosen = [row for row in rows if row.kind == kind]
        at = [getattr(row, kind) for row in chosen]
        axis.loglog(at, [r.baseline_ms * r.seeds for r in chosen], "s--", color="#D55E00", label="textbook, one by one")
        axis.loglog(at, [r.ms * r.seeds for r in chosen], "o-", color="#0072B2", label="ebmbench")
        least = [r.ms * r.seeds * max(r.of_compute, r.of_bandwidth) for r in chosen]
        axis.loglog(at, least, ":", color="black", label="limit of the machine")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3, which="both", linewidth=0.4)
    axes[0].set_ylabel("time of a step of all models (ms)")
    axes[1].set_title("nce+; where not varied S = 20, M = 1024, B = 32", fontsize=10)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=160)
    plt.close(figure)
