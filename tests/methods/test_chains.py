"""The chains that pcd keeps for each training example between its visits."""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM

import pytest
import torch

from ebmbench.check.methods import energy_parameters, smooth_energy
from ebmbench.config.compose import compose
from ebmbench.core.energy import AutogradEnergy
from ebmbench.core.errors import UserError
from ebmbench.core.langevin import langevin
from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.engine.train import Callbacks, CheckpointPlan, train
from ebmbench.methods.persistent import PCD
from ebmbench.system.interrupt import Interrupted, StopFlag
from tests.methods.examples import targets
from tests.methods.learners import one_d


def test_chains_go_on_where_they_stopped_and_some_start_again() -> None:
    y, draws = targets((2, 50), 1)
    method = PCD(num_samples=40, langevin_steps=2, langevin_step=1e-6, restart=0.05)
    f = AutogradEnergy(smooth_energy(energy_parameters(1)))
    kept = 5 + torch.zeros(2, 50, 40, 1, dtype=torch.float64)
    step = Step(draws, memory={"chains": kept})
    method.loss(f, y, step)
    there = step.remembered["chains"]
    went_on = (there - 5).abs() < 1e-3
    restarted = (there - y.unsqueeze(-2)).abs() < 1e-3
    assert bool((went_on ^ restarted).all())
    assert restarted.double().mean().item() == pytest.approx(0.05, abs=0.02)  # of 4000
    assert not torch.equal(restarted[0], restarted[1])
    assert torch.equal(kept, torch.full_like(kept, 5))  # the learner writes, not the loss
    assert not there.requires_grad


def test_persistent_chains_reach_a_mode_that_short_ones_do_not() -> None:
    """Two modes, the target in one: after many visits about half of the chains are in the other."""
    modes = AutogradEnergy(lambda v: torch.logaddexp(-8 * (v[..., 0] - 0.6).square(), -8 * (v[..., 0] + 0.6).square()))
    y = torch.full((1, 1), 0.6, dtype=torch.float64)
    method = PCD(num_samples=500, langevin_steps=10, langevin_step=0.1, restart=0)
    streams = Streams([0], stacked=False)
    chains = torch.full((1, 500, 1), torch.nan, dtype=torch.float64)
    for visit in range(80):
        step = Step(streams.at(visit), memory={"chains": chains})
        method.loss(modes, y, step)
        chains = step.remembered["chains"]
        if visit == 0:
            once = langevin(modes, y.expand(1, 500, 1), 10, 0.1, streams.at(0))
            torch.testing.assert_close(chains, once)
            assert (chains < 0).double().mean() < 0.02
    assert (chains < 0).double().mean().item() == pytest.approx(0.5, abs=0.15)


def test_an_interrupted_run_of_pcd_ends_with_the_same_weights_and_chains(tmp_path: Path) -> None:
    words = ("method=pcd", "method.num_samples=3", "method.langevin_steps=2")
    whole = one_d(*words)
    train(whole)
    plan = CheckpointPlan(tmp_path / "checkpoint.pt", 1e9)
    stop = StopFlag()

    def stop_at_four(progress: object) -> None:
        if getattr(progress, "step", 0) == 4:
            stop.signum = SIGTERM

    with pytest.raises(Interrupted):
        train(one_d(*words), plan, Callbacks(on_step=stop_at_four), stop)
    again = one_d(*words)
    train(again, plan)
    assert torch.equal(whole.parameters["flat"], again.parameters["flat"])
    assert torch.equal(whole.state["memory.chains"], again.state["memory.chains"])
    assert whole.state["memory.chains"].isfinite().all()


def test_boxes_have_no_memory() -> None:
    config = compose(["task=detection", "method=pcd", "+experiment=smoke"])
    with pytest.raises(UserError, match="method=pcd keeps something for each training example"):
        config.task.learner(config.setup, (0,), torch.device("cpu"))
