"""One submission to a tiny suite, made once, and what a forger does with it."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebmbench.config import folders
from ebmbench.core import plugins, registry
from ebmbench.engine.execute import execute
from ebmbench.report.planned import Plan, read_plan
from ebmbench.suite import judge, receive
from ebmbench.suite import suite as suites
from ebmbench.suite.pack import pack
from ebmbench.suite.submission import RECORD
from ebmbench.sweep import collect
from ebmbench.sweep.plan import write_plan
from ebmbench.system import seal
from ebmbench.system.files import fingerprint

SUITE = """\
# @package _global_
defaults:
  - override /task: 1d

seeds: 2
figures: false
noise: {num_samples: 8}
data: {num_train: 64, num_val: 64, num_test: 64, grid_points: 257}
trainer: {epochs: 1}

hydra:
  sweeper:
    params:
      data: law1
      data.data_seed: 1

sweep:
  name: tiny-v1
  description: For tests.
  tune: {trials: 2, repeats: 1, seed: 1}
  suite:
    algorithms: 3
    headline: d_kl
    trials_on: {data.data_seed: 0, seeds: 1}
    budget: {energy_evaluations: 1_000_000}
"""
METHOD = """\
from ebmbench import Method, energies, log_partition, register


@register
class Own(Method):
    \"\"\"Maximum likelihood by importance sampling.\"\"\"

    name = "ml-own"
    reference = "a test"
    uses_proposal = True
    num_samples: int = 8

    def loss(self, f, y, step):
        samples, log_q = step.q().sample(y, self.num_samples, step)
        target, values = energies(f, y, samples)
        return log_partition(values, log_q) - target
"""

Files = dict[str, bytes]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the suite, a plug-in, and its submission.zip."""
    root = tmp_path_factory.mktemp("suite")
    (root / "conf" / "sweeps" / "suites").mkdir(parents=True)
    (root / "conf" / "sweeps" / "suites" / "tiny-v1.yaml").write_text(SUITE)
    (root / "own.py").write_text(METHOD)
    extra, found, loaded = list(folders._extra), registry.groups(), set(plugins._loaded)
    folders.use_config_dir(root / "conf")
    try:
        suite, entry = suites.read("tiny-v1"), suites.entry_of([], [str(root / "own.py")])
        trials = carried_out(suites.trials_plan(suite, entry, [f"results_dir={root / 'r'}"]), root / "r")
        chosen = suites.chosen_by(collect.collect(trials, root / "r"))
        plan = carried_out(suites.runs_plan(suite, entry, chosen, [f"results_dir={root / 'r'}"]), root / "r")
        about = {"author": "A. Stranger", "licence": "MIT"}
        pack(suite, entry, [trials, plan], root / "r", about, root / "submission.zip")
    finally:
        folders._extra[:] = extra
        registry.restore(found)
        plugins.forget(plugins._loaded.keys() - loaded)
    return root


def carried_out(plan: Plan, results_dir: Path) -> Plan:
    plan = write_plan(plan, results_dir)
    for job in plan.jobs:
        execute(job.run_config(results_dir), quiet=True)
    return read_plan(results_dir, plan.name)


@pytest.fixture
def submission(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The submission, whose suite is known here, and which is judged in this process."""
    extra = list(folders._extra)
    folders.use_config_dir(made / "conf")
    monkeypatch.setattr(receive, "_executed", lambda order: (judge.judge(order), False))
    yield made / "submission.zip"
    folders._extra[:] = extra


def forged(source: Path, target: Path, change: Callable[[Files], None], is_sealed: bool = True) -> Path:
    """Writes a submission with changed files; a forger who knows the format seals runs and the record again."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    if is_sealed:
        for name in [name for name in files if name.endswith("/status.json")]:
            folder, status = name.removesuffix("status.json"), json.loads(files[name])
            status["outputs"] = {own: fingerprint(files[folder + own]) for own in status["outputs"]}
            files[name] = seal.encode(status)
        record = json.loads(files[RECORD])
        record["files"] = {name: fingerprint(data) for name, data in files.items() if name != RECORD}
        files[RECORD] = seal.encode(record)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target


def run_file(files: Files, name: str, seeds: int = 2) -> str:
    """Returns the path of a file of the run, or of a trial, with so many seeds."""
    for path in sorted(files):
        if path.endswith(f"/{name}"):
            status = json.loads(files[f"{path.rsplit('/', 1)[0]}/status.json"])
            if len(status["seeds"]) == seeds:
                return path
    raise KeyError(name)


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(data.decode().splitlines()))


def csv_of(found: list[dict[str, str]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return buffer.getvalue().encode()


def plan_file(files: Files, is_trials: bool) -> str:
    return next(name for name in files if name.endswith(f"{'own' if not is_trials else 'trials'}/plan.json"))
