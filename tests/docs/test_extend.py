"""docs/extend.md works as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs_runner import ROOT, run_document


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_file_and_command_of_the_document(tmp_path: Path) -> None:
    outputs = run_document(ROOT / "docs" / "extend.md", tmp_path)
    assert len(outputs) == 10 and sum("all checks pass" in output for output in outputs) == 7
