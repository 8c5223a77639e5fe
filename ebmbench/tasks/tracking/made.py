"""Made videos with exact truth: textured shapes that move, turn, grow and squeeze before a moving background.

Distractors of the same texture, an occluder, changes of light, noise and blur make them hard. A video is a function of
its random generator and of the textures. `made_video` makes its own textures; `pseudo_video` cuts them out of
photographs with boxes, such as any folder in COCO's format, or moves a camera over one. The true box encloses the
outline of the whole shape, seen or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ebmbench.tasks.tracking.scores import Array
from ebmbench.tasks.tracking.videos import Frame, Video

VERSION = 1
"""Raised when the same seed makes other videos: what was computed of the old ones is not taken for the new."""
HEIGHT, WIDTH = 192, 256
TARGET = (22.0, 64.0)
"""The range of a target's size √(w h) in pixels at the start."""
_FINE = 4


@dataclass(frozen=True)
class Photograph:
    """An image with objects: outlines `[n, 2]` in its pixels."""

    image: Image.Image
    outlines: tuple[Array, ...]


@dataclass(frozen=True)
class _Layer:
    """A texture and the outline of what is seen of it, `[n, 2]` from the texture's centre.

    Attributes:
        target: the outline of a part of it that is the target; the whole if not given.
    """

    texture: Image.Image
    outline: Array
    target: Array | None = None

    def box(self, matrix: Array) -> Array:
        """Returns the box of the target under an affine map `[2, 3]`."""
        points = (self.outline if self.target is None else self.target) @ matrix[:, :2].T + matrix[:, 2]
        return np.concatenate((points.min(0), points.max(0)))

    def draw(self, canvas: Image.Image, matrix: Array) -> None:
        """Draws it by an affine map `[2, 3]` of its own coordinates."""
        points = self.outline @ matrix[:, :2].T + matrix[:, 2]
        low = np.maximum(np.floor(points.min(0)), 0).astype(int)
        high = np.minimum(np.ceil(points.max(0)), canvas.size).astype(int)
        if (high > low).all():
            size = (int(high[0] - low[0]), int(high[1] - low[1]))
            mask = Image.new("L", (_FINE * size[0], _FINE * size[1]))
            ImageDraw.Draw(mask).polygon([tuple(p) for p in ((points - low) * _FINE - 0.5).tolist()], fill=255)
            patch = _warped(self.texture, matrix, low, size)
            canvas.paste(patch, tuple(low.tolist()), mask.resize(size, Image.Resampling.BOX))


def _warped(texture: Image.Image, matrix: Array, low: Array, size: tuple[int, int]) -> Image.Image:
    """Returns the window of `size` at `low` of a texture that is mapped by a matrix from its centre."""
    inverse = np.linalg.inv(matrix[:, :2])
    offset = inverse @ (low - matrix[:, 2]) + np.array(texture.size) / 2
    rows = np.concatenate((inverse, offset[:, None]), axis=1).ravel()
    return texture.transform(size, Image.Transform.AFFINE, tuple(rows.tolist()), Image.Resampling.BILINEAR)


def _wander(rng: np.random.Generator, frames: int, speed: float, limit: float) -> Array:
    """Returns a smooth random path from 0 that stays within ±limit, `[frames]`."""
    velocity = np.zeros(frames)
    for t in range(1, frames):
        velocity[t] = 0.85 * velocity[t - 1] + 0.5 * speed * rng.normal()
    folded = (velocity.cumsum() + limit) % (4 * limit)
    return np.where(folded > 2 * limit, 4 * limit - folded, folded) - limit


def _motion(rng: np.random.Generator, frames: int, scale: float, start: Array, turn: float = 0.06) -> Array:
    """Returns affine maps `[frames, 2, 3]`: shift, turn, growth and squeeze along two directions of the shape."""
    angle = _wander(rng, frames, turn, 2.0) + rng.normal(0, 3 * turn)
    log_scale, squeeze = _wander(rng, frames, 0.025, 0.6), _wander(rng, frames, 0.025, 0.45)
    linear = np.zeros((frames, 2, 2))
    linear[:, 0, 0], linear[:, 0, 1] = np.cos(angle), -np.sin(angle)
    linear[:, 1, 0], linear[:, 1, 1] = np.sin(angle), np.cos(angle)
    sides = scale * np.exp(log_scale[:, None] + np.stack((squeeze, -squeeze), -1))
    half = np.array([WIDTH, HEIGHT]) / 2
    speed = rng.uniform(0.3, 3.0)
    path = np.stack([_wander(rng, frames, speed, 0.9 * side) for side in half], -1) + start
    folded = (path - 0.1 * half) % (3.6 * half)
    centre = np.where(folded > 1.8 * half, 3.6 * half - folded, folded) + 0.1 * half
    return np.concatenate((linear * sides[:, None, :], centre[:, :, None]), axis=2)


def _noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Returns a texture of coloured noise of several scales, with stripes or checks in some."""
    first, second = rng.uniform(0.05, 0.95, (2, 3))
    field = np.zeros((height, width))
    for cells in (3, 7, 16, 40):
        knots = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        field += np.asarray(knots.resize((width, height), Image.Resampling.BICUBIC)) / cells ** rng.uniform(0.2, 0.8)
    y, x = np.mgrid[:height, :width]
    angle, wave = rng.uniform(0, np.pi), rng.uniform(5, 30)
    waves = np.sin(2 * np.pi / wave * (x * np.cos(angle) + y * np.sin(angle)))
    across = np.sin(2 * np.pi / wave * (y * np.cos(angle) - x * np.sin(angle)))
    kind = rng.integers(4)
    field += (0.0, 0.8 * np.sign(waves), 0.8 * np.sign(waves * across), 0.6 * waves)[kind]
    field = field / field.std()
    tint = np.stack([np.asarray(Image.fromarray(rng.normal(size=(4, 4)).astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC)) for _ in range(3)], -1)  # fmt: skip
    share = 1 / (1 + np.exp(-rng.uniform(0.8, 3) * field))[..., None]
    values = first + (second - first) * share + 0.08 * tint
    return Image.fromarray((values.clip(0, 1) * 255).astype(np.uint8))


def _outline(rng: np.random.Generator, half: float) -> Array:
    """Returns a random closed curve around 0 of about this half size: an ellipse, a box, a star or a blob."""
    theta = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    kind = rng.integers(4)
    if kind == 0:
        radius = np.ones_like(theta)
    elif kind == 1:
        radius = 1 / np.maximum(np.abs(np.cos(theta)), np.abs(np.sin(theta)))
    elif kind == 2:
        radius = 1 + rng.uniform(0.15, 0.4) * np.cos(rng.integers(3, 7) * theta)
    else:
        radius = np.ones_like(theta)
        for k in range(2, 6):
            radius += rng.normal(0, 0.25 / k) * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    aspect = np.exp(rng.normal(0, 0.3))
    points = np.stack((radius * np.cos(theta) * aspect, radius * np.sin(theta) / aspect), -1)
    return np.asarray(points * half / np.abs(points).max())


def _render(
    rng: np.random.Generator,
    name: str,
    places: Sequence[int],
    background: Image.Image,
    layers: Sequence[tuple[_Layer, Array]],
    target: int,
) -> Video:
    """Returns the frames at some places of the paths; the target is the layer of this number.

    Layers lie over those before them.
    """
    frames = max(places) + 1
    fit = 1.25 * max(WIDTH / background.width, HEIGHT / background.height)
    reach = [(fit * b - f) / 2.6 for b, f in zip(background.size, (WIDTH, HEIGHT), strict=True)]
    pan = np.stack([_wander(rng, frames, rng.uniform(0, 1.5), r) for r in reach], -1)
    zoom = fit * np.exp(_wander(rng, frames, 0.004, 0.04))
    gain, offset = _wander(rng, frames, 0.03, 0.35), _wander(rng, frames, 0.015, 0.12)
    noise, blur = rng.uniform(0, 0.03), rng.uniform(0, 1.2) * (rng.random() < 0.4)
    made = []
    for t in places:
        matrix = np.array([[zoom[t], 0, WIDTH / 2 + pan[t, 0]], [0, zoom[t], HEIGHT / 2 + pan[t, 1]]])
        canvas = _warped(background, matrix, np.zeros(2), (WIDTH, HEIGHT))
        for layer, motion in layers:
            layer.draw(canvas, motion[t])
        if blur > 0.3:
            canvas = canvas.filter(ImageFilter.GaussianBlur(blur))
        made.append(_lit(rng, canvas, np.exp(gain[t]), offset[t], noise))
    layer, motion = layers[target]
    boxes = np.stack([layer.box(motion[t]) for t in places])
    return Video(name, (), boxes, made=tuple(made))


def _lit(rng: np.random.Generator, canvas: Image.Image, gain: float, offset: float, noise: float) -> Frame:
    values = np.asarray(canvas, dtype=np.float32) * np.float32(gain) + np.float32(255 * offset)
    values += np.float32(255 * noise) * rng.standard_normal(values.shape, dtype=np.float32)
    return np.asarray(values.clip(0, 255).astype(np.uint8))


def _occluder(rng: np.random.Generator, frames: int, size: float, path: Array) -> tuple[_Layer, Array]:
    """A narrow bar that crosses the target's path, in front of it."""
    outline = np.array([[-1.0, -4], [1, -4], [1, 4], [-1, 4]]) * size * rng.uniform(0.08, 0.22)
    texture = _noise(rng, *(np.ceil(2 * np.abs(outline).max(0)).astype(int) + 2))
    motion = _motion(rng, frames, 1.0, path[frames // 2], turn=0.01)
    return _Layer(texture, outline), motion


def _start(rng: np.random.Generator) -> Array:
    return np.array([WIDTH, HEIGHT]) * rng.uniform(0.25, 0.75, 2)


def made_video(rng: np.random.Generator, name: str, places: Sequence[int]) -> Video:
    """Returns some frames (by their places in time, from 0) of a video whose textures and shapes are made."""
    frames = max(places) + 1
    size = float(np.exp(rng.uniform(*np.log(TARGET))))
    texture, outline = _noise(rng, 96, 96), _outline(rng, 47)
    scale = size / np.sqrt(np.ptp(outline, axis=0).prod())
    target = (_Layer(texture, outline), _motion(rng, frames, scale, _start(rng)))
    before = []
    for _ in range(rng.integers(0, 4)):
        of = texture if rng.random() < 0.5 else _noise(rng, 96, 96)
        before.append((_Layer(of, _outline(rng, 47)), _motion(rng, frames, scale, _start(rng))))
    after = [_occluder(rng, frames, size, target[1][:, :, 2])] if rng.random() < 0.4 else []
    background = _noise(rng, 5 * WIDTH // 4, 5 * HEIGHT // 4)
    return _render(rng, name, places, background, [*before, target, *after], len(before))


def pseudo_video(
    rng: np.random.Generator, name: str, places: Sequence[int], photographs: Sequence[Photograph]
) -> Video:
    """Returns a video of an object of a photograph.

    Half of them cut the object out and move it before another photograph; the others move and squeeze the photograph
    as a whole. The latter show an object with its own surroundings.
    """
    frames = max(places) + 1
    with_objects = [p for p in photographs if p.outlines]
    photograph = with_objects[rng.integers(len(with_objects))]
    outline = photograph.outlines[rng.integers(len(photograph.outlines))]
    low, high = outline.min(0), outline.max(0)
    size = float(np.exp(rng.uniform(*np.log(TARGET))))
    shrink = min(1.0, 1.5 * size / np.sqrt((high - low).prod()))  # no finer than what is drawn
    whole = photograph.image.resize([max(8, round(shrink * side)) for side in photograph.image.size])
    share = np.array(whole.size) / photograph.image.size
    outline, low, high = outline * share, low * share, high * share
    scale = size / np.sqrt((high - low).prod())
    motion = _motion(rng, frames, scale, _start(rng))
    other = photographs[int(rng.integers(len(photographs)))].image
    if rng.random() < 0.5:
        area = (max(0, int(low[0]) - 1), max(0, int(low[1]) - 1), int(high[0]) + 2, int(high[1]) + 2)
        texture = whole.crop(area)
        layers = [(_Layer(texture, outline - area[:2] - np.array(texture.size) / 2), motion)]
    else:
        motion = _motion(rng, frames, scale, _start(rng), turn=0.0)
        centre = np.array(whole.size) / 2
        # The object, not the photograph's centre, follows the path.
        motion[:, :, 2] -= np.einsum("tij,j->ti", motion[:, :, :2], (low + high) / 2 - centre)
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * centre
        layers = [(_Layer(whole, corners, outline - centre), motion)]
    if rng.random() < 0.4:
        path = np.stack([layers[0][0].box(matrix).reshape(2, 2).mean(0) for matrix in motion])
        layers.append(_occluder(rng, frames, size, path))
    return _render(rng, name, places, other, layers, 0)
