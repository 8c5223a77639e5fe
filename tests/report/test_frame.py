"""What a report makes of run directories, good and bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from ebmbench.config.compose import compose
from ebmbench.core.errors import UserError
from ebmbench.report import frame
from ebmbench.report.html import render
from ebmbench.report.settings import command
from tests.report import made_runs
from tests.sweep.made import seal


def test_a_sweep_is_found_by_name_and_tidy(results: Path) -> None:
    found = frame.find(["paper_1d"], results)
    assert len(found.runs) == 14
    assert len(found.frame) == 14 * 4 and len(found.done) == 13 * 4  # one job failed
    assert found.done.groupby("label").size().to_dict() == {"1d-1": 28, "1d-2": 24}
    assert not found.varies and len(found.comparison) == len(found.done)
    assert found.done["d_kl"].isna().sum() == 1  # the seed that diverged is a row without a value


def test_run_directories_are_found_by_path(results: Path) -> None:
    folders = sorted(str(path) for path in (results / "runs").glob("1d-1-nce-plus-*"))[:2]
    assert len(frame.find(folders, Path("nowhere")).runs) == 2


@pytest.mark.parametrize("targets", [["nosuch"], ["paper_1d", "num_samples"], ["../.."]])
def test_what_is_not_there_is_one_sentence(results: Path, targets: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        frame.find(targets, results)
    assert targets[0] in str(caught.value)


def test_where_a_setting_varies_methods_are_compared_at_the_published_value(results: Path) -> None:
    found = frame.find(["num_samples"], results)
    assert found.varied["nce"] == ["method.num_samples"]
    assert set(found.comparison["method.num_samples"]) == {1024}
    assert len(found.comparison) == 4 * 2
    assert {"M = 1", "M = 1024"} <= set(found.done["variant"])


def made(results_dir: Path, *overrides: str) -> Path:
    return made_runs.make_1d(compose(["task=1d", "seeds=2", f"results_dir={results_dir}", *overrides]))


def test_models_that_had_other_data_are_not_compared(tmp_path: Path) -> None:
    small = ("data.num_train=128", "data.num_test=256")  # one of the two tells them apart
    few = [made(tmp_path, f"method={method}", *small) for method in ("nce", "sm")]
    paths = [*few, *(made(tmp_path, f"method={method}") for method in ("ml-is", "sm"))]
    found = frame.find(list(map(str, paths)), tmp_path)
    assert found.done.groupby("label")["method"].agg(set).to_dict() == {
        "1d-1, with data.num_train = 128": {"nce", "sm"},
        "1d-1, with data.num_train = 2000": {"ml-is", "sm"},
    }
    assert not found.varies and set(found.tasks) == set(found.done["label"])
    assert "1D, dataset 1, with data.num_train = 128" in render(found, "")


def test_data_that_all_models_had_alike_is_an_axis(tmp_path: Path) -> None:
    noise = [f"data.target_noise={value}" for value in (0.0, 0.1)]
    paths = [str(made(tmp_path, f"method={method}", value)) for method in ("nce", "sm") for value in noise]
    found = frame.find(paths, tmp_path)
    assert set(found.done["label"]) == {"1d-1"} and found.axes == ("data.target_noise",)
    draws = [made(tmp_path, f"method={m}", f"data.data_seed={d}") for m, d in (("nce", 0), ("nce", 1), ("sm", 1))]
    assert set(frame.find(list(map(str, draws)), tmp_path).done["label"]) == {"1d-1"}  # one draw is common
    assert len(set(frame.find([str(draws[0]), str(draws[2])], tmp_path).done["label"])) == 2


def test_runs_of_a_task_that_is_not_loaded_are_in_the_table(tmp_path: Path) -> None:
    folder = made(tmp_path, "method=nce")
    for name in ("config.yaml", "status.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("name: 1d", "name: mine").replace('"task": "1d"', '"task": "mine"'))
    seal(folder)
    assert set(frame.find([str(folder)], tmp_path).frame["task"]) == {"mine"}


def test_a_setting_that_another_task_lacks_is_no_trouble(tmp_path: Path) -> None:
    paths = [made(tmp_path, "method=nce", f"data.target_noise={value}") for value in (0.0, 0.1)]
    paths += made_runs.detection_runs(tmp_path)
    found = frame.find(list(map(str, paths)), tmp_path)
    assert {"1d-1", "detection-shapes"} == set(found.comparison["label"]) and "AP" in render(found, "")


DAMAGES: list[tuple[str, bytes | None]] = [
    ("status.json", b'{"schema": 2, "state": '),
    ("status.json", b"\xff\xfe\x00"),
    ("status.json", b"[]"),
    ("metrics.csv", b""),
    ("metrics.csv", b"seed,d_kl\n0,1.0\n"),
    ("metrics.csv", None),
    ("config.yaml", b"!!python/object/apply:os.system ['touch OWNED']"),
    ("config.yaml", b"task: [1"),
    ("history.csv", None),
    ("history.csv", b"step\n1\n"),
    ("calibration.csv", None),
    ("calibration.csv", b"\x00\xff"),
    ("densities.npz", None),
    ("densities.npz", b"PK\x03\x04 not a zip"),
    ("densities.npz", b""),
    ("calibration.csv", b"seed,level,coverage\n0,a,b\n"),
    ("history.csv", b"step,seed,loss\n1,0,bad\n"),
    ("status.json", b'{"schema": 2, "run_id": ["a"], "seeds": 3}'),
    ("metrics.csv", b"seed,d_kl,diverged,trusted\n0,a,b,c\n1,x,y,z\n2,x,y,z\n3,x,y,z\n"),
    ("environment.json", b"[1]"),
]


@pytest.mark.parametrize("sealed", [False, True], ids=["changed later", "made so"])
def test_damaged_files_are_reported_and_spoil_nothing_else(
    sealed: bool, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with a changed file is in no table; one that wrote nonsense into a figure's file loses its figure alone."""
    monkeypatch.chdir(tmp_path)
    sources = sorted((results / "runs").glob("1d-1-*"))
    good = [source for source in sources if "-sm-" in source.name]
    broken = [source for source in sources if source not in good][: len(DAMAGES)]
    assert len(broken) == len(DAMAGES)
    for source in good + broken:
        shutil.copytree(source, tmp_path / "runs" / source.name)
    for source, (file, content) in zip(broken, DAMAGES, strict=True):
        path = tmp_path / "runs" / source.name / file
        path.unlink() if content is None else path.write_bytes(content)
        if sealed and file != "status.json":
            seal(path.parent)
    found = frame.find([str(folder) for folder in sorted((tmp_path / "runs").iterdir())], tmp_path)
    states = {run.folder.name: run for run in found.runs}
    for source, (file, _) in zip(broken, DAMAGES, strict=True):
        damaged = states[source.name].state == "damaged"
        needed = file in ("status.json", "metrics.csv", "config.yaml")
        assert damaged == (needed or not sealed), (file, states[source.name])
        assert bool(states[source.name].detail) == damaged, file
    assert "sm" in set(found.done["method"])
    assert render(found, "python -m ebmbench report").count("<svg") > 10
    assert not (tmp_path / "OWNED").exists()


def shown_command(run: frame.Run) -> str:
    return command(run.config, run.seeds)


@pytest.mark.parametrize(
    "overrides",
    [
        ["task=1d", "method=nce+", "data=law2", "seeds=20"],
        ["task=1d", "method=ml-mcmc", "method.langevin_step=0.1", "seeds=[3,7]"],
        ["task=1d", "method=nce", "proposal.stds=[0.5]", "method.num_samples=16", "trainer.epochs=3"],
        ["task=1d", "method=sm", "+experiment=smoke"],
        ["task=detection", "method=dsm", "trainer.learning_rate=0.5"],
    ],
)
def test_the_command_that_is_shown_gives_the_same_run_again(tmp_path: Path, overrides: list[str]) -> None:
    import shlex

    config = compose([*overrides, f"results_dir={tmp_path}"])
    folder = config.run_dir
    made_runs._write(folder, config)
    seal(folder)
    shown = shlex.split(shown_command(frame.read_run(folder)))
    assert shown[:3] == ["python", "-m", "ebmbench"]
    assert compose(shown[3:]).run_hash == config.run_hash


def test_a_submitted_sweep_shows_its_missing_jobs(tmp_path: Path) -> None:
    from ebmbench.sweep.plan import make_plan, write_plan

    plan = make_plan("paper_1d", ["seeds=2", "data=law1"], commit=None)
    write_plan(plan, tmp_path)
    config = plan.jobs[0].run_config(tmp_path)
    made_runs.make_1d(config)
    found = frame.find(["paper_1d"], tmp_path)
    assert len(found.runs) == 7 and found.description == plan.description
    assert [run.state for run in found.runs].count("missing") == 6
    assert {run.method for run in found.runs} == set(made_runs.METHODS_1D)
    assert json.loads(json.dumps([shown_command(run) for run in found.runs]))  # missing ones too can be run by hand
    assert all("method=" in shown_command(run) for run in found.runs)


def test_the_page_runs_an_overridden_sweep_again_as_it_was_submitted(tmp_path: Path) -> None:
    import shlex

    from ebmbench.report.html import again
    from ebmbench.sweep.plan import make_plan, write_plan
    from tests.sweep.made import sweep

    place = tmp_path / "my results"
    plan = make_plan("paper_1d", ["seeds=2", "data=law1", "method=nce", "sweep.name=mine"], None, seeds_per_job=1)
    write_plan(plan, place)
    shown = shlex.split(again(frame.find(["mine"], place), "")[0].command)
    assert shown[:4] == ["python", "-m", "ebmbench", "sweep"]
    assert sweep([*shown[4:], "--dry-run"]) == 0


def test_the_public_function_gives_a_table_of_all_runs_of_one_sweep_or_of_one_run(results: Path) -> None:
    import ebmbench

    table = ebmbench.results("num_samples", results_dir=results)
    assert list(table.columns[: len(frame.IDENTITY)]) == list(frame.IDENTITY)
    assert "method.num_samples" in table and table["d_kl"].notna().all() and len(table) == 4 * 6 * 2
    run = next((results / "runs").glob("detection-shapes-dsm-*"))
    alone = ebmbench.results(run)
    assert set(alone["method"]) == {"dsm"} and alone["ap"].notna().all() and "method.num_samples" not in alone
    everything = ebmbench.results(results_dir=results)
    assert set(everything["task"]) == {"1d", "detection"} and "failed" in set(everything["state"])
    # A seed of one setting counts once, though two sweeps have it.
    assert not everything.duplicated(["config_hash", "seed"]).any() and len(everything) > len(table)


RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.mark.parametrize("name", ["paper_1d", "shapes", "num_samples"])
def test_committed_results_make_their_page_from_a_clone(name: str) -> None:
    found = frame.find([str(RESULTS / name)], Path("nowhere"))
    finished = pd.read_csv(RESULTS / name / "runs.csv")["state"].isin(frame.FINISHED).sum()
    assert not found.runs and len(found.done) == finished > 10
    text = render(found, "python -m ebmbench report")
    assert text.count('role="img"') >= 2 and ('id="densities-1d-1"' in text) == (name == "paper_1d")


@pytest.mark.parametrize(
    "change",
    [
        {"jobs": [["a list"]]},
        {"jobs": [{"run_id": ["a"], "run_hash": "b", "config_hash": "c", "axes": {}, "config": {}}]},
        {"jobs": [{"run_id": "../../x", "run_hash": "b", "config_hash": "c", "axes": {}, "config": {"seeds": [0]}}]},
        {"jobs": 3},
        {"name": "/etc"},
        {"name": ".."},
        {"description": 7},
        {"axes": None},
    ],
)
def test_a_damaged_plan_is_one_sentence(tmp_path: Path, change: dict[str, object]) -> None:
    from ebmbench.sweep.plan import make_plan, write_plan

    write_plan(make_plan("smoke", ["method=sm"], None), tmp_path)
    path = tmp_path / "sweeps" / "smoke" / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match="damaged"):
        frame.find(["smoke"], tmp_path)
