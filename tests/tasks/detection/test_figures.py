"""What figures say: which boxes changed, and gains over several base detectors together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ebmbench.tasks.detection import figures, sweep_figures
from ebmbench.tasks.detection.data import as_coco
from ebmbench.tasks.detection.evaluation import as_tables, evaluate
from ebmbench.tasks.examples import write_examples
from tests.tasks.detection.test_evaluation import made_problem


def test_the_box_that_changed_most_comes_first() -> None:
    def box(image_id: int, category: int, x: float, score: float = 0.9) -> dict[str, Any]:
        return {"image_id": image_id, "category_id": category, "bbox": [x, 0.0, 10.0, 10.0], "score": score}

    images = [{"id": number, "width": 100, "height": 20} for number in (1, 2, 3)]
    true = [{**box(number, 1, 20.0), "area": 100.0, "iscrowd": 0} for number in (1, 2, 3)]
    truth = as_coco(images, true, {1: "star", 2: "cross"})
    before = [box(1, 1, 21.0), box(2, 1, 22.0), box(2, 2, 20.0), box(3, 1, 20.0, 0.1)]
    after = [box(1, 1, 22.0), box(2, 1, 20.0), box(2, 2, 20.0), box(3, 1, 20.0)]
    found = figures.changes(truth, before, after)
    assert [change.image_id for change in found] == [2, 1]  # image 3 had no sure detection before
    assert found[0].overlaps == pytest.approx((8 / 12, 1)) and found[0].name == "star" and found[0].gain > 0
    assert found[1].overlaps == pytest.approx((9 / 11, 8 / 12)) and found[1].gain < 0


@pytest.fixture
def drawn_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The figures of a run by name, before they are saved."""
    monkeypatch.setattr(figures, "save_pictures", lambda drawn, _: drawn)
    setup: Any = SimpleNamespace(seeds=[0], method=SimpleNamespace(name="nce"), label="made")
    task: Any = SimpleNamespace(data=SimpleNamespace(eval_split="val"))
    return lambda: figures.figures(task, setup, tmp_path)


def test_a_run_of_one_row_of_history_shows_its_points(tmp_path: Path, drawn_of: Any) -> None:
    row = {"seed": 0, "step": 40, "loss": 1.0, "val_loss": 2.0, "grad_norm": 0.5}
    pd.DataFrame([row]).to_csv(tmp_path / "history.csv", index=False)
    lines = [line for axes in drawn_of()["training"].axes for line in axes.get_lines()]
    assert len(lines) == 3 and all(line.get_marker() == "o" for line in lines)
    pd.DataFrame([row, row | {"step": 80}]).to_csv(tmp_path / "history.csv", index=False)
    lines = [line for axes in drawn_of()["training"].axes for line in axes.get_lines()]
    assert len(lines) == 3 and all(line.get_marker() == "None" for line in lines)


def test_no_boxes_are_drawn_where_none_was_found_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn_of: Any
) -> None:
    true = {"image_id": 1, "category_id": 1, "bbox": [20.0, 0.0, 10.0, 10.0], "area": 100.0, "iscrowd": 0}
    truth = as_coco([{"id": 1, "width": 100, "height": 20}], [true], {1: "star"})
    dataset = SimpleNamespace(ground_truth=lambda: truth, image_ids=[1], load=lambda _: None)
    monkeypatch.setattr(figures, "open_split", lambda *_: dataset)
    (tmp_path / "detections").mkdir()
    for x, names in ((60.0, set()), (21.0, {"boxes"})):
        found = [{"image_id": 1, "category_id": 1, "bbox": [x, 0.0, 10.0, 10.0], "score": 0.9}]
        for stage in ("base", "refined"):
            (tmp_path / "detections" / f"{stage}.0.json").write_text(json.dumps(found))
        assert set(drawn_of()) == names
    assert "largest changes\nof 1 box; IoU" in drawn_of()["boxes"].get_suptitle()


@dataclass
class _Results:
    done: pd.DataFrame
    folders: Mapping[str, Path]

    @property
    def comparison(self) -> pd.DataFrame:
        return self.done


def test_gains_are_those_of_all_bases_and_seeds_together(tmp_path: Path) -> None:
    truth, rough = made_problem(20, jitter=6)
    ids = list(truth.imgs)
    base = evaluate(truth, rough, ids)
    folders, rows, expected = {}, [], []
    for number, jitters in enumerate([(1, 3), (2, 4)]):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        parts = []
        for seed, jitter in enumerate(jitters):
            refined = evaluate(truth, made_problem(20, jitter=jitter)[1], ids)
            expected.append(refined.metrics["ap"] - base.metrics["ap"])
            examples, images = as_tables({"base": base, "refined": refined}, seed)
            parts.append(examples)
            rows.append(
                {"run_id": f"run{number}", "label": "detection-shapes", "method": "nce+", "seed": seed,
                 "task.base.seed": number, "ap_gain": expected[-1]}
            )  # fmt: skip
        write_examples(folder, pd.concat(parts))
        write_examples(folder, images, "images")
        folders[f"run{number}"] = folder
    (figure,) = sweep_figures.gains(_Results(pd.DataFrame(rows), folders))
    (row,) = figure.data.to_dict("records")
    assert (row["bases"], row["seeds"]) == (2, 4)
    assert row["ap_gain"] == pytest.approx(sum(expected) / 4, abs=1e-9)
    assert row["ap_gain_low"] < row["ap_gain"] < row["ap_gain_high"]
    for panel in figure.panels:
        panel.draw(Figure().subplots())
    assert list(sweep_figures.gains(_Results(pd.DataFrame(rows), {}))) == []  # a table from a file has no runs


def test_the_gain_by_training_images_has_a_line_for_each_other_setting() -> None:
    rows = [
        {"label": "detection-shapes", "method": "nce+", "data.num_train": images, "data.base_seed": base}
        | {"seed": seed, "head_gain": images / 100 + seed, "head_gain_low": -1.0, "head_gain_high": 5.0}
        | {"accepted": float(seed or images > 25)}
        for images in (25, 100)
        for base in (None, 1)
        for seed in (0, 1)
    ]
    done = pd.DataFrame(rows)
    (figure,) = sweep_figures.images(SimpleNamespace(done=done))  # type: ignore[arg-type]
    assert len(figure.panels) == 1 and len(figure.data) == 4  # the other order was not asked for
    assert figure.data.loc[figure.data["data.num_train"] == 25, "accepted"].tolist() == [0.5, 0.5]
    assert figure.data.loc[figure.data["data.num_train"] == 100, "gain"].tolist() == [1.5, 1.5]
    _, axes = plt.subplots()
    figure.panels[0].draw(axes)
    assert [line.get_label() for line in axes.get_lines() if "nce" in str(line.get_label())] == [
        "nce+, base_seed 1",
        "nce+, base_seed null",
    ]
    plt.close("all")
    assert not list(sweep_figures.images(SimpleNamespace(done=done[done["data.num_train"] == 25])))  # type: ignore[arg-type]
