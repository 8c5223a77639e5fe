"""The tables of a detection run, of all its seeds: scores by stage and step, matched detections, the joint gain.

stages.csv       all metrics of the base's boxes, those after NMS by f, and the refined ones, by seed
refinement.csv   AP by refinement step and seed, with the interval of its gain on the base
examples.*       a row for each detection of each image, matched or not at each IoU threshold (`evaluation.as_tables`);
                 stages base, nms, refined, and reported where the head was refused
images.*         the boxes that are to be found in each image, by category
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ebmbench.boxes.comparison import joint_bootstrap
from ebmbench.tasks.detection.config import InferenceConfig
from ebmbench.tasks.detection.evaluation import GAINS, Evaluation, from_tables
from ebmbench.tasks.examples import example_file, join_seeds, read_examples, write_examples


def join(run_dir: Path, seeds: Sequence[int], options: InferenceConfig) -> Mapping[str, float]:
    """Puts together what the seeds of a run wrote; returns the gain of their mean, its interval over images and seeds.

    It can be done again after a kill at any moment.
    """
    for name in ("refinement", "stages"):
        join_seeds(run_dir, name, seeds)
    files = [example_file(run_dir, f"examples.{seed}") for seed in seeds]
    if all(files):
        write_examples(run_dir, pd.concat([read_examples(run_dir, f"examples.{seed}") for seed in seeds]))
        for file in files:
            assert file is not None
            file.unlink()
    base, heads = group(run_dir)
    if not heads:
        return {}
    found = joint_bootstrap([([base], list(heads.values()))], GAINS, options.bootstrap if len(heads) > 1 else 0)
    row: dict[str, float] = {}
    for name, gain in found.items():
        row |= gain.columns(f"mean_{name}_gain") if len(heads) > 1 else {f"mean_{name}_gain": gain.value}
    return row


def group(run_dir: Path) -> tuple[Evaluation, dict[int, Evaluation]]:
    """Returns the evaluation of the base of a run, and of what each seed that did not diverge reports, by seed."""
    found = from_tables(read_examples(run_dir), read_examples(run_dir, "images"))
    base = next(evaluation for (_, stage), evaluation in found.items() if stage == "base")
    seeds = [seed for seed, stage in found if stage == "refined"]
    return base, {seed: found.get((seed, "reported"), found[seed, "refined"]) for seed in seeds}
