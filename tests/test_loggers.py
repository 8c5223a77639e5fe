"""The CSV history survives kills; the W&B runs hold everything, once."""

from __future__ import annotations

import importlib.metadata
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine import loggers
from ebmbench.engine.runs import commit


def config(tmp_path: Path, *overrides: str) -> RunConfig:
    return compose(["task=1d", "method=nce+", "seeds=[3,7]", f"results_dir={tmp_path}", *overrides])


def rows(step: int, seconds: float = 1.0) -> list[dict[str, float]]:
    """Two seeds' rows; seed 7 diverges at step 30."""
    return [
        {
            "step": step,
            "epoch": step // 10,
            "seed": seed,
            "loss": math.nan if seed == 7 and step >= 30 else 1 / (step + seed),
            "grad_norm": 0.1,
            "seconds": seconds,
            "underflows": 0,
            "val_nll": 0.5,
        }
        for seed in (3, 7)
    ]


class TestCsv:
    def test_pandas_reads_it_in_one_line_with_full_precision(self, tmp_path: Path) -> None:
        logger = loggers.open(config(tmp_path), tmp_path)
        for step in (10, 20, 30):
            logger.log(rows(step))
        frame = pd.read_csv(tmp_path / "history.csv", float_precision="round_trip")
        assert tuple(frame.columns) == (*loggers.HISTORY_COLUMNS, "underflows", "val_nll")
        assert frame["loss"].tolist()[:4] == [1 / 13, 1 / 17, 1 / 23, 1 / 27]
        assert math.isnan(frame["loss"].iloc[-1])
        logger.close("done")

    def test_a_row_is_on_disk_when_log_returns(self, tmp_path: Path) -> None:
        logger = loggers.open(config(tmp_path), tmp_path)
        logger.log(rows(10))
        assert len(pd.read_csv(tmp_path / "history.csv")) == 2
        logger.close("interrupted")

    @pytest.mark.parametrize("torn", ["", "40,4,3,0.0", "40,4,3,0.02,0.1,1.0\n40,4,7,na"])
    def test_resumed_history_equals_an_uninterrupted_one(self, tmp_path: Path, torn: str) -> None:
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        for folder, stop in ((whole, 60), (killed, 40)):
            folder.mkdir()
            logger = loggers.open(config(tmp_path), folder)
            for step in range(10, stop, 10):
                logger.log(rows(step))
            logger.close("interrupted")
        with (killed / "history.csv").open("a") as file:
            file.write(torn)
        logger = loggers.open(config(tmp_path), killed, resume={3: 20, 7: 20})
        for step in range(30, 60, 10):
            logger.log(rows(step))
        logger.close("done")
        assert (killed / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()

    def test_a_new_start_forgets_the_old_history(self, tmp_path: Path) -> None:
        for _ in range(2):
            logger = loggers.open(config(tmp_path), tmp_path)
            logger.log(rows(10))
            logger.close("interrupted")
        assert len(pd.read_csv(tmp_path / "history.csv")) == 2

    def test_resuming_without_a_history_starts_one(self, tmp_path: Path) -> None:
        loggers.open(config(tmp_path), tmp_path, resume={3: 20, 7: 20}).close("done")
        assert (tmp_path / "history.csv").read_bytes() == b""

    def test_none_writes_nothing(self, tmp_path: Path) -> None:
        logger = loggers.open(config(tmp_path, "logger=none"), tmp_path)
        logger.log(rows(10))
        logger.finish([{"seed": 3}], [], tmp_path)
        logger.close("done")
        assert not list(tmp_path.iterdir())

    def test_wandb_is_imported_only_when_asked_for(self, tmp_path: Path) -> None:
        code = f"""
import sys, pathlib
from ebmbench.engine import loggers
from ebmbench.engine.runs import commit
from ebmbench.config.compose import compose
for extra in (["logger=csv"], ["logger=wandb", "logger.mode=disabled"]):
    config = compose(["task=1d", "method=nce", "results_dir={tmp_path}", *extra])
    logger = loggers.open(config, pathlib.Path({str(tmp_path)!r}))
    logger.log([dict(step=1, epoch=1, seed=0, loss=1.0, grad_norm=1.0, seconds=0.1)])
    logger.close("done")
assert "wandb" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------- Weights & Biases


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: protocol buffers in LevelDB's log format (blocks of 32 KiB)."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0:
            break
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_back(results: Path) -> dict[str, dict[str, Any]]:
    """W&B run id -> what its offline folder holds; fails if an id has two folders."""
    import json

    import wandb

    wandb.teardown()  # as the process's end does: `finish` may return before the file is whole
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted((results / "wandb").glob("offline-run-*")):
        (path,) = folder.glob("run-*.wandb")
        run: dict[str, Any] = {"history": [], "summary": {}, "artifacts": [], "config": {}}
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run["run"] = record.run
                run["config"] |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            elif kind == "history":
                items = record.history.item
                run["history"].append(
                    {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
                    | {"_step": record.history.step.num}
                )
            elif kind == "summary":
                for i in record.summary.update:
                    run["summary"][i.key or ".".join(i.nested_key)] = json.loads(i.value_json)
            elif kind == "artifact":
                run["artifacts"].append(record.artifact)
            elif kind == "exit":
                run["exit_code"] = record.exit.exit_code
        assert run["run"].run_id not in found, "the run is there twice"
        found[run["run"].run_id] = run
    return found


METRICS = [
    {"seed": 3, "d_kl": 0.03125, "nll": 0.5, "coverage_90": 0.91, "diverged": 0, "trusted": 1},
    {"seed": 7, "d_kl": math.nan, "nll": math.inf, "coverage_90": 0.5, "diverged": 1, "trusted": 0},
]


def offline(tmp_path: Path, *extra: str) -> RunConfig:
    return config(tmp_path, "logger=wandb", "logger.mode=offline", "logger.tags=[mine]", *extra)


def test_offline_runs_hold_every_metric(tmp_path: Path) -> None:
    cfg = offline(tmp_path)
    run_dir = cfg.run_dir
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.csv").write_text("seed\n3\n7\n")
    figure = run_dir / "figures" / "density.png"
    figure.parent.mkdir()
    from PIL import Image

    Image.new("RGB", (4, 4)).save(figure)
    logger = loggers.open(cfg, run_dir)
    for step in (10, 20, 30):
        logger.log(rows(step))
    logger.finish(METRICS, [figure], run_dir)
    logger.close("done")

    runs = read_back(tmp_path)
    owner = loggers.results_token(tmp_path)
    assert set(runs) == {f"{cfg.config_hash}-{seed}-{owner}" for seed in (3, 7)}
    first, second = (runs[f"{cfg.config_hash}-{seed}-{owner}"] for seed in (3, 7))
    assert first["config"]["commit"] == commit() and first["config"]["version"] == importlib.metadata.version(
        "ebmbench"
    )
    assert [(r["underflows"], r["val_nll"]) for r in first["history"]] == [(0, 0.5)] * 3
    assert first["history"][-1]["figures/density._type"] == "image-file"  # where panels of images look for it
    assert [r["loss"] for r in first["history"]] == [1 / 13, 1 / 23, 1 / 33]
    assert [r["_step"] for r in first["history"]] == [10, 20, 30]
    assert [r["epoch"] for r in second["history"]] == [1, 2, 3]
    assert first["run"].job_type == "nce+"
    assert first["run"].run_group == "1d-1-nce-plus"  # no sweep: task, dataset and method
    assert set(first["run"].tags) == {"1d", "1d-1", "nce+", "mine"}
    assert first["config"]["proposal"] == {"name": "mixture", "stds": [0.1, 0.8], "shared": True}
    assert first["config"]["config_hash"] == cfg.config_hash
    assert (first["config"]["seed"], second["config"]["seed"]) == (3, 7)
    for run, expected in ((first, METRICS[0]), (second, METRICS[1])):
        for key, value in expected.items():
            if key != "seed":
                assert run["summary"][key] == (value if math.isfinite(value) else str(value))
        assert run["exit_code"] == 0
    assert first["summary"]["figures/density._type"] == "image-file"
    (artifact,) = first["artifacts"]
    assert artifact.name == cfg.run_id and "+" not in artifact.name
    assert {e.path for e in artifact.manifest.contents} >= {
        "metrics.csv",
        "history.csv",
        "figures/density.png",
    }
    assert not {e.path for e in artifact.manifest.contents} & {"lock", "lock.alive", "status.json"}
    assert not second["artifacts"]


def test_a_resumed_offline_run_is_whole_and_there_once(tmp_path: Path) -> None:
    cfg = offline(tmp_path)
    cfg.run_dir.mkdir(parents=True)
    logger = loggers.open(cfg, cfg.run_dir)
    for step in (10, 20, 30):
        logger.log(rows(step))
    logger.close("interrupted")  # after step 30, the last checkpoint being of step 20
    logger = loggers.open(cfg, cfg.run_dir, resume={3: 20, 7: 20})
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    for step in (30, 40):
        logger.log(rows(step))
    logger.finish(METRICS, [], cfg.run_dir)
    logger.close("done")
    runs = read_back(tmp_path)
    assert len(runs) == 2
    for run in runs.values():
        assert [r["_step"] for r in run["history"]] == [10, 20, 30, 40]
        assert run["summary"]["state"] == "done"


def test_more_seeds_find_the_same_wandb_runs(tmp_path: Path) -> None:
    few = compose(["task=1d", "method=nce", "seeds=2"])
    many = compose(["task=1d", "method=nce", "seeds=5", "device=cpu"])
    other = compose(["task=1d", "method=nce", "seeds=2", "method.num_samples=16"])
    mine, theirs = loggers.results_token(tmp_path / "mine"), loggers.results_token(tmp_path / "theirs")
    assert loggers.wandb_run_id(few, 1, mine) == loggers.wandb_run_id(many, 1, mine)
    assert loggers.wandb_run_id(few, 1, mine) != loggers.wandb_run_id(other, 1, mine)
    # A teammate with the same settings has another results folder, and a run of their own.
    assert loggers.wandb_run_id(few, 1, mine) != loggers.wandb_run_id(few, 1, theirs)
    assert loggers.results_token(tmp_path / "mine") == mine


def test_without_a_login_one_sentence_and_no_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(UserError, match="wandb login"):
        loggers.open(config(tmp_path, "logger=wandb"), folder)
    assert not list(folder.iterdir()) and not (tmp_path / "wandb").exists()


def test_a_refused_login_leaves_no_file_open_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(**settings: Any) -> None:
        (tmp_path / "wandb" / f"run-20260102_030405-{settings['id']}").mkdir(parents=True)
        raise wandb.errors.CommError("user is not logged in")

    monkeypatch.setattr(loggers, "has_login", lambda: True)
    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match="user is not logged in"):  # what is opened at first use stays open
        loggers.open(config(tmp_path, "logger=wandb"), tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UserError, match="user is not logged in"):
        loggers.open(config(tmp_path, "logger=wandb"), tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == ["folder.txt"]


def test_trackio_has_a_run_for_each_seed_when_the_run_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine alone; a run that goes on has the rows of before it too."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trackio = pytest.importorskip("trackio")
    settings = config(tmp_path, "logger=trackio", "logger.project=mine")
    first = loggers.open(settings, tmp_path)
    first.log(rows(10))
    first.close("interrupted")
    logger = loggers.open(settings, tmp_path, resume={3: 10, 7: 10})
    logger.log(rows(20))
    logger.finish([{"seed": seed, "d_kl": 0.1 * seed} for seed in (3, 7)], [], tmp_path)
    logger.close("done")
    logger.close("done")
    runs = {run.name: run for run in trackio.Api().runs("mine")}
    assert set(runs) == {f"{settings.run_id}-3", f"{settings.run_id}-7"}
