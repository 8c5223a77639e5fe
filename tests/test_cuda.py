"""Captured steps are the steps: the same numbers, read on the device. The logic runs on the CPU; replay needs a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ebmbench.config.compose import compose
from ebmbench.core import registry
from ebmbench.engine import train
from ebmbench.engine.cuda import CapturedSteps
from ebmbench.methods.likelihood import KLDIS
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.tasks.regression.fitting import FitLearner
from tests.tasks.regression.one_d_problem import losses, problem
from tests.waits import watched

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
METHODS_OF_ALL_KINDS = ("nce+", "kld-is", "ml-mcmc", "sm", "dsm")
STEPS = 20  # 9 to an epoch of 128 points, the last of them short


def stepped(made: FitLearner, captured: bool, steps: int = STEPS) -> train.Progress:
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


# ------------------------------------------------------------------------------------------ without a GPU: on `meta`

META = torch.device("meta")
WORDS = {
    "1d": ["data.num_train=64"],
    "regression": ["data=diabetes"],
    "regression, dropout, clipped": ["data=diabetes", "network.dropout=0.1", "trainer.gradient_clip=1.0"],
}


def assert_no_wait(words: list[str]) -> None:
    """Makes steps as a capture makes them, on a device whose tensors have no values: who reads one gets an error."""
    config = compose([*words, "seeds=2"])
    training = train.Training(config.task.learner(config.setup, config.seeds, META))
    steps = CapturedSteps(training.learner, training.batches, training.update)
    steps(0)
    with watched("meta") as found:
        steps(1)
        steps(training.batches.steps_per_epoch - 1)
    assert not found


@pytest.mark.parametrize("name", list(registry.known("method")))
@pytest.mark.parametrize("task", WORDS)
def test_no_method_waits_for_the_device_in_a_step(task: str, name: str) -> None:
    assert_no_wait(
        [f"task={task.partition(',')[0]}", f"method={name}", "method.num_samples=8"][: 2 + _samples(name)] + WORDS[task]
    )


@pytest.mark.parametrize("model", ["gaussian", "mdn", "histogram"])
def test_no_density_waits_for_the_device_in_a_step(model: str) -> None:
    assert_no_wait(["task=regression", "data=diabetes", f"model={model}"])


def _samples(name: str) -> int:
    """1 for a method that has a number of samples."""
    return int("num_samples" in registry.known("method")[name].model_fields)


@pytest.mark.parametrize("proposal", list(registry.known("proposal")))
def test_no_proposal_waits_for_the_device_in_a_step(proposal: str) -> None:
    for method in ("nce", "kld-is"):
        assert_no_wait(["task=1d", f"method={method}", f"proposal={proposal}", *WORDS["1d"]])


@pytest.mark.parametrize(
    "wait", [lambda y: y.sum().item(), lambda y: y.tolist(), lambda y: bool((y > 0).all()), lambda y: y[y > 0]]
)
def test_a_wait_is_found(wait: Callable[[torch.Tensor], object], monkeypatch: pytest.MonkeyPatch) -> None:
    loss = registry.known("method")["nce"].loss  # type: ignore[attr-defined]

    def waits(self: object, f: object, y: torch.Tensor, step: object) -> torch.Tensor:
        wait(y)
        return loss(self, f, y, step)

    monkeypatch.setattr(registry.known("method")["nce"], "loss", waits)
    with pytest.raises((RuntimeError, AssertionError, NotImplementedError)):
        assert_no_wait(["task=1d", "method=nce", *WORDS["1d"]])


def test_a_copy_from_the_host_is_found() -> None:
    with watched("meta") as found:
        torch.ones(2).to("meta")
        torch.tensor([1.0, 2.0], device="meta")
    assert "copy from cpu to meta" in found


def test_what_is_not_captured_gets_its_batches_on_the_host() -> None:
    made = problem("nce", seeds=(0, 4), device="meta")
    expected = train.Training(problem("nce", seeds=(0, 4))).batches.at(3)
    made.capturable = False
    assert torch.equal(train.Training(made).batches.at(3), expected)


# ------------------------------------------------------------------------------------------ on a GPU


def on(device: str, name: str) -> FitLearner:
    return problem(name, (0, 4), device=device, epochs=3, batch_size=15, num_samples=64)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", METHODS_OF_ALL_KINDS)
def test_replayed_steps_agree_with_eager_ones_and_with_the_cpu(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for device, captured in (("cuda", True), ("cuda", False), ("cpu", False)):
        made = on(device, name)
        training = train.Training(made)
        advance = training.stepper() if captured else training.step
        for _ in range(STEPS):
            advance()
        assert training.progress.step == STEPS
        results.append(made.parameters["flat"].detach().cpu())
    assert "not captured" not in capsys.readouterr().err
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    # The last parameter is added to f everywhere. Most losses do not depend on it: its gradient is rounding, which Adam
    # divides by its own size. Adam divides the other small gradients by small ones, too.
    torch.testing.assert_close(results[0][:, :-1], results[2][:, :-1], rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_losses_on_the_gpu_are_the_cpu_s() -> None:
    for name in METHODS_OF_ALL_KINDS:
        torch.testing.assert_close(losses(on("cuda", name), 3).cpu(), losses(on("cpu", name), 3), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", list(registry.known("method")))
@pytest.mark.parametrize("task", WORDS)
def test_every_method_is_captured_and_waits_for_nothing(
    task: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"task={task.partition(',')[0]}", f"method={name}", "method.num_samples=8"][: 2 + _samples(name)]
    config = compose([*words, *WORDS[task], "seeds=2"])
    training = train.Training(config.task.learner(config.setup, config.seeds, torch.device("cuda")))
    eager = CapturedSteps(training.learner, training.batches, training.update)
    eager.capture = False
    eager(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    advance = training.stepper()
    for _ in range(6):
        advance()
    assert "not captured" not in capsys.readouterr().err
    assert training.progress.diverged_step.tolist() == [-1, -1]


@pytest.mark.gpu
@needs_gpu
def test_what_cannot_be_captured_goes_on_eagerly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = on("cuda", "nce")
    eager = train.Training(expected)
    made = on("cuda", "nce")
    loss = type(made.method).loss

    def waits(self: object, f: object, y: torch.Tensor, step: object) -> torch.Tensor:
        y.sum().item()
        return loss(self, f, y, step)  # type: ignore[arg-type]

    monkeypatch.setattr(type(made.method), "loss", waits)
    advance = train.Training(made).stepper()
    for _ in range(STEPS):
        advance()
        eager.step()
    assert "capturing" in capsys.readouterr().err
    torch.testing.assert_close(made.parameters["flat"], expected.parameters["flat"], rtol=1e-4, atol=1e-5)
    assert torch.rand(2, device="cuda").isfinite().all()
