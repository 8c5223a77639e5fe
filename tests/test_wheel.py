"""The wheel carries all that it needs, and its console command works from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout; no network, nothing written into the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*pip, str(folder), str(ROOT)], check=True, capture_output=True, text=True)
    (path,) = folder.glob("ebmbench-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_carries_configuration_and_every_module(wheel: Path) -> None:
    carried = set(zipfile.ZipFile(wheel).namelist())
    for folder, target in (("conf", "ebmbench/share/conf"), ("sweeps", "ebmbench/share/sweeps")):
        for path in (ROOT / folder).rglob("*.yaml"):
            assert f"{target}/{path.relative_to(ROOT / folder)}" in carried
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "ebmbench"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert set(tracked) <= carried


@pytest.mark.slow
def test_the_installed_console_command_runs_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def ebmbench(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(site / "bin" / "ebmbench"), *words]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)

    where = [sys.executable, "-c", "import ebmbench; print(ebmbench.__file__)"]
    found = subprocess.run(where, cwd=work, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(site)), "the checkout was imported, not the wheel"

    shown = ebmbench("--help")
    assert shown.returncode == 0 and "nce+" in shown.stdout
    run = ebmbench("task=1d", "method=nce+", "+experiment=smoke", "device=cpu")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("nce+ on 1d-1, 1 seed")
    assert [p.name for p in work.iterdir()] == ["results"]
    again = ebmbench("task=1d", "method=nce+", "+experiment=smoke", "device=cpu")
    assert again.stdout.startswith("This result exists already")
    wrong = ebmbench("method=nec+")
    assert wrong.returncode == 2 and "did you mean nce+" in wrong.stderr


@pytest.mark.slow
def test_a_wheel_with_kernels_needs_no_compiler(tmp_path: Path) -> None:
    """It trains on the kernels that it carries, where the PATH has no compiler, with the losses of the plain path."""
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, str(ROOT)], check=True, capture_output=True, env={**os.environ, "EBMBENCH_KERNELS": "1"})
    program = """
import torch
from ebmbench.config.compose import compose
from ebmbench.engine.train import Training
from ebmbench.native import build
assert build.kernels()._name.startswith(__import__("sys").argv[1]), build.kernels()._name
losses = []
for backend in ("auto", "plain"):
    config = compose(["task=1d", "method=nce+", "seeds=2", "device=cpu", f"backend={backend}"])
    training = Training(config.task.learner(config.setup, config.seeds, torch.device("cpu")))
    losses.append(training.losses(0))
torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
"""
    home = str(tmp_path)
    environment = {"PATH": home, "PYTHONPATH": str(site), "HOME": home, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(site)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".cache").exists()
