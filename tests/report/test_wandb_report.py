"""The W&B report, through the real client over real HTTP to a stub of the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ebmbench.core.errors import UserError
from tests.report.wandb_stub import API_KEY, stub
from tests.sweep.made import command


def run(
    tmp_path: Path, results: Path, *arguments: str, url: str, key: str | None = API_KEY
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with a home that holds no login."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "HOME": str(tmp_path),
        "WANDB_BASE_URL": url,
        "NETRC": str(tmp_path / "netrc"),
        "WANDB_SILENT": "true",
    }
    if key:
        environment["WANDB_API_KEY"] = key
    command = [sys.executable, "-m", "ebmbench", "report", "wandb", *arguments, f"results_dir={results}"]
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)


def blocks(view: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [block for block in json.loads(view["spec"])["blocks"] if block["type"] == kind]


def test_the_report_is_saved_with_all_its_parts(tmp_path: Path, results: Path) -> None:
    with stub() as server:
        ended = run(tmp_path, results, "paper_1d", url=server.url)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith(f"{server.url}/team/ebmbench/reports/")
        assert not server.unknown and server.keys == {API_KEY}
        (view,) = server.views
    assert view["displayName"] == "ebmbench: paper_1d"
    grids = blocks(view, "panel-grid")
    assert len(grids) == 2  # one per dataset
    for grid in grids:
        panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
        kinds = [panel["viewType"] for panel in panels]
        assert kinds.count("Bar Chart") == 3  # D_KL, NLL, CRPS
        assert {"Run History Line Plot", "Parallel Coordinates Plot", "Run Comparer"} <= set(kinds)
        assert "Scatter Plot" in kinds  # a point for each seed
        bars = next(p["config"] for p in panels if p["viewType"] == "Bar Chart")
        assert (bars["metrics"], bars["groupBy"], bars["groupArea"]) == (["d_kl"], "method.value.name", "stderr")
        lines = next(p["config"] for p in panels if p["viewType"] == "Run History Line Plot")
        assert (lines["metrics"], lines["groupBy"]) == (["loss"], "method.value.name")
        columns = next(p["config"]["columns"] for p in panels if p["viewType"] == "Parallel Coordinates Plot")
        accessors = [column["accessor"] for column in columns]
        assert {"config:method.value.name", "config:method.value.sigma", "config:method.value.beta"} <= set(accessors)
        assert "summary:d_kl" in accessors
    # Which runs: by configuration hash, as the logger writes it into each W&B run.
    chosen = grids[0]["metadata"]["runSets"][0]["filters"]["filters"][0]
    assert chosen["key"]["name"] == "config_hash" and len(chosen["value"]) == 7
    text = json.dumps(blocks(view, "markdown-block"))
    assert "1D, dataset 1: mean over seeds" in text and "1D, dataset 2: which method beats which" in text
    assert "python -m ebmbench sweep submit paper_1d" in json.dumps(blocks(view, "code-block"))


def test_the_panels_show_what_the_runs_have(tmp_path: Path) -> None:
    import wandb_workspaces.reports.v2 as wr

    from ebmbench.report import frame
    from ebmbench.report.wandb import _grid
    from tests.report import made_runs

    made_runs.detection_runs(tmp_path, seeds=2)
    made_runs.paper_sweep(tmp_path, seeds=1)
    found = frame.find([str(path) for path in (tmp_path / "runs").iterdir()], tmp_path)
    for folder in found.folders.values():
        (folder / "history.csv").write_text("step,seed,loss,val_nll\n")
    found.frame["underflows"] = 3
    shown = {label: _grid(found, label, "p", "e", wr).panels for label in ("detection-shapes", "1d-1")}
    titles = {label: [getattr(panel, "title", "") for panel in panels] for label, panels in shown.items()}
    (media,) = [panel for panel in shown["detection-shapes"] if isinstance(panel, wr.MediaBrowser)]
    assert media.media_keys == ["figures/boxes"]
    assert "underflows: mean over seeds" in titles["1d-1"]
    assert "validation by method" in titles["1d-1"] and "validation by method" not in titles["detection-shapes"]


def test_a_wrong_key_is_one_sentence_and_exit_code_2(tmp_path: Path, results: Path) -> None:
    with stub() as server:
        ended = run(tmp_path, results, "shapes", url=server.url, key="f" * 40)
        assert not server.views
    assert ended.returncode == 2
    assert "W&B did not take the report" in ended.stderr and "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_without_a_login_one_sentence_says_how(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stub() as server:
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        for name, value in {"HOME": str(tmp_path), "WANDB_BASE_URL": server.url, "NETRC": str(tmp_path / "n")}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match="wandb login"):
            command("report", *["wandb", "shapes", f"results_dir={results}"])
        assert not server.operations  # nobody was contacted
