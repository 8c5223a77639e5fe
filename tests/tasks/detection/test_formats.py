"""Formats of other tools, splits by folders and lists, groups, and images with tags and of many bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebmbench.core.errors import UserError
from ebmbench.tasks.detection.data import as_coco, open_split, read_image
from ebmbench.tasks.detection.evaluation import evaluate
from ebmbench.tasks.detection.layouts import MineData

BOX = [8.0, 6.0, 40.0, 36.0]
"""x1 y1 x2 y2 of the box in every image of 80 x 60 pixels."""


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(path)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def voc(path: Path, name: str = "cat", difficult: int = 0, file: str = "") -> None:
    box = "<bndbox><xmin>9</xmin><ymin>7</ymin><xmax>40</xmax><ymax>36</ymax></bndbox>"
    thing = f"<object><name>{name}</name><difficult>{difficult}</difficult>{box}</object>"
    write(path, f"<annotation><filename>{file or path.stem + '.png'}</filename>{thing}</annotation>")


def yolo(root: Path, number: int) -> None:
    write(root / "labels" / "train" / f"{number}.txt", "0 0.3 0.35 0.4 0.5\n")
    write(root / "data.yaml", "train: images/train\nnames: [cat]\n")


def cvat(root: Path, number: int) -> None:
    box = '<box label="cat" xtl="8" ytl="6" xbr="40" ybr="36"/>'
    images = "".join(f'<image name="{n}.png" width="80" height="60">{box}</image>' for n in range(number + 1))
    write(root / "annotations.xml", f"<annotations>{images}</annotations>")


def via(root: Path, number: int) -> None:
    shape = {"name": "rect", "x": 8, "y": 6, "width": 32, "height": 30}
    region = {"shape_attributes": shape, "region_attributes": {"label": "cat"}}
    write(root / "via.json", {f"{n}.png1": {"filename": f"{n}.png", "regions": [region]} for n in range(number + 1)})


def createml(root: Path, number: int) -> None:
    thing = {"label": "cat", "coordinates": {"x": 24, "y": 21, "width": 32, "height": 30}}
    write(root / "all.json", [{"image": f"{n}.png", "annotations": [thing]} for n in range(number + 1)])


def labelme(root: Path, number: int) -> None:
    shape = {"label": "cat", "points": [[8, 6], [40, 36]], "shape_type": "rectangle"}
    write(root / f"{number}.json", {"shapes": [shape], "imagePath": f"{number}.png"})


def table(root: Path, number: int) -> None:
    rows = "".join(f"{n}.png,80,60,cat,8,6,40,36\n" for n in range(number + 1))
    write(root / "labels.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n" + rows)


def retinanet(root: Path, number: int) -> None:
    write(root / "all.csv", "".join(f"images/train/{n}.png,8,6,40,36,cat\n" for n in range(number + 1)))


@pytest.mark.parametrize("writer", [yolo, cvat, via, createml, labelme, table, retinanet])
def test_the_formats_of_other_tools(tmp_path: Path, writer: Callable[[Path, int], None]) -> None:
    for number in range(10):
        picture(tmp_path / "images" / "train" / f"{number}.png", number)
        writer(tmp_path, number)
    splits = [open_split(MineData(root=str(tmp_path)), split) for split in ("train", "val", "test")]
    assert [len(split.image_ids) for split in splits] == [7, 1, 2]
    example = splits[0].load(0)
    assert example is not None and example.boxes.tolist() == [pytest.approx(BOX)]
    assert splits[0].categories == {1: "cat"}


def test_folders_are_splits_and_files_of_one_name_stay_apart(tmp_path: Path) -> None:
    for split, count, name in (("train", 5, "cat"), ("valid", 3, "cat"), ("test", 2, "dog")):
        for number in range(count):
            picture(tmp_path / split / f"{number}.png", 10 * count + number)
            voc(tmp_path / split / f"{number}.xml", name, file="copied.png")
    (tmp_path / "train" / "._0.xml").write_bytes(b"\0\5")
    data = MineData(root=str(tmp_path))
    assert [len(open_split(data, split).image_ids) for split in ("train", "val", "test")] == [5, 3, 2]
    assert any("of macOS left out" in note for note in open_split(data, "train").notes)
    assert open_split(data, "test").ground_truth().getAnnIds(catIds=[2]) == [1, 2]


def test_a_list_of_training_and_validation_images_and_the_folder_of_annotations_alone(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / "images" / f"{number}.png", number)
        voc(tmp_path / "xmls" / f"{number}.xml")
    assert sum(len(MineData(root=str(tmp_path / "xmls")).part(s).files) for s in ("train", "val", "test")) == 12
    write(tmp_path / "ImageSets" / "Main" / "trainval.txt", "\n".join(map(str, range(9))))
    write(tmp_path / "ImageSets" / "Main" / "test.txt", "9\n10\n11\n")
    data = MineData(root=str(tmp_path))
    assert [path.stem for path in data.part("test").files] == ["9", "10", "11"]
    assert len(data.part("train").files) + len(data.part("val").files) == 9


def test_difficult_boxes_are_neither_learned_nor_scored(tmp_path: Path) -> None:
    for number in range(8):
        picture(tmp_path / f"{number}.png", number)
        voc(tmp_path / f"{number}.xml", difficult=number % 2)
    train = open_split(MineData(root=str(tmp_path), val_fraction=0.2, test_fraction=0.2), "train")
    assert any("to be ignored" in note for note in train.notes)
    truth = train.ground_truth()
    marked = {a["image_id"]: a["area"] < 0 for a in truth.dataset["annotations"]}
    found = [{"image_id": i, "category_id": 1, "bbox": [8, 6, 32, 30], "score": 0.9} for i in marked]
    both = evaluate(truth, found, list(marked))
    assert 0 < sum(marked.values()) < len(marked) and both.metrics["ap"] == pytest.approx(100)


def test_all_detections_that_are_allowed_count() -> None:
    """150 perfect ones of an image: with COCO's hundred they would score 66."""
    boxes = [[12.0 * (n % 15), 12.0 * (n // 15), 10.0, 10.0] for n in range(150)]
    images = [{"id": 1, "width": 200, "height": 200}]
    one = {"image_id": 1, "category_id": 1}
    truth = as_coco(images, [{**one, "iscrowd": 0, "bbox": b, "area": 100.0} for b in boxes], {1: "a"})
    found = [{**one, "bbox": b, "score": 0.9} for b in boxes]
    assert evaluate(truth, found, [1], max_detections=150).metrics["ap"] == pytest.approx(100)
    assert evaluate(truth, found, [1]).metrics["ap"] < 70


def coco(root: Path, count: int, size: tuple[int, int] = (80, 60)) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "width": size[0], "height": size[1]} for n in range(count)]
    boxes = [{"image_id": n, "category_id": 1, "bbox": [5, 5, 30, 30]} for n in range(count)]
    write(root / "all.json", {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]})


def test_near_copies_stay_together_and_those_of_given_splits_are_said(tmp_path: Path) -> None:
    """Twelve scenes of three frames each, a pixel or two apart."""
    for number in range(36):
        noise = np.random.default_rng(number // 3).integers(0, 255, (4, 5), dtype=np.uint8)
        scene = np.asarray(Image.fromarray(noise).resize((90, 70), Image.Resampling.BILINEAR))
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(scene[number % 3 : number % 3 + 60, :80]).save(tmp_path / "images" / f"{number}.png")
    coco(tmp_path, 36)

    def scenes(groups: str) -> list[set[int]]:
        data = MineData(root=str(tmp_path), groups=groups)
        return [{int(path.stem) // 3 for path in data.part(split).files} for split in ("train", "val", "test")]

    train, val, test = scenes("near")
    assert not train & test and not train & val and not val & test
    train, _, test = scenes("none")
    assert train & test
    notes = open_split(MineData(root=str(tmp_path), groups="none"), "train").notes
    assert any("near copy in train" in note for note in notes)
    assert any(
        "groups that a split keeps together" in n for n in open_split(MineData(root=str(tmp_path)), "train").notes
    )
    with pytest.raises(UserError, match=r"data\.groups=clip\[0-9\]\+ is found in no file's path"):
        scenes("clip[0-9]+")


@pytest.mark.parametrize(("size", "turned"), [((80, 60), False), ((60, 80), True)])
def test_one_rule_for_images_with_a_tag(tmp_path: Path, size: tuple[int, int], turned: bool) -> None:
    """As the annotations fit: all as stored, or all turned, a new image too."""
    exif = Image.Exif()
    exif[0x112] = 6
    for number in range(6):
        path = tmp_path / "images" / f"{number}.png"
        picture(path, number)
        Image.open(path).save(path, exif=exif)
    coco(tmp_path, 6, size)
    split = open_split(MineData(root=str(tmp_path)), "train")
    assert split.turned == turned
    assert read_image(tmp_path / "images" / "0.png", turned=split.turned).size == size


def test_twelve_bits_in_sixteen_are_scaled_by_their_range(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 80 * 60).reshape(60, 80).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    grey = np.asarray(read_image(tmp_path / "a.png"))[..., 0]
    assert grey.max() == 255 and abs(float(grey.mean()) - 127.5) < 1
