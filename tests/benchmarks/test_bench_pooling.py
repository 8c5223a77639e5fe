"""The pooling benchmark runs, and what it measures is what it says."""

from __future__ import annotations

import csv

import torch

from benchmarks import pooling


def test_table(tmp_path, monkeypatch, capsys) -> None:
    small = pooling.Case("small", 4, 2, 16, 20, 8, (10.0, 40.0), 6, 4)
    monkeypatch.setattr(pooling, "CASES", (small,))
    threads = torch.get_num_threads()
    try:
        assert pooling.main(["--repeats", "1", "--csv", str(tmp_path / "new" / "pooling.csv")]) == 0
    finally:
        torch.set_num_threads(threads)
    with open(tmp_path / "new" / "pooling.csv") as handle:
        (row,) = csv.DictReader(handle)
    assert row["case"] == "small" and int(row["boxes"]) == 24
    assert 0 < float(row["error"]) < 1e-5 and 0 < float(row["gradient_error"]) < 1e-5
    ratio = float(row["roi_align_forward_ms"]) / float(row["forward_ms"])
    assert abs(float(row["forward_ratio"]) / ratio - 1) < 0.01
    assert "small" in capsys.readouterr().out


def test_boxes_are_of_the_sides_that_a_case_names() -> None:
    for case in pooling.CASES:
        _, boxes, images = pooling.make_inputs(
            pooling.Case(**{**vars(case), "channels": 1, "candidates": 1}), torch.device("cpu")
        )
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        assert side.min() > 0.99 * case.sides[0] and side.max() < 1.01 * case.sides[1]
        assert images.max() < case.images
