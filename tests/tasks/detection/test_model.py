"""Acceptance of a head, and a finished run in use."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ebmbench
from ebmbench.boxes.acceptance import Verdict
from ebmbench.boxes.comparison import Interval
from ebmbench.cli.main import main
from ebmbench.config.compose import compose
from ebmbench.core.errors import UserError
from ebmbench.engine import api
from ebmbench.engine.execute import execute
from ebmbench.tasks.detection import scoring
from ebmbench.tasks.detection.evaluation import Evaluation
from ebmbench.tasks.detection.model import as_pixels
from ebmbench.tasks.detection.shapes import make_image
from tests.processes import tiny

NAMES = ("ap", "ap50", "ap75")


def rows(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds whose heads are judged."""
    folder = tmp_path_factory.mktemp("results")
    words = tiny("nce", f"results_dir={folder}", "seeds=2", "task.inference.accept=true", "task.inference.bootstrap=50")
    return execute(compose(words), quiet=True).run_dir


def test_a_head_that_gains_nothing_is_reported_as_such(run: Path) -> None:
    """Two training steps teach nothing."""
    for row in rows(run):
        if row["accepted"] != "1.0":
            assert row["ap"] == row["base_ap"] and float(row["ap_gain"]) == 0
            assert float(row["val_gain_low"]) <= 0
        else:
            assert row["ap"] == row["head_ap"] and float(row["val_gain_low"]) > 0


@pytest.mark.parametrize(("low", "accepted"), [(0.4, True), (0.0, False), (-1.0, False), (float("nan"), False)])
def test_a_head_is_accepted_where_its_gain_is_above_nothing(
    low: float, accepted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {
        "base": Evaluation(dict.fromkeys(NAMES, 30.0), (), ()),
        "refined": Evaluation(dict.fromkeys(NAMES, 33.0), (), ()),
    }
    gains = {"ap_gain": 2.5, "ap_gain_low": 1.0, "ap_gain_high": 4.0}
    row = scoring._verdict(Verdict(Interval(2.0, low, 5.0), 35), stages, gains, seed=4)
    assert row["accepted"] == float(accepted) and row["head_ap"] == 33 and row["val_gain"] == 2
    assert [row[f"head_gain{end}"] for end in ("", "_low", "_high")] == [2.5, 1.0, 4.0]
    said = capsys.readouterr().err
    if accepted:
        assert "ap" not in row and not said
    else:
        assert row["ap"] == 30 and row["ap_gain"] == row["ap75_gain_high"] == 0
        assert "seed 4: the head is not accepted" in said and "; undecided: +2.0 AP [" in said and "35 images" in said


def test_the_validation_split_decides_and_not_the_scored_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(tiny("nce", f"results_dir={run.parent.parent}", "task.inference.accept=true", "seeds=[7]"))
    learner = config.task.learner(config.setup, (7,), torch.device("cpu"))
    frozen = learner.frozen  # type: ignore[attr-defined]
    assert frozen.val is not frozen.scored and frozen.val.dataset.split == "val"

    def judged(task: Any, store: Any, found: Any) -> Any:
        asked.append(store)
        return {name: Evaluation({"ap": ap}, (), (1,)) for name, ap in (("base", 5.0), ("refined", 4.0))}

    asked: list[Any] = []
    monkeypatch.setattr(scoring, "_base_and_refined", judged)
    gain = {"ap": Interval(1.0, 0.5, 1.5), "ap75": Interval(1.0, 0.5, 1.5)}
    monkeypatch.setattr(scoring, "paired_bootstrap", lambda *_: gain)
    (row,) = learner.evaluate(tmp_path, [False])
    assert asked == [frozen.val] and row["accepted"] == 1 and row["val_ap"] == 4


def test_it_predicts_what_the_run_scored(run: Path) -> None:
    """Its boxes in an image of the scored split are those that the run wrote for its seed."""
    models = ebmbench.load(run)
    assert list(models) == [0, 1]
    for seed, model in models.items():
        image = make_image(0, "test", 0).image
        found = model.predict(image)
        stage = "refined" if model.accepted else "base"
        written = json.loads((run / "detections" / f"{stage}.{seed}.json").read_text())
        of_image = [d for d in written if d["image_id"] == 1]
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (d["bbox"] for d in of_image)]).reshape(-1, 4)
        torch.testing.assert_close(found.boxes, boxes, atol=2e-3, rtol=0)
        torch.testing.assert_close(found.scores, torch.tensor([d["score"] for d in of_image]), atol=1e-5, rtol=0)
        assert set(found.labels) <= {"ellipse", "rectangle", "triangle", "star", "cross", *model.names.values()}
        count = len(found.boxes)
        assert found.low.shape == found.high.shape == (count, 4) and found.log_density.shape == (count,)
        assert torch.all(found.low <= found.high) and found.log_density.isfinite().all()


def test_intervals_hold_the_box_and_grow_with_the_level(run: Path) -> None:
    model = ebmbench.load(run)[0]
    image = make_image(0, "test", 1).image
    narrow, wide = model.predict(image, 0.5), model.predict(image, 0.95)
    assert len(narrow.boxes)
    assert torch.all(wide.high - wide.low >= narrow.high - narrow.low)
    inside = (wide.low <= wide.boxes + 1) & (wide.high >= wide.boxes - 1)
    assert inside.double().mean() > 0.9  # f is nearly flat: the box is in the middle of what is possible


def test_files_and_folders_become_json_and_pictures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        Image.fromarray(make_image(0, "test", number).image).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "damaged.png").write_text("no image either")
    Image.new("L", (90, 60), 128).save(tmp_path / "grey.jpg")
    out = tmp_path / "out.json"
    assert main(["predict", str(run), str(tmp_path / "in"), str(tmp_path / "grey.jpg"), "--out", str(out)]) == 0
    said = json.loads(out.read_text())
    assert [Path(entry["file"]).name for entry in said["images"]] == ["0.png", "1.png", "grey.jpg"]
    assert (said["images"][2]["width"], said["images"][2]["height"]) == (90, 60)
    damaged, done = (line for line in capsys.readouterr().err.splitlines() if "left out" in line or "out.json" in line)
    assert "damaged.png" in damaged and "in 3 images" in done
    objects = [thing for entry in said["images"] for thing in entry["objects"]]
    assert len(out.read_text().splitlines()) == len(objects) + 2 + sum(2 if e["objects"] else 1 for e in said["images"])
    thing = said["images"][0]["objects"][0]
    assert len(thing["box"]) == 4 and len(thing["intervals"]) == 4 and 0 < thing["score"] <= 1
    pictures = sorted((tmp_path / "out-pictures").iterdir())
    assert len(pictures) == 3 and np.asarray(Image.open(pictures[0])).std() > 5


def test_other_formats_by_the_ending_of_the_output(run: Path, tmp_path: Path) -> None:
    """The same objects in all of them; folders below are looked into, and intervals can be left out."""
    (tmp_path / "in" / "below").mkdir(parents=True)
    for place in ("in/a.png", "in/below/a.png"):
        Image.fromarray(make_image(0, "test", 3).image).save(tmp_path / place)
    outs = [tmp_path / name for name in ("o.json", "o.coco.json", "o.csv", "o.zip")]
    for out in outs:
        assert main(["predict", str(run), str(tmp_path / "in"), "--no-intervals", "--out", str(out)]) == 0
    objects = [thing for image in json.loads(outs[0].read_text())["images"] for thing in image["objects"]]
    assert objects and "intervals" not in objects[0]
    coco = json.loads(outs[1].read_text())
    assert [a["score"] for a in coco["annotations"]] == [thing["score"] for thing in objects]
    x1, y1, x2, y2 = objects[0]["box"]
    assert coco["annotations"][0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1]) and len(coco["images"]) == 2
    with open(outs[2]) as file:
        table = list(csv.DictReader(file))
    assert [float(row["y2"]) for row in table] == [thing["box"][3] for thing in objects] and "x1_low" not in table[0]
    with zipfile.ZipFile(outs[3]) as archive:
        names = archive.read("classes.txt").decode().split()
        label, x, _, w, _, score = archive.read("labels/0000-a.txt").decode().splitlines()[0].split()
    assert names[int(label)] == objects[0]["label"] and float(score) == pytest.approx(objects[0]["score"], abs=1e-5)
    assert [float(x), float(w)] == pytest.approx([(x1 + x2) / 256, (x2 - x1) / 128], abs=1e-5)
    assert main(["predict", str(run), str(tmp_path / "in"), "--out", str(tmp_path / "o.txt")]) == 2


@pytest.mark.parametrize("what", ["text.png", "empty", "missing.png"])
def test_what_is_no_image_is_one_sentence(
    run: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(run), str(tmp_path / what), "--out", str(tmp_path / "o.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert what in line and not (tmp_path / "o.json").exists()


def test_seeds_that_diverged_predict_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(make_image(0, "test", 0).image).save(image)
    command = ["predict", str(run), str(image), "--out", str(tmp_path / "out.json")]
    models = ebmbench.load(run)
    monkeypatch.setattr(api, "load", lambda folder: models)
    models[0].diverged_step = 1
    assert main(command) == 0 and json.loads((tmp_path / "out.json").read_text())["seed"] == 1
    models[1].diverged_step = 1
    assert main(command) == 2 and "every seed of the run diverged" in capsys.readouterr().err


def test_a_moved_results_folder_still_predicts_and_a_missing_base_is_said(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run.parent.parent, tmp_path / "moved")
    folder = tmp_path / "moved" / "runs" / run.name
    image = make_image(0, "test", 0).image
    here, there = (ebmbench.load(place)[0].predict(image).boxes for place in (run, folder))
    assert torch.equal(here, there)
    task = compose(tiny("nce", "task.base.weights=train")).task
    with pytest.raises(UserError, match=r"the base detector, is not there"):
        task.predictor(None, {}, 0, folder)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_that_are_no_images_are_refused(bad: Any) -> None:
    with pytest.raises(UserError, match="uint8 array"):
        as_pixels(bad)
