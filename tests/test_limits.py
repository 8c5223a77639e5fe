"""A test that hangs or crashes does not hang the others, nor what waits for them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

HANGS = """
import time

def test_hangs():
    time.sleep(1000)

def test_good():
    pass
"""

HANGS_IN_C = """
import ctypes, signal

def test_hangs():
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    ctypes.CDLL(None).sleep(1000)
"""

CRASHES = """
import os

def test_crashes():
    os.abort()
"""


def _pytest(text: str, folder: Path) -> str:
    (folder / "test_one.py").write_text(text)
    (folder / "test_two.py").write_text("def test_good(): pass\n")
    limits = ["-o", "timeout=2", "-o", "faulthandler_timeout=5", "-c", str(ROOT / "pyproject.toml")]
    words = [*limits, "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True, timeout=240)
    said = done.stdout + done.stderr
    assert done.returncode in (1, 2) and "INTERNALERROR" not in said, said
    return said


@pytest.mark.slow
def test_a_test_that_hangs_fails_and_the_others_go_on(tmp_path: Path) -> None:
    said = _pytest(HANGS, tmp_path)
    assert "1 failed, 2 passed" in said and "Timeout (>2.0s)" in said and "time.sleep(1000)" in said, said


@pytest.mark.slow
@pytest.mark.parametrize(("text", "name"), [(HANGS_IN_C, "test_hangs"), (CRASHES, "test_crashes")])
def test_a_process_that_crashes_or_hangs_in_c_ends_all(text: str, name: str, tmp_path: Path) -> None:
    said = _pytest(text, tmp_path)
    # the report of the failure; pytest's closing summary repeats it, whole where it knows that it runs in CI
    assert len(re.findall(rf"^worker 'gw\d' crashed while running '\S*{name}'", said, re.MULTILINE)) == 1, said
    assert "1 failed" in said, said
