"""Precise RoI Pooling against torchvision's roi_align, measured in the same run: `python -m benchmarks pooling`.

roi_align (sampling ratio 2) gives no gradient for boxes, so its forward and backward goes to the features. Here it goes
to the boxes. Every figure is the best of a few runs, the two in turn, so that other work on the machine falls on both;
on one CPU thread it is the processor's time, of which other work takes none. Laying out the feature map as a table,
which training does once per image, is counted every time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torchvision.ops import roi_align

from benchmarks.machine import wait
from ebmbench.boxes.pooling import Pyramid, pool_boxes
from ebmbench.display.table import csv_text
from ebmbench.system.files import write_atomically

BINS = 7


@dataclass(frozen=True)
class Case:
    """Boxes on one level of a feature pyramid: `targets`, sides in pixels of the image, candidates around each."""

    name: str
    stride: int
    images: int
    height: int
    width: int
    channels: int
    sides: tuple[float, float]
    targets: int
    candidates: int


def _coco(level: int, sides: tuple[float, float], targets: int, candidates: int, name: str = "") -> Case:
    stride = 2**level
    return Case(name or f"P{level}", stride, 1, 800 // stride, 1344 // stride, 256, sides, targets, candidates)


CASES = (
    _coco(2, (16, 112), 2048, 1),
    _coco(3, (112, 224), 2048, 1),
    _coco(4, (224, 448), 2048, 1),
    _coco(5, (448, 800), 2048, 1),
    _coco(2, (16, 112), 16, 128, "P2, 16 targets"),
    Case("shapes, 8 images", 4, 8, 32, 32, 64, (12, 70), 32, 128),
)


def make_inputs(case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Features `[B, C, H, W]`, boxes `[K, 4]` in pixels, and their images `[K]`."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(case.images, case.channels, case.height, case.width, generator=generator)
    low, high = torch.tensor(case.sides).log()
    side = torch.exp(low + (high - low) * torch.rand(case.targets, generator=generator))
    stretch = torch.exp(0.3 * torch.randn(case.targets, generator=generator))
    size = torch.stack((side * stretch, side / stretch), 1)
    frame = torch.tensor([case.width, case.height]) * float(case.stride)
    centre = size / 2 + torch.rand(case.targets, 2, generator=generator) * (frame - size).clamp(min=0)
    # Candidates as the methods draw them: relative noise of 0.15 around the target.
    spread = 0.15 if case.candidates > 1 else 0.0
    noise = spread * torch.randn(case.targets, case.candidates, 4, generator=generator)
    centre = centre[:, None] + noise[..., :2] * size[:, None]
    half = size[:, None] * noise[..., 2:].exp() / 2
    boxes = torch.cat((centre - half, centre + half), -1).view(-1, 4)
    images = torch.randint(0, case.images, (case.targets,), generator=generator).repeat_interleave(case.candidates)
    return features.to(device), boxes.to(device), images.to(device)


def measure(case: Case, repeats: int, device: torch.device) -> dict[str, float | str | int]:
    """One row: milliseconds, ratios (roi_align's time over ours) and the error of float32 against float64."""
    features, boxes, images = make_inputs(case, device)
    level = torch.zeros_like(images)
    rois = torch.cat((images[:, None].to(boxes.dtype), boxes), 1)
    outer = torch.randn(len(boxes), BINS, BINS, case.channels, device=device)
    outer_first = outer.permute(0, 3, 1, 2).contiguous()

    def ours(features: Tensor, boxes: Tensor) -> Tensor:
        return pool_boxes(Pyramid.from_maps([features], [case.stride]), boxes, images, level, BINS)

    def theirs(features: Tensor) -> Tensor:
        aligned: Tensor = roi_align(features, rois, BINS, 1 / case.stride, 2)
        return aligned

    def ours_gradient() -> Tensor:
        at = boxes.detach().requires_grad_()
        return torch.autograd.grad(ours(features, at), at, outer)[0]

    def theirs_gradient() -> Tensor:
        at = features.detach().requires_grad_()
        return torch.autograd.grad(theirs(at), at, outer_first)[0]

    some = slice(None, None, max(1, len(boxes) // 64))
    exact, gradient = [], []
    for dtype in (torch.float64, torch.float32):
        at = boxes[some].to(dtype).requires_grad_()
        pyramid = Pyramid.from_maps([features.to(dtype)], [case.stride])
        pooled = pool_boxes(pyramid, at, images[some], level[some], BINS)
        exact.append(pooled.detach())
        gradient.append(torch.autograd.grad(pooled, at, outer[some].to(dtype))[0])
    error = (exact[1].double() - exact[0]).abs().max().item()
    gradient_error = ((gradient[1].double() - gradient[0]).norm() / gradient[0].norm()).item()
    del exact, gradient

    forward, their_forward = alternate(lambda: ours(features, boxes), lambda: theirs(features), repeats, device)
    backward, their_backward = alternate(ours_gradient, theirs_gradient, repeats, device)
    return {
        "case": case.name,
        "boxes": len(boxes),
        "channels": case.channels,
        "forward_ms": 1e3 * forward,
        "roi_align_forward_ms": 1e3 * their_forward,
        "forward_ratio": their_forward / forward,
        "box_gradient_ms": 1e3 * backward,
        "roi_align_gradient_ms": 1e3 * their_backward,
        "gradient_ratio": their_backward / backward,
        "error": error,
        "gradient_error": gradient_error,
    }


def alternate(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, device: torch.device
) -> tuple[float, float]:
    """Seconds of each, the best of its runs; one more run of each comes before."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    best = [float("inf"), float("inf")]
    for run in range(repeats + 1):
        for which, function in enumerate((ours, theirs)):
            wait(device)
            started = clock()
            function()
            wait(device)
            if run:
                best[which] = min(best[which], clock() - started)
    return best[0], best[1]


def main(argv: list[str]) -> int:
    """Prints the table and writes it as CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pooling", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the best counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--csv", type=Path, default=Path("results/bench/pooling.csv"))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    print(f"Precise RoI Pooling and roi_align (sampling 2), {BINS}x{BINS} bins, {device}, {args.threads} thread(s)")
    print("milliseconds; a ratio is roi_align's time over ours; error: float32 against float64, box gradient relative")
    head = f"{'':18} {'forward':>9} {'roi_align':>9} {'ratio':>6}   {'+box grad':>9} {'roi_align':>9} {'ratio':>6}"
    print(f"{head}   {'error':>8} {'gradient':>8}")
    rows = []
    for case in CASES:
        row = measure(case, args.repeats, device)
        rows.append(row)
        print(
            f"{row['case']:18} {row['forward_ms']:9.1f} {row['roi_align_forward_ms']:9.1f} "
            f"{row['forward_ratio']:6.2f}   "
            f"{row['box_gradient_ms']:9.1f} {row['roi_align_gradient_ms']:9.1f} {row['gradient_ratio']:6.2f}   "
            f"{row['error']:8.1e} {row['gradient_error']:8.1e}",
            flush=True,
        )
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.csv, csv_text(pd.DataFrame(rows), 4).encode())
    print(f"written to {args.csv}")
    return 0
