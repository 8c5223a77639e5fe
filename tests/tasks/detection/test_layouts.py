"""Folders of images as people have them: each layout is found by itself, and mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ebmbench.config.compose import compose
from ebmbench.core.errors import UserError
from ebmbench.engine.execute import execute
from ebmbench.tasks.detection.data import open_split
from ebmbench.tasks.detection.layouts import MineData
from tests.processes import TINY

BOXES = ([4, 6, 30, 25], [40, 30, 20, 24])


def image(path: Path, width: int = 80, height: int = 60) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


def coco(file: Path, folder: Path, names: list[str], prefix: str = "") -> None:
    """An annotation file, and its images in a folder."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "cell"}]}
    for number, name in enumerate(names):
        image(folder / name)
        content["images"].append({"id": number, "file_name": prefix + name, "width": 80, "height": 60})
        content["annotations"] += [{"image_id": number, "category_id": 3, "bbox": box} for box in BOXES]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def voc(root: Path, names: list[str], folder: str = "JPEGImages") -> None:
    for name in names:
        image(root / folder / f"{name}.png")
        things = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
            f"<ymax>{y + h}</ymax></bndbox></object>"
            for label, (x, y, w, h) in zip(("dog", "cat"), BOXES, strict=True)
        )
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.png</filename><size><width>80</width><height>60</height></size>{things}"
            "</annotation>"
        )


def names(count: int, start: int = 0) -> list[str]:
    return [f"{number}.png" for number in range(start, start + count)]


def counts(root: Path) -> list[int]:
    """Images of each split, all of which can be opened; no image is in two of them."""
    data = MineData(root=str(root))
    splits = [open_split(data, split) for split in ("train", "val", "test")]
    for split in splits:
        example = split.load(0)
        assert example is not None and example.boxes.tolist()[0] == [4, 6, 34, 31]
    files = [
        str(data.part(s).folder / i["file_name"])
        for s in ("train", "val", "test")
        for i in data.part(s).annotations["images"]
    ]
    assert len(set(files)) == len(files)
    return [len(split.image_ids) for split in splits]


def test_coco_s_own_names(tmp_path: Path) -> None:
    coco(tmp_path / "annotations" / "instances_train2017.json", tmp_path / "train2017", names(6))
    coco(tmp_path / "annotations" / "instances_val2017.json", tmp_path / "val2017", names(3, 10))
    (tmp_path / "annotations" / "captions_train2017.json").write_text('{"images": [], "annotations": [], "info": {}}')
    assert counts(tmp_path) == [5, 3, 1]  # the test images come from those for training


def test_a_folder_for_each_split(tmp_path: Path) -> None:
    for folder, count, start in (("train", 5, 0), ("valid", 2, 10), ("test", 2, 20)):
        coco(tmp_path / folder / "_annotations.coco.json", tmp_path / folder, names(count, start))
    assert counts(tmp_path) == [5, 2, 2]


@pytest.mark.parametrize("folder", ["images", ".", "imgs", "my photos"])
def test_one_annotation_file_is_split_at_random(tmp_path: Path, folder: str) -> None:
    coco(tmp_path / "labels.json", tmp_path / folder, names(20))
    assert counts(tmp_path) == [14, 3, 3]
    assert MineData(root=str(tmp_path)).content("val") != MineData(root=str(tmp_path), split_seed=1).content("val")


def test_file_names_with_a_folder_in_them(tmp_path: Path) -> None:
    coco(tmp_path / "ann" / "all.json", tmp_path / "photos", names(10), prefix="photos/")
    assert sum(counts(tmp_path)) == 10


def test_pascal_voc_with_and_without_lists(tmp_path: Path) -> None:
    voc(tmp_path, [str(number) for number in range(10)])
    assert counts(tmp_path) == [7, 1, 2]
    assert open_split(MineData(root=str(tmp_path)), "train").categories == {1: "cat", 2: "dog"}
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, stems in (("train", "0 1 2 3 4 5"), ("val", "6 7"), ("test", "8 9")):
        (lists / f"{split}.txt").write_text("\n".join(stems.split()) + "\n")
    assert counts(tmp_path) == [6, 2, 2]
    (lists / "val.txt").write_text("6\nnone\n")
    with pytest.raises(UserError, match=r"val\.txt names 'none', which has no annotations"):
        counts(tmp_path)


def test_slips_in_pascal_voc_are_mended_and_said(tmp_path: Path) -> None:
    """A class in two spellings, an empty file, a missing image that the user allows to be left out."""
    voc(tmp_path, [str(number) for number in range(12)])
    annotations = tmp_path / "Annotations"
    text = (annotations / "0.xml").read_text()
    (annotations / "0.xml").write_text(text.replace("<name>dog", "<name>Dog"))
    (annotations / "1.xml").write_text("\n")
    (tmp_path / "JPEGImages" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png.*is not in.*skip_bad_images"):
        for split in ("train", "val", "test"):
            open_split(MineData(root=str(tmp_path)), split)
    data = MineData(root=str(tmp_path), skip_bad_images=True)
    splits = [open_split(data, split) for split in ("train", "val", "test")]
    assert sum(len(split.image_ids) for split in splits) == 10 and splits[0].categories == {1: "cat", 2: "dog"}
    said = [note for split in splits for note in split.notes]
    assert sum("1 box of class 'Dog' is taken for 'dog'" in note for note in said) == 1
    assert sum("1.xml is empty" in note for note in said) == 1


def test_pascal_voc_without_sizes_and_with_other_names_of_files(tmp_path: Path) -> None:
    """Tools write a size of 0, and keep a file's name after it was converted."""
    voc(tmp_path, [str(number) for number in range(10)])
    for path in (tmp_path / "Annotations").iterdir():
        text = path.read_text().replace("<width>80</width><height>60</height>", "<width>0</width><height>0</height>")
        path.write_text(text.replace(".png", ".jpeg"))
    assert counts(tmp_path) == [7, 1, 2]
    entry = MineData(root=str(tmp_path)).part("train").annotations["images"][0]
    assert (entry["width"], entry["height"]) == (80, 60)


def test_images_in_two_splits_are_said(tmp_path: Path) -> None:
    for folder, count, start in (("train", 5, 0), ("valid", 3, 10), ("test", 3, 11)):  # 11.png and 12.png are in both
        coco(tmp_path / folder / "_annotations.coco.json", tmp_path / folder, names(count, start))
    notes = open_split(MineData(root=str(tmp_path)), "train").notes
    assert [note for note in notes if "both" in note] == ["2 images are in both val and test: scores may be too good."]


def test_a_random_split_without_a_box_and_a_class_without_one(tmp_path: Path) -> None:
    coco(tmp_path / "all.json", tmp_path / "images", names(20))
    content = json.loads((tmp_path / "all.json").read_text())
    content["categories"].append({"id": 9, "name": "dog"})
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] < 3]
    (tmp_path / "all.json").write_text(json.dumps(content))
    data = MineData(root=str(tmp_path))
    assert any("no box of 'dog' to learn from" in note for note in open_split(data, "train").notes)
    with pytest.raises(UserError, match=r"3 images of the .* split, and no box in them .*split_seed draws another"):
        for split in ("val", "test"):
            open_split(data, split)


def test_classes_that_differ_in_case_alone_are_said(tmp_path: Path) -> None:
    coco(tmp_path / "all.json", tmp_path / "images", names(10))
    content = json.loads((tmp_path / "all.json").read_text())
    content["categories"].append({"id": 99, "name": content["categories"][0]["name"].upper()})
    (tmp_path / "all.json").write_text(json.dumps(content))
    assert any("differ in case alone" in note for note in open_split(MineData(root=str(tmp_path)), "train").notes)


def test_folders_that_are_no_dataset_are_named(tmp_path: Path) -> None:
    def fails(match: str) -> None:
        with pytest.raises(UserError, match=match):
            counts(tmp_path)

    with pytest.raises(UserError, match="is not a folder"):
        counts(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data\.root is not given"):
        MineData().part("train")
    (tmp_path / "notes.json").write_text("{}")
    fails("holds no annotations of a known layout")
    coco(tmp_path / "a.json", tmp_path, names(4))
    coco(tmp_path / "b.json", tmp_path, names(4))
    fails(r"several annotation files \(a\.json, b\.json\), and their names say no split")
    (tmp_path / "b.json").unlink()
    (tmp_path / "2.png").unlink()
    fails(r"image 2 \('2\.png'\) is not in")
    coco(tmp_path / "a.json", tmp_path, names(2))
    fails("too few images for training")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("<annotation><size>", "cannot be read as XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "document type"),
        ("<annotation><object><name>cat</name></object></annotation>", "bndbox/xmin is missing"),
        ("<annotation><size><width>a</width></size></annotation>", "Pascal VOC's format"),
    ],
)
def test_broken_xml_is_named(tmp_path: Path, text: str, match: str) -> None:
    voc(tmp_path, ["0", "1", "2", "3"])
    (tmp_path / "Annotations" / "1.xml").write_text(text)
    with pytest.raises(UserError, match=match):
        counts(tmp_path)


def test_images_are_kept_so_large_that_their_boxes_can_be_told(tmp_path: Path) -> None:
    coco(tmp_path / "all.json", tmp_path / "images", names(10))
    content = json.loads((tmp_path / "all.json").read_text())
    data = MineData(root=str(tmp_path))
    assert data.sides == (64, 128)  # small images stay as they are, but for steps of 8
    for scale, expected in ((0.5, 128), (0.06, 400), (0.01, 512)):
        for entry in content["images"]:
            entry |= {"width": 1600, "height": 1200}
        for entry in content["annotations"]:
            entry["bbox"] = [5, 5, 1200 * scale, 1200 * scale]
        (tmp_path / "all.json").write_text(json.dumps(content) + " " * int(scale * 1000))
        assert data.sides[0] == expected
    assert MineData(root=str(tmp_path), short_side=320).sides == (320, 640)


def test_a_run_needs_the_folder_and_the_method_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside them only what makes it short."""
    coco(tmp_path / "data" / "all.json", tmp_path / "data" / "images", names(12))
    short = [word for word in TINY[5:] if not word.startswith("data")]
    words = ["task=detection", "data=mine", f"data.root={tmp_path / 'data'}", "method=nce", "task.base.weights=none"]
    outcome = execute(compose([*words, *short, "method.num_samples=4", f"results_dir={tmp_path}"]), quiet=True)
    assert outcome.state == "done"
    said = capsys.readouterr().err
    assert "1 class; images: 8 for train, 2 for val, 2 for test (val and test drawn at random" in said
    assert "images are resized to a short side of 64 pixels" in said
