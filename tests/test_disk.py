"""Full disks, read-only folders and folders deleted under way: one sentence, and earlier results are as they were."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebmbench.config.compose import compose
from ebmbench.engine import runs
from ebmbench.engine.execute import execute
from tests.processes import Command, small


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here (it takes root)")
    yield folder
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], capture_output=True)
    subprocess.run(["umount", str(folder)], check=True)


def contents(folder: Path) -> dict[str, str]:
    files = [
        path for path in folder.rglob("*") if path.is_file() and path.name != "lock" and "attempt" not in path.parts
    ]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fill(folder: Path, leave: int) -> None:
    """Takes all of the disk but so many bytes."""
    free = shutil.disk_usage(folder).free
    (folder / "filler").write_bytes(b"x" * max(0, free - leave))


def fails_with(lines: list[str], log: Path, code: int, *words: str) -> None:
    process = Command(lines, log)
    assert process.wait() == code, process.output
    said = [line for line in process.output.splitlines() if line.startswith("ebmbench: ")]
    assert len(said) == 1 and "Traceback" not in process.output, process.output
    assert all(word in said[0] for word in words), said[0]


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    results = f"results_dir={small_disk / 'r'}"
    done = small("sm", "trainer.epochs=2", results)
    config = compose(done)
    assert Command(done, tmp_path / "log").wait() == 0
    before = contents(config.run_dir)
    fill(small_disk, 40_000)
    other = small("nce", "trainer.epochs=200", "checkpoint_seconds=0", results)
    fails_with(other, tmp_path / "log1", 1, "No space left on device", "can be started again")
    assert runs.read_state(compose(other).run_dir) in ("failed", "interrupted")
    shutil.rmtree(compose(other).run_dir)
    (small_disk / "filler").unlink()
    fill(small_disk, 40_000)
    fails_with([*done, "force=true"], tmp_path / "log2", 1, "No space left on device")
    assert contents(config.run_dir) == before and runs.read_state(config.run_dir) == "done"
    fill(small_disk, 0)
    with contextlib.suppress(OSError), open(small_disk / "filler", "ab") as filler:  # the last byte
        filler.write(b"x" * shutil.disk_usage(small_disk).free)
    third = small("dsm", results)
    fails_with(third, tmp_path / "log3", 2, "results_dir=", "cannot be written (No space left on device)")
    assert not compose(third).run_dir.exists()
    (small_disk / "filler").unlink()
    short = small("nce", "trainer.epochs=2", results)
    assert Command(short, tmp_path / "log4").wait() == 0
    assert contents(config.run_dir) == before


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """The same where nothing can be mounted: the process may write no file of more than 12 kB."""
    lines = small("nce", "trainer.epochs=3", f"results_dir={tmp_path / 'r'}", "seeds=20")
    process = Command(lines, tmp_path / "log", largest_file=12_000)
    assert process.wait() == 1
    assert "File too large" in process.output and "Traceback" not in process.output
    assert runs.read_state(compose(lines).run_dir) == "failed"
    assert not list((tmp_path / "r").rglob("*.tmp"))


def test_a_read_only_folder(small_disk: Path, tmp_path: Path) -> None:
    results = f"results_dir={small_disk / 'r'}"
    config = compose(small("sm", "trainer.epochs=1", results))
    execute(config, quiet=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = contents(small_disk)
    fails_with(small("nce", results), tmp_path / "log", 2, "results_dir=", "cannot be written (Read-only file system)")
    fails_with([*small("sm", "trainer.epochs=1", results), "force=true"], tmp_path / "log2", 2, "cannot be written")
    assert contents(small_disk) == before
    assert execute(config, quiet=True).existed  # reading is all that it takes


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    fails_with(small("nce", f"results_dir={tmp_path / 'file' / 'r'}"), tmp_path / "log", 2, "results_dir=")


def test_the_run_folder_deleted_under_way(tmp_path: Path) -> None:
    lines = small("nce+", "trainer.epochs=100000", f"results_dir={tmp_path / 'r'}", "checkpoint_seconds=0.5")
    run_dir = compose(lines).run_dir
    process = Command(lines, tmp_path / "log")
    process.wait_for((run_dir / "training.0.ckpt").exists)
    shutil.rmtree(tmp_path / "r")
    assert process.wait() == 1
    said = [line for line in process.output.splitlines() if line.startswith("ebmbench: ")]
    assert len(said) == 1 and str(run_dir) in said[0] and "Traceback" not in process.output
    assert not (tmp_path / "r").exists()
