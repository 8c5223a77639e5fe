"""Made run directories of the real layout, for tests of what reads them: real configurations, made-up numbers.

python -m tests.report.made_runs FOLDER [--m-sweep] [--detection]     # to look at a page without training
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.engine.runs import Status
from ebmbench.system.seal import encode as sealed_json
from tests.sweep.made import seal

METHODS_1D = ("nce+", "nce", "ml-is", "kld-is", "ml-mcmc", "dsm", "sm")
_BLUR = {"nce+": 1.0, "nce": 1.2, "ml-is": 1.1, "kld-is": 1.5, "ml-mcmc": 2.5, "dsm": 4.0, "sm": 9.0}
_COST = {"nce+": 1.0, "nce": 1.0, "ml-is": 1.0, "kld-is": 1.05, "ml-mcmc": 14.0, "dsm": 3.0, "sm": 0.1}


def true_density(dataset: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[X, Y]: The two datasets of docs/data.md on a grid, normalised over it."""

    def normal(mean: np.ndarray, std: np.ndarray | float) -> np.ndarray:
        return np.exp(-0.5 * ((y[None] - mean[:, None]) / std) ** 2) / std

    if dataset == "2":
        density = normal(np.sin(x), (0.15 / (1 + np.exp(-x)))[:, None])
    else:
        left = 0.8 * normal(np.sin(x), 0.075) + 0.2 * normal(-np.sin(x), 0.075)
        z = np.maximum(y + 1, 1e-9)
        right = np.exp(-0.5 * (np.log(z) / 0.25) ** 2) / (0.25 * z)
        density = np.where(x[:, None] < 0, left, right[None])
    return density / (density.sum(1, keepdims=True) * (y[1] - y[0]))


def _blurred(density: np.ndarray, width: float) -> np.ndarray:
    half = math.ceil(4 * width)
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / width) ** 2)
    kernel /= kernel.sum()
    return np.stack([np.convolve(row, kernel, mode="same") for row in density])


def _write(folder: Path, config: RunConfig, **status: Any) -> None:
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    origin = {"state": "done", "commit": "0123abc", "host": "node1", "started": "2026-01-02T03:04:05+00:00"}
    full = Status.of(config, **{**origin, **status})
    (folder / "status.json").write_bytes(sealed_json(asdict(full)))
    (folder / "checkpoint.pt").write_bytes(b"made up")
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "torch": "2.14", "device": "cpu"}))


def make_1d(config: RunConfig, state: str = "done", diverged: tuple[int, ...] = (), error: str | None = None) -> Path:
    """One 1D run directory; `diverged` seeds have no numbers, as execute writes them."""
    folder = config.run_dir
    method, dataset = config.method.name, config.task.dataset_name
    rng = np.random.default_rng(int(config.config_hash, 16) % 2**32)
    samples = getattr(config.method, "num_samples", 1024)
    epochs, per_epoch = 75, 63
    _write(
        folder,
        config,
        state=state,
        step=epochs * per_epoch if state == "done" else 100,
        num_steps=epochs * per_epoch,
        diverged={str(seed): 812 for seed in diverged},
        error=error,
    )
    if state == "failed":
        return folder
    x, y = np.linspace(-3, 3, 64), np.linspace(-3, 3, 256)
    dy = y[1] - y[0]
    true = true_density(dataset, x, y)
    models, metrics, calibration, history = [], [], [], []
    for seed in config.seeds:
        width = _BLUR[method] * float(rng.lognormal(0.0, 0.25)) * (1 + 6 / math.sqrt(samples))
        model = _blurred(true, width)
        model /= model.sum(1, keepdims=True) * dy
        models.append(model)
        d_kl = float((true * np.log((true + 1e-30) / (model + 1e-30))).sum(1).mean() * dy)
        bad = seed in diverged
        row: dict[str, Any] = {
            "seed": seed,
            "d_kl": d_kl,
            "nll": 0.1 + d_kl,
            "nll_error": 1e-6,
            "val_nll": 0.1 + d_kl + rng.normal(0, 0.01),
            "crps": 0.1 + 0.1 * d_kl,
            "coverage_50": 0.5 + 0.05 * width / 4,
            "coverage_90": 0.9 + 0.01 * width / 4,
            "edge_mass": 1e-6 * width,
            "d_kl_noisy": d_kl,
            "nll_noisy": 0.1 + d_kl,
        }
        if bad:
            row = {key: (value if key == "seed" else math.nan) for key, value in row.items()}
        row |= {
            "diverged": int(bad),
            "diverged_step": 812 if bad else "",
            "trusted": int(not bad and seed != 1),
            "train_seconds": _COST[method] * samples / 100 * float(rng.lognormal(0, 0.02)),
            "energy_evaluations": int(4725 * 32 * max(1, samples) * _COST[method]),
            "peak_memory_mb": 300.0,
        }
        metrics.append(row)
        for level in np.linspace(0.05, 0.95, 19):
            cover = level + 0.04 * width * level * (1 - level) + rng.normal(0, 0.003)
            calibration.append({"seed": seed, "level": round(float(level), 2), "coverage": cover})
        for epoch in range(1, epochs + 1):
            if bad and epoch * per_epoch > 812:
                break
            loss = 7 * math.exp(-epoch / 6) + d_kl + rng.normal(0, 0.02)
            if bad and epoch * per_epoch > 700:
                loss = math.nan
            history.append(
                {
                    "step": epoch * per_epoch,
                    "epoch": epoch,
                    "seed": seed,
                    "loss": loss,
                    "grad_norm": abs(rng.normal()),
                    "seconds": epoch * 0.3,
                }
            )
    if state == "done":
        pd.DataFrame(metrics).to_csv(folder / "metrics.csv", index=False)
        pd.DataFrame(calibration).to_csv(folder / "calibration.csv", index=False)
        stacked = np.stack(models).astype(np.float16)
        np.savez_compressed(folder / "densities.npz", x=x, y=y, true=true, model=stacked, seeds=np.array(config.seeds))
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    seal(folder)
    return folder


def paper_sweep(results: Path, seeds: int = 20, name: str = "paper_1d") -> list[Path]:
    """The paper's 1D table: 7 methods, 2 datasets; one seed of sm diverges, one job of ml-mcmc failed."""
    folders = []
    for dataset in (1, 2):
        for method in METHODS_1D:
            config = _compose(results, name, "task=1d", f"method={method}", f"data=law{dataset}", f"seeds={seeds}")
            failed = method == "ml-mcmc" and dataset == 2
            folders.append(
                make_1d(
                    config,
                    state="failed" if failed else "done",
                    diverged=(2,) if method == "sm" and dataset == 1 else (),
                    error="RuntimeError: <script>alert('error')</script> CUDA out of memory" if failed else None,
                )
            )
    return folders


def m_sweep(results: Path, seeds: int = 5, name: str = "num_samples") -> list[Path]:
    """M from 1 to 1024 for the sampling methods."""
    folders = []
    for method in ("nce+", "nce", "ml-is", "kld-is"):
        raw = _compose(results, name, "task=1d", f"method={method}", f"seeds={seeds}").to_dict()
        for samples in (1, 4, 16, 64, 256, 1024):
            raw["method"]["num_samples"] = samples
            folders.append(make_1d(RunConfig.from_dict(raw)))
    return folders


def _compose(results: Path, sweep: str, *overrides: str) -> RunConfig:
    return compose([*overrides, f"results_dir={results}", f"+sweep={{name: {sweep}}}"])


def detection_runs(results: Path, seeds: int = 3, name: str = "shapes") -> list[Path]:
    """Three methods on shapes, each seed with its three steps: base, f-ordered NMS, refined."""
    from PIL import Image, ImageDraw

    folders = []
    for index, method in enumerate(("nce+", "dsm", "sm")):
        config = _compose(results, name, "task=detection", f"method={method}", f"seeds={seeds}")
        folder = config.run_dir
        _write(folder, config, step=400, num_steps=400)
        rng = np.random.default_rng(index)
        metrics, history = [], []
        for seed in config.seeds:
            gain = 3.6 - 0.9 * index + rng.normal(0, 0.2)
            nms = 48.6 + 0.4 * gain
            row = {
                "seed": seed,
                "ap": 48.6 + gain,
                "ap50": 71.5,
                "ap75": 57.8 + 1.4 * gain,
                "ap_small": 30 + gain,
                "ap_medium": 55 + gain,
                "ap_large": 62 + gain,
                "ar": 60.0,
                "base_ap": 48.6,
                "base_ap50": 71.1,
                "base_ap75": 57.8,
                "nms_ap": nms,
                "nms_ap75": 57.8 + 0.5 * gain,
                "ap_gain": gain,
                "ap_gain_low": gain - 0.4,
                "ap_gain_high": gain + 0.4,
                "box_nll": -9 - gain,
                "box_nll_ess": 300.0,
                "diverged": 0,
                "diverged_step": "",
                "trusted": 1,
                "train_seconds": 60.0 * (1 + index),
                "energy_evaluations": 10**7 * (1 + index),
                "peak_memory_mb": 900.0,
            }
            metrics.append(row)
            history += [
                {"step": s, "epoch": s // 100, "seed": seed, "loss": 5 * math.exp(-s / 90) + rng.normal(0, 0.05)}
                | {"grad_norm": 1.0, "seconds": s * 0.1}
                for s in range(20, 401, 20)
            ]
        pd.DataFrame(metrics).to_csv(folder / "metrics.csv", index=False)
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
        image = Image.fromarray(rng.integers(60, 120, (128, 256, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(image)
        draw.rectangle((20, 30, 80, 90), outline="#56B4E9", width=2)
        draw.rectangle((24, 33, 84, 96), outline="#D55E00", width=2)
        image.save(folder / "figures" / "boxes.png")
        seal(folder)
        folders.append(folder)
    return folders


if __name__ == "__main__":
    target = Path(sys.argv[1])
    paper_sweep(target)
    if "--m-sweep" in sys.argv:
        m_sweep(target)
    if "--detection" in sys.argv:
        detection_runs(target)
