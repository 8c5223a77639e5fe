"""What the subcommands read, made up: one sentence and exit code 2, and no trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebmbench.cli.main import main
from ebmbench.core.errors import UserError
from ebmbench.report.planned import read_plan
from ebmbench.system.seal import encode as sealed_json
from tests.sweep.made import made_plan

Raw = dict[str, Any]


def _set(*path: Any) -> Callable[[Raw], None]:
    *keys, last, value = path

    def change(raw: Raw) -> None:
        place: Any = raw
        for key in keys:
            place = place[key]
        place[last] = value

    return change


PLANS = [
    _set("name", "/etc"),
    _set("name", ".."),
    _set("name", 3),
    _set("description", ["x"]),
    _set("created", 3),
    _set("commit", [3]),
    _set("tables", 3),
    _set("figures", [3]),
    _set("axes", [3]),
    _set("overrides", [3]),
    _set("jobs", 3),
    _set("jobs", []),
    _set("jobs", [[1, 2]]),
    _set("jobs", 0, "run_id", "/etc"),
    _set("jobs", 0, "run_id", ".."),
    _set("jobs", 0, "axes", []),
    _set("jobs", 0, "config", []),
    _set("jobs", 0, "config", "task", 3),
    _set("jobs", 0, "config", "trainer", 3),
    _set("jobs", 0, "config", "method", {"name": 3}),
    _set("jobs", 0, "config", "seeds", "all"),
    _set("jobs", 0, "config", "plugins", 3),
]


@pytest.mark.parametrize("change", PLANS)
def test_a_made_up_plan(change: Callable[[Raw], None], tmp_path: Path) -> None:
    made_plan(tmp_path)
    path = tmp_path / "sweeps" / "made" / "plan.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_bytes(sealed_json(raw))
    with pytest.raises(UserError, match=r"plan\.json is damaged|is no list"):
        read_plan(tmp_path, "made")


SWEEPS: list[tuple[str | bytes | None, str]] = [
    ("", "begins with the line '# @package _global_'"),
    ("trainer: {epochs: 3}", "begins with the line '# @package _global_'"),
    ("# @package _global_", "has no `sweep:`"),
    ("# @package _global_\nsweep: {name: ..}", "sweep.name='..' is not allowed"),
    ("[" * 5000, "cannot be read"),
    ("- a", "cannot be read"),
    ("text", "cannot be read"),
    ("a: &a [*a]", "cannot"),
    ("# @package _global_\nhydra: 3", "HydraConf"),
    ("sweep: [", "line 2"),
    (b"\xff\0", "cannot be read"),
    (None, "is not known"),
    ("# @package _global_\nsweep: [a]", "sweep=['a'] is not allowed"),
    ("# @package _global_\nseeds: 1\nseeds: 2", "the key seeds is there twice, line 3"),
    ("# @package _global_\n\t- a", "line 2"),
    ("# @package _global_\nhydra: {sweeper: {params: [1]}}", "Cannot merge DictConfig with ListConfig"),
    ("# @package _global_\nhydra: {sweeper: {params: {method: }}}", "'hydra.sweeper.params.method' is not Optional"),
    ("# @package _global_\ndefaults: abc", "defaults must be a list"),
    ("# @package _global_\ndefaults: [/sweeps/own]", "recursion"),
]


@pytest.mark.parametrize(("text", "words"), SWEEPS)
def test_a_made_up_sweep_file(
    text: str | bytes | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (path := tmp_path / "sweeps" / "own.yaml").parent.mkdir()
    if text is None:
        path.mkdir()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["sweep", "submit", "own"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ebmbench: ") and said.count("\n") == 1 and words in said


LONG = "x" * 5000


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "status", LONG],
        ["report", "page", LONG],
        ["audit", "files", f"results_dir={LONG}"],
        ["task=1d", "method=nce", f"plugins=[{LONG}.py]"],
        ["task=1d", "method=nce", f"results_dir={LONG}"],
        ["task=regression", "data=table", f"data.path={LONG}", "data.targets=[y]", "method=nce"],
        ["--config-dir", LONG, "task=1d", "method=nce"],
        ["predict", LONG, "a.csv", "--out", "b.csv"],
        ["check", LONG],
    ],
)
def test_an_overlong_name(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("ebmbench: ")
