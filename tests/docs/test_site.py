"""The documents build as a site, without a warning, and the site asks nobody else for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ebmbench
from tests.docs_runner import ROOT


def test_the_reference_has_every_name_of_the_interface() -> None:
    named = re.findall(r"^::: ebmbench\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(ebmbench.__all__)


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    assert {"index.html", "api/index.html", "gallery/index.html", "troubleshooting/index.html"} <= set(pages)
    assert "Returns the trained models" in pages["api/index.html"] or "trained model" in pages["api/index.html"]
    figures = re.findall(r'<img [^>]*src="([^"]+)"', pages["gallery/index.html"])
    assert len(figures) > 10 and all((site / "gallery" / name).resolve().is_file() for name in figures)
    for name, text in pages.items():
        loaded = re.findall(
            r'<(?:script|img|link rel="(?:stylesheet|preload)")[^>]*(?:src|href)="(https?:[^"]+)"', text
        )
        assert not loaded, (name, loaded)
