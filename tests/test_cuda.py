"""Captured steps are the steps: the same numbers, read on the device. The logic runs on the CPU; replay needs a GPU."""

from __future__ import annotations

import pytest
import torch

from ebmbench.engine import train
from ebmbench.engine.cuda import CapturedSteps
from ebmbench.methods.likelihood import KLDIS
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.tasks.regression.one_d_learner import OneDLearner
from tests.tasks.regression.one_d_problem import losses, problem

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
METHODS_OF_ALL_KINDS = ("nce+", "kld-is", "ml-mcmc", "sm", "dsm")
STEPS = 20  # 9 to an epoch of 128 points, the last of them short


def stepped(made: OneDLearner, captured: bool, steps: int = STEPS) -> train.Progress:
    """Makes steps of a learner, by the capture's logic or eagerly."""
    training = train.Training(made)
    capture = CapturedSteps(made, training.batches, training.update)
    for step in range(steps):
        if captured:
            capture(step)
        else:
            training.step()
    return training.progress


def trained(name: str, captured: bool, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, train.Progress]:
    made = problem(name, seeds=(0, 4), dtype=dtype, batch_size=15, epochs=3)
    progress = stepped(made, captured)
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
        made.method = KLDIS(num_samples=2, sigma=0.02)
        made.proposal = GaussianMixture(stds=(0.3,), shared=False)
        progress = stepped(made, captured)
        counts.append((progress.counts["underflows"].tolist(), progress.count_steps["underflows"].tolist()))
    assert counts[0] == counts[1] and min(counts[0][0]) > 0 and min(counts[0][1]) >= 0


def test_the_step_of_a_divergence_is_read_on_the_device() -> None:
    made = problem("nce", seeds=(0, 4))
    training = train.Training(made)
    steps = CapturedSteps(made, training.batches, training.update)
    steps(0)
    with torch.no_grad():
        made.parameters["flat"][1, 200] = torch.nan
    steps(1)
    steps(2)
    assert training.progress.diverged_step.tolist() == [-1, 1]


def on(device: str, name: str) -> OneDLearner:
    return problem(name, (0, 4), device=device, epochs=3, batch_size=15, num_samples=64)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", METHODS_OF_ALL_KINDS)
def test_replayed_steps_agree_with_eager_ones_and_with_the_cpu(name: str) -> None:
    results = []
    for device, captured in (("cuda", True), ("cuda", False), ("cpu", False)):
        made = on(device, name)
        training = train.Training(made)
        advance = training.stepper() if captured else training.step
        for _ in range(STEPS):
            advance()
        assert training.progress.step == STEPS
        results.append(made.parameters["flat"].detach().cpu())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        results[0], results[2], rtol=1e-2, atol=1e-3
    )  # Adam divides small gradients by small ones


@pytest.mark.gpu
@needs_gpu
def test_losses_on_the_gpu_are_the_cpu_s() -> None:
    for name in METHODS_OF_ALL_KINDS:
        torch.testing.assert_close(losses(on("cuda", name), 3).cpu(), losses(on("cpu", name), 3), rtol=1e-4, atol=1e-5)
