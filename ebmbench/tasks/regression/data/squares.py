"""Made images whose p(y|x) is known exactly: the angle of a shape that looks alike from several sides.

A square has four equally likely answers for its angle, an ellipse two, a marked square one, each with Gaussian noise
around the circle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.registry import register
from ebmbench.core.rng import Draws, Streams
from ebmbench.supports.base import Support
from ebmbench.supports.circle import Circle
from ebmbench.tasks.regression.data.base import NAME, NAME_TEXT, Arrays, Data, Law, Split
from ebmbench.tasks.regression.data.transforms import ArrayInput

if TYPE_CHECKING:
    from torch import Tensor

ANSWERS = {"square": 4, "ellipse": 2, "marked": 1}
"""How many angles of a turn show the same picture."""
WRAPS = 3
"""Turns to either side that the noise is followed around the circle."""


@dataclass(frozen=True)
class AngleLaw:
    """The angle y in [-π, π) of a shape. It depends on `latent`: an angle of the shape, and its number of answers.

    Attributes:
        std: of the label noise, in radians.
    """

    std: float

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `log p(y|x)`: x `[N, ...]`, y `[N, M, D]` -> `[N, M]`."""
        angle, answers = x[:, None, :1].double(), x[:, None, 1:2].double()
        y = y.double()
        k = torch.arange(max(ANSWERS.values()), dtype=torch.float64)
        turns = torch.arange(-WRAPS, WRAPS + 1, dtype=torch.float64)
        distance = _around(y - angle - 2 * math.pi * k / answers)  # [N, M, 4]; answers beyond theirs are masked
        z = (distance.unsqueeze(-1) + 2 * math.pi * turns) / self.std
        one = torch.logsumexp(-0.5 * z.square(), -1) - math.log(self.std) - 0.5 * math.log(2 * math.pi)
        mixed = torch.logsumexp(one.masked_fill(k >= answers, -math.inf), -1) - answers.squeeze(-1).log()
        inside = (y >= -math.pi) & (y < math.pi)
        return mixed.masked_fill(~inside.squeeze(-1), -math.inf)

    def sample(self, x: Tensor, count: int, draws: Draws, name: str) -> Tensor:
        """Returns draws of y for each x: `[N, count, D]`."""
        angle, answers = x[:, :1].double(), x[:, 1:2].double()
        which = (
            (draws.uniform(f"{name}/answer", (len(x), count), torch.float64) * answers).floor().clamp(max=answers - 1)
        )
        noise = self.std * draws.normal(f"{name}/noise", (len(x), count), torch.float64)
        return _around(angle + 2 * math.pi * which / answers + noise).unsqueeze(-1)


def _around(angle: Tensor) -> Tensor:
    """Returns the angle in [-π, π)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


@register
class Squares(Data):
    """Made images of a shape, whose angle is to be told: several answers are right, and p(y|x) is known exactly."""

    source = "squares"
    is_identified = True

    name: str = Field("squares", pattern=NAME, description=NAME_TEXT)
    shapes: tuple[Annotated[Literal["square", "ellipse", "marked"], Field()], ...] = Field(
        ("square", "ellipse", "marked"), min_length=1, description="which shapes there are, each as often"
    )
    default_support: ClassVar[Support] = Circle(low=-math.pi)

    size: int = Field(32, ge=8, le=512, description="pixels of a side")
    label_noise: float = Field(0.1, gt=0, le=1, description="standard deviation of the angle, in radians")
    pixel_noise: float = Field(0.05, ge=0, le=1, description="standard deviation of the pixels; white is 1")
    num_train: int = Field(4000, ge=2, le=1_000_000, description="training images")
    num_val: int = Field(500, ge=1, le=1_000_000, description="validation images")
    num_test: int = Field(500, ge=1, le=1_000_000, description="test images")
    data_seed: int = Field(0, ge=0, lt=2**31, description="the draw of all images")

    def truth(self) -> Law:
        """Returns the law of the angle."""
        return AngleLaw(self.label_noise)

    @override
    def load(self) -> Split:
        draws = Streams([self.data_seed], stacked=False).at(0)
        law = self.truth()

        def images(name: str, count: int) -> Arrays:
            kinds = draws.integers(f"{name}/shape", (count,), len(self.shapes))
            answers = torch.tensor([ANSWERS[shape] for shape in self.shapes])[kinds]
            angle = math.pi * (2 * draws.uniform(f"{name}/angle", (count,), torch.float64) - 1)
            place = 0.1 * (2 * draws.uniform(f"{name}/place", (count, 2), torch.float64) - 1)
            pictures = draw(self.size, angle, answers, place)
            noise = draws.normal(f"{name}/pixels", pictures.shape)
            latent = torch.stack((angle, answers.double()), 1)
            y = law.sample(latent, 1, draws, name)[:, 0].float()
            return Arrays((pictures + self.pixel_noise * noise).unsqueeze(1), y, latent)

        parts = (images("train", self.num_train), images("val", self.num_val), images("test", self.num_test))
        shape = (1, self.size, self.size)
        return Split(*parts, ["angle"], ["image"], ArrayInput(shape), truth=law)


def draw(size: int, angle: Tensor, answers: Tensor, place: Tensor) -> Tensor:
    """Draws shapes with soft edges: angles `[N]`, their numbers of answers `[N]`, centres `[N, 2]` in half sides.

    Returns:
        `[N, size, size]` float32, 0 outside and 1 inside. A marked square has a dark disc towards its angle.
    """
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    parts = []
    for turn, sides, middle in zip(angle.split(256), answers.split(256), place.split(256), strict=True):
        dx, dy = right - middle[:, :1, None], middle[:, 1:, None] - down  # y points up
        cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        square = torch.maximum(u.abs(), v.abs()) - 0.5
        ellipse = (torch.sqrt((u / 0.7).square() + (v / 0.35).square()) - 1) * 0.45
        inside = _soft(torch.where((sides == 2)[:, None, None], ellipse, square), size)
        mark = _soft(torch.sqrt((u - 0.25).square() + v.square()) - 0.17, size)
        inside = torch.where((sides == 1)[:, None, None], inside * (1 - mark), inside)
        parts.append(inside.float())
    return torch.cat(parts)


def _soft(distance: Tensor, size: int) -> Tensor:
    """Returns 1 where a signed distance is well inside, 0 outside, and a slope of one pixel between."""
    return (0.5 - distance * size / 2).clamp(0, 1)
