"""A suite from its file to the board."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebmbench.config import folders
from ebmbench.core.errors import UserError
from ebmbench.suite import board
from ebmbench.suite import suite as suites
from ebmbench.suite.receive import receive
from ebmbench.suite.received import read_received
from ebmbench.suite.tables import tables

FROZEN = {"ebm-1d-v1": "b543535b674deb067cb97a998427227e", "ebm-table-v1": "7be559b35bb3121a11ee9f64db6f4ef3"}
"""The hash of each suite. A change of a suite is a new version: these never change."""


@pytest.mark.parametrize("name", FROZEN)
def test_a_published_suite_is_what_it_was(name: str) -> None:
    assert suites.read(name).sha256 == FROZEN[name]


@pytest.mark.parametrize(("name", "count", "seeds"), [("ebm-1d-v1", 10, 4), ("ebm-table-v1", 24, 2)])
def test_cells_of_the_published_suites(name: str, count: int, seeds: int) -> None:
    cells = suites.cells(suites.read(name), is_trials=False)
    assert len(set(cells)) == len(cells) == count and {cell[2] for cell in cells} == {seeds}


def test_every_suite_has_a_hash_above() -> None:
    own = Path(folders.share_dir()) / "sweeps" / "suites"
    assert {path.stem for path in own.glob("*.yaml")} == set(FROZEN)


def test_a_comment_is_no_part_of_a_suite(submission: Path, made: Path) -> None:
    before = suites.read("tiny-v1").sha256
    path = made / "conf" / "sweeps" / "suites" / "tiny-v1.yaml"
    text = path.read_text()
    try:
        path.write_text(text + "# a comment\n")
        assert suites.read("tiny-v1").sha256 == before
        path.write_text(text.replace("trials: 2", "trials: 3"))
        assert suites.read("tiny-v1").sha256 != before
    finally:
        path.write_text(text)


@pytest.mark.parametrize("word", ["trainer.epochs=9", "data.num_train=9", "seeds=1", "method=nce,sm", "method=${x}"])
def test_an_entry_sets_nothing_that_is_the_suites(word: str) -> None:
    with pytest.raises(UserError, match="not allowed in a suite"):
        suites.entry_of(["method=nce", word], [])


def test_an_entry_is_the_one_method_of_its_plug_in(made: Path) -> None:
    assert suites.entry_of([], [str(made / "own.py")]).words == ("method=ml-own",)


def test_trials_are_on_a_draw_of_their_own(submission: Path) -> None:
    suite = suites.read("tiny-v1")
    trials, found = (set(suites.cells(suite, is_trials)) for is_trials in (True, False))
    assert trials.isdisjoint(found)


def test_a_submission_is_verified(submission: Path, tmp_path: Path) -> None:
    record = receive(submission, tmp_path / "r", 1)
    assert record.level == "verified", record.notes
    assert read_received(tmp_path / "r") == [record]
    assert len(record.rows) == 2 and record.author == "A. Stranger"


def test_the_board_shows_level_cost_and_failures(submission: Path, tmp_path: Path) -> None:
    receive(submission, tmp_path / "r", 0)
    paths = board.write(tmp_path / "r", tmp_path / "board")
    assert {path.name for path in paths} == {"index.html", "tiny-v1.html", "tiny-v1.csv"}
    page = (tmp_path / "board" / "tiny-v1.html").read_text()
    assert "ml-own" in page and "rescored" in page and "0 of 2" in page and "energy evaluations" in page
    assert "http://" not in page and "https://" not in page


def test_a_diverged_seed_is_a_failure_on_the_board(submission: Path, tmp_path: Path) -> None:
    record = receive(submission, tmp_path / "r", 0)
    record.rows[0]["diverged"] = 1
    made = {table.title: table for table in tables(suites.read("tiny-v1"), [record], board.rows_of([record]))}
    assert made["Failures"].rows[0][2].text == "diverged"
    assert made["Ranking"].rows[0][-1].text == "1 of 2"


def test_a_run_that_failed_is_on_the_board_and_not_ranked(submission: Path, tmp_path: Path) -> None:
    record = receive(submission, tmp_path / "r", 0)
    for row in record.rows:
        row |= {"state": "missing", "d_kl": None, "diverged": None, "trusted": None}
    made = {table.title: table for table in tables(suites.read("tiny-v1"), [record], board.rows_of([record]))}
    assert made["Failures"].rows[0][2].text == "missing"
    assert made["Ranking"].rows[0][-1].text == "2 of 2" and made["Ranking"].rows[0][2].text == "–"


def test_an_entry_over_its_budget_is_not_ranked(submission: Path, tmp_path: Path) -> None:
    record = receive(submission, tmp_path / "r", 0)
    for row in record.rows:
        row["energy_evaluations"] = 2e6
    made = tables(suites.read("tiny-v1"), [record], board.rows_of([record]))
    assert made[0].rows[0][2].text == "over budget"
