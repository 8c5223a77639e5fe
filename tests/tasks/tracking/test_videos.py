"""Reading sequences: every layout, separator and trap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebmbench.core.errors import UserError
from ebmbench.tasks.tracking.videos import Video, polygon_box, read_boxes, read_videos

LINES = ["1,2,10,20", "3\t4\t10\t20", "5 6 10 20", " 7.5,  8, 10, 20"]
CORNERS = [[0, 1, 10, 21], [2, 3, 12, 23], [4, 5, 14, 25], [6.5, 7, 16.5, 27]]  # pixels count from 1


def images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / name)


def only(root: Path) -> Video:
    (video,) = read_videos(root)
    return video


def otb(folder: Path, lines: list[str] = LINES, first: int = 1, count: int = 4) -> Path:
    images(folder / "img", [f"{n:04d}.png" for n in range(first, first + count)])
    (folder / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_otb_with_commas_tabs_and_spaces(tmp_path: Path) -> None:
    video = only(otb(tmp_path / "Car"))
    assert (video.name, video.origin, len(video)) == ("Car", 1, 4)
    assert video.truth.tolist() == CORNERS


def test_images_that_start_at_300_belong_to_the_first_boxes(tmp_path: Path) -> None:
    video = only(otb(tmp_path / "David", first=300))
    assert video.source[0].name == "0300.png"
    assert video.truth.tolist() == CORNERS


def test_a_whole_copy_of_david_starts_at_image_300(tmp_path: Path) -> None:
    video = only(otb(tmp_path / "David", first=1, count=303))
    assert [path.name for path in video.source] == ["0300.png", "0301.png", "0302.png", "0303.png"]


def test_fewer_boxes_than_images_leave_the_others_unknown(tmp_path: Path) -> None:
    video = only(otb(tmp_path / "Football1", LINES[:2]))
    assert len(video) == 4
    assert video.truth[:2].tolist() == CORNERS[:2] and np.isnan(video.truth[2:]).all()


def test_own_sequence_with_the_first_box_alone(tmp_path: Path) -> None:
    assert np.isnan(only(otb(tmp_path / "own", LINES[:1])).truth).all(1).tolist() == [False, True, True, True]


def test_two_targets_of_otb_are_two_sequences(tmp_path: Path) -> None:
    folder = otb(tmp_path / "Jogging")
    for number in (1, 2):
        (folder / f"groundtruth_rect.{number}.txt").write_text("\n".join(LINES))
    (folder / "groundtruth_rect.txt").unlink()
    assert [video.name for video in read_videos(tmp_path)] == ["Jogging.1", "Jogging.2"]


def test_lasot_leaves_out_what_is_flagged_as_absent(tmp_path: Path) -> None:
    folder = tmp_path / "car" / "car-1"
    images(folder / "img", [f"{n:08d}.png" for n in range(1, 5)])
    (folder / "groundtruth.txt").write_text("\n".join(LINES))
    (folder / "full_occlusion.txt").write_text("0,1,0,0")
    (folder / "out_of_view.txt").write_text("0,0,1,0")
    video = only(tmp_path)
    assert video.name == "car-1"
    assert np.isnan(video.truth).all(1).tolist() == [False, True, True, False]
    assert video.truth[3].tolist() == CORNERS[3]


def test_got10k_with_absence_and_cover(tmp_path: Path) -> None:
    folder = tmp_path / "GOT-10k_Val_000001"
    images(folder, [f"{n:08d}.png" for n in range(1, 5)])
    (folder / "groundtruth.txt").write_text("\n".join(LINES))
    (folder / "absence.label").write_text("0\n1\n0\n0\n")
    (folder / "cover.label").write_text("8\n8\n8\n0\n")
    video = only(tmp_path)
    assert np.isnan(video.truth).all(1).tolist() == [False, True, False, True]
    assert video.truth[0].tolist() == [1, 2, 11, 22]  # its pixels count from 0


def test_trackingnet_sorts_frames_by_number(tmp_path: Path) -> None:
    images(tmp_path / "frames" / "a", [f"{n}.png" for n in range(11)])
    (tmp_path / "anno").mkdir()
    (tmp_path / "anno" / "a.txt").write_text("1,2,10,20\n")
    assert [path.stem for path in only(tmp_path).source] == [str(n) for n in range(11)]


def test_vot_polygons_become_boxes(tmp_path: Path) -> None:
    images(tmp_path / "bag", ["00000001.png", "00000002.png"])
    (tmp_path / "bag" / "groundtruth.txt").write_text("1,2,11,2,11,22,1,22\n11,1,21,11,11,21,1,11\n")
    truth = only(tmp_path).truth
    assert truth[0] == pytest.approx([0, 1, 10, 21])  # an upright box is itself
    half = np.sqrt(200) / 2  # a square on its corner has half the area of the box around it
    assert truth[1] == pytest.approx([10 - half, 10 - half, 10 + half, 10 + half])


def test_a_polygon_keeps_its_area_and_centre() -> None:
    corners = np.array([[334.02, 128.36], [438.19, 188.78], [396.39, 260.83], [292.23, 200.41]])
    x1, y1, x2, y2 = polygon_box(corners)
    sides = np.linalg.norm(np.diff(corners[:3], axis=0), axis=1)
    assert (x2 - x1) * (y2 - y1) == pytest.approx(sides.prod(), rel=1e-3)
    assert [(x1 + x2) / 2, (y1 + y2) / 2] == pytest.approx((corners.min(0) + corners.max(0)) / 2)


def test_a_video_file_with_its_boxes(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
    for value in (0, 100, 200):
        writer.write(np.full((32, 48, 3), (0, 0, value), np.uint8))  # BGR
    writer.release()
    (tmp_path / "clip.txt").write_text("1,2,10,20\n")
    video = only(tmp_path)
    assert len(video) == 3
    assert [round(float(frame[..., 0].mean()), -2) for frame in video.frames()] == [0, 100, 200]


@pytest.mark.parametrize("line", ["1,2,3", "a,b,c,d", "1,2,3,4,5", "m1,2,3"])
def test_a_line_that_is_no_box_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.txt").write_text(f"1,2,3,4\n{line}\n")
    with pytest.raises(UserError, match="line 2"):
        read_boxes(tmp_path / "x.txt", 0)


@pytest.mark.parametrize(
    ("lines", "text"), [(["0,0,0,0", "1,2,3,4"], "no box"), (["nan,nan,nan,nan"], "no box"), ([""], "no box")]
)
def test_a_sequence_needs_its_first_box(tmp_path: Path, lines: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        read_videos(otb(tmp_path / "Car", lines))


def test_a_folder_without_sequences_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sequence"):
        read_videos(tmp_path)
    with pytest.raises(UserError, match="is not there"):
        read_videos(tmp_path / "nothing")


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    folder = otb(tmp_path / "Car")
    (folder / "img" / "0002.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"0002\.png"):
        list(only(folder).frames())
