"""The models of `task=1d` in training, and their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ebmbench.core.energy import Energy
from ebmbench.core.optimizers import eager
from ebmbench.core.rng import Draws, Streams
from ebmbench.system.files import write_atomically
from ebmbench.tasks.base import Setup
from ebmbench.tasks.examples import read_arrays, write_arrays, write_examples
from ebmbench.tasks.regression import metrics
from ebmbench.tasks.regression.density import LEVELS, central_coverage
from ebmbench.tasks.regression.laws import Y_HIGH, Y_LOW, Dataset
from ebmbench.tasks.regression.learner import RegressionLearner
from ebmbench.tasks.regression.networks.paper import PaperStack
from ebmbench.tasks.regression.one_d import PARTITION_NODES, OneD

SLICES = (-2.0, -0.5, 0.5, 2.0)
"""Values of x at which densities are kept on a fine grid."""


class OneDLearner(RegressionLearner):
    """S models of the paper's network on the points of one of the laws."""

    partition_nodes = PARTITION_NODES

    def __init__(
        self,
        task: OneD,
        setup: Setup,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        device = torch.device(device)
        self.task, self.dtype = task, dtype
        self.dataset = Dataset.draw(task, device)
        train, trainer = self.dataset.train, setup.trainer
        stack = PaperStack(seeds, device, dtype, setup.backend)
        x, y = train.x.to(dtype), train.y.to(dtype).unsqueeze(-1)
        super().__init__(stack, x, y, setup.method, setup.proposal, seeds, trainer.epochs, trainer.batch_size)
        parameters = list(self.parameters.values())
        self.optimizer = eager(torch.optim.Adam)(parameters, lr=trainer.learning_rate, capturable=device.type == "cuda")
        if trainer.schedule == "cosine":
            self.state["epoch"] = torch.zeros((), dtype=torch.int64, device=device)
            self.state["step_share"] = torch.ones(len(self.seeds), dtype=dtype, device=device)
            self.step_share = self.state["step_share"]

    def end_epoch(self, alive: Tensor) -> dict[str, Tensor]:
        """Lowers the learning rate where it follows a cosine."""
        if self.step_share is not None:
            self.state["epoch"] += 1
            self.step_share.fill_(self.annealed(self.state["epoch"]).to(self.dtype))
        return {}

    def log_partition(self, draws: Draws, y: Tensor) -> Callable[[Energy], Tensor]:
        """Returns what gives `log Z` over [-3, 3], by the midpoint rule."""

        def partition(f: Energy) -> Tensor:
            nodes = Y_LOW + (Y_HIGH - Y_LOW) * self.random_places(draws, PARTITION_NODES)
            candidates = nodes.to(self.dtype).unsqueeze(1).expand(-1, y.shape[1], -1).unsqueeze(-1)
            return torch.logsumexp(f(candidates), -1) + math.log((Y_HIGH - Y_LOW) / PARTITION_NODES)

        return partition

    @torch.no_grad()
    def log_density_values(self, seed_index: int, x: Tensor, y: Tensor) -> Tensor:
        """`f(x, y)` of one seed at every pair of x `[N]` and y `[G]`: `[N, G]` float64, in bounded memory."""
        ys = y.to(self.dtype).expand(1, 1, len(y)).unsqueeze(-1)
        parts = []
        for part in x.to(self.dtype).split(max(1, 2**21 // len(y))):
            candidates = ys.expand(1, len(part), -1, -1).contiguous()
            parts.append(self.stack.bind(part.unsqueeze(0), seed_index)[0](candidates)[0])
        return torch.cat(parts).double()

    def evaluate(self, run_dir: Path, diverged: Sequence[bool]) -> list[dict[str, float]]:
        """Returns the metrics of each seed; also writes densities and calibration, for figures, and single points."""
        grids = _Grids(self.task, self.dataset, self.device)
        rows, curves, densities, slices, examples = [], [], [], [], []
        for index, (seed, stopped) in enumerate(zip(self.seeds, diverged, strict=True)):
            scores, test = self._score(index, grids)
            pit = test["pit"]
            stopped = stopped or self.task.is_broken(scores)
            rows.append(scores)
            for level in LEVELS:
                share = math.nan if stopped else central_coverage(pit, level).item()
                curves.append({"seed": seed, "level": level, "coverage": share})
            of_points = torch.stack((-test["nll"], pit))
            examples.append((of_points * math.nan if stopped else of_points).cpu().numpy())
            densities.append(_array(self._density(index, grids.picture_x, grids.picture_y, grids), stopped))
            slices.append(_array(self._density(index, grids.slice_x, grids.slice_y, grids), stopped))
        part = self.seeds[0]  # `finish` puts the groups of a run together
        write_atomically(run_dir / f"calibration.{part}.csv", pd.DataFrame(curves).to_csv(index=False).encode())
        points = {"x": self.dataset.test.x.cpu().numpy(), "y": self.dataset.test.y.cpu().numpy()}
        write_arrays(run_dir / f"examples.{part}.npz", {"seeds": self.seeds, "scores": np.stack(examples), **points})
        arrays = grids.picture_arrays()
        models = {"model": np.stack(densities), "slice_model": np.stack(slices), "seeds": self.seeds}
        write_arrays(run_dir / f"densities.{part}.npz", {**arrays, **models})
        return rows

    def _density(self, index: int, x: Tensor, y: Tensor, grids: _Grids) -> Tensor:
        """`p(y|x)` of one seed at every pair `[N], [G] -> [N, G]`, normalised on the fine grid, however coarse y is."""
        log_z = metrics.log_integral(self.log_density_values(index, x, grids.y), grids.spacing)
        return (self.log_density_values(index, x, y) - log_z.unsqueeze(-1)).exp()

    def _score(self, index: int, grids: _Grids) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Scores of one seed, and those of its test points, `[num_test]` each."""
        spacing = grids.kl_spacing
        model = self.log_density_values(index, grids.kl_x, grids.kl_y)
        d_kl = metrics.kl_divergence(grids.log_true, model, spacing).mean().item()
        noisy = d_kl
        if self.task.target_noise:
            noisy = metrics.kl_divergence(grids.log_noisy, model, spacing).mean().item()
        test = self._test_scores(index, grids)
        scores = {
            "d_kl": d_kl,
            "nll": test["nll"].mean().item(),
            "nll_error": test["nll_error"].mean().item(),
            "val_nll": self._val_nll(index, grids).mean().item(),
            "crps": test["crps"].mean().item(),
            "coverage_50": central_coverage(test["pit"], 0.5).item(),
            "coverage_90": central_coverage(test["pit"], 0.9).item(),
            "edge_mass": test["edge_mass"].mean().item(),
            "d_kl_noisy": noisy,
            "nll_noisy": test["nll_noisy"][grids.noisy_inside].mean().item(),
        }
        return scores, test

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
        f, _ = self.stack.bind(x.to(self.dtype).unsqueeze(0), index)
        values = f(y.to(self.dtype).view(1, -1, 1, 1)).view(-1).double()
        return torch.where((y >= Y_LOW) & (y <= Y_HIGH), values, -math.inf)


class _Grids:
    """The points at which all seeds are scored, and the truth there."""

    def __init__(self, task: OneD, dataset: Dataset, device: torch.device) -> None:
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


def join(run_dir: Path, groups: Sequence[Sequence[int]]) -> None:
    """Puts together what the groups of seeds wrote, and deletes the parts."""
    tables = [run_dir / f"calibration.{group[0]}.csv" for group in groups]
    examples = [run_dir / f"examples.{group[0]}.npz" for group in groups]
    arrays = [run_dir / f"densities.{group[0]}.npz" for group in groups]
    if all(path.exists() for path in (*tables, *arrays, *examples)):  # else an earlier attempt put them together
        curves = pd.concat([pd.read_csv(path) for path in tables])
        write_atomically(run_dir / "calibration.csv", curves.to_csv(index=False).encode())
        parts = [read_arrays(path) for path in arrays]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in ("model", "slice_model", "seeds")}
        write_arrays(run_dir / "densities.npz", {**parts[0], **joined})
        scored = [read_arrays(path) for path in examples]
        write_examples(run_dir, pd.concat([_example_rows(part) for part in scored], ignore_index=True))
    for path in (*tables, *arrays, *examples):
        path.unlink(missing_ok=True)


def _example_rows(arrays: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Returns a row for each seed and test point: what is known of it, `log p(y|x)` and the PIT."""
    seeds, _, count = arrays["scores"].shape
    return pd.DataFrame(
        {
            "row": np.tile(np.arange(count), seeds),
            "seed": np.repeat(arrays["seeds"], count),
            "log_prob": arrays["scores"][:, 0].ravel(),
            "pit": arrays["scores"][:, 1].ravel(),
            "x": np.tile(arrays["x"], seeds),
            "y": np.tile(arrays["y"], seeds),
        }
    )


def _array(density: Tensor, diverged: bool = False) -> np.ndarray:
    """As it is written: half precision is enough for pictures. A seed that diverged has no density."""
    return (density * math.nan if diverged else density).clamp(max=6e4).to(torch.float16).cpu().numpy()
