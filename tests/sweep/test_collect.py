"""From run directories to tables: what is counted, what is named and not counted, and what a check finds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ebmbench.audit import tables
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.report import frame, stats
from ebmbench.report.frame import Results
from ebmbench.report.planned import Job, Plan, read_plan
from ebmbench.sweep import collect
from ebmbench.sweep.plan import write_plan
from ebmbench.system.seal import encode as sealed_json
from tests.sweep.made import command, made_plan, make_done, make_status, seal, sweep

VALUES = {
    "nce+": [0.10, 0.12, 0.11, 0.13, 0.12, 0.10, 0.11, 0.12],
    "nce": [0.11, 0.12, 0.12, 0.12, 0.13, 0.11, 0.10, 0.13],
    "sm": [1.0, 1.1, 0.9, 1.2, 1.0, 1.3, 0.8, 1.0],
}


@pytest.fixture
def made(tmp_path: Path) -> Plan:
    plan = made_plan(tmp_path)
    for job in plan.jobs:
        make_done(job, tmp_path, VALUES[job.config["method"]["name"]])
    return plan


def collected(plan: Plan, folder: Path) -> Results:
    found = collect.collect(plan, folder)
    collect.write(plan, found, folder)
    return found


def test_the_tidy_table_has_a_row_per_run_and_seed_with_its_origin(made: Plan, tmp_path: Path) -> None:
    table = collect.collect(made, tmp_path).frame
    assert len(table) == 24
    row = table[(table["method"] == "nce") & (table["seed"] == 6)].iloc[0]
    assert (
        row["d_kl"] == 0.10 and row["run_id"] == made.jobs[1].run_id and row["config_hash"] == made.jobs[1].config_hash
    )
    assert (row["commit"], row["finished"], row["state"]) == ("0123456789ab", "2026-01-02T00:00:00+00:00", "done")


@pytest.mark.parametrize("key", ["data.root", "data.root", "data.path", "results_dir"])
def test_what_is_published_does_not_say_where_the_data_lay(key: str, made: Plan, tmp_path: Path) -> None:
    collected(dataclasses.replace(made, overrides=(f"{key}=/home/me/data", "seeds=8")), tmp_path)
    assert json.loads((tmp_path / "made" / "sweep.json").read_text())["overrides"] == [f"{key}=…", "seeds=8"]


def test_the_tables_say_what_the_numbers_are(made: Plan, tmp_path: Path) -> None:
    collected(made, tmp_path)
    text = (tmp_path / "made" / "tables.md").read_text()
    values = np.array(VALUES["nce+"])
    low, high = stats.mean_interval(values)
    assert f"**{values.mean():.4f}** [{low:.4f}, {high:.4f}]" in text  # the best mean
    assert "| not significant p = " in text and "<u>" not in text
    assert "| sm | 1.0375 [" in text  # neither; to the decimals of the column
    assert "| worse p = 0.023 |" in text  # 3 · 2 / 2⁸
    assert "| sm | 1.0000 [0.8000, 1.3000] | 0.8500 (2 of 8) | 0.00 | 8 |" in text
    assert "Sweep made. Made up." in text and "0123456789ab" in text and "2026-01-02" in text
    assert all(job.config_hash in text for job in made.jobs)
    # By validation NLL, which is made to point the wrong way, the worst quarter is chosen.
    audit = (tmp_path / "made" / "audit.csv").read_text()
    assert f"best_by_val,sm,{(1.3 + 1.2) / 2}," in audit


def test_a_table_in_latex_is_whole(made: Plan, tmp_path: Path) -> None:
    collected(made, tmp_path)
    text = (tmp_path / "made" / "tables.tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 6
    assert r"\textbf{0.1" in text and r"& 0.1175\,$_{" in text and "underline" not in text
    for block in text.split(r"\midrule")[1:]:
        rows = block.split(r"\bottomrule")[0].strip().splitlines()
        assert all(row.endswith(r" \\") for row in rows)
        assert len({row.count("&") for row in rows}) == 1
    unescaped = text.replace(r"\%", "").replace(r"\_", "").replace(r"\&", "")
    body = "\n".join(line for line in unescaped.splitlines() if not line.startswith("%"))
    assert "_{" in body and "%" not in body.replace("{!}{%", "")


def test_a_diverged_seed_is_counted_and_not_averaged(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, methods=("nce+", "nce"))
    make_done(plan.jobs[0], tmp_path, VALUES["nce+"], diverged={0: 17, 3: 5})
    make_done(plan.jobs[1], tmp_path, VALUES["nce"])
    found = collected(plan, tmp_path)
    assert [state.state for state in found.runs] == ["diverged", "done"]
    text = (tmp_path / "made" / "tables.md").read_text()
    mean = np.delete(np.array(VALUES["nce+"]), [0, 3]).mean()
    line = next(line for line in text.splitlines() if line.startswith(f"| nce+ | {mean:.4f}"))
    assert "†" in line and "| 8 2 diverged |" in text and "**" not in line
    assert "2 seeds diverged" in text


def test_columns_that_some_runs_lack_are_empty_there(made: Plan, tmp_path: Path) -> None:
    """Only kld-is counts underflows, and only since a version."""
    path = tmp_path / "runs" / made.jobs[1].run_id / "metrics.csv"
    table = pd.read_csv(path)
    table.assign(underflows=[5, *[0] * 7], underflow_step=[3, *[None] * 7]).to_csv(path, index=False)
    seal(path.parent)
    collected(made, tmp_path)
    table = frame.load(tmp_path / "made").frame
    assert table[table["method"] == "nce"]["underflows"].tolist() == [5, *[0] * 7]
    assert table[table["method"] != "nce"]["underflows"].isna().all() and table["underflow_step"].sum() == 3
    assert not tables.check("made", tmp_path)
    assert len(frame.find(["made"], tmp_path).frame) == 24


def test_half_a_sweep_is_collected_and_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = made_plan(tmp_path)
    make_done(plan.jobs[0], tmp_path, VALUES["nce+"])
    make_status(plan.jobs[1], tmp_path, "failed", error="RuntimeError: out of luck")
    assert sweep(["collect", "made", f"results_dir={tmp_path}"]) == 0
    said = capsys.readouterr()
    assert f"failed      {plan.jobs[1].run_id}  RuntimeError: out of luck" in said.err
    assert f"missing     {plan.jobs[2].run_id}" in said.err
    text = (tmp_path / "made" / "tables.md").read_text()
    assert "1 of 3 runs and 8 of 24 seeds" in text
    assert f"Not in them, failed: {plan.jobs[1].run_id}." in text and f"missing: {plan.jobs[2].run_id}." in text
    assert "| nce |" not in text.split("## Settings")[0]
    assert f"Not in them, failed: {plan.jobs[1].run_id}." in (tmp_path / "made" / "tables.tex").read_text()
    assert command("audit", "tables", "made", f"results_dir={tmp_path}") == 0


def test_nothing_done_yet_is_no_error(tmp_path: Path) -> None:
    plan = made_plan(tmp_path)
    collected(plan, tmp_path)
    assert "No run is done yet." in (tmp_path / "made" / "tables.md").read_text()
    assert command("audit", "tables", "made", f"results_dir={tmp_path}") == 0


@pytest.mark.parametrize(
    ("file", "keep"),
    [
        ("metrics.csv", 0.5),
        ("metrics.csv", 0.97),
        ("status.json", 0.5),
        ("environment.json", 0.0),
    ],
)
def test_a_truncated_file_is_named_and_never_counted(made: Plan, tmp_path: Path, file: str, keep: float) -> None:
    path = tmp_path / "runs" / made.jobs[0].run_id / file
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    found = collected(made, tmp_path)
    assert found.runs[0].state == "damaged" and file in found.runs[0].detail
    assert [state.state for state in found.runs[1:]] == ["done", "done"]
    text = (tmp_path / "made" / "tables.md").read_text()
    assert f"Not in them, damaged: {made.jobs[0].run_id}." in text and "| nce+ | " not in text.split("## Settings")[0]


@pytest.mark.parametrize("file", ["metrics.csv", "config.yaml", "status.json", "checkpoint.pt"])
def test_a_missing_file_is_named_and_never_counted(made: Plan, tmp_path: Path, file: str) -> None:
    (tmp_path / "runs" / made.jobs[0].run_id / file).unlink()
    found = collected(made, tmp_path)
    assert found.runs[0].state == "damaged" and file in found.runs[0].detail
    assert len(found.frame[found.frame["d_kl"].notna()]) == 16


def test_a_lost_row_is_no_smaller_run(made: Plan, tmp_path: Path) -> None:
    path = tmp_path / "runs" / made.jobs[0].run_id / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    state = collected(made, tmp_path).runs[0]
    assert state.state == "damaged" and "metrics.csv is not what the run wrote" in state.detail
    seal(path.parent)
    state = collected(made, tmp_path).runs[0]
    assert state.state == "damaged" and "7 seeds, and the run 8" in state.detail


def test_a_changed_digit_never_gets_into_a_table(made: Plan, tmp_path: Path) -> None:
    path = tmp_path / "runs" / made.jobs[0].run_id / "metrics.csv"
    text = path.read_text()
    path.write_text(text.replace("0.13", "0.14", 1))
    assert path.read_text() != text
    found = collected(made, tmp_path)
    assert found.runs[0].state == "damaged" and "metrics.csv is not what the run wrote" in found.runs[0].detail
    assert len(found.frame[found.frame["d_kl"].notna()]) == 16
    assert "0.14" not in (tmp_path / "made" / "runs.csv").read_text()


def test_a_damaged_checkpoint_keeps_its_run_out_of_tables_pages_and_checks(
    made: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"results_dir={tmp_path}"
    assert sweep(["collect", "made", place]) == 0 and command("audit", "tables", "made", place) == 0
    path = tmp_path / "runs" / made.jobs[0].run_id / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[::-1])
    assert command("audit", "tables", "made", place) == 1
    for words in (
        ["sweep", "collect", "made"],
        ["report", "made"],
        ["report", "figures", "made"],
        ["audit", "tables", "made"],
    ):
        capsys.readouterr()
        assert command(*words, place) == 1, words
        said = capsys.readouterr().err
        assert made.jobs[0].run_id in said and "checkpoint.pt is not what the run wrote" in said, words
    assert command("audit", "files", "--repair", place) == 0 and command("report", "made", place) == 0
    assert made.jobs[0].run_id not in (tmp_path / "made" / "scores.csv").read_text()


def test_a_run_of_another_version_is_no_result(made: Plan, tmp_path: Path) -> None:
    path = tmp_path / "runs" / made.jobs[0].run_id / "status.json"
    raw = json.loads(path.read_text())
    path.write_bytes(sealed_json({**raw, "schema": 99}))
    state = collected(made, tmp_path).runs[0]
    assert state.state == "damaged" and "version 99" in state.detail
    path.write_bytes(sealed_json({**raw, "run_hash": "another"}))
    assert collected(made, tmp_path).runs[0].state == "damaged"


@pytest.mark.parametrize("file", ["tables.md", "tables.tex", "scores.csv", "comparisons.csv"])
def test_check_finds_a_number_that_was_changed(
    made: Plan, tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    collected(made, tmp_path)
    assert command("audit", "tables", "made", f"results_dir={tmp_path}") == 0
    path = tmp_path / "made" / file
    text = path.read_text()
    path.write_text(text.replace("0.11", "0.10", 1) if "0.11" in text else text.replace("1", "2", 1))
    assert command("audit", "tables", "made", f"results_dir={tmp_path}") == 1
    assert file in capsys.readouterr().err


def test_check_works_from_a_clone_and_sees_changed_raw_runs(
    made: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collected(made, tmp_path)
    clone = tmp_path / "clone"
    (tmp_path / "made").rename(clone / "made") if clone.mkdir() is None else None
    assert command("audit", "tables", "made", f"results_dir={clone}") == 0  # no raw runs there
    runs = clone / "made" / "runs.csv"
    runs.write_text(runs.read_text().replace(",0.13,", ",0.12,", 1))
    assert command("audit", "tables", "made", f"results_dir={clone}") == 1
    assert "runs.csv is not what was written" in capsys.readouterr().err

    collected(made, tmp_path)
    metrics = tmp_path / "runs" / made.jobs[0].run_id / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("0.13", "0.14", 1))
    assert command("audit", "tables", "made", f"results_dir={tmp_path}") == 1
    assert "state='damaged'" in capsys.readouterr().err
    seal(metrics.parent)
    assert command("audit", "tables", "made", f"results_dir={tmp_path}") == 1
    assert (
        f"does not follow from {tmp_path}/runs/{made.jobs[0].run_id}: seed 3 has d_kl=0.14" in capsys.readouterr().err
    )


def test_seeds_of_one_setting_are_put_together_from_several_runs(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, methods=("nce",))
    config = RunConfig.from_dict(plan.jobs[0].config)
    jobs = []
    for seeds in ((0, 1, 2), (3, 4), (4, 5, 6, 7)):  # seed 4 twice
        part = dataclasses.replace(config, seeds=seeds)
        jobs.append(Job(part.run_id, part.run_hash, part.config_hash, {}, part.to_dict()))
        make_done(jobs[-1], tmp_path, [VALUES["nce"][seed] for seed in seeds])
    plan = dataclasses.replace(plan, jobs=tuple(jobs))
    write_plan(plan, tmp_path)
    assert sorted(collected(plan, tmp_path).frame["seed"]) == list(range(8))
    assert f"{np.mean(VALUES['nce']):.10g}" in (tmp_path / "made" / "scores.csv").read_text()


def test_a_run_of_fewer_seeds_stands_in_for_its_setting(tmp_path: Path) -> None:
    plan = made_plan(tmp_path)
    make_done(plan.jobs[0], tmp_path, VALUES["nce+"])
    config = dataclasses.replace(RunConfig.from_dict(plan.jobs[1].config), seeds=(0, 1, 2))
    part = Job(config.run_id, config.run_hash, config.config_hash, {}, config.to_dict())
    make_done(part, tmp_path, VALUES["nce"][:3])
    other = dataclasses.replace(config, seeds=(0, 99))  # not of this sweep's seeds
    make_done(Job(other.run_id, other.run_hash, other.config_hash, {}, other.to_dict()), tmp_path, [9.0, 9.0])
    found = collected(plan, tmp_path)
    rows = found.frame[found.frame["method"] == "nce"]
    assert rows["seed"].tolist() == list(range(8)) and rows["state"].tolist() == ["done"] * 3 + ["missing"] * 5
    assert set(rows["run_id"]) == {part.run_id, plan.jobs[1].run_id}
    text = (tmp_path / "made" / "tables.md").read_text()
    assert "11 of 24 seeds" in text and f"missing: {plan.jobs[1].run_id}, {plan.jobs[2].run_id}." in text
    summaries = text.partition("D_KL, other summaries")[2]
    line = next(line for line in summaries.splitlines() if line.startswith("| nce |"))
    assert line.split("|")[5].strip() == "3"
    assert command("audit", "tables", "made", f"results_dir={tmp_path}") == 0
    shown = frame.find(["made"], tmp_path).runs  # the page takes them in the same way
    page = {(run.folder.name, run.seeds, run.state) for run in shown}
    assert (part.run_id, (0, 1, 2), "done") in page and (plan.jobs[1].run_id, (3, 4, 5, 6, 7), "missing") in page


def test_a_folder_of_another_version_is_refused(made: Plan, tmp_path: Path) -> None:
    collected(made, tmp_path)
    path = tmp_path / "made" / "sweep.json"
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 7'))
    with pytest.raises(UserError, match="version 7"):
        frame.load(path.parent)
    plan_path = tmp_path / "sweeps" / "made" / "plan.json"
    plan_path.write_text(plan_path.read_text()[:-100])
    with pytest.raises(UserError, match="damaged"):
        read_plan(tmp_path, "made")
    with pytest.raises(UserError, match="there are made"):
        read_plan(tmp_path, "mode")


def test_a_sweep_of_which_every_seed_diverged_is_collected(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, methods=("nce", "sm"), seeds=2)
    for job in plan.jobs:
        make_done(job, tmp_path, [0.0, 0.0], diverged={0: 3, 1: 5})
    assert sweep(["collect", "made", f"results_dir={tmp_path}"]) == 0
    text = (tmp_path / "made" / "tables.md").read_text()
    assert "| nce | – † | – |" in text and "| nce | ∞ | – (1 of 2) | – | 2 2 diverged |" in text
    assert command("audit", "tables", "made", f"results_dir={tmp_path}") == 0


@pytest.mark.parametrize("forged", [{"seed": 8}, {"run_id": "1d-1-nce-000000000000"}])
def test_check_finds_rows_that_no_run_gives(
    made: Plan, tmp_path: Path, forged: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    found = collect.collect(made, tmp_path)
    row = found.frame[found.frame["method"] == "nce"].tail(1).assign(d_kl=0.01, **forged)
    collect.write(made, dataclasses.replace(found, frame=pd.concat([found.frame, row])), tmp_path)
    assert command("audit", "tables", "made", f"results_dir={tmp_path}") == 1
    (fault,) = capsys.readouterr().err.splitlines()[:1]
    assert f"runs.csv has seed {row['seed'].item()} of {row['run_id'].item()}, " in fault


def test_check_passes_where_the_runs_were_deleted(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, methods=("nce",))
    config = dataclasses.replace(RunConfig.from_dict(plan.jobs[0].config), seeds=(0, 1, 2))
    part = Job(config.run_id, config.run_hash, config.config_hash, {}, config.to_dict())
    folder = make_done(part, tmp_path, VALUES["nce"][:3])  # stands in for seeds of the job
    collected(plan, tmp_path)
    shutil.rmtree(folder)
    assert command("audit", "tables", "made", f"results_dir={tmp_path}") == 0
