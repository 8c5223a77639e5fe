"""Precise RoI Pooling against quadrature, closed forms, and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from ebmbench.boxes.pooling import Pyramid, assign_levels, pool_boxes
from ebmbench.tasks.detection import shapes

ZERO = torch.zeros(1, dtype=torch.int64)


def pool(feature: Tensor, boxes: Tensor, bins: int = 7, stride: int = 1) -> Tensor:
    """Boxes of one image with one map `[C, H, W]`."""
    none = torch.zeros(len(boxes), dtype=torch.int64)
    return pool_boxes(Pyramid.from_maps([feature[None]], [stride]), boxes, none, none, bins)


def surface(feature: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The bilinear surface of one map `[C, H, W]`, zero outside, at the points of a grid: `[len(y), len(x), C]`."""
    columns = (1 - (x[:, None] - torch.arange(feature.shape[2])).abs()).clamp(min=0)
    rows = (1 - (y[:, None] - torch.arange(feature.shape[1])).abs()).clamp(min=0)
    return torch.einsum("yi,xj,cij->yxc", rows, columns, feature)


def quadrature(feature: Tensor, box: Tensor, bins: int, points: int = 2000) -> Tensor:
    """The mean over each bin by the midpoint rule: `[bins, bins, C]`."""
    place = (torch.arange(bins * points, dtype=torch.float64) + 0.5) / (bins * points)
    x, y = box[0] + place * (box[2] - box[0]), box[1] + place * (box[3] - box[1])
    columns = (1 - (x[:, None] - torch.arange(feature.shape[2])).abs()).clamp(min=0).view(bins, points, -1).mean(1)
    rows = (1 - (y[:, None] - torch.arange(feature.shape[1])).abs()).clamp(min=0).view(bins, points, -1).mean(1)
    return torch.einsum("yi,xj,cij->yxc", rows, columns, feature)


def summed_area(feature: Tensor, box: Tensor, bins: int) -> Tensor:
    """The oracle in another form: the integral of the surface up to each corner of a bin, then differences."""
    x = torch.linspace(0, 1, bins + 1, dtype=torch.float64) * (box[2] - box[0]) + box[0]
    y = torch.linspace(0, 1, bins + 1, dtype=torch.float64) * (box[3] - box[1]) + box[1]

    def upto(edge: Tensor, size: int) -> Tensor:
        t = edge[:, None] - torch.arange(size)
        rising, falling = (t + 1).clamp(0, 1), t.clamp(0, 1)
        return rising**2 / 2 + falling - falling**2 / 2

    corners = torch.einsum("yi,xj,cij->yxc", upto(y, feature.shape[1]), upto(x, feature.shape[2]), feature)
    sums = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
    return sums / ((x[1] - x[0]) * (y[1] - y[0]))


def feature_map(channels: int = 2, height: int = 12, width: int = 15, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(channels, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


BOXES = {
    "ordinary": (1.3, 2.2, 9.6, 8.1),
    "one bin in many cells": (0.2, 0.4, 14.9, 11.3),
    "under one cell": (4.3, 5.1, 4.9, 5.45),
    "across the left and upper border": (-3.4, -2.2, 3.3, 4.4),
    "across the right and lower border": (11.3, 8.8, 18.1, 19.9),
    "covers the map and more": (-20.3, -30.7, 44.4, 51.3),
    "outside": (30.0, 30.5, 40.2, 44.1),
    "wide and flat": (-2.5, 5.3, 20.2, 5.9),
    "on pixels": (2.0, 3.0, 9.0, 10.0),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
@pytest.mark.parametrize("oracle", [quadrature, summed_area])
def test_is_the_mean_over_each_bin(box, oracle) -> None:
    feature, box = feature_map(), torch.tensor(box, dtype=torch.float64)
    expected = oracle(feature, box, 7)
    tolerance = 1e-5 if oracle is quadrature else 1e-10
    torch.testing.assert_close(pool(feature, box[None])[0], expected, rtol=0, atol=tolerance)


def test_the_oracle_sees_the_bilinear_surface() -> None:
    """The quadrature's own weights, against torch's bilinear interpolation inside the map."""
    feature = feature_map(1, 6, 7)
    x, y = torch.linspace(0.1, 5.8, 9, dtype=torch.float64), torch.linspace(0.2, 4.9, 8, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(2 * x / 6 - 1, 2 * y / 5 - 1, indexing="xy"), -1)
    sampled = torch.nn.functional.grid_sample(feature[None], grid[None], align_corners=True)[0, 0]
    torch.testing.assert_close(surface(feature, x, y)[..., 0], sampled)


def test_float32_is_within_1e_5_of_float64_for_boxes_of_every_size() -> None:
    generator = torch.Generator().manual_seed(1)
    feature = feature_map(16, 200, 336)
    side = 10 ** torch.empty(500, 2, dtype=torch.float64).uniform_(-2, 3, generator=generator)
    low = torch.rand(500, 2, dtype=torch.float64, generator=generator) * torch.tensor([330.0, 190.0])
    boxes = torch.cat((low, low + side), 1).float()
    exact = pool(feature, boxes.double())
    torch.testing.assert_close(pool(feature.float(), boxes).double(), exact, rtol=0, atol=1e-5)


def test_constants_and_ramps_pool_exactly() -> None:
    ramp = torch.arange(20, dtype=torch.float64).expand(1, 18, 20)
    boxes = torch.tensor([[2.3, 3.1, 13.7, 12.2], [4.0, 4.0, 4.3, 4.2]], dtype=torch.float64)
    ones = pool(torch.ones(3, 18, 20, dtype=torch.float64), boxes)
    torch.testing.assert_close(ones, torch.ones_like(ones))
    centres = (torch.arange(7) + 0.5) / 7
    expected = boxes[:, :1] + centres * (boxes[:, 2:3] - boxes[:, :1])
    torch.testing.assert_close(pool(ramp, boxes)[..., 0], expected[:, None].expand(-1, 7, -1))
    down = pool(ramp.transpose(1, 2).contiguous(), boxes[:, [1, 0, 3, 2]])[..., 0]
    torch.testing.assert_close(down, expected[:, :, None].expand(-1, -1, 7))


def test_translation_by_whole_cells_moves_nothing() -> None:
    feature = feature_map(3, 10, 10)
    moved = torch.nn.functional.pad(feature, (4, 0, 3, 0))
    boxes = torch.tensor([[1.3, 2.2, 7.7, 8.1], [-2.0, 1.0, 3.0, 20.0]], dtype=torch.float64)
    shift = torch.tensor([4, 3, 4, 3], dtype=torch.float64)
    torch.testing.assert_close(pool(moved, boxes + shift), pool(feature, boxes))


def test_dense_samples_of_roi_align_converge_to_it() -> None:
    """The coordinates are those of torchvision's box head."""
    feature, box = feature_map(4, 30, 40), torch.tensor([[12.0, 20.0, 90.0, 77.0]], dtype=torch.float64)
    rois = torch.cat((torch.zeros(1, 1, dtype=torch.float64), box), 1)
    sampled = roi_align(feature[None], rois, 7, 0.25, 64)
    pooled = pool(feature, box, stride=4).permute(0, 3, 1, 2)
    torch.testing.assert_close(pooled, sampled, rtol=0, atol=1e-3)


def _batch() -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    maps = [
        torch.randn(2, 1, *size, dtype=torch.float64, generator=generator).requires_grad_() for size in ((7, 8), (4, 5))
    ]
    boxes = torch.tensor(
        [
            [3.3, 4.1, 21.3, 17.9],  # ordinary
            [-7.3, -3.1, 11.7, 40.3],  # reaches out of the map
            [5.1, 9.2, 5.9, 10.3],  # under one cell
            [20.3, 17.7, 9.1, 3.3],  # of negative size
            [100.3, 100.1, 200.2, 201.3],  # outside
        ],
        dtype=torch.float64,
        requires_grad=True,
    )
    return maps, boxes, torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 1, 0, 1, 0])


def test_first_and_second_derivatives_in_boxes_and_features() -> None:
    maps, boxes, images, levels = _batch()

    def function(boxes: Tensor, *maps: Tensor) -> Tensor:
        return pool_boxes(Pyramid.from_maps(maps, (4, 8)), boxes, images, levels, bins=2)

    assert gradcheck(function, (boxes, *maps))
    assert gradgradcheck(function, (boxes, *maps), fast_mode=True)


def test_second_derivatives_in_boxes_entry_by_entry() -> None:
    maps, boxes, images, levels = _batch()
    pyramid = Pyramid.from_maps([m.detach() for m in maps], (4, 8))
    assert gradgradcheck(lambda b: pool_boxes(pyramid, b, images, levels, bins=2), boxes)


@pytest.mark.parametrize("bins", [1, 7])
def test_first_derivative_where_edges_meet_pixels(bins) -> None:
    """Random points never meet the joints of the integral's pieces: every edge on a pixel, the map's border too."""
    feature = feature_map(1, 12, 15)
    boxes = torch.tensor(
        [[2.0, 3.0, 9.0, 10.0], [0.0, 0.0, 7.0, 7.0], [-1.0, -1.0, 6.0, 6.0], [7.0, 4.0, 14.0, 11.0], [8, 5, 15, 12]],
        dtype=torch.float64,
        requires_grad=True,
    )
    weight = torch.randn(bins, bins, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def value(boxes: Tensor) -> Tensor:
        return (pool(feature, boxes, bins) * weight).sum((1, 2, 3))

    exact = torch.autograd.grad(value(boxes).sum(), boxes)[0]
    step = 1e-5
    for coordinate in range(4):
        shift = step * torch.eye(4, dtype=torch.float64)[coordinate]
        with torch.no_grad():
            ahead, here, behind = value(boxes + shift), value(boxes), value(boxes - shift)
        for difference in ((ahead - here) / step, (here - behind) / step, (ahead - behind) / (2 * step)):
            torch.testing.assert_close(exact[:, coordinate], difference, rtol=0, atol=2e-4)


def exact_value(feature: Tensor, box: Tensor, outer: Tensor) -> float:
    """`outer · pooled` of one box from the exact integral, without the code under test."""
    return (summed_area(feature, box, outer.shape[0]) * outer).sum().item()


def second_differences(feature: Tensor, box: Tensor, outer: Tensor, step: float) -> Tensor:
    """The Hessian `[4, 4]` of `exact_value` by central differences.

    Where the second derivative jumps these are the mean of the derivatives on both sides.
    """
    axes = step * torch.eye(4, dtype=torch.float64)
    hessian = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            corners = ((1, 1), (1, -1), (-1, 1), (-1, -1))
            hessian[i, j] = sum(
                s * t * exact_value(feature, box + s * axes[i] + t * axes[j], outer) for s, t in corners
            )
    return hessian / (4 * step**2)


def exact_hessian(feature: Tensor, box: Tensor, outer: Tensor) -> Tensor:
    """The central differences of two steps, put together so that their error of first order goes."""
    side = min(1.0, float((box[2:] - box[:2]).abs().min()))
    coarse, fine = (second_differences(feature, box, outer, step) for step in (2e-3 * side, 1e-3 * side))
    return 2 * fine - coarse


def autograd_hessian(feature: Tensor, box: Tensor, outer: Tensor, stride: int = 1) -> Tensor:
    def value(box: Tensor) -> Tensor:
        return (pool(feature, box[None], outer.shape[0], stride)[0] * outer).sum()

    return torch.autograd.functional.hessian(value, box)


@pytest.mark.parametrize("bins", [1, 2, 7])
@pytest.mark.parametrize(
    "box",
    [
        (2.0, 3.0, 9.0, 10.0),  # every edge of seven bins on a pixel
        (2.0, 3.3, 8.7, 10.0),  # some edges
        (0.0, 0.0, 7.0, 7.0),  # on the first pixels of the map
        (-1.0, -1.0, 6.0, 6.0),  # on the foot of the surface outside the map
        (8.0, 5.0, 15.0, 12.0),  # and on the other one
        (7.0, 4.0, 14.0, 11.0),  # on the last pixels
        (9.0, 10.0, 2.0, 3.0),  # of negative size
        (4.0, 5.0, 4.5, 5.25),  # under one cell
        (-14.0, -21.0, 28.0, 35.0),  # covers the map: bins of several cells
        (2.3, 3.1, 9.2, 10.7),  # no edge on a pixel
    ],
)
def test_second_derivative_where_edges_meet_pixels(bins, box) -> None:
    feature, box = feature_map(1, 12, 15), torch.tensor(box, dtype=torch.float64)
    outer = torch.randn(bins, bins, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = exact_hessian(feature, box, outer)
    tolerance = 1e-4 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(autograd_hessian(feature, box, outer), expected, rtol=0, atol=tolerance)


def test_second_derivative_along_one_axis_in_closed_form() -> None:
    """One bin from 2 to 4 over the map 0 1 4 9 16 25: the derivatives of `(S(b) − S(a)) / (b − a)` by hand.

    The surface's slope is 3 before 2 and 5 after it, 7 before 4 and 9 after it: 4 and 8 on the mean. The mean over the
    bin is 9.5. With width 2: `∂²/∂a² = −slope/2 − 2·4/4 + 2·9.25/4` and so on.
    """
    feature = (torch.arange(6, dtype=torch.float64) ** 2).expand(1, 9, 6).contiguous()
    box = torch.tensor([2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    hessian = autograd_hessian(feature, box, torch.ones(1, 1, 1, dtype=torch.float64))
    mean = (0.5 * 4 + 9 + 0.5 * 16) / 2  # by the trapezium rule, exact here
    for_a = -4 / 2 - 2 * 4 / 4 + 2 * mean / 4
    for_b = 8 / 2 - 2 * 16 / 4 + 2 * mean / 4
    mixed = (4 + 16) / 4 - 2 * mean / 4
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, 0], expected[2, 2], expected[0, 2], expected[2, 0] = for_a, for_b, mixed, mixed
    torch.testing.assert_close(hessian, expected, rtol=0, atol=1e-9)


def test_second_derivative_at_true_boxes() -> None:
    """The boxes of made images lie on half pixels; in a map of stride 4 many of their edges are on a cell."""
    boxes = torch.cat([torch.from_numpy(shapes.make_image(0, "train", index).boxes) for index in range(12)]).double()
    scaled = boxes / 4
    on_pixel = (scaled == scaled.round()).any(1)
    assert on_pixel.sum() > 15 and (~on_pixel).sum() > 5
    feature = feature_map(2, 32, 32)
    outer = torch.randn(7, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for box in scaled:
        expected = exact_hessian(feature, box, outer)
        found = autograd_hessian(feature, 4 * box, outer, stride=4) * 16
        tolerance = 1e-4 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_the_curvature_on_pixels_is_differentiable_in_what_is_made_of_the_features() -> None:
    """As `sm` needs it: the gradient of a squared curvature in a weight behind the pooling, and in the features."""
    feature = feature_map(2, 12, 15).requires_grad_()
    box = torch.tensor([[2.0, 3.0, 9.0, 10.0]], dtype=torch.float64, requires_grad=True)
    outer = torch.randn(7, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()

    def curvature(outer: Tensor) -> Tensor:
        slope = torch.autograd.grad((pool(feature, box)[0] * outer).sum(), box, create_graph=True)[0]
        return sum(torch.autograd.grad(slope[0, d], box, create_graph=True)[0][0, d] for d in range(4)) ** 2

    grad = torch.autograd.grad(curvature(outer), outer)[0]
    direction = torch.randn(outer.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        ahead, behind = outer + 1e-5 * direction, outer - 1e-5 * direction
    difference = (curvature(ahead.requires_grad_()) - curvature(behind.requires_grad_())) / 2e-5
    torch.testing.assert_close((grad * direction).sum(), difference.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_boxes_have_finite_values_and_gradients(dtype) -> None:
    feature = feature_map(3, 12, 15, dtype).requires_grad_()
    boxes = torch.tensor(
        [
            [4.0, 4.0, 4.0, 4.0],  # a point, on a pixel
            [4.3, 4.6, 4.3, 9.0],  # a line
            [9.0, 9.0, 2.0, 3.0],  # of negative size
            [1e-30, 0.0, 2e-30, 1.0],
            [-1e30, -1e30, 1e30, 1e30],
            [-1e6, 3.0, 1e6, 4.0],
            [1e30, 1e30, 2e30, 2e30],
        ],
        dtype=dtype,
        requires_grad=True,
    )
    pooled = pool(feature, boxes)
    grads = torch.autograd.grad(pooled.square().sum(), (boxes, feature), create_graph=True)
    seconds = torch.autograd.grad(grads[0].square().sum(), (boxes, feature))
    for value in (pooled, *grads, *seconds):
        assert value.isfinite().all()


def test_degenerate_boxes_mean_what_is_documented() -> None:
    feature = feature_map()
    point = torch.tensor([[4.3, 5.6, 4.3, 5.6]], dtype=torch.float64)
    expected = surface(feature, torch.tensor([4.3], dtype=torch.float64), torch.tensor([5.6], dtype=torch.float64))
    torch.testing.assert_close(pool(feature, point)[0], expected.expand(7, 7, -1), rtol=0, atol=1e-6)
    box = torch.tensor([[2.2, 3.3, 8.1, 9.4]], dtype=torch.float64)
    mirrored = pool(feature, box[:, [2, 3, 0, 1]])
    torch.testing.assert_close(mirrored, pool(feature, box).flip(1, 2))
    huge = torch.tensor([[-1e5, -1e5, 1e5, 1e5]], dtype=torch.float64)
    torch.testing.assert_close(pool(feature, huge, bins=1)[0, 0, 0] * 4e10, feature.sum((1, 2)))
    assert not pool(feature, torch.tensor([[16.0, 0.0, 20.0, 5.0]], dtype=torch.float64)).any()


def test_a_box_that_is_not_a_number_disturbs_no_other() -> None:
    feature = feature_map()
    good = torch.tensor([[1.3, 2.2, 9.6, 8.1]], dtype=torch.float64)
    pooled = pool(feature, torch.cat((good, torch.full((1, 4), torch.nan, dtype=torch.float64), good)))
    torch.testing.assert_close(pooled[[0, 2]], pool(feature, good).expand(2, -1, -1, -1))
    assert pooled[1].isnan().all()


def test_no_boxes() -> None:
    boxes = torch.zeros(0, 4, requires_grad=True)
    pooled = pool(feature_map(dtype=torch.float32), boxes)
    assert pooled.shape == (0, 7, 7, 2)
    assert torch.autograd.grad(pooled.sum(), boxes)[0].shape == (0, 4)


def test_images_of_different_sizes_side_by_side() -> None:
    """A box's result does not depend on the other images and boxes of the batch, nor on their order."""
    generator = torch.Generator().manual_seed(4)
    images = [
        [torch.randn(3, *size, dtype=torch.float64, generator=generator) for size in sizes]
        for sizes in (((9, 12), (5, 6)), ((20, 7), (10, 4)), ((6, 6), (3, 3)))
    ]
    pyramid = Pyramid.stack([Pyramid.from_maps([m[None] for m in maps], (4, 8)) for maps in images])
    boxes = torch.rand(40, 4, dtype=torch.float64, generator=generator) * 40
    boxes = torch.cat((torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])), 1)
    image = torch.randint(0, 3, (40,), generator=generator)
    level = torch.randint(0, 2, (40,), generator=generator)
    together = pool_boxes(pyramid, boxes, image, level)
    for k in range(40):
        scale = (4, 8)[level[k]]
        alone = summed_area(images[image[k]][level[k]], boxes[k] / scale, 7)
        torch.testing.assert_close(together[k], alone, rtol=0, atol=1e-10)
    batch = Pyramid.from_maps([torch.stack((m, 2 * m)) for m in images[0]], (4, 8))
    first, second = (pool_boxes(batch, boxes, torch.full((40,), i), level) for i in (0, 1))
    torch.testing.assert_close(second, 2 * first)


def test_levels_are_torchvisions() -> None:
    side = 2 ** torch.linspace(0, 11, 400)
    boxes = torch.stack((torch.zeros(400), torch.zeros(400), side, side * 1.7), 1)
    torch.testing.assert_close(assign_levels(boxes, (4, 8, 16, 32)), LevelMapper(2, 5)([boxes]))
    torch.testing.assert_close(assign_levels(boxes, (4, 8, 16)), LevelMapper(2, 4)([boxes]))
    fine = assign_levels(boxes, (4, 8, 16), canonical_scale=56)
    assert fine.max() == 2 and (fine >= assign_levels(boxes, (4, 8, 16))).all()
    degenerate = torch.tensor([[5.0, 5.0, 5.0, 9.0], [9.0, 9.0, 1.0, 1.0], [torch.nan] * 4])
    assert not assign_levels(degenerate, (4, 8)).any()


def test_the_default_level_is_the_one_that_fits_and_a_given_one_is_kept() -> None:
    generator = torch.Generator().manual_seed(5)
    maps = {str(i): torch.rand(1, 2, 128 // 2**i, 128 // 2**i, generator=generator) for i in range(3)}
    pyramid = Pyramid.from_maps(list(maps.values()), (4, 8, 16))
    boxes = torch.tensor([[10.0, 10.0, 60.0, 50.0], [10.0, 10.0, 180.0, 190.0], [0.0, 0.0, 400.0, 400.0]])
    none = torch.zeros(3, dtype=torch.int64)
    pooled = pool_boxes(pyramid, boxes, none).permute(0, 3, 1, 2)
    aligned = MultiScaleRoIAlign(["0", "1", "2"], 7, 8)(maps, [boxes], [(512, 512)])
    assert (pooled - aligned).abs().mean() < 0.01
    torch.testing.assert_close(
        pool_boxes(pyramid, boxes, none, assign_levels(boxes, (4, 8, 16))), pool_boxes(pyramid, boxes, none)
    )
    assert (pool_boxes(pyramid, boxes, none, none) - pool_boxes(pyramid, boxes, none))[1].abs().mean() > 0.05


def test_chunks_of_work_do_not_show(monkeypatch) -> None:
    from ebmbench.boxes import pooling

    feature = feature_map(3).requires_grad_()
    generator = torch.Generator().manual_seed(6)
    corners = torch.rand(60, 2, 2, dtype=torch.float64, generator=generator) * 12
    boxes = torch.cat((corners.amin(1), corners.amax(1)), 1).requires_grad_()

    def results() -> list[Tensor]:
        pooled = pool(feature, boxes)
        grads = torch.autograd.grad(pooled.pow(3).sum(), (boxes, feature), create_graph=True)
        return [pooled, *grads, *torch.autograd.grad(grads[0].pow(2).sum(), (boxes, feature))]

    whole = results()
    monkeypatch.setattr(pooling, "_CHUNK_ROWS", 1000)
    for one, other in zip(whole, results(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu() -> None:
    maps, boxes, images, levels = _batch()
    results = []
    for device in ("cpu", "cuda"):
        at = boxes.detach().to(device).requires_grad_()
        pyramid = Pyramid.from_maps([m.detach().to(device) for m in maps], (4, 8))
        pooled = pool_boxes(pyramid, at, images.to(device), levels.to(device))
        grad = torch.autograd.grad(pooled.pow(3).sum(), at, create_graph=True)[0]
        second = torch.autograd.grad(grad.pow(2).sum(), at)[0]
        results.append([t.detach().cpu() for t in (pooled, grad, second)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)
