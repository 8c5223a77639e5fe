"""What tests of several packages use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts back, after the test, the number of threads that PyTorch computes by."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(threads: None) -> None:
    """PyTorch computes by one thread, so that sums have one order."""
    torch.set_num_threads(1)
