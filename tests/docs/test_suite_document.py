"""docs/suite.md works as it is written, and its table is that of the suites."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ebmbench.cli.parser import parse
from ebmbench.config import folders
from ebmbench.suite import suite as suites
from tests.docs_runner import ROOT, run_document

DOCUMENT = ROOT / "docs" / "suite.md"


@pytest.mark.slow
def test_every_file_and_command_of_the_document(tmp_path: Path) -> None:
    (output,) = run_document(DOCUMENT, tmp_path)
    assert "all checks pass" in output and "ml-own in NAME-v1, by unnamed: verified" in output
    assert "ml-own" in (tmp_path / "results" / "board" / "NAME-v1.html").read_text()


def test_the_other_commands_can_be_read() -> None:
    lines = re.findall(r"^python -m ebmbench (suite .+)", DOCUMENT.read_text(), re.M)
    assert {parse(shlex.split(line)).command.name for line in lines} == {"suite run", "suite receive", "suite build"}


@pytest.mark.parametrize("name", sorted(path.stem for path in (folders.share_dir() / "sweeps/suites").glob("*.yaml")))
def test_the_table_of_suites(name: str) -> None:
    suite = suites.read(name)
    assert suite.about.tune is not None
    models = sum(cell[2] for cell in suites.cells(suite, is_trials=False))
    (row,) = re.findall(rf"^\| `{name}` .*$", DOCUMENT.read_text(), re.M)
    assert f"| {suite.about.tune.trials} on each" in row and row.endswith(f"| {models} models |")
