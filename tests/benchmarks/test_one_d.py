"""The benchmark measures the same network on both sides, and writes what it measured."""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import one_d, peers
from benchmarks.__main__ import main
from benchmarks.textbook import Network, Textbook
from ebmbench.config.compose import compose
from ebmbench.methods.contrastive import NCE
from ebmbench.models.networks.paper import initial_parameters, plain_energy
from ebmbench.proposals.mixture import GaussianMixture
from tests.processes import PAPER


def row(method: str, **changes: object) -> one_d.Row:
    values: dict[str, object] = {
        **{"kind": "table", "method": method, "seeds": 20, "samples": 1024, "batch": 32, "threads": 2},
        **{"baseline_ms": 20.0, "baseline_low": 19.0, "baseline_high": 22.0, "ms": 2.0, "low": 1.9, "high": 2.5},
        **{"baseline_cpu_ms": 24.0, "cpu_ms": 4.0},
        **{"baseline_memory_mb": 30.0, "memory_mb": 40.0, "of_compute": 0.5, "of_bandwidth": 0.01},
    }
    return one_d.Row(**{**values, **changes})  # type: ignore[arg-type]


def test_the_textbook_network_is_the_project_s() -> None:
    parameters = initial_parameters((3,), torch.float64, "cpu")
    network = Network().double()
    network.load_state_dict({name: p[0].detach() for name, p in parameters.items()})
    x, y = torch.linspace(-3, 3, 4).double(), torch.linspace(-2, 2, 20).double().view(4, 5, 1)
    ours = plain_energy(parameters, x[None])(y[None])[0]
    torch.testing.assert_close(network.energy(network.features(x), y), ours, rtol=1e-12, atol=1e-12)


def test_the_textbook_loop_trains() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 64)
    baseline = Textbook(
        NCE(num_samples=32), GaussianMixture(stds=(0.1, 0.8), shared=True), x, x[:, None], 16, torch.device("cpu")
    )
    before = [p.detach().clone() for p in baseline.network.parameters()]
    for _ in range(6):  # into a second epoch
        baseline.step()
    moved = [(p.detach() != old).any() for p, old in zip(baseline.network.parameters(), before, strict=True)]
    assert all(moved[:-1])  # the last bias adds the same to every logit


@pytest.mark.parametrize("method", ["nce+", "dsm"])
@pytest.mark.parametrize("name", peers.LIBRARIES)
def test_a_peer_computes_the_same_loss_and_gradient(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "jax":
        pytest.importorskip("jax")
    config = compose(["task=1d", f"method={method}", "method.num_samples=16", "seeds=2", "backend=plain"])
    learner = config.task.learner(config.setup, config.seeds, torch.device("cpu"))
    assert peers.has(method)
    peers.check(name, learner)
    monkeypatch.setattr(peers, "HIDDEN", 9)  # another network
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        peers.check(name, learner)


def test_the_peers_stand_in_a_table_of_their_own() -> None:
    rows = [row("nce+", seeds=20), row("nce+", seeds=20, kind="jax", ms=8.0, low=7.0, high=9.0, first_seconds=5.0)]
    text = one_d.markdown(rows, one_d.Limits(1e11, 1e10), argparse.Namespace(device="cpu", threads=1), [], None)
    assert "| nce+ | 20 | jax | 8 (7 to 9) | 4.0 | 50% | 5 | 761 |" in text
    assert "| nce+ | 20 | ebmbench | 2 (1.9 to 2.5) | 1.0 | 50% |  | 189 |" in text
    assert "| jax | nce+ |" not in text


def test_ratios_and_the_time_of_the_whole_table() -> None:
    rows = [row(method) for method in PAPER]
    assert rows[0].ratio == 10 and rows[0].cpu_ratio == 6 and rows[0].models_steps_per_second == 500
    minutes = 280 * one_d.PAPER_STEPS * 2e-3 / 60
    assert f"{minutes:.1f} minutes" in one_d.paper_table(rows)
    assert "10.0 times" in one_d.paper_table(rows)
    assert "needs all methods" in one_d.paper_table(rows[1:])


def test_work_grows_with_samples_and_examples() -> None:
    for method in PAPER:
        operations, traffic = one_d.least_work(one_d.Case(method, 1))
        double, double_traffic = one_d.least_work(one_d.Case(method, 1, batch=64))
        assert (double, double_traffic) == (2 * operations, 2 * traffic)
    assert one_d.least_work(one_d.Case("ml-mcmc", 1))[0] > 8 * one_d.least_work(one_d.Case("nce", 1))[0]


def test_files(tmp_path: Path) -> None:
    rows = [row(method) for method in PAPER]
    rows += [row("nce+", kind=kind, **{kind: at}) for kind in ("seeds", "samples", "batch") for at in (4, 8)]
    arguments = argparse.Namespace(device="cpu", threads=2, out=tmp_path)
    one_d.write(rows, one_d.Limits(1e11, 1e10), arguments, ["--seconds", "1"], "0123456789ab")
    table = list(csv.DictReader((tmp_path / "one_d.csv").open()))
    assert len(table) == len(rows) and float(table[0]["ratio"]) == 10
    text = (tmp_path / "one_d.md").read_text()
    assert "python -m benchmarks --seconds 1" in text and "| nce+ |" in text and "commit 0123456789ab" in text
    assert (tmp_path / "one_d.png").stat().st_size > 10_000


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one_dd"]) == 2
    assert "one_d, waits, pooling" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_measurement(tmp_path: Path) -> None:
    options = ["--methods", "nce+", "sm", "--seeds", "2", "--threads", "2", "--seconds", "0", "--no-curves"]
    options += ["--out", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "benchmarks", *options], check=True)
    rows = list(csv.DictReader((tmp_path / "one_d.csv").open()))
    assert {r["method"] for r in rows} == {"nce+", "sm"}
    assert all(float(r["ms"]) > 0 and float(r["baseline_ms"]) > 0 and float(r["memory_mb"]) >= 0 for r in rows)
    one_core = [r for r in rows if r["kind"] == "one core"]
    # With no time to measure these are of few steps: only that both kinds of company were measured can be asserted.
    assert len(one_core) == 2 and all(float(r["all_cores"]) > 0 and float(r["a_process_each"]) > 0 for r in one_core)
