"""The documents say what is there: pages made from the classes, and links that lead somewhere."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pandas as pd
import pytest

import ebmbench
import ebmbench.boxes
from ebmbench.cli.main import main
from ebmbench.core import registry
from tests.docs_runner import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/*.md")]


def test_the_page_of_methods_is_made_from_the_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "method", "--markdown"]) == 0
    made = capsys.readouterr().out
    assert (ROOT / "docs" / "methods.md").read_text() == made, "make it again: the command is in its first paragraph"


def test_every_component_can_be_described(capsys: pytest.CaptureFixture[str]) -> None:
    for group, components in registry.groups().items():
        for name, cls in components.items():
            assert main(["describe", group, name]) == 0
            said = capsys.readouterr().out
            assert said.startswith(f"{group}={name}\n")
            assert f"\nfile: {inspect.getfile(cls)}\n" in said
            assert all(f".{field}" in said or field in said for field in cls.model_fields)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_no_file_cites_one_that_is_not_there() -> None:
    """Names such as `docs/data.md` and `conf/noise/1d/nce+.yaml` in code, YAML and documents.

    docs/extend.md names files that it makes; a test runs it. NAME stands for any.
    """
    pattern = re.compile(r"\b((?:docs|conf|sweeps|ebmbench|tests)/[\w./-]+\.(?:md|py|yaml|csv))\b")
    files = [*DOCUMENTS, *ROOT.glob("ebmbench/**/*.py"), *ROOT.glob("conf/**/*.yaml"), *ROOT.glob("sweeps/*.yaml")]
    cited = {(name, path.name) for path in files for name in pattern.findall(path.read_text())}
    cited = {(name, path) for name, path in cited if path != "extend.md" and "NAME" not in name}
    assert len(cited) > 10
    assert {pair for pair in cited if not (ROOT / pair[0]).exists()} == set()


def test_documents_import_public_names_alone() -> None:
    """`ebmbench` and `ebmbench.boxes` give public names; every other module is private."""
    blocks = [
        block for path in DOCUMENTS for block in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.S | re.M)
    ]
    imports = [
        node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    modules = [node.module or "" for node in imports if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names]
    assert "ebmbench" in modules
    public = {"ebmbench": ebmbench.__all__, "ebmbench.boxes": ebmbench.boxes.__all__}
    assert [name for name in modules if name.startswith("ebmbench.") and name not in public] == []
    for node in imports:
        if isinstance(node, ast.ImportFrom) and node.module in public:
            assert {alias.name for alias in node.names} <= set(public[node.module])


def test_what_is_said_of_few_images_follows_from_the_runs() -> None:
    folders = ("detection_sizes", "detection_sizes_bccd")
    runs = pd.concat([pd.read_csv(ROOT / "results" / name / "runs.csv") for name in folders])
    frozen, accepted = runs["task.head.frozen"], runs["accepted"] == 1
    gains, loses = runs["head_gain_low"] > 0, runs["head_gain_high"] < 0
    assert len(runs) == 48
    page = " ".join((ROOT / "docs" / "detection.md").read_text().split())
    assert loses[~frozen].sum() == 0 and gains[frozen & (runs["dataset"] == "bccd")].sum() == 0
    assert (
        f"free layers {gains[~frozen].sum()} of {(~frozen).sum()} heads gain and none loses; with frozen ones " in page
    )
    assert f"{gains[frozen].sum()} of {frozen.sum()} gain and {loses.sum()} loses, and on bccd none of the 8" in page
    assert loses[accepted].sum() == 0 and (runs["other_gain_high"] < 0).sum() == 0
    assert f"accepted {accepted.sum()} of the 48: {gains[accepted].sum()} of them gain, and none loses." in page
    assert f"score none of the 48 loses, and {(runs['other_gain_low'] > 0).sum()} gain." in page
