"""The table that a run ends with on the terminal."""

from __future__ import annotations

import math
import statistics

from ebmbench import runs
from ebmbench.config import RunConfig
from ebmbench.execute import Outcome

HIDDEN = (
    "seed", "diverged", "diverged_step", "trusted", "peak_memory_mb", "energy_evaluations", "underflows",
    "underflow_step",
)  # fmt: skip


def summary(outcome: Outcome, config: RunConfig) -> str:
    """Mean, standard deviation and range of each metric over the seeds, and where the files are."""
    rows = runs.read_metrics(outcome.run_dir)
    good = [row for row in rows if row["diverged"] == "0"]
    lines = []
    if outcome.existed:
        lines.append("This result exists already (force=true makes it anew).")
    lines.append(f"{config.method.name} on {config.label}, {len(rows)} seed{'s' * (len(rows) > 1)}")
    many = len(good) > 1
    lines.append(f"  {'metric':<18}{'mean':>12}" + (f"{'std':>12}{'min':>12}{'max':>12}" if many else ""))
    for name in rows[0]:
        if name in HIDDEN or (name.endswith("_noisy") and not getattr(config.task, "target_noise", 0)):
            continue
        values = [float(row[name]) for row in good if row[name] not in ("", "nan")]
        if not values:
            continue
        numbers = [statistics.fmean(values)]
        if many:
            numbers += [statistics.stdev(values) if len(values) > 1 else math.nan, min(values), max(values)]
        lines.append(f"  {name:<18}" + "".join(f"{number:>12.4g}" for number in numbers))
    diverged = {row["seed"]: row["diverged_step"] for row in rows if row["diverged"] == "1"}
    if diverged:
        steps = ", ".join(f"seed {seed} at step {step}" for seed, step in diverged.items())
        lines.append(f"  diverged: {len(diverged)} of {len(rows)} seeds ({steps}); they are not in the means")
    doubtful = [row["seed"] for row in good if row["trusted"] == "0"]
    if doubtful:
        lines.append(
            f"  not to be trusted: seed {', '.join(doubtful)} (mass near the edge of the grid, or a quadrature error)"
        )
    for row in rows:
        if row.get("underflows", "0") not in ("", "0"):
            lines.append(
                f"  seed {row['seed']}: the importance weights of {row['underflows']} examples underflowed, first at "
                f"step {row['underflow_step']}; a larger method.num_samples or narrower proposal.stds avoids it"
            )
    lines.append(f"files: {outcome.run_dir}")
    return "\n".join(lines)
