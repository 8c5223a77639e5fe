"""Splits the training of a base detector over the processes of torchrun, with the gradients of one.

As for the head (`system.distributed`), rank 0 leads and keeps the optimiser, and the others keep no state. At each step
they get its parameters, images and random numbers, and it gets the sum of their gradients. That sum is the gradient
that one process has, up to rounding, for what a batch has in common is common to all of them. (In single precision
rounding may change which of two equal proposals is kept, as another number of threads does.)

    padding         images are padded to the size of the largest of all;
    batch norm      mean and variance are those of all images;
    samples         anchors and proposals are drawn as one process draws them, image after image;
    losses          a mean over samples counts as much as it has samples. A loss that has none of torchvision's samplers
                    counts by its images: exact for RetinaNet, and not for FCOS, which divides by true positives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.system import distributed
from ebmbench.system.interrupt import Interrupted
from ebmbench.tasks.detection.augmentation import changed
from ebmbench.tasks.detection.data import Dataset, Example
from ebmbench.tasks.detection.read_ahead import ReadAhead

SAMPLED = {"rpn": ("loss_objectness", "loss_rpn_box_reg"), "roi_heads": ("loss_classifier", "loss_box_reg")}
"""The parts of a detector that draw samples, and the losses that are means over them."""


@dataclass(frozen=True)
class Part:
    """The part of one process: of the images of a step it takes every `of`-th, from `rank` on."""

    rank: int = 0
    of: int = 1

    @staticmethod
    def here(batch_size: int) -> Part:
        """Returns the part of this process: all images if it is alone, or if a step has too few for all processes."""
        rank, world = distributed.joined()
        return Part(rank, world) if 1 < world <= batch_size else Part()


@dataclass(frozen=True)
class Batch:
    """The images of a step.

    Attributes:
        indices: their places in the split; flips: whether each is flipped; seeds: of what else is done to each.
        coming: the places of those of the next step, so far as they are known.
    """

    indices: list[int]
    flips: list[bool]
    seeds: list[int]
    coming: list[int]


class Worker:
    """Computes one process's part of the gradient of each step.

    Args:
        model: the network, the same on all processes.
        dataset: the training split.
        augment: `task.base.augment`.
    """

    def __init__(
        self, model: Any, dataset: Dataset, device: torch.device, part: Part, batch_size: int, augment: str = "none"
    ) -> None:
        self.device, self.dataset, self.part, self.augment = device, dataset, part, augment
        self.samplers: dict[str, _Sampler] = {}
        self.own_share = len(range(part.rank, batch_size, part.of)) / batch_size
        if part.of > 1:
            self.samplers = _share(model, part, batch_size, device)
        self.model = model.to(device).train()
        self._label_of = {category: label for label, category in enumerate(dataset.categories, start=1)}
        self._ahead = ReadAhead(dataset)

    def gradient(self, batch: Batch) -> Tensor:
        """Sets the gradient of each parameter, on rank 0 the sum over all processes; returns the loss, alike."""
        images: list[Tensor] = []
        targets: list[dict[str, Tensor]] = []
        own, dtype = slice(self.part.rank, None, self.part.of), next(self.model.parameters()).dtype
        for index, flipped, seed in zip(batch.indices[own], batch.flips[own], batch.seeds[own], strict=True):
            example = changed(self._load(index), flipped, seed, self.augment)
            labels = torch.tensor([self._label_of[c] for c in example.categories.tolist()], dtype=torch.int64)
            images.append(example.image.to(self.device).to(dtype) / 255)
            targets.append({"boxes": example.boxes.to(self.device), "labels": labels.to(self.device)})
        self._ahead.expect(batch.coming[own])
        for _ in range(len(batch.indices) - len(images)):
            torch.rand(())  # what torchvision's resizing draws for an image
        losses: dict[str, Tensor] = self.model(images, targets)
        for parameter in self.model.parameters():
            parameter.grad = None
        if self.part.of == 1:
            loss = sum(losses.values(), start=torch.zeros((), device=self.device))
            loss.backward()
            return loss.detach()
        shares = {name: sampler.share for part, sampler in self.samplers.items() for name in SAMPLED[part]}
        loss = torch.stack([shares.get(name, self.own_share) * value for name, value in losses.items()]).sum()
        loss.backward()
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = distributed.sum_on_leader(torch.cat([loss.detach().view(1), *(grad.flatten() for grad in grads)]))
        for grad, summed in zip(grads, flat[1:].split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(summed.view_as(grad))
        return flat[0]

    def _load(self, index: int) -> Example:
        """Returns an image with its boxes; in the place of a damaged one, that may be left out, the next in the split.

        Raises:
            UserError: all are damaged.
        """
        count = len(self.dataset.image_ids) + len(self.dataset.negatives)
        for place in range(index, index + count):
            example = self._ahead.load(place % count)
            if example is not None:
                return example
        raise UserError(f"no image of the {self.dataset.split} split can be used")


# ------------------------------------------------------------------------------------------------ what the ranks say


@contextmanager
def leading(part: Part, device: torch.device) -> Iterator[Callable[[Worker, Batch], None]]:
    """On rank 0, around its training: gives what tells the others of a step, and lets them go at the end.

    After any error but `Interrupted` they may be in the midst of a step; torchrun ends them.
    """
    if part.of == 1:
        yield lambda worker, batch: None
        return

    def tell(worker: Worker, batch: Batch) -> None:
        on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        distributed.say((batch, torch.get_rng_state(), on_gpu))
        distributed.share_parameters(list(worker.model.parameters()))

    distributed.send_step(-1, distributed.PREPARE, device)
    try:
        yield tell
    except Interrupted:
        distributed.say(None)
        raise
    distributed.say(None)


def follow(worker: Worker) -> None:
    """On the other ranks: does their part of each step, until rank 0 lets them go."""
    while (heard := distributed.hear()) is not None:
        batch, state, on_gpu = heard
        torch.set_rng_state(state)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, worker.device)
        distributed.share_parameters(list(worker.model.parameters()))
        worker.gradient(batch)


# --------------------------------------------------------------------------------------- what a batch has in common


def _share(model: Any, part: Part, batch_size: int, device: torch.device) -> dict[str, _Sampler]:
    """Makes a network see the images of the other processes where a batch is one; returns its samplers by name."""
    for module in list(model.modules()):
        for name, norm in module.named_children():
            if type(norm) is nn.BatchNorm2d:
                shared = _BatchNorm(norm.num_features, norm.eps, norm.momentum)
                shared.load_state_dict(norm.state_dict())
                setattr(module, name, shared)
    largest_of_own = model.transform.max_by_axis

    def largest(sizes: list[list[int]]) -> list[int]:
        found = torch.tensor(largest_of_own(sizes), device=device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        sides: list[int] = found.tolist()
        return sides

    model.transform.max_by_axis = largest
    samplers = {}
    for name in SAMPLED:
        drawing = getattr(model, name, None)
        if drawing is not None:
            drawing.fg_bg_sampler = samplers[name] = _Sampler(drawing.fg_bg_sampler, part, batch_size)
    return samplers


class _Sampler:
    """Draws the samples of its own images as one process does that draws those of all images, in their order."""

    def __init__(self, sampler: Any, part: Part, batch_size: int) -> None:
        self.sampler, self.part, self.batch_size = sampler, part, batch_size
        self.share: Tensor | float = 0.0  # of all samples that were drawn last

    def __call__(self, matched: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        device = matched[0].device
        counts = torch.zeros(self.batch_size, 2, dtype=torch.int64, device=device)  # positive and negative ones
        for place, one in zip(range(self.part.rank, self.batch_size, self.part.of), matched, strict=True):
            counts[place] = torch.stack(((one >= 1).sum(), (one == 0).sum()))
        torch.distributed.all_reduce(counts)
        drawn: list[tuple[list[Tensor], list[Tensor]]] = []
        for place, of_image in enumerate(counts.tolist()):
            if place % self.part.of == self.part.rank:
                drawn.append(self.sampler([matched[len(drawn)]]))
            else:
                for count in of_image:
                    torch.randperm(count, device=device)  # as the sampler does for this image elsewhere
        positive, negative = ([mask for pair in drawn for mask in pair[kind]] for kind in (0, 1))
        own = torch.stack([mask.sum() for mask in (*positive, *negative)]).sum().double()
        total = own.clone()
        torch.distributed.all_reduce(total)
        self.share = own / total
        return positive, negative


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the mean and variance of the images of all processes (on any device)."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        own = torch.stack((torch.ones_like(mean), mean, variance + mean.square())).double()
        count, *moments = _SumOverRanks.apply(own * (x.numel() // x.shape[1])).unbind()
        mean, square = (moment / count for moment in moments)
        variance = square - mean.square()
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(x.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(x.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt().to(x.dtype)
        shift = self.bias - mean.to(x.dtype) * scale
        return x * scale[:, None, None] + shift[:, None, None]


class _SumOverRanks(Function):
    """The sum of the tensors of all ranks, on each of them."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        total = grads[0].clone()
        torch.distributed.all_reduce(total)
        return total
