"""Chooses each method's settings on the validation split, with the same number of trials for every method.

    python -m ebmbench.tasks.detection.tune                          # all methods
    python -m ebmbench.tasks.detection.tune nce+ dsm --csv tuning.csv --override task.base.iterations=1400

A trial trains a head of seed 0 for fewer iterations than a run, and scores it on the first validation images after NMS in the
order of f and after refinement with each of the step lengths. The settings that won are in conf/settings.yaml.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from ebmbench.config import compose
from ebmbench.tasks.detection import scoring
from ebmbench.tasks.detection.config import DetectionTask
from ebmbench.tasks.detection.evaluation import evaluate
from ebmbench.tasks.detection.problem import DetectionProblem, build
from ebmbench.train import train

_NARROW, _WIDE = "proposal.stds=[0.0375,0.075,0.15]", "proposal.stds=[0.075,0.15,0.3]"
_SLOW, _FAST = "trainer.learning_rate=0.01", "trainer.learning_rate=0.03"
TRIALS: dict[str, list[list[str]]] = {
    "nce+": [[_NARROW, _SLOW], [_NARROW, _FAST], [_WIDE, _SLOW], [_WIDE, _FAST]],
    "nce": [[_NARROW, _SLOW], [_NARROW, _FAST], [_WIDE, _SLOW], [_WIDE, _FAST]],
    "ml-is": [[_NARROW, _SLOW], [_NARROW, _FAST], [_WIDE, _SLOW], [_WIDE, _FAST]],
    "kld-is": [[_NARROW, _SLOW], [_NARROW, _FAST], [_WIDE, _SLOW], [_WIDE, _FAST]],
    "ml-mcmc": [[f"noise.langevin_step={step}", rate] for step in (0.01, 0.05) for rate in ("trainer.learning_rate=0.003", _SLOW)],
    "dsm": [[f"noise.sigma={sigma}", f"task.head.activation={act}"] for sigma in (0.05, 0.1) for act in ("relu", "silu")],
    "sm": [["trainer.learning_rate=" + rate, f"task.head.activation={act}"] for rate in ("0.001", "0.01") for act in ("relu", "silu")],
}  # fmt: skip
"""Four trials each; a method's own scale where it has one, else the learning rate and what matters most to it."""
STEPS = ((1e-3, 2e-3), (4e-3, 8e-3), (1.6e-2, 3.2e-2))
"""First step lengths of the refinement (centre, size), tried on every trained head."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ebmbench.tasks.detection.tune", description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(TRIALS), help="which methods (all)")
    parser.add_argument("--iterations", type=int, default=200, help="training iterations of a trial (200)")
    parser.add_argument("--images", type=int, default=150, help="validation images that score it (150)")
    parser.add_argument("--csv", type=Path, default=Path("results/tuning_shapes.csv"), help="the table of all trials")
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
        return [{**fixed, "step_centre": "", "step_size": "", "ap": "diverged", "ap75": ""}]
    scores = score(problem, config.task, images)
    return [{**fixed, **row} for row in scores]


def score(problem: DetectionProblem, task: DetectionTask, images: int) -> list[dict[str, object]]:
    """AP of NMS alone (step length 0) and of refinement with each of STEPS, on the first images."""
    store = problem.frozen.scored
    truth = store.dataset.ground_truth()
    rows: list[dict[str, object]] = []
    for number, (centre, size) in enumerate(STEPS):
        inference = task.inference.model_copy(update={"step_centre": centre, "step_size": size})
        found = scoring.detect_all(
            task.model_copy(update={"inference": inference}), store, problem.head, [0, task.inference.steps], images
        )
        lengths = ((0.0, 0.0, 0), (centre, size, task.inference.steps)) if number == 0 else ((centre, size, task.inference.steps),)
        for first, second, step in lengths:
            metrics = evaluate(truth, found.after[step], found.image_ids).metrics
            rows.append(
                {"step_centre": first, "step_size": second, "ap": round(metrics["ap"], 2), "ap75": round(metrics["ap75"], 2)}
            )
        if number == 0:
            base = evaluate(truth, found.base, found.image_ids).metrics
            rows.insert(0, {"step_centre": "base", "step_size": "base", "ap": round(base["ap"], 2), "ap75": round(base["ap75"], 2)})
    return rows


if __name__ == "__main__":
    main()
