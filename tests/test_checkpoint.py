"""Checkpoints: whole or not at all, and any damage is seen."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest
import torch

from ebmbench.core.errors import UserError
from ebmbench.system import checkpoint
from ebmbench.system.files import remove_temporaries, write_atomically


def state(number: int) -> dict[str, object]:
    return {"step": number, "weights": torch.full((5, 3), float(number)), "nested": {"a": [1, 2.5, "x", None]}}


def load_quietly(path: Path) -> dict[str, object] | None:
    with pytest.warns(UserWarning, match="damaged"):
        return checkpoint.load(path)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    assert checkpoint.load(path) is None
    checkpoint.save(path, state(1))
    checkpoint.save(path, state(2))
    loaded = checkpoint.load(path)
    assert loaded is not None and loaded["step"] == 2 and loaded["nested"] == state(2)["nested"]
    assert torch.equal(loaded["weights"], torch.full((5, 3), 2.0))
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "a.ckpt.previous"]
    checkpoint.remove(path)
    assert not os.listdir(tmp_path)


def test_every_flipped_byte_and_every_truncation_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, state(1))
    whole = path.read_bytes()
    places = [*random.Random(0).sample(range(len(whole)), 150), 0, len(whole) - 1]
    damaged = [whole[:k] + bytes([whole[k] ^ (1 << k % 8)]) + whole[k + 1 :] for k in places]
    damaged += [whole[:k] for k in (0, 1, 30, len(whole) // 2, len(whole) - 1)] + [whole + b"\0"]
    for data in damaged:
        path.write_bytes(data)
        assert load_quietly(path) is None


def test_the_one_before_is_used_and_is_not_lost_to_the_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, state(1))
    checkpoint.save(path, state(2))
    path.write_bytes(path.read_bytes()[:-7])
    loaded = load_quietly(path)
    assert loaded is not None and loaded["step"] == 1
    checkpoint.save(path, state(3))
    path.write_bytes(b"")
    loaded = load_quietly(path)
    assert loaded is not None and loaded["step"] == 1


def test_killed_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, state(1))
    replace, calls = os.replace, []

    def dies_at_the_second(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, state(2))
    assert not path.exists()
    loaded = checkpoint.load(path)
    assert loaded is not None and loaded["step"] == 1


def test_an_unreadable_file_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.mkdir()
    with pytest.raises(OSError):
        checkpoint.load(path)
    assert path.exists()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.txt"]


def test_half_written_files_of_killed_processes_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name in (".a.ckpt.123.tmp", "figures/.x.png.9.tmp", "history.csv.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / "kept.csv").write_text("whole")
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept.csv"]


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_a_checkpoint_is_data_even_with_the_right_checksum(tmp_path: Path) -> None:
    import hashlib

    path, proof = tmp_path / "a.ckpt", tmp_path / "executed"
    buffer = io.BytesIO()
    torch.save({"step": Evil(f"touch {proof}")}, buffer)
    data = buffer.getvalue()
    path.write_bytes(checkpoint._MAGIC + hashlib.sha256(data).digest() + data)
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoint.load(path)
    assert not proof.exists()
