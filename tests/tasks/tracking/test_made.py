"""Made and pseudo videos: their boxes are exact, and they are functions of the seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ebmbench.core.errors import UserError
from ebmbench.tasks.tracking import made
from ebmbench.tasks.tracking.coarse import coarse_track, identity_of
from ebmbench.tasks.tracking.crops import Crop
from ebmbench.tasks.tracking.data import VideoData
from ebmbench.tasks.tracking.scores import moved, overlap
from ebmbench.tasks.tracking.videos import Video


def make(seed: int, frames: int = 6) -> Video:
    return made.made_video(np.random.default_rng(seed), f"made-{seed}", range(frames))


def test_a_made_video_is_a_function_of_the_seed() -> None:
    one, same, other = make(0), make(0), make(1)
    assert np.array_equal(one.made, same.made) and np.array_equal(one.boxes, same.boxes)
    assert not np.array_equal(one.made, other.made)


def test_the_box_of_a_layer_is_what_is_drawn_to_a_pixel() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        layer = made._Layer(Image.new("RGB", (99, 99), (255, 255, 255)), made._outline(rng, 47))
        matrix = made._motion(rng, 1, 0.5, np.array([128.0, 96.0]))[0]
        canvas = Image.new("RGB", (made.WIDTH, made.HEIGHT))
        layer.draw(canvas, matrix)
        seen = np.argwhere(np.asarray(canvas)[..., 0] > 8)
        box = np.concatenate((seen.min(0)[::-1], seen.max(0)[::-1] + 1))
        assert np.abs(box - layer.box(matrix)).max() <= 1.5


def test_targets_move_and_change_their_size() -> None:
    boxes = np.stack([make(seed, 20).boxes for seed in range(4)])
    sizes = boxes[..., 2:] - boxes[..., :2]
    assert (np.abs(np.diff(boxes[..., :2], axis=1)).max((1, 2)) > 0.5).all()
    assert (sizes.max(1) / sizes.min(1)).max() > 1.1


def coco(root: Path, count: int = 3) -> Path:
    """A folder in COCO's format: an object with a polygon in each image, a magenta one."""
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir(parents=True)
        content: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
        for number in range(count):
            image = Image.new("RGB", (160, 120), (0, 90 + 30 * number, 0))
            corners = [50.0, 40, 90, 40, 100, 80, 50, 80]
            ImageDraw.Draw(image).polygon(corners, fill=(255, 0, 255))
            image.save(root / f"{split}2017" / f"{number}.png")
            content["images"].append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 120})
            box = {"bbox": [50, 40, 50, 40], "segmentation": [corners], "area": 1800, "iscrowd": 0}
            content["annotations"].append({"id": number, "image_id": number, "category_id": 1, **box})
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def test_pseudo_videos_follow_the_object_of_a_photograph(tmp_path: Path) -> None:
    data = VideoData(photographs=str(coco(tmp_path)), num_train=2, num_val=12, frames=3)
    hits = []
    for video in data.val()["pseudo"]:
        for frame, (x1, y1, x2, y2) in zip(video.made, video.boxes, strict=True):
            magenta = (frame[..., 0] > 100) & (frame[..., 1] < 100) & (frame[..., 2] > 100)
            inside = magenta[max(0, round(y1)) : round(y2), max(0, round(x1)) : round(x2)]
            hits.append(inside.mean())
    assert len(hits) == 36 and np.median(hits) > 0.6  # corners, an occluder and the light take the rest


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="photographs"):
        VideoData(photographs=str(tmp_path / "nothing")).train()


def test_a_crop_maps_boxes_there_and_back() -> None:
    frame = np.zeros((50, 60, 3), dtype=np.uint8)
    frame[20:30, 10:26] = 255
    box = np.array([10.0, 20, 26, 30])
    crop = Crop.around(frame, moved(box, np.array([0.3, -0.2, 0.1, 0.0])), 96, 2.0)
    x1, y1, x2, y2 = np.rint(crop.into(box)).astype(int)
    white = crop.image[0] > 0.5
    assert white[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].all()
    assert white.sum() == pytest.approx((x2 - x1) * (y2 - y1), rel=0.1)
    assert crop.back(crop.into(box)) == pytest.approx(box)


def test_a_crop_outside_the_frame_is_plain() -> None:
    frame = np.full((50, 60, 3), 100, dtype=np.uint8)
    crop = Crop.around(frame, np.array([500.0, 500, 520, 520]), 32, 2.0)
    assert crop.image.std() < 1e-6


# ------------------------------------------------------------------------------------------------- coarse tracks


def test_csrt_follows_a_made_video_and_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    video = make(3, 8)
    track = coarse_track("csrt", video, tmp_path)
    assert track[0] == pytest.approx(video.boxes[0])
    assert overlap(track, video.boxes).mean() > 0.4
    monkeypatch.setattr("ebmbench.tasks.tracking.coarse.csrt_track", None)  # it is not called again
    assert np.array_equal(coarse_track("csrt", video, tmp_path), track)


def test_boxes_of_any_tracker_come_from_text_files(tmp_path: Path) -> None:
    video = make(4, 3)
    (tmp_path / "made-4.txt").write_text("0,0,1,1\n5 6 10 20\nnan,nan,nan,nan\n")
    track = coarse_track(str(tmp_path), video, tmp_path)
    assert track[0] == pytest.approx(video.boxes[0])  # the first box is given
    assert track[1:].tolist() == [[5, 6, 15, 26]] * 2


def test_missing_and_short_files_of_boxes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"made-4\.txt is not there"):
        coarse_track(str(tmp_path), make(4, 3), tmp_path)
    (tmp_path / "made-4.txt").write_text("0,0,1,1\n")
    with pytest.raises(UserError, match="1 box, and made-4 3 frames"):
        coarse_track(str(tmp_path), make(4, 3), tmp_path)
    with pytest.raises(UserError, match=r"task\.coarse=dimp is not allowed"):
        identity_of("dimp")


def test_noisy_boxes_are_the_same_every_time() -> None:
    video = make(5, 40)
    track = coarse_track("noise", video, Path())
    assert np.array_equal(track, coarse_track("noise", video, Path()))
    assert 0.5 < overlap(track, video.boxes)[1:].mean() < 0.8
