"""A finished result is as safe as a running one: damage is seen, named, and computed again with one command."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ebmbench
from ebmbench.audit import files as audit
from ebmbench.cli.main import main
from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine import api, runs
from ebmbench.engine.execute import execute
from ebmbench.system import checkpoint, files
from ebmbench.system.locking import Lock
from ebmbench.system.seal import encode as sealed_json
from ebmbench.tasks.base import Setup
from ebmbench.tasks.regression.task import OneD
from tests.comparison import WHOLE, differences
from tests.processes import Command, small

LINES = small("nce", "trainer.epochs=2")
NO_FIGURES = WHOLE - {"figures"}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else here."""
    monkeypatch.setattr(OneD, "figures", lambda self, setup, run_dir: [])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two runs, of nce and of sm; for reading only."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OneD, "figures", lambda self, setup, run_dir: [])
        for lines in (LINES, small("sm", "trainer.epochs=2")):
            execute(compose([*lines, f"results_dir={folder}"]), quiet=True)
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy of the two runs."""
    shutil.copytree(made, tmp_path / "r")
    return tmp_path / "r"


@pytest.fixture
def config(results: Path) -> RunConfig:
    """The run of nce."""
    return compose([*LINES, f"results_dir={results}"])


def other_run(run_dir: Path) -> Path:
    return next(path for path in run_dir.parent.iterdir() if path != run_dir)


def flip(path: Path, place: int = -40) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def lose_a_row(run_dir: Path) -> None:
    path = run_dir / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def change_a_digit(run_dir: Path) -> None:
    path = run_dir / "metrics.csv"
    text = path.read_text()
    place = text.index(".", text.index("\n")) + 3
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


def take_anothers(run_dir: Path) -> None:
    shutil.copy(other_run(run_dir) / "checkpoint.pt", run_dir / "checkpoint.pt")


def take_all_of_another(run_dir: Path) -> None:
    shutil.rmtree(run_dir)
    shutil.copytree(other_run(run_dir), run_dir)


def without_checksums(run_dir: Path) -> None:
    path = run_dir / "status.json"
    path.write_bytes(sealed_json({**json.loads(path.read_text()), "outputs": {}}))


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a flipped bit": ("checkpoint.pt", lambda d: flip(d / "checkpoint.pt")),
    "a truncated checkpoint": ("checkpoint.pt", lambda d: os.truncate(d / "checkpoint.pt", 1000)),
    "another run's checkpoint": ("checkpoint.pt", take_anothers),
    "a lost row": ("metrics.csv", lose_a_row),
    "a changed digit": ("metrics.csv", change_a_digit),
    "an empty table": ("metrics.csv", lambda d: os.truncate(d / "metrics.csv", 0)),
    "no table": ("metrics.csv", lambda d: (d / "metrics.csv").unlink()),
    "a changed setting": ("config.yaml", lambda d: flip(d / "config.yaml")),
    "no densities": ("densities.npz", lambda d: (d / "densities.npz").unlink()),
    "no checksums": ("metrics.csv", without_checksums),
    "half a status": ("status.json", lambda d: os.truncate(d / "status.json", 300)),
    "an empty status": ("status.json", lambda d: os.truncate(d / "status.json", 0)),
    "another run": ("another run", take_all_of_another),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_computed_again(kind: str, config: RunConfig, made: Path) -> None:
    name, damage = DAMAGE[kind]
    run_dir = config.run_dir
    damage(run_dir)
    assert runs.check_state(config) == "damaged"
    if kind != "another run":
        assert name in " ".join(runs.verify(run_dir))
    with pytest.warns(UserWarning, match=f"damaged.*{name}|{name} is damaged"):
        outcome = execute(config, quiet=True)
    assert not outcome.existed and outcome.state == "done"
    assert not differences(run_dir, made / "runs" / run_dir.name)
    assert runs.check_state(config) == "done" and not runs.verify(run_dir)
    assert {path.name for path in run_dir.iterdir()} == NO_FIGURES
    assert execute(config, quiet=True).existed


@pytest.mark.parametrize("kind", [kind for kind, (name, _) in DAMAGE.items() if name in ("metrics.csv", "status.json")])
def test_a_damaged_table_is_never_read(kind: str, config: RunConfig) -> None:
    name, damage = DAMAGE[kind]
    assert len(runs.read_metrics(config.run_dir)) == 2
    damage(config.run_dir)
    with pytest.raises(runs.Damaged, match="status.json" if name == "status.json" else "metrics.csv"):
        runs.read_result(config.run_dir)


def test_a_folder_in_the_place_of_a_file_is_damage(config: RunConfig) -> None:
    for name, read in (("metrics.csv", runs.read_metrics), ("status.json", runs.read_status)):
        (config.run_dir / name).unlink()
        (config.run_dir / name).mkdir()
        with pytest.raises(runs.Damaged, match=name):
            read(config.run_dir)
    assert runs.read_state(config.run_dir) == "damaged"


def test_a_pipe_or_a_device_in_the_place_of_a_file_is_damage(config: RunConfig) -> None:
    """Reading them would not end."""
    path = config.run_dir / "metrics.csv"
    for replace_it in (lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        path.unlink()
        replace_it()
        assert runs.check_state(config) == "damaged"
        for read in (runs.read_metrics, runs.need_whole):
            with pytest.raises(runs.Damaged, match=r"metrics\.csv"):
                read(config.run_dir)


def test_no_flipped_bit_of_a_checkpoint_is_loaded(config: RunConfig) -> None:
    path = config.run_dir / "checkpoint.pt"
    whole = path.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 150):
        flip(path, place)
        with pytest.raises(runs.Damaged, match=r"checkpoint\.pt is not what the run wrote"):
            ebmbench.load(config.run_dir)
        path.write_bytes(whole)
    assert set(ebmbench.load(config.run_dir)) == {0, 1}


def test_a_run_with_any_damaged_file_is_not_loaded(config: RunConfig) -> None:
    """What a model reads beside its weights is checked too."""
    flip(config.run_dir / "metrics.csv", 30)
    with pytest.raises(runs.Damaged, match=r"metrics\.csv is not what the run wrote"):
        ebmbench.load(config.run_dir)


def test_a_checkpoint_of_another_run_is_refused_even_with_the_right_checksum(config: RunConfig) -> None:
    take_anothers(config.run_dir)
    path = config.run_dir / "status.json"
    raw = json.loads(path.read_text())
    raw["outputs"]["checkpoint.pt"] = files.fingerprint_of_file(config.run_dir / "checkpoint.pt")
    path.write_bytes(sealed_json(raw))
    with pytest.raises(runs.Damaged, match=r"checkpoint\.pt is of another run"):
        api.read_parameters(config.run_dir)


def test_a_table_without_a_seed_is_refused_even_with_the_right_checksum(config: RunConfig) -> None:
    lose_a_row(config.run_dir)
    status = runs.read_status(config.run_dir)
    assert status is not None
    runs.write_status(config.run_dir, replace(status, outputs=runs.record_outputs(config.run_dir)))
    with pytest.raises(runs.Damaged, match="one row for each seed"):
        runs.read_metrics(config.run_dir)


def test_the_state_of_many_runs_costs_no_reading(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object, **more: object) -> str:
        raise AssertionError("a file was read")

    monkeypatch.setattr(runs, "fingerprint_of_file", read)
    monkeypatch.setattr(runs, "fingerprint", read)
    assert runs.read_state(config.run_dir) == "done"
    os.truncate(config.run_dir / "history.csv", 50)
    assert runs.read_state(config.run_dir) == "damaged"
    with pytest.raises(AssertionError):
        runs.read_state(other_run(config.run_dir), thorough=True)


def test_figures_and_strangers_are_noted_and_spoil_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(self: OneD, setup: Setup, run_dir: Path) -> list[Path]:
        (run_dir / "figures").mkdir(exist_ok=True)
        (run_dir / "figures" / "a.png").write_bytes(b"picture")
        (run_dir / "figures" / ".nfs0001").write_bytes(b"still open somewhere")
        return []

    monkeypatch.setattr(OneD, "figures", draw)
    config = compose([*LINES, f"results_dir={tmp_path}"])
    execute(config, quiet=True)
    (config.run_dir / "figures" / ".nfs0001").unlink()
    assert not runs.verify(config.run_dir)
    (config.run_dir / "figures" / "a.png").write_bytes(b"another")
    (config.run_dir / "notes.txt").write_text("mine")
    assert runs.verify(config.run_dir) == [
        "figures/a.png is not what the run wrote",
        "notes.txt was not written by the run",
    ]
    assert runs.check_state(config) == "done" and execute(config, quiet=True).existed
    assert audit.main(tmp_path, repair=True) == 0 and (config.run_dir / "notes.txt").read_text() == "mine"


def test_what_is_read_while_new_files_take_the_place_of_old_ones(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed anywhere in between, a reader finds one whole result, and the next start finishes it."""
    whole = {path.name: path.read_bytes() for path in config.run_dir.iterdir() if path.is_file()}
    move, left = os.replace, 0

    def counted(source: Path, target: Path) -> None:
        nonlocal left
        if "attempt" in Path(source).parts and "attempt" not in Path(target).parts:
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", counted)
    for number in range(len(NO_FIGURES) - 1):  # all but the lock
        left = number
        with contextlib.suppress(KeyboardInterrupt):
            execute(config.replace(force=True), quiet=True)
        assert left == -1 and runs.is_promotion_pending(config.run_dir)
        assert len(runs.read_metrics(config.run_dir)) == 2 and not runs.verify(config.run_dir)
        assert runs.check_state(config) == "done" and set(ebmbench.load(config.run_dir)) == {0, 1}
        left = 100
        assert execute(config, quiet=True).existed and not runs.is_promotion_pending(config.run_dir)
        assert {path.name for path in config.run_dir.iterdir()} == NO_FIGURES
        assert (config.run_dir / "densities.npz").read_bytes() == whole["densities.npz"]


def test_what_the_new_result_does_not_have_is_gone(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = OneD.finish

    def more(self: OneD, setup: Setup, run_dir: Path, groups: Sequence[Sequence[int]]) -> None:
        finish(self, setup, run_dir, groups)
        (run_dir / "extra").mkdir(exist_ok=True)
        (run_dir / "extra" / "a.csv").write_text("1\n")

    monkeypatch.setattr(OneD, "finish", more)
    execute(config.replace(force=True), quiet=True)
    assert "extra/a.csv" in runs.read_status(config.run_dir).outputs  # type: ignore[union-attr]
    monkeypatch.setattr(OneD, "finish", finish)
    execute(config.replace(force=True), quiet=True)
    assert not (config.run_dir / "extra" / "a.csv").exists() and not runs.verify(config.run_dir)


def test_an_attempt_that_was_moved_but_not_cleared_is_not_taken_for_a_new_one(config: RunConfig) -> None:
    left = config.run_dir / "attempt"
    left.mkdir()
    checkpoint.save(left / "part.0.ckpt", {"run_hash": config.run_hash, "seeds": [0, 1], "rows": "old"})
    assert not execute(config.replace(force=True), quiet=True).existed
    assert runs.check_state(config) == "done" and not left.exists()


def test_what_a_kill_at_the_very_end_left_is_gone_at_the_next_start(config: RunConfig) -> None:
    left, attempt = config.run_dir / "part.0.ckpt", config.run_dir / "attempt"
    attempt.mkdir()
    for path in (left, config.run_dir / ".status.json.1.tmp", attempt / "part.0.ckpt"):
        path.write_text("left")
    lock = Lock(config.run_dir / "lock")
    lock.acquire()
    assert execute(config, quiet=True).existed and left.exists() and attempt.exists()  # somebody works on it
    lock.release()
    assert execute(config, quiet=True).existed
    assert {path.name for path in config.run_dir.iterdir()} == NO_FIGURES


def test_a_forced_attempt_under_way_is_no_leftover(config: RunConfig) -> None:
    attempt = config.run_dir / "attempt"
    attempt.mkdir()
    runs.write_status(attempt, runs.Status.of(config, "running", attempt=2))
    (config.run_dir / "part.0.ckpt").write_text("left")
    assert execute(config, quiet=True).existed and attempt.exists()
    assert not (config.run_dir / "part.0.ckpt").exists()


def test_the_command_says_so_in_one_line(results: Path, tmp_path: Path) -> None:
    lines = [*LINES, f"results_dir={results}"]
    change_a_digit(compose(lines).run_dir)
    process = Command(lines, tmp_path / "log")
    assert process.wait() == 0
    said = [line for line in process.output.splitlines() if "damaged" in line]
    assert len(said) == 1 and said[0].startswith("ebmbench: ") and "metrics.csv is not what the run wrote" in said[0]
    assert "This result exists already" not in process.output
    again = Command(lines, tmp_path / "again")
    assert again.wait() == 0 and "This result exists already" in again.output


# ----------------------------------------------------------------------------------------------------------- audit


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_audit_finds_nothing_wrong_and_changes_nothing(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(results)
    assert main(["audit", "files", f"results_dir={results}"]) == 0 and audit.main(results, repair=True) == 0
    said = capsys.readouterr()
    assert "2 runs: 2 finished and whole, 0 damaged, 0 unfinished" in said.out and not said.err
    assert contents(results) == before


@pytest.mark.parametrize("kind", DAMAGE)
def test_audit_repairs(kind: str, config: RunConfig, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, damage = DAMAGE[kind]
    run_dir, results = config.run_dir, config.run_dir.parent.parent
    good = contents(other_run(run_dir))
    damage(run_dir)
    left = {key: data for key, data in contents(run_dir).items() if key not in ("status.json", "lock")}
    assert audit.main(results) == 1
    said = capsys.readouterr()
    assert f"damaged: {run_dir}: " in said.err and name in said.err and "1 damaged" in said.out
    assert audit.main(results, repair=True) == 0
    assert audit.main(results) == 0
    assert contents(other_run(run_dir)) == good
    kept = contents(results)
    assert all(any(data == other for other in kept.values()) for data in left.values())  # nothing was deleted
    assert runs.read_state(run_dir) in ("failed", "missing")
    assert execute(config, quiet=True).state == "done"
    assert not differences(run_dir, made / "runs" / run_dir.name)


def test_audit_leaves_a_run_under_way_alone(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    change_a_digit(config.run_dir)
    half = config.run_dir / ".metrics.csv.1.tmp"
    half.write_text("half")
    before = (config.run_dir / "status.json").read_bytes()
    lock = Lock(config.run_dir / "lock")
    lock.acquire()
    try:
        assert audit.main(config.run_dir.parent.parent, repair=True) == 1
        assert "is being worked on" in capsys.readouterr().out
        assert (config.run_dir / "status.json").read_bytes() == before and half.exists()
    finally:
        lock.release()
    assert audit.main(config.run_dir.parent.parent, repair=True) == 0 and not half.exists()


def test_audit_deletes_temporary_files_of_dead_processes_alone(results: Path) -> None:
    (results / "sweeps" / "a").mkdir(parents=True)
    old, new = results / "sweeps" / "a" / ".plan.json.1.tmp", results / "sweeps" / "a" / ".plan.json.2.tmp"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert audit.main(results, repair=True) == 0
    assert not old.exists() and new.exists()


def test_audit_is_a_command(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "files", f"results_dir={results}"]) == 0
    assert "damaged" in capsys.readouterr().out


def test_audit_says_what_is_no_results_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder 'runs'"):
        audit.main(tmp_path)


def test_parameters_are_those_that_were_trained(config: RunConfig) -> None:
    saved = torch.load(config.run_dir / "checkpoint.pt", weights_only=True)
    read = api.read_parameters(config.run_dir)
    assert all(torch.equal(saved["parameters"][seed]["flat"], read[seed]["flat"]) for seed in (0, 1))


def test_a_run_without_figures_is_whole_and_the_same_run(tmp_path: Path) -> None:
    config = compose([*LINES, f"results_dir={tmp_path}", "figures=false"])
    assert config.run_hash == compose(LINES).run_hash
    assert execute(config, quiet=True).state == "done"
    assert not (config.run_dir / "figures").exists() and not runs.verify(config.run_dir)


def test_figures_that_cannot_be_drawn_cost_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose([*LINES, f"results_dir={tmp_path}"])
    told: list[list[dict[str, str]]] = []

    def draw(self: OneD, setup: Setup, run_dir: Path) -> list[Path]:
        assert told, "the figures are drawn before the result is told"
        (run_dir / "figures").mkdir()
        (run_dir / "figures" / "half.png").write_bytes(b"half a pic")
        raise ValueError("no such colour")

    monkeypatch.setattr(OneD, "figures", draw)
    outcome = execute(config, quiet=True, on_result=told.append)
    assert outcome.state == "done" and outcome.undrawn == "ValueError: no such colour"
    assert told == [runs.read_metrics(config.run_dir)]
    assert not (config.run_dir / "figures").exists() and not runs.verify(config.run_dir)
    assert "figures were not drawn (ValueError: no such colour)" in capsys.readouterr().err
    assert execute(config, quiet=True, on_result=told.append).existed and len(told) == 1
