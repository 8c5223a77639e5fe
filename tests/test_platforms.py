"""macOS and Windows: what they lack is taken away from real processes; one works, and one says what it lacks."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import small

ROOT = Path(__file__).resolve().parent.parent

MACOS = """
import ctypes, os, sys, sysconfig, types

sysconfig.get_config_vars()  # of the Python that runs

def refuse(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])

sys.addaudithook(refuse)
for name in dir(os):
    if name.startswith(("sched_", "posix_fa", "memfd_", "pidfd_", "eventfd", "epoll")) or name == "sendfile":
        delattr(os, name)
os.readlink = lambda path, *more, **named: refuse("open", [path]) or path
ctypes.CDLL = lambda name, *more, _real=ctypes.CDLL, **named: _Bare() if name is None else _real(name, *more, **named)

class _Bare:
    "The C library, without glibc's own functions."

import resource
real_usage = resource.getrusage

class _Usage:
    def __init__(self, who):
        self.ru_maxrss = real_usage(who).ru_maxrss * 1024  # bytes there

resource.getrusage = _Usage
sys.modules["_scproxy"] = types.ModuleType("_scproxy")  # what urllib asks there
sys.modules["_scproxy"]._get_proxies = sys.modules["_scproxy"]._get_proxy_settings = dict
sys.platform = "darwin"
"""
"""For `sitecustomize`, so that processes which are started have it too."""


def _process(words: list[str], folder: Path, custom: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "custom").mkdir(exist_ok=True)
    (folder / "custom" / "sitecustomize.py").write_text(custom)
    path = f"{folder / 'custom'}{os.pathsep}{ROOT}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.slow
def test_macos(tmp_path: Path) -> None:
    """A sweep without what only Linux has, its compiler without `-march=native` and OpenMP, as Apple's may be."""
    compiler = tmp_path / "clang"
    compiler.write_text(
        '#!/bin/sh\nfor word; do case "$word" in -march=native|-fopenmp) echo "error: unsupported $word" >&2; exit 1;; '
        'esac; done\nexec cc "$@"\n'
    )
    compiler.chmod(0o755)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.yaml").write_text(
        "# @package _global_\ndefaults: [{override /task: 1d}]\n"
        "hydra: {sweeper: {params: {method: nce}}}\nsweep: {name: own, tables: [scores]}\n"
    )
    words = [word for word in small("nce", "trainer.epochs=1") if not word.startswith(("method=", "task=", "backend"))]
    there = {"CC": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = _process(["-m", "ebmbench", "sweep", "submit", "own", *words], tmp_path, MACOS, **there)
    (log,) = (tmp_path / "results/sweeps/own/logs").iterdir()
    said = done.stdout + done.stderr + log.read_text()
    assert done.returncode == 0 and "own: 1 done" in done.stdout and "Traceback" not in said, said
    assert "not used" not in said, said  # the fused kernels are there, for one core
    (table,) = (tmp_path / "results/runs").glob("*/metrics.csv")
    [memory, *_] = [float(row["peak_memory_mb"]) for row in csv.DictReader(table.open())]
    assert 100 < memory < 4000


WINDOWS = """
import os, signal, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM"):
    delattr(signal, name)
for name in ("getuid", "geteuid", "sysconf", "fork", "sched_getaffinity", "mkfifo"):
    delattr(os, name)
"""


def test_windows(tmp_path: Path) -> None:
    start = "import sys; sys.platform = 'win32'; "
    done = _process(
        ["-c", start + "from ebmbench.cli.main import main; sys.exit(main(['task=1d']))"], tmp_path, WINDOWS
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "use it in WSL" in done.stderr, done.stderr
    done = _process(["-c", "import ebmbench; ebmbench.load"], tmp_path, WINDOWS)
    assert done.stderr.splitlines()[-1].startswith("ImportError: ebmbench needs") and "WSL" in done.stderr, done.stderr
