"""Sets of images with a layout of their own, on small made folders of the same layout."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebmbench.core.errors import UserError
from ebmbench.tasks.regression.data.images import Biwi, Steering, UTKFace


def picture(path: Path, value: int, shape: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*shape, 3), value, np.uint8)).save(path)


def test_the_age_of_a_face_is_in_its_name(tmp_path: Path) -> None:
    for age in range(10, 70, 2):
        picture(tmp_path / f"{age}_0_1_20170116174525125.jpg.chip.jpg", age)
    (tmp_path / "readme.txt").write_text("no face")
    split = UTKFace(root=str(tmp_path), size=8).load()
    ages = torch.cat([split.train.y, split.val.y, split.test.y]).flatten().sort().values
    assert ages.tolist() == list(range(22, 61, 2)) and split.target_names == ["age"]
    assert (255 * split.train.x.mean((1, 2, 3)) - split.train.y[:, 0]).abs().max() < 3  # grey, as the file says
    with pytest.raises(UserError, match="holds no faces"):
        UTKFace(root=str(tmp_path), ages=(90, 99)).load()


def test_the_angle_of_a_drive_is_in_a_line_of_its_file(tmp_path: Path) -> None:
    for place in range(20):
        picture(tmp_path / f"{place}.jpg", 10 * place)
    lines = [f"{k}.jpg {k - 10}.5" + (",2018-07-01 17:09:44:912" if k % 2 else "") for k in range(20)]
    (tmp_path / "data.txt").write_text("\n".join(lines))
    split = Steering(root=str(tmp_path), size=8).load()
    assert split.train.y[:, 0].tolist() == [
        place - 10 + math.copysign(0.5, place - 9.5) for place in split.train.places
    ]
    [note] = [note for note in split.notes if note.startswith("published proposal")]
    share = float((split.train.y.max() - split.train.y.min()) / split.train.y.std(unbiased=False) / 40)
    assert float(note.split("[")[1].rstrip("]")) == pytest.approx(share, rel=0.05)
    (tmp_path / "data.txt").write_text("0.jpg left")
    with pytest.raises(UserError, match=r"data.txt must hold lines such as `0.jpg 12.3`"):
        Steering(root=str(tmp_path)).load()


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The matrix of which BIWI's files hold the rows: its transpose has these angles."""
    y, p, r = np.radians([-yaw, pitch, -roll])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).T


def test_a_head_s_angles_and_its_place_are_in_its_pose(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth: dict[tuple[int, int], np.ndarray] = {}
    for person in range(1, 9):
        folder = tmp_path / f"{person:02d}"
        for frame in range(4):
            angles = truth[person, frame] = random.uniform(-60, 60, 3)
            image = np.zeros((480, 640, 3), np.uint8)
            image[190:250, 330:390] = 200  # around the head: 320 + 500 * 80 / 1000, 240 - 500 * 40 / 1000
            folder.mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / f"frame_{frame:05d}_rgb.png")
            rows = [" ".join(f"{v:.6f}" for v in row) for row in (*rotation(*angles), (80, -40, 1000))]
            (folder / f"frame_{frame:05d}_pose.txt").write_text("\n".join([*rows[:3], "", rows[3]]))
        camera = "500 0 320\n0 500 240\n0 0 1\n\n0 0 0 0\n\n1 0 0\n0 1 0\n0 0 1\n\n0 0 0\n\n640 480\n"
        (folder / "rgb.cal").write_text(camera)
    split = Biwi(root=str(tmp_path), size=50).load()
    assert split.target_names == ["yaw", "pitch", "roll"] and len(split.test) in range(4, 17)
    persons = [set(part.places // 4) for part in (split.train, split.val, split.test)]
    assert not persons[0] & persons[1] and not persons[0] & persons[2] and not persons[1] & persons[2]
    for place, y in zip(split.train.places, split.train.y, strict=True):
        np.testing.assert_allclose(y, truth[place // 4 + 1, place % 4], atol=1e-3)
    middle, corner = split.train.x[:, 0, 25, 25], split.train.x[:, 0, 1, 1]
    assert (middle > 0.7).all() and (corner < 0.1).all()  # the cut of 125 pixels has the head of 60 in its middle
    (tmp_path / "01" / "rgb.cal").unlink()
    with pytest.raises(UserError, match=r"rgb.cal cannot be read as numbers"):
        Biwi(root=str(tmp_path)).load()
