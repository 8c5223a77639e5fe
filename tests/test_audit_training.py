"""`ebmbench audit training`: true results stand, and whatever was changed falls."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from ebmbench.audit import training
from ebmbench.cli import main as cli
from ebmbench.config.compose import compose
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.engine.execute import execute
from ebmbench.system.files import fingerprint
from ebmbench.system.seal import encode as sealed_json
from ebmbench.tasks.examples import read_examples, write_examples

SWEEP = """\
# @package _global_
defaults:
  - override /size: smoke
  - override /task: 1d
seeds: 6
figures: false
hydra: {sweeper: {params: {method: 'nce,ml-is'}}}
sweep: {name: own, tables: [scores], figures: []}
"""
SMOKE = ["task=1d", "+experiment=smoke", "device=cpu", "logger=none", "threads=1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for method, seeds in (("nce", 3), ("sm", 2)):
        execute(compose([*SMOKE, f"method={method}", f"seeds={seeds}", f"results_dir={folder}"]), quiet=True)
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


def forged(folder: Path, name: str, old: str, new: str, with_checksum: bool) -> None:
    """Changes a file of a run, and its checksum too if asked to."""
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    if with_checksum:
        seal(path)


def seal(path: Path) -> None:
    """Gives a file that was changed its checksum."""
    status = json.loads((path.parent / "status.json").read_text())
    status["outputs"][path.name] = fingerprint(path.read_bytes())
    (path.parent / "status.json").write_bytes(sealed_json(status))


def run_of(results: Path, method: str) -> Path:
    return next((results / "runs").glob(f"1d-1-{method}-*"))


def test_true_results_stand(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert cli.dispatch(["audit", "training", str(results), f"results_dir={results}", "--runs", "5"]) == 0
    out = capsys.readouterr().out
    assert (
        "2 of 2 stand" in out and out.count("bit for bit") == 2
    )  # sm is not all in the kernels: its seeds train together
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_the_choice_is_the_seed_s(results: Path) -> None:
    chosen = [training.audit(str(results), results, 1, seed) for seed in (0, 0, 1, 2, 3)]
    assert chosen[0] == chosen[1] and len({(rows[0].run_id, rows[0].seed) for rows in chosen}) > 1
    assert all(row.is_good for rows in chosen for row in rows)


@pytest.mark.parametrize("with_checksum", [False, True])
def test_a_changed_metric_falls(results: Path, with_checksum: bool, capsys: pytest.CaptureFixture[str]) -> None:
    folder, changes = run_of(results, "nce"), []
    for row in runs.read_metrics(folder):
        better = repr(float(row["d_kl"]) * (1 - 1e-12))  # the last bits of it, in every seed
        changes.append((row["d_kl"], better))
    for old, new in changes:
        forged(folder, "metrics.csv", old, new, with_checksum)
    assert cli.dispatch(["audit", "training", str(folder), f"results_dir={results}"]) == 1
    out = capsys.readouterr().out
    assert ("d_kl was" in out) if with_checksum else ("metrics.csv" in out and "checksums" in out)


@pytest.mark.parametrize("method", ["nce", "sm"])
def test_changed_scores_of_examples_fall(results: Path, method: str) -> None:
    """They have checksums too; only training again sees it where those were changed with them."""
    folder = run_of(results, method)
    path = folder / "examples.parquet"
    table = read_examples(folder)
    table["log_prob"] += 1e-6
    write_examples(folder, table)
    seal(path)
    (row,) = training.audit(str(folder), results, 1, 0)
    assert "single examples" in row.differs


def test_a_changed_weight_falls(results: Path) -> None:
    path = run_of(results, "nce") / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    for parameters in state["parameters"].values():
        parameters["flat"][7] += 1e-6
    torch.save(state, path)
    seal(path)
    (row,) = training.audit(str(path.parent), results, 1, 0)
    assert row.differs == "the weights are others"


def test_settings_that_were_changed_fall(results: Path) -> None:
    folder = run_of(results, "nce")
    forged(folder, "config.yaml", "num_samples: 1024", "num_samples: 1023", with_checksum=True)
    (row,) = training.audit(str(folder), results, 1, 0)
    assert not row.is_good and "another run" in row.differs


def test_what_is_compared_within_a_tolerance() -> None:
    old = {"a": "1.0", "b": "2.0", "c": "nan", "d": ""}
    assert training.difference(old, {**old, "a": "1.04"}, list(old), 0.05) == ""
    assert "a was 1.0, and is 1.04" in training.difference(old, {**old, "a": "1.04", "b": "2.01"}, list(old), 0.0)
    assert "c was nan" in training.difference(old, {**old, "c": "3.0", "b": "2.5"}, list(old), 0.05)
    assert "d was missing" in training.difference(old, {**old, "d": "7"}, list(old), 0.05)


def test_another_machine_is_not_asked_for_the_same_bits() -> None:
    here = {
        "device": "cpu (2 cores)",
        "threads": 1,
        "code_path": "fused",
        "vectors": "AVX2",
        "packages": {"torch": "2"},
    }
    assert training.is_same(here, dict(here))
    for key, value in {"threads": 2, "code_path": "plain", "vectors": "AVX512", "packages": {"torch": "3"}}.items():
        assert not training.is_same({**here, key: value}, here)
    gpu = {**here, "device": "NVIDIA H100"}
    assert not training.is_same(gpu, gpu)
    assert not training.is_same({key: value for key, value in here.items() if key != "code_path"}, here)  # an older run


FAST = ("method=nce",)
MODELS = [f"model={name}" for name, model in registry.known("model").items() if not getattr(model, "uses_method", True)]


@pytest.mark.parametrize(
    "chosen", [pytest.param(word, marks=() if word in FAST else pytest.mark.slow) for word in (*FAST, *MODELS)]
)
def test_honest_runs_of_every_model_stand(chosen: str, tmp_path: Path) -> None:
    """Whichever seed is chosen: seeds train together as they did, and training amplifies no rounding."""
    if chosen in ("model=ngboost", "model=treeffuser"):
        pytest.importorskip(chosen.removeprefix("model="))
    if chosen in ("model=tabpfn", "model=tabicl"):
        pytest.skip("needs weights")
    words = ["task=regression", "+experiment=smoke", chosen, "trainer.epochs=15"]
    config = compose([*words, "seeds=3", "device=cpu", "threads=1", "logger=none", f"results_dir={tmp_path}"])
    execute(config, quiet=True)
    rows = [training.audit(str(config.run_dir), tmp_path, 1, choice)[0] for choice in range(4)]
    assert {row.how for row in rows} == {"bit for bit"} and not any(row.differs for row in rows)


def test_rounding_alone_condemns_no_run() -> None:
    """On another machine a metric in the range of the other seeds stands; with few seeds nothing is decided."""
    old, new = {"nll": "0.147"}, {"nll": "0.254"}
    peers = [{"nll": value} for value in ("0.10", "0.30", "0.21", "0.17")]
    assert training._within("run", 0, old, new, ["nll"], peers).differs == ""
    few = training._within("run", 0, old, new, ["nll"], peers[:2])
    assert few.differs and not few.is_decided and few.is_good
    assert not training._within("run", 0, old, {"nll": "2.5"}, ["nll"], peers).is_good


def test_a_row_of_a_collected_sweep_is_trained_again_from_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    assert cli.dispatch(["sweep", "submit", "own", "device=cpu", "--jobs", "1"]) == 0
    assert cli.dispatch(["sweep", "collect", "own"]) == 0
    shutil.rmtree("results/runs")
    shutil.rmtree("results/sweeps")
    capsys.readouterr()
    assert cli.dispatch(["audit", "training", "own", "--runs", "2"]) == 0
    assert "2 of 2 stand" in capsys.readouterr().out
    table = pd.read_csv("results/own/runs.csv")
    table["d_kl"] *= 100
    table.to_csv("results/own/runs.csv", index=False)
    with pytest.raises(UserError, match="not what was written"):
        cli.dispatch(["audit", "training", "own", "--runs", "2"])


def test_what_cannot_be_verified_is_said(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run directory nor a sweep"):
        training.audit("nowhere", results, 1, 0)
    with pytest.raises(UserError, match="--seed=x"):
        cli.dispatch(["audit", "training", str(results), "--seed", "x"])
