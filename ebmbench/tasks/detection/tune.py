"""Chooses each method's settings on the validation split, with the same number of trials for every method.

    python -m ebmbench.tasks.detection.tune                # all methods
    python -m ebmbench.tasks.detection.tune nce+ dsm --override task/data=bccd --override task.data.root=/data/bccd

A trial trains a head of seed 0 for fewer iterations than a run, and scores it on the first validation images after NMS
in the order of f and after refinement with each of the step lengths. What won is in conf/settings.yaml.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from ebmbench.composition import compose
from ebmbench.tasks.detection import scoring
from ebmbench.tasks.detection.config import DetectionTask
from ebmbench.tasks.detection.evaluation import Detection, evaluate
from ebmbench.tasks.detection.problem import DetectionProblem, build
from ebmbench.train import train

_NARROW, _WIDE = "proposal.stds=[0.0375,0.075,0.15]", "proposal.stds=[0.075,0.15,0.3]"
_SLOW, _FAST = "trainer.learning_rate=0.0005", "trainer.learning_rate=0.002"
_RELU, _SMOOTH = "task.head.activation=relu", "task.head.activation=silu"
_SCALES_AND_RATES = [[_NARROW, _SLOW], [_NARROW, _FAST], [_WIDE, _SLOW], [_WIDE, _FAST]]
TRIALS: dict[str, list[list[str]]] = {
    "nce+": _SCALES_AND_RATES,
    "nce": _SCALES_AND_RATES,
    "ml-is": _SCALES_AND_RATES,
    "kld-is": _SCALES_AND_RATES,
    "ml-mcmc": [[f"noise.langevin_step={step}", rate] for step in (0.01, 0.03) for rate in (_SLOW, _FAST)],
    "dsm": [[f"noise.sigma={sigma}", activation] for sigma in (0.05, 0.1) for activation in (_RELU, _SMOOTH)],
    "sm": [[rate, activation] for rate in ("trainer.learning_rate=0.0001", _SLOW) for activation in (_RELU, _SMOOTH)],
}
"""Four trials each: a method's own scale where it has one, and what else matters most to it."""
STEPS = ((1e-3, 1e-3), (4e-3, 4e-3), (1.6e-2, 1.6e-2))
"""First step lengths of the refinement (centre, size), tried on every trained head."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ebmbench.tasks.detection.tune", description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(TRIALS), help="which methods (all)")
    parser.add_argument("--iterations", type=int, default=250, help="training iterations of a trial (250)")
    parser.add_argument("--images", type=int, default=80, help="validation images that score it (80)")
    parser.add_argument("--csv", type=Path, default=Path("results/shapes/tuning.csv"), help="the table of all trials")
    parser.add_argument("--override", action="append", default=[], help="a further setting, such as task/data=bccd")
    options = parser.parse_args(argv)
    for method in options.methods or list(TRIALS):
        for trial in TRIALS[method]:
            rows = try_out(method, trial, options.iterations, options.images, options.override)
            for row in rows:
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(options.csv, mode="a", header=not options.csv.exists(), index=False)


def try_out(
    method: str, trial: Sequence[str], iterations: int, images: int, overrides: Sequence[str]
) -> list[dict[str, object]]:
    """Trains one trial; a row of scores for NMS alone and for each of STEPS."""
    settings = ["task=detection", f"method={method}", "task.data.eval_split=val", f"trainer.iterations={iterations}"]
    config = compose([*settings, *trial, *overrides])
    assert isinstance(config.task, DetectionTask)
    problem = build(config, (0,), torch.device("cpu"))
    started = time.process_time()
    progress = train(problem)
    seconds = time.process_time() - started
    fixed = {"method": method, "trial": " ".join(trial), "iterations": iterations, "cpu_seconds": round(seconds, 1)}
    if not bool(progress.alive.all()):
        return [{**fixed, "stage": "diverged", "step_centre": "", "step_size": "", "ap": "", "ap75": ""}]
    return [{**fixed, **row} for row in score(problem, config.task, images)]


def score(problem: DetectionProblem, task: DetectionTask, images: int) -> list[dict[str, object]]:
    """AP of NMS alone (step length 0) and of refinement with each of STEPS, on the first images."""
    store = problem.frozen.scored
    truth = store.dataset.ground_truth()
    rows: list[dict[str, object]] = []

    def add(stage: str, centre: float | str, size: float | str, detections: list[Detection]) -> None:
        metrics = evaluate(truth, detections, found.image_ids).metrics
        values = {name: round(metrics[name], 2) for name in ("ap", "ap75")}
        rows.append({"stage": stage, "step_centre": centre, "step_size": size, **values})

    last = task.inference.steps
    for number, (centre, size) in enumerate(STEPS):
        inference = task.inference.model_copy(update={"step_centre": centre, "step_size": size})
        attempt = task.model_copy(update={"inference": inference})
        found = scoring.detect_all(attempt, store, problem.head, [0, last], images)
        if number == 0:
            add("base", "", "", found.base)
            add("nms", "", "", found.after[0])
        add("refined", centre, size, found.after[last])
    return rows


if __name__ == "__main__":
    main()
