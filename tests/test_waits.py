"""What a person waits for: answers about settings, states and results that exist load neither PyTorch nor pandas.

What they take in seconds is measured by `python -m benchmarks waits`; here is why it is little.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ebmbench.cli.main import dispatch
from ebmbench.core import registry

SMOKE = ["task=1d", "method=nce", "+experiment=smoke", "device=cpu", "trainer.epochs=1", "method.num_samples=4"]
LOADED = """
import sys
from ebmbench.cli.main import main
code = main(sys.argv[1:])
print("loaded:", *(name for name in ("torch._C", "pandas._libs", "matplotlib") if name in sys.modules))
sys.exit(code)
"""


def loaded(folder: Path, *words: str) -> tuple[list[str], str]:
    """Runs a command in a process of its own; returns the slow packages that it loaded, and what it printed."""
    done = subprocess.run([sys.executable, "-c", LOADED, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, _, names = done.stdout.rpartition("loaded:")
    return names.split(), text


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the results of a run, and of a sweep of one job."""
    monkeypatch.chdir(tmp_path)
    assert dispatch(SMOKE) == 0
    assert dispatch(["sweep", "submit", "smoke", "method=nce", "data=law1", "trainer.epochs=1", "--no-start"]) == 0
    return tmp_path


def test_results_that_exist_and_states_are_shown_without_pytorch(results: Path) -> None:
    names, text = loaded(results, *SMOKE)
    assert not names
    assert "exists already" in text and "d_kl" in text
    names, text = loaded(results, "sweep", "status", "smoke")
    assert not names
    assert "1 missing" in text


@pytest.mark.parametrize("task", list(registry.known("task")))
def test_settings_of_every_task_are_composed_without_pytorch(task: str, tmp_path: Path) -> None:
    names, text = loaded(tmp_path, "--cfg", "job", f"task={task}", "method=nce")
    assert not names
    assert "num_samples" in text
    assert not loaded(tmp_path, "describe", "method", "nce+")[0]


@pytest.mark.parametrize("policy", [None, "active"])
def test_threads_sleep_while_they_wait_unless_told_otherwise(policy: str | None) -> None:
    script = """
import os, sys
from ebmbench.cli.main import main
main(["describe", "method", "nce"])
print("torch._C" in sys.modules, os.environ["OMP_WAIT_POLICY"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"False {policy or 'passive'}"


def test_a_package_that_waits_is_the_ordinary_one_once_it_is_used(tmp_path: Path) -> None:
    code = """
import sys
from ebmbench.core.lazy import import_when_used
import_when_used()
import torch
import torch as again
assert "torch._C" not in sys.modules
assert torch.ones(2).sum() == 2
from torch import Tensor
import torch.nn.functional
assert again is torch and type(torch) is type(sys) and Tensor is torch.Tensor and torch.nn.functional.relu
assert torch.__path__ and torch.__version__
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_optimisers_are_pytorch_s_and_load_no_compiler(tmp_path: Path) -> None:
    code = """
import sys, torch
from ebmbench.core.optimizers import eager
torch.manual_seed(0)
start, grads = torch.randn(3, 5), torch.randn(4, 3, 5)
for kind in (torch.optim.Adam, torch.optim.AdamW):
    ends = []
    for maker in (eager(kind), kind):
        parameter = start.clone().requires_grad_()
        optimizer = maker([parameter], lr=0.1)
        for index, grad in enumerate(grads):
            if index == 2:
                state, optimizer = optimizer.state_dict(), maker([parameter], lr=0.1)
                optimizer.load_state_dict(state)
            optimizer.zero_grad(set_to_none=False)
            parameter.grad = grad.clone()
            optimizer.step()
        if kind is torch.optim.Adam and maker is not kind:
            assert "torch._dynamo" not in sys.modules
        ends.append(parameter)
    assert torch.equal(*ends) and not torch.equal(ends[0], start)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
