"""Real sequences (shared/data/tracking), where they are: they are read, and CSRT has its known scores on them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ebmbench.tasks.tracking.coarse import csrt_track
from ebmbench.tasks.tracking.scores import Score, filled
from ebmbench.tasks.tracking.videos import read_videos

SHARED = Path(os.environ.get("EBMBENCH_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data")) / "tracking"
CSRT = {
    "Crossing": 70.0, "MotorRolling": 9.1, "Couple": 66.5, "Football1": 76.4, "David": 67.1, "DragonBaby": 24.2,
    "Skiing": 6.0,
}  # fmt: skip

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the sequences are not there")


def test_a_perfect_tracker_has_its_score_on_every_sequence() -> None:
    videos = read_videos(SHARED)
    assert {video.name for video in videos} >= set(CSRT) | {"bag"}
    for video in videos:
        score = Score.of(filled(video.truth, video.boxes[0], len(video)), video.truth)
        assert score is not None and score.auc == pytest.approx(100 * 20 / 21)


@pytest.mark.slow
def test_csrt_has_its_known_scores() -> None:
    """AUC with OpenCV 5.0.0.93, the first frame counted."""
    pytest.importorskip("cv2")
    found = {}
    for video in read_videos(SHARED):
        if video.name in CSRT:
            score = Score.of(csrt_track(video), video.truth)
            assert score is not None
            found[video.name] = score.auc
    assert found == pytest.approx(CSRT, abs=1.5)
    assert np.mean(list(found.values())) == pytest.approx(45.6, abs=0.5)
