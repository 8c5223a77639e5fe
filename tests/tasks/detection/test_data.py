"""The loader of COCO's format, on datasets made here and on real ones where they are at hand."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ebmbench.core.errors import UserError
from ebmbench.tasks.detection.data import CocoData, ShapesData, open_split, read_annotations, read_image

SHARED = Path(os.environ.get("EBMBENCH_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def coco_config(root: Path, **changes: Any) -> CocoData:
    values = {
        "name": "coco",
        "root": str(root),
        "train_images": "images",
        "train_annotations": "train.json",
        "val_images": "images",
        "val_annotations": "train.json",
        "test_images": None,
        "test_annotations": None,
        "skip_bad_images": False,
        "short_side": 64,
        "long_side": 128,
        "eval_split": "val",
    }
    return CocoData.model_validate({**values, **changes})


def make_dataset(root: Path) -> dict[str, Any]:
    """Three images (ids 10, 20, 30), categories 3 and 90; a crowd, a degenerate box, an image without boxes."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(root / "images" / name)
    return {
        "images": [
            {"id": 10 * (i + 1), "file_name": name, "width": 30, "height": 20}
            for i, name in enumerate(("a.png", "b.png", "c.png"))
        ],
        "categories": [{"id": 90, "name": "last"}, {"id": 3, "name": "third"}],
        "annotations": [
            {"id": 0, "image_id": 10, "category_id": 90, "bbox": [2, 3, 10, 8], "area": 80, "iscrowd": 0},
            {"id": 1, "image_id": 10, "category_id": 3, "bbox": [25, 15, 10, 8]},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [0, 0, 30, 20], "iscrowd": 1, "area": 600},
            {"id": 3, "image_id": 20, "category_id": 3, "bbox": [1, 1, 0, 5], "iscrowd": 0, "area": 0},
            {"id": 4, "image_id": 20, "category_id": 3, "bbox": [1, 1, 6, 5], "iscrowd": 0, "area": 30},
        ],
    }


def write(root: Path, content: Any) -> Path:
    path = root / "train.json"
    path.write_text(json.dumps(content))
    return path


def test_loads_boxes_and_reports_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, make_dataset(tmp_path))
    train = open_split(coco_config(tmp_path), "train")
    assert train.image_ids == [10, 20] and train.categories == {3: "third", 90: "last"}
    first = train.load(0)
    assert first is not None and first.image.shape == (3, 20, 30)
    # The second box is cut at the image's edge, the crowd is not learned from.
    assert first.boxes.tolist() == [[2, 3, 12, 11], [25, 15, 30, 20]] and first.categories.tolist() == [90, 3]
    notes = " ".join(train.notes)
    assert "1 crowd box, left" in notes and "1 box under a pixel" in notes and "1 image without boxes" in notes
    open_split(coco_config(tmp_path), "train")
    assert capsys.readouterr().err.splitlines() == [f"ebmbench: {note}" for note in train.notes]  # once each
    val = open_split(coco_config(tmp_path), "val")
    assert val.image_ids == [10, 20, 30]  # what is scored has the empty image, too
    truth = val.ground_truth()
    assert len(truth.anns) == 5 and sum(a["iscrowd"] for a in truth.anns.values()) == 1


@pytest.mark.parametrize("kind", ["grey", "cmyk", "palette", "grey16", "rgba"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, kind: str) -> None:
    content = make_dataset(tmp_path)
    grey = np.full((20, 30), 128, np.uint8)
    name = "d.jpg" if kind in ("grey", "cmyk") else "d.png"
    image = {
        "grey": lambda: Image.fromarray(grey),
        "cmyk": lambda: Image.fromarray(np.dstack([grey] * 3)).convert("CMYK"),
        "palette": lambda: Image.fromarray(np.dstack([grey] * 3)).quantize(4),
        "grey16": lambda: Image.fromarray(grey.astype(np.uint16) * 257),
        "rgba": lambda: Image.fromarray(np.dstack([grey] * 4)),
    }[kind]()
    image.save(tmp_path / "images" / name)
    content["images"][0]["file_name"] = name
    write(tmp_path, content)
    example = open_split(coco_config(tmp_path), "train").load(0)
    assert example is not None and example.image.shape == (3, 20, 30)
    assert (example.image.float() - 128).abs().max() <= 4


def test_exif_rotation_follows_the_annotations(tmp_path: Path) -> None:
    """Stored 30 x 20 with the tag for a quarter turn: the pixels turn only if the annotations say 20 x 30."""
    content = make_dataset(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :5] = 255  # a white stripe at the left: at the top once turned
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png", exif=exif)
    write(tmp_path, content)
    stored = open_split(coco_config(tmp_path), "train").load(0)
    assert stored is not None and stored.image.shape == (3, 20, 30)
    content["images"][0].update(width=20, height=30)
    write(tmp_path, content)
    turned = open_split(coco_config(tmp_path), "train").load(0)
    assert turned is not None and turned.image.shape == (3, 30, 20)
    assert turned.image[:, :5].min() == 255 and turned.image[:, 5:].max() == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["images"][0].update(file_name="../secret.png"), ["'../secret.png'", "image 10"]),
        (lambda c: c["images"][0].update(file_name="/etc/passwd"), ["'/etc/passwd'", "image 10"]),
        (lambda c: c["images"][0].update(file_name="x/../../s.png"), ["x/../../s.png"]),
        (
            lambda c: c["images"][0].update(file_name="none.png"),
            ["'none.png'", "image 10", "skip_bad_images"],
        ),
        (lambda c: c["annotations"][1].update(category_id=4), ["annotations[1]", "category_id 4"]),
        (lambda c: c["annotations"][1].update(image_id=11), ["annotations[1]", "image_id 11"]),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, 3]), ["annotations[2]", "[1, 2, 3]"]),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, 3, float("nan")]), ["annotations[2]"]),
        (lambda c: c["annotations"][2].update(bbox="__import__('os')"), ["annotations[2]"]),
        (lambda c: c["images"][1].update(id=10), ["images[1]", "10"]),
        (lambda c: c["images"][1].pop("width"), ["images[1]", "width"]),
        (lambda c: c["images"][1].update(width=30.5), ["images[1]", "width 30.5", "not a whole number"]),
        (lambda c: c["categories"][1].update(name=c["categories"][0]["name"]), ["both called", "give them one id"]),
        (lambda c: c["images"][1].update(id="20"), ["images[1]", "id '20'", "not a whole number"]),
        (lambda c: c["annotations"].clear(), ["0 boxes"]),
        (lambda c: [a.update(bbox=[0.1, 0.2, 0.5, 0.5]) for a in c["annotations"]], ["fractions", "pixels"]),
        (lambda c: [a.update(bbox=[18, 12, 28, 18]) for a in c["annotations"]], ["x1, y1, x2, y2"]),
        (lambda c: c.pop("categories"), ["COCO's format"]),
        (lambda c: c["annotations"][0].update(image_id=[1]), ["annotations[0]", "image_id [1]"]),
        (lambda c: c["annotations"][1].update(category_id={}), ["annotations[1]", "category_id {}"]),
        (lambda c: c["annotations"][2].update(iscrowd="0"), ["annotations[2]", "iscrowd '0'"]),
    ],
)
def test_a_bad_annotation_file_is_named_with_its_entry(tmp_path: Path, change: Any, words: list[str]) -> None:
    content = make_dataset(tmp_path)
    change(content)
    write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        open_split(coco_config(tmp_path), "train")
    text = str(caught.value)
    assert "train.json" in text and all(word in text for word in words), text
    assert "\n" not in text


def test_files_that_are_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_split(coco_config(tmp_path), "train")
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        open_split(coco_config(tmp_path), "train")
    write(tmp_path, [1, 2])
    with pytest.raises(UserError, match="COCO's format"):
        read_annotations(tmp_path / "train.json")
    with pytest.raises(UserError, match=r"^data\.root"):
        open_split(coco_config(tmp_path).model_copy(update={"root": None}), "train")
    with pytest.raises(UserError, match="test_annotations"):
        open_split(coco_config(tmp_path), "test")


def test_a_corrupt_image_is_refused_or_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, make_dataset(tmp_path))
    good = (tmp_path / "images" / "b.png").read_bytes()
    for bad in (good[: len(good) // 2], b"not an image"):
        (tmp_path / "images" / "b.png").write_bytes(bad)
        with pytest.raises(UserError, match=r"b\.png, image 20 of train\.json"):
            open_split(coco_config(tmp_path), "train")
    allowed = open_split(coco_config(tmp_path, skip_bad_images=True), "train")
    assert allowed.image_ids == [10] and allowed.load(0) is not None
    assert capsys.readouterr().err.count("it is left out") == 1
    assert 20 not in allowed.ground_truth().imgs
    (tmp_path / "images" / "a.png").write_bytes(b"not an image either")
    with pytest.raises(UserError, match=r"no image with a box can be used; the first fault: "):
        open_split(coco_config(tmp_path, skip_bad_images=True), "train")


def test_images_of_a_shape_that_cannot_be_used(tmp_path: Path) -> None:
    content = make_dataset(tmp_path)
    Image.new("RGB", (31, 20)).save(tmp_path / "images" / "b.png")
    write(tmp_path, content)
    with pytest.raises(UserError, match="31x20 pixels and its annotations say 30x20"):
        open_split(coco_config(tmp_path), "train")
    content["images"][1] |= {"width": 4000, "height": 2}
    content["annotations"][-1]["bbox"] = [0, 0, 100, 2]
    Image.new("RGB", (4000, 2)).save(tmp_path / "images" / "b.png")
    write(tmp_path, content)
    with pytest.raises(UserError, match="4000x2 pixels: its short side would be resized to less than one"):
        open_split(coco_config(tmp_path), "train")
    content["images"][1] |= {"width": 30, "height": 20, "file_name": "x" * 5000}
    write(tmp_path, content)
    with pytest.raises(UserError, match=r"image 20 .* is not in"):
        open_split(coco_config(tmp_path), "train")
    split = open_split(coco_config(tmp_path, skip_bad_images=True), "train")
    assert split.image_ids == [10] and "too long" in split.notes[-1]


@pytest.mark.parametrize(("top", "kind"), [(1.0, np.float32), (200.0, np.float32), (60_000, np.uint16)])
def test_grey_values_of_many_bits_are_scaled_and_not_cut(tmp_path: Path, top: float, kind: Any) -> None:
    values = np.linspace(0, top, 20 * 30).reshape(20, 30).astype(kind)
    Image.fromarray(values).save(tmp_path / "grey.tif")
    pixels = np.asarray(read_image(tmp_path / "grey.tif", (30, 20)))
    expected = values.astype(float) * {1.0: 255, 200.0: 1, 60_000: 1 / 256}[top]
    assert pixels.shape == (20, 30, 3) and np.abs(pixels[..., 0] - expected).max() <= 1


def test_the_content_of_a_split_follows_its_annotations_and_its_images(tmp_path: Path) -> None:
    content = make_dataset(tmp_path)
    write(tmp_path, content)
    first = open_split(coco_config(tmp_path), "train").content
    assert first == open_split(coco_config(tmp_path), "train").content
    identity = coco_config(tmp_path).identity()
    assert identity["train_content"] == first and "root" not in identity
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "images", moved / "images")
    write(moved, content)
    assert coco_config(moved).identity() == identity  # where the data are does not matter
    (moved / "images" / "a.png").write_bytes(b"edited")
    assert coco_config(moved).identity() != identity
    content["annotations"][0]["bbox"] = [3, 3, 10, 8]
    write(tmp_path, content)
    assert open_split(coco_config(tmp_path), "train").content != first


def test_some_of_the_training_images_are_a_part_of_more_of_them(tmp_path: Path) -> None:
    write(tmp_path, make_dataset(tmp_path))
    one, two, more = (open_split(coco_config(tmp_path, num_train=count), "train") for count in (1, 2, 9))
    assert len(one.image_ids) == 1 and len(two.image_ids) == 2 and more.image_ids == two.image_ids
    assert set(one.image_ids) < set(two.image_ids) and one.content != two.content
    assert len(open_split(coco_config(tmp_path, num_train=1), "val").image_ids) == 3


def test_shapes_split_and_annotation_noise() -> None:
    values = {
        "name": "shapes", "data_seed": 0, "num_train": 3, "num_val": 2, "num_test": 2, "annotation_noise": 0.0,
        "short_side": 128, "long_side": 128, "eval_split": "test",
    }  # fmt: skip
    clean, noisy = (ShapesData.model_validate({**values, "annotation_noise": std}) for std in (0.0, 0.1))
    train = open_split(clean, "train")
    assert len(train.image_ids) == 3 and train.categories[1] == "ellipse"
    example, other = train.load(0), open_split(noisy, "train").load(0)
    assert example is not None and other is not None
    assert torch.equal(example.image, other.image) and not torch.equal(example.boxes, other.boxes)
    val, noisy_val = open_split(clean, "val").load(0), open_split(noisy, "val").load(0)
    assert val is not None and noisy_val is not None and torch.equal(val.boxes, noisy_val.boxes)
    truth = open_split(clean, "val").ground_truth()
    assert len(truth.imgs) == 2 and min(truth.anns) == 1


@pytest.mark.skipif(not (SHARED / "tiny_coco").is_dir(), reason="tiny_coco is not at hand (EBMBENCH_SHARED_DATA)")
def test_tiny_coco() -> None:
    config = coco_config(
        SHARED / "tiny_coco",
        train_images="train2017",
        train_annotations="annotations/instances_train2017.json",
        val_images="val2017",
        val_annotations="annotations/instances_val2017.json",
    )
    train, val = open_split(config, "train"), open_split(config, "val")
    assert len(train.categories) == 80 and max(train.categories) == 90
    assert len(val.image_ids) == 50 and len(val.ground_truth().anns) == 382
    for dataset in (train, val):
        for index in range(len(dataset.image_ids)):
            example = dataset.load(index)
            assert example is not None and example.image.shape[0] == 3
            height, width = example.image.shape[1:]
            limit = torch.tensor([width, height, width, height])
            assert (example.boxes >= 0).all() and (example.boxes <= limit).all()
            assert (example.boxes[:, 2:] > example.boxes[:, :2]).all()


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="bccd is not at hand (EBMBENCH_SHARED_DATA)")
def test_bccd() -> None:
    files = {f"{s}_annotations": f"annotations/instances_{s}.json" for s in ("train", "val", "test")}
    config = coco_config(SHARED / "bccd", **files, test_images="images")
    sizes = [len(open_split(config, split).image_ids) for split in ("train", "val", "test")]
    assert sizes == [205, 87, 72]
    example = open_split(config, "test").load(0)
    assert example is not None and example.image.shape == (3, 480, 640)
