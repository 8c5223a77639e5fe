"""A plug-in's method in a sweep: frozen when it is submitted, and shown beside the project's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ebmbench.core.errors import UserError
from ebmbench.report.planned import read_plan
from ebmbench.sweep.plan import make_plan, write_plan
from tests.processes import Command

SOURCE = '''
import torch
from pydantic import Field
from torch import Tensor
from ebmbench import Method, register

@register
class Mine(Method):
    """Pulls the target's energy up, and a shifted one's down."""

    name = "{name}"
    color, marker = "#123456", "P"
    shift: float = Field(0.3, gt=0, description="s, how far the other target is")

    def loss(self, energy, y, step) -> Tensor:
        candidates = torch.stack((y, y + self.shift), dim=-2)
        f = energy(candidates)
        return torch.nn.functional.softplus(f[..., 1] - f[..., 0])
'''
SWEEP = """\
# @package _global_
defaults:
  - override /size: smoke
  - override /task: 1d
seeds: 2
plugins: [my_method.py]
hydra: {sweeper: {params: {method: 'nce,NAME'}}}
sweep: {name: own, tables: [scores, comparisons], figures: [strip]}
"""


def place(folder: Path, name: str) -> Path:
    (folder / "sweeps").mkdir()
    (folder / "my_method.py").write_text(SOURCE.format(name=name))
    (folder / "sweeps" / "own.yaml").write_text(SWEEP.replace("NAME", name))
    return folder


def test_an_edited_plug_in_changes_nothing_that_was_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place(tmp_path, "frozen"))
    made = make_plan("own", [], None)
    plan = write_plan(made, tmp_path / "results")
    (tmp_path / "my_method.py").write_text("raise RuntimeError('edited')")
    job = next(job for job in plan.jobs if job.config["method"]["name"] == "frozen")
    (copy,) = job.config["plugins"]
    assert Path(copy).parent.parent == tmp_path / "results" / "sweeps" / "own" / "plugins"
    assert Path(copy).read_text() == SOURCE.format(name="frozen")
    config = job.run_config(tmp_path / "results")
    assert config.run_id == job.run_id and config.method.name == "frozen"
    # The folder can be moved: the plan names copies from its own place.
    (tmp_path / "results").rename(tmp_path / "moved")
    moved = read_plan(tmp_path / "moved", "own")
    assert moved.jobs[0].config["plugins"][0].startswith(str(tmp_path / "moved"))
    raw = json.loads((tmp_path / "moved" / "sweeps" / "own" / "plan.json").read_text())
    assert raw["jobs"][0]["config"]["plugins"][0].startswith("plugins/")


def test_a_copy_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place(tmp_path, "changed"))
    plan = write_plan(make_plan("own", [], None), tmp_path / "results")
    job = next(job for job in plan.jobs if job.config["method"]["name"] == "changed")
    copy = Path(job.config["plugins"][0])
    copy.write_text(copy.read_text().replace('"changed"', '"changed_too"'))
    forged = {**job.config, "method": {"name": "changed_too", "shift": 0.3}}
    with pytest.raises(UserError, match="damaged"):
        type(job)(job.run_id, job.run_hash, job.config_hash, {}, forged).run_config(tmp_path / "results")


def test_a_plug_in_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place(tmp_path, "absent"))
    (tmp_path / "my_method.py").unlink()
    with pytest.raises(UserError, match=r"my_method\.py is not a file"):
        make_plan("own", [], None)


def test_a_plug_in_trains_and_stands_beside_the_others(tmp_path: Path) -> None:
    """Every command in a process of its own, as a user types them."""
    place(tmp_path, "mine")

    def ebmbench(*words: str) -> str:
        command = Command([*words], tmp_path / f"{words[0]} {words[1]}.log", folder=tmp_path)
        assert command.wait() == 0, command.output
        return command.output

    ebmbench("sweep", "submit", "own", "device=cpu")
    (tmp_path / "my_method.py").unlink()  # what was submitted has its copy
    ebmbench("sweep", "collect", "own")
    text = (tmp_path / "results" / "own" / "tables.md").read_text()
    assert "| mine | " in text and "4 of 4 seeds" in text
    assert ebmbench("sweep", "resume", "own").count("0 to run") == 1
    ebmbench("report", "own")
    page = (tmp_path / "results" / "own" / "report.html").read_text()
    assert page.count("var(--c123456, #123456)") > 2 and "#123456" in page.split('id="strip"')[1]
    assert "--c123456: #" in page  # too dark for dark paper
    # Without the raw runs and the plan: the tables alone.
    shutil.rmtree(tmp_path / "results" / "sweeps")
    shutil.rmtree(tmp_path / "results" / "runs")
    assert "own: every table follows" in ebmbench("audit", "tables", "own")
