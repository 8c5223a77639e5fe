"""1D regression: S models trained side by side on the same points, and how they are scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ebmbench import metrics, native
from ebmbench.config import RunConfig
from ebmbench.energy import Energy
from ebmbench.files import write_atomically
from ebmbench.methods import DSM, KLDIS, SM, Method
from ebmbench.rng import Streams
from ebmbench.tasks.one_d.config import OneDTask, OneDTrainer
from ebmbench.tasks.one_d.data import Y_HIGH, Y_LOW, Dataset
from ebmbench.tasks.one_d.figures import SLICES, figures
from ebmbench.tasks.one_d.network import Parameters, fused_energy, initial_parameters, plain_energy

__all__ = ["TARGET_DIM", "OneDProblem", "build", "figures", "finish", "split"]

TARGET_DIM = 1

EnergyFunction = Callable[[Parameters, Tensor], Energy]

CALIBRATION_LEVELS = [round(0.05 * k, 2) for k in range(1, 20)]
EDGE_MASS_LIMIT = 0.01
QUADRATURE_LIMIT = 1e-3


class OneDProblem:
    """Implements `train.Problem`.

    The parameters of all seeds lie in one tensor `flat` `[S, P]`, of which the layers' weights are views: one optimiser
    operation serves them all.
    """

    code_path = "plain"
    """Which implementation of the network computes, for the record; results agree within rounding."""

    def __init__(
        self,
        task: OneDTask,
        trainer: OneDTrainer,
        method: Method,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        energy: EnergyFunction = plain_energy,
    ) -> None:
        self.task, self.method, self.energy = task, method, energy
        self.seeds = tuple(seeds)
        self.device, self.dtype = torch.device(device), dtype
        self.dataset = Dataset.draw(task, device)
        self.x = self.dataset.train.x.to(dtype)
        self.y = self.dataset.train.y.to(dtype)
        self.batch_size = min(trainer.batch_size, task.num_train)
        self.steps_per_epoch = math.ceil(task.num_train / self.batch_size)
        self.num_steps = trainer.epochs * self.steps_per_epoch
        self.num_examples = trainer.epochs * task.num_train
        self.streams = Streams(self.seeds, device)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        weighted = isinstance(method, KLDIS)
        self.underflows = torch.zeros(len(self.seeds), dtype=torch.int64, device=device) if weighted else None

        initial = initial_parameters(self.seeds, dtype, device)
        flat = torch.cat([p.detach().flatten(1) for p in initial.values()], dim=1)
        flat.requires_grad_().grad = torch.zeros_like(flat)
        self.parameters = {"flat": flat}
        self._shapes = {name: p.shape[1:] for name, p in initial.items()}
        self.optimizer = torch.optim.Adam([flat], lr=trainer.learning_rate, capturable=self.device.type == "cuda")
        self.scheduler = None

    @property
    def layers(self) -> Parameters:
        """The layers' weights and biases, views of the one tensor through which gradients flow back to it."""
        parts = self.parameters["flat"].split([shape.numel() for shape in self._shapes.values()], dim=1)
        return {name: p.unflatten(1, shape) for (name, shape), p in zip(self._shapes.items(), parts, strict=True)}

    def batch(self, step: int) -> Tensor:
        """Indices of the training points of a step, `[S, B]`: each seed's epoch is its own permutation."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self.order(epoch))
        return self._order[1][:, place * self.batch_size : (place + 1) * self.batch_size]

    def order(self, epoch: int) -> Tensor:
        """Each seed's own permutation of the training points, `[S, N]`."""
        return self.streams.at(epoch).permutation("order", self.task.num_train)

    def losses(self, step: int) -> Tensor:
        return self.batch_losses(self.batch(step), step)

    def batch_losses(self, batch: Tensor, step: int | Tensor) -> Tensor:
        """Mean loss per seed of the training points `batch` `[S, B]`; the step's number may lie on the device."""
        f = self.energy(self.layers, self.x[batch])
        y, draws = self.y[batch].unsqueeze(-1), self.streams.at(step)
        if isinstance(self.method, KLDIS):
            losses, underflows = self.method.loss_and_underflows(f, y, draws)
            self.underflows = underflows.sum(-1)
        else:
            losses = self.method.loss(f, y, draws)
        return losses.mean(-1)

    @torch.no_grad()
    def log_density_values(self, seed_index: int, x: Tensor, y: Tensor) -> Tensor:
        """`f(x, y)` of one seed at every pair of x `[N]` and y `[G]`: `[N, G]` float64, in bounded memory."""
        one = {name: p[seed_index : seed_index + 1].contiguous() for name, p in self.layers.items()}
        ys = y.to(self.dtype).expand(1, 1, len(y)).unsqueeze(-1)
        parts = []
        for part in x.to(self.dtype).split(max(1, 2**21 // len(y))):
            candidates = ys.expand(1, len(part), -1, -1).contiguous()
            parts.append(self.energy(one, part.unsqueeze(0))(candidates)[0])
        return torch.cat(parts).double()

    def evaluate(self, run_dir: Path, diverged_step: Tensor) -> list[dict[str, Any]]:
        """A row of metrics per seed; also writes `densities.npz` and `calibration.csv` for figures and reports."""
        grids = _Grids(self.task, self.dataset, self.streams.device)
        rows, curves, densities, slices = [], [], [], []
        for index, (seed, stopped) in enumerate(zip(self.seeds, diverged_step.tolist(), strict=True)):
            scores, pit = self._score(index, grids)
            if stopped < 0 and not math.isfinite(scores["d_kl"]):  # finite weights whose energies are not
                stopped = self.num_steps
            diverged = stopped >= 0
            if diverged:  # what a stopped seed scores is no result
                scores = {name: math.nan for name in scores}
            good = not diverged and scores["edge_mass"] <= EDGE_MASS_LIMIT
            good = good and scores["nll_error"] <= QUADRATURE_LIMIT and all(map(math.isfinite, scores.values()))
            rows.append(
                {
                    "seed": seed,
                    **scores,
                    "diverged": int(diverged),
                    "diverged_step": stopped if diverged else "",
                    "trusted": int(good),
                }
            )
            for level in CALIBRATION_LEVELS:
                share = math.nan if diverged else metrics.coverage(pit, level).item()
                curves.append({"seed": seed, "level": level, "coverage": share})
            densities.append(_array(self._density(index, grids.picture_x, grids.picture_y, grids), diverged))
            slices.append(_array(self._density(index, grids.slice_x, grids.slice_y, grids), diverged))
        part = self.seeds[0]  # `finish` puts the parts of a run together
        write_atomically(run_dir / f"calibration.{part}.csv", pd.DataFrame(curves).to_csv(index=False).encode())
        arrays = grids.picture_arrays()
        models = {"model": np.stack(densities), "slice_model": np.stack(slices), "seeds": self.seeds}
        _write_arrays(run_dir / f"densities.{part}.npz", {**arrays, **models})
        return rows

    def _density(self, index: int, x: Tensor, y: Tensor, grids: _Grids) -> Tensor:
        """`p(y|x)` of one seed at every pair `[N], [G] -> [N, G]`, normalised on the fine grid, however coarse y is."""
        log_z = metrics.log_integral(self.log_density_values(index, x, grids.y), grids.spacing)
        return (self.log_density_values(index, x, y) - log_z.unsqueeze(-1)).exp()

    def _score(self, index: int, grids: _Grids) -> tuple[dict[str, float], Tensor]:
        """Scores of one seed, and the PIT of its test points."""
        spacing = grids.kl_spacing
        model = self.log_density_values(index, grids.kl_x, grids.kl_y)
        d_kl = metrics.kl_divergence(grids.log_true, model, spacing).mean().item()
        noisy = d_kl
        if self.task.target_noise:
            noisy = metrics.kl_divergence(grids.log_noisy, model, spacing).mean().item()
        test = self._test_scores(index, grids)
        pit = test.pop("pit")
        scores = {
            "d_kl": d_kl,
            "nll": test["nll"].mean().item(),
            "nll_error": test["nll_error"].mean().item(),
            "val_nll": self._val_nll(index, grids).mean().item(),
            "crps": test["crps"].mean().item(),
            "coverage_50": metrics.coverage(pit, 0.5).item(),
            "coverage_90": metrics.coverage(pit, 0.9).item(),
            "edge_mass": test["edge_mass"].mean().item(),
            "d_kl_noisy": noisy,
            "nll_noisy": test["nll_noisy"][grids.noisy_inside].mean().item(),
        }
        return scores, pit

    def _test_scores(self, index: int, grids: _Grids) -> dict[str, Tensor]:
        """Scores of one seed by test point, `[num_test]` each."""
        parts: list[dict[str, Tensor]] = []
        columns = (self.dataset.test.x, self.dataset.test.y, grids.noisy_test_y)
        for x, y, noisy_y in zip(*(column.split(grids.rows) for column in columns), strict=True):
            values = self.log_density_values(index, x, grids.y)
            log_z = metrics.log_integral(values, grids.spacing)
            density = (values - log_z.unsqueeze(-1)).exp()
            parts.append(
                {
                    "nll": log_z - self._log_density_at(index, x, y),
                    "nll_noisy": log_z - self._log_density_at(index, x, noisy_y),
                    "nll_error": metrics.quadrature_error(values, log_z, grids.spacing),
                    "crps": metrics.crps(density, y, Y_LOW, grids.spacing),
                    "edge_mass": metrics.edge_mass(density, grids.spacing),
                    "pit": metrics.probability_integral_transform(density, y, Y_LOW, grids.spacing),
                }
            )
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _val_nll(self, index: int, grids: _Grids) -> Tensor:
        """NLL of one seed by validation point, `[num_val]`."""
        x, y = self.dataset.val.x, self.dataset.val.y
        log_z = [
            metrics.log_integral(self.log_density_values(index, part, grids.y), grids.spacing)
            for part in x.split(grids.rows)
        ]
        return torch.cat(log_z) - self._log_density_at(index, x, y)

    @torch.no_grad()
    def _log_density_at(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        """`f` at pairs, `[N], [N] -> [N]`; minus infinity outside the interval on which the model lives."""
        one = {name: p[index : index + 1].contiguous() for name, p in self.layers.items()}
        values = self.energy(one, x.to(self.dtype).unsqueeze(0))(y.to(self.dtype).view(1, -1, 1, 1)).view(-1).double()
        return torch.where((y >= Y_LOW) & (y <= Y_HIGH), values, -math.inf)


class _Grids:
    """The points at which all seeds are scored, and the truth there."""

    def __init__(self, task: OneDTask, dataset: Dataset, device: torch.device) -> None:
        # D_KL: the paper's grid, on which densities are normalised by their sum.
        self.kl_x = self.kl_y = metrics.grid(Y_LOW, Y_HIGH, task.grid_points, device)
        self.kl_spacing = (Y_HIGH - Y_LOW) / (task.grid_points - 1)
        self.log_true = dataset.law.log_prob(self.kl_x[:, None], self.kl_y)
        if task.target_noise:
            self.log_noisy = dataset.law.noisy_log_prob(self.kl_x[:, None], self.kl_y, task.target_noise)
        # Everything else: an odd number of points, so that every other one spans the same interval.
        points = task.grid_points | 1
        self.y = metrics.grid(Y_LOW, Y_HIGH, points, device)
        self.spacing = (Y_HIGH - Y_LOW) / (points - 1)
        # x at a time: what is made of them stays in a processor's cache, or keeps a GPU busy.
        self.rows = max(1, (2**17 if torch.device(device).type == "cpu" else 2**22) // points)
        noise = Streams([task.data_seed], device, stacked=False).at(0)
        test_y = dataset.test.y
        self.noisy_test_y = test_y + task.target_noise * noise.normal("test/target_noise", test_y.shape, torch.float64)
        # Noise may carry a target out of the interval, where no model has a density: those are no part of nll_noisy.
        self.noisy_inside = (self.noisy_test_y >= Y_LOW) & (self.noisy_test_y <= Y_HIGH)
        self.picture_x = metrics.grid(Y_LOW, Y_HIGH, 121, device)
        self.picture_y = metrics.grid(Y_LOW, Y_HIGH, 241, device)
        self.picture_true = dataset.law.log_prob(self.picture_x[:, None], self.picture_y).exp()
        self.slice_x = torch.tensor(SLICES, dtype=torch.float64, device=device)
        self.slice_y = metrics.grid(Y_LOW, Y_HIGH, 1201, device)
        self.slice_true = dataset.law.log_prob(self.slice_x[:, None], self.slice_y).exp()

    def picture_arrays(self) -> dict[str, np.ndarray]:
        return {
            "x": self.picture_x.cpu().numpy(),
            "y": self.picture_y.cpu().numpy(),
            "true": _array(self.picture_true),
            "slice_x": self.slice_x.cpu().numpy(),
            "slice_y": self.slice_y.cpu().numpy(),
            "slice_true": _array(self.slice_true),
        }


def _array(density: Tensor, diverged: bool = False) -> np.ndarray:
    """As it is written: half precision is enough for pictures. A seed that diverged has no density."""
    return (density * math.nan if diverged else density).clamp(max=6e4).to(torch.float16).cpu().numpy()


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def code_path(backend: str, device: torch.device) -> str:
    """`fused` where the compiled kernels serve, else `plain`."""
    return "fused" if backend == "auto" and device.type == "cpu" and native.unavailable() is None else "plain"


def build(config: RunConfig, seeds: Sequence[int], device: torch.device) -> OneDProblem:
    """The problem of a run, for some of its seeds."""
    assert isinstance(config.task, OneDTask) and isinstance(config.trainer, OneDTrainer)
    energy = plain_energy if config.launch.backend == "plain" else fused_energy
    problem = OneDProblem(config.task, config.trainer, config.build_method(), seeds, device, energy=energy)
    problem.code_path = code_path(config.launch.backend, device)
    return problem


MEMORY = 2**31
"""Bytes that a step may take, about; more seeds than fit are trained in groups, one after the other."""

BYTES_PER_EVALUATION = {"fused": 128, "plain": 1024, "plain, second derivatives": 4096}
"""What a step keeps for each evaluation of f. Measured: fused 24 to 48, plain 650 to 730, dsm 1530, sm 3960."""


def split(config: RunConfig) -> list[tuple[int, ...]]:
    """Groups of seeds that fit into memory together, as equal as can be."""
    assert isinstance(config.task, OneDTask) and isinstance(config.trainer, OneDTrainer)
    method = config.build_method()
    on_gpu = config.launch.device.startswith("cuda") or (config.launch.device == "auto" and torch.cuda.is_available())
    kind = code_path(config.launch.backend, torch.device("cuda" if on_gpu else "cpu"))
    if isinstance(method, SM) or (kind == "plain" and isinstance(method, DSM)):
        kind = "plain, second derivatives"
    batch = min(config.trainer.batch_size, config.task.num_train)
    per_seed = batch * (getattr(method, "num_samples", 0) + 1) * BYTES_PER_EVALUATION[kind]
    groups = math.ceil(len(config.seeds) / max(1, MEMORY // per_seed))
    size = math.ceil(len(config.seeds) / groups)
    return [config.seeds[start : start + size] for start in range(0, len(config.seeds), size)]


def finish(config: RunConfig, run_dir: Path) -> None:
    """Puts together what the parts of a run wrote."""
    firsts = [seeds[0] for seeds in split(config)]
    tables = [run_dir / f"calibration.{first}.csv" for first in firsts]
    arrays = [run_dir / f"densities.{first}.npz" for first in firsts]
    if tables[0].exists():  # else put together before, by an attempt that was then interrupted
        curves = pd.concat([pd.read_csv(path) for path in tables])
        write_atomically(run_dir / "calibration.csv", curves.to_csv(index=False).encode())
        parts = [dict(np.load(path, allow_pickle=False)) for path in arrays]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in ("model", "slice_model", "seeds")}
        _write_arrays(run_dir / "densities.npz", {**parts[0], **joined})
    for path in (*tables, *arrays):
        path.unlink(missing_ok=True)
