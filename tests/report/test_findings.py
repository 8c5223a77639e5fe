"""What documents and pages say of results follows from their tables."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import claims
from ebmbench.report import collected, findings, frame, tables
from tests.report.test_tables import frame_of, noisy

ROOT = Path(__file__).parent.parent.parent


def tracked(root: Path) -> list[Path]:
    """The collected sweeps that git tracks, for others are the user's own; all of them where there is no git."""
    try:
        words = ["git", "-C", str(root), "ls-files", "results/*/sweep.json"]
        names = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split("\n")[:-1]
    except (OSError, subprocess.CalledProcessError):
        return sorted(path.parent for path in (root / "results").glob("*/sweep.json"))
    return [(root / name).parent for name in names]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results without the sweeps that are the user's own."""
    folder, sweeps = tmp_path_factory.mktemp("results"), tracked(ROOT)
    for path in (ROOT / "results").iterdir():
        if path in sweeps or not (path / "sweep.json").exists():
            (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("has_git", [True, False])
def test_the_sweeps_of_a_user_are_not_those_of_the_project(has_git: bool, tmp_path: Path) -> None:
    for name in ("paper_1d", "smoke"):
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "sweep.json").write_text("{}")
    if has_git:
        for words in (["init", "-q"], ["add", "results/paper_1d"]):
            subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    assert [path.name for path in tracked(tmp_path)] == (["paper_1d"] if has_git else ["paper_1d", "smoke"])


@pytest.mark.parametrize("document", claims.DOCUMENTS)
def test_every_sentence_is_the_one_that_the_command_writes(document: str, results: Path) -> None:
    mark, text = claims.DOCUMENTS[document]
    written = (ROOT / document).read_text()
    assert claims.replaced(written, mark, text(results)) == written, "run python -m benchmarks claims"


@pytest.mark.parametrize("folder", tracked(ROOT), ids=lambda folder: folder.name)
def test_every_committed_table_follows_from_its_seeds(folder: Path) -> None:
    made = tables.build(frame.load(folder))
    stale = [name for name, text in made.items() if (folder / name).read_text() != text]
    assert not stale, f"run python -m ebmbench sweep tables {folder.name}"
    others = {path.name for path in folder.glob("*.csv")} - set(made)
    assert others <= {"runs.csv", "trials.csv", "tuning.csv"}


def write_runs(runs: pd.DataFrame, folder: Path) -> None:
    """Writes runs.csv and seals it, as a collected sweep is."""
    runs.to_csv(folder / "runs.csv", index=False)
    collected.reseal(folder)


@pytest.mark.parametrize("text", [claims.results_text, claims.findings_text])
def test_another_result_is_another_sentence(text: Callable[[Path], str], tmp_path: Path) -> None:
    folder = tmp_path / "paper_1d"
    folder.mkdir()
    source = ROOT / "results" / "paper_1d"
    (folder / "sweep.json").write_text((source / "sweep.json").read_text())
    runs = frame.read_runs_csv((source / "runs.csv").read_text())
    first = text(source.parent)
    assert "`ml-is` has the best mean D_KL over 20 seeds on one draw of the training data" in first
    runs["trusted"] = 1
    runs.loc[runs["method"] == "sm", "d_kl"] = pd.Series(range(len(runs))).mul(1e-5).add(1e-3)
    write_runs(runs, folder)
    changed = text(tmp_path)
    assert "`sm` has the best mean" in changed and "`ml-is` has the best mean" not in changed
    write_runs(runs[runs["seed"] < 3], folder)
    assert "worse (p <" not in text(tmp_path)  # three seeds show nothing
    assert "Too few seeds (3) for 21 comparisons (10 needed)." in text(tmp_path)


def test_a_mean_with_doubtful_seeds_is_marked(tmp_path: Path) -> None:
    folder = tmp_path / "paper_1d"
    folder.mkdir()
    source = ROOT / "results" / "paper_1d"
    (folder / "sweep.json").write_text((source / "sweep.json").read_text())
    runs = frame.read_runs_csv((source / "runs.csv").read_text())
    runs["trusted"] = 1
    write_runs(runs, folder)
    assert "≥" not in claims.results_text(tmp_path)
    first = (runs["method"] == "nce") & (runs["dataset"] == "1")
    runs.loc[first & (runs["seed"] == 0), ["d_kl", "trusted"]] = 2.0, 0
    write_runs(runs, folder)
    text = claims.results_text(tmp_path)
    assert text.count("≥") == 2 and "≥ 0." in text and "a lower bound" in text  # nce on the first dataset, the legend


def found(rows: pd.DataFrame, axes: tuple[str, ...] = ()) -> str:
    (finding,) = findings.findings(frame.Results("made", rows, axes))
    return finding.text


def test_what_a_test_cannot_tell_is_called_not_significant() -> None:
    text = found(frame_of({("nce",): noisy(0.1, 20), ("sm",): noisy(0.1, 20, 1), ("dsm",): noisy(0.3, 20, 2)}))
    assert (
        "`dsm` is worse (p < 0.05, paired by seed, Holm over 3 comparisons). Not significantly different from it: "
        in text
    )
    text = found(frame_of({("nce",): noisy(0.1, 20), ("dsm",): noisy(0.3, 20, 2)}))
    assert text.startswith("`nce` has the best mean D_KL over 20 seeds on one draw of the training data, 0.09")
    assert text.endswith("Holm over 1 comparisons).") or text.endswith("comparison).")


def test_a_row_of_the_guide_holds_what_its_sentence_says() -> None:
    rows = frame_of({("nce",): noisy(0.1, 20), ("sm",): noisy(0.1, 20, 1), ("dsm",): noisy(0.3, 20, 2)})
    (finding,) = findings.findings(frame.Results("made", rows, ()))
    (verdict,) = finding.verdicts
    best = verdict.best.partition(",")[0]
    assert finding.text.startswith(f"{best} has the best mean") and {best, verdict.open} == {"`nce`", "`sm`"}
    assert verdict.worse == "`dsm`" and not verdict.note
    few = frame_of({(m, k): noisy(k, 5) for m in ("nce", "sm", "dsm") for k in (4, 16)}, ("method.num_samples",))
    (finding,) = findings.findings(frame.Results("made", few, ("method.num_samples",)))
    assert [(v.at, v.open, v.worse) for v in finding.verdicts] == [(at, "all others", "–") for at in ("4", "16")]
    assert finding.setting == "M" and "Too few seeds (5)" in finding.verdicts[0].note


def test_what_a_sweep_has_no_runs_of_is_named() -> None:
    """Where it was not run, nobody can say that it is worse than the best one."""
    rows = frame_of({("nce",): noisy(0.1, 20), ("sm",): noisy(0.3, 20, 1), ("dsm",): noisy(0.2, 20, 2)})
    other = rows[rows["method"] != "dsm"].assign(dataset="2")
    both = pd.concat([rows, other], ignore_index=True)
    one, two = findings.findings(frame.Results("made", both, (), sweep="made"))
    assert "Without" not in one.text and two.text.endswith("). Without `dsm`, which has no runs here.")
    assert two.verdicts[0].note == "Without `dsm`, which has no runs here."
    assert "Without" not in findings.findings(frame.Results("made", both, ()))[1].text  # no sweep: any runs at all
    axes = ("method.num_samples",)
    grid = frame_of({(m, k): noisy(k, 9) for m in ("nce", "dsm", "ed") for k in (4, 16) if (m, k) != ("nce", 16)}, axes)
    (finding,) = findings.findings(frame.Results("made", grid, axes, sweep="made"))
    assert finding.text.endswith("At M = 16: Without `nce`, which has no runs here.")


def test_a_sweep_that_is_half_collected_is_compared_over_the_seeds_that_all_have() -> None:
    """The first five seeds are lucky for all; the method that has only these is not the best for it."""
    lucky = [0.0] * 5 + [1.0] * 15
    nce, sm = ([value + m for value in lucky] for m in (0.1, 0.5))
    (finding,) = findings.findings(
        frame.Results("made", frame_of({("nce",): nce, ("sm",): sm, ("dsm",): [0.2] * 5}), ())
    )
    assert "`nce` has the best mean D_KL over 5 seeds" in finding.text and "worse" not in finding.text
    assert finding.text.endswith("Too few seeds (5) for 3 comparisons (7 needed).")
    assert finding.values == "`nce` 0.1000, `dsm` 0.2000, `sm` 0.5000"


def test_many_methods_and_equal_ones() -> None:
    text = found(frame_of({(f"m{i:02d}",): noisy(i, 20, i) for i in range(40)}))
    assert text.endswith("Too few seeds (20) for 780 comparisons.")  # not: so few seeds
    equal = frame_of({("nce",): [0.1, 0.2] * 10, ("sm",): [0.2, 0.1] * 10, ("dsm",): [0.3, 0.4] * 10})
    table = next(tables.score_tables(equal, (), {}))
    assert [row[1].mark for row in table.rows] == ["best", "", "best"]  # nce, dsm, sm
    assert "Not significantly different from it: `sm`." in found(equal)
    assert "`a b` has the best mean" in found(frame_of({("a`b",): noisy(0.1, 9), ("a|c",): noisy(0.2, 9)}))


def test_a_method_that_diverges_is_not_ranked_and_one_alone_is_not_compared() -> None:
    text = found(frame_of({("nce",): noisy(0.1, 9), ("sm",): noisy(0.2, 9), ("dsm",): [math.nan, *noisy(0.05, 8)]}))
    assert "`nce` has the best mean" in text and text.endswith(
        "dsm is not ranked: it has no value at 1 of the 9 seeds."
    )
    assert "Nothing is compared with it." in found(frame_of({("nce",): noisy(0.1)}))
    unsure = frame_of({("nce",): noisy(0.1, 9), ("sm",): noisy(0.2, 9), ("dsm",): noisy(0.05, 9)})
    unsure.loc[unsure["method"] == "dsm", "trusted"] = 0
    text = found(unsure)
    assert "`nce` has the best mean" in text and "Not significantly different from it: `dsm`" in text
    assert found(unsure.assign(trusted=0)).startswith("There is no ranking by mean D_KL over 9 seeds")
    text = found(frame_of({("nce",): [0.1], ("sm",): [0.2]}))
    assert text.startswith("There is no ranking by mean D_KL over 1 seed on one draw")


def test_settings_and_draws_of_the_data_are_said_as_what_they_are() -> None:
    values = {("nce+", beta): noisy(1 + beta, 20, round(100 * beta)) for beta in (0.01, 0.4)}
    assert found(frame_of(values, ("method.beta",)), ("method.beta",)).startswith("β = 0.01 has the best mean D_KL")
    grid = {(m, k): noisy(1 / k + (m == "nce") * (k - 8), 20, k) for m in ("nce", "ml-is") for k in (4, 16)}
    text = found(frame_of(grid, ("method.num_samples",)), ("method.num_samples",))
    assert "of the training data: `nce` at 4, `ml-is` at 16. At M = 4 and 16 it is significantly better than" in text
    unsure = frame_of(grid, ("method.num_samples",)).assign(trusted=lambda rows: (rows["method.num_samples"] == 4) * 1)
    assert "At M = 16: No best one: each has unreliable values" in found(unsure, ("method.num_samples",))
    tried = {(m, k): noisy(1 + (m == "sm"), n, n) for m in ("nce", "sm") for k, n in ((4, 9), (16, 1))}
    text = found(frame_of(tried, ("method.num_samples",)), ("method.num_samples",))
    assert (
        "At M = 4 it is significantly" in text and "At M = 16: No ranking" in text
    )  # one seed more takes none from M = 4
    rng = np.random.default_rng(0)
    drawn = {(m, d): (v + rng.normal(0, 0.01, 4)).tolist() for m, v in (("nce", 1), ("sm", 2)) for d in range(8)}
    text = found(frame_of(drawn, ("data.data_seed",)), ("data.data_seed",))
    assert "`nce` has the best mean D_KL over 8 draws of the training data, 4 seeds each" in text
    assert "paired by draw" in text and text.endswith("rankings of two draws: 1.00.")
    other = frame_of({("nce", 3): noisy(0.1, 9), ("sm", 3): noisy(0.2, 9)}, ("data.data_seed",)).assign(dataset="2")
    both = pd.concat([frame_of(drawn, ("data.data_seed",)), other], ignore_index=True)
    one, two = findings.findings(frame.Results("made", both, ("data.data_seed",)))
    assert one.text == text and "over 9 seeds on one draw" in two.text  # the second dataset was drawn once


def test_the_ten_draws_of_the_training_data_are_among_the_findings(results: Path) -> None:
    text = claims.findings_text(results)
    assert "over 10 draws of the training data, 5 seeds each" in text
    assert "mean gain in AP over 2 draws of the base detector, 3 seeds each" in text  # the metric asked for first


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- results -->"):
        claims.replaced("nothing", "results", "text\n")
