"""What tests of several packages use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from ebmbench.core import plugins, registry


@pytest.fixture(autouse=True)
def own_components() -> Iterator[None]:
    """Forgets, after the test, what it registered: no test depends on which ran before it in the same process."""
    found, loaded = registry.groups(), set(plugins._loaded)
    yield
    registry.restore(found)
    plugins.forget(plugins._loaded.keys() - loaded)


@pytest.fixture(autouse=True, scope="session")
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps what tests accept (plug-ins) out of the settings of whoever runs them; subprocesses inherit it."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("settings"))


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
