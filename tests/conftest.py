"""What tests of several packages use."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from ebmbench.config import plugins
from ebmbench.core import registry


@pytest.fixture(autouse=True)
def own_components() -> Iterator[None]:
    """Forgets, after the test, what it registered: no test depends on which ran before it in the same process."""
    found, loaded = registry.groups(), dict(plugins._loaded)
    yield
    registry._found.clear()
    registry._found.update(found)
    for name in plugins._loaded.keys() - loaded.keys():
        sys.modules.pop(plugins._loaded.pop(name).module, None)


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
