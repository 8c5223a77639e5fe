"""What the README says of results follows from the committed tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ebmbench.report import claims, frame

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("document", "mark", "text"),
    [("README.md", "results", claims.results_text), ("docs/speed.md", "speed", claims.speed_text)],
)
def test_every_sentence_is_the_one_that_the_command_writes(document: str, mark: str, text: object) -> None:
    written = (ROOT / document).read_text()
    assert claims.replaced(written, mark, text(ROOT / "results")) == written, (  # type: ignore[operator]
        "run python -m ebmbench report claims"
    )


def test_another_result_is_another_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "paper_1d"
    folder.mkdir()
    source = ROOT / "results" / "paper_1d"
    (folder / "sweep.json").write_text((source / "sweep.json").read_text())
    runs = frame.read_runs_csv((source / "runs.csv").read_text())
    first = claims.results_text(source.parent)
    assert "`ml-is` has the best mean" in first
    runs.loc[runs["method"] == "sm", "d_kl"] = pd.Series(range(len(runs))).mul(1e-5).add(1e-3)
    runs.to_csv(folder / "runs.csv", index=False)
    changed = claims.results_text(tmp_path)
    assert "`sm` has the best mean" in changed and "`ml-is` has the best mean" not in changed
    runs[runs["seed"] < 3].to_csv(folder / "runs.csv", index=False)
    assert "Worse than it" not in claims.results_text(tmp_path)  # three seeds decide nothing


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- results -->"):
        claims.replaced("nothing", "results", "text\n")
