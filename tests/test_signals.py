"""SIGTERM, SIGUSR1, SIGHUP and Ctrl-C: a checkpoint, a sentence, the right exit code, wherever the run is."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from ebmbench.cli.main import main
from ebmbench.config.compose import compose
from ebmbench.engine import runs
from ebmbench.system import checkpoint
from ebmbench.system.interrupt import Interrupted, StopFlag
from tests.processes import Command, small

LONG = "trainer.epochs=100000"


def start(tmp_path: Path, *more: str) -> tuple[Command, Path]:
    lines = small("nce+", "checkpoint_seconds=3600", f"results_dir={tmp_path / 'r'}", *more)
    return Command(lines, tmp_path / "log"), compose(lines).run_dir


SIGNALS = [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_in_training(signum: int, code: int, tmp_path: Path) -> None:
    process, run_dir = start(tmp_path, LONG)
    process.wait_for(lambda: (run_dir / "history.csv").exists() and (run_dir / "history.csv").stat().st_size > 200)
    sent = time.monotonic()
    process.send(signum)
    assert process.wait() == code
    assert time.monotonic() - sent < 10  # a step and a checkpoint, on a busy machine
    assert "the same command goes on from it" in process.output and "Traceback" not in process.output
    assert runs.read_state(run_dir) == "interrupted"
    state = checkpoint.load(run_dir / "training.0.ckpt")
    assert state is not None and state["step"] > 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_in_start_up(
    signum: int, code: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a run begins there is nothing to save, and one line says why the process ended."""
    monkeypatch.setattr("ebmbench.cli.main.dispatch", lambda words: signal.raise_signal(signum))
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as caught:
        main(["task=1d"])
    assert caught.value.code == code and signal.getsignal(signum) == before
    assert capfd.readouterr().err == f"ebmbench: stopped by {signal.Signals(signum).name}\n"


def test_a_closed_terminal_does_not_stop_what_nohup_started(monkeypatch: pytest.MonkeyPatch) -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopFlag() as stop:
            signal.raise_signal(signal.SIGHUP)
            stop.check()
    finally:
        signal.signal(signal.SIGHUP, old)


def test_in_setting_up_the_data(tmp_path: Path) -> None:
    process, run_dir = start(tmp_path, LONG, "data.num_train=3000000")
    process.wait_for(lambda: runs.read_status(run_dir) is not None)
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    assert runs.read_state(run_dir) == "interrupted" and "Traceback" not in process.output


def test_in_evaluation_the_training_is_kept(tmp_path: Path) -> None:
    process, run_dir = start(tmp_path, "trainer.epochs=1", "data.grid_points=4097", "data.num_test=100000")
    process.wait_for(lambda: "evaluating" in process.output)
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    assert runs.read_state(run_dir) == "interrupted"
    state = checkpoint.load(run_dir / "training.0.ckpt")
    assert state is not None and state["step"] == 3 and not (run_dir / "metrics.csv").exists()


def test_a_multirun_stops_as_a_whole(tmp_path: Path) -> None:
    lines = small("nce", LONG, f"results_dir={tmp_path / 'r'}")
    process = Command(["-m", *lines, "trainer.learning_rate=0.01,0.02"], tmp_path / "log")
    process.wait_for(lambda: bool(list(tmp_path.glob("r/runs/*/history.csv"))))
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert len(list(tmp_path.glob("r/runs/*"))) == 1  # the second job was not begun


def test_at_once_or_deferred() -> None:
    with StopFlag() as stop:
        with stop.deferred():
            signal.raise_signal(signal.SIGTERM)
            assert stop.signum == signal.SIGTERM
            signal.raise_signal(signal.SIGUSR1)  # the first one counts
        with pytest.raises(Interrupted) as caught:
            stop.check()
        assert caught.value.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopFlag() as stop, pytest.raises(Interrupted, match="SIGUSR1"):
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
