"""`make gpu`: what it does without a GPU, and that its parts are real commands."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.__main__ import main
from ebmbench.cli.parser import parse
from ebmbench.config.compose import compose
from ebmbench.core import registry

ENDLESS = 'import subprocess, time; print(subprocess.Popen(["sleep", "60"]).pid, flush=True); time.sleep(60)'
"""A program with a child."""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_what_it_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--out", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "no CUDA device" in text and "nothing was measured" in text
    assert all(part.shows in text for part in gpu.PARTS)
    assert not list(tmp_path.iterdir())


def test_its_runs_are_settings_that_compose(tmp_path: Path) -> None:
    runs = [part.command(tmp_path, tmp_path)[3:] for part in gpu.PARTS if part.words.startswith("-m ebmbench task=")]
    assert len(runs) == 3
    for words in runs:
        config = compose(parse(words).settings)
        assert config.launch.device == "cuda" and config.launch.results_dir == str(tmp_path)


def test_parts_are_stopped_in_time_and_failures_are_told(tmp_path: Path) -> None:
    parts = [
        gpu.Part("one", "good", "-c 'print(\"{out}\")'", 60),
        gpu.Part("two", "bad", "-c 'import sys; sys.exit(\"no such thing\")'", 60),
        gpu.Part("three", "endless", f"-c '{ENDLESS}'", 3),
    ]
    ran = [gpu.run_part(part, tmp_path, tmp_path) for part in parts]
    assert [one.code for one in ran] == [0, 1, None]
    child = int(ran[2].text)
    end = time.monotonic() + 10
    while _runs(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(child)
    text = gpu.report(ran, "a GPU", "0123456789ab")
    assert str(tmp_path) in text and "no such thing" in text and "| endless | 3 | stopped |" in text
    assert "--parts one two three" in text


def _runs(pid: int) -> bool:
    """Whether a process is neither gone nor waiting to be read off by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_every_method_is_tried_on_a_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    own = list(registry.known("method"))
    assert gpu.smoke("cpu", ["1d"], own) == 0
    text = capsys.readouterr().out
    assert all(f"{name} " in text for name in own) and "failed" not in text


def test_a_run_that_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*arguments: object, **more: object) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(gpu, "execute", broken)
    assert gpu.smoke("cpu", ["1d"]) == 1
    assert "failed: RuntimeError: CUDA error" in capsys.readouterr().out
