"""Precise RoI Pooling: the exact mean of the bilinearly interpolated feature map over each bin of a box.

Source of the definition: Jiang, Luo, Mao, Xiao, Jiang, "Acquisition of Localization Confidence for Accurate Object
Detection", ECCV 2018 (arXiv 1807.11590), eq. 5. The map is the surface `Σ_ij F[i, j] hat(x − j) hat(y − i)` with
`hat(t) = max(0, 1 − |t|)`: pixel (i, j) sits at the point (x, y) = (j, i), as in torchvision's box head
(`aligned=False`), and the surface falls to zero within one cell outside the map. The hat is separable, so the mean
over a bin `[a, b] × [c, d]` is

    Σ_ij F[i, j] w(a, b; j) w(c, d; i),    w(a, b; j) = (G(b − j) − G(a − j)) / (b − a),    G(t) = ∫_−∞^t hat,

a weighted sum over the few pixels that a bin touches. That sum is a bag of weighted rows of the features laid out
as a table `[pixels, C]`, which `torch.nn.functional.embedding_bag` computes fast on the CPU and on a GPU. It is linear
in the weights and in the table; `_Bag` and its two adjoints are each other's derivatives, so that pooling can be
differentiated any number of times, in the boxes and in the features.

What is defined beyond ordinary boxes, all with finite values and gradients:

- A box of negative width or height pools its mirror image (`w` is symmetric in a and b); one of no size pools the
  points on it, the limit of `w`. Below 1e-6 cells a size is taken to be 1e-6 and gets no gradient; a position does.
- What lies outside the map is zero: a box outside pools zeros, a huge box the sum of the map over its area.
- The first derivative in the boxes is continuous, and it is right where a bin's edge meets a pixel. The second one
  jumps there; autograd gives the mean of its two sides. An edge within 1e-9 cells of a pixel counts as on it.
- A box of NaN pools NaN, and disturbs no other box.

The weights are computed in float64: the difference of two integrals over a small bin would cancel in float32. The
products are in the dtype of the features, and mixed precision leaves them alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

MIN_SIZE = 1e-6
"""The smallest width and height of a box, in cells; they are kept from it by no gradient."""
ON_PIXEL = 1e-9
"""An edge this close to a pixel, in cells, is taken to lie on it: rounding moves the inner edges of a box by 1e-13."""
_TAPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 33, 41, 51, 64, 80, 100, 128, 160, 200, 256, 512, 1024, 16384)
"""Pixels that a bin's weights span along an axis; boxes are taken together by the next larger entry."""
_CHUNK_ROWS = 1 << 16
"""Rows of the table read at a time: what is made of them stays in the processor's cache."""


@dataclass(frozen=True)
class Pyramid:
    """The feature maps of B images at L levels, as one table of pixels; images need not be of one size.

    Attributes:
        table: `[pixels, C]`, row by row of a map, the maps one after the other.
        offsets: `[B, L]` int64, first row of each map in the table.
        sizes: `[B, L, 2]` int64, height and width of each map.
        strides: of each level, in pixels of the image; finest first.
    """

    table: Tensor
    offsets: Tensor
    sizes: Tensor
    strides: tuple[int, ...]

    @staticmethod
    def from_maps(maps: Sequence[Tensor], strides: Sequence[int]) -> Pyramid:
        """From one map `[B, C, H_l, W_l]` per level. Differentiable in the maps."""
        if len(maps) != len(strides):
            raise ValueError(f"{len(maps)} maps and {len(strides)} strides")
        batch, channels = maps[0].shape[:2]
        table = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, channels) for m in maps])
        offsets, start = [], 0
        for m in maps:
            pixels = m.shape[2] * m.shape[3]
            offsets.append([start + image * pixels for image in range(batch)])
            start += batch * pixels
        sizes = torch.tensor([list(m.shape[2:]) for m in maps], device=table.device)
        return Pyramid(
            table=table,
            offsets=torch.tensor(offsets, device=table.device).T.contiguous(),
            sizes=sizes.expand(batch, -1, -1).contiguous(),
            strides=tuple(strides),
        )

    @staticmethod
    def stack(pyramids: Sequence[Pyramid]) -> Pyramid:
        """The images of several pyramids one after the other; they may differ in size, not in strides."""
        first = pyramids[0]
        if any(p.strides != first.strides for p in pyramids):
            raise ValueError(f"pyramids of different strides: {sorted({p.strides for p in pyramids})}")
        offsets, start = [], 0
        for p in pyramids:
            offsets.append(p.offsets + start)
            start += len(p.table)
        return Pyramid(
            table=torch.cat([p.table for p in pyramids]),
            offsets=torch.cat(offsets),
            sizes=torch.cat([p.sizes for p in pyramids]),
            strides=first.strides,
        )

    def to(self, device: torch.device | str) -> Pyramid:
        """The same pyramid on another device."""
        return Pyramid(self.table.to(device), self.offsets.to(device), self.sizes.to(device), self.strides)


def assign_levels(boxes: Tensor, strides: Sequence[int], canonical_scale: float = 224.0) -> Tensor:
    """The pyramid level that fits a box: `[K, 4]` x1 y1 x2 y2 -> `[K]` int64, an index into `strides`.

    Level `floor(4 + log2(sqrt(area) / 224))` of the canonical ones, where stride 2^l is level l, held to those that
    exist: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, eq. 1, as torchvision's
    MultiScaleRoIAlign computes it. A box without area goes to the finest.
    """
    finest = round(math.log2(strides[0]))
    area = (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)
    level = torch.floor(4 + torch.log2(area.detach().sqrt() / canonical_scale) + 1e-6)
    return level.nan_to_num().clamp(finest, finest + len(strides) - 1).long() - finest


def prroi_pool(
    features: Tensor, boxes: Tensor | Sequence[Tensor], size: int | tuple[int, int], spatial_scale: float = 1.0
) -> Tensor:
    """Returns the exact mean of the bilinearly interpolated features in each bin of boxes, `[K, C, height, width]`.

    It takes the arguments of `torchvision.ops.roi_align`, and is differentiable to any order in the features and in the
    boxes, on any device, with no extension to compile. Pixel (i, j) of the features is the point x = j, y = i.

    Args:
        features: `[B, C, H, W]`, of any floating dtype.
        boxes: x1 y1 x2 y2, as a list of B tensors `[K_b, 4]`, one for each image; as one `[K, 5]`, whose first column
            is the image; or, for a single image, as one `[K, 4]`.
        size: bins along both sides of a box, or (along its height, along its width).
        spatial_scale: cells of the features for each unit of the boxes: 1/16 for features of stride 16.

    Raises:
        ValueError: a shape is none of these, or an image is not in the batch.
    """
    if features.dim() != 4:
        raise ValueError(f"features must be [B, C, H, W], and have the shape {list(features.shape)}")
    bins = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(bins) < 1:
        raise ValueError(f"size={size}: at least one bin along each side is needed")
    if not isinstance(boxes, Tensor):
        if len(boxes) != len(features):
            raise ValueError(f"{len(boxes)} tensors of boxes for {len(features)} images")
        images = torch.cat([torch.full((len(b),), i, device=features.device) for i, b in enumerate(boxes)])
        corners = torch.cat([b.reshape(-1, 4) for b in boxes])
    elif boxes.dim() == 2 and boxes.shape[1] == 5:
        images, corners = boxes[:, 0].detach().long(), boxes[:, 1:]
    elif boxes.dim() == 2 and boxes.shape[1] == 4 and len(features) == 1:
        images, corners = torch.zeros(len(boxes), dtype=torch.int64, device=features.device), boxes
    else:
        raise ValueError(f"boxes must be [K, 5], a list with [K, 4] for each image, or [K, 4] for one image; they have "
                         f"the shape {list(boxes.shape)}, for {len(features)} images")  # fmt: skip
    if len(images) and not (int(images.min()) >= 0 and int(images.max()) < len(features)):
        raise ValueError(f"boxes of images {int(images.min())} to {int(images.max())}, of {len(features)}")
    pyramid = Pyramid.from_maps([features], [1])
    pooled = pool_boxes(pyramid, corners * spatial_scale, images, torch.zeros_like(images), bins)
    return pooled.permute(0, 3, 1, 2)


def pool_boxes(
    pyramid: Pyramid, boxes: Tensor, images: Tensor, levels: Tensor | None = None, bins: int | tuple[int, int] = 7
) -> Tensor:
    """Precise RoI Pooling of K boxes: `[K, bins, bins, C]`, of the features' dtype.

    The result is channels-last; `permute(0, 3, 1, 2)` is torchvision's layout.

    Args:
        boxes: `[K, 4]` x1 y1 x2 y2 in pixels of the image; float32 or float64.
        images: `[K]` int64, the image of each box.
        levels: `[K]` int64, the pyramid level of each box; by default the one that fits it (`assign_levels`). An energy
            must not jump between the candidates for one target, so these are to share a level: pass the target's.
        bins: along each side, or (along the height, along the width).
    """
    high, wide = (bins, bins) if isinstance(bins, int) else bins
    if levels is None:
        levels = assign_levels(boxes, pyramid.strides)
    strides = torch.tensor(pyramid.strides, dtype=torch.float64, device=boxes.device)[levels]
    scaled = boxes.double() / strides[:, None]
    height, width = pyramid.sizes[images, levels].unbind(-1)
    x, y = _Axis(scaled[:, 0], scaled[:, 2], width, wide), _Axis(scaled[:, 1], scaled[:, 3], height, high)
    start = pyramid.offsets[images, levels]
    dtype = pyramid.table.dtype
    buckets, weights = [], []
    for members, rows, columns in _bucket(y.taps, x.taps, start + y.first[:, 0].clamp(min=0) * width):
        y_pixels, y_weights = y.weights(members, rows)
        x_pixels, x_weights = x.weights(members, columns)
        y_rows = y_pixels * width[members, None, None] + start[members, None, None]
        buckets.append(_Bucket(members, y_rows, x_pixels))
        outer = y_weights.to(dtype)[:, :, None, :, None] * x_weights.to(dtype)[:, None, :, None, :]
        weights.append(outer.flatten(3))
    pooled: Tensor = _Bag.apply(_Plan(len(boxes), (high, wide), len(pyramid.table), buckets), pyramid.table, *weights)
    if boxes.requires_grad:
        pooled = _Kinks.apply(_KinkPlan(y, x, start, width), pooled, pyramid.table, y.edges, x.edges)
    return pooled


class _Axis:
    """The bins of K boxes along one axis: which pixels they touch, and with what weight."""

    def __init__(self, low: Tensor, high: Tensor, size: Tensor, bins: int) -> None:
        half = (high - low) / 2
        half = torch.where(half.abs() < MIN_SIZE / 2, MIN_SIZE / 2, half)
        centre = (low + high) / 2
        steps = torch.linspace(-1, 1, bins + 1, dtype=torch.float64, device=low.device)
        self.edges = edges = centre[:, None] + half[:, None] * steps  # [K, bins + 1]
        self.size = size
        self.lower, self.upper = edges[:, :-1], edges[:, 1:]
        self.width = 2 * half[:, None] / bins
        with torch.no_grad():
            inside = torch.minimum(edges.clamp(min=-1), size[:, None].double())
            ends = torch.stack((inside[:, :-1], inside[:, 1:]))
            # A bin [a, b] touches the pixels j with a − 1 < j < b + 1.
            self.first = ends.amin(0).floor().long()
            self.taps = (ends.amax(0).ceil().long() - self.first).amax(1) + 1  # [K]

    def weights(self, members: Tensor, taps: int) -> tuple[Tensor, Tensor]:
        """Pixels and weights of the given boxes, `[members, bins, taps]` each; a pixel outside weighs nothing."""
        size = self.size[members, None]
        first = torch.minimum(self.first[members], size - taps).clamp(min=0)
        pixels = first[..., None] + torch.arange(taps, device=first.device)
        position = pixels.double()
        integral = _hat_integral(self.upper[members][..., None] - position)
        integral = integral - _hat_integral(self.lower[members][..., None] - position)
        inside = pixels < size[..., None]
        weights = integral / self.width[members][..., None] * inside
        return torch.where(inside, pixels, 0), weights


def _hat_integral(t: Tensor) -> Tensor:
    """`G(t) − ½ = ∫_0^t max(0, 1 − |s|) ds`."""
    integral: Tensor = _HatIntegral.apply(t)
    return integral


class _HatIntegral(Function):
    """`∫_0^t hat`; its derivative is the hat everywhere."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        ctx.save_for_backward(t)
        t = t.clamp(-1, 1)
        return t - 0.5 * t * t.abs()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _TimesHat.apply(grads[0], ctx.saved_tensors[0])


class _TimesHat(Function):
    """`v hat(t)`. At its three corners, t = −1, 0 and 1, the hat's slope is taken to be 0; `_Kinks` adds the rest."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(v, t)
        half = 0.5 * v * t.abs().clamp(max=1)
        return (v - half) - half  # rounded as autograd rounds the derivative of `t − ½ t |t|`

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        v, t = ctx.saved_tensors
        to_v = to_t = None
        if ctx.needs_input_grad[0]:
            to_v = _TimesHat.apply(grads[0], t)
        if ctx.needs_input_grad[1]:
            distance = t.abs()
            to_t = -grads[0] * v * torch.where((distance > ON_PIXEL) & (distance < 1 - ON_PIXEL), t.sign(), 0.0)
        return to_v, to_t


def _bucket(rows: Tensor, columns: Tensor, place: Tensor) -> list[tuple[Tensor, int, int]]:
    """Boxes that need about as many pixels per bin, as (members, rows, columns), each in the order of its place.

    How many there are of each kind must be known on the host: the one point of pooling where a GPU is waited for.
    """
    if not len(rows):
        return [(rows, 1, 1)]
    bounds = torch.tensor(_TAPS, device=rows.device)
    kind = torch.bucketize(rows, bounds) * len(_TAPS) + torch.bucketize(columns, bounds)
    order = (kind * (place.max() + 1) + place).argsort()
    counts = torch.bincount(kind, minlength=len(_TAPS) ** 2).tolist()
    found, start = [], 0
    for number, count in enumerate(counts):
        if count:
            members = order[start : start + count]
            found.append((members, _TAPS[number // len(_TAPS)], _TAPS[number % len(_TAPS)]))
            start += count
    return found


@dataclass(frozen=True)
class _Bucket:
    """Boxes `members [K_b]` whose bins read the table's rows `y [K_b, bins_y, rows] + x [K_b, bins_x, columns]`."""

    members: Tensor
    y: Tensor
    x: Tensor

    def chunks(self) -> list[tuple[slice, Tensor, Tensor]]:
        """(which of its boxes, their numbers, their indices `[k·bins_y·bins_x, taps]`), a few boxes at a time."""
        bins, taps = self.y.shape[1] * self.x.shape[1], self.y.shape[2] * self.x.shape[2]
        step = max(1, _CHUNK_ROWS // (bins * taps)) if self.y.device.type == "cpu" else len(self.members)
        found = []
        for begin in range(0, len(self.members), max(step, 1)):
            part = slice(begin, begin + step)
            index = self.y[part, :, None, :, None] + self.x[part, None, :, None, :]
            found.append((part, self.members[part], index.reshape(-1, taps)))
        return found


@dataclass(frozen=True)
class _Plan:
    """Which rows of the table each bin of each box is made of."""

    boxes: int
    bins: tuple[int, int]
    rows: int
    buckets: list[_Bucket]


class _Bag(Function):
    """`out[r] = Σ_t w[r, t] table[index[r, t]]`, r over the bins of all boxes."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, table: Tensor, *weights: Tensor) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(table, *weights)
        channels = table.shape[1]
        out = table.new_empty(plan.boxes, *plan.bins, channels)
        for bucket, weight in zip(plan.buckets, weights, strict=True):
            for part, members, index in bucket.chunks():
                bags = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight[part].reshape(index.shape))
                out.index_copy_(0, members, bags.view(-1, *plan.bins, channels))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        table, *weights = ctx.saved_tensors
        to_table = to_weights = None
        if ctx.needs_input_grad[1]:
            to_table = _Scatter.apply(ctx.plan, grads[0], *weights)
        if any(ctx.needs_input_grad[2:]):
            to_weights = _Inner.apply(ctx.plan, grads[0], table)
        return (None, to_table, *(to_weights or [None] * len(weights)))


class _Inner(Function):
    """`w[r, t] = out[r] · table[index[r, t]]`: the adjoint in the weights, one tensor per bucket."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, out: Tensor, table: Tensor) -> Any:
        ctx.plan = plan
        ctx.save_for_backward(out, table)
        weights = []
        for bucket in plan.buckets:
            taps = bucket.y.shape[2] * bucket.x.shape[2]
            weight = out.new_empty(len(bucket.members), *plan.bins, taps)
            for part, members, index in bucket.chunks():
                rows = out.index_select(0, members).view(len(index), -1)
                bags = torch.arange(len(index), device=out.device)
                weight[part] = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                    rows, table, index.view(-1), bags * taps, bags.repeat_interleave(taps, output_size=index.numel()), 0
                ).view(-1, *plan.bins, taps)
            weights.append(weight)
        return tuple(weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        out, table = ctx.saved_tensors
        to_out = to_table = None
        if ctx.needs_input_grad[1]:
            to_out = _Bag.apply(ctx.plan, table, *grads)
        if ctx.needs_input_grad[2]:
            to_table = _Scatter.apply(ctx.plan, out, *grads)
        return None, to_out, to_table


class _Scatter(Function):
    """`table[index[r, t]] += w[r, t] out[r]`: the adjoint in the features."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, out: Tensor, *weights: Tensor) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(out, *weights)
        table = out.new_zeros(plan.rows, out.shape[-1])
        for bucket, weight in zip(plan.buckets, weights, strict=True):
            for part, members, index in bucket.chunks():
                rows = out.index_select(0, members).view(len(index), -1)
                for of_tap, share in zip(index.unbind(1), weight[part].view(index.shape).unbind(1), strict=True):
                    table.index_add_(0, of_tap, share[:, None] * rows)  # half the time of all taps at once
        return table

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        out, *weights = ctx.saved_tensors
        to_out = to_weights = None
        if ctx.needs_input_grad[1]:
            to_out = _Bag.apply(ctx.plan, grads[0], *weights)
        if any(ctx.needs_input_grad[2:]):
            to_weights = _Inner.apply(ctx.plan, out, grads[0])
        return (None, to_out, *(to_weights or [None] * len(weights)))


@dataclass(frozen=True)
class _KinkPlan:
    """What the curvature where edges lie on pixels is made of: the axes, first table row and map width of each box."""

    y: _Axis
    x: _Axis
    start: Tensor
    width: Tensor

    def curvature(self, along_x: bool, outer: Tensor, table: Tensor) -> Tensor:
        """`∂²(outer · pooled)/∂e²` of the edges e on pixels, `[K, bins + 1]`; 0 for the other edges.

        `∂²w/∂b²` of a bin's upper edge b holds `hat'(b − j) / (b − a)`. Where b is on pixel p, the mean of the slope's
        two sides is −½ for pixel p − 1, ½ for p + 1 and 0 for p; a lower edge has the opposite sign. So the pixels
        p ± 1 come in, whose own weights are 0. Differentiable in `outer` and in the table.
        """
        here, across = (self.x, self.y) if along_x else (self.y, self.x)
        pixel = here.edges.detach().round()
        on = (here.edges.detach() - pixel).abs() <= ON_PIXEL
        on &= (pixel >= -1) & (pixel <= here.size[:, None])
        boxes = torch.nonzero(on.any(1))[:, 0]
        result = outer.new_zeros(on.shape)
        if not len(boxes):
            return result
        neighbours = torch.stack((pixel, pixel), -1)[boxes] + torch.tensor([-1.0, 1.0], device=pixel.device).double()
        inside = (neighbours >= 0) & (neighbours < here.size[boxes, None, None]) & on[boxes, :, None]
        share = (
            torch.tensor([0.5, -0.5], dtype=torch.float64, device=pixel.device) / here.width.detach()[boxes, :, None]
        )
        shares = (share * inside).to(table.dtype)
        neighbours = torch.where(inside, neighbours, 0.0).long()
        buckets, weights = [], []
        for places, taps, _ in _bucket(across.taps[boxes], torch.ones_like(boxes), boxes):
            members = boxes[places]
            with torch.no_grad():
                pixels, of_across = across.weights(members, taps)
            first, second = of_across.to(table.dtype), shares[places]
            rows, columns = pixels, neighbours[places]
            if not along_x:
                first, second, rows, columns = second, first, columns, rows
            base = self.start[members, None, None]
            buckets.append(_Bucket(places, rows * self.width[members, None, None] + base, columns))
            weights.append((first[:, :, None, :, None] * second[:, None, :, None, :]).flatten(3))
        high, wide = outer.shape[1:3]
        shape = (high, wide + 1) if along_x else (high + 1, wide)
        slope = _Bag.apply(_Plan(len(boxes), shape, len(table), buckets), table, *weights)
        # An edge is the lower one of a bin and the upper one of the bin before it.
        before, after = ((0, 0, 1, 0), (0, 0, 0, 1)) if along_x else ((0, 0, 0, 0, 1, 0), (0, 0, 0, 0, 0, 1))
        own = outer[boxes]
        difference = F.pad(own, after) - F.pad(own, before)
        return result.index_copy(0, boxes, (difference * slope).sum((1, 3) if along_x else (2, 3)))


class _Kinks(Function):
    """Passes the pooled features on. Its second derivative in the edges is what `_TimesHat` leaves out.

    Value and first derivative of that part are 0, so it costs nothing until a second derivative is asked for.
    """

    @staticmethod
    def forward(ctx: Any, plan: _KinkPlan, pooled: Tensor, table: Tensor, y: Tensor, x: Tensor) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(table, y, x)
        return pooled.view_as(pooled)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        to_y, to_x = _KinkGradient.apply(ctx.plan, grads[0], *ctx.saved_tensors)
        return None, grads[0], None, to_y, to_x


class _KinkGradient(Function):
    """Zeros, `[K, bins + 1]` for each axis, whose derivative in the edges is the curvature at the pixels."""

    @staticmethod
    def forward(ctx: Any, plan: _KinkPlan, outer: Tensor, table: Tensor, y: Tensor, x: Tensor) -> Any:
        ctx.plan = plan
        ctx.save_for_backward(outer, table)
        return torch.zeros_like(y), torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        outer, table = ctx.saved_tensors
        to_y, to_x = (
            grad * ctx.plan.curvature(along_x, outer, table).to(grad.dtype)
            for along_x, grad in zip((False, True), grads, strict=True)
        )
        return None, None, None, to_y, to_x
