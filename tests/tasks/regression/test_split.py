"""Seeds that do not fit into memory together are trained in groups."""

from __future__ import annotations

import pytest

from ebmbench.tasks.regression import fused as native
from ebmbench.config.compose import compose
from ebmbench.tasks.regression import problem


def groups(*overrides: str) -> list[tuple[int, ...]]:
    return problem.split(compose(["task=1d", "device=cpu", *overrides]))


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
    if backend == "auto" and native.unavailable() is None:
        per_seed = 32 * 16385 * problem.BYTES_PER_EVALUATION["fused"]
        assert max(sizes) * per_seed <= problem.MEMORY


def test_a_seed_that_does_not_fit_is_a_group_of_its_own() -> None:
    assert groups("method=dsm", "seeds=2", "method.num_samples=1000000", "backend=plain") == [(0,), (1,)]
