"""Files are data: nothing that is read is unpickled or evaluated."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ebmbench
from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.engine.execute import execute
from ebmbench.tasks.regression.task import OneD
from tests.processes import small

PACKAGE = Path(ebmbench.__file__).parent


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else here, and other tests look at them."""
    monkeypatch.setattr(OneD, "figures", lambda self, setup, run_dir: [])


class Evil:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def test_a_made_up_checkpoint_of_a_finished_run(tmp_path: Path) -> None:
    config = compose([*small("sm", "trainer.epochs=1"), f"results_dir={tmp_path / 'r'}"])
    execute(config, quiet=True)
    assert set(ebmbench.load(config.run_dir)) == {0, 1}
    proof = tmp_path / "executed"
    torch.save({"parameters": Evil(proof)}, config.run_dir / "checkpoint.pt")
    with pytest.raises(UserError, match=r"checkpoint\.pt"):
        ebmbench.load(config.run_dir)
    (config.run_dir / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match=r"checkpoint\.pt"):
        ebmbench.load(config.run_dir)
    assert not proof.exists()


def test_a_made_up_checkpoint_of_an_unfinished_run(tmp_path: Path) -> None:
    config = compose([*small("sm", "trainer.epochs=1"), f"results_dir={tmp_path / 'r'}"])
    config.run_dir.mkdir(parents=True)
    proof = tmp_path / "executed"
    torch.save({"run_hash": config.run_hash, "step": Evil(proof)}, config.run_dir / "training.0.ckpt")
    with pytest.warns(UserWarning, match="damaged"):
        assert execute(config, quiet=True).state == "done"
    assert not proof.exists()


def test_arrays_that_hold_pickles(tmp_path: Path) -> None:
    from ebmbench.tasks.regression import figures

    config = compose([*small("sm", "trainer.epochs=1"), f"results_dir={tmp_path / 'r'}"])
    execute(config, quiet=True)
    proof = tmp_path / "executed"
    np.savez(config.run_dir / "densities.npz", x=np.array([Evil(proof)], dtype=object))
    with pytest.raises((ValueError, KeyError)):
        figures.figures("sm", "data", config.run_dir)
    assert not proof.exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch PROOF']",
        "task: !!python/name:os.system",
        "a: &a [*a]",
        "? {a: b}\n: c",
        "2020-13-45: 1",
        "\0",
        "[" * 3000,
        "1: 2",
        "task: {1: 2, name: 1d}",
        "- a",
        "",
    ],
)
def test_a_made_up_config(text: str, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    with pytest.raises(UserError):
        RunConfig.from_yaml(text.replace("PROOF", str(proof)))
    assert not proof.exists()


def test_no_resolver_is_evaluated_in_a_config_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    raw = compose(["task=1d", "method=nce+"]).to_dict()
    raw["results_dir"] = "${oc.env:SECRET}"
    config = RunConfig.from_yaml(yaml.safe_dump(raw))
    assert config.launch.results_dir == "${oc.env:SECRET}" and "hunter2" not in config.to_yaml()
    raw["trainer"]["epochs"] = "${oc.decode:'3'}"
    with pytest.raises(UserError, match=r"trainer\.epochs"):
        RunConfig.from_yaml(yaml.safe_dump(raw))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": 99}', '{"schema": 2}', '{"schema": 2, "x": 2}', "\udcff", "[" * 99999]
)
def test_a_made_up_status(text: str, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"status\.json"):
        runs.read_status(tmp_path)
    if "99" in text:  # another version's is not damaged
        with pytest.raises(UserError, match="version 99"):
            runs.read_state(tmp_path)
    else:
        assert runs.read_state(tmp_path) == "damaged"


def test_the_project_has_no_call_that_unpickles_or_evaluates() -> None:
    """Every reader in the package says that it reads data."""
    forbidden = {
        r"\bpickle\.(load|loads|Unpickler)": "",
        r"torch\.load\(": "weights_only=True",
        r"np\.load\(": "allow_pickle=False",
        r"yaml\.(load|full_load|unsafe_load)\(": "Loader=_Loader)  # a safe loader",
        r"(?<![\w.])(eval|exec)\(": "",
        r"read_pickle|joblib\.load|allow_pickle=True|weights_only=False|shell=True|os\.system": "",
    }
    for path in PACKAGE.rglob("*.py"):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            for pattern, unless in forbidden.items():
                if re.search(pattern, line) and not (unless and unless in "".join(lines[number : number + 3])):
                    pytest.fail(f"{path}:{number + 1}: {line.strip()}")
