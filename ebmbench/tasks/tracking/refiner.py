"""From coarse boxes to refined ones, with intervals of their sides."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ebmbench.boxes.calibration import Calibration, side_intervals
from ebmbench.boxes.energy import BoxEnergy
from ebmbench.boxes.pooling import Pyramid
from ebmbench.boxes.refinement import refine
from ebmbench.core.rng import Streams
from ebmbench.tasks.tracking.config import ModelConfig, RefinementConfig
from ebmbench.tasks.tracking.crops import Crop
from ebmbench.tasks.tracking.model import TrackingNet
from ebmbench.tasks.tracking.scores import Array, moved
from ebmbench.tasks.tracking.videos import Frame, Video

FRAMES_AT_A_TIME = 32


@dataclass
class Refiner:
    """A trained network with what refinement needs.

    Attributes:
        length: the first step length of the ascent.
        calibration: what validation boxes say of the density that intervals are of.
        seed: of the candidates' noise.
        seconds, frames: processor time that it has taken, and how many frames it has refined.
    """

    net: TrackingNet
    model: ModelConfig
    options: RefinementConfig
    length: float
    seed: int
    calibration: Calibration = field(default_factory=Calibration)
    seconds: float = field(default=0.0, init=False)
    frames: int = field(default=0, init=False)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.net.parameters()).device

    def crop(self, frame: Frame, box: Array) -> Crop:
        """Returns the crop around a box."""
        return Crop.around(frame, box, self.model.crop, self.model.context)

    @torch.no_grad()
    def look(self, frame: Frame, box: Array) -> Tensor:
        """Returns the template's vector of a box in the first frame, `[1, C]`."""
        crop = self.crop(frame, box)
        return self.net.look(crop.image[None].to(self.device), self._tensor(crop.into(box)[None]))

    def track(self, video: Video, coarse: Array, every: int = 1) -> Array:
        """Returns the refined box of each frame, `[T, 4]`; the first one is the given box.

        Args:
            coarse: boxes `[T, 4]`.
            every: refines each so many-th frame alone; the others keep their coarse boxes.
        """
        return np.stack([box for box, _ in self.follow(video, coarse, every)])

    def follow(self, video: Video, coarse: Array, every: int = 1) -> Iterator[tuple[Array, Frame]]:
        """Yields the refined box of each frame with the frame."""
        closed = self.options.loop == "closed"
        vector, waiting, box = torch.empty(0), [], coarse[0]
        for number, frame in enumerate(video.frames()):
            if number == 0:
                vector = self.look(frame, video.boxes[0])
                yield video.boxes[0], frame
                continue
            waiting.append((number, frame))
            if closed or len(waiting) == FRAMES_AT_A_TIME * every:
                starts = box[None] if closed else coarse[[n for n, _ in waiting]]
                for box, frame in self._batch(waiting, starts, vector, every):
                    yield box, frame
                waiting = []
        if waiting:
            yield from self._batch(waiting, coarse[[n for n, _ in waiting]], vector, every)

    def _batch(
        self, waiting: Sequence[tuple[int, Frame]], starts: Array, vector: Tensor, every: int
    ) -> Iterator[tuple[Array, Frame]]:
        chosen = [place for place, (number, _) in enumerate(waiting) if number % every == 0]
        boxes = starts.copy()
        if chosen:
            begun = time.process_time()
            numbers, frames = zip(*(waiting[place] for place in chosen), strict=True)
            boxes[chosen] = self.refined(frames, starts[chosen], vector, numbers)
            self.seconds, self.frames = self.seconds + time.process_time() - begun, self.frames + len(chosen)
        yield from zip(boxes, (frame for _, frame in waiting), strict=True)

    @torch.no_grad()
    def refined(self, frames: Sequence[Frame], starts: Array, vector: Tensor, numbers: Sequence[int]) -> Array:
        """Returns the refined boxes of frames, `[n, 4]`: starts `[n, 4]`, the template's vector `[1, C]`."""
        options, count = self.options, len(frames)
        crops = [self.crop(frame, box) for frame, box in zip(frames, starts, strict=True)]
        scale = np.repeat(options.noise, 2)
        offsets = np.zeros((count, options.candidates, 4))
        for row, number in enumerate(numbers):
            draws = Streams([self.seed], stacked=False).at(number).normal("candidates", (options.candidates - 1, 4))
            offsets[row, 1:] = scale * draws.double().numpy()
        boxes = np.stack([crop.into(moved(box, o)) for crop, box, o in zip(crops, starts, offsets, strict=True)])
        images = torch.arange(count, device=self.device).repeat_interleave(options.candidates)
        pyramid = self.net.pyramid(torch.stack([crop.image for crop in crops]).to(self.device))
        vectors = vector.expand(len(images), -1)
        energy = self.net.energy(pyramid, self._tensor(boxes.reshape(-1, 4)), images, vectors)
        path, values = refine(energy, options.steps, self.length, self.length)
        ends = path[-1].view(count, -1, 4)
        best = values[-1].view(count, -1).nan_to_num(nan=-math.inf).topk(options.best, 1).indices
        means = ends.gather(1, best[..., None].expand(-1, -1, 4)).double().mean(1).cpu().numpy()
        return np.stack([crop.back(mean) for crop, mean in zip(crops, means, strict=True)])

    @torch.no_grad()
    def energy(
        self, frames: Sequence[Frame], around: Array, boxes: Array, vector: Tensor
    ) -> tuple[BoxEnergy, list[Crop]]:
        """Returns the energy relative to one box of each frame, `boxes [n, 4]`, in the crops around `around [n, 4]`."""
        crops = [self.crop(frame, box) for frame, box in zip(frames, around, strict=True)]
        pyramid = self.net.pyramid(torch.stack([crop.image for crop in crops]).to(self.device))
        inside = np.stack([crop.into(box) for crop, box in zip(crops, boxes, strict=True)])
        images = torch.arange(len(crops), device=self.device)
        return self.net.energy(pyramid, self._tensor(inside), images, vector.expand(len(crops), -1)), crops

    def intervals(
        self, frames: Sequence[Frame], boxes: Array, vector: Tensor, level: float, centred: bool
    ) -> tuple[Array, Array]:
        """Returns the ends of the intervals of x1 y1 x2 y2 of boxes, `[n, 4]` each; see `side_intervals`."""
        energy, crops = self.energy(frames, boxes, boxes, vector)
        sides = side_intervals(energy, self.seed, level, self.calibration, centred)
        low, high = (
            np.stack([crop.back(end) for crop, end in zip(crops, ends.double().cpu().numpy(), strict=True)])
            for ends in (sides.low, sides.high)
        )
        return low, high

    def _tensor(self, boxes: Array) -> Tensor:
        return torch.tensor(boxes, dtype=torch.float64, device=self.device)


def together(energies: Sequence[BoxEnergy]) -> BoxEnergy:
    """Returns the energy of the boxes of several, which have one network."""
    sizes = [len(energy) for energy in energies]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    images = torch.cat([energy.images + start for energy, start in zip(energies, starts, strict=True)])
    contexts = [energy.context for energy in energies if energy.context is not None]
    pyramid = Pyramid.stack([energy.pyramid for energy in energies])
    reference = torch.cat([energy.reference for energy in energies])
    return BoxEnergy(energies[0].head, pyramid, reference, images, torch.cat(contexts))
