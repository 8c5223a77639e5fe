"""The made images: a pure function of their seed, with boxes that are tight around what is seen."""

import numpy as np
import pytest

from ebmbench.tasks.detection import shapes


def test_an_image_is_a_pure_function_of_seed_split_and_index() -> None:
    first, again = shapes.make_image(3, "train", 7), shapes.make_image(3, "train", 7)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.boxes, again.boxes)
    others = [
        shapes.make_image(4, "train", 7),
        shapes.make_image(3, "val", 7),
        shapes.make_image(3, "train", 8),
    ]
    assert all(not np.array_equal(first.image, other.image) for other in others)


def test_images_are_as_described() -> None:
    made = [shapes.make_image(0, "train", index) for index in range(200)]
    assert all(m.image.shape == (128, 128, 3) and m.image.dtype == np.uint8 for m in made)
    assert {len(m.boxes) for m in made} <= set(range(1, 7))
    boxes = np.concatenate([m.boxes for m in made])
    size = boxes[:, 2:] - boxes[:, :2]
    assert (boxes >= 0).all() and (boxes <= shapes.SIZE).all() and (size >= 3).all()
    assert 26 < np.median(np.sqrt(size.prod(1))) < 34
    labels = np.concatenate([m.labels for m in made])
    assert set(labels) == {1, 2, 3, 4, 5}
    assert np.bincount(labels)[1:].min() > 0.1 * len(labels)  # no class is rare


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_a_box_is_tight_around_its_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single bright shape on black: the box found by threshold in the image is the box given, to a pixel."""
    monkeypatch.setattr(shapes, "CLASSES", (name,))
    monkeypatch.setattr(shapes, "MAX_SHAPES", 1)
    monkeypatch.setattr(shapes, "_background", lambda rng: np.zeros((256, 256, 3), np.float32))
    monkeypatch.setattr(shapes, "_texture", lambda rng, local: np.ones((*(local[0] + local[1]).shape, 3), np.float32))
    for index in range(5):
        made = shapes.make_image(0, "train", index)
        bright = made.image.mean(-1) > 110  # half covered, with the pixels' noise
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(made.boxes[0], seen, atol=2.0)
        assert made.boxes[0][2] - made.boxes[0][0] >= 3


def test_no_shape_is_hidden() -> None:
    """Every shape keeps at least MIN_VISIBLE of itself: no box is a sliver of a large shape."""
    for index in range(50):
        made = shapes.make_image(1, "train", index)
        assert len(np.unique(made.boxes, axis=0)) == len(made.boxes)


def test_annotation_noise_has_its_scale_and_leaves_the_boxes_valid() -> None:
    boxes = np.tile(np.array([[44, 48, 84, 80]], np.float32), (4000, 1))
    noisy = shapes.annotation_noise(boxes, 0.05, seed=0, index=0)
    width, height = noisy[:, 2] - noisy[:, 0], noisy[:, 3] - noisy[:, 1]
    assert abs(((noisy[:, 0] + noisy[:, 2]) / 2 - 64).std() - 0.05 * 40) < 0.1
    assert abs(np.log(height / 32).std() - 0.05) < 0.003
    wild = shapes.annotation_noise(boxes, 1.0, seed=0, index=0)
    assert (wild[:, 2:] - wild[:, :2] >= 1).all() and (wild >= 0).all() and (wild <= 128).all()
    assert (width > 0).all()
