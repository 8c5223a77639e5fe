"""The soak test: kill -9 at random moments over a sweep of all methods; nothing may be lost, double or different.

    python -m tests.soak --kills 100

A sweep is carried out once undisturbed, and once by processes that are killed; when that one is done before enough of
them were, it is carried out again with force=true, which must leave the results of the round before untouched until its
own are whole. A round ends with one more start of every run, for a kill just after a run became whole leaves files that
are no longer needed. Then each run directory must hold the files of an undisturbed run and nothing else, and every
result must be the same, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ebmbench.config.compose import compose_all
from ebmbench.config.run import RunConfig
from ebmbench.engine import runs
from ebmbench.engine.execute import execute
from tests.comparison import WHOLE, differences
from tests.processes import CONTEXT, PAPER, silence, small

SLICES = ((0.7, 1.0), (0.3, 6.0))
"""Processor seconds until a kill: uniform up to 1 mostly, to hit starts and training; else up to 6, to get on."""


@dataclass
class Report:
    """What a soak did."""

    kills: int = 0
    rounds: int = 0
    resumes: int = 0
    """Runs that went on from a checkpoint of a killed process."""
    kills_in: dict[str, int] | None = None
    """Kills by what was under way: training, finishing (evaluation to figures), between (starting, or between runs)."""
    results_compared: int = 0
    differences: int = 0
    leftovers: int = 0
    seconds: float = 0.0


def soak(kills: int, methods: list[str], folder: Path, epochs: int = 120, seed: int = 0) -> Report:
    """Carries it out in an empty folder."""
    started = time.monotonic()
    chance = random.Random(seed)
    quiet, disturbed = folder / "quiet", folder / "disturbed"
    lines = [small(method, f"trainer.epochs={epochs}", "checkpoint_seconds=0.05") for method in methods]
    expected = compose_all([[*line, f"results_dir={quiet}"] for line in lines])
    configs = compose_all([[*line, f"results_dir={disturbed}"] for line in lines])
    process = _start(expected, 1, folder / "log")
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()
    report = Report(kills_in={"training": 0, "finishing": 0, "between": 0})
    assert report.kills_in is not None
    while report.kills < kills:
        report.rounds += 1
        while not all(_is_done(config, report.rounds) for config in configs):
            report.resumes += sum(bool(list(_work_dir(c, report.rounds).glob("*.ckpt"))) for c in configs)
            process = _start(configs, report.rounds, folder / "log")
            if report.kills < kills:
                [(_, longest)] = chance.choices(SLICES, [share for share, _ in SLICES])
                if _kill_after(process, chance.uniform(0, longest)):
                    report.kills += 1
                    report.kills_in[_under_way(configs, report.rounds)] += 1
            process.join()
            assert process.exitcode in (0, -9), (folder / "log").read_text()
        for config, other in zip(configs, expected, strict=True):
            assert execute(config, quiet=True).existed
            report.results_compared += 1
            report.differences += bool(differences(config.run_dir, other.run_dir))
            report.leftovers += {path.name for path in config.run_dir.iterdir()} != WHOLE
        report.leftovers += len(list((disturbed / "runs").iterdir())) != len(configs)
    report.seconds = round(time.monotonic() - started, 1)
    return report


def _start(configs: list[RunConfig], attempt: int, log: Path) -> Any:
    process = CONTEXT.Process(target=_sweep, args=([c.to_dict() for c in configs], attempt, str(log)))
    process.start()
    return process


def _sweep(configs: list[dict[str, Any]], attempt: int, log: str) -> None:
    """A worker: carries out what is not done yet."""
    silence(log)
    for raw in configs:
        config = RunConfig.from_dict(raw)
        if not _is_done(config, attempt):
            execute(config.replace(force=attempt > 1), quiet=True)


def _is_done(config: RunConfig, attempt: int) -> bool:
    status = runs.read_status(config.run_dir)
    done = status is not None and status.state == "done" and status.attempt == attempt
    return done and not runs.is_promotion_pending(config.run_dir)


def _work_dir(config: RunConfig, attempt: int) -> Path:
    return config.run_dir / "attempt" if attempt > 1 else config.run_dir


def _under_way(configs: list[RunConfig], attempt: int) -> str:
    for config in configs:
        if not _is_done(config, attempt):
            folder = _work_dir(config, attempt)
            if (folder / "part.0.ckpt").exists() or runs.is_promotion_pending(config.run_dir):
                return "finishing"
            return "training" if (folder / "training.0.ckpt").exists() else "between"
    return "between"


def _kill_after(process: Any, seconds: float) -> bool:
    """Kills when it has used so much processor time (a busy machine changes nothing); False if it ended before."""
    while process.is_alive():
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            break
        if (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") >= seconds:
            process.kill()
            process.join()
            return process.exitcode == -9
        time.sleep(0.002)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ebmbench-soak-"))
    report = soak(options.kills, list(PAPER), folder, seed=options.seed)
    print(json.dumps(asdict(report), indent=1))
    if report.differences or report.leftovers:
        print(f"what differs is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
