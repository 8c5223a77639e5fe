"""A power cut at any moment: a result is whole or not there, and the next start ends as an undisturbed run does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.engine import runs
from ebmbench.engine.execute import execute
from ebmbench.native import build
from ebmbench.report.planned import read_plan
from ebmbench.sweep import collect
from ebmbench.system import locking
from ebmbench.tasks.regression.task import OneD
from tests.comparison import differences
from tests.power import Disk
from tests.sweep.made import made_plan, make_done


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else here, and are no result."""
    monkeypatch.setattr(OneD, "figures", lambda self, setup, run_dir: [])


def tiny(results: Path) -> RunConfig:
    lines = ["task=1d", "method=sm", "seeds=2", "device=cpu", "threads=1", "backend=plain", "checkpoint_seconds=0"]
    lines += ["data.num_train=16", "data.num_val=4", "data.num_test=8", "data.grid_points=17", "trainer.epochs=2"]
    return compose([*lines, f"results_dir={results}"])


def results_that_differ(config: RunConfig, other: RunConfig) -> list[str]:
    return [name for name in differences(config.run_dir, other.run_dir) if not name.startswith("attempt/")]


@pytest.mark.slow
@pytest.mark.parametrize("forced", [False, True])
def test_a_run(forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "WATCH_SECONDS", 0)
    (results := tmp_path / "disk").mkdir()
    undisturbed = tiny(tmp_path / "undisturbed")
    execute(undisturbed, quiet=True)
    config = tiny(results)
    if forced:
        execute(config, quiet=True)
    disk = Disk(results, tmp_path / "cuts")
    with disk.followed():
        execute(config.replace(force=forced), quiet=True)
    cuts = disk.folders()
    for heartbeat in (tmp_path / "cuts").rglob("lock.alive"):
        os.utime(heartbeat, (0, 0))  # the power came back after a while
    print(f"{len(cuts)} different cuts")
    assert len(cuts) > 20
    for cut in cuts:
        left = tiny(cut)
        state = runs.check_state(left)
        assert state in ({"done"} if forced else {"missing", "interrupted", "failed", "done"}), cut
        if state == "done":
            assert not results_that_differ(left, undisturbed), cut
    assert runs.check_state(tiny(disk.end)) == "done"  # what was reported as done is on the disk
    for cut in cuts[:: max(1, len(cuts) // 25)]:
        left = tiny(cut)
        assert execute(left, quiet=True).state == "done" and not results_that_differ(left, undisturbed), cut


def test_collected_tables(tmp_path: Path) -> None:
    (results := tmp_path / "disk").mkdir()
    plan = made_plan(results, seeds=2)
    make_done(plan.jobs[0], results, [0.1, 0.2])
    collect.write(plan, collect.collect(plan, results), results)
    old = contents(results / "made")
    make_done(plan.jobs[1], results, [0.3, 0.4])
    disk = Disk(results, tmp_path / "cuts")
    with disk.followed():
        collect.write(plan, collect.collect(plan, results), results)
    new = contents(results / "made")
    cuts = disk.folders()
    assert len(cuts) > 5 and contents(disk.end / "made") == new
    for cut in cuts:
        left = contents(cut / "made")
        assert all(data in (old.get(name), new[name]) for name, data in left.items()) and old.keys() <= left.keys()
        assert read_plan(cut, "made") == read_plan(results, "made")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.skipif(build.unavailable() is not None, reason=f"no kernels: {build.unavailable()}")
def test_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library is whole, or is made again."""
    made = shutil.copy(build._compiled(), tmp_path / "made.so")
    compiler = tmp_path / "cc"
    compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exit 0\nwhile [ "$1" != -o ]; do shift; done\ncp {made} "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    (cache := tmp_path / "disk").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    disk = Disk(cache, tmp_path / "cuts")
    with disk.followed():
        build._compiled()
    assert len(disk.folders()) > 3
    for cut in disk.folders():
        for folder in cut.rglob("kernels"):
            folder.chmod(0o700)
        monkeypatch.setenv("XDG_CACHE_HOME", str(cut))
        found = build._compiled()
        assert found.read_bytes() == Path(made).read_bytes() and os.access(found, os.R_OK)
