"""Methods in the harness: seeds side by side, the compiled path, own networks, the count of evaluations, settings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ebmbench.config.compose import compose
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.engine.execute import energy_evaluations
from ebmbench.engine.train import Training, train
from ebmbench.proposals.learned import WIDEST, Learned
from tests.methods.examples import METHODS
from tests.methods.learners import after_steps, one_d

NAMES = ("nce-binary", "snl", "ed", "ssm", "mdsm", "pcd")
"""Those that tests/native does not try."""


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_independent(name: str) -> None:
    words = [f"method={name}"] + (["method.num_samples=8"] if METHODS[name].samples else [])
    together = after_steps(one_d(*words, seeds="[3,7]"))
    alone = after_steps(one_d(*words, seeds="[7]"))
    for key, p in together.items():
        torch.testing.assert_close(p[1:], alone[key], rtol=1e-5, atol=1e-6)
        assert not torch.equal(p[0], p[1])
    assert any(key.startswith("own.log_normaliser") for key in together) == bool(METHODS[name].networks(1, 1))


@pytest.mark.parametrize("name", ["nce-binary", "snl"])
def test_b_learns_and_passes_nothing_to_the_features(name: str) -> None:
    learner = one_d(f"method={name}", "method.num_samples=8")
    before = {key: p.clone() for key, p in learner.parameters.items()}
    after = after_steps(learner)
    assert all(not torch.equal(before[key], p) for key, p in after.items())
    (gradient,) = torch.autograd.grad(
        learner.own.heads(learner.stack.bind(learner.x[:4].expand(2, 4, 1))[1])["log_normaliser"]().sum(),
        learner.stack.flat,
        allow_unused=True,
    )
    assert gradient is None


@pytest.mark.parametrize("name", NAMES)
def test_fused_and_plain_paths_agree(name: str) -> None:
    words = [f"method={name}"] + (["method.num_samples=8"] if METHODS[name].samples else [])
    losses, gradients = [], []
    for backend in ("auto", "plain"):
        learner = one_d(*words, f"backend={backend}")
        loss = learner.losses(Training(learner).batches.at(0), 0)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss.sum(), learner.stack.flat)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=2e-3, atol=1e-3 * gradients[1].abs().max().item())


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("method=nce-binary", 65),
        ("method=snl", 65),
        ("method=ed", 65),
        ("method=ssm", 1),
        ("method=ml-exact", 1 + 512),
        ("method=mdsm", 64),
        ("method=pcd method.langevin_steps=10", 64 * 10 + 65),
        ("method=ml-is proposal=learned", 65 + 64),
        ("method=ml-is proposal=learned proposal.trained_by=nll", 65),
    ],
)
def test_energy_evaluations_count_those_of_a_learned_proposal(words: str, count: int) -> None:
    samples = [] if words in ("method=ssm", "method=ml-exact") else ["method.num_samples=64"]
    config = compose(["task=1d", *words.split(), *samples])
    assert energy_evaluations(config, 1, partition_nodes=512) == count


def test_no_gaussian_of_a_learned_proposal_is_wider_than_its_bound() -> None:
    outputs = torch.tensor([[0.0, 0.0, -3.0, 1000.0, 0.0, 0.0]], dtype=torch.float64)  # means, log variances, logits
    proposal, y = Learned(components=2, scale=0.5), torch.zeros(1, 1, dtype=torch.float64)
    step = Step(Streams([0], stacked=False).at(0), proposal, {"proposal": lambda: outputs})
    variances = proposal.mixture(y, step).log_variances.exp().flatten()
    assert variances[0] == pytest.approx(math.exp(-3) * 0.5**2, rel=0.01)
    assert variances[1] == pytest.approx((WIDEST * 0.5) ** 2)
    samples, log_q = proposal.sample(y, 1000, step)
    assert samples.abs().max() < 10 and log_q.isfinite().all()


@pytest.mark.slow
def test_many_gaussians_train_without_growing_apart() -> None:
    """Seed 2 diverged at step 876 while a Gaussian could be as wide as it liked."""
    words = ["method=nce", "method.num_samples=256", "proposal=learned", "proposal.components=16", "trainer.epochs=15"]
    config = compose(["task=1d", *words])
    learner = config.task.learner(config.setup, (2,), torch.device("cpu"))
    assert train(learner).alive.all() and learner.num_steps > 900


def test_colours_markers_and_places_are_all_different() -> None:
    classes = registry.known("method").values()
    for what in ("color", "marker", "order"):
        values = [getattr(cls, what) for cls in classes]
        assert len(set(values)) == len(values), what


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("method=mdsm method.sigma_low=2 method.sigma_high=1", "method.sigma_low=2"),
        ("method=ed method.scale=0", "method.scale=0"),
        ("method=pcd method.restart=1.5", "method.restart=1.5"),
        ("method=snl method.num_samples=0", "method.num_samples=0"),
    ],
)
def test_wrong_settings_are_one_sentence(words: str, text: str) -> None:
    with pytest.raises(UserError) as error:
        compose(["task=1d", *words.split()])
    assert text in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["method=snl", "method=nce proposal=learned", "method=nce-binary proposal=uniform"])
def test_own_networks_train_on_boxes(tmp_path: Path, words: str) -> None:
    sizes = ["method.num_samples=8", "data.num_train=8", "task.base.iterations=2", "trainer.iterations=3"]
    config = compose(["task=detection", "+experiment=smoke", f"results_dir={tmp_path}", *words.split(), *sizes])
    learner = config.task.learner(config.setup, (0,), torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in learner.parameters.items()}
    train(learner)
    own = [name for name in before if name.startswith("own.")]
    assert bool(own) == ("uniform" not in words or "binary" in words)
    assert all(not torch.equal(before[name], learner.parameters[name]) for name in ["energy.weight", *own])
