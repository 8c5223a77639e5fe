"""The command line, as a user meets it. Most call `main` in this process: importing PyTorch costs seconds."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch
import yaml

from ebmbench.cli import main as cli
from ebmbench.cli.commands import GROUPS
from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from tests.comparison import EXAMPLES

SMOKE = ["task=1d", "+experiment=smoke", "device=cpu", "trainer.epochs=1", "method.num_samples=4"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a directory of its own that is not the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def metrics(run_dir: Path) -> list[dict[str, str]]:
    return rows_of(run_dir / "metrics.csv")


# ------------------------------------------------------------------------------------------ a run


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The main job in a real process, from a directory of its own, with nothing but relative paths."""
    folder = tmp_path_factory.mktemp("user")
    command = [sys.executable, "-m", "ebmbench", *SMOKE, "method=nce+", "seeds=2"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done, folder


def test_a_run_leaves_a_complete_directory_and_nothing_else(
    first: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    _, folder = first
    assert [p.name for p in folder.iterdir()] == ["results"]
    assert [p.name for p in (folder / "results").iterdir()] == ["runs"]
    (run_dir,) = (folder / "results" / "runs").iterdir()
    assert run_dir.name.startswith("1d-1-nce-plus-")
    files = {p.name for p in run_dir.iterdir()} - {"lock"}
    assert files == {
        "config.yaml",
        "status.json",
        "metrics.csv",
        "history.csv",
        "checkpoint.pt",
        "environment.json",
        "densities.npz",
        "calibration.csv",
        "ensemble.csv",
        "model.json",
        "pictures.npz",
        EXAMPLES,
        "figures",
    }
    figures = {p.name for p in (run_dir / "figures").iterdir()}
    names = ("predictions", "calibration", "density", "slices", "training")
    assert figures == {f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")}
    assert all(p.stat().st_size > 5000 for p in (run_dir / "figures").iterdir())


def test_its_files_say_what_they_should(first: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    _, folder = first
    (run_dir,) = (folder / "results" / "runs").iterdir()
    rows = metrics(run_dir)
    assert [row["seed"] for row in rows] == ["0", "1"]
    columns = "seed d_kl nll nll_error val_nll crps coverage_50 coverage_90 edge_mass diverged diverged_step trusted"
    assert set(columns.split()) | {"train_seconds", "energy_evaluations", "peak_memory_mb"} <= set(rows[0])
    assert int(rows[0]["energy_evaluations"]) == 128 * 5  # one epoch of 128 points, four samples and the target
    status = json.loads((run_dir / "status.json").read_text())
    assert status["state"] == "done" and status["seeds"] == [0, 1] and status["method"] == "nce+"
    assert status["step"] == status["num_steps"] == 4 and status["error"] is None and status["diverged"] == {}
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["seeds"] == [0, 1] and config["proposal"]["stds"] == [0.1, 0.8] and config["method"]["beta"] == 0.025
    saved = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    assert list(saved["parameters"]) == [0, 1]
    history = rows_of(run_dir / "history.csv")
    assert [(row["epoch"], row["seed"]) for row in history] == [("1", "0"), ("1", "1")]
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["train_seconds"] > 0


def test_it_ends_with_a_table_and_makes_no_noise(first: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, folder = first
    lines = done.stdout.splitlines()
    assert lines[0] == "nce+ on 1d-1, 2 seeds"
    assert {"d_kl", "nll", "crps"} <= {line.split()[0] for line in lines[2:-1]}
    (run_dir,) = (folder / "results" / "runs").iterdir()
    assert lines[-1] == f"files: results/runs/{run_dir.name}"
    for text in (done.stdout, done.stderr):
        assert "\r" not in text and "\x1b" not in text
        assert not any(word in text.lower() for word in ("warning", "deprecat", "traceback", "hydra"))
    assert all(line.startswith("1d-1 nce+: ") for line in done.stderr.splitlines())


def test_the_same_command_finds_the_result_and_force_makes_it_anew(
    first: tuple[subprocess.CompletedProcess[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done, folder = first
    monkeypatch.chdir(folder)
    (run_dir,) = (folder / "results" / "runs").iterdir()
    before = (run_dir / "metrics.csv").stat().st_mtime_ns
    old = metrics(run_dir)
    # Written otherwise, but the same settings: the list of seeds, and a value that is the default.
    again = [*SMOKE, "method=nce+", "seeds=[0,1]", "method.beta=0.025", "logger=none", "threads=1"]
    assert cli.main(again) == 0
    out = capsys.readouterr().out
    assert out.startswith("This result exists already")
    assert out.splitlines()[1:] == done.stdout.splitlines()
    assert (run_dir / "metrics.csv").stat().st_mtime_ns == before

    assert cli.main([*again, "force=true"]) == 0
    assert not capsys.readouterr().out.startswith("This result exists")
    assert (run_dir / "metrics.csv").stat().st_mtime_ns > before
    assert json.loads((run_dir / "status.json").read_text())["attempt"] == 2
    for one, other in zip(old, metrics(run_dir), strict=True):
        assert float(one["d_kl"]) == pytest.approx(float(other["d_kl"]), rel=1e-4)
    assert len(list((folder / "results" / "runs").iterdir())) == 1


@pytest.mark.parametrize("method", [name for name in registry.known("method") if name != "nce+"])
@pytest.mark.parametrize("dataset", [1, 2])
def test_every_method_runs_on_both_datasets(method: str, dataset: int, elsewhere: Path) -> None:
    samples = "num_samples" in registry.get("method", method).model_fields
    words = [word for word in SMOKE if samples or not word.startswith("method.num_samples")]
    assert cli.main([*words, f"method={method}", f"data=law{dataset}", "results_dir=here"]) == 0
    (run_dir,) = (elsewhere / "here" / "runs").iterdir()
    assert run_dir.name.startswith(f"1d-{dataset}-{method}-")
    assert runs.read_state(run_dir) == "done"
    assert float(metrics(run_dir)[0]["d_kl"]) > 0


def test_a_run_whose_seeds_diverge_says_so(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No setting makes this bounded network overflow, so the weights of one seed start infinite."""
    from ebmbench.tasks.regression.fitting import FitLearner

    original = FitLearner.__init__

    def broken(self, task, setup, seeds, *rest):  # type: ignore[no-untyped-def]
        original(self, task, setup, seeds, *rest)
        with torch.no_grad():
            self.parameters["flat"][list(seeds).index(1)] = torch.inf

    monkeypatch.setattr(FitLearner, "__init__", broken)
    assert cli.main([*SMOKE, "method=nce", "seeds=3"]) == 0
    out = capsys.readouterr().out
    assert "diverged: 1 of 3 seeds (seed 1 at step 0)" in out
    (run_dir,) = (elsewhere / "results" / "runs").iterdir()
    assert runs.read_state(run_dir) == "diverged"
    assert [row["diverged"] for row in metrics(run_dir)] == ["0", "1", "0"]
    assert cli.main([*SMOKE, "method=nce", "seeds=[1]"]) == 1  # nothing came of it
    assert "diverged: 1 of 1 seed (" in capsys.readouterr().out


def test_on_a_terminal_there_is_a_bar(elsewhere: Path) -> None:
    """In a pseudo-terminal: loss, epoch, models·steps per second and time left."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(leader, (24, 140))
    command = [sys.executable, "-m", "ebmbench", *SMOKE, "trainer.epochs=60", "method=nce", "seeds=2"]
    process = subprocess.Popen(command, cwd=elsewhere, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    text = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
    os.close(leader)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    bar = text.decode()
    assert "\r" in bar
    for word in ("1d-1 nce", "epoch", "loss", "models·steps/s", "left", "%"):
        assert word in bar, word
    assert b"d_kl" in out and b"\r" not in out


# ------------------------------------------------------------------------------------------ looking before running


def test_help_is_this_project_s(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in (*registry.known("task"), *registry.known("method"), "seeds=20", "+experiment=", "force=true"):
        assert word in out
    for text in GROUPS.values():
        assert re.search(rf"\w\s{{2,}}{re.escape(text)}$", out, re.MULTILINE)
    examples = [line for line in out.partition("examples")[2].splitlines() if "python -m ebmbench" in line]
    assert len(examples) == 3
    assert "Powered by Hydra" not in out
    assert not list(elsewhere.iterdir())


def test_cfg_job_shows_the_published_values(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert cli.main(["--cfg", "job", "task=1d", "method=ml-mcmc", "data=law2"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["method"]["langevin_step"] == 0.0125 and shown["method"]["langevin_steps"] == 16
    assert {"epochs": 75, "batch_size": 32, "learning_rate": 1e-3, "ema": 0.0}.items() <= shown["trainer"].items()
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("overrides", [["method=nce+"], ["task=detection", "method=dsm"], ["+sweeps=paper_1d"]])
def test_cfg_job_shows_what_is_run(overrides: list[str], capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert cli.main(["--cfg", "job", *overrides]) == 0
    shown = RunConfig.from_dict(yaml.safe_load(capsys.readouterr().out))
    assert shown == dataclasses.replace(compose(overrides), data_option="")


PUBLISHED = {
    ("ml-is", 1): ([0.2, 1.6], None, None, None),
    ("ml-is", 2): ([0.2, 1.6], None, None, None),
    ("kld-is", 1): ([0.2, 1.6], 0.025, None, None),
    ("kld-is", 2): ([0.2, 1.6], 0.025, None, None),
    ("nce", 1): ([0.1, 0.8], None, None, None),
    ("nce", 2): ([0.1, 0.8], None, None, None),
    ("nce+", 1): ([0.1, 0.8], None, 0.025, None),
    ("nce+", 2): ([0.1, 0.8], None, 0.025, None),
    ("ml-mcmc", 1): (None, None, None, 0.05),
    ("ml-mcmc", 2): (None, None, None, 0.0125),
    ("dsm", 1): (None, 0.2, None, None),
    ("dsm", 2): (None, 0.075, None, None),
    ("sm", 1): (None, None, None, None),
    ("sm", 2): (None, None, None, None),
}


@pytest.mark.parametrize(("method", "dataset"), list(PUBLISHED))
def test_a_task_and_a_method_alone_compose_to_the_paper_s_settings(method: str, dataset: int) -> None:
    stds, sigma, beta, langevin_step = PUBLISHED[method, dataset]
    config = compose(["task=1d", f"method={method}", f"data=law{dataset}"])
    assert (config.proposal is None) is (stds is None)
    if config.proposal is not None:
        assert config.proposal.plain() == {"name": "mixture", "stds": stds, "shared": True}
    published = {
        "num_samples": None if method == "sm" else 1024,
        "langevin_steps": 16 if method == "ml-mcmc" else None,
        "langevin_step": langevin_step,
        "sigma": sigma,
        "beta": beta,
    }
    assert config.method.plain() == {"name": method} | {k: v for k, v in published.items() if v is not None}
    assert config.seeds == (0,)


def test_a_multirun_runs_every_combination(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-m", *SMOKE, "method=nce,nce+"]) == 0
    out = capsys.readouterr().out
    names = sorted(p.name.rsplit("-", 1)[0] for p in (elsewhere / "results" / "runs").iterdir())
    assert names == ["1d-1-nce", "1d-1-nce-plus"]
    assert sum("  done" in line for line in out.splitlines()) == 2
    assert not (elsewhere / "outputs").exists() and not (elsewhere / "multirun").exists()


def test_tables_of_a_regression_stand_in_columns_that_have_values(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["task=regression", "method=nce", "+experiment=smoke", "device=cpu"]
    assert cli.main(["-m", *words, "trainer.epochs=1,2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("data"))
    header, *rows = lines[place : place + 3]
    assert header.split()[:5] == ["data", "method", "trainer.epochs", "seeds", "NLL"] and "D_KL" not in header
    assert all(row.split()[-1] == "done" and "-" not in row.split() for row in rows), rows
    assert cli.main([*words, "trainer.epochs=1"]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert shown[:7] == ["metric", "nll", "rmse", "coverage_90", "crps", "train_seconds", "--all"]
    assert cli.main([*words, "trainer.epochs=1", "--all"]) == 0
    scores = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ") and ": " not in line]
    assert len(scores) > 20 and len({len(line) for line in scores}) == 1, scores


def test_a_multirun_says_which_models_are_doubtful(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-m", *SMOKE, "method=nce", "trainer.epochs=60", "trainer.learning_rate=0.01,10"]) == 0
    learned, wild = [line for line in capsys.readouterr().out.splitlines() if line.startswith("1d-1  nce")]
    assert wild.endswith("  done, 1 of 1 unreliable")
    assert learned.endswith("  done")


def test_one_bad_job_of_a_multirun_stops_all_before_the_first(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["-m", *SMOKE, "method=nce", "trainer.batch_size=32,0"]) == 2
    assert "trainer.batch_size=0" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())


# ------------------------------------------------------------------------------------------ bad input

BAD_INPUT = {
    "method=nope": ["method=nope", "nce+"],
    "method=nec+": ["method=nec+", "did you mean nce+"],
    "method=NCE": ["method=NCE", "nce"],
    "task=2d": ["task=2d", "1d"],
    "data=law3": ["data=law3 is not known", "law1"],
    "trainer.epoch=3": ["trainer.epoch", "did you mean trainer.epochs"],
    "epochs=3": ["epochs", "trainer.epochs"],
    "+trainer.momentum=0.9": ["trainer.momentum", "not a setting"],
    "seeds=0": ["seeds=0", "1 to"],
    "seeds=-1": ["seeds=-1"],
    "seeds=[]": ["seeds=[]"],
    "seeds=[1,1]": ["seeds=[1, 1]", "different"],
    "seeds=two": ["seeds='two'"],
    "method.beta=0": ["method.beta=0", "greater than 0"],
    "method.beta=-0.1": ["method.beta=-0.1", "greater than 0"],
    "method.beta=nan": ["method.beta=nan"],
    "method.sigma=0.1": ["method.sigma", "method=nce+"],
    "proposal.stds=[]": ["proposal.stds=[]"],
    "proposal.stds=[0.1,-0.8]": ["proposal.stds.1=-0.8", "greater than 0"],
    "proposal.stds=[0.1,0]": ["proposal.stds.1=0", "greater than 0"],
    "method.num_samples=0": ["method.num_samples=0", "greater than or equal to 1"],
    "method.num_samples=many": ["method.num_samples='many'"],
    "trainer.batch_size=0": ["trainer.batch_size=0", "greater than or equal to 1"],
    "trainer.batch_size=1.5": ["trainer.batch_size=1.5"],
    "trainer.learning_rate=0": ["trainer.learning_rate=0", "greater than 0"],
    "trainer.epochs=-1": ["trainer.epochs=-1"],
    "device=tpu": ["device='tpu'"],
    "device=cuda:99": ["device=cuda:99", "device=cpu"],
    "proposal=nope": ["proposal=nope", "mixture"],
    "logger=tensorboard": ["logger=tensorboard", "csv"],
    "+experiment=smoek": ["experiment=smoek", "smoke"],
    "method=nce,nce+": ["method=nce,nce+", "add -m"],
    "seeds=[1": ["seeds=[1"],
    "--frobnicate": ["--frobnicate"],
    "results_dir=": ["results_dir"],
}


@pytest.mark.parametrize("word", list(BAD_INPUT))
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    word: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(["task=1d", "method=nce+", word] if not word.startswith(("task=", "method=n")) else [word])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("ebmbench: ")
    for part in BAD_INPUT[word]:
        assert part in line, line
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("task=regression data.path=a.csv", "not of data=diabetes; leave it out, or choose data=table"),
        ("task=detection data.path=a.csv", "data.path is a setting, but not of data=shapes; leave it out"),
        ("task=regression model.components=3", "not of model=ebm; leave it out, or choose model=mdn"),
        ("task=regression model=mdn method.beta=3", "not of model=mdn, which is no energy; leave it out"),
        ("task=1d data.path=a.csv", "data.path is a setting, but not of data=law1; leave it out"),
        ("task=1d sweep.nam=a", "sweep.nam is not a setting; did you mean sweep.name"),
    ],
)
def test_a_setting_of_another_choice_is_said_to_be_that(words: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        compose(words.split())
    assert said in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said_so(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SMOKE, "method=nce", "device=cuda"]) == 2
    assert "device=cuda cannot be had: this machine has no CUDA device" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())


def test_a_folder_that_cannot_be_written_is_said_so(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "file").write_text("not a folder")
    pool = "hydra/launcher=local_parallel"
    for folder in ("file/results", "/proc/nowhere/results"):
        for words in (["method=nce"], ["-m", "method=nce,nce+"], ["-m", "method=nce,nce+", pool]):
            assert cli.main([*SMOKE, *words, f"results_dir={folder}"]) == 2
            line = capsys.readouterr().err.removeprefix("2 jobs\n")
            assert f"results_dir='{folder}' cannot be written" in line and line.count("\n") == 1
    assert [p.name for p in elsewhere.iterdir()] == ["file"]


def test_bad_input_in_a_real_process_exits_with_2_and_no_traceback(elsewhere: Path) -> None:
    command = [sys.executable, "-m", "ebmbench", "task=1d", "method=nec+"]
    done = subprocess.run(command, cwd=elsewhere, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "ebmbench: method=nec+ is not known; did you mean nce+?\n"
    assert not list(elsewhere.iterdir())


def test_windows_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert cli.main(["--version"]) == 2
    assert "WSL" in capsys.readouterr().err
