"""What a sweep's jobs are, that they are frozen, and what is refused before any starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebmbench.config.compose import compose
from ebmbench.config.folders import known_sweeps
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.report.planned import read_plan
from ebmbench.report.settings import name_of
from ebmbench.sweep.plan import make_plan, write_plan
from tests.sweep.made import sweep


@pytest.mark.parametrize(
    ("name", "jobs", "axes"),
    [
        ("paper_1d", 14, ()),
        ("smoke", 14, ()),
        ("num_samples", 72, ("method.num_samples",)),
        ("nce_plus_beta", 14, ("method.beta",)),
        ("dsm_sigma", 14, ("method.sigma",)),
        ("mcmc", 30, ("method.langevin_steps", "method.langevin_step")),
        ("annotation_noise", 50, ("data.target_noise",)),
        ("data_seeds", 140, ("data.data_seed",)),
        ("shapes", 7, ()),
        ("bccd", 2, ()),
        ("uci", 6 * 7 * 20, ("data.split", "model")),
        (
            "uci_settings",
            6 * 7 * 3 * 5,
            (
                "data.split",
                *(f"network.{key}" for key in ("activation", "dropout")),
                "trainer.learning_rate",
                "trainer.weight_decay",
                "model",
                *(
                    f"model.{key}"
                    for key in ("activation", "dropout", "learning_rate", "rows", "depth", "min_leaf", "leaves")
                ),
            ),
        ),
        ("uci_small", 4 * 8 * (2 + 2), ("data.split", "model")),
        ("squares", 3 + 2, ("model",)),
        ("cells", 6 * 10, ("data.split_seed", "model")),
        (
            "cells_settings",
            6 * 2 * 4,
            (
                "data.split_seed",
                "network.dropout",
                "trainer.learning_rate",
                "trainer.weight_decay",
                "model",
                "model.dropout",
            ),
        ),
        ("dimension", 13 * (5 + 4 + 5), ("data.dim", "data.law")),
        ("dimension_seeds", 13 * 3, ("data.dim",)),
        ("extended_1d", 14 * 2, ()),
        ("learned_proposals", 3 * 2, ("proposal.components",)),
        ("compare", 6 * 5, ("data.split", "model")),
        pytest.param("tables", 23 * 6 * 5, ("data.split", "model"), marks=pytest.mark.slow),
        ("tracking", 7, ()),
        pytest.param(
            "does_it_matter",
            2 * 10 * 12 * (6 * 3 + 2),
            ("data.data_seed", "trainer.learning_rate", "trainer.schedule", "proposal.stds"),
            marks=pytest.mark.slow,  # two minutes for its 4800 jobs
        ),
        ("shapes_bases", 2 * 2, ("task.base.seed",)),
        ("detection_sizes", 4 * 2 * 2, ("data.num_train", "data.base_seed", "task.head.frozen")),
        ("detection_sizes_bccd", 4 * 2, ("data.num_train", "task.head.frozen")),
    ],
)
def test_every_sweep_of_the_project_is_valid(name: str, jobs: int, axes: tuple[str, ...]) -> None:
    plan = make_plan(name, [], None)
    assert plan.name == name and len(plan.jobs) == jobs and plan.axes == axes
    assert len({job.run_id for job in plan.jobs}) == jobs


def test_further_grids_change_keys_of_the_first_one() -> None:
    plan = make_plan("uci", ["data=uci/yacht", "data.split=0,1"], None)
    others = {"gaussian", "mdn", "histogram", "flow", "ngboost", "treeffuser"}
    assert {name_of(job.config) for job in plan.jobs} == {"nce", *others} and len(plan.jobs) == 2 * 7


def test_a_further_grid_can_leave_a_key_out() -> None:
    plan = make_plan("uci_settings", ["data=uci/yacht", "data.split=0"], None)
    rates = {job.config["model"].get("learning_rate") for job in plan.jobs}
    assert rates == {None, 0.05, 0.02, 0.1} and len(plan.jobs) == 7 * 5
    [default] = {
        job.config["trainer"]["learning_rate"] for job in plan.jobs if job.config["model"]["name"] == "ngboost"
    }
    assert {job.config["trainer"]["learning_rate"] for job in plan.jobs} > {default}


def test_what_is_given_on_the_command_line_leaves_no_further_grid_of_it() -> None:
    plan = make_plan("uci", ["data=uci/yacht", "data.split=0,1", "method=nce,nce+"], None)
    assert {job.config["network"]["name"] for job in plan.jobs} == {"mlp"} and len(plan.jobs) == 4


def test_a_setting_that_a_further_grid_alone_gives_varies_against_the_default_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweeps").mkdir()
    further = (
        "[{method.num_samples: 7}, {proposal: learned}, {proposal.stds: '[0.5,2]'}, {method: sm, trainer.epochs: 3}]"
    )
    text = (
        f"hydra: {{sweeper: {{params: {{method: nce, trainer.epochs: 3}}}}}}\nsweep: {{name: own, also: {further}}}\n"
    )
    Path("sweeps/own.yaml").write_text(f"# @package _global_\n{text}")
    plan = make_plan("own", ["task=1d", "+experiment=smoke"], None)
    assert plan.axes == ("method.num_samples", "proposal", "proposal.stds")
    values = [(job.config["method"]["name"], *job.axes.values()) for job in plan.jobs]
    (_, samples, _, stds) = values[0]
    assert values == [
        ("nce", samples, "mixture", stds),
        ("nce", 7, "mixture", stds),
        ("nce", samples, "learned", None),
        ("nce", samples, "mixture", "[0.5,2]"),
        ("sm", None, None, None),
    ]
    assert samples not in (None, 7) and str(stds).startswith("[0")


def test_a_further_grid_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweeps").mkdir()
    text = "# @package _global_\nhydra: {sweeper: {params: {method: 'nce,sm'}}}\nsweep: {name: odd, also: [gaussian]}\n"
    Path("sweeps/odd.yaml").write_text(text)
    with pytest.raises(UserError, match=r"sweep\.also has 'gaussian': give keys and values"):
        make_plan("odd", [], None)


def test_no_sweep_is_left_untested() -> None:
    marked = test_every_sweep_of_the_project_is_valid.pytestmark[0]  # type: ignore[attr-defined]
    names = {case[0] if isinstance(case[0], str) else case.values[0] for case in marked.args[1]}
    assert names >= set(known_sweeps())


def test_a_preset_is_that_of_the_sweeps_task() -> None:
    plan = make_plan("shapes", ["+experiment=smoke", "method=sm"], None)
    assert plan.jobs[0].config["trainer"]["iterations"] == 10


def test_a_plan_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_plan("smoke", ["method=sm"], None)
    write_plan(old, tmp_path)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ebmbench.sweep.plan.write_atomically", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left"):
        write_plan(make_plan("smoke", ["method=nce"], None), tmp_path)
    assert read_plan(tmp_path, "smoke") == old


def test_a_job_is_the_run_that_the_command_line_gives() -> None:
    plan = make_plan("paper_1d", [], None)
    alone = compose(["task=1d", "method=dsm", "data=law2", "seeds=20"])
    (job,) = [job for job in plan.jobs if job.run_id == alone.run_id]
    assert RunConfig.from_dict(job.config).identity() == alone.identity()
    assert job.config["method"]["sigma"] == 0.075


def test_the_command_line_wins_over_the_file_and_seeds_are_split() -> None:
    plan = make_plan("paper_1d", ["method=nce,sm", "data=law1", "seeds=7", "trainer.epochs=3"], None, 3)
    assert [len(job.config["seeds"]) for job in plan.jobs] == [3, 3, 1] * 2
    assert {job.config["trainer"]["epochs"] for job in plan.jobs} == {3}
    assert len({job.config_hash for job in plan.jobs}) == 2 and len({job.run_hash for job in plan.jobs}) == 6


def test_a_plan_is_frozen_and_the_one_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    file = tmp_path / "sweeps" / "own.yaml"
    text = "# @package _global_\nhydra: {sweeper: {params: {method.beta: '0.1,0.2'}}}\nsweep: {name: own}\n"
    file.write_text(text)
    plan = make_plan("own", ["+experiment=smoke"], "abc")
    write_plan(plan, tmp_path / "results")
    file.write_text(text.replace("0.2", "0.3"))
    assert read_plan(tmp_path / "results", "own") == plan
    assert [job.axes for job in plan.jobs] == [{"method.beta": 0.1}, {"method.beta": 0.2}]
    write_plan(make_plan("own", [], "abc"), tmp_path / "results")
    kept = [path for path in (tmp_path / "results" / "sweeps" / "own").iterdir() if path.name != "plan.json"]
    assert len(kept) == 1 and "0.2" in kept[0].read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["submit", "nope"], "sweep 'nope' is not known; choose from "),
        (["submit"], "takes one NAME"),
        (["submit", "smoke", "smoke"], "takes one NAME"),
        (["launch", "smoke"], "sweep launch is not a command"),
        (["submit", "smoke", "trainer.epoch=3"], "trainer.epoch is not a setting; did you mean trainer.epochs"),
        (["submit", "smoke", "method=nce,nec+"], "method=nec+ is not known; did you mean nce+"),
        (["submit", "smoke", "method.beta=-1"], "method.beta"),
        (["submit", "smoke", "hydra/launcher=cloud"], "launcher=cloud is not known; choose from local, local_parallel"),
        (["submit", "smoke", "--jobs", "0"], "--jobs=0 is not allowed"),
        (["submit", "smoke", "--job=1"], "--job is not an option of sweep submit"),
        (["submit", "smoke", "sweep.name=runs"], "sweep.name='runs' is reserved"),
        (["submit", "smoke", "sweep.tables=[score]"], "'score': choose from scores"),
        (["submit", "smoke", "sweep.tables=[{grid: {}}]"], "without `by`"),
        (["submit", "smoke", "sweep.tables=[{draws: {beside: 1}}]"], "draws with beside, and draws has no such option"),
        (["submit", "smoke", "sweep.tables=[{cost: {by: method}}]"], "cost with by, and cost has no such option"),
        (["submit", "smoke", "sweep.tables=[{grid: {bye: seeds}}]"], "has no such option; did you mean by?"),
        (["submit", "smoke", "sweep.tables=[{grid: {by: data}}]"], "each dataset has tables of its own"),
        (["submit", "smoke", "sweep.descripton=mine"], "is not a setting; did you mean sweep.description"),
        (["submit", "smoke", "sweep.figures=[strips]"], "'strips': choose from"),
        (["submit", "smoke", "device=cuda:7"], "device=cuda:7 cannot be had"),
        (["submit", "smoke", "results_dir=/proc/nowhere"], "results_dir='/proc/nowhere' cannot be written"),
        (["status", "smoke", "trainer.epochs=3"], "takes results_dir=DIR and no other setting"),
        (["status", "smoke"], "has not been submitted"),
        (["collect", "smoke"], "has not been submitted"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        sweep(words)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: [override /task: 1dd]", "task=1dd is not known; did you mean 1d?"),
        ("defaults: [/experiment: smok]", "experiment=smok is not known; did you mean smoke?"),
        ("defaults: [override /size: smok]", "size=smok has no settings for task=1d"),
        ("defaults: [override /data: tabel, override /task: regression]", "data=tabel is not known; did you"),
        ("defaults: [/foo: bar]", "foo is not a setting"),
        ("sweep: {name: own, descripton: mine}", "sweep.descripton is not a setting; did you mean sweep.description"),
    ],
)
def test_a_wrong_word_in_a_file_is_named_with_what_is_near(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises(UserError) as error:
        make_plan("own", [], None)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("grid", ["method: ''", "method: []", "task.datset: '1,2'", "trainer.epochs: '0,1'"])
def test_a_bad_grid_is_refused_as_a_whole(grid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    text = f"# @package _global_\nhydra: {{sweeper: {{params: {{{grid}}}}}}}\nsweep: {{name: own}}\n"
    (tmp_path / "sweeps" / "own.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        sweep(["submit", "own"])
    assert grid.split(":")[0].split(".")[-1] in str(error.value)
    assert not (tmp_path / "results").exists()
