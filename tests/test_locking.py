"""One process per run: with the kernel's locks, and on file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from ebmbench.config.compose import compose
from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.system import locking
from ebmbench.system.locking import Lock, is_held
from tests.processes import Command, small


@pytest.fixture(params=["flock", "none"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel's locks, or a file system that says it has none."""
    if request.param == "none":

        def refuse(file: int, mode: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
    return str(request.param)


def test_one_at_a_time(file_system: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    first, second = Lock(path), Lock(path)
    first.acquire()
    assert is_held(path)
    with pytest.raises(UserError, match=rf"is being worked on by process {os.getpid()} on .*; wait for it"):
        second.acquire()
    first.check()
    first.release()
    assert not is_held(path)
    second.acquire()
    second.release()


def test_a_folder_deleted_under_way_is_noticed(file_system: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = Lock(folder / "lock")
    lock.acquire()
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="deleted while the run was under way"):
        lock.check()
    folder.mkdir()
    other = Lock(folder / "lock")
    other.acquire()
    with pytest.raises(OSError, match="deleted while the run was under way"):
        lock.check()
    other.release()


def test_asking_never_stands_in_the_way_of_taking(tmp_path: Path) -> None:
    path, stop = tmp_path / "lock", threading.Event()
    path.touch()

    def ask() -> None:
        while not stop.is_set():
            is_held(path)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for thread in askers:
        thread.start()
    try:
        for _ in range(30):
            lock = Lock(path)
            lock.acquire()
            lock.release()
    finally:
        stop.set()
        for thread in askers:
            thread.join()


DEAD = f"{locking._machine()}\n{locking._processes()} 999999999\nx\n"


def test_flock_that_is_local_to_a_machine_admits_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS with local_lock: each machine gets the flock, and only one the lock."""
    monkeypatch.setattr(fcntl, "flock", lambda file, mode: None)
    path = tmp_path / "lock"
    here, there = Lock(path), Lock(path)
    here.acquire()
    monkeypatch.setattr(locking, "_machine", lambda: "there")
    assert is_held(path)
    with pytest.raises(UserError, match="is being worked on"):
        there.acquire()
    here.release()
    there.acquire()
    monkeypatch.setattr(locking, "_machine", lambda: "a third one")
    assert is_held(path)
    there.release()
    assert not is_held(path)


@pytest.mark.parametrize("days", [-30, 30])
def test_a_dead_lock_of_another_machine_is_taken_whatever_its_date(
    days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "WATCH_SECONDS", 0.3)
    path, alive = tmp_path / "lock", tmp_path / "lock.alive"
    path.touch()
    alive.write_text("elsewhere\n1\nx\n")
    date = time.time() + days * 86400
    os.utime(alive, (date, date))
    assert not is_held(path)
    lock = Lock(path)
    lock.acquire()
    lock.check()
    lock.release()


def test_a_lock_of_a_wrong_date_that_is_renewed_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "WATCH_SECONDS", 2.0)
    path, alive, stop = tmp_path / "lock", tmp_path / "lock.alive", threading.Event()
    alive.write_text("elsewhere\n1\nx\n")

    def renew() -> None:
        for seconds in range(1000):
            os.utime(alive, (1e9 + seconds, 1e9 + seconds))
            if stop.wait(0.2):
                return

    holder = threading.Thread(target=renew)
    holder.start()
    try:
        with pytest.raises(UserError, match="is being worked on"):
            Lock(path).acquire()
    finally:
        stop.set()
        holder.join()


def test_a_number_that_another_process_has_by_now_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    (tmp_path / "lock.alive").write_text(f"{locking._machine()}\n{locking._processes()} {os.getppid()}\nx\n")
    assert not is_held(path)  # it would hold the flock
    lock = Lock(path)
    lock.acquire()
    lock.release()


@pytest.mark.parametrize("file_system", ["none"], indirect=True)
class TestHeartbeat:
    def test_a_dead_process_of_this_machine_holds_nothing(self, file_system: str, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        path.touch()
        (tmp_path / "lock.alive").write_text(DEAD)
        assert not is_held(path)
        Lock(path).acquire()

    def test_another_machine_holds_it_while_its_time_is_renewed(
        self, file_system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, alive = tmp_path / "lock", tmp_path / "lock.alive"
        path.touch()
        alive.write_text("elsewhere\n1\nx\n")
        assert is_held(path)
        with pytest.raises(UserError):
            Lock(path).acquire()
        monkeypatch.setattr(locking, "WATCH_SECONDS", 0.3)
        old = time.time() - locking.STALE_SECONDS - 1
        os.utime(alive, (old, old))
        assert not is_held(path)
        Lock(path).acquire()

    def test_it_is_renewed(self, file_system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locking, "RENEW_SECONDS", 0.02)
        lock = Lock(tmp_path / "lock")
        lock.acquire()
        alive = tmp_path / "lock.alive"
        os.utime(alive, (0, 0))
        give_up = time.monotonic() + 10
        while alive.stat().st_mtime == 0 and time.monotonic() < give_up:
            time.sleep(0.02)
        assert alive.stat().st_mtime > 0
        lock.release()
        assert not alive.exists()

    def test_of_many_who_see_it_dead_one_takes_it(self, file_system: str, tmp_path: Path) -> None:
        for _ in range(10):
            (tmp_path / "lock.alive").write_text(DEAD)
            locks = [Lock(tmp_path / "lock") for _ in range(6)]
            barrier, held = threading.Barrier(6), []

            def take(lock: Lock, barrier: threading.Barrier = barrier, held: list[Lock] = held) -> None:
                barrier.wait()
                if lock.take():
                    held.append(lock)

            threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            own = []
            for lock in held:
                try:
                    lock.check()
                    own.append(lock)
                except OSError:
                    pass
            assert len(own) <= 1 and len(held) <= 1
            for lock in held:
                lock.release()


def test_two_commands_on_one_run(tmp_path: Path) -> None:
    lines = small("nce+", "trainer.epochs=100000", f"results_dir={tmp_path / 'r'}")
    run_dir = compose(lines).run_dir
    first = Command(lines, tmp_path / "first")
    first.wait_for(lambda: runs.read_status(run_dir) is not None)
    assert runs.read_state(run_dir) == "running"
    second = Command(lines, tmp_path / "second")
    assert second.wait() == 2
    said = second.output.strip()
    assert "\n" not in said and f"is being worked on by process {first.process.pid} on " in said
    first.kill()
    assert runs.read_state(run_dir) == "interrupted"
    third = Command([*lines], tmp_path / "third")
    third.wait_for(lambda: runs.read_state(run_dir) == "running")
    third.kill()


def test_the_one_that_is_refused_leaves_the_other_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two start at once and neither sees the folder: it is the one's that made it, and not the other's to remove."""
    config = compose([*small("sm"), f"results_dir={tmp_path}"])
    with runs.open_attempt(config, None) as attempt:
        assert attempt is not None
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda path: path != config.run_dir and exists(path))
        with pytest.raises(UserError, match="is being worked on"), runs.open_attempt(config, None):
            pass
        monkeypatch.undo()
        attempt.update(step=1)  # it still owns its folder
        assert (config.run_dir / "status.json").exists()
