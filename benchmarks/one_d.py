"""Speed of 1D training, for every method, against the textbook way and against the machine's limit.

    python -m benchmarks                      all methods, S = 1, 20, 80, on the CPU
    python -m benchmarks --device cuda        the same on a GPU
    python -m benchmarks --methods nce+ --seeds 20 --seconds 1 --no-curves
    python -m benchmarks --methods nce+ dsm --seeds 1 20 80 --threads 1 --no-curves --peers jax compile

For a method, steps of the baseline (`textbook.py`), of this project at each number of seeds, of its peers (`peers.py`)
and a burst of the machine's peak take turns in one process, and their medians are compared: what else the machine does
falls on all, and an epoch's last, short batch counts for nothing. The baseline trains one model at a time, so one
measurement of it stands beside all numbers of seeds. Times are per model and step, by the clock and of the processor.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import os
import resource
import shlex
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from matplotlib.axes import Axes

from benchmarks import peers
from benchmarks.machine import machine, now, wait
from benchmarks.textbook import Textbook
from ebmbench.config.compose import compose
from ebmbench.core import registry
from ebmbench.core.errors import UserError, first_line
from ebmbench.display import palette
from ebmbench.display.rendering import Figure, Panel, Scale, log_axis, save_png
from ebmbench.engine.runs import commit
from ebmbench.engine.train import Training
from ebmbench.native import build
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
    """A measurement; milliseconds are per model and step, the median, and the quartiles as low and high."""

    kind: str
    method: str
    seeds: int
    samples: int
    batch: int
    threads: int
    baseline_ms: float
    baseline_low: float
    baseline_high: float
    ms: float
    low: float
    high: float
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
    first_seconds: float = math.nan
    """What a peer's first step takes, with its compilation."""

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

    def measure(kind: str, cases: list[Case], threads: int) -> None:
        """Measures cases that have one baseline, together."""
        for case in {replace(case, seeds=1) for case in cases} - memory.keys():
            memory[case] = _isolated(_baseline_memory, arguments, case, threads)
        used = [_isolated(_memory, arguments, case, threads) for case in cases]
        found = _isolated(_measure, arguments, kind, cases, threads, limits)
        baseline = memory[replace(cases[0], seeds=1)]
        for row in found:
            own = used[[case.seeds for case in cases].index(row.seeds)] if row.kind == kind else math.nan
            rows.append(replace(row, baseline_memory_mb=baseline, memory_mb=own))
            print(_line(rows[-1]), flush=True)
        write(rows, limits, arguments, argv, measured_at)

    print(_HEAD)
    many = max(arguments.seeds)
    for method in arguments.methods:
        measure("table", [Case(method, seeds) for seeds in arguments.seeds], arguments.threads)
    for method in arguments.methods if arguments.threads > 1 and arguments.device == "cpu" else ():
        measure("one core", [Case(method, min(20, many))], 1)
    if arguments.curves:
        measure("seeds", [Case("nce+", s) for s in (1, 2, 5, 10, 20, 40, 80, 200)], arguments.threads)
        for samples in (16, 64, 256, 1024, 4096, 16384):
            measure("samples", [Case("nce+", 20, samples=samples)], arguments.threads)
        for batch in (4, 8, 16, 32, 64, 128):
            measure("batch", [Case("nce+", 20, batch=batch)], arguments.threads)
    print(f"written: {arguments.out}")
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks one_d", description=__doc__.split("\n\n")[0])
    parser.add_argument("--methods", nargs="+", default=paper_methods(), choices=list(registry.known("method")))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 20, 80], help="models trained together")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each measurement, at least five steps")
    parser.add_argument(
        "--peers", nargs="+", default=[], choices=peers.LIBRARIES, help="measured beside, for nce+ and dsm"
    )
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
        except UserError as error:
            theirs.send((None, error))
        except Exception as error:  # it may hold what cannot be sent
            traceback.print_exc()
            theirs.send((None, UserError(f"the measurement {arguments[1:]} failed: {first_line(error)}")))

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


@cache
def _machine(device: str) -> str:
    """The machine in words, from a process of its own: one that has spoken to a GPU cannot be forked again."""
    return str(_isolated(machine, device))


def _warm_up(arguments: argparse.Namespace) -> float:
    """Compiles what is cached, and says how long that took."""
    started = time.perf_counter()
    step, _ = _ours(Case("nce+", 1), arguments)
    step()
    seconds = time.perf_counter() - started
    print(f"first step, with all that is compiled once: {seconds:.1f} s", flush=True)
    return seconds


def _ours(case: Case, arguments: argparse.Namespace) -> tuple[Callable[[], None], Any]:
    learner = _learner(case, arguments, arguments.backend)
    return Training(learner).stepper(), learner


def _learner(case: Case, arguments: argparse.Namespace, backend: str) -> Any:
    overrides = ["task=1d", f"method={case.method}", f"seeds={case.seeds}", f"trainer.batch_size={case.batch}"]
    if "num_samples" in registry.known("method")[case.method].model_fields:
        overrides.append(f"method.num_samples={case.samples}")
    config = compose([*overrides, f"device={arguments.device}", f"backend={backend}"])
    return config.task.learner(config.setup, config.seeds, torch.device(arguments.device))


def _baseline(case: Case, problem: Any, device: torch.device) -> Callable[[], None]:
    x = problem.x.squeeze(-1)
    return Textbook(problem.method, problem.proposal, x, problem.y, case.batch, device).step


@dataclass
class _Turn:
    """What takes its turn in a measurement: a step, with how many threads, and how often in a row."""

    step: Callable[[], Any]
    threads: int
    repeats: int = 1
    clock: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    first_seconds: float = math.nan

    def ms(self, models: int) -> tuple[float, float, float]:
        """Returns the median and the quartiles, per model."""
        low, median, high = statistics.quantiles(self.clock, n=4)
        return median / models, low / models, high / models


def _measure(arguments: argparse.Namespace, kind: str, cases: list[Case], threads: int, limits: Limits) -> list[Row]:
    others = arguments.threads - 1 if threads == 1 and arguments.device == "cpu" else 0
    barrier = _companions(arguments, cases[0], others)  # before anything computes here, as in `_isolated`
    if threads == arguments.threads and hasattr(os, "sched_setaffinity"):  # what peers use cannot be told otherwise
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    device = torch.device(arguments.device)
    turns: dict[tuple[str, Case], _Turn] = {}
    for case in cases:
        step, learner = _ours(case, arguments)
        turns[kind, case] = _Turn(step, threads)
        for name in arguments.peers if kind == "table" and peers.has(case.method) else ():
            peers.check(name, _learner(replace(case, seeds=2, samples=64), arguments, "plain"))
            turns[name, case] = _Turn(peers.stepper(name, learner, case.batch), threads)
    main = turns[kind, cases[0]]
    beside: dict[str, _Turn] = {}
    if threads < arguments.threads:
        beside["all cores"] = _Turn(main.step, arguments.threads)
    if others:
        beside["a process each"] = _Turn(lambda: _together(barrier, main.step), 1)
    # A few steps of the baseline are enough for its median.
    beside["baseline"] = _Turn(_baseline(cases[0], learner, device), threads, 3)
    if device.type == "cpu" and build.unavailable() is None:
        beside["peak"] = _Turn(lambda: _burst(threads), threads)
    _take_turns([*turns.values(), *beside.values()], main, arguments.seconds, device)
    # The best of the bursts: the others were disturbed, and a share of them would be one of what the machine left.
    flops = _burst(threads) / (min(beside["peak"].clock) * 1e-3) if "peak" in beside else limits.flops
    middle, bottom, top = beside["baseline"].ms(1)
    rows = []
    for (who, case), turn in turns.items():
        needed, traffic = least_work(case)
        ms, low, high = turn.ms(case.seeds)
        rows.append(
            Row(
                kind=who,
                **asdict(case),
                threads=threads,
                baseline_ms=middle,
                baseline_low=bottom,
                baseline_high=top,
                ms=ms,
                low=low,
                high=high,
                baseline_cpu_ms=statistics.median(beside["baseline"].cpu),
                cpu_ms=statistics.median(turn.cpu) / case.seeds,
                baseline_memory_mb=math.nan,
                memory_mb=math.nan,
                of_compute=needed / flops / (ms * 1e-3),
                of_bandwidth=traffic / limits.bandwidth / (ms * 1e-3),
                all_cores=_median_ratio(main.clock, beside.get("all cores")),
                a_process_each=(others + 1) * MEETING * _median_ratio(main.clock, beside.get("a process each")),
                first_seconds=math.nan if who == kind else turn.first_seconds,
            )
        )
    return rows


def _take_turns(turns: list[_Turn], main: _Turn, seconds: float, device: torch.device) -> None:
    """Measures all in turn, for so many seconds each and until the main one has had five turns."""
    for turn in turns:
        torch.set_num_threads(turn.threads)
        started = time.perf_counter()
        turn.step()  # what is compiled or loaded at first use is not counted
        turn.first_seconds = time.perf_counter() - started
    end = time.perf_counter() + seconds * len(turns)
    while len(main.clock) < 5 or time.perf_counter() < end:
        for turn in turns:
            if torch.get_num_threads() != turn.threads:
                torch.set_num_threads(turn.threads)
                turn.step()  # wakes the threads
            for _ in range(turn.repeats):
                wait(device)
                started, used = time.perf_counter(), time.process_time()
                turn.step()
                wait(device)
                turn.clock.append((time.perf_counter() - started) * 1e3)
                turn.cpu.append((time.process_time() - used) * 1e3)


BURST = 400_000
"""Rounds of multiply-adds: about a millisecond."""


def _burst(threads: int) -> float:
    """Computes as fast as the machine can; returns the number of operations."""
    return float(build.kernels().ebm_peak(BURST, threads))


def _memory(arguments: argparse.Namespace, case: Case, threads: int) -> float:
    """What training takes at most beyond what the process holds before, in MB."""
    torch.set_num_threads(threads)
    device = torch.device(arguments.device)
    _ours(replace(case, seeds=1, samples=16), arguments)[0]()  # libraries that are loaded at first use are not counted
    step, _ = _ours(case, arguments)
    before = _peak_mb(device)
    step()
    return _peak_mb(device) - before


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


def _median_ratio(times: list[float], others: _Turn | None) -> float:
    """Of what was measured in turn, so that a machine whose speed changes counts the same in both, if it was."""
    if others is None:
        return math.nan
    return statistics.median(time / other for time, other in zip(times, others.clock, strict=True))


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


def _measure_limits(arguments: argparse.Namespace) -> Limits:
    """Peak rates: multiply-adds in registers (on a GPU a large float32 matrix product), and a large copy."""
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("highest")
    on_cpu = device.type == "cpu"
    size = 1024 if on_cpu else 8192
    a = torch.rand(size, size, device=device)
    copied = torch.rand(2**25 if on_cpu else 2**28, device=device)
    target = torch.empty_like(copied)
    in_registers = on_cpu and build.unavailable() is None
    works: list[Callable[[], Any]] = [
        (lambda: _burst(arguments.threads)) if in_registers else (lambda: a @ a),
        lambda: target.copy_(copied),
    ]
    best = [math.inf, math.inf]
    for _ in range(20):
        for place, work in enumerate(works):
            for _ in range(2):  # the first wakes the threads
                wait(device)
                started = time.perf_counter()
                work()
                wait(device)
                seconds = time.perf_counter() - started
            best[place] = min(best[place], seconds)
    operations = _burst(arguments.threads) if in_registers else 2.0 * size**3
    return Limits(operations / best[0], 2 * copied.numel() * 4 / best[1])


def limits_line(limits: Limits) -> str:
    """The machine's limits in words."""
    return (
        f"Limits measured before: {limits.flops / 1e9:.0f} Gflop/s (float32 multiply-adds; on a GPU a matrix product), "
        f"{limits.bandwidth / 1e9:.1f} GB/s (copy)."
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

_HEAD = "who       method    S     M      B    threads  baseline ms   ms      times faster (per cpu s)  MB     of peak"


def _line(row: Row) -> str:
    return (
        f"{row.kind:9} {row.method:9} {row.seeds:<5} {row.samples:<6} {row.batch:<4} {row.threads:<8} "
        f"{row.baseline_ms:<13.2f} {row.ms:<7.3f} {row.ratio:<7.1f} ({row.cpu_ratio:.1f}){'':11} "
        f"{row.memory_mb:<6.0f} {row.of_compute:.0%}"
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
        save_png(figure(pd.DataFrame([asdict(row) for row in rows]), name), arguments.out)


def markdown(
    rows: list[Row], limits: Limits, arguments: argparse.Namespace, argv: list[str], measured_at: str | None
) -> str:
    """The table, with what is needed to measure it again."""
    lines = [
        "# Speed of 1D training",
        "",
        f"    {shlex.join(['python', '-m', 'benchmarks', *argv])}",
        "",
        f"{_machine(arguments.device)}; {arguments.threads} CPU threads; torch {torch.__version__}; "
        f"commit {measured_at}; {now()}; load average {os.getloadavg()[1]:.1f} "
        "(above the number of threads it would mean other work beside, and times too long, ours and the baseline's).",
        limits_line(limits),
        "",
        "Milliseconds are per model and step, by the clock: the median, and the quartiles in brackets. The *baseline*",
        "trains one model at a time; it is measured once for a method, in turn with all that stands beside it.",
        "*Faster* is its time over this one, by the clock and per second of processor time. *Of peak* is the least",
        "time for the operations of a step (a tanh counted as 18) at the best rate of multiply-adds met in the same",
        "minute, over the time taken; *of bandwidth* the same for the bytes that must be moved. Memory is what",
        "training takes at most beyond what the process holds before. *All cores* is how many times faster the same",
        "steps are with all threads than with one, in turn; *a process each* how many times as many are made by a",
        "process for each core, one thread each, as a sweep runs them.",
        "",
        "| | method | S | threads | baseline ms | ms | models·steps/s | faster | faster per cpu second "
        "| baseline MB | MB | of peak | of bandwidth | all cores | a process each |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        if row.kind in ("table", "one core"):
            cells = [row.kind, row.method, row.seeds, row.threads, _spread(row, "baseline_"), _spread(row)]
            cells += [f"{row.models_steps_per_second:.0f}", f"{row.ratio:.1f}", f"{row.cpu_ratio:.1f}"]
            cells += [f"{row.baseline_memory_mb:.0f}", f"{row.memory_mb:.0f}"]
            cells += [f"{row.of_compute:.0%}", f"{row.of_bandwidth:.1%}"]
            cells += ["" if math.isnan(gain) else f"{gain:.2f}" for gain in (row.all_cores, row.a_process_each)]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", paper_table(rows), *_peer_lines(rows), ""]
    return "\n".join(lines)


def _spread(row: Row, of: str = "") -> str:
    """The median and the quartiles."""
    middle, low, high = (getattr(row, of + name) for name in ("ms", "low", "high"))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def _peer_lines(rows: list[Row]) -> list[str]:
    """The table of the peers, if they were measured."""
    if not any(row.kind in peers.LIBRARIES for row in rows):
        return []
    lines = [
        "",
        "## Peers",
        "",
        "The same step of S models by JAX (`jit` and `vmap`) and by `torch.compile` and `torch.func.vmap`, in the same",
        "rounds (benchmarks/peers.py). Losses and gradients were held to ours to 1e-5 before. *Compiles* is the",
        f"first step; *a run* is it and the {PAPER_STEPS} steps of a published run of S models, without evaluation.",
        "",
        "| method | S | who | ms | times ours | of peak | compiles, s | a run, s |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    ours = {(row.method, row.seeds): row for row in rows if row.kind == "table"}
    for row in sorted(rows, key=lambda row: (row.method, row.seeds)):
        beside = ours.get((row.method, row.seeds))
        if beside is None or row.kind not in ("table", *peers.LIBRARIES) or not peers.has(row.method):
            continue
        compiles = 0.0 if math.isnan(row.first_seconds) else row.first_seconds
        cells = [row.method, row.seeds, "ebmbench" if row is beside else row.kind, _spread(row)]
        cells += [f"{row.ms / beside.ms:.1f}", f"{row.of_compute:.0%}", f"{compiles:.0f}" if compiles else ""]
        cells.append(f"{compiles + PAPER_STEPS * row.seeds * row.ms / 1e3:.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


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


def figure(rows: pd.DataFrame, name: str) -> Figure:
    """Returns what a step of nce+ takes against S, M and the batch size, beside the textbook's for as many models.

    Args:
        rows: of `one_d.csv`.
    """
    rows = rows[rows["kind"].isin(CURVES)]
    ours, textbook = rows["ms"] * rows["seeds"], rows["baseline_ms"] * rows["seeds"]
    limit = ours * rows[["of_compute", "of_bandwidth"]].max(axis=1)
    lines = rows[["kind", *CURVES]].assign(ours=ours, textbook=textbook, limit=limit)
    scale = Scale.of(pd.concat([ours, textbook, limit]))
    assert scale is not None
    panels = [
        Panel(title, partial(_curve, lines[lines["kind"] == kind], kind, scale)) for kind, title in CURVES.items()
    ]
    return Figure(name, "Time of a step", "", tuple(panels), lines, columns=3)


CURVES = {
    "seeds": "S, models trained together (M = 1024, B = 32)",
    "samples": "M, samples (S = 20, B = 32)",
    "batch": "B, examples in a batch (S = 20, M = 1024)",
}
"""What is varied: a column of the table, and its title."""


def _curve(lines: pd.DataFrame, kind: str, scale: Scale, axes: Axes) -> None:
    shown = (
        ("textbook", "textbook, one by one", palette.BASE_COLOR, "s-"),
        ("ours", "ebmbench", palette.color("nce+"), f"{palette.marker('nce+')}-"),
        ("limit", "limit of the machine", palette.TRUTH_COLOR, ":"),
    )
    for column, label, color, look in shown:
        axes.plot(lines[kind], lines[column], look, color=color, label=label)
    log_axis(axes, "x")
    scale.apply(axes, "y")
    if kind == "seeds":
        axes.set_ylabel("ms for all models, nce+")
        axes.legend(frameon=False)
