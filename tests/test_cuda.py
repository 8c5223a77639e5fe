"""Captured steps are the steps: the same numbers, read on the device. The logic runs on the CPU; replay needs a GPU."""

from __future__ import annotations

import pytest
import torch

from ebmbench.engine import train
from ebmbench.engine.cuda import CapturedSteps
from ebmbench.methods import KLDIS
from ebmbench.proposals import GaussianMixture
from ebmbench.tasks.regression.config import OneDTrainer
from ebmbench.tasks.regression.problem import OneDProblem
from tests.tasks.regression.one_d_problem import method, problem

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
METHODS_OF_ALL_KINDS = ("nce+", "kld-is", "ml-mcmc", "sm", "dsm")
STEPS = 20  # 9 to an epoch of 128 points, the last of them short


def trained(name: str, captured: bool, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, train.Progress]:
    made = problem(name, seeds=(0, 4), dtype=dtype, batch_size=15, epochs=3)
    progress = train._start(made, None)
    steps = CapturedSteps(made, lambda losses, step: train._update(made, progress, losses, step))
    for step in range(STEPS):
        if captured:
            steps(step)
        else:
            train._step(made, progress)
    return made.parameters["flat"].detach(), progress


@pytest.mark.parametrize("name", METHODS_OF_ALL_KINDS)
def test_steps_that_read_their_number_on_the_device_are_the_steps(name: str) -> None:
    (ours, ours_progress), (eager, progress) = trained(name, captured=True), trained(name, captured=False)
    assert torch.equal(ours, eager)
    assert torch.equal(ours_progress.loss_sum, progress.loss_sum)


def test_underflows_are_counted_by_captured_steps_too() -> None:
    counts = []
    for captured in (True, False):
        made = problem("kld-is", seeds=(0, 4), batch_size=15)
        made.method = KLDIS(GaussianMixture((0.3,), shared=False), num_samples=2, sigma=0.02)
        progress = train._start(made, None)
        steps = CapturedSteps(made, lambda losses, step, m=made, p=progress: train._update(m, p, losses, step))
        for step in range(STEPS):
            if captured:
                steps(step)
            else:
                train._step(made, progress)
        counts.append((progress.underflows.tolist(), progress.underflow_step.tolist()))
    assert counts[0] == counts[1] and min(counts[0][0]) > 0 and min(counts[0][1]) >= 0


def test_the_step_of_a_divergence_is_read_on_the_device() -> None:
    made = problem("nce", seeds=(0, 4))
    progress = train._start(made, None)
    steps = CapturedSteps(made, lambda losses, step: train._update(made, progress, losses, step))
    steps(0)
    with torch.no_grad():
        made.parameters["flat"][1, 200] = torch.nan
    steps(1)
    steps(2)
    assert progress.diverged_step.tolist() == [-1, 1]


def on(device: str, name: str) -> OneDProblem:
    made = problem(name)
    trainer = OneDTrainer(epochs=3, batch_size=15, learning_rate=1e-3)
    return OneDProblem(made.task, trainer, method(name, 64), (0, 4), device)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", METHODS_OF_ALL_KINDS)
def test_replayed_steps_agree_with_eager_ones_and_with_the_cpu(name: str) -> None:
    results = []
    for device, captured in (("cuda", True), ("cuda", False), ("cpu", False)):
        made = on(device, name)
        progress = train._start(made, None)
        advance = train.stepper(made, progress) if captured else lambda m=made, p=progress: train._step(m, p)
        for _ in range(STEPS):
            advance()
        assert progress.step == STEPS
        results.append(made.parameters["flat"].detach().cpu())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        results[0], results[2], rtol=1e-2, atol=1e-3
    )  # Adam divides small gradients by small ones


@pytest.mark.gpu
@needs_gpu
def test_losses_on_the_gpu_are_the_cpu_s() -> None:
    for name in METHODS_OF_ALL_KINDS:
        torch.testing.assert_close(on("cuda", name).losses(3).cpu(), on("cpu", name).losses(3), rtol=1e-4, atol=1e-5)
