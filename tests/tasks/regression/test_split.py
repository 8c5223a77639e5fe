"""Seeds that do not fit into memory together are trained in groups."""

from __future__ import annotations

import pytest
import torch

from ebmbench.config.compose import compose
from ebmbench.engine import execute
from ebmbench.native import build
from ebmbench.tasks.regression.learner import SEED_BYTES


def groups(*overrides: str) -> list[tuple[int, ...]]:
    return execute.seed_groups(compose(["task=1d", "device=cpu", *overrides]), torch.device("cpu"))


def test_the_paper_s_table_trains_twenty_seeds_together() -> None:
    for method in ("nce+", "dsm", "sm", "ml-mcmc"):
        assert groups(f"method={method}", "seeds=20") == [tuple(range(20))]


@pytest.mark.parametrize("backend", ["auto", "plain"])
@pytest.mark.parametrize("method", ["nce+", "dsm"])
def test_two_hundred_seeds_of_many_samples_are_split(method: str, backend: str) -> None:
    parts = groups(f"method={method}", "seeds=200", "method.num_samples=16384", f"backend={backend}")
    assert [seed for part in parts for seed in part] == list(range(200))
    assert len(parts) > 1
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= len(parts)
    if backend == "auto" and build.unavailable() is None:
        per_seed = 32 * 16385 * SEED_BYTES["fused"]
        assert max(sizes) * per_seed <= execute.MEMORY


def test_a_seed_that_does_not_fit_is_a_group_of_its_own() -> None:
    assert groups("method=dsm", "seeds=2", "method.num_samples=1000000", "backend=plain") == [(0,), (1,)]
